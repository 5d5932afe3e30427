"""RowFormat: how the steps of an environment become checked rows of columns."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from mbrl_gym._ring import Array, Column
from mbrl_gym.spaces import ActionCodec, check_observation

ExtraColumns = Mapping[str, tuple[tuple[int, ...], np.dtype[Any] | type]]


class RowFormat:
    """The columns of a replay, and the checks at its boundary. Nothing here stores anything.

    Attributes:
        codec: the action codec.
        observations: the column names of the observation: "obs", or "obs/<key>" for each key of a Dict space.
        fixed: the columns that do not change once the next row is there.
        extras: the columns "extras/<name>" that are written later.
        blank: a row [n_envs, ...] without content, but for the observation. Writing it over a reused slot clears it.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        n_envs: int,
        extras: ExtraColumns | None,
    ) -> None:
        leaves = _observation_leaves(observation_space)
        self.observation_space = observation_space
        self.codec = ActionCodec(action_space)
        self.n_envs = n_envs
        self.observations = list(leaves)
        self.fixed = {
            **{name: Column(tuple(leaf.shape or ()), _stored_dtype(leaf)) for name, leaf in leaves.items()},
            "action": Column(self.codec.event_shape, _stored_dtype(action_space)),
            "reward": Column((), np.dtype(np.float32)),
            "terminated": Column((), np.dtype(bool)),
            "truncated": Column((), np.dtype(bool)),
            "is_first": Column((), np.dtype(bool)),
            "has_action": Column((), np.dtype(bool)),
        }
        self.extras = {f"extras/{k}": Column(tuple(shape), np.dtype(t)) for k, (shape, t) in (extras or {}).items()}
        columns = {name: column for name, column in {**self.fixed, **self.extras}.items() if name not in leaves}
        self.blank = {name: np.zeros((n_envs, *column.shape), column.dtype) for name, column in columns.items()}
        self._limits = _integer_limits(action_space)
        if self._limits is not None:
            # An unused action has to be a member of its space, which 0 is not where the space starts elsewhere.
            self.blank["action"][:] = self._limits[0]
        self._yes = np.ones(n_envs, bool)

    def opening(self, obs: Any) -> dict[str, Array]:
        """Return the first row of an episode in every env: columns [n_envs, ...]."""
        return {**self.blank, **self._observation_columns(obs, "obs", self.n_envs), "is_first": self._yes}

    def chosen(self, action: Any) -> dict[str, Array]:
        """Return what choosing ``action`` [n_envs, *action] changes in the rows it follows."""
        array = np.asarray(action)
        wanted, space = (self.n_envs, *self.codec.event_shape), self.codec.space
        if array.shape != wanted:
            raise ValueError(f"action must have the shape {wanted} (n_envs, then {space}), got {array.shape}")
        array = _as_dtype(array, self.fixed["action"].dtype, "action")
        if self._limits is not None and ((array < self._limits[0]) | (array > self._limits[1])).any():
            # Found here, or every later batch with this row would fail to encode.
            raise ValueError(
                f"action must be a member of {space}, got {array}; pass environment actions, not encoded ones"
            )
        return {"action": array, "has_action": self._yes}

    def arriving(
        self, opening: dict[str, Array], reward: Any, terminated: Any, truncated: Any, final_obs: Any
    ) -> tuple[dict[str, Array], Array]:
        """Return the row that a step ends in, columns [n_envs, ...], and the envs [K] whose episode ended with it.

        Args:
            opening: the row made of the step's ``obs``, which is the reset observation where an episode ended.
            reward: [n_envs].
            terminated: [n_envs].
            truncated: [n_envs].
            final_obs: see `SequenceReplay.add`.
        """
        row = {
            **opening,
            "reward": self._vector(reward, "reward"),
            "terminated": self._vector(terminated, "terminated"),
            "truncated": self._vector(truncated, "truncated"),
            "is_first": self.blank["is_first"],
        }
        ended = np.flatnonzero(row["terminated"] | row["truncated"])
        if ended.size:
            row.update({name: opening[name].copy() for name in self.observations})
        for env in ended.tolist():
            for name, array in self._final_columns(final_obs, env).items():
                row[name][env] = array[0]
        return row, ended

    def _final_columns(self, final_obs: Any, env: int) -> dict[str, Array]:
        """Return the final observation of one env as columns [1, ...]."""
        row = _pick_row(final_obs, env, self.observation_space)
        if row is None:
            raise ValueError(
                f"final_obs must hold the last observation of each episode that ended, got none for env {env}; "
                'pass infos["final_obs"] of a vector env in SAME_STEP autoreset mode'
            )
        batch = {k: np.asarray(v)[None] for k, v in row.items()} if isinstance(row, Mapping) else np.asarray(row)[None]
        return self._observation_columns(batch, f"final_obs[{env}]", 1)

    def _observation_columns(self, obs: Any, argument: str, n: int) -> dict[str, Array]:
        """Return observations [n, *obs] as checked arrays by column name."""
        check_observation(obs, self.observation_space, argument)
        found: dict[str, Array] = {}
        for name in self.observations:
            array = np.asarray(obs if name == "obs" else obs[name.removeprefix("obs/")])
            if len(array) != n:
                raise ValueError(f"{argument} must have n_envs = {n} rows, got {len(array)}; pass one row for each env")
            found[name] = _as_dtype(array, self.fixed[name].dtype, argument)
        return found

    def _vector(self, value: Any, name: str) -> Array:
        array = np.asarray(value)
        if array.shape != (self.n_envs,):
            raise ValueError(f"{name} must have the shape ({self.n_envs},), one entry for each env, got {array.shape}")
        return _as_dtype(array, self.fixed[name].dtype, name)


