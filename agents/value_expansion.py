"""Value expansion: TD targets that see some imagined steps further, with MVE and with STEVE.

Shapes: N transitions of a batch, H imagined steps beyond them, E hypotheses of the model, L critics.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mbrl_gym.agents.dream_data import Rows, ending
from mbrl_gym.model import WorldModel
from mbrl_gym.spaces import Observation
from mbrl_gym.tensors import TensorStruct

# raw observations [N, *obs] -> encoded actions [N, A] and what the policy's entropy adds to the reward there [N]
Policy = Callable[[Observation], tuple[Tensor, Tensor]]
# raw observations [N, *obs] -> what each critic thinks of them [L, N]
Critics = Callable[[Observation], Tensor]
# imagined rewards [N] -> the same in the units of the batch's
Unit = Callable[[Tensor], Tensor]


def as_it_is(reward: Tensor) -> Tensor:
    """Return ``reward``."""
    return reward


@dataclass(frozen=True)
class MVE:
    """Model-based value expansion: the target of a transition is the return of an imagined rollout after it.

    For r, s' of the batch it is r + sum over h = 1..H of discount^h r_h + discount^(H + 1) V(s_H), where s_0 = s' and
    r_h, s_h come from the model and the policy. With ``horizon`` 0 it is the plain TD target. Works with every
    off-policy algorithm of SB3, which takes the discount of each transition from the batch. Imagined states are
    trained on too, since dreams fill the buffer. Source: Feinberg et al. 2018, equation 3 (recalled).

    Attributes:
        horizon: H, imagined steps.
    """

    horizon: int = 3

    def __post_init__(self) -> None:
        _check(self.horizon)


@dataclass(frozen=True)
class STEVE:
    """Stochastic ensemble value expansion: the targets of all horizons 0..H, weighed by how sure they are.

    Each horizon has E x L candidate targets, one for each hypothesis of the model and each critic; the target is the
    sum of their means, weighed by the inverse of their variances. With `LeanSAC` only, for it needs the critics while
    the target is made. Source: Buckman et al. 2018, section 3 (recalled).

    Attributes:
        horizon: H, the longest expansion.
    """

    horizon: int = 3

    def __post_init__(self) -> None:
        _check(self.horizon)


EXPANSIONS: dict[str, type[Any]] = {"mve": MVE, "steve": STEVE}


def expand(
    model: WorldModel[Any],
    policy: Policy,
    rows: Rows,
    horizon: int,
    discount: float,
    generator: torch.Generator,
    unit: Unit = as_it_is,
) -> tuple[Rows, Tensor]:
    """Return the transitions with the rewards of ``horizon`` more steps, and the discounts [N] of what follows them.

    Args:
        model: where to imagine; its belief has to be one observation.
        policy: chooses the actions.
        rows: the transitions [N].
        horizon: H.
        discount: of one step.
        generator: source of the model's randomness.
        unit: brings imagined rewards to the units of ``rows.reward``.
    """
    state = beliefs(model, rows.next_obs, generator)
    survival, reward, reached = 1.0 - rows.done, rows.reward, rows.next_obs
    alive = survival > 0
    factor = torch.full_like(reward, discount)  # of what comes after the steps so far
    for _ in range(horizon):
        action, entropy = policy(reached)
        after, step = model.predict(state, action, generator, uncertainty=False)
        goes_on = alive & ~step.info.get("diverged", torch.zeros_like(alive))
        reward = torch.where(goes_on, reward + factor * survival * (entropy + unit(step.reward)), reward)
        survival = torch.where(goes_on, survival * (1.0 - ending(step)), survival)
        factor = torch.where(goes_on, factor * discount, factor)
        state = after.where(goes_on, state)
        reached = _where(goes_on, model.decode(after), reached)
        alive = goes_on & ~(step.terminated | step.truncated)
    return replace(rows, reward=reward, done=1.0 - survival, next_obs=reached), factor


def steve_target(
    model: WorldModel[Any],
    policy: Policy,
    critics: Critics,
    rows: Rows,
    horizon: int,
    discount: float,
    generator: torch.Generator,
    unit: Unit = as_it_is,
) -> Tensor:
    """Return [N], STEVE's targets.

    A row that was cut or diverged stays where it was and bootstraps there, in all longer horizons.

    Args:
        model: where to imagine; its belief has to be one observation.
        policy: chooses the actions.
        critics: values of states [L, N], the entropy's part in them.
        rows: the transitions [N].
        horizon: H.
        discount: of one step.
        generator: source of the model's randomness.
        unit: brings imagined rewards to the units of ``rows.reward``.
    """
    members = model.hypotheses
    state = model.branch(beliefs(model, rows.next_obs, generator), members)  # [N * E]
    wide = rows.repeat(members)
    survival, total = 1.0 - wide.done, wide.reward
    moving = survival > 0  # what is cut is worth something, but does not move on
    factor = torch.full_like(total, discount)
    reached = wide.next_obs
    means, variances = [], []
    for h in range(horizon + 1):
        bootstrap = factor * survival * critics(reached)  # [L, N * E]
        candidates = (total + bootstrap).reshape(bootstrap.shape[0], -1, members)
        means.append(candidates.mean(dim=(0, 2)))
        variances.append(candidates.var(dim=(0, 2), unbiased=False))
        if h == horizon:
            break
        action, entropy = policy(reached)
        after, step = model.predict(state, action, generator, uncertainty=False)
        goes_on = moving & ~step.info.get("diverged", torch.zeros_like(moving))
        total = torch.where(goes_on, total + factor * survival * (entropy + unit(step.reward)), total)
        factor = torch.where(goes_on, factor * discount, factor)
        state = after.where(goes_on, state)
        reached = _where(goes_on, model.decode(after), reached)
        survival = torch.where(goes_on, survival * (1.0 - ending(step)), survival)
        moving = goes_on & ~(step.terminated | step.truncated)
    weight = 1.0 / (torch.stack(variances) + 1e-8)  # [H + 1, N]
    return (torch.stack(means) * weight).sum(0) / weight.sum(0)


def beliefs(model: WorldModel[Any], obs: Observation, generator: torch.Generator) -> TensorStruct:
    """Return the beliefs [N] that observations [N, *obs] are.

    Raises:
        ValueError: the model needs more than one observation for a belief.
    """
    if model.context != 1:
        raise ValueError(
            f"model must form a belief from one observation for value expansion, got one that needs {model.context}"
        )
    count = len(next(iter(obs.values()))) if isinstance(obs, dict) else len(obs)
    blank: TensorStruct = model.initial(count)
    action = torch.zeros(count, model.action_codec.size, device=model.device)
    first = torch.ones(count, dtype=torch.bool, device=model.device)
    state: TensorStruct = model.observe(blank, action, obs, first, generator)
    return state


def _where(mask: Tensor, yes: Observation, no: Observation) -> Observation:
    if isinstance(yes, dict):
        assert isinstance(no, dict)
        return {key: _where(mask, yes[key], no[key]) for key in yes}  # type: ignore[misc]
    assert isinstance(no, Tensor)
    return torch.where(mask.reshape(-1, *[1] * (yes.dim() - 1)), yes, no)


def _check(horizon: int) -> None:
    if horizon < 0:
        raise ValueError(f"horizon must be at least 0 imagined steps, got {horizon}")
