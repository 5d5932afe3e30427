"""All wrappers against model error: in every order, stored, copied, fitted, dreamt in and planned with."""

import copy
import itertools
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from told import steps

from mbrl_gym import (
    Ensemble,
    EnsembleConfig,
    LearnedVectorEnv,
    ModelTrainer,
    StoredModel,
    TrainerConfig,
    check_world_model,
    load_model,
    save_model,
)
from mbrl_gym.planners import CEM, CEMConfig
from mbrl_gym.wrappers import (
    ClampRange,
    Halt,
    Infoprop,
    KnownReward,
    KnownTermination,
    RecalibrateVariance,
    SB3VecEnv,
    TruncateUncertain,
    UncertaintyPenalty,
)
from mbrl_gym.wrappers.calibrated import check_kept, layers
from worlds import real_steps

WRAPPERS = {
    "penalty": lambda model: UncertaintyPenalty(model, 2.0),
    "aleatoric penalty": lambda model: UncertaintyPenalty(model, 2.0, "max_aleatoric"),
    "halt": lambda model: Halt(model, 5.0, quantile=0.5),
    "truncate": lambda model: TruncateUncertain(model, quantile=0.3, scale=1.0),
    "infoprop": lambda model: Infoprop(model, horizon=2, step_quantile=0.8, total_quantile=0.8),
    "clamp": lambda model: ClampRange(model, margin=0.05),
    "recalibrate": RecalibrateVariance,
    "reward": lambda model: KnownReward(model, "Pendulum-v1"),
    "termination": lambda model: KnownTermination(model, "Pendulum-v1"),
}
KNOWN = ("reward", "termination")
NEXT_TO_THE_MODEL = ("infoprop", "clamp", "recalibrate")
OWN = [name for name in WRAPPERS if name not in KNOWN]
# A known function replaces what these have changed, so that they go around it.
UNDONE = [("reward", "penalty"), ("reward", "aleatoric penalty"), ("reward", "halt"), ("termination", "halt")]
TINY = {"members": 3, "hidden": (8,), "termination_hidden": (8,)}


def refused(outer, inner):
    return outer in NEXT_TO_THE_MODEL and (inner == "infoprop" or inner not in NEXT_TO_THE_MODEL)


def pendulum_ensemble(**config):
    env = gym.make("Pendulum-v1")
    torch.manual_seed(0)
    return Ensemble(env.observation_space, env.action_space, EnsembleConfig(**TINY, **config))


@pytest.fixture(scope="module")
def replay():
    return real_steps("Pendulum-v1", 250)


def fitted(model, replay):
    ModelTrainer(model, TrainerConfig(max_updates=30, holdout=0.2), seed=0).fit(replay)
    return model


def windows():
    """A few transitions between members of Pendulum's observation space."""
    generator = torch.Generator().manual_seed(0)
    obs = torch.rand(12, 2, 3, generator=generator) * 2 - 1
    return replace(steps(torch.linspace(-1, 1, 12)), obs=obs, reward=-torch.rand(12, 2, generator=generator))


def flags(step):
    names = ("halted", "uncertain", "information_exhausted", "clamped")
    return {name: step.info[name] for name in names if name in step.info}


# ---- orders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("outer", "inner"), list(itertools.product(WRAPPERS, WRAPPERS)))
def test_every_order_keeps_the_contract_or_is_refused_with_a_remedy(outer, inner):
    inside = WRAPPERS[inner](pendulum_ensemble())
    if refused(outer, inner):
        remedy = "one Infoprop is enough" if outer == inner else "wrap the other way round"
        with pytest.raises(ValueError, match=rf"inner must leave the drawing .* does not: {remedy}"):
            WRAPPERS[outer](inside)
        return
    try:
        model = WRAPPERS[outer](inside)
    except ValueError as error:
        assert (outer, inner) in UNDONE, error  # noqa: PT017
        return
    data = windows()
    model.calibrate(data, data)
    check_world_model(model)


@pytest.mark.parametrize(("outer", "inner"), UNDONE)
def test_what_a_known_function_would_undo(outer, inner):
    model = WRAPPERS[inner](pendulum_ensemble())
    kind = KnownReward if outer == "reward" else KnownTermination
    with pytest.raises(ValueError, match=rf"whose {outer} {kind.__name__} would replace: wrap the other way round"):
        check_kept(kind, TruncateUncertain(model), outer)
    for name in set(OWN) - {x for known, x in UNDONE if known == outer}:
        check_kept(kind, WRAPPERS[name](pendulum_ensemble()), outer)


def test_all_of_them_at_once(replay):
    model = pendulum_ensemble()
    order = ("recalibrate", "clamp", "infoprop", "reward", "termination", "truncate", "halt", "penalty")
    for name in order:
        model = WRAPPERS[name](model)
    assert [type(x).__name__ for x in layers(model)][-3:] == ["ClampRange", "RecalibrateVariance", "Ensemble"]
    fitted(model, replay)
    check_world_model(model)
    state = model.believe(torch.tensor([[[1.0, 0.0, 0.5]]] * 4), torch.zeros(4, 1, 1))
    _, step = model.predict(state, torch.tensor([[-1.0], [0.0], [0.5], [1.0]]))
    assert set(flags(step)) == {"halted", "uncertain", "information_exhausted", "clamped"}
    torch.testing.assert_close(step.reward, step.info["raw_reward"] - step.info["penalty"])


# ---- fits, copies and checkpoints -----------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=OWN)
def wrapped(request, replay):
    """A fitted ensemble in one of the wrappers."""
    return request.param, fitted(WRAPPERS[request.param](pendulum_ensemble()), replay)


