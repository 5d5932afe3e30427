"""StochasticVideoModel, its networks and its bits, on small games whose rules are known."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from test_video import ACTIONS, SPACE, coin, court, pushed, windows
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from mbrl_gym import LearnedEnv, ModelTrainer, TrainerConfig, check_world_model
from mbrl_gym.batch import SequenceBatch
from mbrl_gym.envs.view import FrameStack
from mbrl_gym.models.stochastic_video import StochasticVideoModel, StochasticVideoState
from mbrl_gym.models.stochastic_video_config import StochasticVideoConfig
from mbrl_gym.nets.bits import BitPredictor, Bottleneck
from mbrl_gym.nets.stochastic_video import places, standardised
from mbrl_gym.schedules import exponential_rise, linear_rise
from mbrl_gym.start_states import StartStates
from mbrl_gym.store import StoredModel, load_model, save_model

SMALL = StochasticVideoConfig(
    channels=16,
    levels=2,
    doublings=1,
    dropout=0.0,
    hidden_dropout=0.0,
    bits=8,
    bits_at_once=4,
    predictor=32,
    inference_channels=8,
    discretize_updates=50,
    latent_updates=50,
    latent_share=0.5,
    prior_updates=100,
    self_fed_updates=200,
)
TINY = replace(SMALL, channels=8)


def fresh(config: StochasticVideoConfig = TINY, updates: int = 0) -> StochasticVideoModel:
    """Return an untrained model that believes to have had so many updates."""
    torch.manual_seed(0)
    model = StochasticVideoModel(SPACE, ACTIONS, config)
    model.updates.fill_(updates)
    return model


def trained(data: SequenceBatch, updates: int, config: StochasticVideoConfig, rate: float) -> StochasticVideoModel:
    """Return a model of all windows."""
    model = fresh(config)
    trainer = ModelTrainer(model, TrainerConfig(learning_rate=rate, optimizer="adafactor"))
    generator = torch.Generator().manual_seed(1)
    for _ in range(updates):
        trainer.update(data[torch.randint(0, len(data.reward), (8,), generator=generator)])
    return model


def belief(model: StochasticVideoModel, data: SequenceBatch, rows: int = 4) -> StochasticVideoState:
    """Return beliefs after the first rows."""
    assert isinstance(data.obs, Tensor)
    return model.believe(data.obs[:, :rows], data.action[:, :rows])


def equal(a: Tensor, b: Tensor) -> float:
    """Return the share of pictures that are the same to the pixel."""
    return float((a == b).flatten(1).all(1).float().mean())


# ---- schedules and parts --------------------------------------------------------------------------------------------


def test_schedules_rise_from_a_hundredth() -> None:
    at = torch.tensor([0, 50, 100, 200])
    assert torch.allclose(linear_rise(at, 100), torch.tensor([0.01, 0.505, 1.0, 1.0]))
    assert torch.allclose(exponential_rise(at, 100), torch.tensor([0.01, 0.1, 1.0, 1.0]))


def test_each_channel_of_each_picture_is_standardised_by_itself() -> None:
    pictures = torch.randint(0, 256, (2, 6, 10, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    pictures[0, 0] = 70
    x = standardised(pictures)
    assert torch.allclose(x.mean((2, 3)), torch.zeros(2, 6), atol=1e-5)
    assert torch.allclose(x[1].flatten(1).std(1, correction=0), torch.ones(6), atol=1e-5)
    assert not x[0, 0].any()


def test_places_are_waves_of_rows_then_of_columns() -> None:
    found = places(9, 3, 5)
    rates = [1.0, 1e-4]
    for i, rate in enumerate(rates):
        assert torch.allclose(found[i, 2], torch.tensor(math.sin(2 * rate)))
        assert torch.allclose(found[2 + i, 2], torch.tensor(math.cos(2 * rate)))
        assert torch.allclose(found[4 + i, :, 3], torch.tensor(math.sin(3 * rate)))
        assert torch.allclose(found[6 + i, :, 3], torch.tensor(math.cos(3 * rate)))
    assert not found[8].any()


def test_levels_are_halves_rounded_up_and_the_picture_comes_back() -> None:
    model = StochasticVideoModel(spaces.Box(0, 255, (11, 9, 3), np.uint8), ACTIONS, replace(TINY, levels=3))
    assert model.encoder.sizes == [(11, 9), (6, 5), (3, 3), (2, 2)]
    state, _ = model.predict(model.initial(2), torch.zeros(2, 3))
    assert model.decode(state).shape == (2, 11, 9, 3)


def test_bits_are_mixed_with_what_they_are_made_of_and_some_are_flipped() -> None:
    torch.manual_seed(0)
    x, whole = torch.randn(500, 6), torch.ones(())
    exact = Bottleneck(6, 6, 0.0, 0.0)
    bits, true = exact(x, whole)
    assert torch.equal(bits.detach(), true)
    assert set(true.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(true, exact.project(x).sign())
    soft, _ = exact(x, torch.zeros(()))
    assert torch.allclose(soft, torch.tanh(exact.project(x)))
    (gradient,) = torch.autograd.grad(bits.sum(), exact.project.bias, retain_graph=True)
    assert torch.allclose(gradient, torch.autograd.grad(soft.sum(), exact.project.bias)[0])
    half = exact(x, torch.tensor(0.5))[0].detach()
    assert 0.4 < (half == true).float().mean() < 0.6
    for noise, flips, low, high in ((0.0, 0.1, 0.08, 0.12), (1.0, 0.0, 0.1, 0.6)):
        other = Bottleneck(6, 6, noise, flips)
        other.load_state_dict(exact.state_dict())
        assert low < (other(x, whole)[0] != true).float().mean() < high
        assert torch.equal(other(x, whole)[1], true)  # what is predicted has no noise


def test_words_are_predicted_one_after_the_other_as_they_are_drawn() -> None:
    torch.manual_seed(0)
    predictor = BitPredictor(5, 6, 2, 7, 0.0)
    torch.nn.init.normal_(predictor.embed.weight, std=3.0)
    features = torch.randn(4, 5)
    bits = predictor(features, 1.0)
    assert bits.shape == (4, 6)
    assert torch.equal(predictor._bits(predictor._words(bits)), bits)
    assert predictor._words(torch.tensor([[1.0, -1, -1, 1, 1, 1]])).tolist() == [[1, 2, 3]]
    words, (given, state) = predictor._words(bits), predictor._beginning(features)
    total = torch.zeros(4)
    for step in range(3):
        output, state = predictor.cell(given, state)
        total += cross_entropy(predictor.classify(output[:, 0]), words[:, step], reduction="none")
        given = predictor.embed(words[:, step : step + 1])
    assert torch.allclose(predictor.loss(features, bits), total / 3, atol=1e-6)
    predictor.dropout = 0.5
    assert not torch.allclose(predictor.loss(features, bits), total / 3)
    assert torch.equal(predictor(features, 1e-6), predictor(features, 1.0, sample=False))


# ---- beliefs and predictions ----------------------------------------------------------------------------------------


def test_a_belief_is_the_last_pictures_oldest_first_and_an_episode_begins_with_its_first() -> None:
    model, column = fresh(), torch.tensor([[0, 1, 2, 3, 4, 5]])
    state = belief(model, windows(court(column), torch.zeros(1, 6, dtype=torch.long)), 6)
    assert torch.equal(model.pictures(state)[..., 0], court(column[:, 2:]))
    assert torch.equal(model.decode(state), court(column[:, -1]))
    after, _ = model.predict(state, torch.zeros(1, 3))
    assert torch.equal(model.pictures(after)[:, :3, ..., 0], court(column[:, 3:]))  # the past stays as it was
    first = model.observe(state, torch.zeros(1, 3), court(torch.tensor([9])), torch.tensor([True]))
    assert torch.equal(model.pictures(first)[..., 0], court(torch.tensor([[9, 9, 9, 9]])))


def test_there_is_no_dropout_in_dreams_and_some_in_training() -> None:
    data = pushed(6, 6)
    quiet, loud, hidden = (fresh(replace(TINY, dropout=d, hidden_dropout=h)) for d, h in ((0, 0), (0.5, 0), (0, 0.5)))
    for model in (loud, hidden):
        model.train()
        mine, theirs = (m.predict(belief(m, data), data.action[:, 3], sample=False) for m in (model, quiet))
        assert torch.equal(mine[0].frames, theirs[0].frames)
        assert torch.equal(mine[1].reward, theirs[1].reward)
        losses = []
        for m in (model, quiet):
            torch.manual_seed(0)
            losses.append(m.loss(data).terms["pixels"])
        assert losses[0] != losses[1]


def test_the_action_is_added_at_the_bottom_and_before_every_step_up() -> None:
    model, data = fresh(), pushed(4, 5)
    parts = [model.act, *(up.action for up in model.decoder.up)]
    assert len(parts) == 1 + TINY.levels
    found = []
    for kept in (None, *parts):
        torch.manual_seed(0)
        for part in parts:
            torch.nn.init.normal_(part.parts.weight, std=0.0 if part is not kept else 1.0)
        torch.nn.init.normal_(model.action.weight)
        seen = [model._see(belief(model, data), one_hot(torch.full((4,), a), 3).float(), False) for a in (0, 2)]
        found.append([model._draw(s, s.low, False)[0] for s in seen])
    assert torch.equal(*found[0])
    assert all(not torch.equal(*logits) for logits in found[1:])


def test_what_is_injected_in_dreams_are_bits_drawn_as_the_seed_says() -> None:
    model, data = fresh(), pushed(8, 5)
    injected: list[Tensor] = []
    model.draw.register_forward_hook(lambda module, inputs, output: injected.append(inputs[1]))

    def dream(seed: int) -> list[Tensor]:
        state, generator, found = belief(model, data), torch.Generator().manual_seed(seed), []
        for _ in range(3):
            state, step = model.predict(state, data.action[:, 4], generator)
            found += [*state.tensors(), step.reward, injected[-1]]
        return found

    one, again, other = dream(1), dream(1), dream(2)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one[2], other[2])
    assert all(bits.shape == (8, 8) and set(bits.unique().tolist()) == {-1.0, 1.0} for bits in injected)
    assert len(one[2].unique(dim=0)) > 1
    model.predict(belief(model, data), data.action[:, 4], sample=False)
    likeliest = injected[-1]
    cold = StochasticVideoModel(SPACE, ACTIONS, replace(TINY, temperature=1e-6))
    cold.load_state_dict(model.state_dict())
    cold.draw.register_forward_hook(lambda module, inputs, output: injected.append(inputs[1]))
    cold.predict(belief(cold, data), data.action[:, 4])
    assert torch.equal(injected[-1], likeliest)


def test_rewards_are_the_likeliest_of_three_or_their_mean() -> None:
    model = fresh()
    torch.nn.init.zeros_(model.reward_head[2].weight)
    model.reward_head[2].bias.data = torch.tensor([0.3, 0.2, 0.5]).log()
    for sample, reward in ((True, 1.0), (False, 0.2)):
        _, step = model.predict(model.initial(2), torch.zeros(2, 3), sample=sample)
        assert torch.allclose(step.reward, torch.full((2,), reward), atol=2e-3)  # half precision
    assert not step.terminated.any()
    assert (step.continuation == 1).all()


# ---- the loss -------------------------------------------------------------------------------------------------------


def certain(model: StochasticVideoModel, logits: Tensor) -> None:
    """Let the model predict the classes of every pixel by ``logits`` [256], whatever it sees."""
    torch.nn.init.zeros_(model.head.weight)
    assert model.head.bias is not None
    model.head.bias.data.copy_(logits)


def test_the_loss_is_a_mean_of_what_is_above_the_clip() -> None:
    data, clip = pushed(4, 6), 0.03
    model = fresh()
    certain(model, torch.zeros(256))
    for parameter in model.reward_head.parameters():
        torch.nn.init.zeros_(parameter)
    result = model.loss(data)
    assert result.terms["pixels"] == pytest.approx(math.log(256) - clip, rel=1e-5)
    assert result.terms["reward"] == pytest.approx(math.log(3) - clip, rel=1e-5)
    assert result.terms["latent"] > 0
    parts = sum(float(result.terms[name]) for name in ("pixels", "reward", "latent"))
    assert result.total.item() == pytest.approx(parts, rel=1e-5)


@pytest.mark.parametrize(("clip", "least"), [(0.03, 0.0), (0.0, 1e-9)])
def test_pixels_that_are_right_enough_have_no_gradient(clip: float, least: float) -> None:
    ground = windows(torch.full((3, 5, 12, 12), 50, dtype=torch.uint8), torch.ones(3, 5, dtype=torch.long))
    model = fresh(replace(TINY, clip=clip))
    logits = torch.zeros(256)
    logits[50] = 12.0  # 0.0016 nats
    certain(model, logits)
    result = model.loss(ground)
    (gradient,) = torch.autograd.grad(result.total, model.head.bias)  # type: ignore[arg-type]
    assert (float(result.terms["pixels"]) > least) == (clip == 0)
    assert bool(gradient.any()) == (clip == 0)


def test_rows_in_which_an_episode_begins_are_not_predicted() -> None:
    data, is_first = pushed(5, 6), torch.zeros(5, 6, dtype=torch.bool)
    is_first[:, 4:] = True
    assert not any(fresh().loss(replace(data, is_first=is_first)).terms.values())


@pytest.mark.parametrize(("updates", "own"), [(0, False), (200, True)])
def test_the_models_own_pictures_take_over_with_its_updates(updates: int, own: bool) -> None:
    data, model = pushed(6, 8), fresh(updates=updates)
    certain(model, one_hot(torch.tensor(7), 256).float())
    seen: list[StochasticVideoState] = []
    see = model._see
    model._see = lambda state, *rest, **more: (seen.append(state), see(state, *rest, **more))[1]  # type: ignore
    model.loss(data)
    shown = torch.stack([model.decode(state) for state in seen[1:]], 1)
    black = torch.full((6, 3, 12, 12), 7, dtype=torch.uint8)
    assert torch.equal(shown, black if own else data.obs[:, 4:7])  # type: ignore[index]


def test_the_share_of_own_pictures_grows_exponentially_then_linearly() -> None:
    shares = [float(fresh(updates=n)._share_of_own()) for n in (0, 25, 50, 100, 200, 300)]
    line = [0.01 + 0.99 * n / 200 for n in (0, 25, 50, 100)]
    assert shares == pytest.approx([0.01 * line[0], 0.1 * line[1], line[2], line[3], 1.0, 1.0])
    assert float(fresh(replace(TINY, self_fed=0.3), 200)._share_of_own()) == pytest.approx(0.3)


def test_predicted_bits_and_missing_latents_grow_with_updates() -> None:
    data = pushed(400, 5)
    found = {}
    for updates, prior_share in ((0, 1.0), (100, 1.0), (100, 0.5), (100, 0.0)):
        model = fresh(replace(TINY, prior_share=prior_share, bit_flips=0.0, discretize_updates=1), updates)
        model.prior.forward = lambda features, *rest: torch.full((len(features), 8), 3.0)  # type: ignore
        injected: list[Tensor] = []
        model.draw.register_forward_hook(lambda module, inputs, output, to=injected: to.append(inputs[1]))
        model.loss(data)
        found[updates, prior_share] = float((injected[0] == 3.0).float().mean())
    assert found[0, 1.0] == pytest.approx(0.01, abs=0.01)
    assert found[100, 1.0] == 1.0
    assert found[100, 0.5] == pytest.approx(0.5, abs=0.05)
    assert found[100, 0.0] == 0.0
    assert float(fresh()._share_of_latents()) == pytest.approx(0.005)
    assert float(fresh(updates=50)._share_of_latents()) == pytest.approx(0.5)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_rows_without_a_latent_learn_nothing_for_it(share: float) -> None:
    model = fresh(replace(TINY, latent_share=share, latent_updates=1), updates=1)
    model.loss(pushed(4, 5)).total.backward()  # type: ignore[no-untyped-call]
    assert model.posterior.project.weight.grad is not None
    assert bool(model.posterior.project.weight.grad.any()) == bool(share)


def test_windows_must_be_longer_than_what_is_shown() -> None:
    with pytest.raises(ValueError, match="length must be at least 4 known rows and one, got windows of 4"):
        fresh().loss(pushed(2, 4))


# ---- what is learned ------------------------------------------------------------------------------------------------


def test_dreams_follow_the_actions_and_pay() -> None:
    player = trained(pushed(400, 6), 300, replace(SMALL, self_fed=0.5), 3e-2)
    data, right, paid = pushed(40, 12, seed=5), 0.0, 0.0
    state, generator = belief(player, data), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for t in range(4, 12):
            state, step = player.predict(state, data.action[:, t - 1], generator)
            right += equal(player.decode(state), data.obs[:, t])  # type: ignore[index]
            paid += float((step.reward == data.reward[:, t]).float().mean())
    assert right / 8 > 0.9
    assert paid / 8 > 0.95


def test_bits_tell_what_is_open_and_are_predicted_as_often_as_it_comes() -> None:
    model = trained(coin(200), 170, replace(SMALL, self_fed=0.0, latent_share=0.8, prior_share=0.2), 2e-2)
    data = coin(200, seed=3)
    before = belief(model, data)
    with torch.no_grad():
        seen = model._see(before, data.action[:, 3], learning=False)
        picture = data.obs[:, 4, None]  # type: ignore[index]
        pair = torch.cat([seen.pictures, standardised(picture)], 1)
        _, bits = model.posterior(model.reader(pair, seen.given), torch.ones(()))
        told = model._draw(seen, model.draw(seen.low, bits), learning=False)[0].argmax(2)
        after, _ = model.predict(before, data.action[:, 3], torch.Generator().manual_seed(0))
    assert equal(told, picture) > 0.97
    drawn = model.decode(after)
    left, right = ((drawn == court(torch.full((200,), c))).all(-1).all(-1) for c in (1, 9))
    assert (left | right).float().mean() > 0.95
    assert 0.3 < left.float().mean() < 0.7


# ---- as a model among others ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(12, 12), (12, 10, 3), (3, 9, 12)])
def test_it_satisfies_the_contract(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    check_world_model(StochasticVideoModel(spaces.Box(0, 255, shape, np.uint8), ACTIONS, TINY))


def test_the_papers_model_has_80_million_parameters_and_8_more_in_training() -> None:
    with torch.device("meta"):
        model = StochasticVideoModel(spaces.Box(0, 255, (105, 80, 3), np.uint8), spaces.Discrete(6))
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    training = sizes.pop("reader") + sizes.pop("posterior")
    assert 75e6 < sum(sizes.values()) < 85e6
    assert 7e6 < training < 9e6
    assert model.encoder.sizes == [(105, 80), (53, 40), (27, 20), (14, 10), (7, 5), (4, 3), (2, 2)]
    assert [up.convolution.out_channels for up in model.decoder.up] == [768, 768, 768, 384, 192, 96]
    assert (model.prior.words, model.prior.classify.out_features) == (16, 256)


@pytest.mark.parametrize("optimizer", ["adam", "adafactor"])
def test_stopping_storing_and_going_on_equals_going_on(optimizer: str) -> None:
    data, states = pushed(8, 6), []
    for stop in (False, True):
        model = fresh()
        trainer = ModelTrainer(model, TrainerConfig(optimizer=optimizer))
        trainer.update(data)
        assert model.updates == 1
        if stop:
            twin: Any = model.twin()
            twin.load_state_dict(model.state_dict())
            later = ModelTrainer(twin, TrainerConfig(optimizer=optimizer))
            later.load_state_dict(trainer.state_dict())
            model, trainer = twin, later
        trainer.update(data)
        states.append(model.state_dict())
    assert states[1]["updates"] == 2
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))


def test_it_survives_storing_and_is_an_environment_of_stacks(tmp_path: Path) -> None:
    model, data = fresh(updates=123), pushed(4, 5)
    assert isinstance(data.obs, Tensor)
    stored = StoredModel(model, StartStates(data.obs[:, :4], data.action[:, :4]), None, 100)
    save_model(tmp_path / "m", stored)
    again: Any = load_model(tmp_path / "m").model
    assert again.updates == 123
    assert again.config == model.config
    one, other = (m.predict(belief(m, data), data.action[:, 4], sample=False)[0] for m in (model, again))
    assert torch.equal(one.frames, other.frames)
    env = LearnedEnv(again, stored.starts, view=FrameStack(stack=4, height=12, width=12))
    obs, _ = env.reset(seed=0, options={"start": data.obs[0, :4].numpy(), "action": np.zeros(4, int)})
    assert np.array_equal(obs, data.obs[0, :4].numpy())
    assert np.array_equal(env.step(1)[0][:3], obs[1:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"levels": 0}, "levels must be at least 1, got 0"),
        ({"channels": 3}, "channels must be at least 4, a sine and a cosine of each side, got 3"),
        ({"doublings": 3}, "doublings must be between 0 and the 2 levels, got 3"),
        ({"bits": 6}, "bits must be a multiple of bits_at_once = 4, got 6"),
        ({"dropout": 1.5}, "dropout must be between 0 and 1, got 1.5"),
        ({"prior_share": -0.1}, "prior_share must be between 0 and 1, got -0.1"),
        ({"clip": -0.1}, "clip must be at least 0, got -0.1"),
        ({"bit_noise": -1.0}, "bit_noise must be at least 0, got -1.0"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
    ],
)
def test_bad_hyperparameters_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


def test_a_stack_of_pictures_is_refused() -> None:
    with pytest.raises(ValueError, match="observation_space must be a uint8 Box"):
        StochasticVideoModel(spaces.Box(0, 255, (4, 12, 12), np.uint8), ACTIONS, TINY)
