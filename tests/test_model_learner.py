"""The optimisers of the Dreamer family: every number of theirs has an effect."""

from dataclasses import replace

import pytest
import torch
from gymnasium import spaces

from mbrl_gym.agents.actor_critic import ActorCritic, BehaviorConfig
from mbrl_gym.agents.dreamer_learner import DreamerLearner
from mbrl_gym.agents.model_learner import OptimizerConfig
from mbrl_gym.batch import SequenceBatch
from mbrl_gym.models.rssm import RSSM
from mbrl_gym.models.rssm_config import RSSMConfig

ADAM = OptimizerConfig("adam", 1e-2, 1e-3, 1e-4, clip=1e9, eps=1e-8, warmup=0)
LAPROP = OptimizerConfig("laprop", 1e-2, 1e-3, 1e-4, clip=1e9, warmup=0)


def moved(config, updates=1):
    """Return how far the largest number of model, actor and critic moved."""
    torch.manual_seed(0)
    model = RSSM(
        spaces.Box(-1.0, 1.0, (2,)),
        spaces.Discrete(2),
        RSSMConfig(deter=16, hidden=8, stoch=4, classes=4, units=16, layers=1, free_nats=0.0),
    )
    behavior = ActorCritic(32, model.action_codec, BehaviorConfig(units=16, horizon=3))
    learner = DreamerLearner(model, behavior, config)
    parts = {"model": model, "actor": behavior.actor, "critic": behavior.critic}
    before = {name: [p.detach().clone() for p in part.parameters()] for name, part in parts.items()}
    flags = torch.zeros(3, 6, dtype=torch.bool)
    action = torch.eye(2)[torch.randint(2, (3, 6))]
    batch = SequenceBatch(
        torch.rand(3, 6, 2), action, torch.randn(3, 6), flags, flags, flags, torch.zeros(3, 6, dtype=torch.int64)
    )
    for _ in range(updates):
        learner.update(batch, None)
    return [
        max(float((p.detach() - q).abs().max()) for p, q in zip(parts[name].parameters(), before[name], strict=True))
        for name in parts
    ]


@pytest.mark.parametrize("config", [ADAM, LAPROP], ids=["adam", "laprop"])
def test_each_network_has_its_own_rate(config):
    """The first step of either is about the learning rate, whatever the gradient."""
    assert moved(config) == pytest.approx([1e-2, 1e-3, 1e-4], rel=0.05)


def test_rates_that_are_left_out_are_the_models():
    assert OptimizerConfig(learning_rate=1e-2).rates() == {"model": 1e-2, "actor": 1e-2, "critic": 1e-2}


def test_warmup_begins_small():
    assert moved(replace(ADAM, warmup=100)) == pytest.approx([1e-4, 1e-5, 1e-6], rel=0.05)
    assert moved(replace(LAPROP, warmup=100)) == [0.0, 0.0, 0.0]  # its first step moves nothing
    assert 0 < moved(replace(LAPROP, warmup=100), 2)[0] < 1e-3


def test_clipping_and_eps_count():
    """Gradients clipped far below Adam's eps move nothing; LaProp's own eps is as good as none."""
    assert moved(replace(ADAM, clip=1e-12))[0] < 1e-4
    assert moved(replace(ADAM, eps=1e6))[0] < 1e-3
    assert moved(replace(LAPROP, clip=1e-3), 3) != moved(LAPROP, 3)
