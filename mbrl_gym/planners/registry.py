"""Planners by name: how a planner's configuration is chosen, stored and read back."""

from dataclasses import asdict
from typing import Any

from mbrl_gym.planners.base import Planner
from mbrl_gym.planners.cem import CEM
from mbrl_gym.planners.gradient import GradientPlanner
from mbrl_gym.planners.icem import ICEM
from mbrl_gym.planners.mcts import MCTS
from mbrl_gym.planners.mppi import MPPI
from mbrl_gym.planners.shooting import RandomShooting
from mbrl_gym.spaces import ActionCodec

PLANNERS: dict[str, type[Planner[Any]]] = {
    "random_shooting": RandomShooting,
    "cem": CEM,
    "icem": ICEM,
    "mppi": MPPI,
    "gradient": GradientPlanner,
    "mcts": MCTS,
}


def make_planner(codec: ActionCodec, config: Any) -> Planner[Any]:
    """Return the planner of a configuration, for the actions of ``codec``."""
    return PLANNERS[planner_name(config)](codec, config)


def planner_name(config: Any) -> str:
    """Return the name of the planner that a configuration is of.

    Raises:
        ValueError: it is of none.
    """
    for name, planner in PLANNERS.items():
        if planner.config_class is type(config):
            return name
    raise ValueError(f"planner must be a configuration of mbrl_gym.planners, as in CEMConfig(), got {config!r}")


def planner_to_json(config: Any) -> dict[str, Any]:
    """Return a planner's configuration as JSON."""
    return {"name": planner_name(config), "config": asdict(config)}


def planner_from_json(data: dict[str, Any]) -> Any:
    """Return the configuration that `planner_to_json` described."""
    return PLANNERS[data["name"]].config_class(**data["config"])
