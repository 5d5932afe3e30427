"""Convolutions of the Dreamer family, and an RSSM that sees.

The golden numbers come from running danijar/dreamerv3 at e3f0224 with jax on a CPU: rssm.Encoder and rssm.Decoder over
images of 48x48x1 with depth 2, whose weights are sines.
"""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from mbrl_gym import LearnedVectorEnv, check_world_model
from mbrl_gym.agents import BehaviorConfig, Dreamer, OptimizerConfig
from mbrl_gym.models.rssm import RSSM
from mbrl_gym.models.rssm_config import RSSMConfig
from mbrl_gym.nets.images import (
    PooledDecoder,
    PooledEncoder,
    StridedDecoder,
    StridedEncoder,
    doubled_convolution,
    stages,
)
from mbrl_gym.report import film_strip, open_loop_film
from worlds import real_steps

SHAPE = (48, 48, 1)
PIXELS = (np.arange(2 * 48 * 48) * 7919 % 256).reshape(2, 48, 48, 1).astype(np.uint8)
DETER = torch.tensor(np.sin(np.arange(32) * 0.31).reshape(2, 16), dtype=torch.float32)
STOCH = torch.eye(3)[torch.tensor([[0, 1], [2, 2]])].flatten(1)
TINY = RSSMConfig(deter=16, hidden=8, stoch=4, classes=4, units=16, layers=1, depth=2)
STRIDED = replace(RSSMConfig.dreamer_v1(), deter=16, hidden=8, stoch=4, units=16, layers=1, depth=2)
IMAGE = spaces.Box(0, 255, (48, 48, 3), np.uint8)


def sines(shape, number):
    """The reference's weights: the ``number``-th of its parameters by name."""
    return torch.tensor(0.5 * np.sin(0.7 * np.arange(int(np.prod(shape))) + number), dtype=torch.float32).reshape(shape)


def kernel(shape, number):
    return sines(shape, number).permute(3, 2, 0, 1)


def test_the_encoder_is_the_references():
    encoder = PooledEncoder(SHAPE, 2, "silu", True)
    weights = {}
    for i, (before, after) in enumerate([(1, 4), (4, 6), (6, 8), (8, 8)]):
        weights[f"convolutions.{i}.bias"] = sines((after,), 3 * i)
        weights[f"convolutions.{i}.weight"] = kernel((5, 5, before, after), 3 * i + 1)
        weights[f"normed.{i}.norm.scale"] = sines((after,), 3 * i + 2) + 1
    encoder.load_state_dict(weights)
    found = encoder(torch.tensor(PIXELS).permute(0, 3, 1, 2) / 255 - 0.5)
    assert found.shape == (2, encoder.size) == (2, 72)
    wanted = [0.3065693974494934, 0.4784817695617676, 0.761183500289917, 0.09000455588102341, 0.27816006541252136]
    torch.testing.assert_close(found[0, ::8][:5], torch.tensor(wanted), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[0].square().sum().item(), 54.680362701416016, rtol=1e-4, atol=1e-4)


def test_the_decoder_is_the_references():
    decoder = PooledDecoder(SHAPE, 2, 16, 6, 4, "silu", True, 8)
    weights = {
        "convolutions.3.bias": sines((1,), 9),
        "convolutions.3.weight": kernel((5, 5, 4, 1), 10),
        "from_deter.bias": sines((72,), 11),
        "from_deter.weight": sines((8, 2, 9), 12),
        "from_stoch.0.bias": sines((8,), 13),
        "from_stoch.0.weight": sines((6, 8), 14).T,
        "from_stoch.1.scale": sines((8,), 15) + 1,
        "from_stoch.3.bias": sines((72,), 16),
        "from_stoch.3.weight": sines((8, 72), 17).T,
        "first.norm.scale": sines((8,), 18) + 1,
    }
    for i, (before, after) in enumerate([(6, 4), (8, 6), (8, 8)]):  # the reference counts from the image
        weights[f"convolutions.{2 - i}.bias"] = sines((after,), 3 * i)
        weights[f"convolutions.{2 - i}.weight"] = kernel((5, 5, before, after), 3 * i + 1)
        weights[f"normed.{2 - i}.norm.scale"] = sines((after,), 3 * i + 2) + 1
    decoder.load_state_dict(weights)
    found = decoder(DETER, STOCH)
    assert found.shape == (2, 1, 48, 48)
    wanted = [
        [0.7361364960670471, 0.419951468706131, 0.2637960910797119, 0.5769391059875488, 0.3862382471561432],
        [0.7219989895820618, 0.4673372209072113, 0.7169352769851685, 0.49946579337120056, 0.5662301182746887],
    ]
    torch.testing.assert_close(found.flatten(1)[:, ::256][:, :5], torch.tensor(wanted), rtol=1e-3, atol=1e-4)
    squares = torch.tensor([695.3306884765625, 703.952392578125])
    torch.testing.assert_close(found.square().sum((1, 2, 3)), squares, rtol=1e-4, atol=1e-3)


