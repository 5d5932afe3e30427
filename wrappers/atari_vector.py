"""`AtariVector`: ale-py's vector environment with its defaults stated and its contract kept. Imports ale-py."""

from typing import Any

import numpy as np
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from mbrl_gym.wrappers.atari import AtariSettings, Frames

_NO_LIMIT = 2**31 - 2  # frames; ale-py adds one to it in an int


class AtariVector(AtariVectorEnv):
    """ale-py's `AtariVectorEnv` with SAME_STEP autoreset. [n] rows, observations as `AtariSettings` has them.

    What ale-py 0.12.1 does otherwise:

    - It clips rewards, presses FIRE and resets at the next step unless told not to, and ``gym.make_vec`` hands on the
      spec's sticky actions of 0.25. Here every argument is stated.
    - At its time limit it stops before the last frames are read, so that the final observation, from which values are
      bootstrapped, is not the last one. Here the limit is counted outside and such rows are reset from here.
    - ``noop_max=n`` draws from 0 to n - 1. Here ``no_ops`` itself is among the numbers.
    - An action that does not exist ends a worker's step without a result, and ``step`` waits for it for ever; a seed of
      2**31 or more is refused without a word on why, a negative one ignored. Here all are errors.
    - Rewards are int32, ``info["final_obs"]`` has no mask and holds leftovers in other rows, and the autoreset mode is
      written into the metadata of the class ``VectorEnv``, for all environments to see.

    ``info["final_info"]["episode"]`` of rows whose episode ends is {"r": the score, unclipped, "l": steps}, which is
    what ``SB3VecEnv`` hands on.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012  (a dict of its own, as ale-py writes into it)

    def __init__(
        self, game: str, num_envs: int, settings: AtariSettings, *, seed: int | None = None, num_threads: int = 0
    ) -> None:
        super().__init__(
            game,
            num_envs,
            batch_size=0,  # all of them
            num_threads=num_threads,
            thread_affinity_offset=-1,
            max_num_frames_per_episode=_NO_LIMIT,
            repeat_action_probability=settings.sticky_probability,
            full_action_space=settings.full_action_space,
            continuous=False,
            continuous_action_threshold=0.5,  # unused
            autoreset_mode=AutoresetMode.SAME_STEP,
            img_height=settings.height,
            img_width=settings.width,
            grayscale=settings.grayscale,
            stack_num=settings.stack,
            frameskip=settings.frame_skip,
            maxpool=True,
            noop_max=settings.no_ops + 1,
            episodic_life=settings.life_loss_terminates,
            life_loss_info=False,
            reward_clipping=False,  # done here, so that the score is known
            use_fire_reset=settings.fire_reset,
        )
        self.settings = settings
        self.single_observation_space = settings.observation_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._first_seed = _seeds(seed, num_envs)
        self._steps: NDArray[np.int64] = np.zeros(num_envs, np.int64)
        self._scores: NDArray[np.float64] = np.zeros(num_envs)

    def reset(  # type: ignore[override]  # whose annotation in ale-py is a type variable of nothing
        self, *, seed: int | list[int] | NDArray[Any] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Frames, dict[str, Any]]:
        """Observations [n, *obs] and infos [n] of new episodes, in the rows of ``options["reset_mask"]`` if given.

        Raises:
            ValueError: a row's seed, ``seed + row`` or ``seed[row]``, does not lie in [0, 2**31).
        """
        seeds = self._first_seed if seed is None else _seeds(seed, self.num_envs)
        obs, info = super().reset(seed=seeds, options=options)
        self._first_seed = None
        rows = (options or {}).get("reset_mask", slice(None))
        self._steps[rows] = 0
        self._scores[rows] = 0.0
        return self.settings.arrange(obs), info

    def step(
        self, actions: Any
    ) -> tuple[Frames, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Observations [n, *obs], rewards [n] float64, terminated [n], truncated [n] and infos of one action a row.

        Raises:
            ValueError: ``actions`` are not [n] integers of the action space.
        """
        obs, reward, terminated, _, info = super().step(self._checked(actions))
        self._steps += 1
        self._scores += reward
        truncated = self._steps >= self.settings.max_episode_steps  # of a terminated row too, as TimeLimit has it
        if (terminated | truncated).any():
            self._end_episodes(obs, info, terminated, truncated)
        rewards = np.sign(reward) if self.settings.clip_rewards else reward
        return self.settings.arrange(obs), rewards.astype(np.float64), terminated, truncated, info

    def _end_episodes(
        self, obs: Frames, info: dict[str, Any], terminated: NDArray[np.bool_], truncated: NDArray[np.bool_]
    ) -> None:
        """Resets the rows that are out of time, in ``obs`` and ``info``, and adds what SAME_STEP demands."""
        ended, late = terminated | truncated, truncated & ~terminated
        final_obs = np.zeros_like(obs)
        if terminated.any():
            final_obs[terminated] = info["final_obs"][terminated]
        if late.any():
            final_obs[late] = obs[late]
            fresh, fresh_info = super().reset(options={"reset_mask": late})
            obs[late] = fresh[late]
            info.update({key: np.where(late, value, info[key]) for key, value in fresh_info.items()})
        episode = {"r": self._scores.copy(), "l": self._steps.copy()}
        info |= {"final_obs": self.settings.arrange(final_obs), "_final_obs": ended}
        info |= {"final_info": {"episode": episode, "_episode": ended.copy()}, "_final_info": ended.copy()}
        self._steps[ended] = 0
        self._scores[ended] = 0.0

    def _checked(self, actions: Any) -> NDArray[np.int64]:
        chosen, count = np.asarray(actions), len(self.ale.get_action_set())
        integers = chosen.dtype.kind in "iu" and chosen.shape == (self.num_envs,)
        if not integers or not ((chosen >= 0) & (chosen < count)).all():
            raise ValueError(f"actions must be {self.num_envs} integers in [0, {count}), got {actions!r}")
        return chosen.astype(np.int64)


def _seeds(seed: Any, num_envs: int) -> Any:
    """Return the seed in a type that ale-py takes: int or an array."""
    if seed is None:
        return None
    seeds = np.asarray(seed)
    rows = seeds + np.arange(num_envs) if seeds.ndim == 0 and seeds.dtype.kind in "iu" else seeds
    if rows.dtype.kind not in "iu" or rows.size == 0 or rows.min() < 0 or rows.max() >= 2**31:
        raise ValueError(f"seed must leave every row (seed + row) an integer in [0, 2**31), got {seed!r}")
    return int(seed) if seeds.ndim == 0 else seeds
