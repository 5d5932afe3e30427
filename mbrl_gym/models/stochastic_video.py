"""StochasticVideoModel: SimPLe's model of a game, as published: every pixel's intensities, and a latent of bits.

Shapes: B batch, T time, F frames, C channels, H x W pixels, A encoded action, K bits.
"""

from dataclasses import dataclass
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, relu

from mbrl_gym.batch import SequenceBatch
from mbrl_gym.model import ModelLoss, Prediction, WorldModel
from mbrl_gym.models.stochastic_video_config import StochasticVideoConfig
from mbrl_gym.nets.bits import BitPredictor, Bottleneck
from mbrl_gym.nets.precision import mixed_precision
from mbrl_gym.nets.stochastic_video import FrameDecoder, FrameEncoder, Injection, PairReader, initialise, standardised
from mbrl_gym.pictures import PictureLayout
from mbrl_gym.schedules import exponential_rise, linear_rise
from mbrl_gym.spaces import Observation
from mbrl_gym.tensors import TensorStruct

LEVELS = 256  # of intensity


@dataclass(frozen=True)
class StochasticVideoState(TensorStruct):
    """A belief: the last pictures.

    Attributes:
        frames: [B, F * C, H, W] uint8, the newest picture last.
    """

    frames: Tensor


@dataclass(frozen=True)
class _Seen:
    """What the networks make of pictures and an action, before the latent.

    Attributes:
        pictures: [B, F * C, H, W], standardised.
        levels: [B, C, h, w] each, finest first.
        given: the action [B, E].
        low: the lowest level [B, C, h, w] with the action.
    """

    pictures: Tensor
    levels: list[Tensor]
    given: Tensor
    low: Tensor