def test_four_small_convolutions_are_one_of_the_doubled_image():
    x, weight, bias = torch.randn(2, 3, 5, 4), torch.randn(6, 3, 5, 5), torch.randn(6)
    doubled = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    wanted = torch.nn.functional.conv2d(doubled, weight, bias, padding=2)
    torch.testing.assert_close(doubled_convolution(x, weight, bias), wanted, rtol=1e-4, atol=1e-4)


def test_strided_convolutions_have_the_papers_sizes():
    encoder, decoder = StridedEncoder((64, 64, 3), 32, "relu"), StridedDecoder((64, 64, 3), 32, 230, "relu")
    assert encoder(torch.zeros(2, 3, 64, 64)).shape == (2, encoder.size) == (2, 1024)
    assert decoder(torch.zeros(2, 200), torch.zeros(2, 30)).shape == (2, 3, 64, 64)
    with pytest.raises(ValueError, match="images must be 64x64 for strided convolutions, got 48x48"):
        StridedEncoder((48, 48, 3), 32, "relu")


def test_a_strided_decoder_that_says_nothing_says_grey():
    decoder = StridedDecoder((64, 64, 1), 2, 5, "relu")
    for p in decoder.parameters():
        torch.nn.init.zeros_(p)
    assert torch.equal(decoder(torch.ones(1, 3), torch.ones(1, 2)), torch.full((1, 1, 64, 64), 0.5))


@pytest.mark.parametrize("size", [(24, 24), (28, 40), (20, 12), (8, 6)])
def test_any_number_of_halvings_works_at_the_smallest_size(size):
    shape = (*size, 2)
    encoder, decoder = PooledEncoder(shape, 4, "silu", True), PooledDecoder(shape, 4, 16, 6, 4, "silu", True, 8)
    x = decoder(DETER, STOCH)
    assert x.shape == (2, 2, *size)
    assert encoder(x).shape == (2, encoder.size)


def test_transposed_images_are_read_as_they_were():
    """SB3's VecTransposeImage, around an environment to evaluate on."""
    agent = Dreamer("CnnPolicy", Blinking(), model_config=TINY, learning_starts=50, device="cpu", seed=0)
    obs = np.random.default_rng(0).integers(0, 256, (3, 24, 24, 1), np.uint8)
    plain = agent.predict(obs)[0]
    assert np.array_equal(agent.predict(np.moveaxis(obs, -1, 1))[0], plain)


def test_images_are_halved_as_often_as_they_can_be():
    assert [stages(64, 64), stages(96, 96), stages(32, 32), stages(48, 64), stages(24, 24)] == [4, 4, 3, 4, 3]
    with pytest.raises(ValueError, match="got 84x84; resize them"):
        stages(84, 84)


BOTH = spaces.Dict(
    eye=spaces.Box(0, 255, (1, 48, 48), np.uint8),  # channels first
    left=spaces.Box(0, 255, (48, 48, 3), np.uint8),
    speed=spaces.Box(-1.0, 1.0, (2,)),
)


@pytest.mark.parametrize("observations", [IMAGE, BOTH], ids=["image", "both"])
def test_it_keeps_the_contract(observations):
    torch.manual_seed(0)
    check_world_model(RSSM(observations, spaces.Discrete(2), TINY))


def test_strided_ones_keep_it_too():
    torch.manual_seed(0)
    check_world_model(RSSM(spaces.Box(0, 255, (64, 64, 3), np.uint8), spaces.Discrete(2), STRIDED))


