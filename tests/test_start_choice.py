"""Start states: their weights by hand, over several environments and after the ring has gone round."""

import numpy as np
import pytest
from gymnasium import spaces

from mbrl_gym import SequenceReplay
from mbrl_gym.agents import FailureStarts, RecentStarts, UniformStarts
from mbrl_gym.agents.imports import decode_choice, encode_choice
from mbrl_gym.agents.start_choice import STARTS, steps_to_termination

BOX = spaces.Box(-999, 999, (1,), np.float32)
PUSH = spaces.Box(-2.0, 2.0, (1,), np.float32)


def walk(ends: list[list[str]], capacity: int = 100) -> SequenceReplay:
    """Environments side by side; each step goes on (.), is terminal (t) or cut (c). Observations count up."""
    replay = SequenceReplay(BOX, PUSH, capacity, len(ends))
    replay.begin(np.zeros((len(ends), 1), np.float32))
    for step, now in enumerate(zip(*ends, strict=True)):
        after = np.full((len(ends), 1), step + 1.0, np.float32)
        terminated, truncated = np.array([x == "t" for x in now]), np.array([x == "c" for x in now])
        over = terminated | truncated
        final = [after[i] if over[i] else None for i in range(len(ends))] if over.any() else None
        replay.add(np.zeros((len(ends), 1)), after, np.zeros(len(ends)), terminated, truncated, final)
    return replay


def test_uniform_starts_have_no_weights() -> None:
    replay = walk([list("...")])
    assert UniformStarts().weights(replay, replay.start_rows()) is None


def test_recent_starts_halve_with_age() -> None:
    replay = walk([list("...."), list("....")])
    rows = replay.start_rows()
    weights = RecentStarts(half_life=2.0).weights(replay, rows)
    assert weights is not None
    age = (rows // 2).max() - rows // 2
    np.testing.assert_allclose(weights, 0.5 ** (age / 2.0))
    assert weights.max() == 1.0
    assert weights.min() == 0.25


def test_the_newest_state_of_every_environment_is_as_new_as_another() -> None:
    replay = walk([list("t.t.t."), list("......")])  # the rows of ends let one run ahead
    rows = replay.start_rows()
    weights = RecentStarts(half_life=2.0).weights(replay, rows)
    assert weights is not None
    assert weights[rows % 2 == 1][-3:].tolist() == pytest.approx([0.5, 0.5**0.5, 1.0])
    assert weights[rows % 2 == 0][-1] == 1.0


def test_steps_to_termination_stay_within_the_episode_and_the_environment() -> None:
    replay = walk([list("..t..c.."), list("......t.")])
    rows = replay.start_rows()
    left = dict(zip(rows.tolist(), steps_to_termination(replay, rows).tolist(), strict=True))
    first = [left[c * 2] for c in range(12) if c * 2 in left]
    second = [left[c * 2 + 1] for c in range(12) if c * 2 + 1 in left]
    assert first == [3, 2, 1, *[np.inf] * 6]  # then one that was cut, and one that goes on
    assert second == [7, 6, 5, 4, 3, 2, 1, np.inf, np.inf]


def test_failure_starts_count_the_last_steps_before_an_end() -> None:
    replay = walk([list("....t..")])
    weights = FailureStarts(steps=2, weight=4.0).weights(replay, replay.start_rows())
    assert weights is not None
    assert weights.tolist() == [1.0, 1.0, 1.0, 4.0, 4.0, 1.0, 1.0, 1.0]


def test_an_overwritten_ring_and_one_without_ends() -> None:
    replay = walk([list("..t......t....")], capacity=8)
    rows = replay.start_rows()
    assert replay.windows(1)[0] > 0  # the oldest rows are gone
    at = dict(zip(rows.tolist(), steps_to_termination(replay, rows).tolist(), strict=True))
    assert at == {9: 2, 10: 1, **dict.fromkeys(range(12, 17), np.inf)}
    quiet = walk([list("....")])
    assert np.isinf(steps_to_termination(quiet, quiet.start_rows())).all()


@pytest.mark.parametrize("choice", [UniformStarts(), RecentStarts(7.0), FailureStarts(3, 2.0)])
def test_choices_survive_json(choice: UniformStarts) -> None:
    assert decode_choice(STARTS, encode_choice(STARTS, choice), "starts") == choice


def test_bad_choices_are_refused() -> None:
    with pytest.raises(ValueError, match="half_life must be positive, got 0"):
        RecentStarts(0)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        FailureStarts(steps=0)
    with pytest.raises(ValueError, match="weight must be positive, got -1"):
        FailureStarts(weight=-1)
