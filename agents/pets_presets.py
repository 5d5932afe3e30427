"""PETS' hyperparameters: `cpu` for two cores, `paper` as published."""

from dataclasses import dataclass, replace
from typing import Any

from mbrl_gym.fit import TrainerConfig
from mbrl_gym.models.ensemble_config import EnsembleConfig
from mbrl_gym.planners import CEMConfig, ICEMConfig


@dataclass(frozen=True)
class PETSPreset:
    """What `PETS` takes where its own arguments say nothing.

    Attributes:
        planner: the planner's hyperparameters.
        model: the ensemble's.
        trainer: the fit's.
        learning_starts: real steps of random actions before the first training.
        train_freq: real steps between trainings.
    """

    planner: Any
    model: EnsembleConfig
    trainer: TrainerConfig
    learning_starts: int
    train_freq: int


def cpu(env_id: str | None) -> PETSPreset:
    """Return the light preset: some 30 ms a plan on one core, against seconds for the paper's.

    With as few candidates as it can afford, iCEM's coloured noise finds what CEM's white noise does not: a swing that
    needs the same sign many times in a row.
    """
    return PETSPreset(
        planner=ICEMConfig(candidates=64, elites=8, iterations=3, horizon=20, particles=5),
        model=EnsembleConfig(),
        trainer=TrainerConfig(max_updates=1000),
        learning_starts=200,
        train_freq=200,
    )


# Per environment: hidden layers, weight decay of each layer, learning rate, steps of a task, (horizon, population,
# elites), angles. Source: handful-of-trials dmbrl/config/{cartpole,reacher,pusher,halfcheetah}.py. Gymnasium's tasks
# are not quite the paper's (its reacher has seven joints, and its half-cheetah observes its speed). Angles are those of
# the default observations.
PAPER: dict[str, tuple[tuple[int, ...], tuple[float, ...], float, int, tuple[int, int, int], tuple[int, ...]]] = {
    "PETSCartpole": ((500,) * 3, (1e-4, 2.5e-4, 2.5e-4, 5e-4), 1e-3, 200, (25, 400, 40), (1,)),
    "Reacher": ((200,) * 4, (2.5e-4, 5e-4, 5e-4, 5e-4, 7.5e-4), 7.5e-4, 150, (25, 400, 40), ()),
    "Pusher": ((200,) * 3, (2.5e-4, 5e-4, 5e-4, 7.5e-4), 1e-3, 150, (25, 500, 50), ()),
    "HalfCheetah": ((200,) * 4, (2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4), 1e-3, 1000, (30, 500, 50), (1,)),
}


def paper(env_id: str | None) -> PETSPreset:
    """Return the paper's preset for an environment; for one that the paper lacks, the half-cheetah's sizes.

    Two things are not the paper's: bootstrap weights are Poisson draws instead of resampled rows, the same in
    expectation, and the reward is one more output of the networks where it is not known.
    """
    name = (env_id or "").rpartition("/")[2].partition("-")[0]
    hidden, decay, rate, steps, (horizon, population, elites), angles = PAPER.get(name, PAPER["HalfCheetah"])
    seen_as = angles if name in PAPER else ()
    return PETSPreset(
        planner=CEMConfig(candidates=population, elites=elites, iterations=5, horizon=horizon, particles=20, alpha=0.1),
        model=replace(EnsembleConfig.paper(), hidden=hidden, weight_decay=decay, angles=seen_as),
        trainer=TrainerConfig(
            learning_rate=rate,
            final_learning_rate=1.0,
            batch_size=32,
            max_epochs=5,
            max_updates=None,
            holdout=0.0,
            grad_clip=None,
        ),
        learning_starts=steps,
        train_freq=steps,
    )


PRESETS = {"cpu": cpu, "paper": paper}