def test_the_loss_sums_over_pixels_and_reads_few_bits_where_told():
    space = spaces.Box(0, 255, (48, 48, 1), np.uint8)
    model = RSSM(space, spaces.Discrete(2), TINY)
    features, obs = torch.randn(3, 5, 16 + 16), torch.randint(0, 256, (3, 5, 48, 48, 1), dtype=torch.uint8)
    _, said = model.decoder(features)
    wanted = (said[:, 0] - obs.flatten(0, 1)[..., 0] / 255).square().sum((1, 2)).mean()
    torch.testing.assert_close(model.decoder.loss(features, obs), wanted)
    coarse = RSSM(space, spaces.Discrete(2), replace(TINY, image_bits=5)).decoder.senses
    assert len(coarse.image(obs).unique()) == 32
    torch.testing.assert_close(coarse.image(obs)[0, 0], (obs[0, 0, ..., 0] // 8) / 32)


def test_what_is_not_seen_is_refused():
    mixed = spaces.Dict(a=spaces.Box(0, 255, (48, 48, 1), np.uint8), b=spaces.Box(0, 255, (64, 64, 1), np.uint8))
    with pytest.raises(ValueError, match="images must all be of one size"):
        RSSM(mixed, spaces.Discrete(2), TINY)


class Blinking(gym.Env):
    """Shows black or white; the reward is that of what is shown, and the action chooses what is shown next."""

    observation_space, action_space = spaces.Box(0, 255, (24, 24, 1), np.uint8), spaces.Discrete(2)

    def _show(self, bright):
        return np.full((24, 24, 1), 255 * int(bright), np.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._steps = 0
        return self._show(False), {}

    def step(self, action):
        self._steps += 1
        return self._show(action), float(action), False, self._steps == 20, {}


def test_a_film_shows_truth_prediction_and_error_and_predicts_without_seeing():
    replay = real_steps(Blinking(), 60)
    torch.manual_seed(0)
    model = RSSM(Blinking.observation_space, Blinking.action_space, TINY)
    batch = replay.gather(replay.windows(10)[[0, 11]], 10)
    film = open_loop_film(model, batch, context=4)
    assert film.shape == (10, 3 * 24, 2 * 24, 1)
    truth, said, error = np.split(film.astype(int), 3, axis=1)
    assert np.array_equal(truth[:, :, :24], batch.obs[0].numpy())
    assert np.array_equal(error, (said - truth + 255) // 2)
    other = replace(batch, obs=batch.obs.clone())
    other.obs[:, 4:] = 77
    assert np.array_equal(open_loop_film(model, other, context=4)[:, 24:48], film[:, 24:48])
    assert film_strip(film, every=3).shape == (72, 4 * 48, 1)
    with pytest.raises(ValueError, match="context must be at least 1 and below the 10 rows of batch, got 10"):
        open_loop_film(model, batch, context=10)


def test_the_film_goes_to_tensorboard(tmp_path):
    agent = Dreamer(
        "CnnPolicy", Blinking(), model_config=TINY, behavior_config=BehaviorConfig(units=16, horizon=2), batch_size=2,
        batch_length=4, train_ratio=1.0, learning_starts=50, log_freq=40, seed=0, device="cpu",
        tensorboard_log=str(tmp_path),
    )  # fmt: skip
    agent.learn(50)
    seen = []
    agent.logger.record = lambda key, value, exclude=None: seen.append((key, value))
    agent._update()
    agent._train()
    strips = [value for key, value in seen if key == "model/open_loop"]
    assert strips[0].image.shape == (72, 7 * 24, 1)


def test_a_dreamer_that_sees_learns_to_turn_on_the_light():
    """What the model imagines of each action, and what the actor makes of it, after 400 updates; some dreams err."""
    agent = Dreamer(
        "CnnPolicy", Blinking(), model_config=TINY, behavior_config=BehaviorConfig(units=16, horizon=5),
        optimizer_config=OptimizerConfig(learning_rate=3e-3, warmup=10), batch_size=8, batch_length=8, train_ratio=64.0,
        learning_starts=100, seed=0, device="cpu",
    )  # fmt: skip
    agent.learn(500)
    probability = agent.behavior.policy(agent.model.features(agent.policy.last_belief)).mode
    assert probability.argmax(-1) == 1
    stored = agent.stored_model()
    env = LearnedVectorEnv(stored.model, stored.starts, num_envs=64)
    env.reset(seed=0)
    dark = env.step(np.zeros(64, np.int64))
    light = env.step(np.ones(64, np.int64))
    assert dark[0].mean() < 60
    assert light[0].mean() > 195
    assert light[1].mean() > dark[1].mean() + 0.5
