"""SB3's actor and critics as stacks of matrices: parameters in one flat tensor, gradients by hand, no allocation."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from stable_baselines3 import SAC
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.sac.policies import Actor
from torch import Tensor, nn
from torch.optim.adam import Adam, adam


def why_not_lean(algorithm: SAC) -> str | None:
    """Return why the hand-written update does not cover the networks of ``algorithm``; None where it does."""
    actor, critics = algorithm.actor, (algorithm.critic, algorithm.critic_target)
    distribution: Any = actor.action_dist
    if algorithm.use_sde:
        return "it explores with gSDE"
    if type(actor) is not Actor or any(type(critic) is not ContinuousCritic for critic in critics):
        return "its actor or critic is not SB3's own class"
    if type(distribution) is not SquashedDiagGaussianDistribution:
        return f"its actions are distributed as {type(distribution).__name__}"
    for part in (actor, *critics):
        if type(part.features_extractor) is not FlattenExtractor:
            return f"its features come from {type(part.features_extractor).__name__}, not FlattenExtractor"
    for network in (actor.latent_pi, *(q for critic in critics for q in critic.q_networks)):
        for layer in network.children():
            if type(layer) not in (nn.Linear, nn.ReLU):
                return f"its networks have {type(layer).__name__} layers, not only Linear and ReLU"
    if not all(p.requires_grad and p.dtype == torch.float32 for p in algorithm.policy.parameters()):
        return "its parameters are frozen or not float32"
    for optimizer in (actor.optimizer, critics[0].optimizer):
        groups = optimizer.param_groups
        if type(optimizer) is not Adam or len(groups) > 1 or groups[0]["amsgrad"] or groups[0]["maximize"]:
            return f"its optimiser is not a plain Adam but {optimizer}"
    return None


def actor_layers(actor: Actor) -> list[list[nn.Linear]]:
    """Return the linear modules of SB3's actor by layer; the last layer is both heads side by side."""
    assert isinstance(actor.mu, nn.Linear)
    assert isinstance(actor.log_std, nn.Linear)
    return [[layer] for layer in actor.latent_pi if isinstance(layer, nn.Linear)] + [[actor.mu, actor.log_std]]


def critic_layers(critic: ContinuousCritic) -> list[list[nn.Linear]]:
    """Return the linear modules of SB3's critics by layer, critic by critic in each."""
    networks = [[layer for layer in q.children() if isinstance(layer, nn.Linear)] for q in critic.q_networks]
    return [list(layer) for layer in zip(*networks, strict=True)]


class FlatParameters:
    """Parameters that lie one after the other in one tensor, of which they are views.

    Args:
        parameters: leaf tensors of one device and dtype; their ``data`` is replaced, they themselves stay.
    """

    flat: Tensor

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = list(parameters)
        self.bind()

    def bind(self) -> bool:
        """Gather parameters that something moved (``.to(device)``, a new ``.data``); return whether that was so.

        ``load_state_dict`` copies in place and moves nothing.
        """
        if hasattr(self, "flat") and lies_in(self.flat, self.parameters):
            return False
        self.flat = torch.cat([p.detach().reshape(-1) for p in self.parameters])
        for parameter, view in zip(self.parameters, self.views(self.flat), strict=True):
            parameter.data = view
        return True

    def views(self, flat: Tensor) -> Iterator[Tensor]:
        """Yield the part of ``flat`` that belongs to each parameter, in its shape."""
        start = 0
        for parameter in self.parameters:
            yield flat[start : start + parameter.numel()].view(parameter.shape)
            start += parameter.numel()


def lies_in(flat: Tensor, parts: Sequence[Tensor]) -> bool:
    """Return whether ``parts`` are, in this order and without gaps, the memory of ``flat``."""
    address = flat.data_ptr()
    for part in parts:
        if part.data_ptr() != address or part.device != flat.device or not part.is_contiguous():
            return False
        address += part.numel() * part.element_size()
    return address == flat.data_ptr() + flat.numel() * flat.element_size()


