"""Rollout lengths: the schedule's numbers, and how far an imperfect model is trusted."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from mbrl_gym import SequenceReplay
from mbrl_gym.agents import AdaptiveLength, FixedLength, ScheduledLength
from mbrl_gym.agents.rollout_length import Experience
from worlds import Walk, WalkState

BOX = spaces.Box(-1e6, 1e6, (2,), np.float32)
PUSH = spaces.Box(-2.0, 2.0, (1,), np.float32)


class Drifting(Walk):
    """Errs by a tenth of the data's deviation at each step, in the same direction."""

    error = 0.1

    def predict(self, state: WalkState, action: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        after, prediction = super().predict(state, action, *args, **kwargs)
        return replace(after, obs=after.obs + self.error), prediction


def pushed(steps: int, episode: int) -> SequenceReplay:
    """A walk with random encoded pushes, standardised below; episodes of a fixed length."""
    rng = np.random.default_rng(0)
    replay = SequenceReplay(BOX, PUSH, 4 * steps)
    position = rng.standard_normal(2)
    replay.begin(position[None].astype(np.float32))
    for step in range(steps):
        action = rng.uniform(-2, 2, 1)
        position = position + action[0] / 2
        cut = np.array([(step + 1) % episode == 0])
        final = [position.astype(np.float32)] if cut[0] else None
        if cut[0]:
            position = rng.standard_normal(2)
        no = np.array([False])
        replay.add(action[None], position[None].astype(np.float32), np.zeros(1), no, cut, final)
    return replay


def experience(replay: SequenceReplay, error: float, unseen: int = 0, real_steps: int = 0) -> Experience:
    model = Drifting(BOX, PUSH)
    rows = replay.gather(replay.windows(1), 1).obs[:, 0]
    model.error = torch.as_tensor(rows.std(0, unbiased=False) * error)
    return Experience(real_steps, model, replay, np.array([unseen]))


def test_the_schedule_is_the_papers() -> None:
    """jannerm/mbpo ``_set_rollout_length`` with [20, 150, 1, 15], epochs of 1,000 steps."""
    length = ScheduledLength(20_000, 150_000, 1, 15)
    found = [
        length.steps(Experience(n, None, pushed(4, 4), np.array([0])))
        for n in (0, 20_000, 30_000, 85_000, 150_000, 400_000)
    ]
    assert found == [1, 1, 2, 8, 15, 15]
    replay, unseen = pushed(4, 4), np.array([0])
    for epoch in range(0, 320, 3):
        share = 0 if epoch <= 20 else min((epoch - 20) / (300 - 20), 1)
        now = Experience(1000 * epoch, None, replay, unseen)
        assert ScheduledLength(20_000, 300_000, 2, 25).steps(now) == int(share * 23 + 2)
    assert FixedLength(7).steps(Experience(0, None, pushed(4, 4), np.array([0]))) == 7


def test_an_adaptive_length_is_as_far_as_the_error_stays_below_the_bound() -> None:
    replay = pushed(400, 40)
    now = experience(replay, 0.1)
    assert AdaptiveLength(bound=0.35, longest=20).steps(now) == 3  # 0.1, 0.2, 0.3, 0.4
    assert AdaptiveLength(bound=0.75, longest=20).steps(now) == 7
    assert AdaptiveLength(bound=0.75, longest=5).steps(now) == 5
    assert AdaptiveLength(bound=0.05).steps(now) == 1  # never less than one step
    assert AdaptiveLength(bound=0.35).steps(replace(now, model=None)) == 1  # nothing was fitted yet


def test_short_episodes_and_few_windows_are_not_trusted_further() -> None:
    assert AdaptiveLength(bound=9.0, longest=20).steps(experience(pushed(400, 6), 0.1)) == 6
    few = experience(pushed(400, 40), 0.1, unseen=380)  # 29 rows are left, of which k need k + 1
    assert AdaptiveLength(bound=9.0, longest=40, windows=200).steps(few) < 20
    assert AdaptiveLength(bound=9.0, longest=40, windows=20).steps(few) > 20


def test_only_unseen_steps_count() -> None:
    replay = pushed(400, 40)
    spied: list[int] = []

    class Spy(Drifting):
        def believe(self, obs: Any, *args: Any) -> Any:
            spied.append(len(obs))
            return super().believe(obs, *args)

    model = Spy(BOX, PUSH)
    model.error = 0.0
    AdaptiveLength(longest=1, windows=1000).steps(Experience(0, model, replay, np.array([0])))
    AdaptiveLength(longest=1, windows=100).steps(Experience(0, model, replay, np.array([350])))
    assert spied[0] == 400
    assert spied[1] < 65


def test_bad_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        FixedLength(0)
    with pytest.raises(ValueError, match="begin must be at least 0 and below end = 5, got 5"):
        ScheduledLength(5, 5)
    with pytest.raises(ValueError, match="bound must be positive, got 0"):
        AdaptiveLength(bound=0)
    with pytest.raises(ValueError, match="longest must be at least 1, got 0"):
        AdaptiveLength(longest=0)
