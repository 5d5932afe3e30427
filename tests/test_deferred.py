"""Weight gradients of a scan, taken at once: they are those of autograd, and fewer products."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mbrl_gym.nets.blocks import BlockLinear, Linear
from mbrl_gym.nets.deferred import scanning
from mbrl_gym.nets.recurrent import BlockGRUCell


class Products(TorchDispatchMode):
    """Counts products of matrices."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.__name__.split(".")[0] in ("mm", "addmm", "bmm", "baddbmm")
        return func(*args, **(kwargs or {}))


def unrolled(cell, steps, start, stoch, embedded, at_once):
    """Return the gradients of all that a cell's last three states depend on, and the number of products."""
    cell.zero_grad()
    inputs = [x.clone().requires_grad_() for x in (start, stoch, embedded)]
    state, seen = inputs[0], []
    with Products() as products:
        with scanning(steps if at_once else 0, *([cell] if at_once else [])):
            for t in range(steps):
                state = cell(state, inputs[1][:, t], inputs[2][:, t])
                seen.append(state)
        (torch.stack(seen[-3:]) * torch.linspace(-1, 1, 3)[:, None, None]).sum().backward()
    return [p.grad for p in (*inputs, *cell.parameters())], products.count


def test_gradients_of_a_scan_are_those_of_its_steps():
    torch.manual_seed(0)
    cell, steps = BlockGRUCell(6, 2, 16, 4, 4), 5
    inputs = torch.randn(3, 16), torch.randn(3, steps, 6), torch.randn(3, steps, 16)
    (wanted, many), (found, few) = (unrolled(cell, steps, *inputs, at_once) for at_once in (False, True))
    assert sum(x is not None for x in wanted) == 3 + 12
    for a, b in zip(found, wanted, strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            assert a.abs().max() > 0
            torch.testing.assert_close(a, b)
    assert few == many - 5 * (steps - 1)  # of five layers' weights


@pytest.mark.parametrize("layer", [Linear(4, 6), Linear(4, 6, bias=False), BlockLinear(4, 6, 2)])
def test_steps_that_lead_nowhere_and_fewer_steps_do_no_harm(layer):
    torch.manual_seed(0)
    x = torch.randn(3, 2, 4)
    wanted = torch.autograd.grad(layer(x[1]).square().sum(), list(layer.parameters()))
    with scanning(5, layer):
        outputs = [layer(part) for part in x]
    torch.testing.assert_close(outputs[0], layer(x[0]))  # as outside
    found = torch.autograd.grad(outputs[1].square().sum(), list(layer.parameters()))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_a_layer_forgets_its_scan_whatever_happens():
    layer = Linear(4, 6)

    def fail():
        with scanning(2, layer):
            assert layer.scan is not None
            layer(torch.zeros(2, 5))

    with pytest.raises(RuntimeError):
        fail()
    assert layer.scan is None
