import warnings

import ale_py  # noqa: F401  (registers ALE/...)
import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from mbrl_gym.envs.checker import check_vector_env

SAME_STEP, NEXT_STEP, DISABLED = AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED
LIMIT = 7


class Walk(VectorEnv):
    """A correct native environment: a noisy walk from a random place; leaves at |x| > 1, is cut off after 7 steps."""

    metadata = {"autoreset_mode": SAME_STEP}  # noqa: RUF012

    def __init__(self, num_envs=3, mode=SAME_STEP):
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": mode}
        self.single_observation_space = gym.spaces.Box(-2.0, 10.0, (2,), np.float32)  # place, steps
        self.single_action_space = gym.spaces.Discrete(2)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    @property
    def mode(self):
        return self.metadata["autoreset_mode"]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        rows = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        if seed is not None or not hasattr(self, "state"):
            self.state = np.zeros((self.num_envs, 2), np.float32)
        self.restart(rows)
        self.ended = np.zeros(self.num_envs, bool)
        return self.observe(), {}

    def restart(self, rows):
        self.state[rows] = 0.0
        self.state[rows, 0] = self.np_random.uniform(-0.5, 0.5, rows.sum())

    def observe(self):
        return self.state.copy()

    def move(self, actions):
        noise = self.np_random.normal(size=self.num_envs)
        self.state[:, 0] += np.where(actions == 1, 0.3, -0.3) + np.clip(0.1 * noise, -0.3, 0.3)
        self.state[:, 1] += 1

    def step(self, actions):
        restarting = self.ended & (self.mode is NEXT_STEP)
        self.move(actions)
        reward = self.state[:, 0].astype(np.float64)
        terminated, truncated = np.abs(self.state[:, 0]) > 1.0, self.state[:, 1] >= LIMIT
        self.restart(restarting)
        reward[restarting], terminated[restarting], truncated[restarting] = 0.0, False, False
        self.ended = terminated | truncated
        info = {"doubt": np.ones(self.num_envs), "_doubt": np.ones(self.num_envs, bool)}
        if self.mode is SAME_STEP and self.ended.any():
            info |= {"final_obs": self.observe(), "_final_obs": self.ended.copy()}
            self.restart(self.ended)
        return self.observe(), reward, terminated, truncated, info


class Changed(Walk):
    """Walk whose step results go through `change(env, obs, reward, terminated, truncated, info)`."""

    def __init__(self, change, mode=SAME_STEP):
        super().__init__(mode=mode)
        self.change = change

    def step(self, actions):
        returned = list(super().step(actions))
        changed = self.change(self, *returned)
        for index, value in (changed or {}).items():
            returned[index] = value
        return tuple(returned)


def sync(env_id, num_envs=3, mode=SAME_STEP, **kwargs):
    return SyncVectorEnv([lambda: gym.make(env_id)] * num_envs, autoreset_mode=mode, **kwargs)


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_correct_environments_pass(mode, num_envs):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_vector_env(Walk(num_envs, mode), steps=60)
        check_vector_env(sync("CartPole-v1", num_envs, mode), steps=60)
        check_vector_env(sync("Pendulum-v1", num_envs, mode), steps=210)


def test_native_cartpole_passes():
    check_vector_env(gym.make_vec("CartPole-v1", num_envs=3, vectorization_mode="vector_entry_point"))


def test_integer_and_dict_observations_pass():
    check_vector_env(sync("Blackjack-v1"), steps=30)  # tuples

    class AsDict(gym.ObservationWrapper):
        def __init__(self, env):
            super().__init__(env)
            self.observation_space = gym.spaces.Dict(state=env.observation_space, parity=gym.spaces.Discrete(2))

        def observation(self, observation):
            return {"state": observation, "parity": int(observation[0] > 0)}

    env = SyncVectorEnv([lambda: AsDict(gym.make("CartPole-v1"))] * 2, autoreset_mode=SAME_STEP)
    check_vector_env(env, steps=60)


def pong(mode=SAME_STEP):
    return gym.make_vec(
        "ALE/Pong-v5", num_envs=2, autoreset_mode=mode, img_height=20, img_width=20, max_num_frames_per_episode=40
    )


class Repaired(VectorWrapper):
    """What ale-py 0.12.1's AtariVectorEnv lacks: metadata of its own, floating rewards, the `_final_obs` mask."""

    def __init__(self, env, floating=True, masked=True):
        super().__init__(env)
        self.metadata = {"autoreset_mode": env.unwrapped.autoreset_mode}
        self.floating, self.masked = floating, masked

    def step(self, actions):
        obs, reward, terminated, truncated, info = self.env.step(actions)
        if self.masked and "final_obs" in info:
            info["_final_obs"] = terminated | truncated
        return obs, reward.astype(np.float32) if self.floating else reward, terminated, truncated, info


