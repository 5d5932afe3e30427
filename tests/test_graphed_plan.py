"""GraphedPlan: what is captured, copied and replayed, with a stand-in for CUDA graphs, and with them if there are."""

import contextlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from mbrl_gym.models.ensemble import Ensemble, EnsembleConfig
from mbrl_gym.planners import CEM, CEMConfig, GradientConfig, GradientPlanner, GraphedPlan, Planner
from mbrl_gym.planners import graphed as module

CONFIG = CEMConfig(candidates=12, elites=4, iterations=2, horizon=3, particles=4)


def planning(rows: int, device: str = "cpu") -> tuple[Planner[Any], Ensemble, Any, Any]:
    torch.manual_seed(0)
    box, push = spaces.Box(-np.inf, np.inf, (3,), np.float32), spaces.Box(-1, 1, (2,), np.float32)
    model = Ensemble(box, push, EnsembleConfig(members=2, hidden=(8,))).to(device)
    planner = CEM(model.action_codec, CONFIG)
    obs = torch.randn(rows, 3, device=device)
    first = torch.ones(rows, dtype=torch.bool, device=device)
    state = model.observe(model.initial(rows), torch.zeros(rows, 2, device=device), obs, first)
    return planner, model.frozen(), state, planner.initial(rows, device)


def seeded(seed: int, device: str = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """CUDA's graphs on the CPU: a capture remembers the plan, and a replay makes it again into the same tensors."""
    said: list[str] = []

    class Graph:
        def register_generator_state(self, generator: torch.Generator) -> None:
            self.generator = generator

        def replay(self) -> None:
            said.append("replay")
            for kept, new in zip(self.output.tensors(), self.make().tensors(), strict=True):
                kept.copy_(new)

    @contextlib.contextmanager
    def capture(graph: Graph) -> Any:
        said.append("capture")
        plan = CEM.plan

        def noting(self: Any, model: Any, state: Any, carry: Any, generator: Any) -> Any:
            assert generator is graph.generator
            graph.make = lambda: plan(self, model, state, carry, generator)
            graph.output = plan(self, model, state, carry, generator)
            return graph.output

        with monkeypatch.context() as patch:
            patch.setattr(CEM, "plan", noting)
            yield

    stream = SimpleNamespace(wait_stream=lambda other: None)
    cuda = SimpleNamespace(
        CUDAGraph=Graph,
        graph=capture,
        Stream=lambda device: stream,
        stream=lambda s: contextlib.nullcontext(),
        current_stream=lambda device: stream,
    )
    names = ("no_grad", "Generator")
    monkeypatch.setattr(module, "torch", SimpleNamespace(cuda=cuda, **{name: getattr(torch, name) for name in names}))
    return said


def test_a_graph_gives_the_plan_of_its_inputs_and_seed(pretended: list[str]) -> None:
    planner, model, state, carry = planning(3)
    graphed = GraphedPlan(planner, model)
    graphed.enabled = True
    first = graphed(state, carry, seeded(1))
    kept = [x.clone() for x in first.tensors()]
    other = state.map(lambda x: x + 1 if x.is_floating_point() else x)
    for start, memory, seed in ((state, carry, 1), (other, carry, 1), (state, first.carry, 1), (state, carry, 2)):
        wanted = planner.plan(model, start, memory, seeded(seed))
        for x, y in zip(wanted.tensors(), graphed(start, memory, seeded(seed)).tensors(), strict=True):
            torch.testing.assert_close(x, y)
    assert pretended == ["capture"] + ["replay"] * 5
    assert all(torch.equal(x, y) for x, y in zip(kept, first.tensors(), strict=True))  # later plans leave it alone


def test_each_batch_size_has_its_graph(pretended: list[str]) -> None:
    planner, model, *_ = planning(1)
    graphed = GraphedPlan(planner, model)
    graphed.enabled = True
    for rows in (1, 2, 1):
        _, _, state, carry = planning(rows)
        assert graphed(state, carry, seeded(0)).action.shape == (rows, 2)
    assert pretended.count("capture") == 2


def test_without_cuda_or_with_gradients_there_is_no_graph() -> None:
    planner, model, state, carry = planning(2)
    graphed = GraphedPlan(planner, model)
    assert not graphed.enabled
    torch.testing.assert_close(
        graphed(state, carry, seeded(1)).action, planner.plan(model, state, carry, seeded(1)).action
    )
    on_cuda: Any = SimpleNamespace(device=torch.device("cuda"))
    assert GraphedPlan(planner, on_cuda).enabled
    assert not GraphedPlan(GradientPlanner(model.action_codec, GradientConfig()), on_cuda).enabled


def test_what_cannot_be_captured_is_planned_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    planner, model, state, carry = planning(2)
    graphed = GraphedPlan(planner, model)
    graphed.enabled = True

    def refuse(*arguments: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(module, "_Graph", refuse)
    with pytest.warns(UserWarning, match="cannot be a CUDA graph and is made step by step: operation not permitted"):
        plan = graphed(state, carry, seeded(1))
    torch.testing.assert_close(plan.action, planner.plan(model, state, carry, seeded(1)).action)
    assert not graphed.enabled


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_graph_gives_the_plan_of_its_seed() -> None:
    planner, model, state, carry = planning(3, "cuda")
    graphed = GraphedPlan(planner, model)
    first, again = (graphed(state, carry, seeded(1, "cuda")) for _ in range(2))
    assert graphed.enabled
    assert torch.equal(first.action, again.action)
    torch.testing.assert_close(first.action, planner.plan(model, state, carry, seeded(1, "cuda")).action)
    assert not torch.equal(first.action, graphed(state, carry, seeded(2, "cuda")).action)
