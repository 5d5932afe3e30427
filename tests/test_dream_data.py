"""What off-policy algorithms learn from: the real rows, the mixture inside a batch, and SB3's own form of it."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from mbrl_gym import SequenceReplay
from mbrl_gym.agents.dream_data import MixedReplayBuffer, Rows, real_rows, stored_action

BOX = spaces.Box(-9, 9, (2,), np.float32)
PUSH = spaces.Box(-2.0, 2.0, (1,), np.float32)
CPU = torch.device("cpu")


def rows(values: Any) -> Rows:
    """Rows whose every number is the value."""
    x = torch.as_tensor(values, dtype=torch.float32)
    pair = x[:, None].expand(-1, 2).clone()
    return Rows(pair, x[:, None], pair + 0.5, x, torch.zeros(len(x)))


def mixed(real_ratio: float = 0.25, retain: int = 1) -> MixedReplayBuffer:
    torch.manual_seed(0)
    return MixedReplayBuffer(BOX, PUSH, CPU, real_ratio, retain)


def test_real_rows_are_the_transitions_within_episodes() -> None:
    replay = SequenceReplay(BOX, PUSH, 50)
    no, yes = np.array([False]), np.array([True])
    replay.begin(np.array([[0.0, 0.0]], np.float32))
    replay.add([[1.0]], np.array([[1.0, 0.0]], np.float32), np.array([10.0]), no, no)
    last, fresh = np.array([2.0, 0.0], np.float32), np.array([[5.0, 0.0]], np.float32)
    replay.add([[-1.0]], fresh, np.array([20.0]), yes, no, [last])  # terminal
    replay.add([[2.0]], fresh, np.array([30.0]), no, yes, [np.array([6.0, 0.0], np.float32)])  # a time limit
    found = real_rows(replay, CPU)
    assert found.obs[:, 0].tolist() == [0.0, 1.0, 5.0]
    assert found.next_obs[:, 0].tolist() == [1.0, 2.0, 6.0]
    assert found.action[:, 0].tolist() == [0.5, -0.5, 1.0]  # on SB3's scale
    assert found.reward.tolist() == [10.0, 20.0, 30.0]
    assert found.done.tolist() == [0.0, 1.0, 0.0]


def test_a_discrete_action_is_its_number_and_a_dictionary_stays_one() -> None:
    assert stored_action(torch.eye(3), spaces.Discrete(3)).tolist() == [[0], [1], [2]]
    space = spaces.Dict(x=BOX)
    replay = SequenceReplay(space, spaces.Discrete(3), 9)
    replay.begin({"x": np.zeros((1, 2), np.float32)})
    no = np.array([False])
    replay.add(np.array([2]), {"x": np.ones((1, 2), np.float32)}, np.array([1.0]), no, no)
    found = real_rows(replay, CPU)
    assert found.next_obs["x"].tolist() == [[1.0, 1.0]]  # type: ignore[call-overload,index]
    assert found.action.tolist() == [[2]]


@pytest.mark.parametrize(("ratio", "expected"), [(0.0, 0), (0.05, 1), (0.25, 8), (0.99, 31), (1.0, 32)])
def test_the_share_of_real_rows_is_exact(ratio: float, expected: int) -> None:
    buffer = mixed(ratio)
    buffer.real = rows([1.0, 2.0])
    buffer.add_dream(rows([-1.0, -2.0, -3.0]))
    batch = buffer.sample(32)
    assert int((batch.rewards > 0).sum()) == expected


def test_without_a_dream_all_is_real_and_without_anything_there_is_an_error() -> None:
    buffer = mixed(0.05)
    with pytest.raises(ValueError, match="the buffer must hold transitions to sample from, got none"):
        buffer.sample(4)
    buffer.real = rows([7.0])
    assert buffer.sample(4).rewards.tolist() == [[7.0]] * 4
    assert buffer.size() == 1


def test_the_newest_dreams_are_kept() -> None:
    buffer = mixed(0.0, retain=2)
    for value in (1.0, 2.0, 3.0):
        buffer.add_dream(rows([value] * 5))
    assert buffer.size() == 10
    assert set(buffer.sample(200).rewards.flatten().tolist()) == {2.0, 3.0}


def test_batches_are_those_of_sb3s_buffer_normalisation_included() -> None:
    env = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]), clip_obs=3.0)
    env.reset()
    for _ in range(30):
        env.step(np.array([[1.5]]))
    stock = ReplayBuffer(1, env.observation_space, env.action_space, device="cpu", handle_timeout_termination=False)
    obs, after = np.array([[0.3, 0.1, 5.0]], np.float32), np.array([[0.2, 0.2, 6.0]], np.float32)
    stock.add(obs, after, np.array([[0.5]]), np.array([-4.0]), np.array([True]), [{}])
    buffer = MixedReplayBuffer(env.observation_space, env.action_space, CPU, 1.0, 1)
    done = torch.ones(1)
    buffer.real = Rows(torch.tensor(obs), torch.tensor([[0.5]]), torch.tensor(after), torch.tensor([-4.0]), done)
    for normalize in (None, env):
        mine, theirs = buffer.sample(3, normalize), stock.sample(3, normalize)
        for name in ("observations", "actions", "next_observations", "dones", "rewards"):
            a, b = getattr(mine, name), getattr(theirs, name)
            assert a.shape == b.shape
            assert a.dtype == b.dtype, name
            torch.testing.assert_close(a, b, msg=name)
        assert mine.discounts is None


class Pair(gym.Env[Any, Any]):
    """A dictionary of a vector and a number, and three actions."""

    observation_space = spaces.Dict(x=BOX, kind=spaces.Box(0, 1, (1,), np.float32))
    action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return {"x": self.np_random.normal(size=2).astype(np.float32), "kind": np.ones(1, np.float32)}, {}

    def step(self, action: Any) -> Any:
        return self.reset()[0], float(self.np_random.normal(3.0)), False, False, {}


@pytest.mark.parametrize("norm_reward", [True, False])
def test_dictionaries_and_discrete_actions_are_those_of_sb3s_buffer(norm_reward: bool) -> None:
    env = VecNormalize(DummyVecEnv([Pair]), norm_obs_keys=["x"], norm_reward=norm_reward, clip_reward=0.5)
    env.reset()
    for _ in range(30):
        env.step(np.array([1]))
    stock = DictReplayBuffer(1, env.observation_space, env.action_space, device="cpu", handle_timeout_termination=False)  # type: ignore[arg-type]
    obs = {"x": np.array([[0.3, 0.1]], np.float32), "kind": np.array([[1.0]], np.float32)}
    after = {name: value / 2 for name, value in obs.items()}
    stock.add(obs, after, np.array([2]), np.array([0.7]), np.array([False]), [{}])  # type: ignore[arg-type]
    buffer = MixedReplayBuffer(env.observation_space, env.action_space, CPU, 1.0, 1)
    buffer.real = Rows(
        {name: torch.tensor(value) for name, value in obs.items()},
        torch.tensor([[2]]),
        {name: torch.tensor(value) for name, value in after.items()},
        torch.tensor([0.7]),
        torch.zeros(1),
    )
    for normalize in (None, env):
        mine, theirs = buffer.sample(3, normalize), stock.sample(3, normalize)
        assert type(mine) is type(theirs)
        for name in ("actions", "dones", "rewards"):
            torch.testing.assert_close(getattr(mine, name), getattr(theirs, name), msg=name)
        for name in ("observations", "next_observations"):
            torch.testing.assert_close(getattr(mine, name), getattr(theirs, name), msg=name)


def test_a_change_of_the_batch_sees_normalised_rewards_and_brings_discounts() -> None:
    env = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]))
    env.ret_rms.var = np.array(4.0)
    buffer = mixed(1.0)
    buffer.real = rows([6.0])
    seen: list[Any] = []

    def change(drawn: Rows) -> Any:
        seen.append((drawn, buffer.drawn))
        return drawn[:2], torch.full((2,), 0.5)

    buffer.change = change
    env.norm_obs = False
    batch = buffer.sample(4, env)
    torch.testing.assert_close(seen[0][0].reward, torch.full((4,), 3.0))
    assert seen[0][0] is seen[0][1]
    torch.testing.assert_close(batch.rewards, torch.full((2, 1), 3.0))
    assert batch.discounts is not None
    assert batch.discounts.tolist() == [[0.5], [0.5]]
