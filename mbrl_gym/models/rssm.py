"""RSSM: a recurrent state-space model of vectors and images; PlaNet's and the Dreamers' world model.

Shapes: B batch, T time, A encoded action, D deterministic state, S flat stochastic state, F = D + S features.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from mbrl_gym.batch import SequenceBatch
from mbrl_gym.distributions import TwoHot, symexp_bins
from mbrl_gym.model import ModelLoss, Prediction, WorldModel
from mbrl_gym.models.overshooting import overshooting
from mbrl_gym.models.rssm_config import RSSMConfig
from mbrl_gym.models.rssm_observations import ObservationDecoder, ObservationEncoder, Senses
from mbrl_gym.nets.blocks import ACTIVATIONS, Linear, RMSNorm, activated
from mbrl_gym.nets.deferred import scanning
from mbrl_gym.nets.mlp import MLP
from mbrl_gym.nets.precision import mixed_precision, rounded
from mbrl_gym.spaces import Observation
from mbrl_gym.tensors import TensorStruct

ACTIVE = 0.01  # nats that a part of the latent must say on average to count as active


@dataclass(frozen=True)
class RSSMState(TensorStruct):
    """A belief.

    Attributes:
        deter: [B, D] what is remembered.
        stoch: [B, S] what is not certain, one sample of it.
    """

    deter: Tensor
    stoch: Tensor


class RSSM(WorldModel[RSSMState]):
    """A belief is a recurrent state and a sample of a distribution over what observations leave open.

    One real step: the recurrent cell reads belief and action, the posterior reads the observation beside that. One
    imagined step: the prior takes the posterior's place. Observation, reward and continuation are read from the belief.

    Source: Hafner et al. 2019 (PlaNet), section 3; danijar/dreamerv3 ``dreamerv3/rssm.py`` and ``agent.py`` at e3f0224.
    Not as there: one-hots of discrete observations are read and predicted like numbers; and layers over several
    inputs are several matrices, each of which a clipping by the size of a tensor sees on its own.

    Args:
        observation_space: vectors (Box, Discrete, MultiDiscrete, MultiBinary), images (uint8 Box [H, W, C]), or a flat
            Dict of these. An image of another type is refused: it would be a very long vector.
        action_space: Box (bounded), Discrete, MultiDiscrete or MultiBinary.
        config: hyperparameters; None: the defaults.

    Raises:
        ValueError: a space is not supported.
    """

    config_class = RSSMConfig
    config: RSSMConfig
    bins: Tensor

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        config: RSSMConfig | None = None,
    ) -> None:
        super().__init__(observation_space, action_space, config or RSSMConfig())
        config = self.config
        senses = Senses(observation_space, config)
        self.context = config.context
        self.latent = config.make_latent()
        self.cell = config.make_cell(self.latent.size, self.action_codec.size)
        like: dict[str, Any] = {"activation": config.activation, "norm": config.norm}
        features = config.deter + self.latent.size
        self.encoder = ObservationEncoder(senses, config)
        self.prior = MLP(config.deter, config.hidden, config.prior_layers, self.latent.outputs, **like)
        # The posterior's first layer in two parts: what it reads of observations leaves the loop over time.
        self.posterior_deter = Linear(config.deter, config.hidden)
        self.posterior_token = nn.Linear(self.encoder.size, config.hidden, bias=False)
        with torch.no_grad():  # as one layer over both inputs begins
            both = config.deter + self.encoder.size
            self.posterior_deter.weight.mul_((config.deter / both) ** 0.5)
            self.posterior_token.weight.copy_(Linear(self.encoder.size, config.hidden).weight)
            self.posterior_token.weight.mul_((self.encoder.size / both) ** 0.5)
        self.posterior_norm = RMSNorm(config.hidden) if config.norm else nn.Identity()
        self.activation = ACTIVATIONS[config.activation]()
        rest = config.posterior_layers - 1
        self.posterior = (
            MLP(config.hidden, config.hidden, rest, self.latent.outputs, **like)
            if rest
            else Linear(config.hidden, self.latent.outputs)
        )
        self.decoder = ObservationDecoder(senses, config, self.latent.size)
        rewards, zero = (255, 0.0) if config.reward == "two_hot" else (1, 1.0)
        exact = config.reward == "normal"
        self.reward_head = MLP(features, config.units, config.head_layers, rewards, scale=zero, exact=exact, **like)
        self.continuation_head = MLP(features, config.units, config.head_layers, 1, exact=True, **like)
        self.register_buffer("bins", symexp_bins(), persistent=False)

    # ---- beliefs ----------------------------------------------------------------------------------------------------

    def initial(self, batch_size: int) -> RSSMState:
        """Return zeros, the blank belief [B]."""
        zeros = self.bins.new_zeros
        return RSSMState(zeros(batch_size, self.config.deter), zeros(batch_size, self.latent.size))

    def observe(
        self,
        state: RSSMState,
        action: Tensor,
        obs: Observation,
        is_first: Tensor,
        generator: torch.Generator | None = None,
    ) -> RSSMState:
        """Return the posterior belief after one real step (see `WorldModel.observe`)."""
        token = self.posterior_token(self.encoder(obs, (len(is_first),)))
        noise = self.latent.noise((len(is_first),), self.device, generator)
        return self._filter(state, self.cell.embed(_masked(action, is_first)), token, is_first, noise)[0]

    def predict(
        self,
        state: RSSMState,
        action: Tensor,
        generator: torch.Generator | None = None,
        sample: bool = True,
        uncertainty: bool = True,
    ) -> tuple[RSSMState, Prediction]:
        """Return the prior belief after one imagined step, and what comes with it (see `WorldModel.predict`)."""
        deter = self.cell(state.deter, state.stoch, self.cell.embed(action))
        dist = self.latent.dist(self.prior(deter))
        if sample:
            stoch = self.latent.sample(dist, self.latent.noise((len(deter),), self.device, generator))
        else:
            stoch = self.latent.mode(dist)
        features = torch.cat([deter, stoch], -1)
        reward, continuation = self.reward(features), self.continuation(features)
        total = features.sum(-1) + reward + continuation
        diverged = (total - total) != 0
        after = RSSMState(deter, stoch).where(~diverged, state.map(torch.nan_to_num))
        continuation = torch.where(diverged, 1.0, continuation)
        prediction = Prediction(
            reward=reward.masked_fill(diverged, 0.0),
            terminated=continuation < 0.5,
            truncated=diverged,
            continuation=continuation,
            uncertainty=torch.zeros_like(total),
            info={"diverged": diverged},
        )
        return after, prediction

    def features(self, state: RSSMState) -> Tensor:
        """Return [B, F], both parts side by side."""
        return torch.cat([state.deter, state.stoch], -1)

    def decode(self, state: RSSMState) -> Observation:
        """Return the raw observation [B, *obs]."""
        return self.decoder.decode(self.features(state))

    def rollout(
        self, start: RSSMState, act: Callable[[Tensor], Tensor], horizon: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return features [B, H + 1, F] and actions [B, H + 1, A] of ``horizon`` imagined steps, the start included.

        `imagine` without what nobody asked for: rewards and ends can be read from all features at once afterwards.
        Features have the precision in which products read them.

        Args:
            start: beliefs [B].
            act: chooses encoded actions [B, A] by features [B, F]; once more in the last state.
            horizon: H.
            generator: source of the states' randomness.
        """
        noise = self.latent.noise((start.batch_size, horizon), self.device, generator)
        deter, stoch = start.deter, rounded(start.stoch)
        features, actions = [torch.cat([rounded(deter), stoch], -1)], []
        for t in range(horizon):
            actions.append(act(features[-1]))
            deter = self.cell(deter, stoch, self.cell.embed(actions[-1]))
            seen = rounded(deter)
            stoch = rounded(self.latent.sample(self.latent.dist(self.prior(seen)), noise[:, t]))
            features.append(torch.cat([seen, stoch], -1))
        actions.append(act(features[-1]))
        return torch.stack(features, 1), torch.stack(actions, 1)

    def reward(self, features: Tensor) -> Tensor:
        """Return [...] the mean reward that arrives with states [..., F]."""
        outputs = self.reward_head(features)
        if self.config.reward == "two_hot":
            return TwoHot(outputs, self.bins).mean
        mean: Tensor = outputs[..., 0].float()
        return mean

    def continuation(self, features: Tensor) -> Tensor:
        """Return [...] in [0, 1] how surely the episode goes on in states [..., F], the discount divided out."""
        probability = torch.sigmoid(self.continuation_head(features)[..., 0].float())
        return (probability / self._kept).clamp(max=1.0)

    # ---- beliefs in a replay ----------------------------------------------------------------------------------------

    def extras(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Return the columns that a replay needs to hold beliefs (`SequenceReplay`'s ``extras``)."""
        return {"deter": ((self.config.deter,), "float16"), "stoch": ((self.latent.size,), self.latent.stored_as)}

    def to_extras(self, state: RSSMState) -> dict[str, Tensor]:
        """Return beliefs [...] as those columns hold them."""
        stoch = state.stoch.round().to(torch.uint8) if self.latent.stored_as == "uint8" else state.stoch
        return {"deter": state.deter.half(), "stoch": stoch}

    def from_extras(self, extras: dict[str, Tensor]) -> RSSMState:
        """Return the beliefs [...] that the columns hold; zeros, the blank belief, where none was written."""
        return RSSMState(extras["deter"].float(), extras["stoch"].float())

    # ---- learning ---------------------------------------------------------------------------------------------------

    def loss(self, batch: SequenceBatch, start: RSSMState | None = None) -> ModelLoss[RSSMState]:
        """Return the loss of windows [B, T].

        Args:
            batch: windows; the first row of each forgets what was before, as the first row of an episode does.
            start: beliefs [B] of the FIRST row, from the replay; then the loss is that of the rows after it.
        """
        states, posterior = self._filter_all(batch, start)
        counted = slice(None) if start is None else slice(1, None)
        with mixed_precision(self.device, batch.reward.numel()):
            features = self.features(states)[:, counted]
            prior = self.prior(states.deter[:, counted]).float()
            losses, terms = self._divergences(posterior, prior)
            if self.config.overshooting > 1:
                losses["overshooting"] = overshooting(self, states, posterior, batch)
            losses["observation"] = self.decoder.loss(features, _rows(batch.obs, counted))
            losses["reward"] = self._reward_loss(features, batch.reward[:, counted])
            losses["continuation"] = self._continuation_loss(features, batch.terminated[:, counted])
        total = torch.stack([self._scale(name) * loss for name, loss in losses.items()]).sum()
        terms.update((name, loss.detach()) for name, loss in losses.items())
        return ModelLoss(total, terms, states)

    def divergence(self, batch: SequenceBatch) -> Tensor:
        """Return [B, T, U]: nats that each unit of the posterior says beyond the prior, in windows [B, T]."""
        states, posterior = self._filter_all(batch, None)
        dist = self.latent.dist
        return self.latent.kl_by_unit(dist(posterior), dist(self.prior(states.deter).float()))

    def before_fit(self, data: SequenceBatch) -> None:
        """Check that training windows [W, T] hold something to remember.

        Raises:
            ValueError: they have fewer than context + 2 rows.
        """
        if data.length < self.context + 2:
            raise ValueError(
                f"length must be at least context + 2 = {self.context + 2} rows for a recurrent model, better some 32, "
                f"got windows of {data.length}; give trainer_config=TrainerConfig(length=32)"
            )

    def _filter_all(self, batch: SequenceBatch, start: RSSMState | None) -> tuple[RSSMState, Tensor]:
        """Return beliefs [B, T] and the posterior's outputs [B, T or T - 1, ...]; one loop over time, little inside."""
        count, length = batch.reward.shape
        with mixed_precision(self.device, count * length):
            tokens = self.posterior_token(self.encoder(batch.obs, (count, length))).float().unbind(1)  # T of [B, H]
        is_first = batch.is_first.clone()
        if start is None:
            is_first[:, 0] = True
        before = torch.cat([torch.zeros_like(batch.action[:, :1]), batch.action[:, :-1]], 1)
        embedded = self.cell.embed(_masked(before, is_first)).unbind(1)  # whose gradients are then laid side by side
        noise = self.latent.noise((count, length), self.device)
        state = self.initial(count) if start is None else start
        states, outputs = ([] if start is None else [start]), []
        with scanning(length, self.cell, self.posterior_deter, self.posterior):
            for t in range(len(states), length):
                state, said = self._filter(state, embedded[t], tokens[t], is_first[:, t], noise[:, t])
                states.append(state)
                outputs.append(said)
        deter = torch.stack([s.deter for s in states], 1)
        return RSSMState(deter, torch.stack([s.stoch for s in states], 1)), torch.stack(outputs, 1)

    def _filter(
        self, state: RSSMState, embedded: Tensor, token: Tensor, is_first: Tensor, noise: Tensor
    ) -> tuple[RSSMState, Tensor]:
        """Return the posterior belief [B] and what the network said of it [B, outputs]."""
        deter = self.cell(_masked(state.deter, is_first), _masked(state.stoch, is_first), embedded)
        hidden = activated(self.posterior_deter(deter) + token, self.posterior_norm, self.activation)
        outputs: Tensor = self.posterior(hidden)
        return RSSMState(deter, self.latent.sample(self.latent.dist(outputs), noise)), outputs

    def _divergences(self, posterior: Tensor, prior: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return both halves of KL(posterior || prior), each with a gradient to one side; and numbers for the log."""
        dist, free = self.latent.dist, self.config.free_nats
        units = self.latent.kl_by_unit(dist(posterior.detach()), dist(prior))  # [B, T, U]
        values = {
            "dynamics": units.sum(-1),
            "representation": self.latent.kl(dist(posterior), dist(prior.detach())),
        }
        said = units.detach()
        terms = {"kl": said.sum(-1).mean(), "active_units": (said.mean((0, 1)) > ACTIVE).float().sum()}
        if self.config.free_average:
            return {name: value.mean().clamp(min=free) for name, value in values.items()}, terms
        return {name: value.clamp(min=free).mean() for name, value in values.items()}, terms

    def _scale(self, name: str) -> float:
        """Return a loss's weight; what is overshot weighs as much as the next step."""
        found: float = getattr(self.config, "dynamics_scale" if name == "overshooting" else f"{name}_scale")
        return found

    def _reward_loss(self, features: Tensor, reward: Tensor) -> Tensor:
        outputs = self.reward_head(features)
        if self.config.reward == "two_hot":
            return TwoHot(outputs, self.bins).loss(reward).mean()
        error: Tensor = outputs[..., 0].float() - reward
        return 0.5 * error.square().mean()

    def _continuation_loss(self, features: Tensor, terminated: Tensor) -> Tensor:
        target = (~terminated).float() * self._kept
        return binary_cross_entropy_with_logits(self.continuation_head(features)[..., 0].float(), target)

    # ---- what is read from beliefs ----------------------------------------------------------------------------------

    @property
    def _kept(self) -> float:
        """What a step leaves of the continuation where it is learned."""
        horizon = self.config.discount_horizon
        return 1.0 if horizon is None else 1.0 - 1.0 / horizon


def _masked(x: Tensor, is_first: Tensor) -> Tensor:
    """Return ``x`` [..., n] with zeros where an episode begins, whatever was there."""
    return torch.where(is_first[..., None], 0.0, x)


def _rows(obs: Observation, index: slice) -> Observation:
    """Return the observations [B, T, ...] of a slice of the rows T."""
    return {key: x[:, index] for key, x in obs.items()} if isinstance(obs, dict) else obs[:, index]
