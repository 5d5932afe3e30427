"""Layers and cells of the Dreamer family.

The golden numbers come from running danijar/dreamerv3 at e3f0224 with jax on a CPU: nets.Norm, nets.Initializer, and
RSSM._core with weights that are sines.
"""

import numpy as np
import pytest
import torch

from mbrl_gym.nets import blocks
from mbrl_gym.nets.blocks import BlockLinear, Linear, RMSNorm, activated, by_block
from mbrl_gym.nets.mlp import MLP
from mbrl_gym.nets.recurrent import BlockGRUCell, GRUCell, LayerNormGRUCell, _BlockGates, _gru

CELLS = [GRUCell, LayerNormGRUCell, BlockGRUCell]


def test_the_norm_is_the_references():
    found = RMSNorm(4)(torch.tensor([[1.0, 2.0, -3.0, 0.5]]))
    wanted = [0.5298055410385132, 1.0596110820770264, -1.5894166231155396, 0.2649027705192566]
    torch.testing.assert_close(found, torch.tensor([wanted]))


def test_the_norm_computes_in_float32_and_returns_what_it_was_given():
    x = torch.full((1, 64), 300.0, dtype=torch.float16)  # whose squares float16 cannot hold
    found = RMSNorm(64)(x)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found, torch.ones_like(x))


def test_initial_weights_have_the_references_spread():
    """Of (300, 400), (8, 64, 48) blocks: standard deviation and largest, from one draw of the reference."""
    torch.manual_seed(0)
    linear, block = Linear(300, 400), BlockLinear(8 * 64, 8 * 48, 8)
    for layer, deviation, largest in ((linear, 0.05770822614431381, 0.1313), (block, 0.04436204954981804, 0.1005)):
        assert float(layer.weight.detach().std()) == pytest.approx(deviation, rel=0.02)
        assert float(layer.weight.detach().abs().max()) == pytest.approx(largest, rel=0.01)
        assert not layer.bias.any()
    assert not Linear(3, 4, scale=0.0).weight.any()


def test_a_block_sees_its_own_part_alone():
    layer = BlockLinear(6, 4, 2)
    x, other = torch.ones(1, 6), torch.ones(1, 6)
    other[0, :3] = 5.0
    before, after = layer(x), layer(other)
    assert torch.equal(before[:, 2:], after[:, 2:])
    assert not torch.equal(before[:, :2], after[:, :2])
    torch.testing.assert_close(before[0, :2], layer.weight[0].sum(0))
    with pytest.raises(ValueError, match="outputs must be a multiple of the 4 blocks, got 6"):
        BlockLinear(8, 6, 4)


def sines(shape, number):
    """The reference's weights: the ``number``-th of its parameters by name."""
    return torch.tensor(0.5 * np.sin(0.7 * np.arange(int(np.prod(shape))) + number), dtype=torch.float32).reshape(shape)


