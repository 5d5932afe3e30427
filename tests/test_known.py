"""KnownReward and KnownTermination: what they change, what they pass on, training through them, storing them."""

import copy
import math
import pickle
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from mbrl_gym import (
    Ensemble,
    EnsembleConfig,
    ModelTrainer,
    StoredModel,
    TrainerConfig,
    check_world_model,
    load_model,
    save_model,
)
from mbrl_gym.model import trajectory_return
from mbrl_gym.tasks import known_reward
from mbrl_gym.wrappers import KnownReward, KnownTermination
from worlds import BOX, DICT, PUSH, Walk, WalkConfig, real_steps, walk_starts

TINY = EnsembleConfig(members=2, hidden=(8,), termination_hidden=(8,))


def effort(obs, action, next_obs):
    """A reward of this file's own: where the step arrives, less what it costs."""
    return next_obs[..., 0] - 0.1 * action.square().sum(-1)


def arrives_above(obs, action, next_obs):
    return next_obs[..., 0] > obs[..., 0]


def broken_right(obs, action, next_obs):
    """No number where the push goes to the right."""
    return torch.where(action[..., 0] > 0, torch.nan, -1.0)


class Careful(Walk):
    """A walk that keeps the contract where numbers are wild: such rows stay where they are, and are cut."""

    def predict(self, state, action, generator=None, sample=True, uncertainty=True):
        after, step = super().predict(state, action, generator, sample, uncertainty)
        broken = ~(torch.isfinite(step.reward) & torch.isfinite(after.obs).all(1) & torch.isfinite(action).all(1))
        stay = after.map(lambda x: torch.where(broken if x.dim() == 1 else broken[:, None], 0.0, x))
        fine = {name: torch.where(broken, 0.0, x) for name, x in step.info.items() if name != "diverged"}
        step = replace(
            step,
            reward=torch.where(broken, 0.0, step.reward),
            truncated=broken,
            uncertainty=torch.where(broken, 0.0, step.uncertainty),
            info={**fine, "diverged": broken},
        )
        return stay, step


def ensemble(space=BOX, actions=PUSH, config=TINY):
    torch.manual_seed(0)
    return Ensemble(space, actions, config)


def one_step(model, n=8, seed=0):
    """Beliefs before, encoded actions, beliefs after, and what came with them."""
    generator = torch.Generator().manual_seed(seed)
    obs = torch.randn(n, 1, 2, generator=generator)
    state = model.believe(obs, torch.zeros(n, 1, model.action_codec.size), generator)
    action = model.action_codec.sample(n, generator)
    return state, action, *model.predict(state, action, generator)


