"""Matched episodes: what a policy earns in reality and in the dream from the same start, over as many steps.

One legend of shapes: C rows of context, T rows of an episode, A encoded action.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mbrl_gym.batch import SequenceBatch
from mbrl_gym.data import Predict
from mbrl_gym.envs.dream import Dream
from mbrl_gym.envs.inputs import encode_actions
from mbrl_gym.model import Prediction, WorldModel
from mbrl_gym.replay import SequenceReplay
from mbrl_gym.report.policies import act_together, restarted
from mbrl_gym.report.section import Section
from mbrl_gym.spaces import observation_array
from mbrl_gym.start_states import StartStates
from mbrl_gym.tensors import concatenate

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Matched(Section):
    """Returns of N pairs of episodes of one policy, undiscounted, without penalties.

    Attributes:
        real: [N].
        dream: [N].
        real_lengths: [N] steps that count.
        dream_lengths: [N].
        broken: how many dreams ended because they diverged.
    """

    real: Array
    dream: Array
    real_lengths: Array
    dream_lengths: Array
    broken: int

    @property
    def gap(self) -> Array:
        """[N] what the dream promises beyond reality."""
        return self.dream - self.real

    @property
    def mean_gap(self) -> float:
        """The mean of these differences."""
        return float(self.gap.mean())

    @property
    def standard_error(self) -> float:
        """Its standard error; of one pair, NaN."""
        return float(self.gap.std(ddof=1) / np.sqrt(len(self.gap))) if len(self.gap) > 1 else float("nan")


def whole_episodes(replay: SequenceReplay) -> list[SequenceBatch]:
    """Return all episodes of a replay that have their first and their last row, a window [1, T] each."""
    found = []
    rows = replay.windows(1)
    for env in range(replay.n_envs):
        mine = rows[rows % replay.n_envs == env]
        if not len(mine):
            continue
        flags = replay.gather(mine, 1)
        begins = np.flatnonzero(flags.is_first[:, 0].numpy())
        ends = (flags.terminated | flags.truncated)[:, 0].numpy()
        for begin, end in zip(begins, [*begins[1:], len(mine)], strict=True):
            if ends[end - 1]:
                found.append(replay.gather(mine[begin : begin + 1], int(end - begin)))
    return found


def matched_episodes(
    model: WorldModel[Any], episodes: list[SequenceBatch], predict: Predict, horizon: int, seed: int = 0
) -> Matched:
    """Return the returns of recorded real episodes of a policy, and of its dreams from where these begin.

    A dream begins from the first C real rows of an episode (C is the model's context, 1 for most), and only what comes
    after these counts on both sides, ``horizon`` steps at most. The policy acts without exploring. A dream that is cut
    by a wrapper or because it diverged is compared with as many real steps. Penalties do not count
    (``info["raw_reward"]``). All dreams advance together.

    Args:
        model: the world model, wrapped or not.
        episodes: of `whole_episodes`, played by this policy in the same order; those that end within the context are
            left out.
        predict: the policy, for batches of observations as SB3's.
        horizon: steps.
        seed: of the dreams.

    Raises:
        ValueError: no episode is longer than the context, or the policy takes no batches.
    """
    context = model.context
    long = [i for i, episode in enumerate(episodes) if episode.length > context]
    if not long:
        raise ValueError(f"episodes must have more than the {context} rows of the model's context, got none")
    heads = concatenate([episodes[i][:, :context] for i in long])
    starts = StartStates(heads.obs, heads.action)
    dream = Dream(model.frozen(), starts, len(long), horizon)
    dream.generator.manual_seed(seed)
    total, lengths, cut, broken = _dream(dream, starts, restarted(predict, long))
    steps = np.where(cut, lengths, horizon)
    rewards = [counted(episodes[i], context, int(n)) for i, n in zip(long, steps, strict=True)]
    real = np.array([x.sum() for x in rewards])
    return Matched(real, total, np.array([len(x) for x in rewards]), lengths, int(broken.sum()))


def _dream(dream: Dream, starts: StartStates, predict: Predict) -> tuple[Array, Array, Array, Array]:
    """Return of N dreams their returns, their lengths, whether they were cut before time, and whether they diverged."""
    count, context = dream.num_envs, starts.context
    shown, memory = observation_array(starts.obs), None
    for t in range(context - 1):  # what the policy remembers when it first acts in the dream
        row = {key: x[:, t] for key, x in shown.items()} if isinstance(shown, dict) else shown[:, t]
        _, memory = act_together(predict, row, memory, np.full(count, t == 0))
    obs = observation_array(dream.reset(starts))
    total, lengths = np.zeros(count), np.zeros(count, dtype=np.int64)
    alive, cut, broken = np.ones(count, bool), np.zeros(count, bool), np.zeros(count, bool)
    while alive.any():
        begins = np.full(count, context == 1 and lengths.max() == 0)
        actions, memory = act_together(predict, obs, memory, begins)
        after, step = dream.step(encode_actions(dream.model, actions, count))
        obs = observation_array(after)
        reward = step.info.get("raw_reward", step.reward)
        total += np.where(alive, _numbers(reward), 0.0)
        lengths += alive
        early = step.truncated & (dream.steps < dream.horizon)
        cut |= alive & _numbers(early | _flag(step, "halted"))
        broken |= alive & _numbers(_flag(step, "diverged"))
        alive &= ~_numbers(step.terminated | step.truncated)
    return total, lengths, cut, broken


def _flag(step: Prediction, name: str) -> Tensor:
    return step.info.get(name, torch.zeros_like(step.terminated))


def _numbers(x: Tensor) -> Array:
    array: Array = x.cpu().numpy()
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def counted(episode: SequenceBatch, context: int, horizon: int) -> Array:
    """Return the rewards [T] of a recorded episode [1, T'] that count: after the context, ``horizon`` at most."""
    rewards: Array = episode.reward[0, context:].double().numpy()[:horizon]
    return rewards
