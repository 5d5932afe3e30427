"""MBPO's hyperparameters: `cpu` for two cores, `paper` as published."""

from dataclasses import dataclass, field, replace
from typing import Any

from mbrl_gym.agents.branched import BranchedRollouts
from mbrl_gym.agents.rollout_length import AdaptiveLength, FixedLength, RolloutLength, ScheduledLength
from mbrl_gym.fit import TrainerConfig
from mbrl_gym.models.ensemble_config import EnsembleConfig


@dataclass(frozen=True)
class MBPOPreset:
    """What `MBPO` takes where its own arguments say nothing.

    Attributes:
        rollouts: how SAC dreams.
        model: the ensemble's hyperparameters.
        trainer: the fit's.
        sac: SAC's arguments.
        learning_starts: real steps of random actions before the first training.
        train_freq: real steps between trainings of the model.
    """

    rollouts: BranchedRollouts
    model: EnsembleConfig
    trainer: TrainerConfig
    sac: dict[str, Any] = field(default_factory=dict)
    learning_starts: int = 1000
    train_freq: int = 250


@dataclass(frozen=True)
class _Published:
    """One row of the paper's table.

    Attributes:
        length: of the rollouts.
        updates: of SAC, a real step.
        entropy: SAC's target.
        starts: first random steps.
        retain: dreams that are kept: the epochs of the original times its trainings an epoch.
        train_freq: real steps between trainings, after each of which 100,000 rollouts begin.
        units: of each of the model's four layers.
    """

    length: RolloutLength
    updates: int
    entropy: float
    starts: int = 5000
    retain: int = 4
    train_freq: int = 250
    units: int = 200


# Source: jannerm/mbpo at ac694ff, examples/config/*/0.py; epochs are 1,000 steps, the pendulum's 250. Its pool of
# imagined transitions (mbpo/algorithms/mbpo.py, _reallocate_model_pool) holds those of one epoch, the Humanoid's of
# five. Its Ant and Humanoid are truncated in their observations; Gymnasium's are not. Its epochs begin after the random
# steps, so that its rollouts grow that much later.
PAPER: dict[str, _Published] = {
    "InvertedPendulum": _Published(FixedLength(1), 10, -0.05, 500, retain=1),
    "Hopper": _Published(ScheduledLength(20_000, 150_000, 1, 15), 20, -1.0),
    "HalfCheetah": _Published(FixedLength(1), 40, -3.0),
    "Walker2d": _Published(FixedLength(1), 20, -3.0),
    "Ant": _Published(ScheduledLength(20_000, 100_000, 1, 25), 20, -4.0),
    "Humanoid": _Published(ScheduledLength(20_000, 300_000, 1, 25), 20, -2.0, retain=5, train_freq=1000, units=400),
}


def paper(env_id: str | None) -> MBPOPreset:
    """Return the paper's preset for an environment; for one that the paper lacks, the half-cheetah's with 20 updates.

    The networks are the original's: seven of four layers, of which five are elites. One thing is not the
    paper's: bootstrap weights are Poisson draws instead of resampled rows, the same in expectation.
    """
    row = PAPER.get(_task(env_id), replace(PAPER["HalfCheetah"], updates=20))
    return MBPOPreset(
        rollouts=BranchedRollouts(row.length, 100_000 // row.train_freq, row.updates, 0.05, row.retain),
        model=EnsembleConfig(
            members=7,
            elites=5,
            hidden=(row.units,) * 4,
            propagation="ts1",
            normalize_targets=False,
            variance_weighting=0.0,
            clamp_margin=None,
        ),
        trainer=TrainerConfig(
            learning_rate=1e-3,
            final_learning_rate=1.0,
            batch_size=256,
            max_epochs=1000,
            max_updates=None,
            patience=5,
            holdout=0.2,
        ),
        sac={"target_entropy": row.entropy},
        learning_starts=row.starts,
        train_freq=row.train_freq,
    )


def cpu(env_id: str | None) -> MBPOPreset:
    """Return the light preset: fewer updates, smaller networks, fits of bounded length.

    On the inverted pendulum rollouts are as long as the model is trusted, elsewhere the paper's: where contacts are, a
    small error on real states says little about what longer rollouts bring (benchmarks/mbpo_learning.py).
    """
    task = _task(env_id)
    row = PAPER.get(task, replace(PAPER["InvertedPendulum"], starts=1000))
    length = AdaptiveLength(bound=0.1) if task == "InvertedPendulum" else row.length
    return MBPOPreset(
        rollouts=BranchedRollouts(length, 100, min(row.updates, 10), 0.05, row.retain),
        model=EnsembleConfig(members=5, hidden=(200,) * 3),
        trainer=TrainerConfig(batch_size=256, max_updates=500),
        sac={"policy_kwargs": {"net_arch": [128, 128]}, **({"target_entropy": row.entropy} if task in PAPER else {})},
        learning_starts=min(row.starts, 1000),
    )


PRESETS = {"cpu": cpu, "paper": paper}


def _task(env_id: str | None) -> str:
    return (env_id or "").rpartition("/")[2].partition("-")[0]