def predictions(model, seed=0):
    obs = torch.randn(16, 1, 3, generator=torch.Generator().manual_seed(5)).clamp(-1, 1)
    action = torch.linspace(-1, 1, 16)[:, None]
    state = model.believe(obs, torch.zeros(16, 1, 1), torch.Generator().manual_seed(seed))
    return model.predict(state, action, torch.Generator().manual_seed(seed))


def test_a_fit_calibrates(wrapped):
    name, model = wrapped
    for key, buffer in model.named_buffers(recurse=False):
        assert buffer.isfinite().all(), key
        assert not (name == "recalibrate" and buffer.eq(1).any())
    if "penalty" not in name:
        _, step = predictions(model)
        assert name == "recalibrate" or any(flag.any() for flag in flags(step).values()), "the data calls for an effect"


def test_the_fit_is_the_models_own(wrapped, replay):
    _, model = wrapped
    alone = fitted(pendulum_ensemble(), replay)
    for key, value in alone.state_dict().items():
        assert value.equal(model.unwrapped.state_dict()[key]), key


def test_checkpoints_keep_thresholds_and_arguments(wrapped, replay, tmp_path):
    _, model = wrapped
    model = TruncateUncertain(model, quantile=0.8, scale=1.25)  # and the same buffer's name twice
    model.calibrate(*(ModelTrainer(model, TrainerConfig(holdout=0.2))._split(replay)))
    save_model(tmp_path / "model", StoredModel(model, replay.starts(kind="resets"), "Pendulum-v1", 200))
    loaded = load_model(tmp_path / "model", "cpu").model
    assert [type(x) for x in layers(loaded)] == [type(x) for x in layers(model)]
    for mine, theirs in zip(layers(model), layers(loaded), strict=True):
        if hasattr(type(mine), "arguments"):
            assert mine.arguments() == theirs.arguments()
    for key, value in model.state_dict().items():
        assert value.equal(loaded.state_dict()[key]), key
    for x, y in zip(predictions(model), predictions(loaded), strict=True):
        assert all(a.equal(b) for a, b in zip(x.tensors(), y.tensors(), strict=True))


def test_copies_and_frozen_models_keep_thresholds_and_twins_begin_without(wrapped):
    name, model = wrapped
    frozen, twin, again = model.frozen(), model.twin(), copy.deepcopy(model)
    assert type(frozen) is type(twin) is type(again) is type(model)
    fresh = WRAPPERS[name](pendulum_ensemble())
    for key, buffer in model.named_buffers(recurse=False):
        assert getattr(frozen, key).equal(buffer)
        assert getattr(again, key).equal(buffer)
        assert getattr(twin, key).equal(getattr(fresh, key))
    assert type(frozen.unwrapped).__name__ == "FrozenEnsemble"
    mine, theirs = predictions(model), predictions(frozen)
    torch.testing.assert_close(theirs[1].reward, mine[1].reward, rtol=1e-3, atol=1e-3)
    assert frozen.arguments() == model.arguments()


# ---- who dreams and plans in them -----------------------------------------------------------------------------------


def test_a_learned_environment_shows_what_a_wrapper_did(wrapped, replay):
    name, model = wrapped
    env = LearnedVectorEnv(model, replay.starts(kind="resets"), num_envs=8, horizon=50)
    env.reset(seed=0)
    expected = {
        "penalty": ("raw_reward", "penalty"),
        "aleatoric penalty": ("raw_reward", "penalty"),
        "halt": ("raw_reward", "penalty", "halted", "largest_gap"),
        "truncate": ("uncertain", "geometric_js"),
        "infoprop": ("information_lost", "information_exhausted"),
        "clamp": ("clamped",),
        "recalibrate": ("aleatoric",),
    }[name]
    ended = 0
    for _ in range(8):
        _, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert set(expected) <= set(info)
        if "penalty" in info:
            np.testing.assert_allclose(reward, info["raw_reward"] - info["penalty"], rtol=1e-4, atol=1e-4)
        if name == "halt":
            assert (terminated == info["halted"]).all()
            assert not truncated.any()
            ended += terminated.sum()
        elif name in ("truncate", "infoprop"):
            assert (truncated == info["uncertain" if name == "truncate" else "information_exhausted"]).all()
            assert not terminated.any()
            ended += truncated.sum()
    assert (ended > 0) == (name in ("halt", "truncate", "infoprop"))


def test_sb3_bootstraps_where_a_dream_was_truncated_and_not_where_it_was_halted(replay):
    for name, bootstraps in (("truncate", True), ("halt", False)):
        model = fitted(WRAPPERS[name](pendulum_ensemble()), replay)
        venv = SB3VecEnv(LearnedVectorEnv(model, replay.starts(kind="resets"), num_envs=8, horizon=50))
        venv.seed(0)
        venv.reset()
        seen = []
        for _ in range(8):
            _, _, dones, infos = venv.step(np.stack([venv.action_space.sample() for _ in range(8)]))
            seen += [info["TimeLimit.truncated"] for info, done in zip(infos, dones, strict=True) if done]
        assert seen
        assert set(seen) == {bootstraps}


def test_a_planner_plans_with_it(wrapped):
    _, model = wrapped
    particles = 2 * model.members
    cem = CEM(model.action_codec, CEMConfig(horizon=3, candidates=12, elites=3, iterations=2, particles=particles))
    obs = torch.tensor([[[1.0, 0.0, 0.5]], [[0.0, 1.0, -2.0]]])
    state = model.believe(obs, torch.zeros(2, 1, 1), torch.Generator().manual_seed(0))
    first, again = (cem.plan(model, state, cem.initial(2), torch.Generator().manual_seed(1)) for _ in range(2))
    assert first.action.equal(again.action)
    assert first.action.shape == (2, 1)
    assert first.value.isfinite().all()
