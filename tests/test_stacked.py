"""Policies of stacked observations, in reality and in the dream: they see the stacks that they were trained on."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack
from test_cli import error_of
from test_report_command import Court
from test_video import SMALL, trained
from test_video import pushed as recorded

from mbrl_gym import StoredModel, save_model
from mbrl_gym.cli.main import main
from mbrl_gym.envs.single import LearnedEnv
from mbrl_gym.envs.view import FrameStack
from mbrl_gym.models.video import VideoModel
from mbrl_gym.report import ReportConfig, matched_policy
from mbrl_gym.report.returns import run_episodes
from mbrl_gym.wrappers import AtariSettings, make_atari
from worlds import real_steps

PENDULUM = spaces.Box(np.array([-1, -1, -8], np.float32), np.array([1, 1, 8], np.float32))
COURT = Court.observation_space


class Watcher:
    """A policy that notes what it sees, and acts in turns."""

    def __init__(self, actions: Any) -> None:
        self.seen: list[Any] = []
        self._actions = actions

    def __call__(self, obs: Any, memory: Any, episode_start: Any, deterministic: bool) -> Any:
        self.seen.append(np.array(obs))
        count = memory or 0
        return np.stack([self._actions[count % len(self._actions)]] * len(obs)), count + 1


def image(*shape: int) -> spaces.Box:
    return spaces.Box(0, 255, shape, np.uint8)


def test_a_policy_of_single_observations_is_left_alone() -> None:
    policy = Watcher([0])
    assert matched_policy(policy, PENDULUM, PENDULUM) is policy


@pytest.mark.parametrize("stack", [2, 4])
def test_vectors_are_stacked_as_by_sb3(stack: int) -> None:
    forces = np.linspace(-2, 2, 7, dtype=np.float32)[:, None]
    env = VecFrameStack(DummyVecEnv([partial(gym.make, "Pendulum-v1", max_episode_steps=5)]), stack)
    env.seed(3)
    shown = [env.reset()]
    for i in range(4):
        shown.append(env.step(forces[i : i + 1])[0])
    policy = Watcher(forces)
    real = gym.make("Pendulum-v1", max_episode_steps=5)
    run_episodes(matched_policy(policy, env.observation_space, real.observation_space), real, 2, 3)
    np.testing.assert_array_equal(policy.seen[:5], shown)
    assert (policy.seen[5][0, :-3] == 0).all()  # the next episode begins without a past


def test_observations_are_stacked_as_by_gymnasium() -> None:
    env = FrameStackObservation(gym.make("Pendulum-v1", max_episode_steps=5), 3)
    forces = np.linspace(-2, 2, 7, dtype=np.float32)[:, None]
    shown = [env.reset(seed=3)[0]]
    for i in range(4):
        shown.append(env.step(forces[i])[0])
    policy = Watcher(forces)
    real = gym.make("Pendulum-v1", max_episode_steps=5)
    run_episodes(matched_policy(policy, env.observation_space, real.observation_space), real, 2, 3)
    np.testing.assert_array_equal([x[0] for x in policy.seen[:5]], shown)
    assert (policy.seen[5][0] == policy.seen[5][0, -1]).all()


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
def test_pictures_are_stacked_as_learned_environments_show_them(last: bool) -> None:
    """In a dream, a policy that remembers what is drawn sees what it sees in the learned environment."""
    model = trained(recorded(8, 6), 2)
    replay = real_steps(Court(), 60)
    starts = replay.starts(model.context)
    view = FrameStack(3, 10, 12)
    dreams = {name: LearnedEnv(model, starts, 8, view=v) for name, v in (("stacked", view), ("plain", None))}
    shown = [dreams["stacked"].reset(seed=5)[0]]
    shown += [dreams["stacked"].step(action % 3)[0] for action in range(6)]
    policy = Watcher(np.arange(3))
    seen = image(10, 12, 3) if last else image(3, 10, 12)
    stacked = matched_policy(policy, seen, COURT)
    obs, memory = dreams["plain"].reset(seed=5)[0], None
    for t in range(7):
        action, memory = stacked(obs, memory, np.array([t == 0]), True)
        obs = dreams["plain"].step(action)[0]
    assert policy.seen[0].shape == (1, *seen.shape)
    found = [np.moveaxis(x[0], -1, 0) if last else x[0] for x in policy.seen]
    np.testing.assert_array_equal(found[0], np.stack([shown[0][-1]] * 3))
    for x, wanted in zip(found[2:], shown[2:], strict=True):
        np.testing.assert_array_equal(x, wanted)


def test_a_game_is_stacked_as_its_preprocessing_does() -> None:
    """Of the screen as a model draws it, to the pixel, once the stack is full."""
    pytest.importorskip("ale_py")
    small = make_atari("ALE/Pong-v5", AtariSettings(stack=4, clip_rewards=True))
    shown = [small.reset(seed=1)[0]]
    shown += [small.step(action)[0] for action in (2, 3, 2, 2, 0)]
    screen = make_atari("ALE/Pong-v5", AtariSettings(height=210, width=160, stack=1, clip_rewards=True))
    policy = Watcher(np.array([2, 3, 2, 2, 0, 0]))
    stacked = matched_policy(policy, image(4, 84, 84), screen.observation_space)
    run_episodes(stacked, screen, 1, 1, max_steps=6)
    np.testing.assert_array_equal([x[0] for x in policy.seen[3:]], shown[3:])
    assert (policy.seen[0][0] == shown[0][-1]).all()


def test_several_episodes_have_stacks_of_their_own() -> None:
    policy = Watcher([0])
    stacked = matched_policy(policy, spaces.Box(-1, 1, (4,)), spaces.Box(-1, 1, (2,)))
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    _, memory = stacked(rows, None, np.ones(3, bool), True)
    stacked(rows + 10, memory, np.array([False, True, False]), True)
    assert policy.seen[1].tolist() == [[0, 1, 10, 11], [0, 0, 12, 13], [4, 5, 14, 15]]


@pytest.mark.parametrize(
    ("seen", "space"),
    [
        (spaces.Box(-1, 1, (5,)), spaces.Box(-1, 1, (2,))),
        (spaces.Box(-1, 1, (2, 3)), spaces.Box(-1, 1, (2,))),
        (image(4, 100, 84), image(84, 84)),
        (image(4, 84, 84), image(84, 84, 3)),
        (spaces.Box(0, 1, (4, 84, 84)), image(84, 84)),
        (spaces.Box(-1, 1, (2,)), spaces.Dict(a=spaces.Box(-1, 1, (2,)))),
        (spaces.Discrete(3), spaces.Discrete(2)),
    ],
)
def test_what_is_no_stack_is_refused(seen: Any, space: Any) -> None:
    with pytest.raises(ValueError, match=r"must see the model's observations .* or a stack of them, got"):
        matched_policy(Watcher([0]), seen, space)


def test_a_report_of_a_policy_of_stacks(home: Any, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    small = partial(ReportConfig, windows=20, segments=5, particles=2, films=2)
    monkeypatch.setattr("mbrl_gym.cli.report.ReportConfig", small)
    monkeypatch.setattr("mbrl_gym.report.page.figures", lambda report: [])
    gym.register("Court-v0", entry_point=Court)
    torch.manual_seed(0)
    model, replay = VideoModel(COURT, Court.action_space, SMALL), real_steps(Court(), 60)
    model.before_fit(replay.gather(replay.windows(6), 6))
    view = {"stack": 4, "height": 12, "width": 12}
    stored = StoredModel(model, replay.starts(model.context), "Court-v0", 20, view=view)
    save_model(tmp_path / "court", stored)

    class Stacks(gym.Env[Any, Any]):
        observation_space, action_space = image(4, 12, 12), Court.action_space

    policy = {"net_arch": [8]}
    PPO("MlpPolicy", Stacks(), n_steps=8, batch_size=8, policy_kwargs=policy, seed=0).save(tmp_path / "ppo.zip")
    short = ["--episodes", "2", "--steps", "12", "--horizon", "3", "--out", str(tmp_path / "out")]
    assert main(["report", str(tmp_path / "court"), "--policy", str(tmp_path / "ppo.zip"), *short]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert len(report["exploitation"]["matched"]["dream"]) == 2
    assert len(report["ranking"]["names"]) == 4
    Stacks.observation_space = image(4, 13, 12)
    PPO("MlpPolicy", Stacks(), n_steps=8, batch_size=8, seed=0).save(tmp_path / "ppo.zip")
    message = error_of(capsys, "report", tmp_path / "court", "--policy", tmp_path / "ppo.zip", *short)
    assert "must see the model's observations" in message
