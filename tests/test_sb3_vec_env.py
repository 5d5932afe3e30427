import copy
import pickle

import ale_py  # noqa: F401  (registers ALE/...)
import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from sb3_contrib import TRPO, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecCheckNan,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)

from mbrl_gym.wrappers.sb3 import SB3VecEnv

SAME_STEP, NEXT_STEP, DISABLED = AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED
torch.set_num_threads(1)


class Counter(VectorEnv):
    """Row i counts its steps t: obs [i, t], reward 10 i + t. Rows 0, 2 terminate at t = 2, 4; row 1 truncates at t = 3.

    Row 2 raises both flags at t = 4. A new episode of an episode count c starts from obs [i, -c].
    """

    def __init__(self, mode=SAME_STEP, render_mode=None):
        self.num_envs = 3
        self.metadata = {"autoreset_mode": mode, "render_fps": 7}
        self.render_mode = render_mode
        self.single_observation_space = gym.spaces.Box(-100, 100, (2,), np.float32)
        self.single_action_space = gym.spaces.Discrete(4)
        self.observation_space = batch_space(self.single_observation_space, 3)
        self.action_space = batch_space(self.single_action_space, 3)
        self.calls, self.closed_with, self.gravity = [], None, 9.8

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.calls.append((seed, options))
        mask = (options or {}).get("reset_mask", np.ones(3, bool))
        if mask.all():
            self.episode = np.zeros(3)
            self.t = np.zeros(3)
        self.t[mask] = 0
        return self.observe(-self.episode), {"start": np.array([7, 8, 9]), "_start": mask}

    def observe(self, value):
        return np.stack([np.arange(3), np.where(self.t == 0, value, self.t)], 1).astype(np.float32)

    def step(self, actions):
        self.actions = actions
        self.t += 1
        obs, reward = self.observe(0), 10.0 * np.arange(3) + self.t
        terminated, truncated = self.t == [2, -1, 4], self.t == [-1, 3, 4]
        ended = terminated | truncated
        self.episode[ended] += 1
        info = {"uncertainty": self.t / 8, "_uncertainty": np.ones(3, bool)}
        if ended.any() and self.metadata["autoreset_mode"] is SAME_STEP:
            score = {"score": self.t * 100, "_score": ended}
            info |= {"final_obs": obs, "_final_obs": ended, "final_info": score, "_final_info": ended}
            self.t[ended] = 0
            obs = self.observe(-self.episode)
        return obs, reward, terminated, truncated, info

    def action_masks(self):
        return np.array([[True, True, False, False]] * 3)

    def render(self):
        return tuple(np.full((4, 4, 3), row, np.uint8) for row in range(3))

    def close_extras(self, **kwargs):
        self.closed_with = kwargs


