"""VideoModel: the next picture of a game as classes of colours, with the reward and, where asked for, the end.

Shapes: B batch, T time, F frames, h x w cells of P pixels, K colours, A encoded action.
"""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from mbrl_gym.batch import SequenceBatch
from mbrl_gym.model import ModelLoss, Prediction, WorldModel
from mbrl_gym.models.palette import Palette
from mbrl_gym.models.video_config import VideoConfig
from mbrl_gym.models.video_networks import VideoNetworks
from mbrl_gym.models.video_state import VideoState
from mbrl_gym.nets.moves import perturbed
from mbrl_gym.nets.precision import mixed_precision
from mbrl_gym.nets.video import MEMORY, PixelLoss, pooled
from mbrl_gym.spaces import Observation

SAMPLED = 512  # windows that palette and places are learned from


class VideoModel(WorldModel[VideoState]):
    """Predicts the next picture from the last few and the action: SimPLe's idea in a form that fits a CPU.

    As in SimPLe: a U-shaped network, actions that multiply and add, a loss over classes that leaves pixels alone which
    are right enough, a discrete latent that an inference network reads from the next picture in training and a prior
    predicts afterwards, training on its own predictions, ends of rollouts that are not ends of episodes. Otherwise:

    - Classes are the colours of a `Palette`, not 256 intensities, at the resolution at which the game draws: there
      every object has its own colour on whole pixels, and no prediction lies between two of them.
    - A prior by place, learned with everything else, knows the background from the first step.
    - Things on the screen, which are connected pixels of one colour, are moved: where their boxes go is predicted from
      where they and all others were (`mbrl_gym.nets.moves.MoveNetwork`), and what they show is drawn there. The network
      draws anew what that does not explain. So small things keep their shape over many steps.
    - A pixel counts for the more the rarer its colour is at its place.
    - The latent is one choice among ``codes`` for the whole picture: what is drawn of it is drawn together. Choices by
      part or by pixel would be made independently, which is how small objects get lost.
    - How long each cell has stood still is part of the belief: games count (a serve comes so many steps after a
      point), and four pictures do not.

    Source: Kaiser et al. 2020 (SimPLe), sections 4 and 5; tensorflow/tensor2tensor at bafdc1b,
    ``models/video/basic_deterministic.py``, ``basic_stochastic.py``.

    Args:
        observation_space: uint8 Box [H, W], or with an axis of one or three channels, last or first: one picture, no
            stack.
        action_space: as every model's.
        config: hyperparameters; None: the defaults.

    Raises:
        ValueError: a space is not supported, or the patch is larger than the picture.
    """

    config_class = VideoConfig
    config: VideoConfig
    rewards: Tensor  # [rewards], ascending; those not in use repeat the last
    weight: Tensor  # [K, h * w * P] uint8: what a pixel of each colour counts for at each place

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        config: VideoConfig | None = None,
    ) -> None:
        super().__init__(observation_space, action_space, config or VideoConfig())
        config = self.config
        self.context = config.context
        self.palette = Palette(observation_space, config.colours)
        height, width = self.palette.height, self.palette.width
        if height < config.patch[0] or width < config.patch[1]:
            raise ValueError(f"patch must fit into the picture's {height} x {width} pixels, got {config.patch}")
        self.networks = VideoNetworks(config, (height, width), self.action_codec.size)
        self.grid, self.cells, self.pixels = self.networks.cut, self.networks.cells, self.networks.pixels
        self.register_buffer("rewards", torch.zeros(config.rewards))
        weight = torch.ones(config.colours, self.networks.usual.numel(), dtype=torch.uint8)
        self.register_buffer("weight", weight)

    # ---- beliefs ----------------------------------------------------------------------------------------------------

    def initial(self, batch_size: int) -> VideoState:
        """Return [B] pictures of the commonest colour that have never changed."""
        shape = (batch_size, *self.cells, self.config.frames * self.pixels)
        frames = torch.zeros(shape, dtype=torch.uint8, device=self.device)
        return VideoState(frames, torch.zeros_like(frames[..., 0]))

    def observe(
        self,
        state: VideoState,
        action: Tensor,
        obs: Observation,
        is_first: Tensor,
        generator: torch.Generator | None = None,
    ) -> VideoState:
        """Return the belief after one real step; an episode begins as if its first picture had been there before."""
        assert isinstance(obs, Tensor)
        return state.after(self.encoded(obs), is_first)

    def believe(self, obs: Observation, action: Tensor, generator: torch.Generator | None = None) -> VideoState:
        """Return the belief [B] after a context (see `WorldModel.believe`)."""
        assert isinstance(obs, Tensor)
        first = torch.zeros(obs.shape[:2], dtype=torch.bool, device=self.device)
        first[:, 0] = True
        return self.initial(len(obs)).after_all(self.encoded(obs), first)

    def predict(
        self,
        state: VideoState,
        action: Tensor,
        generator: torch.Generator | None = None,
        sample: bool = True,
        uncertainty: bool = True,
    ) -> tuple[VideoState, Prediction]:
        """Return the belief after one imagined step, and what comes with it (see `WorldModel.predict`).

        Each pixel takes its likeliest colour; what is drawn are the latent and the reward. ``info`` has the entropy of
        the latent's prior in nats, by which ambiguous steps are known. The uncertainty is in pixels: the probability
        of the runner-up against the likeliest colour, summed over the picture. It ranks errors, and overstates them.
        """
        with mixed_precision(self.device, self.cells[0] * self.cells[1] * len(action)):
            step = self.networks.step(state, action, None, generator, sample)
        reward = self._reward_choice(step.reward, generator, sample)
        probability = torch.sigmoid(step.termination) * self.config.learn_termination
        picture, best = self._picture(step.logits)
        total = best.sum((1, 2, 3)) + step.reward.sum(-1) + step.termination
        diverged = (total - total) != 0
        seen = state.then(picture)
        probability = probability.masked_fill(diverged, 0.0)
        prediction = Prediction(
            reward=reward.masked_fill(diverged, 0.0),
            terminated=probability > 0.5,
            truncated=diverged,
            continuation=1.0 - probability,
            uncertainty=(_doubt(step.logits) if uncertainty else torch.zeros_like(reward)).masked_fill(diverged, 0.0),
            info={"diverged": diverged, "latent_entropy": step.prior.entropy().nan_to_num().detach()},
        )
        return seen.where(~diverged, state), prediction

    def features(self, state: VideoState) -> Tensor:
        """Return [B, F]: mean and maximum of the lowest level over its cells, as the networks see it without an action.

        Policies that read pictures take `decode`; this is for probes and planners' critics.
        """
        nothing = torch.zeros(state.batch_size, self.action_codec.size, device=self.device)
        levels, _ = self.networks.levels(state, nothing)
        return pooled(levels[-1]).float()

    def decode(self, state: VideoState) -> Tensor:
        """Return the newest picture [B, *obs]."""
        return self.palette.decode(self.grid.joined(state.newest(self.pixels)))

    def pictures(self, state: VideoState) -> Tensor:
        """Return the last ``frames`` pictures [B, F, H, W, C], the newest last."""
        return self.palette.colour(self.grid.joined(state.pictures(self.pixels)))

    def encoded(self, obs: Tensor) -> Tensor:
        """Return pictures [..., *obs] as numbers of colours by cell [..., h, w, P]."""
        return self.grid.cut(self.palette.encode(obs))

    def _picture(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the likeliest picture [B, h, w, P] and its logits, for which argmax takes ten times as long."""
        best, number = logits[0], torch.zeros_like(logits[0], dtype=torch.uint8)
        for k in range(1, len(logits)):
            number = torch.where(logits[k] > best, k, number)
            best = torch.maximum(best, logits[k])
        shape = (logits.shape[1], *self.cells, self.pixels)
        return number.view(shape), best.view(shape)

    def _reward_choice(self, logits: Tensor, generator: torch.Generator | None, sample: bool) -> Tensor:
        """Return [B] rewards."""
        chances = logits.nan_to_num().softmax(-1)
        if not sample:
            return chances @ self.rewards
        return self.rewards[torch.multinomial(chances, 1, generator=generator)[:, 0]]

    # ---- learning ---------------------------------------------------------------------------------------------------

    def loss(self, batch: SequenceBatch, start: VideoState | None = None) -> ModelLoss[VideoState]:
        """Return the loss of windows [B, T]: of the predicted rows behind the first ``context``.

        Of some windows the pictures that predictions rest on are the model's own, step after step, but for where things
        are: they go where the next picture has them. No gradient passes through a picture. Rows in which an episode
        begins are shown, not predicted.

        Args:
            batch: windows of at least ``context`` + 1 rows.
            start: beliefs [B] of the first row, as they were dreamt: all rows after it are predicted, and all windows
                go on from the model's own pictures.

        Raises:
            ValueError: windows are too short.
        """
        shown = self.context if start is None else 1
        if batch.length <= shown:
            raise ValueError(f"length must be at least {shown} known rows and one, got windows of {batch.length}")
        assert isinstance(batch.obs, Tensor)
        pictures = self.encoded(batch.obs)
        state, share = start, 1.0
        if state is None:
            state = self._before(pictures[:, 0]).after_all(pictures[:, :shown], batch.is_first[:, :shown])
            share = self.config.self_fed
        own = torch.rand(len(pictures), device=self.device) < share
        sums: dict[str, Tensor] = {}
        for t in range(shown, batch.length):
            state, terms = self._learn_step(state, batch, pictures[:, t], t, own)
            for name, value in terms.items():
                sums[name] = sums[name] + value if name in sums else value
        count = batch.length - shown
        means = {name: value / count for name, value in sums.items()}
        if self.networks.moves.learns:
            means["moves"] = means["moves"] + self._shown_moves(pictures[:, :shown], batch)
        total = means["pixels"] + means["moves"] + means["latent"] + means["reward"]
        if self.config.learn_termination:
            total = total + means["termination"]
        return ModelLoss(total, {name: value.detach() for name, value in means.items()})

    def _shown_moves(self, pictures: Tensor, batch: SequenceBatch) -> Tensor:
        """Return [], the mean over steps of how likely moves were in rows [B, T, h, w, P] that are shown.

        They cost next to nothing there, and what goes where takes many examples. Some of the boxes are wrong, as they
        are in dreams.
        """
        (size, length), frames = pictures.shape[:2], self.config.frames
        steps = length - frames
        if steps < 1:
            return pictures.new_zeros((), dtype=torch.float32)
        found = self.networks.things(pictures.flatten(0, 1)).map(lambda x: x.view(size, length, *x.shape[1:]))
        past = [found[:, frames - 1 - k : length - 1 - k].map(lambda x: x.flatten(0, 1)) for k in range(frames)]
        after = found[:, frames:].map(lambda x: x.flatten(0, 1))
        scene = self.networks.moves.scene(perturbed(past, self.config.reach))
        action = batch.action[:, frames - 1 : length - 1].flatten(0, 1)
        begins = batch.is_first[:, 1:length].float().unfold(1, frames, 1).amax(-1)  # between the first and the last
        nats = self.networks.moves.loss(scene, action, None, after)[0].sum(-1)
        return (nats * (1 - begins).flatten()).mean()

    def _before(self, pictures: Tensor) -> VideoState:
        """Return beliefs before windows that begin with ``pictures`` [B, h, w, P].

        How long cells have stood still then is not known, and beliefs in use come to all numbers: any will do.
        """
        still = torch.randint(MEMORY, (len(pictures), 1, 1), dtype=torch.uint8, device=self.device)
        frames = pictures.repeat(1, 1, 1, self.config.frames)
        return VideoState(frames, still.expand(-1, *self.cells).contiguous())

    def _learn_step(
        self, state: VideoState, batch: SequenceBatch, picture: Tensor, t: int, own: Tensor
    ) -> tuple[VideoState, dict[str, Tensor]]:
        """Return the belief to go on from, and the terms of the loss of row ``t``, means over windows."""
        first, action = batch.is_first[:, t], batch.action[:, t - 1]
        guessed = own & (torch.rand(len(own), device=own.device) < self.config.prior_share)
        with mixed_precision(self.device, self.cells[0] * self.cells[1] * len(action)):
            step = self.networks.step(state, action, picture, None, from_prior=guessed)
        assert step.posterior is not None
        assert step.moves is not None
        counted = (~first).float()
        with torch.no_grad():
            drawn = self._picture(step.logits)[0]
            wrong = (drawn != picture).flatten(1).sum(1) * (counted * ~guessed)
            goes_on = state.after(torch.where((own & ~first)[:, None, None, None], drawn, picture), first)
        reward = (batch.reward[:, t, None] - self.rewards).abs().argmin(-1)
        divergence = 0.8 * step.posterior.detach().kl(step.prior) + 0.2 * step.posterior.kl(step.prior.detach())
        ends = batch.terminated[:, t].float()
        terms = {
            "pixels": self._pixel_loss(step.logits, picture, drawn, counted * ~guessed),
            "moves": (step.moves * counted * ~guessed).mean(),
            "latent": (divergence.clamp(min=self.config.free_nats) * counted).mean(),
            "reward": (cross_entropy(step.reward, reward, reduction="none") * counted).mean(),
            "wrong_pixels": wrong.mean(),
        }
        if self.config.learn_termination:
            ending = binary_cross_entropy_with_logits(step.termination, ends, reduction="none")
            terms["termination"] = (ending * counted).mean()
        return goes_on, terms

    def _pixel_loss(self, logits: Tensor, picture: Tensor, drawn: Tensor, counted: Tensor) -> Tensor:
        """Return [], summed over the picture, averaged over the batch with ``counted`` [B].

        A pixel counts for as much as the rarer of its true colour and the one that was ``drawn`` [B, h, w, P] is rare
        at its place: a small thing is worth as much where it is missing as where it should not be.
        """
        target = picture.flatten(1)
        rare = torch.maximum(*(self.weight.gather(0, x.flatten(1).long()) for x in (picture, drawn)))
        flat, scale = logits.reshape(len(logits), -1), rare * counted[:, None]
        found: Tensor = PixelLoss.apply(flat, target.reshape(-1), scale.reshape(-1), self.config.clip)  # type: ignore[no-untyped-call]
        return found / len(picture)

    @torch.no_grad()
    def before_fit(self, data: SequenceBatch) -> None:
        """Learn the palette, the rewards that there are, and what each place usually looks like; at the first fit only.

        Args:
            data: training windows [W, T].

        Raises:
            ValueError: there are more different rewards than ``rewards``.
        """
        if bool(self.palette.used > 0):
            return
        assert isinstance(data.obs, Tensor)
        every = max(1, len(data.obs) // SAMPLED)
        pictures = data.obs[::every].flatten(0, 1)
        self.palette.learn(pictures)
        self._learn_rewards(data.reward)
        numbers = self.encoded(pictures).flatten(1)
        counts = torch.stack([(numbers == k).float().mean(0) for k in range(self.config.colours)])
        place, usual = self.networks.decoder.place, self.networks.usual
        place.copy_(torch.log(counts + 1e-4).view_as(place))
        usual.copy_(counts.argmax(0).view_as(usual))
        self.weight.copy_(counts.clamp(min=1e-9).rsqrt().clamp(max=self.config.rare_weight))

    def _learn_rewards(self, reward: Tensor) -> None:
        found = torch.from_numpy(np.unique(reward.cpu().numpy()))
        if len(found) > self.config.rewards:
            raise ValueError(
                f"rewards must be at most {self.config.rewards} different numbers, got {len(found)} "
                f"({found[:8].tolist()}...); clip them to their sign, or raise VideoConfig(rewards=...)"
            )
        self.rewards.copy_(torch.cat([found, found[-1:].expand(self.config.rewards - len(found))]))


@torch.no_grad()
def _doubt(logits: Tensor) -> Tensor:
    """Return [B], of logits [K, B, h * w, P]: the summed probability of the second colour against the first one."""
    second, best = torch.full_like(logits[0], -torch.inf), logits[0].clone()
    if len(logits) > 1:  # a pass less
        second, best = torch.minimum(logits[0], logits[1]), torch.maximum(logits[0], logits[1])
    lower = torch.empty_like(best)
    for other in logits[2:]:  # in place: fresh memory costs as much again
        torch.maximum(second, torch.minimum(best, other, out=lower), out=second)
        torch.maximum(best, other, out=best)
    return second.sub_(best).sigmoid_().sum((1, 2))
