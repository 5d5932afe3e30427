"""The RSSM: the contract, filtering and its alignment, every hyperparameter, and that it learns a small world."""

from dataclasses import fields, replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO

from mbrl_gym import LearnedVectorEnv, ModelTrainer, TrainerConfig, check_world_model
from mbrl_gym.agents import Dyna
from mbrl_gym.distributions import TwoHot
from mbrl_gym.models.overshooting import overshooting
from mbrl_gym.models.rssm import RSSM, RSSMState
from mbrl_gym.models.rssm_config import SIZES, RSSMConfig
from worlds import DICT, PUSH, real_steps

BOX = spaces.Box(-5.0, 5.0, (3,), np.float32)
V3 = RSSMConfig(deter=32, hidden=16, blocks=4, stoch=4, classes=4, units=16, layers=1)
V2 = replace(RSSMConfig.dreamer_v2(), deter=32, hidden=16, stoch=4, classes=4, units=16, layers=1, head_layers=1)
V1 = replace(RSSMConfig.dreamer_v1(), deter=32, hidden=16, stoch=6, units=16, layers=1, head_layers=1)
PLANET = replace(RSSMConfig.planet(), deter=32, hidden=16, stoch=6, units=16, layers=1, head_layers=1)
VERSIONS = pytest.mark.parametrize("config", [V1, V2, V3, PLANET], ids=["v1", "v2", "v3", "planet"])


def rssm(config=V3, observations=BOX, actions=PUSH, seed=0):
    torch.manual_seed(seed)
    return RSSM(observations, actions, config)


@pytest.fixture(scope="module")
def pendulum_steps():
    return real_steps("Pendulum-v1", 450)


@pytest.fixture(scope="module")
def cartpole_steps():
    return real_steps("CartPole-v1", 300)


def windows(replay, count=6, length=12):
    index = replay.windows(length, cross_episodes=True)
    return replay.gather(index[np.linspace(0, len(index) - 1, count).astype(int)], length)


@VERSIONS
@pytest.mark.parametrize("observations", [BOX, DICT, spaces.Discrete(4)], ids=["box", "dict", "discrete"])
@pytest.mark.parametrize("actions", [PUSH, spaces.Discrete(3)], ids=["box", "discrete"])
def test_it_keeps_the_contract(config, observations, actions):
    check_world_model(rssm(config, observations, actions))