class FlatAdam:
    """A step of a stock ``torch.optim.Adam`` in one fused pass over flat tensors.

    The optimiser stays the owner of its state, in the stock format: its moments are views of the flat ones, and
    `close` writes the step counts, so it can be saved, loaded and stepped by others between `open` and `close`.

    Args:
        optimizer: one group, without amsgrad.
        parameters: all parameters of the optimiser, in any order.
    """

    def __init__(self, optimizer: Adam, parameters: FlatParameters) -> None:
        self.optimizer, self.parameters = optimizer, parameters
        self.gradient = torch.empty(0)
        self._moments: tuple[Tensor, Tensor] = (torch.empty(0), torch.empty(0))
        self._steps, self._rate = torch.zeros(()), torch.zeros(())

    def open(self) -> bool:
        """Take up state and learning rate of the optimiser; return whether memory moved since the last time."""
        flat = self.parameters.flat
        states = [self._state(p) for p in self.parameters.parameters]
        moved = self.gradient.device != flat.device or self.gradient.shape != flat.shape
        if moved:
            self.gradient = torch.zeros_like(flat)
            self._steps = torch.zeros((), device=flat.device)
            self._rate = torch.zeros((), device=flat.device)
        for name, kept in zip(("exp_avg", "exp_avg_sq"), self._moments, strict=True):
            moved = moved or not lies_in(kept, [state[name] for state in states])
        if moved:
            self._moments = (self._gather(states, "exp_avg"), self._gather(states, "exp_avg_sq"))
            for state in states:  # load_state_dict shares tensors with the optimiser that the state came from
                state["step"] = state["step"].clone()
        self._steps.fill_(float(states[0]["step"]))
        self._rate.fill_(self.optimizer.param_groups[0]["lr"])
        return moved

    def _state(self, parameter: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.optimizer.state[parameter]
        if not state:  # as Adam itself begins
            state["step"] = torch.tensor(0.0)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        return state

    def _gather(self, states: list[dict[str, Tensor]], name: str) -> Tensor:
        device = self.parameters.flat.device
        flat = torch.cat([state[name].reshape(-1).to(device) for state in states])
        for state, view in zip(states, self.parameters.views(flat), strict=True):
            state[name] = view
        return flat

    def step(self) -> None:
        """Apply ``gradient`` to the parameters."""
        group = self.optimizer.param_groups[0]
        on_cpu = self._rate.device.type == "cpu"
        adam(
            [self.parameters.flat],
            [self.gradient],
            [self._moments[0]],
            [self._moments[1]],
            [],
            [self._steps],
            foreach=False,
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"] if on_cpu else self._rate,  # a captured graph reads the rate of its replay
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def close(self, steps: int) -> None:
        """Write to the optimiser's state that ``steps`` were taken since `open`."""
        for parameter in self.parameters.parameters:
            self.optimizer.state[parameter]["step"] += steps


class Tape:
    """What one pass of ``rows`` rows through a stack leaves behind: input [rows, in] and every layer [n, rows, out]."""

    def __init__(self, stack: "Stack", rows: int) -> None:
        like = stack.parameters.flat
        self.input = like.new_empty(rows, stack.weights[0].shape[2])
        self.layers = [like.new_empty(stack.members, rows, w.shape[1]) for w in stack.weights]
        self.deltas = [torch.empty_like(layer) for layer in self.layers]
        self.first = like.new_empty(stack.members, stack.weights[0].shape[2], stack.weights[0].shape[1])


class Stack:
    """``members`` ReLU networks of one shape side by side: the parameters of SB3's modules, seen as [n, out, in].

    Args:
        layers: linear modules by layer. What a layer lists is stacked member by member; with more modules than
            members, these are parts of the member's output.
        members: n.
    """

    weights: list[Tensor]
    biases: list[Tensor]

    def __init__(self, layers: Sequence[Sequence[nn.Linear]], members: int) -> None:
        self.members = members
        self._inputs = [layer[0].in_features for layer in layers]
        self._sizes = [len(layer) for layer in layers]
        tensors = [p for layer in layers for p in (*(m.weight for m in layer), *(m.bias for m in layer))]
        self.parameters = FlatParameters(tensors)
        self.weights, self.biases = self.matrices(self.parameters.flat)

    def bind(self) -> bool:
        """Gather parameters that something moved; return whether that was so."""
        moved = self.parameters.bind()
        if moved:
            self.weights, self.biases = self.matrices(self.parameters.flat)
        return moved

    def matrices(self, flat: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the weights [n, out, in] and biases [n, 1, out] that lie in ``flat`` as the parameters do."""
        weights: list[Tensor] = []
        biases: list[Tensor] = []
        start, shapes = 0, [p.shape for p in self.parameters.parameters]
        for width, size in zip(self._inputs, self._sizes, strict=True):
            outputs = sum(shape[0] for shape in shapes[:size])
            end = start + outputs * width
            weights.append(flat[start:end].view(self.members, -1, width))
            biases.append(flat[end : end + outputs].view(self.members, 1, -1))
            start, shapes = end + outputs, shapes[2 * size :]
        return weights, biases

    def forward(self, tape: Tape) -> Tensor:
        """Return the output [n, rows, out] for ``tape.input``; it is part of the tape and lives as long."""
        below = tape.input.expand(self.members, -1, -1)
        last = len(self.weights) - 1
        for i, (weight, bias, out) in enumerate(zip(self.weights, self.biases, tape.layers, strict=True)):
            torch.baddbmm(bias, below, weight.mT, out=out)
            below = out if i == last else out.relu_()
        return below

    def backward(self, tape: Tape, delta: Tensor, gradient: tuple[list[Tensor], list[Tensor]] | None) -> Tensor:
        """Return the loss's gradient by the first layer's output before its ReLU, [n, rows, out].

        Args:
            tape: of the `forward` before; its hidden layers are overwritten.
            delta: the loss's gradient by the output, [n, rows, out].
            gradient: `matrices` to write the gradient by the parameters to; None for none.
        """
        for i in reversed(range(len(self.weights))):
            if gradient is not None:
                torch.sum(delta, 1, keepdim=True, out=gradient[1][i])
                if i > 0:
                    torch.bmm(delta.mT, tape.layers[i - 1], out=gradient[0][i])
                else:  # a product with few columns is slow, one with few rows is not
                    below = tape.input.expand(self.members, -1, -1)
                    gradient[0][0].copy_(torch.bmm(below.mT, delta, out=tape.first).mT)
            if i > 0:
                step = tape.layers[i - 1].sign_()  # ReLU's derivative: its output is not needed any more
                product = torch.mul if delta.shape[2] == 1 else torch.bmm
                delta = product(delta, self.weights[i], out=tape.deltas[i - 1]).mul_(step)
        return delta

    def slope(self, tape: Tape, chosen: Tensor, start: int) -> Tensor:
        """Return how the only output of member ``chosen[row]`` changes with its inputs: [rows, in - start].

        Each row goes back through its own member alone, on the CPU; elsewhere through all of them, since sorting rows
        would make the host wait for the device.

        Args:
            tape: of the `forward` before; its hidden layers may be overwritten.
            chosen: member of each row, [rows], int64.
            start: first input of interest.
        """
        if chosen.device.type == "cpu" and self.members > 1:
            return self._slope_by_member(tape, chosen, start)
        return self._slope_of_all(tape, chosen, start)

    def _slope_of_all(self, tape: Tape, chosen: Tensor, start: int) -> Tensor:
        members = torch.arange(self.members, device=chosen.device).view(-1, 1, 1)
        delta = self.backward(tape, (members == chosen.view(1, -1, 1)).to(tape.input.dtype), None)
        return torch.bmm(delta, self.weights[0][:, :, start:]).sum(0)

    def _slope_by_member(self, tape: Tape, chosen: Tensor, start: int) -> Tensor:
        slope = tape.input.new_empty(chosen.shape[0], tape.input.shape[1] - start)
        first = self.weights[0][:, :, start:].mT.contiguous()  # three times as fast as the product with a slice
        for member in range(self.members):
            rows = (chosen == member).nonzero().squeeze(1)
            delta = self.weights[-1][member].expand(rows.shape[0], -1)
            for i in reversed(range(len(self.weights) - 1)):
                step = tape.layers[i][member].index_select(0, rows).sign_()
                delta = torch.mm(step.mul_(delta), self.weights[i][member] if i else first[member].mT)
            slope.index_copy_(0, rows, delta if len(self.weights) > 1 else delta[:, start:])
        return slope