class StochasticVideoModel(WorldModel[StochasticVideoState]):
    """Predicts the next picture from the last four and the action, with what is open in a latent of bits.

    It is "next_frame_basic_stochastic_discrete" in the form that the paper describes, which reads four pictures at
    once; the published code gives it one at a time beside a recurrent state of full size. Every picture is standardised
    by itself. Six convolutions halve it, the action multiplies and adds at the bottom and before every step up, each
    level is added on the way up, and each pixel's channel is one of 256 classes, of which a prediction takes the
    likeliest. In training a network that sees the next picture says 128 bits; a recurrent network learns to predict
    these from the lowest level, eight at a time, and draws them in dreams. Rewards are -1, 0 or 1 (others count as the
    nearest), the likeliest is predicted. There is no end of an episode.

    The loss is that of the original: the mean of the clipped cross-entropies over pixels and channels, plus that of the
    reward, clipped alike, plus the mean over the words of bits; all three are means over rows. What grows with training
    (the share of its own pictures that it sees, of predicted bits, ...) goes by ``updates``, which are stored with the
    weights. Of 90 million parameters 82 predict; the others read the next picture.

    Not as there: the action is a linear map of its encoding; there, an embedding in which action 0 is zero.

    Source: Kaiser et al. 2020 (SimPLe), section 4 and figure 2; tensorflow/tensor2tensor at bafdc1b,
    ``models/video/basic_deterministic.py``, ``basic_stochastic.py``, ``base.py``, ``layers/modalities.py``.

    Args:
        observation_space: uint8 Box [H, W], or with an axis of one or three channels, last or first: one picture, no
            stack. The paper's is `AtariSettings.simple()` with ``stack=1``.
        action_space: as every model's.
        config: hyperparameters; None: the paper's.

    Raises:
        ValueError: a space is not supported.
    """

    config_class = StochasticVideoConfig
    config: StochasticVideoConfig
    updates: Tensor  # [] int64, gradient steps so far

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        config: StochasticVideoConfig | None = None,
    ) -> None:
        super().__init__(observation_space, action_space, config or StochasticVideoConfig())
        config = self.config
        self.context = config.frames
        self.layout = PictureLayout.of(observation_space)
        size, inputs = (self.layout.height, self.layout.width), config.frames * self.layout.channels
        channels = tuple(config.channels * 2 ** min(i, config.doublings) for i in range(config.levels + 1))
        self.encoder = FrameEncoder(inputs, channels, size, config.dropout)
        lowest = self.encoder.sizes[-1]
        self.decoder = FrameDecoder(
            channels, self.encoder.sizes, config.channels, config.dropout, config.hidden_dropout
        )
        self.head = nn.Conv2d(channels[0], LEVELS * self.layout.channels, 1)
        self.reward_head = nn.Sequential(nn.Linear(channels[-1] + channels[0], 128), nn.ReLU(), nn.Linear(128, 3))
        self.action = nn.Linear(self.action_codec.size, config.channels, bias=False)
        self.act = Injection(config.channels, channels[-1])
        self.draw = Injection(config.bits, channels[-1])
        features = channels[-1] * lowest[0] * lowest[1]
        self.prior = BitPredictor(
            features, config.bits, config.bits_at_once, config.predictor, config.predictor_dropout
        )
        self.reader = PairReader(inputs + self.layout.channels, config.channels, config.inference_channels, size)
        self.posterior = Bottleneck(self.reader.outputs, config.bits, config.bit_noise, config.bit_flips)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self._initialise()

    def _initialise(self) -> None:
        """Draw the weights as the original does."""
        initialise(self)
        nn.init.normal_(self.action.weight)
        for embed in (self.encoder.embed, self.reader.embed):
            assert embed.bias is not None
            nn.init.normal_(embed.bias, std=0.01)  # pictures of one colour are all zeros

    # ---- beliefs ----------------------------------------------------------------------------------------------------

    def initial(self, batch_size: int) -> StochasticVideoState:
        """Return [B] black pictures."""
        layout = self.layout
        shape = (batch_size, self.config.frames * layout.channels, layout.height, layout.width)
        return StochasticVideoState(torch.zeros(shape, dtype=torch.uint8, device=self.device))

    def observe(
        self,
        state: StochasticVideoState,
        action: Tensor,
        obs: Observation,
        is_first: Tensor,
        generator: torch.Generator | None = None,
    ) -> StochasticVideoState:
        """Return the belief after one real step; an episode begins as if its first picture had been there before."""
        assert isinstance(obs, Tensor)
        return self._after(state, self._channels_first(obs), is_first)

    def predict(
        self,
        state: StochasticVideoState,
        action: Tensor,
        generator: torch.Generator | None = None,
        sample: bool = True,
        uncertainty: bool = True,
    ) -> tuple[StochasticVideoState, Prediction]:
        """Return the belief after one imagined step, and what comes with it (see `WorldModel.predict`).

        What is drawn are the bits. Without ``sample`` they are the likeliest, and the reward is the mean.
        """
        config = self.config
        with self._precision(len(action)):
            seen = self._see(state, action, learning=False)
            bits = self.prior(seen.low.flatten(1), config.temperature, generator, sample)
            logits, reward = self._draw(seen, self.draw(seen.low, bits), learning=False)
        classes = torch.arange(-1.0, 2.0, device=self.device)
        chances = reward.nan_to_num().softmax(-1)
        value = classes[chances.argmax(-1)] if sample else chances @ classes
        total = logits.flatten(1).sum(1) + reward.sum(1)
        diverged = (total - total) != 0
        after = self._after(state, logits.argmax(2).to(torch.uint8), torch.zeros_like(diverged))
        prediction = Prediction(
            reward=value.masked_fill(diverged, 0.0),
            terminated=torch.zeros_like(diverged),
            truncated=diverged,
            continuation=torch.ones_like(value),
            uncertainty=torch.zeros_like(value),
            info={"diverged": diverged},
        )
        return after.where(~diverged, state), prediction

    def features(self, state: StochasticVideoState) -> Tensor:
        """Return [B, F], the mean of the lowest level over its places, without an action.

        Policies that read pictures take `decode`; this is for probes and planners' critics.
        """
        with self._precision(state.batch_size):
            levels = self.encoder(standardised(state.frames), learning=False)
        found: Tensor = levels[-1].float().mean((2, 3))
        return found

    def decode(self, state: StochasticVideoState) -> Tensor:
        """Return the newest picture [B, *obs]."""
        return self.layout.as_observed(self.pictures(state)[:, -1])

    def pictures(self, state: StochasticVideoState) -> Tensor:
        """Return the last ``frames`` pictures [B, F, H, W, C], the newest last."""
        layout = self.layout
        frames = state.frames.view(-1, self.config.frames, layout.channels, layout.height, layout.width)
        return frames.movedim(2, -1)

    def _channels_first(self, obs: Tensor) -> Tensor:
        """Return pictures [..., *obs] as [..., C, H, W]."""
        return self.layout.channels_last(obs).movedim(-1, -3)

    def _after(self, state: StochasticVideoState, picture: Tensor, is_first: Tensor) -> StochasticVideoState:
        """Return the belief after a picture [B, C, H, W], which begins an episode where ``is_first`` [B]."""
        begun = StochasticVideoState(picture.repeat(1, self.config.frames, 1, 1))
        goes_on = StochasticVideoState(torch.cat([state.frames[:, self.layout.channels :], picture], 1))
        return begun.where(is_first, goes_on)

    # ---- the networks -----------------------------------------------------------------------------------------------

    def _precision(self, rows: int) -> torch.autocast:
        return mixed_precision(self.device, rows * self.layout.height * self.layout.width)

    def _see(self, state: StochasticVideoState, action: Tensor, learning: bool) -> _Seen:
        """Return what is made of pictures and action [B, A]; ``learning`` says whether there is dropout."""
        pictures, given = standardised(state.frames), self.action(action)
        levels = self.encoder(pictures, learning)
        return _Seen(pictures, levels, given, self.act(levels[-1], given))

    def _draw(self, seen: _Seen, low: Tensor, learning: bool) -> tuple[Tensor, Tensor]:
        """Return logits [B, C, 256, H, W] and those of the reward [B, 3] of the lowest level with its latent."""
        top = self.decoder(low, seen.levels, seen.given, learning)
        reward = self.reward_head(torch.cat([low.mean((2, 3)), top.mean((2, 3))], 1))
        logits = self.head(top).view(len(top), self.layout.channels, LEVELS, *top.shape[2:])
        return logits, reward.float()

    def _latent(self, seen: _Seen, picture: Tensor) -> tuple[Tensor, Tensor]:
        """Return the lowest level with the latent as training uses it, and the loss [B] of what predicts it.

        Args:
            seen: pictures and action.
            picture: the next one [B, C, H, W].
        """
        config, low = self.config, seen.low
        pair = torch.cat([seen.pictures, standardised(picture)], 1)
        share = linear_rise(self.updates, config.discretize_updates)
        bits, true = self.posterior(self.reader(pair, seen.given), share)
        source = low.flatten(1)
        with torch.no_grad():
            predicted = self.prior(source, config.temperature)
        chance = config.prior_share * linear_rise(self.updates, config.prior_updates)
        bits = torch.where(torch.rand_like(bits) < chance, predicted, bits)
        used = torch.rand(len(low), device=low.device) < self._share_of_latents()
        with_bits = self.draw(low, bits)
        return torch.where(used[:, None, None, None], with_bits, low), self.prior.loss(source, true)

    def _share_of_latents(self) -> Tensor:
        return self.config.latent_share * linear_rise(self.updates, self.config.latent_updates)

    def _share_of_own(self) -> Tensor:
        """Return [], the share of pictures that are the model's own."""
        steps = self.config.self_fed_updates
        rise = exponential_rise(self.updates, max(steps // 4, 1)) * linear_rise(self.updates, steps)
        return self.config.self_fed * rise

    # ---- learning ---------------------------------------------------------------------------------------------------

    def after_update(self) -> None:
        """Count the update."""
        self.updates += 1

    def loss(self, batch: SequenceBatch, start: StochasticVideoState | None = None) -> ModelLoss[StochasticVideoState]:
        """Return the loss of windows [B, T]: of the predicted rows behind the first ``frames``.

        Pictures that predictions rest on are partly the model's own, drawn anew for each row and step; no gradient
        passes through a picture. Rows in which an episode begins are shown, not predicted.

        Args:
            batch: windows of at least ``frames`` + 1 rows; the paper's have 4 + 6.
            start: beliefs [B] of the first row; then all rows after it are predicted.

        Raises:
            ValueError: windows are too short.
        """
        shown = self.context if start is None else 1
        if batch.length <= shown:
            raise ValueError(f"length must be at least {shown} known rows and one, got windows of {batch.length}")
        assert isinstance(batch.obs, Tensor)
        pictures = self._channels_first(batch.obs)
        state = self.initial(len(pictures)) if start is None else start
        for t in range(shown if start is None else 0):
            state = self._after(state, pictures[:, t], batch.is_first[:, t])
        sums: dict[str, Tensor] = {}
        for t in range(shown, batch.length):
            state, terms = self._learn_step(state, batch, pictures[:, t], t)
            sums = {name: sums.get(name, 0.0) + value for name, value in terms.items()}
        means = {name: value / (batch.length - shown) for name, value in sums.items()}
        total = means["pixels"] + means["reward"] + means["latent"]
        return ModelLoss(total, {name: value.detach() for name, value in means.items()})

    def _learn_step(
        self, state: StochasticVideoState, batch: SequenceBatch, picture: Tensor, t: int
    ) -> tuple[StochasticVideoState, dict[str, Tensor]]:
        """Return the belief to go on from, and the terms of the loss of row ``t``, means over windows."""
        first, clip = batch.is_first[:, t], self.config.clip
        with self._precision(len(picture)):
            seen = self._see(state, batch.action[:, t - 1], learning=True)
            low, latent = self._latent(seen, picture)
            logits, reward = self._draw(seen, low, learning=True)
        error = cross_entropy(logits.transpose(1, 2).float(), picture.long(), reduction="none")  # [B, C, H, W]
        kind = batch.reward[:, t].clamp(-1.0, 1.0).round().long() + 1
        missed = cross_entropy(reward, kind, reduction="none")
        counted = (~first).float()
        with torch.no_grad():
            drawn = logits.argmax(2).to(torch.uint8)
            own = (torch.rand(len(first), device=first.device) < self._share_of_own()) & ~first
            after = self._after(state, torch.where(own[:, None, None, None], drawn, picture), first)
            wrong = (drawn != picture).any(1).flatten(1).sum(1)
        terms = {
            "pixels": (relu(error - clip).mean((1, 2, 3)) * counted).mean(),
            "reward": (relu(missed - clip) * counted).mean(),
            "latent": (latent * counted).mean(),
            "wrong_pixels": (wrong * counted).mean(),
        }
        return after, terms
