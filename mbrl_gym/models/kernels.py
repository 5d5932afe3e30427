"""The squared exponential kernel with a length scale for each input, and its Gaussian process' marginal likelihood."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SMALLEST_NOISE = 1 / 500  # the noise' deviation by the function's; PILCO (``gp/hypCurb.m``) penalises what is below
RATE = 0.1  # Adam's, on logarithms of hyperparameters


def squared_exponential(x: Tensor, y: Tensor) -> Tensor:
    """Return exp(-|x - y|^2 / 2) [..., N, M] of inputs [..., N, in] and [..., M, in] in units of their length scales.

    Differences are taken before they are squared: |x|^2 + |y|^2 - 2 x y loses half of float32's digits.
    """
    distance: Tensor = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
    return torch.exp(-0.5 * distance.square())


def covariance_factor(x: Tensor, lengths: Tensor, signal: Tensor, noise: Tensor) -> Tensor:
    """Return the Cholesky factor [N, N] of the targets' covariance, the kernel's plus the noise'.

    Args:
        x: [N, in] inputs.
        lengths: [in] length scales.
        signal: [] the function's variance.
        noise: [] the noise' variance.
    """
    scaled = x / lengths
    # Products here: float64 can spare the digits, and their gradient needs no memory of [N, N, in].
    squares = scaled.square().sum(-1)
    distance = (squares[:, None] + squares - 2.0 * scaled @ scaled.T).clamp(min=0.0)
    kernel: Tensor = signal * torch.exp(-0.5 * distance)
    identity = torch.eye(len(x), dtype=x.dtype, device=x.device)
    factor: Tensor = torch.linalg.cholesky(kernel + noise * identity)
    return factor


def log_marginal_likelihood(x: Tensor, y: Tensor, lengths: Tensor, signal: Tensor, noise: Tensor) -> Tensor:
    """Return the log density [] of targets y [N] at inputs x [N, in] under a Gaussian process with mean zero.

    Source: Rasmussen & Williams 2006, equation 2.30 (recalled; scikit-learn's GaussianProcessRegressor agrees).
    Arguments as in `covariance_factor`.
    """
    factor = covariance_factor(x, lengths, signal, noise)
    whitened: Tensor = torch.linalg.solve_triangular(factor, y[:, None], upper=False)
    log_determinant = 2.0 * factor.diagonal().log().sum()
    return -0.5 * (whitened.square().sum() + log_determinant + len(y) * math.log(2.0 * math.pi))


def fourier_features(x: Tensor, frequencies: Tensor) -> Tensor:
    """Return [..., N, 2 R] whose inner products approximate `squared_exponential`, of any input with itself exactly 1.

    Source: Rahimi & Recht 2007, with a cosine and a sine for each frequency (recalled).

    Args:
        x: [..., N, in] inputs in units of their length scales.
        frequencies: [R, in], standard normal.
    """
    phase = x @ frequencies.T
    return torch.cat([torch.cos(phase), torch.sin(phase)], dim=-1) / math.sqrt(len(frequencies))


@dataclass(frozen=True)
class Hyperparameters:
    """Those of T Gaussian processes, logarithms of deviations and lengths.

    Attributes:
        log_lengths: [T, in], length scales.
        log_signal: [T], the function's deviation.
        log_noise: [T], the noise' deviation, beside the smallest that there is.
    """

    log_lengths: Tensor
    log_signal: Tensor
    log_noise: Tensor

    def of(self, output: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return one process' length scales [in], variance of the function [] and variance of the noise []."""
        signal = torch.exp(2.0 * self.log_signal[output])
        noise = torch.exp(2.0 * self.log_noise[output]) + SMALLEST_NOISE**2 * signal
        return self.log_lengths[output].exp(), signal, noise


def maximise_likelihood(x: Tensor, y: Tensor, steps: int) -> tuple[Hyperparameters, Tensor]:
    """Return hyperparameters for inputs x [N, in] and targets y [N, T], float64, and their likelihood by point [T].

    Adam, from where PILCO starts: length scales of the inputs' deviation, the targets' deviation for the function and a
    tenth of it for the noise (UCL-SML/pilco-matlab ``gp/train.m``).
    """
    deviation = y.std(0, unbiased=False)
    deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation)).log()
    log_lengths = x.new_zeros(y.shape[1], x.shape[1])
    start = (log_lengths, deviation, deviation - math.log(10.0))
    lengths, signal, noise = (value.clone().requires_grad_() for value in start)
    found = Hyperparameters(lengths, signal, noise)
    optimizer = torch.optim.Adam([lengths, signal, noise], RATE)
    with torch.enable_grad():
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = RATE * 0.5 * (1.0 + math.cos(math.pi * step / steps))
            optimizer.zero_grad()
            for t in range(y.shape[1]):  # one at a time, for memory
                value = log_marginal_likelihood(x, y[:, t], *found.of(t)) / len(x)
                (-value).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    found = Hyperparameters(lengths.detach(), signal.detach(), noise.detach())
    values = [log_marginal_likelihood(x, y[:, t], *found.of(t)) / len(x) for t in range(y.shape[1])]
    return found, torch.stack(values)


def posterior_draws(
    x: Tensor, y: Tensor, found: Hyperparameters, output: int, frequencies: Tensor, prior: Tensor, error: Tensor
) -> Tensor:
    """Return coefficients [N + 2 R, K] of functions drawn from a posterior, by Matheron's rule (Wilson et al. 2020).

    Their values are the inner products with `squared_exponential` at the points and `fourier_features`, in this order.

    Args:
        x: [N, in] the data's inputs.
        y: [N] its targets.
        found: hyperparameters.
        output: whose they are.
        frequencies: [R, in] of the Fourier features.
        prior: [2 R, K] standard normal, the prior's draws.
        error: [N, K] standard normal, the noise' draws.
    """
    lengths, signal, noise = found.of(output)
    weights = prior * signal.sqrt()
    residual = y[:, None] - fourier_features(x / lengths, frequencies) @ weights - error * noise.sqrt()
    factor = covariance_factor(x, lengths, signal, noise)
    return torch.cat([signal * torch.cholesky_solve(residual, factor), weights])
