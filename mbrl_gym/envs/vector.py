"""LearnedVectorEnv: a world model as a Gymnasium VectorEnv, one forward pass for all environments."""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from mbrl_gym.envs.dream import Dream
from mbrl_gym.envs.inputs import encode_actions, parse_start, split_options
from mbrl_gym.envs.view import View
from mbrl_gym.model import Prediction, WorldModel
from mbrl_gym.spaces import Observation, observation_array
from mbrl_gym.start_states import StartStates

PLAIN = (str, int, float, bool, type(None))


def plain_spec(spec: EnvSpec | None) -> EnvSpec | None:
    """Return the spec with its plain keyword arguments only, so that copying or storing it never carries a model."""
    if spec is None:
        return None
    kwargs = {k: os.fspath(v) if isinstance(v, os.PathLike) else v for k, v in spec.kwargs.items()}
    return replace(spec, kwargs={k: v for k, v in kwargs.items() if isinstance(v, PLAIN)})


class LearnedVectorEnv(VectorEnv[Any, Any, Any]):
    """``num_envs`` learned environments that step together.

    Its spaces equal the real environment's. An episode starts from ``starts``, ends as ``terminated`` where the model
    says so and as ``truncated`` at the horizon or where the dream broke: then ``info["diverged"]`` is true, reward and
    uncertainty are zero, and the observation is the last sound one.

    ``info`` of a step holds arrays [n] about that very step, for all rows: ``uncertainty``, and what the model adds
    (``termination_probability``, ...). With the autoreset mode SameStep a finished row returns the next episode's first
    observation; ``info["final_obs"]`` has its own last one (all rows, valid where ``info["_final_obs"]``), and
    ``info["final_info"]`` the same arrays as ``info`` (valid where ``info["_final_info"]``). In a finished row of
    ``info`` Gymnasium's SyncVectorEnv has what its reset said instead; a dream's reset has nothing to say, and arrays
    without holes are what penalties and logs need. With NextStep they are zero in rows that are being reset.

    Args:
        model: the world model.
        starts: contexts that episodes begin from.
        num_envs: how many.
        horizon: imagined steps an episode.
        autoreset_mode: "SameStep", "NextStep" (a finished row is reset by the next step, which ignores its action), or
            "Disabled" (the caller resets finished rows by ``reset(options={"reset_mask": mask})``; until then they go
            on dreaming).
        backend: "numpy", or "torch" for tensors on the model's device in and out.
        view: what is shown of beliefs, and so the observations' space (`mbrl_gym.envs.view`); None: what the model
            predicts.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        model: WorldModel[Any],
        starts: StartStates,
        num_envs: int = 1,
        horizon: int = 1000,
        autoreset_mode: str | AutoresetMode = AutoresetMode.SAME_STEP,
        backend: Literal["numpy", "torch"] = "numpy",
        view: View | None = None,
    ) -> None:
        modes = {mode.value: mode for mode in AutoresetMode}
        mode = autoreset_mode if isinstance(autoreset_mode, AutoresetMode) else modes.get(autoreset_mode)
        if mode is None:
            raise ValueError(f"autoreset_mode must be one of {sorted(modes)}, got {autoreset_mode!r}")
        if backend not in ("numpy", "torch"):
            raise ValueError(f"backend must be 'numpy' or 'torch', got {backend!r}")
        self.dream = Dream(model, starts, num_envs, horizon, view)
        self.model = model
        self.num_envs = num_envs
        self.backend = backend
        self.autoreset_mode = mode
        self.metadata = {"autoreset_mode": mode, "render_modes": []}
        self.render_mode = None
        self.single_observation_space = self.dream.observation_space
        self.single_action_space = model.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._finished = np.zeros(num_envs, dtype=bool)  # rows that NextStep resets in the coming step
        self.seed(None)

    @property
    def spec(self) -> EnvSpec | None:
        """The spec it was made from, without anything that is not plain data."""
        spec: EnvSpec | None = self.__dict__.get("_spec")
        return spec

    @spec.setter
    def spec(self, value: EnvSpec | None) -> None:
        self.__dict__["_spec"] = plain_spec(value)

    @property
    def horizon(self) -> int:
        """Imagined steps an episode; assign to change it from the next step on."""
        return self.dream.horizon

    @horizon.setter
    def horizon(self, value: int) -> None:
        self.dream.horizon = value

    def set_starts(self, starts: StartStates) -> None:
        """Let the episodes from now on begin from ``starts``."""
        self.dream.set_starts(starts)

    def seed(self, seed: int | Sequence[int] | None) -> None:
        """Seed all rows' starts and transitions together; None draws a seed from the operating system.

        Raises:
            ValueError: a seed is negative or no integer, or a list has another length than ``num_envs``.
        """
        several = isinstance(seed, Sequence | np.ndarray)
        seeds: list[Any] = [] if seed is None else list(seed) if several else [seed]  # type: ignore[arg-type]
        if not all(isinstance(s, int | np.integer) and s >= 0 for s in seeds):
            raise ValueError(f"seed must be a non-negative int or a list of such, got {seed!r}")
        if several and len(seeds) != self.num_envs:
            raise ValueError(f"seed must be an int, or a list of {self.num_envs}, one for each row, got {len(seeds)}")
        sequence = np.random.SeedSequence([int(s) for s in seeds] or None)
        self._np_random_seed = int(seeds[0]) if seeds else int(sequence.generate_state(2, np.uint64)[1])
        self._np_random = np.random.default_rng(sequence)
        self.dream.generator.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1)))

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Restart every row, or those of a mask.

        Args:
            seed: an int, or a list of n ints (one stream is drawn from all of them).
            options: ``{"start": obs}`` begins from given observations: [*obs] for all rows, [n, *obs], or contexts
                [n, C, *obs] together with ``"action"`` [n, C, *act], the actions taken after each (the last is unused).
                ``{"reset_mask": mask}``, bool [n], leaves the other rows alone.

        Returns:
            Observations [n, *obs] and ``{"uncertainty": zeros [n]}``.

        Raises:
            RuntimeError: only some rows are to be reset, and there was no reset of all yet.
            ValueError: an option or seed is not as described.
        """
        rest, mask = split_options(options, self.num_envs, ("start", "action", "reset_mask"))
        starts = parse_start(self.model, rest, self.num_envs)
        if seed is not None:
            self.seed(seed)
        if mask is None or mask.all():
            self._finished[:] = False
            obs = self.dream.reset(starts)
        elif self.dream.state is None:
            raise RuntimeError("reset(options={'reset_mask': ...}) of some rows needs a reset() of all rows first")
        else:
            self._finished[mask] = False
            rows = torch.as_tensor(mask, device=self.model.device).nonzero()[:, 0]
            obs = self.dream.reset_rows(rows, None if starts is None else starts[rows])
        return self._out_obs(obs), {"uncertainty": self._out(torch.zeros(self.num_envs, device=self.model.device))}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Advance every row by environment actions [n, *act].

        Returns:
            Observations [n, *obs], rewards [n], terminated [n], truncated [n], and info (see the class).

        Raises:
            RuntimeError: there was no reset yet.
            ValueError: the actions have another shape, are not finite, or are no members of a discrete space.
        """
        if self.dream.state is None:
            raise RuntimeError("step() needs a reset() first")
        obs, prediction = self.dream.step(encode_actions(self.model, actions, self.num_envs))
        if self.autoreset_mode is AutoresetMode.NEXT_STEP:
            obs, prediction = self._reset_finished(obs, prediction)
        ended = prediction.terminated | prediction.truncated
        info = self._info(prediction)
        if self.autoreset_mode is not AutoresetMode.DISABLED and bool(ended.any()):
            if self.autoreset_mode is AutoresetMode.SAME_STEP:
                info |= {"final_obs": self._out_obs(obs), "_final_obs": self._out(ended)}
                info |= {"final_info": self._info(prediction), "_final_info": self._out(ended)}
                obs = self.dream.reset_rows(ended.nonzero()[:, 0])
            else:
                self._finished = ended.cpu().numpy()
        return (
            self._out_obs(obs),
            self._out(prediction.reward),
            self._out(prediction.terminated),
            self._out(prediction.truncated),
            info,
        )

    def _reset_finished(self, obs: Observation, prediction: Prediction) -> tuple[Observation, Prediction]:
        """Return what NextStep says of rows that finished in the step before: reset observation, reward 0, no flags."""
        if not self._finished.any():
            return obs, prediction
        rows = torch.as_tensor(self._finished, device=self.model.device)
        self._finished = np.zeros_like(self._finished)
        obs = self.dream.reset_rows(rows.nonzero()[:, 0])
        blank = prediction.map(torch.zeros_like)
        return obs, blank.where(rows, prediction)

    def _info(self, prediction: Prediction) -> dict[str, Any]:
        return {name: self._out(x) for name, x in {"uncertainty": prediction.uncertainty, **prediction.info}.items()}

    def _out(self, x: Tensor) -> Any:
        # A copy: what the caller does to it must not reach the belief, and autograd refuses inference tensors.
        return x.cpu().numpy().copy() if self.backend == "numpy" else x.clone()

    def _out_obs(self, obs: Observation) -> Any:
        if self.backend == "numpy":
            return observation_array(obs)
        return {k: self._out(v) for k, v in obs.items()} if isinstance(obs, dict) else self._out(obs)
