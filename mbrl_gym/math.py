"""Functions that the Dreamer family shares: returns in the dream, numbers squashed and spread, the scale of returns.

Shapes: B batch, T time.
"""

import torch
from torch import Tensor


def symlog(x: Tensor) -> Tensor:
    """Return sign(x) ln(1 + |x|), of any shape. Source: Hafner et al. 2023 (DreamerV3), equation 9."""
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """Return sign(x) (exp(|x|) - 1), the inverse of `symlog`, of any shape."""
    return x.sign() * x.abs().expm1()


def lambda_return(
    reward: Tensor,
    value: Tensor,
    continuation: Tensor,
    discount: float = 1.0,
    lam: float = 0.95,
    is_last: Tensor | None = None,
) -> Tensor:
    """Return [B, T - 1], the lambda-returns of the first T - 1 states.

    With everything that arrives with a state under its index: R_t = reward_{t+1} + discount continuation_{t+1}
    ((1 - lam) value_{t+1} + lam R_{t+1}), and R_{T-1} = value_{T-1}. Behind the last row of an episode (``is_last``)
    the return is bootstrapped from that row's value, whatever ``lam``: the next row is another episode's. Source:
    danijar/dreamerv3 ``dreamerv3/agent.py`` (lambda_return), in imagination and in replay alike.

    Args:
        reward: [B, T] arrives with the state.
        value: [B, T] of the state.
        continuation: [B, T] in [0, 1], how surely the episode goes on in the state.
        discount: of a step, beside what ``continuation`` holds.
        lam: between 0 (one step) and 1 (to the end).
        is_last: [B, T] bool; None: nowhere.

    Raises:
        ValueError: the shapes differ, or there is no step (T < 2).
    """
    if reward.dim() != 2 or reward.shape[1] < 2:
        raise ValueError(f"reward must be [B, T] with T of at least 2, got {tuple(reward.shape)}")
    for name, x in (("value", value), ("continuation", continuation), ("is_last", is_last)):
        if x is not None and x.shape != reward.shape:
            raise ValueError(f"{name} must have the shape {tuple(reward.shape)} of reward, got {tuple(x.shape)}")
    live = continuation[:, 1:] * discount
    mix = torch.full_like(live, lam) if is_last is None else torch.where(is_last[:, 1:], 0.0, lam)
    known = reward[:, 1:] + (1 - mix) * live * value[:, 1:]
    weight = live * mix
    following, returns = value[:, -1], []
    for t in reversed(range(known.shape[1])):
        following = known[:, t] + weight[:, t] * following
        returns.append(following)
    return torch.stack(returns[::-1], dim=1)


class PercentileScale(torch.nn.Module):
    """The spread of returns, by which a policy's advantages are divided: moving averages of two percentiles.

    Averages start at zero and are not corrected for it, so that the scale begins at its least value. Source:
    danijar/dreamerv3 ``embodied/jax/utils.py`` (Normalize, "perc") and ``configs.yaml`` (retnorm).

    Args:
        rate: of the moving average, an update.
        low: the lower percentile, in percent.
        high: the upper one.
        least: the smallest scale.

    Raises:
        ValueError: a number is out of its range.
    """

    low: Tensor
    high: Tensor

    def __init__(self, rate: float = 0.01, low: float = 5.0, high: float = 95.0, least: float = 1.0) -> None:
        super().__init__()
        if not 0 < rate <= 1:
            raise ValueError(f"rate must be above 0 and at most 1, got {rate}")
        if not 0 <= low < high <= 100:
            raise ValueError(f"low and high must be percentages with low below high, got {low} and {high}")
        if not least > 0:
            raise ValueError(f"least must be positive, got {least}")
        self.rate, self.least = rate, least
        self._quantiles = (low / 100, high / 100)
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    @torch.no_grad()
    def update(self, returns: Tensor) -> None:
        """Take in returns of any shape."""
        flat = returns.detach().float().flatten().sort().values  # torch.quantile refuses more than 16 million
        for average, q in zip((self.low, self.high), self._quantiles, strict=True):
            average.lerp_(_quantile(flat, q), self.rate)

    @property
    def scale(self) -> Tensor:
        """The scale [], at least ``least``."""
        return (self.high - self.low).clamp(min=self.least)


def _quantile(ordered: Tensor, q: float) -> Tensor:
    """Return [] the ``q``-quantile of ``ordered`` [N], linear between its neighbours."""
    place = q * (ordered.shape[0] - 1)
    below = int(place)
    above = min(below + 1, ordered.shape[0] - 1)
    return ordered[below].lerp(ordered[above], place - below)
