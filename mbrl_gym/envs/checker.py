"""`check_vector_env`: the contract of a Gymnasium vector environment, for which Gymnasium has no checker of its own."""

from collections import deque
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, create_empty_array, iterate
from numpy.typing import NDArray

from mbrl_gym.envs._records import (
    Digests,
    Record,
    Run,
    brief,
    digest_of,
    digests,
    extent,
    leaves,
    random_actions,
    require,
    row_of,
    rows_of,
    warn,
)

_KEPT = 3  # calls for which a returned array must stay as it was: finds single, double and triple buffering
# Rules that compare two runs, each with its remedy.
_SEEDED = (
    "the same seed and actions must give bit-equal results",
    "draw every random number from a generator that reset(seed=...) seeds, and clear in reset what outlives an episode",
)
_OWNED = (
    "overwriting returned arrays must not change what follows",
    "return copies, not the arrays that the next step reads",
)
_IGNORED = (
    "NEXT_STEP: the step after an episode's end must ignore the action of that row",
    "reset the row instead of stepping it",
)


def check_vector_env(env: VectorEnv[Any, Any, Any], *, steps: int = 200, seed: int = 0) -> None:
    """Raises an AssertionError that names rule, value and remedy where `env` breaks the contract of a vector env.

    Checked: the declared autoreset mode; batched spaces; shapes and dtypes of what `reset` and `step` return;
    observations inside their space; arrays and masks of info; the rules of the autoreset mode (SAME_STEP, NEXT_STEP or
    DISABLED); seeded runs are bit-equal, across autoresets too; arrays belong to the caller: no later step changes
    them, and writing into them changes nothing that follows. The environment goes through three or four runs of the
    same random actions, and is left open.

    Args:
        env: a freshly made vector environment, of any number of rows.
        steps: of each run; where no episode ends in them, a warning says that autoreset was not checked.
        seed: of the actions and of the environment.

    Raises:
        AssertionError: a rule is broken.
        TypeError: `env` is not a vector environment.
        ValueError: `steps` is below 1.
    """
    if not isinstance(env, VectorEnv):
        raise TypeError(
            f"env must be a gymnasium.vector.VectorEnv, got {type(env).__name__}: "
            "check a single environment with gymnasium.utils.env_checker.check_env"
        )
    if steps < 1:
        raise ValueError(
            f"steps must be at least 1, got {steps}: 200 are enough for most environments to end an episode"
        )
    _check_declarations(env)
    run = Run(env, seed, random_actions(env, steps, seed))
    trace = _checked_trace(run)

    _compare(trace, _trace(run), *_SEEDED)
    _compare(trace, _trace(run, then=_overwrite), *_OWNED)
    if run.mode is AutoresetMode.NEXT_STEP:
        _compare(trace, _trace(Run(env, seed, run.actions, random_actions(env, steps, seed + 1))), *_IGNORED)
    if run.mode is AutoresetMode.DISABLED:
        _check_partial_reset(run)
    _warn_if_seed_is_ignored(run)


def _trace(run: Run, then: Callable[[Record], None] | None = None) -> list[tuple[str, Digests]]:
    """A digest of every array that a run returns, call by call; `then` is called after each."""
    trace = []
    for record in run.records():
        trace.append((record.call, digests(record)))
        if then is not None:
            then(record)
    return trace


def _checked_trace(run: Run) -> list[tuple[str, Digests]]:
    """The trace of a run in which every record is checked against the contract."""
    template = create_empty_array(run.env.single_observation_space, n=run.env.num_envs)
    recent: deque[list[tuple[str, NDArray[Any], bytes]]] = deque(maxlen=_KEPT)
    episodes = moved = 0

    def check(record: Record) -> None:
        nonlocal episodes, moved
        _check_intact(recent, record.call)
        _check_record(run, record, template)
        recent.append([(f"{record.call}: {path}", array, digest_of(array)) for path, array in leaves(record.values)])
        episodes += int(record.ended.sum())
        moved += _count_moved(record) if run.mode is AutoresetMode.SAME_STEP else 0

    trace = _trace(run, then=check)
    if not episodes:
        warn(f"no episode of {run.env} ended in {len(run.actions)} steps: autoreset was not checked; pass more steps")
    elif run.mode is AutoresetMode.SAME_STEP and not moved:
        warn(
            f"final_obs of {run.env} equalled the first observation of the next episode at all {episodes} ends of "
            "episodes: is it taken before the reset?"
        )
    return trace


