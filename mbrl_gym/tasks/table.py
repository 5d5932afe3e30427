"""The two registries: a name -> the task's reward, the task's termination."""

from mbrl_gym.tasks import arms, classic, pendulums
from mbrl_gym.tasks.common import TaskFunction, always_one, never
from mbrl_gym.tasks.locomotion import ANT, HALF_CHEETAH, HALF_CHEETAH_V4, HOPPER, HUMANOID, WALKER2D

_REWARDS: dict[str, TaskFunction] = {
    "Pendulum-v1": classic.pendulum_reward,
    "CartPole-v0": always_one,
    "CartPole-v1": always_one,
    "Reacher-v4": arms.reacher_v4_reward,
    "Reacher-v5": arms.reacher_reward,
    "Pusher-v5": arms.pusher_reward,
    "InvertedPendulum-v4": always_one,
    "InvertedPendulum-v5": pendulums.pendulum_reward,
    "InvertedDoublePendulum-v5": pendulums.double_pendulum_reward,
}
_TERMINATIONS: dict[str, TaskFunction] = {
    "Pendulum-v1": never,
    "CartPole-v0": classic.cartpole_termination,
    "CartPole-v1": classic.cartpole_termination,
    "Reacher-v4": never,
    "Reacher-v5": never,
    "Pusher-v5": never,
    "InvertedPendulum-v4": pendulums.pendulum_termination,
    "InvertedPendulum-v5": pendulums.pendulum_termination,
    "InvertedDoublePendulum-v5": pendulums.double_pendulum_termination,
    "Humanoid-v5": HUMANOID.termination,
}
for _robot in (HALF_CHEETAH, HALF_CHEETAH_V4, HOPPER, WALKER2D, ANT):
    _REWARDS |= {_robot.name: _robot.reward, f"{_robot.name}:velocity": _robot.velocity_reward}
    _TERMINATIONS |= {_robot.name: _robot.termination, f"{_robot.name}:velocity": _robot.termination}


def known_reward(name: str) -> TaskFunction:
    """Return the reward function of the task ``name``, a Gymnasium id (``known_tasks`` lists them).

    Raises:
        ValueError: there is none of that name.
    """
    return _find(_REWARDS, name, "reward")


def known_termination(name: str) -> TaskFunction:
    """Return the termination function of the task ``name``, a Gymnasium id (``known_tasks`` lists them).

    Raises:
        ValueError: there is none of that name.
    """
    return _find(_TERMINATIONS, name, "termination")


def register_reward(name: str, function: TaskFunction, *, overwrite: bool = False) -> None:
    """Make ``known_reward(name)`` return ``function``.

    Raises:
        ValueError: the name is taken and ``overwrite`` is not set, or ``function`` cannot be called.
    """
    _add(_REWARDS, name, function, overwrite, "reward")


def register_termination(name: str, function: TaskFunction, *, overwrite: bool = False) -> None:
    """Make ``known_termination(name)`` return ``function``.

    Raises:
        ValueError: the name is taken and ``overwrite`` is not set, or ``function`` cannot be called.
    """
    _add(_TERMINATIONS, name, function, overwrite, "termination")


def known_tasks() -> dict[str, tuple[str, ...]]:
    """Return what is known of each task, by name: "reward", "termination" or both."""
    tables = {"reward": _REWARDS, "termination": _TERMINATIONS}
    names = sorted(_REWARDS.keys() | _TERMINATIONS.keys())
    return {name: tuple(kind for kind, table in tables.items() if name in table) for name in names}


def _find(table: dict[str, TaskFunction], name: str, kind: str) -> TaskFunction:
    if name not in table:
        raise ValueError(
            f"name must be a task whose {kind} is known, got {name!r}; there are {', '.join(sorted(table))}: "
            f"pass a function of your own, or register it with mbrl_gym.tasks.register_{kind}"
        )
    return table[name]


def _add(table: dict[str, TaskFunction], name: str, function: TaskFunction, overwrite: bool, kind: str) -> None:
    if not callable(function):
        raise ValueError(f"function must take (obs, action, next_obs) and return the {kind} [B], got {function!r}")
    if name in table and not overwrite:
        raise ValueError(
            f"name must be new, got {name!r}, whose {kind} is known; choose another, or pass overwrite=True"
        )
    table[name] = function
