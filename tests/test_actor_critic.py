"""The losses that behaviour learns from.

The golden numbers come from running danijar/dreamerv3 at e3f0224 with jax on a CPU: its imag_loss and repl_loss.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from mbrl_gym.agents.actor_critic import ActorCritic, BehaviorConfig, Dream, _weights
from mbrl_gym.spaces import ActionCodec

B, T = 2, 4
BOX, DISCRETE = ActionCodec(spaces.Box(-1.0, 1.0, (2,))), ActionCodec(spaces.Discrete(3))
EXACT = BehaviorConfig(discount=1.0)


class Said(nn.Module):
    """A network that says of state number i what row i of a table holds."""

    def __init__(self, table):
        super().__init__()
        self.table = nn.Parameter(torch.as_tensor(table, dtype=torch.float32).flatten(0, 1))

    def forward(self, features):
        return self.table[features[..., 0].long()]


def bumps(center):
    return -0.5 * ((np.arange(255) - 127 - center[..., None]) / 3) ** 2


CENTER = np.arange(B * T).reshape(B, T) * 3.0 - 5
NUMBER = torch.arange(B * T).reshape(B, T, 1).float()
REWARD = torch.as_tensor(2 * np.sin(np.arange(B * T)).reshape(B, T)).float()
CONTINUATION = torch.as_tensor(0.7 + 0.3 * np.cos(np.arange(B * T)).reshape(B, T) ** 2).float()


def told(codec=DISCRETE, config=EXACT):
    """An actor-critic whose networks say what the reference's were told."""
    found = ActorCritic(1, codec, config)
    found.critic, found.slow_critic = Said(bumps(CENTER)), Said(bumps(CENTER * 0.5 + 1))
    if codec.continuous:
        mean, deviation = np.cos(np.arange(B * T * 2)), np.sin(np.arange(B * T * 2) + 1.0)
        found.actor = Said(np.concatenate([mean.reshape(B, T, 2), deviation.reshape(B, T, 2)], -1))
    else:
        found.actor = Said(np.sin(0.9 * np.arange(B * T * 3)).reshape(B, T, 3))
    return found


def dream(codec=DISCRETE):
    action = (0.3 * np.arange(B * T * 2) % 1.7 - 0.8).reshape(B, T, 2)
    if not codec.continuous:
        action = np.eye(3)[np.arange(B * T) % 3].reshape(B, T, 3)
    return Dream(NUMBER, torch.as_tensor(action).float(), REWARD, CONTINUATION)


RETURNS = [
    [3.7614378929138184, 2.804142951965332, 1.3668875694274902],
    [6.115368843078613, 11.445756912231445, 12.53625774383545],
]
VALUE = [
    [16.88461685180664, 8.155240058898926, 3.0821621417999268],
    [4.8740458488464355, 3.995974540710449, 3.5317373275756836],
]
POLICY = {
    DISCRETE: [
        [9.151254653930664, 3.5772807598114014, 0.34384486079216003],
        [4.3082966804504395, 6.114406585693359, 2.453216314315796],
    ],
    BOX: [
        [18.939849853515625, 5.491896152496338, 1.5676370859146118],
        [6.806424140930176, 12.915348052978516, 9.28332805633545],
    ],
}