def _compare(expected: list[tuple[str, Digests]], got: list[tuple[str, Digests]], rule: str, remedy: str) -> None:
    for (call, old), (other_call, new) in zip(expected, got, strict=False):
        names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        if names or call != other_call:
            raise AssertionError(f"{rule}: {', '.join(names)} of {other_call} came out differently. Remedy: {remedy}")


def _overwrite(record: Record) -> None:
    for _, array in leaves(record.values):
        if array.flags.writeable and array.dtype != object:
            array[...] = ~array if array.dtype == np.bool_ else 77


def _count_moved(record: Record) -> int:
    """The number of ended rows whose final observation differs from the one that begins the next episode."""
    moved = 0
    for row in np.flatnonzero(record.ended).tolist():
        final, first = (
            dict(leaves(row_of(batch, row))) for batch in (record.values["info"]["final_obs"], record.values["obs"])
        )
        moved += not all(np.array_equal(final[path], first[path]) for path in first)
    return moved


# Rules


def _check_declarations(env: VectorEnv[Any, Any, Any]) -> None:
    mode = env.metadata.get("autoreset_mode")
    require(
        isinstance(mode, AutoresetMode),
        'metadata["autoreset_mode"] must be a member of gymnasium.vector.AutoresetMode',
        repr(mode),
        'give the class a dict of its own, metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}',
    )
    require(
        env.metadata is not VectorEnv.metadata,
        'metadata["autoreset_mode"] must be in a dict of the environment\'s own',
        "the dict of the class gymnasium.vector.VectorEnv, which environments share that write their mode there",
        "set self.metadata = {**self.metadata, 'autoreset_mode': mode}",
    )
    own = getattr(env.unwrapped, "autoreset_mode", mode)
    require(
        own is mode,
        'metadata["autoreset_mode"] must equal env.unwrapped.autoreset_mode',
        f"{mode} and {own}",
        "set both in __init__",
    )
    require(
        isinstance(env.num_envs, int) and env.num_envs >= 1,
        "num_envs must be an int of at least 1",
        repr(env.num_envs),
        "set it in __init__",
    )
    for name in ("observation_space", "action_space"):
        batched = batch_space(getattr(env, f"single_{name}"), env.num_envs)
        require(
            getattr(env, name) == batched,
            f"{name} must be batch_space(single_{name}, num_envs) = {batched}",
            str(getattr(env, name)),
            "use gymnasium.vector.utils.batch_space",
        )


def _check_record(run: Run, record: Record, template: Any) -> None:
    count, call = run.env.num_envs, record.call
    _check_obs(run.env, record.values["obs"], template, call)
    info = record.values["info"]
    require(isinstance(info, dict), f"{call}: info must be a dict", type(info).__name__, "return {} if there is none")
    _check_info(info, count, f"{call}: info")
    if "reward" not in record.values:
        return
    _check_reward(record.values["reward"], count, call)
    if run.mode is AutoresetMode.SAME_STEP:
        _check_final_obs(run.env, record)
    if run.mode is AutoresetMode.NEXT_STEP:
        _check_restart(record)


def _check_obs(env: VectorEnv[Any, Any, Any], obs: Any, template: Any, call: str) -> None:
    expected = {path: (array.dtype, array.shape) for path, array in leaves(template, "obs")}
    got = {path: (array.dtype, array.shape) for path, array in leaves(obs, "obs")}
    require(
        got == expected,
        f"{call}: obs must have dtype and shape {brief(expected)}",
        f"{brief(got)} in a {type(obs).__name__}",
        "create it with that dtype and num_envs as first dimension",
    )
    if env.observation_space.contains(obs):
        return
    space = env.single_observation_space
    row, value = next((row, v) for row, v in enumerate(iterate(env.observation_space, obs)) if not space.contains(v))
    raise AssertionError(
        f"{call}: obs must lie in observation_space; row {row} of obs is outside {space}: {extent(value)}. "
        "Remedy: clip the observation, or widen the space to what the environment can return"
    )


def _check_reward(reward: Any, count: int, call: str) -> None:
    floating = isinstance(reward, np.ndarray) and np.issubdtype(reward.dtype, np.floating)
    require(
        floating and reward.shape == (count,),
        f"{call}: reward must be a floating-point array of shape ({count},)",
        brief(reward),
        "return np.asarray(reward, dtype=np.float64) (or float32)",
    )
    require(
        np.isfinite(reward).all(), f"{call}: reward must be finite", str(reward), "end a diverged row by truncating"
    )


