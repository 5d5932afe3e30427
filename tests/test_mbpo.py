"""MBPO: the published numbers, what is known by default, stock SB3 files, exact resume."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import SAC

from mbrl_gym import EnsembleConfig, TrainerConfig
from mbrl_gym.agents import MBPO, AdaptiveLength, BranchedRollouts, FixedLength, LeanSAC, ScheduledLength
from mbrl_gym.agents.mbpo_presets import PRESETS, cpu, paper
from mbrl_gym.agents.rollout_length import Experience
from mbrl_gym.packing import same_numbers
from mbrl_gym.wrappers import KnownReward, KnownTermination, UncertaintyPenalty

ENV = "InvertedPendulum-v5"
TINY: dict[str, Any] = {
    "model_config": EnsembleConfig(members=2, hidden=(16,)),
    "trainer_config": TrainerConfig(max_updates=20),
    "rollouts": BranchedRollouts(rollouts_per_step=4, updates_per_step=1),
    "learning_starts": 40,
    "train_freq": 20,
    "device": "cpu",
    "seed": 0,
}


def test_the_papers_numbers() -> None:
    """jannerm/mbpo examples/config, at ac694ff."""
    hopper = paper("Hopper-v5")
    assert hopper.rollouts == BranchedRollouts(ScheduledLength(20_000, 150_000, 1, 15), 400, 20, 0.05, 4)
    assert hopper.sac == {"target_entropy": -1.0}
    assert (hopper.learning_starts, hopper.train_freq) == (5000, 250)
    assert (hopper.model.members, hopper.model.elites, hopper.model.hidden) == (7, 5, (200,) * 4)
    assert hopper.model.propagation == "ts1"
    assert (hopper.trainer.batch_size, hopper.trainer.patience, hopper.trainer.holdout) == (256, 5, 0.2)
    assert hopper.trainer.learning_rate == 1e-3
    cheetah, ant = paper("HalfCheetah-v5"), paper("Ant-v5")
    assert (cheetah.rollouts.updates_per_step, cheetah.sac["target_entropy"]) == (40, -3.0)
    assert ant.rollouts.length == ScheduledLength(20_000, 100_000, 1, 25)
    assert paper(ENV).learning_starts == 500
    found = {}
    for name in ("InvertedPendulum", "Hopper", "HalfCheetah", "Walker2d", "Ant", "Humanoid"):
        row = paper(f"{name}-v5")
        dreams = row.rollouts
        rollouts = dreams.rollouts_per_step * row.train_freq
        found[name] = (dreams.updates_per_step, row.sac["target_entropy"], dreams.retain, row.train_freq, rollouts)
        assert row.model.hidden == ((400,) if name == "Humanoid" else (200,)) * 4
        assert dreams.real_ratio == 0.05
    assert (
        found
        == {  # epochs of 1,000 steps, the pendulum's of 250, of which dreams are kept for one, Humanoid's for 5
            "InvertedPendulum": (10, -0.05, 1, 250, 100_000),
            "Hopper": (20, -1.0, 4, 250, 100_000),
            "HalfCheetah": (40, -3.0, 4, 250, 100_000),
            "Walker2d": (20, -3.0, 4, 250, 100_000),
            "Ant": (20, -4.0, 4, 250, 100_000),
            "Humanoid": (20, -2.0, 5, 1000, 100_000),
        }
    )
    assert paper("Humanoid-v5").rollouts.length == ScheduledLength(20_000, 300_000, 1, 25)
    assert paper("Walker2d-v5").rollouts.length == FixedLength(1)
    assert paper("Something-v0").rollouts.updates_per_step == 20
    lengths = [hopper.rollouts.length.steps(Experience(n, None, None, np.array([0]))) for n in (0, 85_000, 200_000)]  # type: ignore[arg-type]
    assert lengths == [1, 8, 15]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_what_the_agent_has(name: str) -> None:
    agent, preset = MBPO("MlpPolicy", ENV, preset=name, device="cpu"), PRESETS[name](ENV)
    assert isinstance(agent.algorithm, LeanSAC)
    assert agent.algorithm.fallback is None
    assert agent.rollouts == preset.rollouts
    assert agent.model.unwrapped.config.hidden == preset.model.hidden
    assert agent.trainer.config == preset.trainer
    assert (agent.learning_starts, agent.train_freq) == (preset.learning_starts, preset.train_freq)
    assert agent.algorithm.target_entropy == -0.05
    given = MBPO("MlpPolicy", ENV, preset=name, algorithm_kwargs={"target_entropy": -2.0}, **TINY)
    assert given.algorithm.target_entropy == -2.0  # what is passed wins
    assert given.rollouts == TINY["rollouts"]


def test_a_known_termination_is_taken_by_default() -> None:
    assert isinstance(MBPO("MlpPolicy", ENV, **TINY).model, KnownTermination)
    learned = MBPO("MlpPolicy", ENV, termination="learned", **TINY)
    assert not isinstance(learned.model, KnownTermination)
    assert learned.model.config.learn_termination
    assert not MBPO("MlpPolicy", ENV, **TINY).model.unwrapped.config.learn_termination
    assert not isinstance(MBPO("MlpPolicy", "MountainCarContinuous-v0", **TINY).model, KnownTermination)


def test_wrappers_go_around_what_is_known() -> None:
    wrappers = [(UncertaintyPenalty, {"coefficient": 2.0})]
    model = MBPO("MlpPolicy", ENV, reward="known", wrappers=wrappers, **TINY).model
    assert isinstance(model, UncertaintyPenalty)
    assert isinstance(model.inner, KnownReward)
    assert isinstance(model.inner.inner, KnownTermination)


def test_it_resumes_exactly_in_the_middle_and_exports_a_stock_sac(tmp_path: Path) -> None:
    wrappers = [(UncertaintyPenalty, {"coefficient": 2.0})]
    agent = MBPO("MlpPolicy", ENV, wrappers=wrappers, **TINY).learn(67)
    agent.save(tmp_path / "agent")
    loaded = MBPO.load(tmp_path / "agent", env=ENV, device="cpu")
    assert loaded.wrappers == agent.wrappers
    assert loaded.imagined_timesteps == agent.imagined_timesteps > 0
    for other in (agent, loaded):
        other.learn(30, reset_num_timesteps=False)
    mine, theirs = agent.get_parameters(), loaded.get_parameters()
    assert all(same_numbers(mine[name], theirs[name]) for name in mine)
    agent.export_sb3(tmp_path / "sac.zip")
    stock = SAC.load(tmp_path / "sac.zip", device="cpu")
    obs = np.random.default_rng(0).normal(size=(5, 4))
    np.testing.assert_allclose(
        stock.predict(obs, deterministic=True)[0], agent.predict(obs, deterministic=True)[0], rtol=1e-6
    )


def test_updates_follow_every_real_step_once_there_is_a_model() -> None:
    agent = MBPO("MlpPolicy", ENV, **TINY)
    seen: list[int] = []
    train = agent.algorithm.train
    agent.algorithm.train = lambda steps, batch: (seen.append(agent.num_timesteps), train(steps, batch))[1]  # type: ignore[method-assign]
    agent.learn(50)
    assert seen == list(range(41, 51))


def test_the_cpu_preset_is_light() -> None:
    light, full = cpu("Hopper-v5"), paper("Hopper-v5")
    assert light.rollouts.updates_per_step < full.rollouts.updates_per_step
    assert light.trainer.max_updates is not None
    assert light.sac == {"policy_kwargs": {"net_arch": [128, 128]}, "target_entropy": -1.0}
    assert "target_entropy" not in cpu("Something-v0").sac  # SB3's own
    lengths = [cpu(f"{name}-v5").rollouts.length for name in ("InvertedPendulum", "Hopper", "Something")]
    assert lengths == [AdaptiveLength(bound=0.1), full.rollouts.length, FixedLength(1)]


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match=r"preset must be one of \['cpu', 'paper'\], got 'gpu'"):
        MBPO("MlpPolicy", ENV, preset="gpu")
    with pytest.raises(ValueError, match=r"env must have a Box of actions.*take Dyna with algorithm=DQN"):
        MBPO("MlpPolicy", "CartPole-v1")
    with pytest.raises(ValueError, match="updates_per_step must be at least 1, got 0"):
        BranchedRollouts(updates_per_step=0)
    with pytest.raises(ValueError, match=r"real_ratio must be between 0 and 1, got 1.5"):
        BranchedRollouts(real_ratio=1.5)
    with pytest.raises(ValueError, match="length must be a RolloutLength, as in FixedLength"):
        BranchedRollouts(length=3)  # type: ignore[arg-type]
    assert torch.get_num_threads() == 1