def _observation_leaves(space: spaces.Space[Any]) -> dict[str, spaces.Space[Any]]:
    """Return the array spaces of an observation space by column name."""
    leaves = {f"obs/{key}": leaf for key, leaf in space.items()} if isinstance(space, spaces.Dict) else {"obs": space}
    for leaf in leaves.values():
        if not isinstance(leaf, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
            raise ValueError(
                "observation_space must be a Box, Discrete, MultiDiscrete, MultiBinary or a flat Dict of these, "
                f"got {space}; flatten it with gymnasium.wrappers.FlattenObservation"
            )
    return leaves


def _stored_dtype(space: spaces.Space[Any]) -> np.dtype[Any]:
    return np.dtype(np.float32) if space.dtype == np.float64 else np.dtype(space.dtype)


def _integer_limits(space: spaces.Space[Any]) -> tuple[Array, Array] | None:
    """Return the smallest and the largest member of a discrete space, None for a Box."""
    if isinstance(space, spaces.Discrete):
        return np.asarray(space.start), np.asarray(space.start + space.n - 1)
    if isinstance(space, spaces.MultiDiscrete):
        return np.asarray(space.start), np.asarray(space.start + space.nvec - 1)
    return (np.asarray(0), np.asarray(1)) if isinstance(space, spaces.MultiBinary) else None


def _as_dtype(array: Array, dtype: np.dtype[Any], name: str) -> Array:
    """Return ``array`` in ``dtype``; raise unless floats are finite and others keep their value."""
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be numbers, got an array of dtype {array.dtype}")
    with np.errstate(over="ignore", invalid="ignore"):
        cast = array.astype(dtype, copy=False)
    if dtype.kind == "f":
        good = np.isfinite(cast)
    elif cast is array:
        return cast
    else:
        good = cast == array
    if not good.all():
        bad = array[~good].flat[0]
        raise ValueError(f"{name} must be finite and fit {dtype}, got {bad}; find the step that produced it")
    return cast


def _pick_row(final_obs: Any, env: int, space: spaces.Space[Any]) -> Any:
    """Return one env's entry of ``final_obs``, None where there is none."""
    try:
        if isinstance(final_obs, Mapping) and isinstance(space, spaces.Dict) and set(final_obs) == set(space.keys()):
            return {key: value[env] for key, value in final_obs.items()}
        return None if final_obs is None else final_obs[env]
    except (KeyError, IndexError):
        return None
