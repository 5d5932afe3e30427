"""What an actor of the Dreamer family can say about actions."""

import pytest
import torch
from gymnasium import spaces

from mbrl_gym.agents.action_distributions import KINDS, action_distribution, outputs_of
from mbrl_gym.spaces import ActionCodec

SPACES = {
    "box": spaces.Box(-1.0, 1.0, (2,)),
    "discrete": spaces.Discrete(3),
    "multi_discrete": spaces.MultiDiscrete([2, 3]),
    "multi_binary": spaces.MultiBinary(3),
}


def make(space: str, kind: str = "bounded_normal", rows: int = 1):
    codec = ActionCodec(SPACES[space])
    outputs = torch.linspace(-1.0, 1.5, outputs_of(codec)).repeat(rows, 1).requires_grad_()
    return codec, outputs, action_distribution(codec, outputs, kind)


CASES = [(space, "bounded_normal") for space in SPACES if space != "box"] + [("box", kind) for kind in KINDS]


@pytest.mark.parametrize(("space", "kind"), CASES)
def test_samples_are_encoded_actions_and_have_gradients(space, kind):
    codec, outputs, dist = make(space, kind, 1000)
    drawn = dist.sample(torch.Generator().manual_seed(0))
    assert drawn.shape == (1000, codec.size)
    if kind != "bounded_normal":
        assert drawn.abs().max() <= 1
    if space != "box":
        assert torch.equal(codec.encode(codec.decode(drawn)), drawn.detach().round())
    (drawn * torch.arange(codec.size)).sum().backward()
    assert outputs.grad is not None
    assert outputs.grad.abs().sum() > 0


@pytest.mark.parametrize(("space", "kind"), [case for case in CASES if case[1] != "tanh_normal"])
def test_entropy_is_the_mean_of_minus_log_prob(space, kind):
    _, _, dist = make(space, kind, 200_000)
    drawn = dist.sample(torch.Generator().manual_seed(0)).detach()
    torch.testing.assert_close(-dist.log_prob(drawn).mean(), dist.entropy()[0], atol=0.01, rtol=0)


def test_the_entropy_of_the_tanh_normal_is_right_on_average():
    torch.manual_seed(0)
    outputs = torch.tensor([[0.0, 0.5, -5.0, -5.0]]).repeat(200_000, 1)
    narrow = action_distribution(ActionCodec(SPACES["box"]), outputs, "tanh_normal")
    drawn = narrow.sample()
    torch.testing.assert_close(-narrow.log_prob(drawn).mean(), narrow.entropy().mean(), atol=0.05, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_densities_of_one_number_integrate_to_one(kind):
    codec = ActionCodec(spaces.Box(-1.0, 1.0, (1,)))
    grid = torch.linspace(-1.0, 1.0, 200_001)[:, None]
    if kind == "bounded_normal":  # not cut: clipping is left to the environment
        grid = 10 * grid
    dist = action_distribution(codec, torch.tensor([[0.3, -5.2]]), kind)
    density = dist.log_prob(grid).exp()
    torch.testing.assert_close(torch.trapezoid(density, grid[:, 0]), torch.tensor(1.0), atol=2e-3, rtol=0)


def test_modes_are_the_likeliest_and_unimix_leaves_a_floor():
    _, _, dist = make("multi_discrete")
    assert dist.mode.round().tolist() == [[0, 1, 0, 0, 1]]
    sure = torch.tensor([[50.0, -50.0, 50.0, -50.0, -50.0]])
    codec = ActionCodec(SPACES["multi_discrete"])
    other = torch.tensor([[0.0, 1.0, 1.0, 0.0, 0.0]])
    floor = action_distribution(codec, sure, "bounded_normal", 0.01).log_prob(other).exp()
    torch.testing.assert_close(floor, torch.tensor([0.005 * (0.99 + 0.01 / 3)]))
    assert action_distribution(codec, sure, "bounded_normal", 0.0).log_prob(other).exp() < 1e-20


def test_deviations_are_the_references():
    codec, nothing = ActionCodec(spaces.Box(-1.0, 1.0, (1,))), torch.zeros(1, 2)
    torch.testing.assert_close(action_distribution(codec, nothing, "truncated_normal").deviation.item(), 1.1)
    torch.testing.assert_close(action_distribution(codec, nothing, "tanh_normal").base.deviation.item(), 5.0001)
    torch.testing.assert_close(
        action_distribution(codec, nothing, "bounded_normal").deviation.item(), 0.9 / (1 + 2.718281828**-2) + 0.1
    )
