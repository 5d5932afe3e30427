"""PlaNet's hyperparameters: `paper` as published, `cpu` for two cores."""

from dataclasses import dataclass, replace
from typing import Any

from mbrl_gym.agents.model_learner import OptimizerConfig
from mbrl_gym.models.rssm_config import FEW_NUMBERS, RSSMConfig
from mbrl_gym.planners import CEMConfig


@dataclass(frozen=True)
class PlaNetPreset:
    """What `PlaNet` takes where its own arguments say nothing.

    Attributes:
        planner: the planner's hyperparameters.
        model: the world model's.
        optimizer: the optimiser's.
        batch_size: windows of a batch.
        batch_length: rows of a window that are learned from.
        train_ratio: rows learned from for each real step.
        learning_starts: real steps of random actions.
        exploration_noise: of real actions, see `mbrl_gym.agents.belief_policy.explored`.
    """

    planner: Any
    model: RSSMConfig
    optimizer: OptimizerConfig
    batch_size: int
    batch_length: int
    train_ratio: float
    learning_starts: int
    exploration_noise: float


def paper() -> PlaNetPreset:
    """Return the published hyperparameters.

    Source: google-research/planet ``scripts/configs.py`` and ``control/planning.py``: 100 updates for each episode that
    is collected (Hafner et al. 2019, appendix), here of 1,000 steps divided by an action repeat of 4. Its planner
    begins each plan without the one before, of which ours keeps the mean.
    """
    return PlaNetPreset(
        planner=CEMConfig(
            candidates=1000, elites=100, iterations=10, horizon=12, particles=1, alpha=0.0, discount=0.99,
            init_deviation=1.0, bounds="clipped",
        ),
        model=RSSMConfig.planet(),
        optimizer=OptimizerConfig("adam", 1e-3, clip=1000.0, eps=1e-4, warmup=10_000),
        batch_size=50,
        batch_length=50,
        train_ratio=1000.0,
        learning_starts=1250,
        exploration_noise=0.3,
    )  # fmt: skip


def cpu() -> PlaNetPreset:
    """Return what learns in minutes on a CPU: smaller networks, batches and plans."""
    published = paper()
    return replace(
        published,
        planner=replace(published.planner, candidates=100, elites=10, iterations=3),
        model=replace(published.model, deter=128, hidden=128, units=128, **FEW_NUMBERS),
        optimizer=replace(published.optimizer, warmup=0),
        batch_size=16,
        batch_length=32,
        train_ratio=256.0,
        learning_starts=512,
    )


PRESETS = {"cpu": cpu, "paper": paper}
