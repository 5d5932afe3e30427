"""Policy ranking: whether the dream tells the better one of two policies."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mbrl_gym.report.matched import Matched
from mbrl_gym.report.scores import kendall, spearman
from mbrl_gym.report.section import Section

Array = np.ndarray[Any, np.dtype[Any]]

FEWEST = 3  # policies that can be ranked


@dataclass(frozen=True)
class PolicyRanking(Section):
    """Mean returns of several policies in reality and in the dream, by the matched protocol.

    Attributes:
        names: [N].
        real: [N] mean returns.
        dream: [N].
        real_errors: [N] standard errors of these means; NaN of one episode.
        dream_errors: [N].
        kendall: Kendall's tau-b of the two orders: 1 where they are the same, 0 where they have nothing in common.
        spearman: their rank correlation.
        regret: what reality's best policy earns beyond the one that the dream likes best, in units of the difference
            between reality's best and worst policy (regret@1, normalised): 0 to 1.
    """

    names: tuple[str, ...]
    real: Array
    dream: Array
    real_errors: Array
    dream_errors: Array
    kendall: float
    spearman: float
    regret: float


def policy_ranking(matched: Mapping[str, Matched]) -> PolicyRanking:
    """Return how alike the orders of policies in reality and in the dream are.

    Args:
        matched: the pairs of each policy, by its name.

    Raises:
        ValueError: there are fewer than 3 policies.
    """
    if len(matched) < FEWEST:
        raise ValueError(f"matched must hold at least {FEWEST} policies to rank, got {len(matched)}; add noisy ones")
    real, dream = (np.array([getattr(m, side).mean() for m in matched.values()]) for side in ("real", "dream"))
    errors = [np.array([_error(getattr(m, side)) for m in matched.values()]) for side in ("real", "dream")]
    spread = float(np.ptp(real))
    return PolicyRanking(
        names=tuple(matched),
        real=real,
        dream=dream,
        real_errors=errors[0],
        dream_errors=errors[1],
        kendall=kendall(dream, real),
        spearman=spearman(dream, real),
        regret=float(real.max() - real[dream.argmax()]) / spread if spread > 0 else 0.0,
    )


def _error(returns: Array) -> float:
    return float(returns.std(ddof=1) / np.sqrt(len(returns))) if len(returns) > 1 else float("nan")
