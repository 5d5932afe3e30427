"""Planners: they choose actions by imagining what would come of them."""

from mbrl_gym.planners.base import Plan, Planner
from mbrl_gym.planners.cem import CEM, CEMCarry, CEMConfig
from mbrl_gym.planners.gradient import GradientCarry, GradientConfig, GradientPlanner
from mbrl_gym.planners.graphed import GraphedPlan
from mbrl_gym.planners.icem import ICEM, ICEMCarry, ICEMConfig
from mbrl_gym.planners.mcts import MCTS, MCTSConfig, SearchResult
from mbrl_gym.planners.mppi import MPPI, MPPICarry, MPPIConfig
from mbrl_gym.planners.registry import PLANNERS, make_planner, planner_from_json, planner_name, planner_to_json
from mbrl_gym.planners.shooting import NoCarry, RandomShooting, RandomShootingConfig

__all__ = [
    "CEM",
    "ICEM",
    "MCTS",
    "MPPI",
    "PLANNERS",
    "CEMCarry",
    "CEMConfig",
    "GradientCarry",
    "GradientConfig",
    "GradientPlanner",
    "GraphedPlan",
    "ICEMCarry",
    "ICEMConfig",
    "MCTSConfig",
    "MPPICarry",
    "MPPIConfig",
    "NoCarry",
    "Plan",
    "Planner",
    "RandomShooting",
    "RandomShootingConfig",
    "SearchResult",
    "make_planner",
    "planner_from_json",
    "planner_name",
    "planner_to_json",
]