WRAPPED = {
    "reward of an ensemble": lambda: KnownReward(ensemble(), effort),
    "termination of an ensemble": lambda: KnownTermination(ensemble(), arrives_above),
    "both of an ensemble": lambda: KnownReward(KnownTermination(ensemble(), arrives_above), effort),
    "both, the other way round": lambda: KnownTermination(KnownReward(ensemble(), effort), arrives_above),
    "broken reward of what ended": lambda: KnownReward(KnownTermination(ensemble(), arrives_above), broken_right),
    "reward of a walk": lambda: KnownReward(Careful(), effort),
    "termination of a walk": lambda: KnownTermination(Careful(config=WalkConfig(context=2)), arrives_above),
    "a dictionary": lambda: KnownReward(Careful(DICT), lambda obs, action, after: after["place"][:, 0, 0]),
    "a frozen ensemble": lambda: KnownReward(KnownTermination(ensemble(), arrives_above), effort).frozen(),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_the_contract(name):
    model = WRAPPED[name]()
    if name == "broken reward of what ended":  # its rows that are cut are no rows that ended
        _, action, _, step = one_step(model)
        broken = action[:, 0] > 0
        assert 0 < broken.sum() < 8
        assert step.truncated.equal(broken)
        assert not step.terminated[broken].any()
        assert (step.continuation[broken] == 1).all()
        assert step.terminated.equal(step.continuation == 0)
    check_world_model(model)


# ---- reward ---------------------------------------------------------------------------------------------------------


def test_the_reward_is_the_functions_of_raw_observations_and_environment_actions():
    calls = []

    def reward(obs, action, next_obs):
        calls.append((obs, action, next_obs))
        return effort(obs, action, next_obs)

    model = KnownReward(Walk(), reward)
    state, action, after, step = one_step(model)
    torch.testing.assert_close(step.reward, after.obs[:, 0] - 0.1 * (2 * action[:, 0]) ** 2)  # PUSH is [-2, 2]
    ((obs, push, next_obs),) = calls
    assert obs.equal(state.obs)
    assert next_obs.equal(after.obs)
    assert push.equal(2 * action)
    assert step.info["learned_reward"].equal(model.inner.predict(state, action)[1].reward)
    assert not step.reward.equal(step.info["learned_reward"])


def test_discrete_actions_and_dictionaries_come_as_the_environment_has_them():
    seen = {}

    def reward(obs, action, next_obs):
        seen.update(obs=obs, action=action)
        return action.double()

    actions = spaces.Discrete(3, start=5)
    model = KnownReward(Walk(DICT, actions), reward)
    obs = {"kind": torch.tensor([[2], [0]]), "place": torch.ones(2, 1, 1, 2)}
    state = model.believe(obs, torch.zeros(2, 1, 3))
    _, step = model.predict(state, model.action_codec.encode(np.array([5, 7])))
    assert seen["action"].tolist() == [5, 7]
    assert seen["obs"]["kind"].tolist() == [2, 0]
    assert seen["obs"]["place"].shape == (2, 1, 2)
    assert step.reward.tolist() == [5.0, 7.0]
    assert step.reward.dtype == torch.float32


def test_a_name_is_the_librarys_function():
    env = gym.make("Pendulum-v1")
    model = KnownReward(Ensemble(env.observation_space, env.action_space, TINY), "Pendulum-v1")
    start = torch.tensor([[[math.cos(1.0), math.sin(1.0), 2.0]]])
    state = model.believe(start, torch.zeros(1, 1, 1))
    _, step = model.predict(state, torch.tensor([[0.5]]))
    expected = -(1.0**2 + 0.1 * 2.0**2 + 0.001 * 1.0**2)  # half of the torque 2
    assert step.reward.item() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match=r"name must be a task whose reward is known, got 'Nope-v0'; there are .*Pend"):
        KnownReward(Walk(), "Nope-v0")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_reward_that_is_no_number_cuts_the_row_and_its_return_loses(value):
    model = KnownReward(Walk(), lambda obs, action, after: torch.where(action[:, 0] > 0, value, -1.0))
    state = model.believe(torch.zeros(2, 1, 2), torch.zeros(2, 1, 1))
    action = torch.tensor([[-0.5], [0.5]])
    _, step = model.predict(state, action)
    assert step.reward.tolist() == [-1.0, 0.0]
    assert step.truncated.tolist() == step.info["diverged"].tolist() == [False, True]
    returns = trajectory_return(model, state, action[:, None].expand(2, 3, 1))
    assert returns[0] == -3.0
    assert returns[1].isnan()


def test_a_row_that_diverged_in_the_inner_model_stays_cut():
    model = KnownReward(ensemble(), lambda obs, action, after: torch.ones_like(after[:, 0]))
    state = one_step(model)[0]
    wild = torch.full((8, 1), torch.inf)
    _, step = model.predict(state, wild)
    assert step.truncated.all()
    assert step.info["diverged"].all()
    assert (step.reward == 0).all()


@pytest.mark.parametrize("kind", ["reward", "termination"])
def test_a_wrong_shape_is_named(kind):
    wrapper = {"reward": KnownReward, "termination": KnownTermination}[kind]
    model = wrapper(Walk(), lambda obs, action, after: action > 0)
    with pytest.raises(ValueError, match=rf"{kind} must return one value a row, \(8,\), got \(8, 1\)"):
        one_step(model)


def test_gradients_flow_through_a_known_reward():
    model = KnownReward(Walk(), effort)
    state = model.believe(torch.zeros(3, 1, 2), torch.zeros(3, 1, 1))
    action = torch.tensor([[0.1], [0.2], [-0.3]], requires_grad=True)
    _, step = model.predict(state, action)
    (gradient,) = torch.autograd.grad(step.reward.sum(), action)
    torch.testing.assert_close(gradient, 1 - 0.1 * 4 * 2 * action.detach())  # of a - 0.1 (2 a)^2
    frozen = KnownReward(ensemble(), effort).frozen()
    _, step = frozen.predict(one_step(frozen, 3)[0], action)
    (gradient,) = torch.autograd.grad(step.reward.sum(), action)
    assert gradient.isfinite().all()
    assert (gradient != 0).all()


# ---- termination ----------------------------------------------------------------------------------------------------