class Canned(VectorEnv):
    """Random observations of any space; row i truncates after 3 + i steps, and terminates at random now and then."""

    def __init__(self, space, num_envs=3, objects=False, action_space=None):
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": SAME_STEP}
        self.single_observation_space = space
        self.single_action_space = action_space or gym.spaces.Discrete(2)
        self.observation_space = batch_space(space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.objects = objects

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.t = np.zeros(self.num_envs, int)
        return self.observation_space.sample(), {}

    def step(self, actions):
        self.t += 1
        terminated = self.np_random.random(self.num_envs) < 0.1
        truncated = self.t >= 3 + np.arange(self.num_envs)
        reward = self.np_random.normal(size=self.num_envs)
        self.ended = terminated | truncated
        info = {"final_obs": self.final(), "_final_obs": self.ended.copy()} if self.ended.any() else {}
        self.t[self.ended] = 0
        return self.observation_space.sample(), reward, terminated, truncated, info

    def final(self):
        batch = self.observation_space.sample()
        self.last_final = copy.deepcopy(batch)
        if not self.objects:
            return batch
        rows = np.full(self.num_envs, None, dtype=object)
        for row in np.flatnonzero(self.ended):
            rows[row] = {k: v[row] for k, v in batch.items()} if isinstance(batch, dict) else batch[row]
        return rows

    def action_masks(self):
        return np.ones((self.num_envs, 2), bool)


VECTOR = gym.spaces.Box(-1, 1, (3,), np.float32)
IMAGE = gym.spaces.Box(0, 255, (36, 40, 3), np.uint8)  # height, width, channels
DICT = gym.spaces.Dict(place=VECTOR, picture=gym.spaces.Box(0, 255, (1, 36, 36), np.uint8))


def sync(env_id, num_envs=3, mode=SAME_STEP, wrapper=lambda env: env, **kwargs):
    return SyncVectorEnv([lambda: wrapper(gym.make(env_id, **kwargs))] * num_envs, autoreset_mode=mode)


def same(left, right):
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    return np.asarray(left).dtype == np.asarray(right).dtype and np.array_equal(left, right)


def actions_of(venv, steps, seed=0):
    space = copy.deepcopy(venv.action_space)
    space.seed(seed)
    return [np.stack([space.sample() for _ in range(venv.num_envs)]) for _ in range(steps)]


# Every number known


def test_counter_env_step_by_step():
    venv = SB3VecEnv(Counter())
    assert same(venv.reset(), np.float32([[0, 0], [1, 0], [2, 0]]))
    assert venv.reset_infos == [{"start": 7}, {"start": 8}, {"start": 9}]
    action = np.array([0, 1, 2])

    obs, rewards, dones, infos = venv.step(action)
    assert same(obs, np.float32([[0, 1], [1, 1], [2, 1]]))
    assert same(rewards, np.float32([1, 11, 21]))
    assert same(dones, np.zeros(3, bool))
    assert infos == [{}, {}, {}]
    assert list(venv.step_info) == ["uncertainty"]
    assert same(venv.step_info["uncertainty"], np.full(3, 1 / 8))

    obs, rewards, dones, infos = venv.step(action)  # row 0 terminates
    assert same(obs, np.float32([[0, -1], [1, 2], [2, 2]]))
    assert same(rewards, np.float32([2, 12, 22]))
    assert same(dones, np.array([True, False, False]))
    assert infos[1:] == [{}, {}]
    assert same(infos[0].pop("terminal_observation"), np.float32([0, 2]))
    assert infos[0]["episode"].pop("t") >= 0
    assert infos[0] == {"TimeLimit.truncated": False, "episode": {"r": 3.0, "l": 2}, "score": 200.0}

    obs, _, dones, infos = venv.step(action)  # row 1 truncates
    assert same(obs, np.float32([[0, 1], [1, -1], [2, 3]]))
    assert same(dones, np.array([False, True, False]))
    assert infos[1]["TimeLimit.truncated"] is True
    assert same(infos[1]["terminal_observation"], np.float32([1, 3]))
    assert infos[1]["episode"]["r"] == 36.0
    assert infos[1]["episode"]["l"] == 3

    _, _, dones, infos = venv.step(action)  # row 0 again; row 2 terminates and truncates at once: terminated
    assert same(dones, np.array([True, False, True]))
    assert infos[2]["TimeLimit.truncated"] is False
    assert [infos[row]["episode"]["r"] for row in (0, 2)] == [3.0, 90.0]
    assert [infos[row]["episode"]["l"] for row in (0, 2)] == [2, 4]


def test_reset_forgets_the_running_episode():
    venv = SB3VecEnv(Counter())
    venv.reset()
    venv.step(np.zeros(3))
    venv.reset()
    assert venv.step_info == {}
    for _ in range(2):
        infos = venv.step(np.zeros(3))[3]
    assert infos[0]["episode"]["l"] == 2


def test_seed_and_options_are_used_at_the_next_reset_only():
    env = Counter()
    venv = SB3VecEnv(env)
    venv.reset()
    assert venv.seed(5) == [5, 6, 7]
    venv.set_options({"height": 1})
    venv.reset()
    venv.reset()
    assert env.calls == [(None, None), (5, {"height": 1}), (None, None)]
    venv.set_options([{"height": 2}] * 3)
    venv.reset()
    assert env.calls[-1] == (None, {"height": 2})
    with pytest.raises(ValueError, match="options must be equal for all rows"):
        venv.set_options([{"height": 1}, {}, {}])


def test_actions_arrive_in_the_dtype_of_the_vector_env():
    env = Counter()
    venv = SB3VecEnv(env)
    venv.reset()
    venv.step(np.array([0, 1, 3], np.int32))
    assert same(env.actions, np.array([0, 1, 3], env.action_space.dtype))
    box = SB3VecEnv(sync("Pendulum-v1"))
    seen = []
    box.vector_env.step = lambda actions: seen.append(actions)
    with pytest.raises(TypeError):  # None is no step result
        box.step(np.zeros((3, 1)))
    assert seen[0].dtype == np.float32


# Equal to SB3's own


@pytest.mark.parametrize("mode", [SAME_STEP, DISABLED])
@pytest.mark.parametrize(("env_id", "limit", "steps"), [("CartPole-v1", 17, 150), ("Pendulum-v1", 50, 160)])
def test_equals_dummy_vec_env(env_id, limit, steps, mode):
    class Labelled(gym.Wrapper):
        resets = 0

        def reset(self, **kwargs):
            obs, info = super().reset(**kwargs)
            self.resets += 1
            return obs, info | {"resets": self.resets}

        def step(self, action):
            *returned, info = super().step(action)
            return *returned, info | {"reward": returned[1], "nested": {"first": returned[0][0]}}

    def make():
        return Labelled(gym.make(env_id, max_episode_steps=limit))

    ours = SB3VecEnv(SyncVectorEnv([make] * 3, autoreset_mode=mode))
    theirs = DummyVecEnv([lambda: Monitor(make())] * 3)
    for venv in (ours, theirs):
        venv.seed(11)
    assert same(ours.reset(), theirs.reset())
    assert ours.reset_infos == theirs.reset_infos
    episodes, timeouts = 0, 0
    for action in actions_of(theirs, steps):
        left, right = ours.step(action), theirs.step(action)
        assert all(same(a, b) for a, b in zip(left[:3], right[:3], strict=True))
        for row in np.flatnonzero(right[2]):
            got, expected = left[3][row], right[3][row]
            assert same(got["terminal_observation"], expected["terminal_observation"])
            assert got["TimeLimit.truncated"] == expected["TimeLimit.truncated"]
            assert got["episode"]["l"] == expected["episode"]["l"]
            assert got["episode"]["r"] == pytest.approx(expected["episode"]["r"], abs=2e-6)
            assert [got[key] for key in ("reward", "nested")] == [expected[key] for key in ("reward", "nested")]
            assert got.keys() == expected.keys()
            timeouts += got["TimeLimit.truncated"]
            episodes += 1
        assert all(not info for info, ended in zip(left[3], right[2], strict=True) if not ended)
        assert ours.reset_infos == theirs.reset_infos
    assert episodes >= 8
    assert 0 < timeouts < (episodes if env_id == "CartPole-v1" else episodes + 1)


WRAPPERS = {
    "normalize": lambda venv: VecNormalize(venv, clip_reward=2.0),
    "stack": lambda venv: VecFrameStack(venv, 3),
    "monitor": VecMonitor,
    "nan": lambda venv: VecCheckNan(venv, raise_exception=True),
    "all": lambda venv: VecFrameStack(VecNormalize(VecMonitor(venv)), 2),
}


@pytest.mark.filterwarnings("ignore:The environment is already wrapped with a `Monitor`")
@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize("shared_infos", [True, False])
def test_sb3_wrappers_behave_as_on_dummy_vec_env(name, shared_infos):
    ours = WRAPPERS[name](SB3VecEnv(sync("CartPole-v1"), shared_infos=shared_infos))
    theirs = WRAPPERS[name](DummyVecEnv([lambda: gym.make("CartPole-v1")] * 3))
    for venv in (ours, theirs):
        venv.seed(2)
    assert same(ours.reset(), theirs.reset())
    for action in actions_of(theirs, 80):
        left, right = ours.step(action), theirs.step(action)
        assert all(same(a, b) for a, b in zip(left[:3], right[:3], strict=True))
        for row, ended in enumerate(right[2]):
            got, expected = left[3][row], right[3][row]
            if not ended:
                assert got == {}
                continue
            assert same(got["terminal_observation"], expected["terminal_observation"])
            if "episode" in expected:
                assert got["episode"]["l"] == expected["episode"]["l"]


@pytest.mark.parametrize("objects", [False, True])
@pytest.mark.parametrize("space", [VECTOR, IMAGE, DICT, gym.spaces.Discrete(5)])
def test_final_observations_of_any_space(space, objects):
    env = Canned(space, objects=objects)
    venv = SB3VecEnv(env)
    venv.seed(0)
    venv.reset()
    ended = 0
    for _ in range(12):
        _, _, dones, infos = venv.step(np.zeros(3))
        for row in np.flatnonzero(dones):
            final = infos[row]["terminal_observation"]
            assert space.contains(final)
            expected = env.last_final
            assert same(
                final, {k: v[row] for k, v in expected.items()} if isinstance(expected, dict) else expected[row]
            )
            ended += 1
    assert ended > 5


def test_stacked_dict_observations_do_not_leak_between_rows():
    venv = VecFrameStack(SB3VecEnv(Canned(DICT, objects=True)), 2)
    venv.seed(0)
    venv.reset()
    for _ in range(12):
        _, _, dones, infos = venv.step(np.zeros(3))
        for row, info in enumerate(infos):
            assert ("terminal_observation" in info) == dones[row]
            if dones[row]:
                assert info["terminal_observation"]["picture"].shape == (2, 36, 36)


def test_returned_arrays_are_fresh_even_over_a_reused_buffer():
    env = SyncVectorEnv([lambda: gym.make("CartPole-v1")] * 2, copy=False, autoreset_mode=SAME_STEP)
    venv = SB3VecEnv(env)
    kept = [venv.reset()]
    old = [kept[0].copy()]
    for action in actions_of(venv, 30):
        obs, rewards, dones, _ = venv.step(action)
        kept += [obs, rewards, dones]
        old += [obs.copy(), rewards.copy(), dones.copy()]
    assert all(same(a, b) for a, b in zip(kept, old, strict=True))


def test_shared_info_refuses_writes_and_can_be_turned_off():
    venv = SB3VecEnv(Counter())
    venv.reset()
    infos = venv.step(np.zeros(3))[3]
    for write in (lambda: infos[0].update(a=1), lambda: infos[0].setdefault("a", 1)):
        with pytest.raises(TypeError, match=r"shared and read-only: .*shared_infos=False"):
            write()
    with pytest.raises(TypeError, match="shared and read-only"):
        infos[0]["a"] = 1
    infos[1] = {"mine": 1}  # the list is the caller's
    assert venv.step(np.zeros(3))[3][1] == {}
    assert copy.deepcopy(infos[0]) == pickle.loads(pickle.dumps(infos[0])) == infos[0].copy() == {}  # noqa: S301

    venv = SB3VecEnv(Counter(), shared_infos=False)
    venv.reset()
    infos = venv.step(np.zeros(3))[3]
    infos[0]["a"] = 1
    assert infos == [{"a": 1}, {}, {}]


# What is refused


def test_next_step_autoreset_is_refused():
    for env in (sync("CartPole-v1", mode=NEXT_STEP), gym.make_vec("CartPole-v1", num_envs=2), Counter(NEXT_STEP)):
        with pytest.raises(ValueError, match=r"got <AutoresetMode.NEXT_STEP.*vectorization_mode=.sync.*SameStep"):
            SB3VecEnv(env)


def test_missing_autoreset_mode_is_refused(monkeypatch):
    env = Counter()
    env.metadata = {}
    with pytest.raises(ValueError, match=r"autoreset_mode.*got None"):
        SB3VecEnv(env)
    # ale-py writes into the dict of the class: an environment without metadata of its own must not inherit that
    monkeypatch.setitem(VectorEnv.metadata, "autoreset_mode", SAME_STEP)
    del env.metadata
    with pytest.raises(ValueError, match=r"autoreset_mode.*got None"):
        SB3VecEnv(env)


def test_what_is_no_vector_env_is_refused():
    with pytest.raises(TypeError, match=r"got .*TimeLimit.*: wrap one environment in .*DummyVecEnv"):
        SB3VecEnv(gym.make("CartPole-v1"))
    with pytest.raises(TypeError, match=r"got DummyVecEnv: it is a VecEnv of SB3 already"):
        SB3VecEnv(DummyVecEnv([lambda: gym.make("CartPole-v1")]))
    with pytest.raises(TypeError, match=r"got str: make it with gym.make_vec"):
        SB3VecEnv("CartPole-v1")


def test_tensors_are_refused():
    env = Counter()
    env.observe = lambda value: torch.zeros(3, 2)
    with pytest.raises(TypeError, match=r"must return numpy arrays, .*type Tensor: .*ArrayConversion"):
        SB3VecEnv(env).reset()


@pytest.mark.parametrize("amiss", [lambda info: info.pop("final_obs"), lambda info: info["_final_obs"].fill(False)])
def test_missing_final_obs_is_reported(amiss):
    class Broken(VectorWrapper):
        def step(self, actions):
            *returned, info = self.env.step(actions)
            if "final_obs" in info:
                amiss(info)
            return *returned, info

    venv = SB3VecEnv(Broken(Counter()))
    venv.reset()
    venv.step(np.zeros(3))
    with pytest.raises(ValueError, match=r"rows \[0\] without info.*check_vector_env"):
        venv.step(np.zeros(3))


# Attributes, rendering


def test_attributes_of_a_native_vector_env():
    env = Counter()
    venv = SB3VecEnv(VectorWrapper(env))
    assert venv.get_attr("gravity") == [9.8] * 3
    assert venv.get_attr("gravity", indices=1) == [9.8]
    venv.set_attr("gravity", 1.6)
    assert env.gravity == 1.6
    venv.set_attr("unheard_of", 3)
    assert env.unheard_of == 3
    assert venv.has_attr("gravity")
    assert not venv.has_attr("levity")
    with pytest.raises(ValueError, match=r"attribute 'gravity' belongs to all rows .*indices=\[0\]: leave indices out"):
        venv.set_attr("gravity", 0.0, indices=0)
    assert same(np.stack(venv.env_method("action_masks")), env.action_masks())
    assert venv.env_method("__repr__", indices=[0, 2]) == [repr(venv.vector_env)] * 2
    assert venv.env_is_wrapped(gym.wrappers.TimeLimit) == [False] * 3
    assert venv.env_is_wrapped(Monitor, indices=[0]) == [True]
    assert venv.unwrapped is venv
    venv.close()
    assert env.closed_with == {}


def test_attributes_of_sub_environments():
    venv = SB3VecEnv(sync("Pendulum-v1"))
    assert venv.get_attr("g") == [10.0] * 3
    venv.set_attr("g", 3.0, indices=[1])
    assert venv.get_attr("g") == [10.0, 3.0, 10.0]
    venv.set_attr("g", [1, 2, 3])  # one value, which happens to be a list
    assert venv.get_attr("g", indices=2) == [[1, 2, 3]]
    assert callable(venv.get_attr("reset")[0])
    assert len(venv.env_method("get_wrapper_attr", "g", indices=[0, 1])) == 2
    assert venv.env_is_wrapped(gym.wrappers.TimeLimit) == [True] * 3


def test_async_vector_env():
    env = AsyncVectorEnv([lambda: gym.make("CartPole-v1")] * 2, autoreset_mode=SAME_STEP)
    venv = SB3VecEnv(env)
    try:
        assert not venv.has_attr("levity")
        with pytest.raises(AttributeError, match="levity"):
            venv.get_attr("levity")
        venv.set_attr("gravity", 1.6, indices=0)
        assert venv.get_attr("gravity") == [1.6, 9.8]
        assert venv.env_method("has_wrapper_attr", "gravity") == [True, True]
        with pytest.raises(ValueError, match="in every worker"):
            venv.env_method("render", indices=0)
        venv.seed(0)
        venv.reset()
        infos = [info for action in actions_of(venv, 60) for info in venv.step(action)[3] if info]
        assert infos
        assert all(info["terminal_observation"].shape == (4,) for info in infos)
    finally:
        venv.close()


def test_rendering():
    venv = SB3VecEnv(Counter(render_mode="rgb_array"))
    venv.reset()
    assert venv.render_mode == "rgb_array"
    assert venv.metadata["render_fps"] == 7
    assert [picture.mean() for picture in venv.get_images()] == [0, 1, 2]
    assert venv.render().shape == (8, 8, 3)  # 2 x 2 tiles
    assert SB3VecEnv(Counter()).get_images() == [None] * 3


# Algorithms

ON_POLICY = {"n_steps": 16, "device": "cpu", "seed": 0}
OFF_POLICY = {"learning_starts": 20, "train_freq": 4, "batch_size": 8, "buffer_size": 200, "device": "cpu", "seed": 0}


@pytest.mark.parametrize(
    ("algorithm", "env_id", "arguments"),
    [
        (PPO, "CartPole-v1", ON_POLICY | {"batch_size": 24, "n_epochs": 1}),
        (A2C, "Pendulum-v1", ON_POLICY),
        (TRPO, "CartPole-v1", ON_POLICY | {"batch_size": 24}),
        (SAC, "Pendulum-v1", OFF_POLICY),
        (TD3, "Pendulum-v1", OFF_POLICY),
        (DQN, "CartPole-v1", OFF_POLICY),
    ],
)
def test_algorithms_learn(algorithm, env_id, arguments):
    model = algorithm("MlpPolicy", SB3VecEnv(sync(env_id, max_episode_steps=8)), **arguments)
    before = copy.deepcopy(model.policy.state_dict())
    model.learn(120)
    assert any(not torch.equal(before[key], value) for key, value in model.policy.state_dict().items())
    assert {episode["l"] for episode in model.ep_info_buffer} <= set(range(1, 9))
    assert len(model.ep_info_buffer) >= 12


def test_recurrent_ppo_learns():
    venv = SB3VecEnv(sync("CartPole-v1", max_episode_steps=8))
    RecurrentPPO("MlpLstmPolicy", venv, n_steps=8, batch_size=12, n_epochs=1, device="cpu").learn(48)


def test_maskable_ppo_asks_a_native_env_for_masks():
    model = MaskablePPO("MlpPolicy", SB3VecEnv(Counter()), n_steps=8, batch_size=12, n_epochs=1, device="cpu", seed=0)
    model.learn(48)
    assert set(model.rollout_buffer.actions.reshape(-1)) <= {0.0, 1.0}


@pytest.mark.parametrize(("space", "policy"), [(IMAGE, "CnnPolicy"), (DICT, "MultiInputPolicy")])
def test_ppo_learns_from_images_and_dicts(space, policy):
    model = PPO(policy, SB3VecEnv(Canned(space)), n_steps=8, batch_size=12, n_epochs=1, device="cpu")
    model.learn(24)
    assert isinstance(model.get_env(), VecTransposeImage) == (space is IMAGE)


def test_truncation_reaches_the_replay_buffer():
    venv = SB3VecEnv(sync("Pendulum-v1", max_episode_steps=5))
    model = SAC("MlpPolicy", venv, **OFF_POLICY)
    model.learn(60)
    ends = model.replay_buffer.dones[: model.replay_buffer.pos]
    assert ends.sum() == 3 * (model.replay_buffer.pos // 5)
    assert same(model.replay_buffer.timeouts[: model.replay_buffer.pos], ends)


def test_atari_vector_env(monkeypatch):
    monkeypatch.setattr(VectorEnv, "metadata", dict(VectorEnv.metadata))  # which ale-py writes into
    size = {"img_height": 40, "img_width": 40, "max_num_frames_per_episode": 40, "repeat_action_probability": 0.0}
    env = gym.make_vec("ALE/Pong-v5", num_envs=2, autoreset_mode="SameStep", **size)
    gym.make_vec("ALE/Pong-v5", num_envs=1, autoreset_mode="NextStep", **size)  # changes env.metadata too
    assert env.metadata["autoreset_mode"] is NEXT_STEP
    model = PPO("CnnPolicy", SB3VecEnv(env), n_steps=12, batch_size=12, n_epochs=1, device="cpu", seed=0)
    model.learn(24)
    assert [episode["l"] for episode in model.ep_info_buffer] == [10, 10]
    venv = SB3VecEnv(env)
    venv.reset()
    for _ in range(10):
        obs, rewards, dones, infos = venv.step(np.zeros(2))
    assert dones.all()
    assert rewards.dtype == np.float32
    assert infos[0]["terminal_observation"].shape == obs[0].shape == (4, 40, 40)
    assert infos[0]["terminal_observation"].dtype == np.uint8
    assert infos[0]["TimeLimit.truncated"] is True
    assert set(venv.step_info) == {"env_id", "lives", "frame_number", "episode_frame_number"}


@pytest.mark.filterwarnings("error:Evaluation environment is not wrapped")
def test_evaluate_policy_equals_dummy_vec_env():
    ours, theirs = SB3VecEnv(sync("CartPole-v1")), DummyVecEnv([lambda: Monitor(gym.make("CartPole-v1"))] * 3)
    model = PPO("MlpPolicy", ours, device="cpu", seed=0)
    results = []
    for venv in (ours, theirs, VecNormalize(ours, training=False)):
        venv.seed(4)
        results.append(evaluate_policy(model, venv, n_eval_episodes=7, return_episode_rewards=True))
    assert results[0] == results[1]
    assert sum(results[2][0]) == sum(results[2][1])  # raw rewards of 1 a step, not normalised ones


def test_episode_of_a_monitor_below_stands():
    """An episodic-life wrapper above a Monitor ends more episodes than there are: only the Monitor's count."""

    class Halves(gym.Wrapper):
        def step(self, action):
            obs, reward, terminated, truncated, info = self.env.step(action)
            self.t += 1
            return obs, reward, terminated or self.t % 4 == 0, truncated, info

        def reset(self, **kwargs):
            self.t = getattr(self, "t", 0)
            return self.env.reset(**kwargs) if self.t % 8 == 0 else (self.env.unwrapped.observe(), {})

    class Eight(gym.Env):
        observation_space, action_space = gym.spaces.Box(0, 9, (1,)), gym.spaces.Discrete(2)

        def observe(self):
            return np.float32([self.t])

        def reset(self, *, seed=None, options=None):
            self.t = 0
            return self.observe(), {}

        def step(self, action):
            self.t += 1
            return self.observe(), 1.0, self.t == 8, False, {}

    venv = SB3VecEnv(SyncVectorEnv([lambda: Halves(Monitor(Eight()))], autoreset_mode=SAME_STEP))
    venv.reset()
    infos = [venv.step(np.zeros(1))[3][0] for _ in range(16)]
    assert [index for index, info in enumerate(infos) if info] == [3, 7, 11, 15]
    assert [info["episode"]["l"] for info in infos if "episode" in info] == [8, 8]


# Bootstrapping


def trained(algorithm, policy, make, bootstrap, **arguments):
    """The algorithm after two rollouts, the number of values asked for one by one, and the true episode returns."""
    venv = make()
    model = algorithm(policy, venv, device="cpu", seed=0, n_steps=12, gamma=0.9, **arguments)
    sizes = []
    inner = model.policy.predict_values

    def counted(obs, *rest):
        sizes.append(len(next(iter(obs.values())) if isinstance(obs, dict) else obs))
        return inner(obs, *rest)

    if bootstrap:
        model.get_env().unwrapped.bootstrap_with(model)
    model.policy.predict_values = counted
    model.learn(2 * 12 * venv.num_envs)
    return model, sizes.count(1), [(episode["r"], episode["l"]) for episode in model.ep_info_buffer]


SMALL = {"n_epochs": 2, "batch_size": 16}
BOOTSTRAPPED = {
    "sync ppo": (PPO, "MlpPolicy", lambda: SB3VecEnv(sync("Pendulum-v1", 4, max_episode_steps=5)), SMALL),
    "sync disabled": (
        PPO,
        "MlpPolicy",
        lambda: SB3VecEnv(sync("Pendulum-v1", 4, DISABLED, max_episode_steps=5)),
        SMALL,
    ),
    "a2c": (A2C, "MlpPolicy", lambda: SB3VecEnv(Canned(VECTOR, 4)), {}),
    "trpo": (TRPO, "MlpPolicy", lambda: SB3VecEnv(Canned(VECTOR, 4)), {"batch_size": 16}),
    "maskable": (MaskablePPO, "MlpPolicy", lambda: SB3VecEnv(Canned(VECTOR, 4)), SMALL),
    "image": (PPO, "CnnPolicy", lambda: SB3VecEnv(Canned(IMAGE, 4)), SMALL),
    "dict": (PPO, "MultiInputPolicy", lambda: SB3VecEnv(Canned(DICT, 4, objects=True)), SMALL),
    "discrete": (PPO, "MlpPolicy", lambda: SB3VecEnv(Canned(gym.spaces.Discrete(5), 4)), SMALL),
    "normalized": (PPO, "MlpPolicy", lambda: VecNormalize(SB3VecEnv(Canned(VECTOR, 4)), norm_reward=False), SMALL),
    "normalized dict": (
        PPO,
        "MultiInputPolicy",
        lambda: VecNormalize(SB3VecEnv(Canned(DICT, 4)), norm_reward=False, norm_obs_keys=["place"]),
        SMALL,
    ),
    "normalized image": (
        PPO,
        "MlpPolicy",
        lambda: VecNormalize(VecTransposeImage(SB3VecEnv(Canned(IMAGE, 4))), norm_reward=False),
        SMALL,
    ),
    "frozen statistics": (
        PPO,
        "MlpPolicy",
        lambda: VecNormalize(VecCheckNan(SB3VecEnv(Canned(VECTOR, 4))), training=False, norm_reward=False),
        SMALL,
    ),
}


@pytest.mark.parametrize("name", BOOTSTRAPPED)
def test_bootstrapping_equals_sb3s_own_loop(name):
    algorithm, policy, make, arguments = BOOTSTRAPPED[name]
    expected, one_by_one, episodes = trained(algorithm, policy, make, False, **arguments)
    got, left_over, same_episodes = trained(algorithm, policy, make, True, **arguments)
    assert one_by_one >= 10
    assert left_over == 0 if "sync" in name else left_over < one_by_one  # a step may cut off one row alone
    assert same_episodes == episodes
    np.testing.assert_allclose(got.rollout_buffer.rewards, expected.rollout_buffer.rewards, atol=1e-5)
    np.testing.assert_allclose(got.rollout_buffer.returns, expected.rollout_buffer.returns, atol=1e-5)
    for key, value in expected.policy.state_dict().items():
        torch.testing.assert_close(got.policy.state_dict()[key], value, atol=1e-5, rtol=1e-4)


def test_bootstrapping_adds_gamma_times_value_to_truncated_rows_only():
    env = Counter()
    venv = SB3VecEnv(env)
    model = PPO("MlpPolicy", venv, n_steps=4, batch_size=12, device="cpu")
    model.policy.predict_values = lambda obs: 1000 + obs[:, 1:]
    venv.bootstrap_with(model)

    def rewards_of_four_steps():
        venv.reset()
        return np.stack([venv.step(np.zeros(3))[1] for _ in range(4)])

    raw = np.float32([[1, 11, 21], [2, 12, 22], [1, 13, 23], [2, 11, 24]])
    extra = np.zeros((4, 3))
    extra[2, 1] = 1003
    np.testing.assert_allclose(rewards_of_four_steps(), raw + 0.99 * extra, rtol=1e-6)
    model.gamma = 0.5  # read at each use
    np.testing.assert_allclose(rewards_of_four_steps(), raw + 0.5 * extra, rtol=1e-6)
    infos = [venv.step(np.zeros(3))[3] for _ in range(5)]
    assert not any(info.get("TimeLimit.truncated", False) for step in infos for info in step)
    venv.bootstrap_with(None)
    np.testing.assert_allclose(rewards_of_four_steps(), raw)


def test_bootstrapping_is_refused_where_it_would_be_wrong():
    venv = SB3VecEnv(Canned(VECTOR))
    with pytest.raises(TypeError, match=r"on-policy algorithm .*got DQN: off-policy algorithms bootstrap in their own"):
        venv.bootstrap_with(DQN("MlpPolicy", venv, buffer_size=10, device="cpu"))
    with pytest.raises(TypeError, match=r"critic that needs the observation only, that of RecurrentPPO .*lstm_states"):
        venv.bootstrap_with(RecurrentPPO("MlpLstmPolicy", venv, device="cpu"))
    with pytest.raises(ValueError, match=r"must be built on this SB3VecEnv.*bootstrap_with\(None\)"):
        venv.bootstrap_with(A2C("MlpPolicy", SB3VecEnv(Canned(VECTOR)), device="cpu"))
    with pytest.raises(ValueError, match=r"norm_reward=False, got True"):
        venv.bootstrap_with(A2C("MlpPolicy", VecNormalize(venv), device="cpu"))
    with pytest.raises(ValueError, match=r"VecFrameStack lies between this environment and the algorithm"):
        venv.bootstrap_with(A2C("MlpPolicy", VecFrameStack(venv, 2), device="cpu"))
    with (
        pytest.warns(UserWarning, match="already wrapped"),
        pytest.raises(ValueError, match=r"VecMonitor lies between .*statistics without VecMonitor"),
    ):
        venv.bootstrap_with(A2C("MlpPolicy", VecMonitor(venv), device="cpu"))


def test_bootstrapping_notices_a_changed_environment():
    venv = SB3VecEnv(Canned(VECTOR))
    normalized = VecNormalize(venv, norm_reward=False)
    model = A2C("MlpPolicy", normalized, device="cpu")
    venv.bootstrap_with(model)
    normalized.norm_reward = True
    with pytest.raises(ValueError, match="norm_reward=False, got True"):
        model.learn(30)