def test_a_step_of_the_block_gru_is_the_references():
    size, hidden, blocks = 16, 4, 4
    cell = BlockGRUCell(6, 2, size, hidden, blocks)
    shared = sines((blocks, 16, 4), 3)  # of each block: its part of the state, then what all blocks see
    weights = {
        "gates.bias": sines((48,), 0),
        "gates.weight": sines((blocks, 4, 12), 1),
        "own.bias": sines((16,), 2),
        "own.weight": shared[:, :4],
        "shared.weight": shared[:, 4:12].permute(0, 2, 1).reshape(size, 8),
        "action_shared": shared[:, 12:].permute(0, 2, 1).reshape(size, 4),
        "norm.scale": sines((16,), 4) + 1,
        "deter_in.bias": sines((4,), 5),
        "deter_in.weight": sines((16, 4), 6).T,
        "deter_norm.scale": sines((4,), 7) + 1,
        "stoch_in.bias": sines((4,), 8),
        "stoch_in.weight": sines((6, 4), 9).T,
        "stoch_norm.scale": sines((4,), 10) + 1,
        "action_in.bias": sines((4,), 11),
        "action_in.weight": sines((2, 4), 12).T,
        "action_norm.scale": sines((4,), 13) + 1,
    }
    cell.load_state_dict(weights)
    deter = torch.tensor(np.sin(np.arange(48) * 0.31), dtype=torch.float32).reshape(3, 16)
    stoch = torch.eye(3)[torch.tensor([[0, 1], [2, 2], [1, 0]])].flatten(1)
    action = torch.tensor([[0.5, -0.25], [3.0, -1.0], [0.0, -2.0]])
    found = cell(deter, stoch, cell.embed(action))
    # fmt: off
    wanted = torch.tensor([
        0.011715211905539036, 0.1814417690038681, 0.2869299054145813, 0.40260088443756104,
        0.42110228538513184, 0.5572509169578552, 0.6834906935691833, 0.6814484596252441,
        0.5302621722221375, 0.3198245167732239, 0.0600198395550251, -0.21028704941272736,
        -0.4123985767364502, -0.591077983379364, -0.7050188779830933, -0.7414232492446899,
        -0.7429084181785583, -0.6471684575080872, -0.5193497538566589, -0.34095191955566406,
        -0.2614589035511017, 0.011324174702167511, 0.34757453203201294, 0.6245893239974976,
        0.7778162956237793, 0.8548089265823364, 0.8059554696083069, 0.622660756111145,
        0.559766948223114, 0.2983887195587158, 0.012376219034194946, -0.21860051155090332,
        -0.3796020448207855, -0.5857157707214355, -0.6886461973190308, -0.6939834356307983,
        -0.7247119545936584, -0.6315802931785583, -0.4939216375350952, -0.32037511467933655,
        -0.09650149196386337, 0.1522836685180664, 0.38237160444259644, 0.527074933052063,
        0.6488958597183228, 0.5478553771972656, 0.4284075200557709, 0.42275869846343994,
    ]).reshape(3, 16)
    # fmt: on
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=2e-6)


def test_the_block_grus_weights_begin_as_the_references_one_layer():
    """State and inputs are two tensors here and one kernel there, whose fan-in counts every block's inputs."""
    torch.manual_seed(0)
    cell = BlockGRUCell(32, 4, 512, 64, 8)
    wanted = 0.8796 * 1.1368 / (512 + 3 * 64 * 8) ** 0.5  # 0.8796: deviation of a normal truncated at two
    assert float(cell.own.weight.detach().std()) == pytest.approx(wanted, rel=0.02)
    assert float(cell.shared.weight.detach().std()) == pytest.approx(wanted, rel=0.02)
    assert float(cell.action_shared.detach().std()) == pytest.approx(wanted, rel=0.02)
    assert float(cell.gates.weight.detach().std()) == pytest.approx(0.8796 * 1.1368 / 512**0.5, rel=0.02)


def test_dreamerv2s_gru_by_hand():
    torch.manual_seed(0)
    cell = LayerNormGRUCell(3, 2, 4, 5)
    deter, stoch, action = torch.randn(6, 4), torch.randn(6, 3), torch.randn(6, 2)
    inputs = np.concatenate([stoch, action], 1)
    weight = np.concatenate([cell.stoch_in.weight.detach(), cell.action_in.weight.detach()], 1)
    hidden = inputs @ weight.T + cell.stoch_in.bias.detach().numpy()
    hidden = np.where(hidden > 0, hidden, np.expm1(hidden))
    parts = np.concatenate([hidden, deter], 1) @ cell.gates.weight.detach().numpy().T
    parts = parts + cell.gates.bias.detach().numpy()
    parts = (parts - parts.mean(1, keepdims=True)) / np.sqrt(parts.var(1, keepdims=True) + 1e-3)
    reset, candidate, update = np.split(parts, 3, 1)
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    update = sigmoid(update - 1)
    wanted = update * np.tanh(sigmoid(reset) * candidate) + (1 - update) * deter.numpy()
    found = cell(deter, stoch, cell.embed(action)).detach().numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_a_gru_by_hand():
    torch.manual_seed(0)
    cell = GRUCell(3, 2, 4, 5)
    deter, stoch, action = torch.randn(6, 4), torch.randn(6, 3), torch.randn(6, 2)
    hidden = torch.nn.functional.elu(cell.stoch_in(stoch) + action @ cell.action_in.weight.T)
    torch.testing.assert_close(cell(deter, stoch, cell.embed(action)), cell.gru(hidden, deter))