def test_a_known_end_overrides_the_learned_one_and_continuation_agrees():
    inner = Walk(config=WalkConfig(ends_at=-1000.0))  # which always ends
    model = KnownTermination(inner, arrives_above)
    state, action, _, step = one_step(model)
    assert inner.predict(state, action)[1].terminated.all()
    expected = action[:, 0] > 0
    assert 0 < expected.sum() < 8
    assert step.terminated.equal(expected)
    assert step.continuation.equal(1.0 - expected.float())
    assert step.reward.equal(inner.predict(state, action)[1].reward)


def test_a_row_that_diverged_did_not_end():
    model = KnownTermination(ensemble(), lambda obs, action, after: torch.ones_like(after[:, 0], dtype=torch.bool))
    state = one_step(model)[0]
    assert one_step(model)[3].terminated.all()
    _, step = model.predict(state, torch.full((8, 1), torch.inf))
    assert step.truncated.all()
    assert not step.terminated.any()
    assert (step.continuation == 1).all()


def test_rewards_after_a_known_end_do_not_count():
    model = KnownReward(
        KnownTermination(Walk(), lambda o, a, after: after[:, 0] > 1.4), lambda o, a, after: after[:, 0]
    )
    state = model.believe(torch.zeros(1, 1, 2), torch.zeros(1, 1, 1))
    assert trajectory_return(model, state, torch.full((1, 5, 1), 0.5)).item() == pytest.approx(0.5 + 1.0 + 1.5)


# ---- what is passed on ----------------------------------------------------------------------------------------------


def both(inner):
    return KnownReward(KnownTermination(inner, arrives_above), effort)


def test_attributes_and_the_innermost_model():
    inner = ensemble(config=EnsembleConfig(members=3, hidden=(8,)))
    model = both(inner)
    assert model.unwrapped is inner
    assert model.inner.unwrapped is inner
    assert model.elites is inner.elites
    assert (model.members, model.context, model.config) == (3, 1, inner.config)
    assert both(Walk(config=WalkConfig(context=4))).context == 4
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        model.nothing_of_this_name  # noqa: B018
    assert not hasattr(model, "__deepcopy__")


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies(how):
    model = KnownReward(KnownTermination(Walk(), arrives_above), effort)
    again = copy.deepcopy(model) if how == "deepcopy" else pickle.loads(pickle.dumps(model))  # noqa: S301
    assert type(again) is KnownReward
    assert type(again.inner) is KnownTermination
    assert again.unwrapped is not model.unwrapped
    with torch.no_grad():
        model.unwrapped.scale.mul_(2)
    assert again.unwrapped.scale == 1
    mine, theirs = one_step(KnownReward(KnownTermination(Walk(), arrives_above), effort)), one_step(again)
    assert mine[3].reward.equal(theirs[3].reward)
    assert mine[3].terminated.equal(theirs[3].terminated)