@pytest.mark.parametrize("shape", [(64, 64, 3), (1, 16, 20), (16, 16, 4)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
def test_images_that_are_not_uint8_are_refused(shape, dtype):
    image = spaces.Box(0, 1, shape, dtype)
    said = (
        rf"must be uint8 \(0 to 255\) to be read as an image, got {np.dtype(dtype)} of shape .*{shape[0]}.*; turn the"
    )
    with pytest.raises(ValueError, match=f"observation_space {said}"):
        rssm(V3, image)
    with pytest.raises(ValueError, match=rf"observation_space\['camera'\] {said}"):
        rssm(V3, spaces.Dict(camera=image, speed=BOX))


@pytest.mark.parametrize("shape", [(8, 8, 3), (16, 16, 5), (16, 20), (3, 20, 12)])
def test_what_may_be_no_image_is_read_as_numbers(shape):
    assert rssm(V3, spaces.Box(0, 1, shape, np.float32)).encoder.mlp is not None


# Filtering


class Still:
    """Noise that is the same for every row and step: samples are then a function of the belief alone."""

    def __init__(self, latent):
        self.latent = latent

    def __getattr__(self, name):
        return getattr(self.latent, name)

    def noise(self, shape, device, generator=None):
        row = torch.linspace(0.5, 1.5, self.latent.size, device=device)
        return row.expand(*shape, -1)


@VERSIONS
def test_all_steps_at_once_are_the_steps_one_by_one(config, cartpole_steps):
    """Windows cross the ends of episodes: what was before is forgotten there, the action too."""
    batch = windows(cartpole_steps, length=25)
    assert batch.is_first[:, 1:].any()
    model = rssm(config, cartpole_steps.observation_space, cartpole_steps.action_space)
    model.latent = Still(model.latent)
    states = model.loss(batch).states
    state = model.initial(6)
    for t in range(25):
        first = batch.is_first[:, t] | (t == 0)
        state = model.observe(state, batch.action[:, max(t - 1, 0)], batch.obs[:, t], first)
        torch.testing.assert_close(states.deter[:, t], state.deter)
        torch.testing.assert_close(states.stoch[:, t], state.stoch)


def test_steps_of_the_scan_leave_no_gradients_of_the_size_of_all_steps(cartpole_steps):
    space = spaces.Box(-np.inf, np.inf, (4,), np.float32)
    total = rssm(V3, space, spaces.Discrete(2)).loss(windows(cartpole_steps)).total
    with torch.autograd.profiler.profile() as profile:
        total.backward()
    assert sum(event.name == "aten::select_backward" for event in profile.function_events) < 12  # steps of a window


def test_the_loss_goes_on_from_the_beliefs_of_the_first_row(pendulum_steps):
    batch = windows(pendulum_steps)
    model = rssm(V3, pendulum_steps.observation_space, pendulum_steps.action_space)
    model.latent = Still(model.latent)
    whole = model.loss(batch).states
    later = batch.map(lambda x: x[:, 5:])
    found = model.loss(later, RSSMState(whole.deter[:, 5], whole.stoch[:, 5])).states
    torch.testing.assert_close(found.deter, whole.deter[:, 5:])
    assert not torch.allclose(model.loss(later).states.deter, whole.deter[:, 5:])


def test_a_window_that_begins_in_the_middle_of_an_episode_begins_with_a_blank_belief(pendulum_steps):
    batch = windows(pendulum_steps)
    model = rssm(V3, pendulum_steps.observation_space, pendulum_steps.action_space)
    model.latent = Still(model.latent)
    marked = replace(batch, is_first=torch.zeros_like(batch.is_first))
    marked.is_first[:, 0] = True
    unmarked = replace(batch, is_first=torch.zeros_like(batch.is_first))
    assert torch.equal(model.loss(marked).states.deter, model.loss(unmarked).states.deter)


# The loss


def test_each_half_of_the_divergence_moves_one_side():
    model = rssm()
    posterior, prior = (torch.randn(3, 16, requires_grad=True) for _ in range(2))
    dynamics = model._divergences(posterior, prior)[0]["dynamics"]
    assert torch.autograd.grad(dynamics, prior, retain_graph=True)[0].any()
    assert torch.autograd.grad(dynamics, posterior, allow_unused=True)[0] is None
    representation = model._divergences(posterior, prior)[0]["representation"]
    assert torch.autograd.grad(representation, posterior, retain_graph=True)[0].any()
    assert torch.autograd.grad(representation, prior, allow_unused=True)[0] is None


def test_free_nats_are_free_for_each_state_or_on_average():
    """Divergences of 0 and of much: each state's floor, against the floor of their mean."""
    posterior, prior = torch.zeros(2, 16), torch.zeros(2, 16)
    posterior[1] = torch.tensor([9.0, 0.0, 0.0, 0.0] * 4)
    each, average = (rssm(replace(V3, free_average=a)) for a in (False, True))
    value = each.latent.kl(each.latent.dist(posterior), each.latent.dist(prior))
    assert value[0].abs() < 1e-5
    assert value[1] > 2
    torch.testing.assert_close(each._divergences(posterior, prior)[0]["dynamics"], (1 + value[1]) / 2)
    torch.testing.assert_close(average._divergences(posterior, prior)[0]["dynamics"], value.mean())


def test_the_log_knows_the_whole_divergence_and_who_says_something():
    model = rssm(replace(V3, free_nats=9.0))
    posterior, prior = torch.zeros(2, 3, 16), torch.zeros(2, 3, 16)
    posterior[..., :2] = torch.tensor([4.0, -4.0])  # the first of four groups
    _, terms = model._divergences(posterior, prior)
    torch.testing.assert_close(
        terms["kl"], model.latent.kl(model.latent.dist(posterior), model.latent.dist(prior)).mean()
    )
    assert terms["active_units"] == 1
    assert terms["kl"] < 9.0


def test_the_free_nats_of_the_average_are_its_floor():
    posterior, prior = torch.zeros(2, 16), torch.full((2, 16), 0.1)
    assert rssm(replace(V3, free_average=True, free_nats=2.0))._divergences(posterior, prior)[0]["dynamics"] == 2.0


@VERSIONS
def test_the_loss_is_the_weighted_sum_of_what_each_row_says_of_itself(config, cartpole_steps):
    """Every term again, row by row, from the beliefs: a head that reads another row's target would differ."""
    batch = windows(cartpole_steps, length=25)
    model = rssm(config, cartpole_steps.observation_space, cartpole_steps.action_space)
    torch.manual_seed(1)
    for head in (model.reward_head, model.decoder.mlp, model.continuation_head):
        torch.nn.init.normal_(head.layers[-1].weight, std=0.1)  # outputs differ from row to row
    batch = replace(batch, reward=torch.randn(6, 25))
    with torch.no_grad():
        found = model.loss(batch)
        observation, reward, continuation = [], [], []
        for t in range(25):
            features = model.features(found.states[:, t])
            seen = batch.obs[:, t]
            seen = seen.sign() * (seen.abs() + 1).log() if config.symlog else seen
            observation.append((model.decoder(features)[0] - seen).square().sum(-1))
            said, wanted = model.reward_head(features), batch.reward[:, t]
            if config.reward == "two_hot":
                reward.append(TwoHot(said, model.bins).loss(wanted))
            else:
                reward.append(0.5 * (said[:, 0] - wanted).square())
            kept = 1.0 if config.discount_horizon is None else 1 - 1 / 333
            target = (1 - batch.terminated[:, t].float()) * kept
            p = torch.sigmoid(model.continuation_head(features)[:, 0])
            continuation.append(-(target * p.log() + (1 - target) * (1 - p).log()))
    assert batch.terminated.any()
    terms = {"observation": observation, "reward": reward, "continuation": continuation}
    for name, rows in terms.items():
        torch.testing.assert_close(found.terms[name], torch.stack(rows).mean(), rtol=1e-4, atol=1e-5)
    weighed = ("observation", "reward", "continuation", "dynamics", "representation")
    total = sum(getattr(config, f"{name}_scale") * found.terms[name] for name in weighed)
    torch.testing.assert_close(found.total, total)
    assert set(found.terms) == {*weighed, "kl", "active_units"}


def test_the_published_weights_of_the_losses():
    """danijar/dreamer dreamer.py, danijar/dreamerv2 configs.yaml (dmc), danijar/dreamerv3 configs.yaml."""
    names = ("observation_scale", "dynamics_scale", "representation_scale", "free_nats", "free_average")
    found = [tuple(getattr(c, name) for name in names) for c in (V1, V2, RSSMConfig())]
    assert found == [(0.5, 1.0, 1.0, 3.0, True), (0.5, 0.8, 0.2, 1.0, True), (1.0, 1.0, 0.1, 1.0, False)]


def test_windows_that_hold_no_memory_are_refused(pendulum_steps):
    model = rssm(V3, pendulum_steps.observation_space, pendulum_steps.action_space)
    with pytest.raises(ValueError, match=r"at least context \+ 2 = 3 rows.*got windows of 2; give trainer_config="):
        ModelTrainer(model, TrainerConfig()).fit(pendulum_steps)


def test_the_discount_is_divided_out_of_the_continuation(cartpole_steps):
    model = rssm(V3, cartpole_steps.observation_space, cartpole_steps.action_space)
    with torch.no_grad():
        for parameter in model.continuation_head.parameters():
            parameter.zero_()
        kept = 1 - 1 / 333
        model.continuation_head.layers[-1].bias.fill_(np.log(kept / (1 - kept)))
    _, step = model.predict(model.initial(4), torch.zeros(4, 2))
    torch.testing.assert_close(step.continuation, torch.ones(4))
    assert not step.terminated.any()
    batch = replace(windows(cartpole_steps), terminated=torch.zeros(6, 12, dtype=torch.bool))
    entropy = -(kept * np.log(kept) + (1 - kept) * np.log(1 - kept))  # the least loss that such targets allow
    assert float(model.loss(batch).terms["continuation"]) == pytest.approx(entropy, rel=1e-3)


def test_rewards_begin_at_zero_over_bins():
    model = rssm()
    _, step = model.predict(model.initial(5), torch.ones(5, 1))
    assert torch.equal(step.reward, torch.zeros(5))


LARGER = {
    "deter": 64, "hidden": 32, "cell": "layer_norm_gru", "blocks": 8, "latent": "gaussian", "stoch": 8, "classes": 8,
    "unimix": 0.5, "prior_layers": 3, "posterior_layers": 2, "units": 32, "layers": 2, "head_layers": 2,
    "activation": "relu", "norm": False, "symlog": False, "reward": "normal", "observation_scale": 2.0,
    "reward_scale": 2.0, "continuation_scale": 2.0, "dynamics_scale": 2.0, "representation_scale": 2.0,
    "free_nats": 30.0, "free_average": True, "discount_horizon": None, "overshooting": 3,
}  # fmt: skip


# These change the networks themselves; of the others the networks are the same, so that a loss without them would be.
STRUCTURE = {
    "deter", "hidden", "cell", "blocks", "latent", "stoch", "classes", "prior_layers", "posterior_layers", "units",
    "layers", "head_layers", "norm", "reward",
}  # fmt: skip


@pytest.mark.parametrize("name", LARGER)
def test_every_hyperparameter_has_an_effect(name, cartpole_steps):
    sizes, losses = [], []
    base = replace(V3, free_nats=0.9) if name == "free_average" else V3  # a divergence that some states are below
    for config in (base, replace(base, **{name: LARGER[name]})):
        model = rssm(config, cartpole_steps.observation_space, cartpole_steps.action_space)
        torch.manual_seed(1)
        losses.append(model.loss(windows(cartpole_steps)).total.item())
        sizes.append(sum(p.numel() for p in model.parameters()))
    assert (sizes[0] != sizes[1]) == (name in STRUCTURE)
    assert losses[0] != losses[1]


def test_overshooting_is_the_divergence_from_priors_that_saw_nothing(pendulum_steps):
    """By hand: two and three steps from every row, with samples that leave no chance."""
    model = rssm(replace(PLANET, free_nats=0.0, overshooting=3))
    model.latent = Still(model.latent)
    batch = windows(pendulum_steps, 2, 5)
    batch.is_first[1, 3] = True
    states, posterior = model._filter_all(batch, None)
    wanted = []
    for row in range(2):
        for begin in range(5):
            state = states[row : row + 1, begin]
            for distance in range(1, min(4, 5 - begin)):
                if row == 1 and begin + distance >= 3 > begin:
                    break
                state, _ = model.predict(state, batch.action[row : row + 1, begin + distance - 1])
                prior = model.latent.dist(model.prior(state.deter))
                if distance > 1:
                    target = model.latent.dist(posterior[row : row + 1, begin + distance])
                    wanted.append(model.latent.kl(target, prior))
    assert len(wanted) == 3 + 2 + 1 + 0  # row 0: 2 and 3 steps; row 1: the last two rows have no pair
    torch.testing.assert_close(overshooting(model, states, posterior, batch), torch.cat(wanted).mean())
    torch.testing.assert_close(
        overshooting(model, states, posterior[:, 1:], batch), overshooting(model, states, posterior, batch)
    )


def test_the_other_hyperparameters_have_an_effect_too():
    gaussian = replace(V1, least_deviation=0.7)
    dist = rssm(gaussian).latent.dist(torch.full((1, 12), -99.0))
    assert torch.equal(dist.deviation, torch.full((1, 6), 0.7))
    assert rssm(replace(V3, context=4)).context == 4
    elsewhere = {"depth", "convolutions", "image_bits", "image_activation"}  # of images, tests/test_images.py
    assert {f.name for f in fields(RSSMConfig)} == {*LARGER, "least_deviation", "context", *elsewhere}


def test_the_sizes_are_the_references():
    """danijar/dreamerv3 at e3f0224, dreamerv3/configs.yaml."""
    assert RSSMConfig.dreamer_v3("12m") == RSSMConfig(deter=2048, hidden=256, classes=16, units=256, depth=16)
    assert RSSMConfig.dreamer_v3() == RSSMConfig()
    assert list(SIZES) == ["1m", "12m", "25m", "50m", "100m", "200m", "400m"]
    assert all(deter == 8 * hidden and units == hidden for deter, hidden, _, units in SIZES.values())
    with pytest.raises(ValueError, match=r"size must be one of 1m, 12m, .*, got '2m'"):
        RSSMConfig.dreamer_v3("2m")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stoch": 0}, "stoch must be at least 1, got 0"),
        ({"cell": "lstm"}, r"cell must be one of \('gru', .*, got 'lstm'"),
        ({"free_nats": -1.0}, "free_nats must be at least 0"),
        ({"deter": 33}, "deter must be a multiple of the 4 blocks, got 33"),
        ({"discount_horizon": 1.0}, "discount_horizon must be above 1 step, or None, got 1"),
    ],
)
def test_bad_configurations_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(V3, **change)