@pytest.fixture
def clean_class_metadata():
    """Ale-py writes its mode into VectorEnv.metadata."""
    before = dict(VectorEnv.metadata)
    yield
    VectorEnv.metadata.clear()
    VectorEnv.metadata.update(before)


@pytest.mark.usefixtures("clean_class_metadata")
def test_atari_breaks_three_rules_and_passes_once_repaired():
    """If this fails, ale-py has improved: drop the repairs."""
    with pytest.raises(AssertionError, match="dict of the environment's own"):
        check_vector_env(pong(), steps=15)
    with pytest.raises(AssertionError, match=r"reward must be a floating-point array.*got int32"):
        check_vector_env(Repaired(pong(), floating=False), steps=15)
    with pytest.raises(AssertionError, match=r'info\["_final_obs"\] must equal.*no such key'):
        check_vector_env(Repaired(pong(), masked=False), steps=15)
    for mode in (SAME_STEP, NEXT_STEP):  # its first frame is the same after any number of no-ops
        with pytest.warns(UserWarning, match="same observations for seeds"):
            check_vector_env(Repaired(pong(mode)), steps=15)


# Mutants: each breaks one rule.


class MissingMetadata(Walk):
    def __init__(self):
        super().__init__()
        self.metadata = {}


class TextualMetadata(Walk):
    def __init__(self):
        super().__init__()
        self.metadata = {"autoreset_mode": "SameStep"}


class TwoModes(Walk):
    autoreset_mode = NEXT_STEP


class UnbatchedSpace(Walk):
    def __init__(self):
        super().__init__()
        self.observation_space = self.single_observation_space


class SharedBuffer(Walk):
    buffer = np.zeros((3, 2), np.float32)

    def observe(self):
        self.buffer[:] = self.state
        return self.buffer


class DoubleBuffer(Walk):
    turn = 0

    def observe(self):
        self.buffers = getattr(self, "buffers", [np.zeros((3, 2), np.float32) for _ in range(2)])
        self.turn = 1 - self.turn
        self.buffers[self.turn][:] = self.state
        return self.buffers[self.turn]


class ExposedState(Walk):
    """Returned arrays are fresh, but the next step reads them."""

    def observe(self):
        self.state = self.state.copy()
        return self.state


class GlobalRandomness(Walk):
    def move(self, actions):
        super().move(actions)
        self.state[:, 0] += np.random.uniform(-0.01, 0.01, self.num_envs)


class OutlivingState(Walk):
    """The drift goes on through resets: only later steps differ."""

    drift = 0.0

    def move(self, actions):
        super().move(actions)
        self.drift += 1e-4
        self.state[:, 0] += self.drift


class ReturnsFour(Walk):
    def step(self, actions):
        return super().step(actions)[:4]


class ResetsAllRows(Walk):
    def __init__(self):
        super().__init__(mode=DISABLED)

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)


class MovesWhileRestarting(Walk):
    def __init__(self):
        super().__init__(mode=NEXT_STEP)

    def step(self, actions):
        late = self.ended.copy()
        _, *rest = super().step(actions)
        self.state[late, 0] += 0.1 * actions[late]
        return self.observe(), *rest


def without(key):
    def change(env, obs, reward, terminated, truncated, info):
        info.pop(key, None)

    return change


def reused_flags(env, obs, reward, terminated, truncated, info):
    env.flags = getattr(env, "flags", np.zeros(3, bool))
    env.flags[:] = truncated
    return {3: env.flags}


def final_obs_of_next_episode(env, obs, reward, terminated, truncated, info):
    if "final_obs" in info:
        info["final_obs"] = obs.copy()


def far_final_obs(env, obs, reward, terminated, truncated, info):
    if "final_obs" in info:
        info["final_obs"][:, 0] = 55.0


def all_masked(env, obs, reward, terminated, truncated, info):
    if "final_obs" in info:
        info["_final_obs"][:] = True


def rewarded_restart(env, obs, reward, terminated, truncated, info):
    return {1: reward + 1.0}


def endless_restart(env, obs, reward, terminated, truncated, info):
    env.was, was = env.ended.copy(), getattr(env, "was", np.zeros(3, bool))
    return {3: truncated | was}


def changed(index, value):
    return Changed(lambda env, *returned: {index: value(returned[index])})


