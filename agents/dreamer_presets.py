"""Dreamer's hyperparameters: `paper` as published, `cpu` for two cores, for versions 1, 2 and 3."""

from dataclasses import dataclass, replace

from mbrl_gym.agents.actor_critic import BehaviorConfig
from mbrl_gym.agents.model_learner import OptimizerConfig
from mbrl_gym.models.rssm_config import FEW_NUMBERS, SIZES, RSSMConfig

VERSIONS = (1, 2, 3)


@dataclass(frozen=True)
class DreamerPreset:
    """What `Dreamer` takes where its own arguments say nothing.

    Attributes:
        model: the world model's hyperparameters.
        behavior: actor's and critic's.
        optimizer: the optimiser's.
        batch_size: windows of a batch.
        batch_length: rows of a window that are learned from.
        train_ratio: rows learned from for each real step.
        learning_starts: real steps of random actions.
        stored_beliefs: whether windows begin with the replay's belief, and new experience comes first (V3).
    """

    model: RSSMConfig
    behavior: BehaviorConfig
    optimizer: OptimizerConfig
    batch_size: int
    batch_length: int
    train_ratio: float
    learning_starts: int
    stored_beliefs: bool


# V1 and V2 for control from vectors, in steps of the agent: with its action repeat of 2 one of them is two frames, in
# which V1 counts its training (100 updates in 1,000) and both their random beginning (5,000). Sources: danijar/dreamer
# at 399cad5, dreamer.py (define_config), whose discount head is an option; danijar/dreamerv2 at 0216d33, configs.yaml
# (dmc), whose weight decay of 1e-6 is left out.
_V1 = DreamerPreset(
    model=RSSMConfig.dreamer_v1(),
    behavior=BehaviorConfig(
        discount=0.99,
        reinforce=0.0,
        entropy_scale=0.0,
        normalize_returns=False,
        slow_regularizer=0.0,
        replay_value=0.0,
        value="normal",
        units=400,
        actor_layers=4,
        critic_layers=3,
        activation="elu",
        norm=False,
        actor="tanh_normal",
        unimix=0.0,
        exploration_noise=0.3,
    ),
    optimizer=OptimizerConfig("adam", 6e-4, 8e-5, 8e-5, clip=100.0, eps=1e-7, warmup=0),
    batch_size=50,
    batch_length=50,
    train_ratio=500.0,
    learning_starts=2500,
    stored_beliefs=False,
)
_V2 = replace(
    _V1,
    model=RSSMConfig.dreamer_v2(),
    behavior=replace(
        _V1.behavior,
        entropy_scale=1e-4,
        slow_rate=1.0,
        slow_every=100,
        slow_target=True,
        critic_layers=4,
        actor="truncated_normal",
        exploration_noise=0.0,
    ),
    optimizer=OptimizerConfig("adam", 3e-4, 8e-5, 8e-5, clip=100.0, eps=1e-5, warmup=0),
)


def paper(version: int, size: str | None) -> DreamerPreset:
    """Return the published hyperparameters of a version; sizes are V3's.

    Source of V3: danijar/dreamerv3 at e3f0224, ``dreamerv3/configs.yaml``, with the train ratio of its benchmark of
    control from vectors.

    Raises:
        ValueError: the version is unknown, or a size is given for another one than 3.
    """
    if version not in VERSIONS:
        raise ValueError(f"version must be one of {VERSIONS}, got {version!r}")
    if version != 3:
        if size is not None:
            raise ValueError(f"size must be None for version {version}, which came in one size, got {size!r}")
        return _V1 if version == 1 else _V2
    model = RSSMConfig.dreamer_v3(size or "1m")
    units = SIZES[size or "1m"][3]
    return DreamerPreset(model, BehaviorConfig(units=units), OptimizerConfig(), 16, 64, 1024.0, 1024, True)


def cpu(version: int, size: str | None) -> DreamerPreset:
    """Return what learns in minutes on a CPU: smaller networks and batches, higher learning rates.

    One set for all tasks; between tasks only ``size`` and ``train_ratio`` need to vary.

    Raises:
        ValueError: see `paper`.
    """
    found = paper(version, size)
    small = {"batch_size": 16, "batch_length": 32, "train_ratio": 128.0, "learning_starts": 512}
    if version == 3:
        rates = replace(found.optimizer, learning_rate=1e-3, warmup=100)
        return replace(found, optimizer=rates, **small)  # type: ignore[arg-type]
    model = replace(found.model, deter=128, hidden=128, units=128, layers=2, head_layers=2)
    model = replace(model, **FEW_NUMBERS) if version == 1 else replace(model, stoch=16, classes=16)
    behavior = replace(found.behavior, units=128, actor_layers=2, critic_layers=2)
    if version == 1:  # as version 2: at these rates V1's own critic as its target went up and down
        slow = _V2.behavior
        behavior = replace(behavior, slow_target=True, slow_rate=slow.slow_rate, slow_every=slow.slow_every)
    rates = replace(found.optimizer, learning_rate=1e-3, actor_learning_rate=3e-4, critic_learning_rate=3e-4)
    return replace(found, model=model, behavior=behavior, optimizer=rates, **small)  # type: ignore[arg-type]


PRESETS = {"cpu": cpu, "paper": paper}
