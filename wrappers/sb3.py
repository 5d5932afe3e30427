"""`SB3VecEnv`: any Gymnasium vector environment as a Stable-Baselines3 `VecEnv`, all rows of a step in one call."""

import time
from typing import Any, NamedTuple, NoReturn

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from mbrl_gym.wrappers._rows import at, copied, info_row, is_mask, replaced, take
from mbrl_gym.wrappers.sb3_bootstrap import check_critic, discounted_values, wrappers_up_to

_SAME_STEP_REMEDY = (
    'make it with gym.make_vec(id, num_envs=n, vectorization_mode="sync", '
    'vector_kwargs={"autoreset_mode": gymnasium.vector.AutoresetMode.SAME_STEP}), '
    'or, where the id has a vector environment of its own, gym.make_vec(id, num_envs=n, autoreset_mode="SameStep")'
)


class SB3VecEnv(VecEnv):
    """A Stable-Baselines3 `VecEnv` over a Gymnasium `VectorEnv`, for every algorithm of SB3 and sb3-contrib.

    `DummyVecEnv` steps n Python environments one by one; this hands all n actions to the vector environment at once
    and builds an info dict only for rows whose episode ends. Like SB3's `Monitor` it keeps each row's return and
    length (`info["episode"]`), so `ep_rew_mean` and `evaluate_policy` are right without a `VecMonitor`. Where the
    vector environment's own `final_info` brings an `"episode"` (sub-environments under a `Monitor`), that one stands.

    Args:
        vector_env: the environment to adapt; autoreset SAME_STEP or DISABLED.
        shared_infos: rows whose episode goes on share one read-only empty info dict. Set False for an outer wrapper
            that writes into the info of every row: n dicts are then made at each step (about 30 us at n = 1024).

    Attributes:
        vector_env: the adapted environment.
        reward_scale: what every reward is multiplied by before the algorithm sees it; episode statistics stay raw.

    Raises:
        TypeError: `vector_env` is not a `gymnasium.vector.VectorEnv`.
        ValueError: its autoreset mode is NEXT_STEP or not declared.

    Example:
        >>> import gymnasium as gym
        >>> from stable_baselines3 import PPO
        >>> venv = SB3VecEnv(gym.make_vec("Learned-Pendulum-v0", num_envs=1024))  # doctest: +SKIP
        >>> PPO("MlpPolicy", venv).learn(100_000)  # doctest: +SKIP
    """

    def __init__(self, vector_env: VectorEnv[Any, Any, Any], *, shared_infos: bool = True) -> None:
        self._mode = _supported_mode(vector_env)
        self.vector_env = vector_env  # before super().__init__, which asks for render_mode
        super().__init__(vector_env.num_envs, vector_env.single_observation_space, vector_env.single_action_space)
        self.metadata = {**self.metadata, **vector_env.metadata}
        self.spec = vector_env.spec
        base = vector_env.unwrapped
        self._sub_envs: list[gym.Env[Any, Any]] = list(base.envs) if isinstance(base, SyncVectorEnv) else []
        # A Monitor below knows the real episodes (an episodic-life wrapper above it ends more of them): add none.
        self._monitored = bool(self._sub_envs) and all(is_wrapped(env, Monitor) for env in self._sub_envs)
        self._shared_infos = shared_infos
        self.reward_scale = 1.0
        self._returns: NDArray[np.float64] = np.zeros(self.num_envs)
        self._lengths: NDArray[np.int64] = np.zeros(self.num_envs, dtype=np.int64)
        self._started = time.time()
        self._actions: Any = None
        self._info: dict[str, Any] = {}
        self._algorithm: OnPolicyAlgorithm | None = None

    # Stepping

    def reset(self) -> VecEnvObs:
        """Observations [n, *obs] of n new episodes; uses up what `seed` and `set_options` left."""
        obs, info = self.vector_env.reset(seed=self._seeds[0], options=self._options[0] or None)
        self._reset_seeds()
        self._reset_options()
        self._info = {}
        self._returns[:] = 0.0
        self._lengths[:] = 0
        self.reset_infos = [info_row(info, row) for row in range(self.num_envs)]
        observations: VecEnvObs = copied(obs, self.observation_space)
        return observations

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keeps the actions [n, *action] for `step_wait`, in the vector environment's dtype."""
        self._actions = np.asarray(actions, dtype=self.vector_env.action_space.dtype)

    def step_wait(self) -> VecEnvStepReturn:
        """(observations [n, *obs], rewards [n] float32, dones [n] bool, infos); every array is a fresh one."""
        obs, reward, terminated, truncated, info = self.vector_env.step(self._actions)
        dones = np.logical_or(terminated, truncated)
        rewards = np.array(reward, dtype=np.float32) * np.float32(self.reward_scale)
        self._info = info
        self._returns += reward
        self._lengths += 1
        infos = self._blank_infos()
        if not dones.any():
            return copied(obs, self.observation_space), rewards, dones, infos

        rows = np.flatnonzero(dones)
        end = self._end_episodes(copied(obs, self.observation_space), info, dones, rows)
        timeout = np.logical_and(truncated, np.logical_not(terminated))
        if self._algorithm is not None and timeout.any():
            cut_off = take(end.final_obs, np.flatnonzero(timeout[rows]))
            rewards[timeout] += discounted_values(self, self._algorithm, end.obs, cut_off)
            timeout = np.zeros_like(timeout)  # hidden, or SB3 adds the value a second time
        self._write_infos(infos, rows, end, timeout)
        self._returns[rows] = 0.0
        self._lengths[rows] = 0
        return end.obs, rewards, dones, infos

    @property
    def step_info(self) -> dict[str, NDArray[Any]]:
        """Per-row arrays [n, ...] that came with the last step, such as "uncertainty", without their `_key` masks.

        Row dicts of them would cost O(n) Python objects a step. In rows whose episode has just ended, a
        `LearnedVectorEnv` has the values of the step that ended it; other vector environments have those of the reset,
        by Gymnasium's rule for SAME_STEP, and the last step's are in that row's `infos[row]`.
        """
        return {
            key: value
            for key, value in self._info.items()
            if isinstance(value, np.ndarray) and not is_mask(key, self._info) and not key.startswith("final_")
        }

    def _blank_infos(self) -> list[dict[str, Any]]:
        if self._shared_infos:
            return [_SHARED_INFO] * self.num_envs
        return [{} for _ in range(self.num_envs)]

    def _end_episodes(
        self, obs: Any, info: dict[str, Any], dones: NDArray[np.bool_], rows: NDArray[np.intp]
    ) -> "_EpisodeEnd":
        """What the rows [k] with an ended episode leave behind, and the observations [n, *obs] to go on from."""
        if self._mode is AutoresetMode.DISABLED:
            final_obs = take(obs, rows)
            reset_obs, reset_info = self.vector_env.reset(options={"reset_mask": dones.copy()})
            return _EpisodeEnd(replaced(obs, rows, reset_obs), final_obs, info, reset_info)
        mask = info.get("_final_obs", dones)
        if "final_obs" not in info or not mask[rows].all():
            raise ValueError(
                f'vector_env ended the episodes of rows {rows.tolist()} without info["final_obs"] for all of them, '
                "which SAME_STEP autoreset demands: mbrl_gym.envs.checker.check_vector_env(env) tells more"
            )
        reset_info = {key: value for key, value in info.items() if not key.startswith(("final_", "_final_"))}
        return _EpisodeEnd(obs, take(info["final_obs"], rows), info.get("final_info", {}), reset_info)

    def _write_infos(
        self, infos: list[dict[str, Any]], rows: NDArray[np.intp], end: "_EpisodeEnd", timeout: NDArray[np.bool_]
    ) -> None:
        """Puts a fresh info dict in place for each row of rows [k]: SB3's wrappers write into these."""
        elapsed = round(time.time() - self._started, 6)
        for index, row in enumerate(rows.tolist()):
            info = info_row(end.final_info, row)
            if not self._monitored:
                total = round(float(self._returns[row]), 6)
                info.setdefault("episode", {"r": total, "l": int(self._lengths[row]), "t": elapsed})
            info["TimeLimit.truncated"] = bool(timeout[row])
            info["terminal_observation"] = at(end.final_obs, index)
            infos[row] = info
            self.reset_infos[row] = info_row(end.reset_info, row)

    # Bootstrapping

    def bootstrap_with(self, algorithm: BaseAlgorithm | None) -> None:
        """Adds gamma * V(final observation) to the reward of truncated rows, in one forward pass for all of them.

        SB3's on-policy algorithms do that row by row: with 1,024 rows, a free environment and horizon 15 (rollouts of
        PPO's MlpPolicy on one core) 175k steps/s, 475k with this. Results are the same. What else changes: rewards of
        truncated rows contain the value, `TimeLimit.truncated` reads False; `info["episode"]` holds raw returns.

        Args:
            algorithm: PPO, A2C, TRPO or MaskablePPO, built on this very environment; its policy and gamma are read at
                each use. None turns bootstrapping off.

        Raises:
            TypeError: the algorithm is not on-policy, or its critic needs more than the observation (RecurrentPPO).
            ValueError: it is not built on this environment, or a wrapper between them changes rewards or observations
                in a way that cannot be followed.
        """
        if algorithm is not None:
            check_critic(algorithm)
            wrappers_up_to(self, algorithm)
        self._algorithm = algorithm if isinstance(algorithm, OnPolicyAlgorithm) else None

    # Options, attributes, rendering

    def set_options(self, options: list[dict[str, Any]] | dict[str, Any] | None = None) -> None:
        """Options for the next `reset`: one dict, since a vector environment takes one for all rows."""
        if isinstance(options, list) and any(option != options[0] for option in options):
            raise ValueError(
                f"options must be equal for all rows of a vector environment, got {options}: pass one dict"
            )
        super().set_options(options)

    def has_attr(self, attr_name: str) -> bool:
        """Whether `get_attr(attr_name)` would find something."""
        base = self.vector_env.unwrapped
        if isinstance(base, AsyncVectorEnv):  # asking for what a worker lacks would end that worker
            return all(base.call("has_wrapper_attr", attr_name))
        return super().has_attr(attr_name)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Attributes of the sub-environments, or n times that of a vector environment that has none."""
        rows, base = self._rows(indices), self.vector_env.unwrapped
        if isinstance(base, SyncVectorEnv):  # not base.get_attr, which calls the attribute if it is a method
            return [base.envs[row].get_wrapper_attr(attr_name) for row in rows]
        if isinstance(base, AsyncVectorEnv):
            if not self.has_attr(attr_name):
                raise AttributeError(f"the sub-environments of {self.vector_env} have no attribute {attr_name!r}")
            values = base.get_attr(attr_name)
            return [values[row] for row in rows]
        return [getattr(self._owner(attr_name), attr_name)] * len(rows)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Sets an attribute of the sub-environments, or of the vector environment if it has none.

        Raises:
            ValueError: `indices` leaves out rows of a vector environment whose rows share the attribute.
        """
        rows, base = self._rows(indices), self.vector_env.unwrapped
        if isinstance(base, SyncVectorEnv | AsyncVectorEnv):
            partial = len(set(rows)) < self.num_envs
            values = self.get_attr(attr_name) if partial else [value] * self.num_envs
            for row in rows:
                values[row] = value
            base.set_attr(attr_name, values)
            return
        self._refuse_subset(rows, f"attribute {attr_name!r} belongs to all rows")
        owner = self._owner(attr_name) if self.has_attr(attr_name) else base
        setattr(owner, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Results of a method, a row each.

        A vector environment without sub-environments is called once. An array [n, ...] that it returns is split into
        rows (so a native `action_masks()` serves MaskablePPO); anything else is repeated.
        """
        rows, base = self._rows(indices), self.vector_env.unwrapped
        if isinstance(base, SyncVectorEnv):
            methods = [base.envs[row].get_wrapper_attr(method_name) for row in rows]
            return [method(*method_args, **method_kwargs) for method in methods]
        if isinstance(base, AsyncVectorEnv):
            self._refuse_subset(rows, f"AsyncVectorEnv calls {method_name!r} in every worker")
            results = base.call(method_name, *method_args, **method_kwargs)
            return [results[row] for row in rows]
        result = getattr(self._owner(method_name), method_name)(*method_args, **method_kwargs)
        if isinstance(result, np.ndarray) and result.shape[:1] == (self.num_envs,):
            return [result[row] for row in rows]
        return [result] * len(rows)

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Whether each row is wrapped; True for `Monitor`, whose `info["episode"]` this adapter provides."""
        rows = self._rows(indices)
        if wrapper_class is Monitor:
            return [True] * len(rows)
        return [bool(self._sub_envs) and is_wrapped(self._sub_envs[row], wrapper_class) for row in rows]

    def get_images(self) -> list[NDArray[Any] | None]:
        """A picture [height, width, 3] of each row; None where the environment draws none."""
        frames: Any = self.vector_env.render() if self.render_mode == "rgb_array" else None
        return [None] * self.num_envs if frames is None else list(frames)

    def close(self) -> None:
        """Closes the vector environment."""
        self.vector_env.close()

    def _rows(self, indices: VecEnvIndices) -> list[int]:
        return [int(index) for index in self._get_indices(indices)]

    def _refuse_subset(self, rows: list[int], rule: str) -> None:
        if len(set(rows)) < self.num_envs:
            raise ValueError(f"{rule} of {self.vector_env}, got indices={rows}: leave indices out")

    def _owner(self, name: str) -> VectorEnv[Any, Any, Any]:
        """The outermost vector environment or vector wrapper that has the attribute."""
        env: VectorEnv[Any, Any, Any] = self.vector_env
        while isinstance(env, VectorWrapper) and not hasattr(env, name):
            env = env.env
        return env


class _EpisodeEnd(NamedTuple):
    """The end of the episodes of k rows: new obs [n, *obs], final_obs [k, *obs], and the two infos, with n rows."""

    obs: Any
    final_obs: Any
    final_info: Any
    reset_info: dict[str, Any]


class _SharedInfo(dict[str, Any]):
    """The info of every row whose episode goes on: one object, so a write would show in all rows, later ones too."""

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(
            "the info dict of a row whose episode goes on is shared and read-only: put a new dict in the list "
            "(infos[i] = {**infos[i], ...}) or make the environment with SB3VecEnv(vector_env, shared_infos=False)"
        )

    __setitem__ = setdefault = update = __ior__ = _refuse


_SHARED_INFO = _SharedInfo()


def _supported_mode(env: Any) -> AutoresetMode:
    """The autoreset mode of a vector environment that the adapter can serve."""
    if not isinstance(env, VectorEnv):
        raise TypeError(f"vector_env must be a gymnasium.vector.VectorEnv, got {type(env).__name__}: {_remedy(env)}")
    mode = _declared_mode(env)
    if mode is AutoresetMode.SAME_STEP or mode is AutoresetMode.DISABLED:
        return mode
    raise ValueError(
        'vector_env.metadata["autoreset_mode"] must be AutoresetMode.SAME_STEP (or DISABLED), because SB3 reads the '
        f"first observation of the next episode from the step that ended one; got {mode!r}: {_SAME_STEP_REMEDY}"
    )


def _remedy(env: Any) -> str:
    if isinstance(env, VecEnv):
        return "it is a VecEnv of SB3 already, hand it to the algorithm"
    if isinstance(env, gym.Env):
        return f"wrap one environment in stable_baselines3's DummyVecEnv([lambda: env]), or {_SAME_STEP_REMEDY}"
    return _SAME_STEP_REMEDY


def _declared_mode(env: VectorEnv[Any, Any, Any]) -> Any:
    # ale-py 0.12.1 writes its mode into the metadata dict of the class VectorEnv itself: the last one made would speak
    # for all of them, and for every environment without metadata of its own. The instance's attribute is right.
    own = getattr(env.unwrapped, "autoreset_mode", None)
    if isinstance(own, AutoresetMode):
        return own
    return None if env.metadata is VectorEnv.metadata else env.metadata.get("autoreset_mode")
