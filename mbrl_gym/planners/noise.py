"""Random numbers of the planners. All are functions of uniforms or normals of one generator; none rejects or waits."""

import math

import torch
from torch import Tensor


def truncated_normal(
    shape: tuple[int, ...], generator: torch.Generator | None, device: torch.device, bound: float = 2.0
) -> Tensor:
    """Return ``shape`` of a standard normal's values given that they lie in [-bound, bound].

    By the inverse of the distribution function, so that the number of draws is known beforehand: rejection, as in the
    ``truncated_normal`` of TensorFlow that PETS uses, has to look at its results. At ``bound`` 2 the deviation is
    0.8796, not 1.
    """
    uniform = torch.rand(shape, generator=generator, device=device)
    mass = math.erf(bound / math.sqrt(2))  # between -bound and bound
    return (math.sqrt(2) * torch.erfinv((2 * uniform - 1) * mass)).clamp(-bound, bound)


def coloured_noise(
    shape: tuple[int, ...], exponent: float, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """Return ``shape`` of normals of unit variance whose power along the LAST axis falls as 1 / frequency^exponent.

    The constant part has the power of the lowest frequency. Exponent 0 is white noise, exactly.
    Source: Timmer and Koenig 1995, as in ``colorednoise.powerlaw_psd_gaussian``, which iCEM uses; there the constant
    part is left out of the normalisation, so that the variance exceeds 1.
    """
    length = shape[-1]
    number = length // 2 + 1  # frequencies 0, 1/L, 2/L, ...
    index = torch.arange(number, device=device)
    amplitude = index.clamp(min=1) ** (-exponent / 2)  # in units of the lowest frequency's
    # The constant part and, at an even length, the highest frequency are real: all of their power is in one number.
    real_only = (index == 0) | (2 * index == length)
    power = amplitude.square() * torch.where(real_only, 2.0, 4.0) / length**2  # what each adds to the variance
    amplitude = amplitude / power.sum().sqrt()
    parts = torch.randn(*shape[:-1], number, 2, generator=generator, device=device)
    real = parts[..., 0] * amplitude * torch.where(real_only, math.sqrt(2), 1.0)
    imaginary = parts[..., 1] * amplitude * torch.where(real_only, 0.0, 1.0)
    noise: Tensor = torch.fft.irfft(torch.complex(real, imaginary), n=length, dim=-1)
    return noise


def correlated_noise(
    shape: tuple[int, ...], correlation: float, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """Return ``shape`` of normals of unit variance, each with ``correlation`` to the one before on the LAST axis.

    The filter n_t = c n_{t-1} + sqrt(1 - c^2) e_t, begun in its stationary distribution, as one matrix product.
    """
    length = shape[-1]
    white = torch.randn(shape, generator=generator, device=device)
    step = torch.arange(length, device=device)
    lag = step[:, None] - step[None, :]  # [H, H]
    fresh = torch.where(step == 0, 1.0, math.sqrt(1 - correlation**2))  # the first number has no past
    weight = torch.where(lag >= 0, torch.pow(correlation, lag.clamp(min=0)), 0.0) * fresh
    return white @ weight.T
