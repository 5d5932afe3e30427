"""GraphedPlan: a whole plan as one CUDA graph, so that no step of it waits for the host."""

import warnings
from typing import Any

import torch
from torch import Tensor

from mbrl_gym.model import WorldModel
from mbrl_gym.planners.base import Plan, Planner
from mbrl_gym.tensors import TensorStruct

WARM_UP = 3  # plans before a capture: libraries set themselves up, constants move to the device


class GraphedPlan:
    """``planner.plan`` in ``model``, captured at the first call of each batch size and replayed from then on.

    A plan is thousands of small kernels, which take the host longer to launch than the device to run. Nothing in a plan
    reads a number on the host, so all of it can be one graph. Where it cannot be captured (another device than CUDA,
    a planner that differentiates, a model that waits for the device) the plan is made as ever.

    Args:
        planner: the planner.
        model: the model to plan in; its weights may not change.
    """

    def __init__(self, planner: Planner[Any], model: WorldModel[Any]) -> None:
        self.planner, self.model = planner, model
        self.enabled = model.device.type == "cuda" and not planner.differentiates
        self._graphs: dict[int, _Graph] = {}

    def __call__(self, state: Any, carry: Any, generator: torch.Generator) -> Plan[Any]:
        """Return the plan for beliefs ``state`` [B] and memory ``carry`` [B].

        A graph draws from the seed of ``generator``, which stays as it is.
        """
        if self.enabled:
            try:
                return self._graph(state, carry)(state, carry, generator.initial_seed())
            except RuntimeError as error:
                self.enabled = False
                warnings.warn(f"the plan cannot be a CUDA graph and is made step by step: {error}", stacklevel=2)
        with torch.no_grad():
            return self.planner.plan(self.model, state, carry, generator)

    def _graph(self, state: Any, carry: Any) -> "_Graph":
        size = state.batch_size
        if size not in self._graphs:
            self._graphs[size] = _Graph(self.planner, self.model, state, carry)
        return self._graphs[size]


class _Graph:
    """One captured plan, with the tensors that it reads and writes."""

    def __init__(self, planner: Planner[Any], model: WorldModel[Any], state: Any, carry: Any) -> None:
        self._state, self._carry = state.map(Tensor.clone), carry.map(Tensor.clone)
        self._generator = torch.Generator(model.device)
        stream = torch.cuda.Stream(model.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(model.device))
        with torch.no_grad(), torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                planner.plan(model, self._state, self._carry, self._generator)
        torch.cuda.current_stream(model.device).wait_stream(stream)
        self._captured = torch.cuda.CUDAGraph()
        self._captured.register_generator_state(self._generator)
        with torch.no_grad(), torch.cuda.graph(self._captured):
            self._plan = planner.plan(model, self._state, self._carry, self._generator)

    def __call__(self, state: TensorStruct, carry: TensorStruct, seed: int) -> Plan[Any]:
        for kept, given in zip(
            (*self._state.tensors(), *self._carry.tensors()), (*state.tensors(), *carry.tensors()), strict=True
        ):
            kept.copy_(given)
        self._generator.manual_seed(seed)
        self._captured.replay()
        return self._plan.map(Tensor.clone)  # the next replay writes to the same memory