@pytest.mark.parametrize("codec", [DISCRETE, BOX], ids=["discrete", "box"])
def test_the_losses_on_imagination_are_the_references(codec):
    loss = told(codec).imagination_loss(dream(codec))
    torch.testing.assert_close(loss.returns, torch.tensor(RETURNS), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loss.critic, torch.tensor(VALUE).mean(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loss.actor, torch.tensor(POLICY[codec]).mean(), rtol=1e-5, atol=1e-5)


def test_the_weights_count_the_end_of_the_state_that_a_rollout_starts_from():
    torch.testing.assert_close(_weights(CONTINUATION, 1.0).mean(), torch.tensor(0.6864838004112244))
    halves = torch.tensor([[0.5, 1.0, 0.5]])
    torch.testing.assert_close(_weights(halves, 0.9), torch.tensor([[0.5, 0.45, 0.2025]]))


def test_the_loss_on_real_sequences_is_the_references():
    is_last = torch.tensor([[False, False, True, False], [False] * 4])
    bootstrap = torch.as_tensor(CENTER * 0.3 + 1).float()
    loss = told(config=BehaviorConfig()).replay_loss(NUMBER, REWARD, is_last, is_last, bootstrap)
    wanted = [
        [16.115203857421875, 8.342588424682617, 0.0],
        [4.972517013549805, 5.0723724365234375, 5.341004371643066],
    ]
    torch.testing.assert_close(loss, torch.tensor(wanted).mean(), rtol=1e-5, atol=1e-5)


def gradients(config, codec=DISCRETE, through=True):
    """Return the gradient that features get from the actor's loss, and the parts with one from both losses."""
    torch.manual_seed(0)
    found = ActorCritic(3, codec, config)
    features = torch.randn(B, T, 3, requires_grad=through)
    reward = features[..., 0] if through else REWARD
    loss = found.imagination_loss(Dream(features, dream(codec).action, reward, CONTINUATION))
    loss.actor.backward(retain_graph=True)
    parts = {name.split(".")[0] for name, p in found.named_parameters() if p.grad is not None and p.grad.any()}
    found.zero_grad()
    felt = None if features.grad is None else features.grad.clone()
    loss.critic.backward()
    critics = {name.split(".")[0] for name, p in found.named_parameters() if p.grad is not None and p.grad.any()}
    return felt, parts, critics


V2 = BehaviorConfig(value="normal", reinforce=0.0, normalize_returns=False, slow_regularizer=0.0, slow_target=True)


def test_a_score_function_sends_no_gradient_through_the_dynamics():
    felt, parts, critics = gradients(BehaviorConfig())
    assert felt is None
    assert parts == {"actor"}
    assert critics == {"critic"}


@pytest.mark.parametrize("slow_target", [True, False])
def test_a_gradient_through_the_dynamics_reaches_features_and_no_critic(slow_target):
    felt, parts, critics = gradients(replace(V2, slow_target=slow_target, entropy_scale=0.0))
    assert felt is not None
    assert felt[:, 1:].abs().sum() > 0
    assert not felt[:, 0].any(), "what arrives with the first state is no consequence of an action"
    assert parts == set()  # of the actor, it comes by way of the actions in the features
    assert critics == {"critic"}


def test_a_mix_is_in_between():
    felt, parts, _ = gradients(replace(V2, reinforce=0.9))
    all_felt, _, _ = gradients(replace(V2, reinforce=0.0))
    assert parts == {"actor"}
    torch.testing.assert_close(felt, 0.1 * all_felt)


def actor_loss(**change):
    return told(config=replace(EXACT, **change)).imagination_loss(dream())


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"discount": 0.9}, "actor"),
        ({"lam": 0.5}, "actor"),
        ({"entropy_scale": 1.0}, "actor"),
        ({"slow_target": True}, "actor"),
        ({"unimix": 0.3}, "actor"),
        ({"slow_regularizer": 0.0}, "critic"),
    ],
)
def test_every_number_has_an_effect(change, part):
    assert getattr(actor_loss(), part) != getattr(actor_loss(**change), part)


def test_returns_are_scaled_by_their_spread():
    small = told()
    small.return_scale.high.fill_(100.0)
    without = told(config=replace(EXACT, normalize_returns=False, entropy_scale=0.0))
    without.return_scale.high.fill_(100.0)
    small.config = replace(EXACT, entropy_scale=0.0)
    scale = small.return_scale
    ratio = without.imagination_loss(dream()).actor / small.imagination_loss(dream()).actor
    torch.testing.assert_close(ratio, scale.scale)
    assert scale.scale > 50


def test_the_slow_critic_follows_at_its_pace():
    found = ActorCritic(3, DISCRETE, BehaviorConfig(slow_rate=0.5, slow_every=2))
    with torch.no_grad():
        for p in found.critic.parameters():
            p.add_(1.0)
    found.follow()
    pairs = list(zip(found.critic.parameters(), found.slow_critic.parameters(), strict=True))
    for p, q in pairs:
        torch.testing.assert_close(p.detach(), q + 1.0)
    found.follow()
    for p, q in pairs:
        torch.testing.assert_close(p.detach(), q + 0.5)
    assert not any(p.requires_grad for p in found.slow_critic.parameters())


def test_values_begin_at_exactly_zero_and_policies_alike():
    found = ActorCritic(3, DISCRETE, BehaviorConfig())
    features = torch.randn(5, 3)
    assert not found.value(features).mean.any()
    assert found.policy(features).entropy().min() > 1.098


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"horizon": 0}, "horizon must be at least 1, got 0"),
        ({"discount": 1.5}, "discount must be above 0 and at most 1, got 1.5"),
        ({"discount": 0.0}, "discount must be above 0 and at most 1, got 0.0"),
        ({"unimix": 2.0}, "unimix must be at least 0 and below 1, got 2.0"),
        ({"entropy_scale": float("nan")}, "entropy_scale must be at least 0, got nan"),
        ({"actor": "normal"}, "actor must be one of .* got 'normal'"),
    ],
)
def test_bad_numbers_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        BehaviorConfig(**change)