def test_frozen_keeps_the_wrappers_and_predicts_the_same():
    model = both(ensemble())
    frozen = model.frozen()
    assert [type(frozen), type(frozen.inner)] == [KnownReward, KnownTermination]
    assert type(frozen.unwrapped).__name__ == "FrozenEnsemble"
    for x, y in zip(one_step(model)[2:], one_step(frozen)[2:], strict=True):
        for a, b in zip(x.tensors(), y.tensors(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        model.unwrapped.net.weights[0].mul_(2)
    assert not one_step(model)[2].obs.equal(one_step(frozen)[2].obs)


def test_a_twin_is_a_model_of_its_own_in_the_same_wrappers():
    model = both(ensemble())
    twin = model.twin()
    assert [type(twin), type(twin.inner), type(twin.unwrapped)] == [KnownReward, KnownTermination, Ensemble]
    assert twin.unwrapped is not model.unwrapped
    assert twin.reward is effort


def test_branching_gives_every_member_its_particles():
    model = both(ensemble())
    state = one_step(model, 3)[0]
    assert model.branch(state, 4).member.tolist() == [0, 0, 1, 1] * 3


# ---- training -------------------------------------------------------------------------------------------------------


def fit(model, **kwargs):
    replay = real_steps("Pendulum-v1", 120)
    config = TrainerConfig(**{"max_updates": 40, "max_epochs": 20, "batch_size": 16, "holdout": 0.2, **kwargs})
    return ModelTrainer(model, config, seed=0).fit(replay)


def pendulum_ensemble(**config):
    env = gym.make("Pendulum-v1")
    return ensemble(env.observation_space, env.action_space, EnsembleConfig(members=2, hidden=(8,), **config))


def test_a_wrapped_model_trains_as_the_model_alone():
    alone, inner = pendulum_ensemble(weight_decay=(0.1, 0.2)), pendulum_ensemble(weight_decay=(0.1, 0.2))
    wrapped = KnownReward(KnownTermination(inner, "Pendulum-v1"), "Pendulum-v1")
    # A rate at which the weights get worse before the end, so that each member's best ones have to be put back.
    first, second = (
        fit(alone, learning_rate=0.1, final_learning_rate=1.0),
        fit(wrapped, learning_rate=0.1, final_learning_rate=1.0),
    )
    assert first.loss == second.loss
    assert first.holdout_error == second.holdout_error
    for name, value in alone.state_dict().items():
        assert value.equal(inner.state_dict()[name]), name


def test_names_of_parameters_have_the_wrappers_prefix():
    inner = pendulum_ensemble(weight_decay=(0.1, 0.2))
    model = KnownReward(KnownTermination(inner, "Pendulum-v1"), "Pendulum-v1")
    assert model.weight_decay() == {"inner.inner.net.weights.0": 0.1, "inner.inner.net.weights.1": 0.2}
    names = dict(model.named_parameters())
    assert model.weight_decay().keys() < names.keys()
    assert model.member_parameters() == {f"inner.inner.{name}" for name in inner.member_parameters()}
    assert model.member_parameters() < names.keys()


def test_hooks_of_a_fit_reach_the_inner_model():
    inner = pendulum_ensemble(elites=1)
    model = KnownReward(inner, "Pendulum-v1")
    report = fit(model)
    assert (inner.input_std != 1).all()
    assert inner.elites.tolist() == [int(np.argmin(report.holdout_error))]


# ---- storing --------------------------------------------------------------------------------------------------------


def stored_pendulum():
    replay = real_steps("Pendulum-v1", 250)
    model = KnownReward(KnownTermination(pendulum_ensemble(), "Pendulum-v1"), "Pendulum-v1")
    ModelTrainer(model, TrainerConfig(max_updates=20), seed=0).fit(replay)
    return StoredModel(model, replay.starts(kind="resets"), "Pendulum-v1", 200)


def test_a_stored_model_keeps_its_wrappers(tmp_path):
    stored = stored_pendulum()
    save_model(tmp_path / "model", stored)
    loaded = load_model(tmp_path / "model", "cpu").model
    assert [type(loaded), type(loaded.inner), type(loaded.unwrapped)] == [KnownReward, KnownTermination, Ensemble]
    assert (loaded.reward, loaded.inner.termination) == ("Pendulum-v1", "Pendulum-v1")
    for name, value in stored.model.state_dict().items():
        assert value.equal(loaded.state_dict()[name]), name


def test_gym_make_dreams_with_the_known_reward(tmp_path):
    save_model(tmp_path / "model", stored_pendulum())
    env = gym.make("Learned-Pendulum-v1", checkpoint=str(tmp_path / "model"))
    obs, _ = env.reset(seed=0)
    for _ in range(5):
        action = np.array([1.5], np.float32)
        after, reward, terminated, _, _ = env.step(action)
        expected = known_reward("Pendulum-v1")(*(torch.as_tensor(x)[None] for x in (obs, action, after)))
        assert reward == pytest.approx(expected.item(), rel=1e-5)
        assert not terminated
        obs = after
    venv = gym.make_vec("Learned-Pendulum-v1", num_envs=3, checkpoint=str(tmp_path / "model"))
    before, _ = venv.reset(seed=0)
    actions = np.full((3, 1), -1.0, np.float32)
    after, reward, *_ = venv.step(actions)
    expected = known_reward("Pendulum-v1")(*map(torch.as_tensor, (before, actions, after)))
    np.testing.assert_allclose(reward, expected.numpy(), rtol=1e-5)


@pytest.mark.parametrize(("kind", "wrapper"), [("reward", KnownReward), ("termination", KnownTermination)])
def test_a_function_without_a_name_cannot_be_stored(kind, wrapper, tmp_path):
    model = wrapper(Walk(), effort)
    message = rf"{kind} must be a name to be stored, got the function .*register_{kind}\(name, function\)"
    with pytest.raises(ValueError, match=message):
        save_model(tmp_path / "model", StoredModel(model, walk_starts(model, 1.0), None, 7))
    assert not (tmp_path / "model").exists()