@pytest.mark.parametrize("kind", CELLS)
def test_every_input_of_a_cell_has_an_effect_and_a_gradient(kind):
    torch.manual_seed(0)
    cell = kind(3, 2, 16, 8)
    inputs = [torch.randn(2, 16), torch.randn(2, 3), torch.randn(2, 2)]
    for x in inputs:
        x.requires_grad_()
    cell(inputs[0], inputs[1], cell.embed(inputs[2])).square().sum().backward()
    assert all(x.grad is not None and bool((x.grad != 0).any(1).all()) for x in inputs)
    assert all(p.grad is not None and bool(p.grad.any()) for p in cell.parameters())


@pytest.mark.parametrize("kind", CELLS)
def test_actions_are_embedded_for_all_steps_at_once(kind):
    cell = kind(3, 2, 16, 8)
    action = torch.randn(5, 7, 2)
    torch.testing.assert_close(cell.embed(action)[:, 3], cell.embed(action[:, 3]))


def gradients_of(function, *inputs):
    """Return what a function makes of copies of its inputs, and the gradients to them of an uneven sum of it."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    found = function(*leaves)
    weights = torch.linspace(-1, 1, found.numel(), dtype=found.dtype).view(found.shape)
    return found.detach(), *torch.autograd.grad((weights * found).sum(), leaves)


def test_norm_and_silu_in_one_are_the_two(monkeypatch):
    monkeypatch.setattr(blocks, "CACHED", 24)  # four rows at a time: the last time fewer
    torch.manual_seed(0)
    x, scale = 3 * torch.randn(2, 7, 6, dtype=torch.float64), torch.rand(6, dtype=torch.float64) + 0.5

    def fused(x, scale):
        return blocks._NormedSiLU.apply(x.flatten(0, 1), scale, 1e-4).view(x.shape)

    def plain(x, scale):
        return torch.nn.functional.silu(scale * x / (x.square().mean(-1, keepdim=True) + 1e-4).sqrt())

    for found, wanted in zip(gradients_of(fused, x, scale), gradients_of(plain, x, scale), strict=True):
        torch.testing.assert_close(found, wanted)


def test_norm_and_activation_keep_shape_and_type(monkeypatch):
    monkeypatch.setattr(blocks, "LARGE", 0)
    norm, x = RMSNorm(6), torch.randn(2, 7, 6)
    for activation in (torch.nn.SiLU(), torch.nn.ELU()):
        torch.testing.assert_close(activated(x, norm, activation), activation(norm(x)))
    low = activated(x.bfloat16(), norm, torch.nn.SiLU())
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), torch.nn.functional.silu(norm(x)), atol=0.03, rtol=0.03)


def test_gates_in_one_are_the_plain_ones(monkeypatch):
    monkeypatch.setattr(blocks, "CACHED", 24)  # four rows at a time
    torch.manual_seed(0)
    deter, gates = torch.randn(7, 6, dtype=torch.float64), 2 * torch.randn(2, 7, 9, dtype=torch.float64)

    def plain(deter, gates):
        return _gru(by_block(deter, 2), *gates.chunk(3, -1)).transpose(0, 1).flatten(1)

    for found, wanted in zip(
        gradients_of(_BlockGates.apply, deter, gates), gradients_of(plain, deter, gates), strict=True
    ):
        torch.testing.assert_close(found, wanted)


def test_known_products_leave_the_gradient_to_the_weights():
    torch.manual_seed(0)
    mlp, x = MLP(5, 8, 2, 3), torch.randn(4, 6, 5)
    wanted = torch.autograd.grad(mlp(x).square().sum(), list(mlp.parameters()))
    with torch.no_grad():
        products = mlp.products(x)
    onward = mlp.onward(mlp.known(x, products))
    torch.testing.assert_close(torch.autograd.grad(onward.square().sum(), list(mlp.parameters())), wanted)