def _check_info(info: dict[str, Any], count: int, name: str) -> None:
    for key, value in info.items():
        path = f"{name}[{key!r}]"
        if isinstance(value, dict):
            _check_info(value, count, path)
        elif isinstance(key, str) and key.startswith("_") and key[1:] in info:
            require(
                isinstance(value, np.ndarray) and value.dtype == np.bool_ and value.shape == (count,),
                f"{path}, the mask of {key[1:]!r}, must be a bool array of shape ({count},)",
                brief(value),
                "mark the rows that have the entry",
            )
        else:
            require(
                isinstance(value, np.ndarray) and value.shape[:1] == (count,),
                f"{path} must be an array of length num_envs = {count}, or a dict of such",
                brief(value),
                "give one entry per row; where rows lack it, fill them and add a mask under '_' + key",
            )


def _check_final_obs(env: VectorEnv[Any, Any, Any], record: Record) -> None:
    """SAME_STEP: the last observation of an ended episode is in info, since obs already begins the next one."""
    info, ended, call = record.values["info"], record.ended, record.call
    require(
        "final_obs" in info or not ended.any(),
        f'{call}: SAME_STEP: info["final_obs"] must hold the last observations where episodes end ({rows_of(ended)})',
        f"keys {list(info)}",
        "put the observations there before the rows are reset",
    )
    if "final_obs" not in info:
        return
    mask = info.get("_final_obs")
    require(
        mask is not None and np.array_equal(mask, ended),
        f'{call}: SAME_STEP: info["_final_obs"] must equal terminated | truncated = {ended.tolist()}',
        "no such key" if mask is None else str(mask.tolist()),
        "store the mask beside final_obs",
    )
    for row in np.flatnonzero(ended).tolist():
        final = row_of(info["final_obs"], row)
        require(
            env.single_observation_space.contains(final),
            f'{call}: SAME_STEP: info["final_obs"] of row {row} must lie in {env.single_observation_space}',
            extent(final),
            "store the observation of the last step, unbatched",
        )


def _check_restart(record: Record) -> None:
    """NEXT_STEP: the step after an episode's end only resets the row."""
    for name, zero in (("reward", 0.0), ("terminated", False), ("truncated", False)):
        value = record.values[name][record.restarted]
        require(
            (value == zero).all(),
            f"{record.call}: NEXT_STEP: {name} of rows that are being reset must be {zero} "
            f"({rows_of(record.restarted)})",
            str(value.tolist()),
            "clear reward and flags of rows whose episode ended on the step before",
        )


def _check_intact(recent: deque[list[tuple[str, NDArray[Any], bytes]]], call: str) -> None:
    for path, array, digest in (entry for entries in recent for entry in entries):
        require(
            digest_of(array) == digest,
            f"returned arrays must not be reused: {path} must stay as it was returned",
            f"other contents after {call}",
            "return a fresh array (or a copy) from every call",
        )


def _check_partial_reset(run: Run) -> None:
    """DISABLED: reset(options={"reset_mask": mask}) starts new episodes in the rows of the mask only."""
    run.reset(seed=run.seed)
    obs, _, terminated, truncated, _ = run.env.step(deepcopy(run.actions[0]))
    before, mask = deepcopy(obs), np.logical_or(terminated, truncated)
    mask[0] = True
    after = run.reset(options={"reset_mask": mask.copy()})["obs"]
    for row in np.flatnonzero(~mask).tolist():
        old, new = dict(leaves(row_of(before, row))), dict(leaves(row_of(after, row)))
        require(
            old.keys() == new.keys() and all(np.array_equal(old[path], new[path]) for path in old),
            f'DISABLED: reset(options={{"reset_mask": mask}}) must leave rows outside the mask alone (row {row})',
            f"{extent(row_of(after, row))} after {extent(row_of(before, row))}",
            "reset the rows of the mask and return the current observations of the others",
        )


def _warn_if_seed_is_ignored(run: Run) -> None:
    first, second = (dict(leaves(run.reset(seed=seed)["obs"])) for seed in (run.seed, run.seed + 10_000))
    if all(np.array_equal(first[path], second[path]) for path in first):
        warn(f"reset of {run.env} returned the same observations for seeds {run.seed} and {run.seed + 10_000}")
