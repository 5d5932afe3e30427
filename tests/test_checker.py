"""check_world_model: every model of the library keeps the contract, and every way to break it is named."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from mbrl_gym.batch import SequenceBatch
from mbrl_gym.checker import check_world_model
from mbrl_gym.model import ModelLoss, Prediction
from mbrl_gym.models.ensemble import Ensemble, EnsembleConfig
from mbrl_gym.models.propagation import PROPAGATIONS
from mbrl_gym.models.transition import TransitionState

BOX = spaces.Box(np.float32([-2, -np.inf, 0]), np.float32([2, np.inf, 9]), dtype=np.float32)
TORQUE = spaces.Box(-2, 2, (2,), np.float32)
OBSERVATIONS = {
    "box": BOX,
    "float64": spaces.Box(-np.inf, np.inf, (2,), np.float64),
    "integers": spaces.Box(0, 255, (4,), np.uint8),
    "discrete": spaces.Discrete(4, start=1),
    "multi": spaces.MultiDiscrete([2, 3]),
    "binary": spaces.MultiBinary(3),
    "dict": spaces.Dict(a=BOX, b=spaces.Discrete(3)),
}
ACTIONS = {"box": TORQUE, "discrete": spaces.Discrete(3), "multi": spaces.MultiDiscrete([2, 3])}
SMALL = EnsembleConfig(members=3, elites=2, hidden=(8,), termination_hidden=(4,))


def windows(model: Ensemble, n: int = 24) -> SequenceBatch:
    """Return random transitions, some of them terminal."""
    space = model.observation_space
    samples = [[space.sample() for _ in range(2)] for _ in range(n)]
    obs: Any
    if isinstance(space, spaces.Dict):
        obs = {k: torch.as_tensor(np.array([[s[k] for s in row] for row in samples])) for k in space.spaces}
    else:
        obs = torch.as_tensor(np.array(samples))
    flags = torch.zeros(n, 2, dtype=torch.bool)
    terminated, is_first = flags.clone(), flags.clone()
    terminated[::5, 1] = True
    is_first[:, 0] = True
    action = model.action_codec.sample(2 * n).reshape(n, 2, -1)
    return SequenceBatch(obs, action, torch.rand(n, 2), terminated, flags, is_first, torch.arange(2 * n).reshape(n, 2))


def trained(model: Ensemble) -> Ensemble:
    """Return the model after a few steps of gradient descent, with one elite exchanged."""
    data = windows(model)
    model.before_fit(data)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(5):
        optimizer.zero_grad()
        model.loss(data).total.backward()
        optimizer.step()
    model.after_fit(torch.arange(model.members).flip(0).float())
    return model


@pytest.mark.parametrize("observation", sorted(OBSERVATIONS))
@pytest.mark.parametrize("action", sorted(ACTIONS))
def test_the_ensemble_keeps_the_contract_over_all_spaces(observation: str, action: str) -> None:
    torch.manual_seed(0)
    model = Ensemble(OBSERVATIONS[observation], ACTIONS[action], SMALL)
    check_world_model(model)
    check_world_model(trained(model))


@pytest.mark.parametrize("propagation", sorted(PROPAGATIONS))
@pytest.mark.parametrize("elites", [None, 2])
def test_the_ensemble_keeps_the_contract_under_all_propagations(propagation: str, elites: int | None) -> None:
    torch.manual_seed(1)
    model = Ensemble(BOX, TORQUE, replace(SMALL, propagation=propagation, elites=elites))
    check_world_model(model)
    check_world_model(trained(model), batch_size=3, seed=5)


@pytest.mark.parametrize(
    "change",
    [
        {"members": 1, "elites": None},
        {"clamp_margin": None},
        {"normalize_targets": False, "absolute": (0, 2)},
        {"learn_variance_bounds": False, "hidden": (), "termination_hidden": ()},
    ],
)
def test_the_ensemble_keeps_the_contract_under_other_configurations(change: dict[str, Any]) -> None:
    check_world_model(trained(Ensemble(BOX, TORQUE, replace(SMALL, **change))))


def test_a_frozen_model_passes() -> None:
    check_world_model(Ensemble(BOX, TORQUE, SMALL).requires_grad_(False))


def test_the_check_leaves_no_trace() -> None:
    space = spaces.Box(-1, 1, (2,), np.float32)
    space.seed(3)
    model = Ensemble(space, TORQUE, SMALL)
    before, kept = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    check_world_model(model)
    assert torch.equal(torch.get_rng_state(), kept)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    drawn = space.sample()
    space.seed(3)
    np.testing.assert_array_equal(drawn, space.sample())


def test_the_batch_must_have_rows_to_compare() -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 2, so that rows can be told apart, got 1"):
        check_world_model(Ensemble(BOX, TORQUE, SMALL), batch_size=1)


# ---- models that break it -------------------------------------------------------------------------------------------

Step = tuple[TransitionState, Prediction]


@dataclass(frozen=True)
class BadConfig(EnsembleConfig):
    unordered: set[int] = field(default_factory=lambda: {1})


class Broken(Ensemble):
    """An ensemble that keeps the contract but for ``changed``, which a mutant overrides."""

    def changed(self, state: TransitionState, step: Prediction, **call: Any) -> Step:
        return state, step

    def predict(
        self,
        state: TransitionState,
        action: Tensor,
        generator: torch.Generator | None = None,
        sample: bool = True,
        uncertainty: bool = True,
    ) -> Step:
        after, step = super().predict(state, action, generator, sample, uncertainty)
        return self.changed(after, step, before=state, action=action, sample=sample, uncertainty=uncertainty)


def mutant(changed: Callable[..., Step]) -> type[Ensemble]:
    return type("Mutant", (Broken,), {"changed": changed})


def with_method(**methods: Callable[..., Any]) -> type[Ensemble]:
    return type("Mutant", (Ensemble,), methods)


def field_mutant(**fields: Callable[[Prediction], Any]) -> type[Ensemble]:
    def changed(self: Ensemble, state: TransitionState, step: Prediction, **call: Any) -> Step:
        return state, replace(step, **{name: change(step) for name, change in fields.items()})

    return mutant(changed)


def in_place(self: Ensemble, state: TransitionState, step: Prediction, before: TransitionState, **call: Any) -> Step:
    with torch.no_grad():
        before.obs.add_(1.0)
    return state, step


def in_place_action(self: Ensemble, state: TransitionState, step: Prediction, action: Tensor, **call: Any) -> Step:
    with torch.no_grad():
        action.mul_(0.5)
    return state, step


def global_noise(self: Ensemble, state: TransitionState, step: Prediction, sample: bool, **call: Any) -> Step:
    return state, replace(step, reward=step.reward + sample * torch.rand(()))


def noisy_mean(self: Ensemble, state: TransitionState, step: Prediction, sample: bool, **call: Any) -> Step:
    return state, replace(step, reward=step.reward + (not sample) * torch.rand(()))


def skips_too_much(self: Ensemble, state: TransitionState, step: Prediction, uncertainty: bool, **call: Any) -> Step:
    return state, replace(step, reward=step.reward * float(uncertainty))


def mixes_rows(self: Ensemble, state: TransitionState, step: Prediction, before: TransitionState, **call: Any) -> Step:
    return replace(state, obs=self.codec.project(state.obs + 1e-9 * before.obs.mean(0))), step


def drops_a_row(self: Ensemble, state: TransitionState, step: Prediction, **call: Any) -> Step:
    return (state[: state.batch_size - 1] if state.batch_size > 2 else state), step


def squeezes(self: Ensemble, state: TransitionState, step: Prediction, **call: Any) -> Step:
    return state, replace(step, reward=step.reward.squeeze())


def drops_particles(self: Ensemble, state: TransitionState, step: Prediction, **call: Any) -> Step:
    return (state[::2] if state.particles > 1 else state), step


def wild_reward(self: Ensemble, state: TransitionState, step: Prediction, before: TransitionState, **call: Any) -> Step:
    wild = before.obs.abs().amax(1) > 1e20
    return state, replace(step, reward=torch.where(wild, torch.nan, step.reward))


def infinite_action(self: Ensemble, state: TransitionState, step: Prediction, action: Tensor, **call: Any) -> Step:
    return state, replace(step, reward=step.reward + 0.0 * action[:, 0])


def bad_root(self: Ensemble, state: TransitionState, step: Prediction, action: Tensor, **call: Any) -> Step:
    return state, replace(step, uncertainty=(action[:, 0].clamp(-1, 1) * 0).sqrt())


def no_gradient(self: Ensemble, state: TransitionState, step: Prediction, **call: Any) -> Step:
    return state.detach(), step.detach()


def remembers(self: Any, *args: Any, **kwargs: Any) -> None:
    Ensemble.__init__(self, *args, **kwargs)
    self.hidden_state = random.random()


def hidden_state(self: Any, state: TransitionState, step: Prediction, **call: Any) -> Step:
    return state, replace(step, reward=step.reward + self.hidden_state)


def tiled(self: Ensemble, state: TransitionState, n: int) -> TransitionState:
    return TransitionState(state.obs.repeat(n, 1), state.member.repeat(n), n)


def keeps_the_belief(self: Ensemble, state: TransitionState, action: Tensor, obs: Any, *rest: Any) -> TransitionState:
    new = Ensemble.observe(self, state, action, obs, *rest)
    return replace(new, obs=self.codec.project(new.obs + 0.1 * state.obs))


def loss_as(change: Callable[[ModelLoss[TransitionState]], Any]) -> type[Ensemble]:
    return with_method(loss=lambda self, batch, start=None: change(Ensemble.loss(self, batch)))


MUTANTS: dict[str, tuple[type[Ensemble], str]] = {
    "state in place": (
        mutant(in_place),
        r"predict\(\) with an equal generator must repeat|may change a state in place",
    ),
    "action in place": (mutant(in_place_action), "predict.. may not change the action in place"),
    "global randomness": (mutant(global_noise), "predict.. with an equal generator must repeat; two calls differed"),
    "random mean": (mutant(noisy_mean), "predict.sample=False. is not random; two calls differed"),
    "skips too much": (mutant(skips_too_much), "predict.uncertainty=False. may skip the uncertainty only"),
    "mixes rows": (mutant(mixes_rows), "predict.. must treat rows independently; a wild row changed the others"),
    "drops a row": (mutant(drops_a_row), "predict..'s state must keep B=6, got 5"),
    "batch of one": (mutant(squeezes), "a batch of one row must work; its shape changed"),
    "drops particles": (mutant(drops_particles), "predict.. of a branched belief must keep its 24 rows, got 12"),
    "NaN far away": (mutant(wild_reward), r"predict\(\) from a state scaled by 1e\+30 must be finite"),
    "infinite action": (mutant(infinite_action), "predict.. of an infinite action must be finite"),
    "gradient of a root": (mutant(bad_root), "the gradient of an imagined step's uncertainty must be finite"),
    "no gradient": (mutant(no_gradient), "predict.. must be differentiable with respect to the action"),
    "hidden state": (type("M", (mutant(hidden_state),), {"__init__": remembers}), "same|must predict the same"),
    "reward shape": (
        field_mutant(reward=lambda s: s.reward[:, None]),
        r"Prediction.reward must be \[B\] torch.float32",
    ),
    "terminated dtype": (
        field_mutant(terminated=lambda s: s.reward),
        r"Prediction.terminated must be \[B\] torch.bool",
    ),
    "NaN reward": (field_mutant(reward=lambda s: s.reward / 0 * 0), "Prediction.reward must be finite"),
    "uncertainty": (
        field_mutant(uncertainty=lambda s: s.uncertainty - 9),
        "Prediction.uncertainty must be >= 0, got -",
    ),
    "continuation": (field_mutant(continuation=lambda s: s.reward * 0 + 2), r"continuation must lie in \[0, 1\]"),
    "info shape": (field_mutant(info=lambda s: {"a": torch.zeros(())}), r"info\['a'\] must be \[B, ...\], got \(\)"),
    "info NaN": (field_mutant(info=lambda s: {"a": s.reward * torch.nan}), r"info\['a'\] must be finite"),
    "diverged but alive": (
        field_mutant(truncated=lambda s: s.truncated & False),
        r"a row with info\['diverged'\] must be truncated; one is not",
    ),
    "not a struct": (with_method(initial=lambda self, n: torch.zeros(n)), "initial.. must return a TensorStruct"),
    "no batch axis": (
        with_method(initial=lambda self, n: TransitionState(torch.zeros(1, 3), torch.zeros(1).long())),
        "every tensor of initial..'s state must begin with the batch 6, got",
    ),
    "features": (
        with_method(features=lambda self, state: state.obs[:, 0]),
        r"features\(\) must return \[B, F\] float32",
    ),
    "is_first": (
        with_method(observe=keeps_the_belief),
        "observe.. must ignore the belief and the action where is_first",
    ),
    "branch order": (with_method(branch=tiled), "branch.. must keep a belief's hypotheses together, unchanged"),
    "branch size": (
        with_method(branch=lambda self, state, n: state),
        r"branch\(state, 4\) must return B \* n = 24 rows, got 6",
    ),
    "decode": (with_method(decode=lambda self, state: state.obs - 100), r"decode\(\) must return members of Box"),
    "loss type": (loss_as(lambda x: x.total), "loss.. must return a ModelLoss, got Tensor"),
    "loss shape": (loss_as(lambda x: ModelLoss(x.total[None], {})), "ModelLoss.total must be a scalar, got"),
    "loss NaN": (loss_as(lambda x: ModelLoss(x.total * torch.nan, {})), "ModelLoss.total must be finite, got"),
    "loss alone": (loss_as(lambda x: ModelLoss(x.total.detach(), {})), "loss.. must reach the parameters; no gradient"),
    "loss elsewhere": (
        loss_as(lambda x: ModelLoss(torch.ones((), requires_grad=True), {})),
        "loss.. must reach the parameters; no gradient did",
    ),
    "loss terms": (loss_as(lambda x: ModelLoss(x.total, {"a": x.total})), r"terms\['a'\] must be a detached scalar"),
    "holdout shape": (
        with_method(holdout_error=lambda self, batch: torch.zeros(())),
        r"holdout_error\(\) must return \[E\] with E = members = 3, got \(\)",
    ),
    "members": (
        with_method(member_parameters=lambda self: frozenset({"max_log_variance"})),
        r"member_parameters\(\) must be parameters \[E, ...\], E = 3, got 'max_log_variance' \(4,\)",
    ),
    "unknown members": (with_method(member_parameters=lambda self: frozenset({"x"})), "got 'x' None"),
    "moments shape": (
        with_method(moments=lambda self, s, a: (torch.zeros(3, 6, 3), torch.zeros(3, 6, 3))),
        r"moments\(\) must be \[E, B, D \+ 1\] twice with B, D \+ 1 = \(6, 4\)",
    ),
    "moments sign": (
        with_method(moments=lambda self, s, a: (torch.zeros(3, 6, 4), torch.zeros(3, 6, 4) - 1)),
        "moments.. must return variances >= 0",
    ),
}


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_a_broken_model_is_caught_by_name(name: str) -> None:
    torch.manual_seed(0)
    broken, message = MUTANTS[name]
    model = broken(BOX, TORQUE, SMALL)
    with pytest.raises(AssertionError, match=message):
        check_world_model(model)


def test_a_config_that_is_no_json_is_caught() -> None:
    class Model(Ensemble):
        config_class = BadConfig

    with pytest.raises(AssertionError, match="config must be a dataclass of JSON values, got BadConfig"):
        check_world_model(Model(BOX, TORQUE, BadConfig(members=2, hidden=(8,))))