# Learning


@VERSIONS
def test_it_learns_to_predict_a_real_task(config, pendulum_steps):
    """Better than guessing the mean, from the prior alone, after some hundred updates: that it learns at all."""
    # PlaNet's weight on rewards and its nats in each state take longer; both have tests of their own.
    config = replace(config, reward_scale=1.0, free_nats=min(config.free_nats, 1.0))
    model = rssm(config, pendulum_steps.observation_space, pendulum_steps.action_space)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    rng, index = np.random.default_rng(0), pendulum_steps.windows(16)
    for _ in range(250):
        loss = model.loss(pendulum_steps.gather(rng.choice(index, 8), 16))
        optimizer.zero_grad()
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
    inside = pendulum_steps.windows(10)  # no window crosses the end of an episode
    batch = pendulum_steps.gather(inside[:: len(inside) // 60], 10)
    with torch.no_grad():
        state = model.believe(batch.obs[:, :9], batch.action[:, :9])
        after, step = model.predict(state, batch.action[:, 8], sample=False)
    error = (model.decode(after) - batch.obs[:, 9]).square().mean(0)
    assert (error < 0.5 * batch.obs[:, 9].var(0)).all()  # what the prior alone says; alignment is tested above
    assert (step.reward - batch.reward[:, 9]).square().mean() < 0.7 * batch.reward[:, 9].var()
    assert not step.terminated.any()


def test_it_is_a_learned_environment_and_sb3_trains_in_it(tmp_path):
    agent = Dyna(
        "MlpPolicy",
        gym.make("CartPole-v1"),
        algorithm=PPO,
        algorithm_kwargs={"n_steps": 8, "batch_size": 32, "n_epochs": 1},
        model_class=RSSM,
        model_config=replace(V3, context=2),
        trainer_config=TrainerConfig(length=8, max_updates=10),
        learning_starts=60,
        dream_steps=64,
        dream_envs=4,
        dream_horizon=5,
        seed=0,
        device="cpu",
    )
    agent.learn(70)
    assert agent.imagined_timesteps >= 64
    agent.save(tmp_path / "agent")
    loaded = Dyna.load(tmp_path / "agent", env=gym.make("CartPole-v1"), device="cpu")
    assert isinstance(loaded.model, RSSM)
    assert loaded.model.config == agent.model.config
    venv = LearnedVectorEnv(agent.model, agent.replay.starts(2), num_envs=3, horizon=4)
    obs, _ = venv.reset(seed=0)
    for _ in range(5):
        obs, _, _, _, _ = venv.step(venv.action_space.sample())
    assert venv.observation_space.contains(obs)