MUTANTS = [
    (MissingMetadata, "autoreset_mode.*must be a member.*got None.*Remedy"),
    (TextualMetadata, "autoreset_mode.*must be a member.*got 'SameStep'"),
    (TwoModes, "must equal env.unwrapped.autoreset_mode.*SAME_STEP and .*NEXT_STEP"),
    (UnbatchedSpace, "observation_space must be batch_space"),
    (SharedBuffer, "must not be reused: reset: obs must stay as it was returned; got other contents after step 1"),
    (DoubleBuffer, "must not be reused: .*obs"),
    (ExposedState, "must not be reused: .*obs"),
    (GlobalRandomness, "same seed and actions must give bit-equal results: .*obs.* of step 1 "),
    (OutlivingState, "same seed and actions must give bit-equal results"),
    (ReturnsFour, r"step 1 must return a tuple \(obs, reward, terminated, truncated, info\); got tuple of length 4"),
    (ResetsAllRows, r"DISABLED: reset.*must leave rows outside the mask alone \(row 1\)"),
    (MovesWhileRestarting, "NEXT_STEP: .*must ignore the action.*obs of step"),
    (lambda: Changed(without("final_obs")), r'SAME_STEP: info\["final_obs"\] must hold.*rows \['),
    (lambda: Changed(without("_final_obs")), r'info\["_final_obs"\] must equal.*no such key'),
    (lambda: Changed(all_masked), r'info\["_final_obs"\] must equal terminated \| truncated'),
    (lambda: Changed(far_final_obs), r"final_obs.*must lie in Box.*from .* to 55.0"),
    (lambda: Changed(reused_flags), "must not be reused: .*truncated"),
    (lambda: Changed(rewarded_restart, NEXT_STEP), "NEXT_STEP: reward of rows that are being reset must be 0.0"),
    (lambda: Changed(endless_restart, NEXT_STEP), "NEXT_STEP: truncated of rows that are being reset must be False"),
    (lambda: changed(0, lambda obs: obs.astype(np.float64)), "step 1: obs must have dtype and shape .*got obs float64"),
    (lambda: changed(0, lambda obs: obs[:2]), r"obs must have dtype and shape .*got obs float32 \(2, 2\)"),
    (lambda: changed(0, lambda obs: obs - np.float32([[0], [5], [0]])), "row 1 of obs is outside Box.*Remedy"),
    (lambda: changed(0, lambda obs: obs * np.float32(np.nan)), "row 0 of obs is outside Box"),
    (lambda: changed(1, lambda reward: reward.astype(np.int64)), "reward must be a floating-point array.*got int64"),
    (lambda: changed(1, lambda reward: reward[:, None]), r"reward must be .*shape \(3,\); got float64 \(3, 1\)"),
    (lambda: changed(1, lambda reward: reward / 0.0), "reward must be finite"),
    (lambda: changed(2, lambda flags: flags.astype(int)), "terminated must be a bool array.*got int64"),
    (lambda: changed(3, list), "truncated must be a bool array.*got list"),
    (lambda: changed(4, lambda info: [info]), "info must be a dict; got list"),
    (lambda: changed(4, lambda info: info | {"a": np.ones(2)}), r"info\['a'\] must be an array of length num_envs = 3"),
    (lambda: changed(4, lambda info: info | {"a": 1.0}), r"info\['a'\] must be an array.*got float 1.0"),
    (lambda: changed(4, lambda info: info | {"d": {"a": [0]}}), r"info\['d'\]\['a'\] must be an array of length"),
    (lambda: changed(4, lambda info: info | {"_doubt": np.ones(3)}), "mask of 'doubt', must be a bool array"),
    (lambda: sync("CartPole-v1", copy=False), "must not be reused: reset: obs"),
]


@pytest.mark.filterwarnings("ignore:invalid value", "ignore:divide by zero")
@pytest.mark.parametrize(("make", "message"), MUTANTS)
def test_mutants_are_caught(make, message):
    with pytest.raises(AssertionError, match=message):
        check_vector_env(make(), steps=40)


def test_overwriting_is_told_from_reuse():
    """The state is handed out once and then replaced, so no returned array changes; the next step reads it, though."""

    class Remembers(Walk):
        def step(self, actions):
            if hasattr(self, "handed_out"):
                self.state = self.handed_out.copy()
            obs, *rest = super().step(actions)
            self.handed_out = obs
            return obs, *rest

        def reset(self, **kwargs):
            self.__dict__.pop("handed_out", None)
            return super().reset(**kwargs)

    with pytest.raises(AssertionError, match=r"overwriting returned arrays must not change what follows.*obs"):
        check_vector_env(Remembers(), steps=40)


def test_warnings_of_what_was_not_checked():
    with pytest.warns(UserWarning, match="no episode of .* ended in 5 steps"):
        check_vector_env(sync("Pendulum-v1"), steps=5)
    with pytest.warns(UserWarning, match="same observations for seeds 0 and 10000"):
        check_vector_env(sync("FrozenLake-v1"), steps=60)
    with pytest.warns(UserWarning, match="is it taken before the reset"):
        check_vector_env(Changed(final_obs_of_next_episode), steps=40)


def test_unusable_arguments_are_refused():
    with pytest.raises(TypeError, match=r"must be a gymnasium.vector.VectorEnv, got .*check_env"):
        check_vector_env(gym.make("CartPole-v1"))
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        check_vector_env(Walk(), steps=0)
