"""ActorCritic: behaviour learned from imagined features; the losses of DreamerV1, V2 and V3 in one place.

Shapes: N imagined rollouts, H their steps, B windows of the replay, T their rows, F features, A encoded action.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mbrl_gym.agents.action_distributions import KINDS, ActionDistribution, action_distribution, outputs_of
from mbrl_gym.distributions import TwoHot, symexp_bins
from mbrl_gym.math import PercentileScale, lambda_return
from mbrl_gym.nets.blocks import ACTIVATIONS
from mbrl_gym.nets.mlp import MLP
from mbrl_gym.spaces import ActionCodec


@dataclass(frozen=True)
class BehaviorConfig:
    """Hyperparameters of `ActorCritic`; the defaults are DreamerV3's of size "1m".

    Attributes:
        horizon: H, imagined steps.
        discount: of a step.
        lam: of the lambda-return.
        reinforce: share of the score-function gradient in the actor's; the rest goes through the dynamics.
        entropy_scale: weight of the policy's entropy.
        normalize_returns: whether advantages are divided by the returns' spread.
        slow_rate: how far the slow critic moves towards the critic at a time.
        slow_every: updates between two such moves.
        slow_target: whether returns are bootstrapped from the slow critic.
        slow_regularizer: weight of the critic's distance from the slow critic's prediction.
        replay_value: weight of the critic's loss on real sequences, whose gradient reaches the model.
        value: "two_hot" (bins) or "normal" (squared error).
        units: of actor and critic.
        actor_layers: hidden layers.
        critic_layers: hidden layers.
        activation: "silu", "elu" or "relu".
        norm: whether hidden layers are normed.
        actor: distribution over a Box: "bounded_normal", "truncated_normal" or "tanh_normal".
        unimix: share of the uniform distribution in choices.
        exploration_noise: of real actions: deviation of the noise added in a Box (encoded, then clipped), the chance of
            a random action elsewhere.

    Raises:
        ValueError: a value is out of its range.
    """

    horizon: int = 15
    discount: float = 1 - 1 / 333
    lam: float = 0.95
    reinforce: float = 1.0
    entropy_scale: float = 3e-4
    normalize_returns: bool = True
    slow_rate: float = 0.02
    slow_every: int = 1
    slow_target: bool = False
    slow_regularizer: float = 1.0
    replay_value: float = 0.3
    value: str = "two_hot"
    units: int = 64
    actor_layers: int = 3
    critic_layers: int = 3
    activation: str = "silu"
    norm: bool = True
    actor: str = "bounded_normal"
    unimix: float = 0.01
    exploration_noise: float = 0.0

    def __post_init__(self) -> None:
        for name in ("horizon", "slow_every", "units", "actor_layers", "critic_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.discount <= 1:
            raise ValueError(f"discount must be above 0 and at most 1, got {self.discount}")
        if not 0 <= self.unimix < 1:
            raise ValueError(f"unimix must be at least 0 and below 1, got {self.unimix}")
        for name in ("lam", "reinforce", "slow_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        for name in ("entropy_scale", "slow_regularizer", "replay_value", "exploration_noise"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name, known in (("value", ("two_hot", "normal")), ("activation", tuple(ACTIVATIONS)), ("actor", KINDS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")


class Value:
    """What a critic says of states: a number over bins, or the mean of a Gaussian of deviation 1.

    Args:
        outputs: of the critic's network [..., bins or 1].
        bins: [bins], of the two-hot kind; None: a Gaussian.
    """

    def __init__(self, outputs: Tensor, bins: Tensor | None) -> None:
        self._two_hot = None if bins is None else TwoHot(outputs, bins)
        self._outputs = outputs.float()

    @property
    def mean(self) -> Tensor:
        """[...] the value."""
        return self._outputs[..., 0] if self._two_hot is None else self._two_hot.mean

    def loss(self, target: Tensor) -> Tensor:
        """Return [...], minus the log-likelihood of ``target`` [...], but for a constant."""
        if self._two_hot is not None:
            return self._two_hot.loss(target)
        return 0.5 * (self._outputs[..., 0] - target.detach()).square()

    def rows(self, index: slice) -> "Value":
        """Return the values of a slice of the second axis."""
        return Value(self._outputs[:, index], None if self._two_hot is None else self._two_hot.bins)


@dataclass(frozen=True)
class Dream:
    """Imagined rollouts, the state that they start from included.

    Attributes:
        features: [N, H + 1, F]; with a gradient to the actions where the actor learns through the dynamics.
        action: [N, H + 1, A], chosen in these states.
        reward: [N, H + 1], arrives with the state.
        continuation: [N, H + 1] in [0, 1], how surely the episode goes on in the state.
        products: [N, H + 1, units] of the actor's first layer, which chose the actions; None: take them again.
    """

    features: Tensor
    action: Tensor
    reward: Tensor
    continuation: Tensor
    products: Tensor | None = None


@dataclass(frozen=True)
class BehaviorLoss:
    """What behaviour learns from.

    Attributes:
        actor: [] loss.
        critic: [] loss.
        returns: [N, H] of the states but the last.
        terms: detached numbers for the log.
    """

    actor: Tensor
    critic: Tensor
    returns: Tensor
    terms: dict[str, Tensor]


class ActorCritic(nn.Module):
    """An actor and a critic over a model's features, with a slow copy of the critic.

    Source: danijar/dreamerv3 ``dreamerv3/agent.py`` (imag_loss, repl_loss) at e3f0224; danijar/dreamerv2
    ``dreamerv2/agent.py`` (ActorCritic); danijar/dreamer ``dreamer.py``. In V1 and V2 the value of a state includes the
    reward that arrives with it; here, as in V3, it does not. Where returns are bootstrapped
    from the slow critic, it is the baseline of the score function, too; V2 takes the critic.

    Args:
        features: F.
        codec: of the action space.
        config: hyperparameters.
    """

    bins: Tensor | None
    updates: Tensor

    def __init__(self, features: int, codec: ActionCodec, config: BehaviorConfig) -> None:
        super().__init__()
        self.config, self.codec = config, codec
        like: dict[str, Any] = {"activation": config.activation, "norm": config.norm}
        outputs, scale = (255, 0.0) if config.value == "two_hot" else (1, 1.0)
        self.actor = MLP(features, config.units, config.actor_layers, outputs_of(codec), scale=0.01, exact=True, **like)
        like["exact"] = config.value == "normal"
        self.critic = MLP(features, config.units, config.critic_layers, outputs, scale=scale, **like)
        self.slow_critic = MLP(features, config.units, config.critic_layers, outputs, scale=scale, **like)
        self.slow_critic.load_state_dict(self.critic.state_dict())
        self.slow_critic.requires_grad_(False)
        self.return_scale = PercentileScale()
        bins = symexp_bins() if config.value == "two_hot" else None
        self.register_buffer("bins", bins, persistent=False)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    # ---- acting -----------------------------------------------------------------------------------------------------

    def policy(self, features: Tensor) -> ActionDistribution:
        """Return the distribution over encoded actions in states [..., F]."""
        return action_distribution(self.codec, self.actor(features), self.config.actor, self.config.unimix)

    def _policy_of(self, features: Tensor, products: Tensor | None) -> ActionDistribution:
        """Return the distribution in states [..., F], of which the first layer's products may be known."""
        if products is None:
            return self.policy(features)
        return self.policy_onward(self.actor.known(features, products))

    def policy_onward(self, products: Tensor) -> ActionDistribution:
        """Return the distribution over encoded actions that the actor's first products [..., units] lead to."""
        return action_distribution(self.codec, self.actor.onward(products), self.config.actor, self.config.unimix)

    def value(self, features: Tensor) -> Value:
        """Return the critic's values of states [..., F]."""
        return Value(self.critic(features), self.bins)

    def slow_value(self, features: Tensor) -> Value:
        """Return the slow critic's values of states [..., F]."""
        with torch.no_grad():
            return Value(self.slow_critic(features), self.bins)

    # ---- learning ---------------------------------------------------------------------------------------------------

    def imagination_loss(self, dream: Dream) -> BehaviorLoss:
        """Return the losses on imagined rollouts; takes their returns into the scale of returns."""
        config = self.config
        states = dream.features.detach()
        value, slow = self.value(states), self.slow_value(states)
        with torch.no_grad():
            baseline = (slow if config.slow_target else value).mean.detach()
        through = config.reinforce < 1
        # Through the dynamics, values are functions of the actions that led to their states.
        bootstrap = self._differentiable_value(dream.features) if through else baseline
        returns = lambda_return(dream.reward, bootstrap, dream.continuation, config.discount, config.lam)
        weight = _weights(dream.continuation.detach(), config.discount)[:, :-1]
        self.return_scale.update(returns)
        scale = self.return_scale.scale if config.normalize_returns else torch.ones_like(self.return_scale.scale)
        # Of the last state, too: to leave it out would copy all others.
        policy = self._policy_of(states, dream.products)
        score = torch.zeros_like(returns)
        if config.reinforce:
            advantage = (returns.detach() - baseline[:, :-1]) / scale
            score = policy.log_prob(dream.action.detach())[:, :-1] * advantage
        gain = config.reinforce * score
        if through:
            gain = gain + (1 - config.reinforce) * returns / scale
        entropy = policy.entropy()[:, :-1] if config.entropy_scale else torch.zeros_like(returns)
        actor = -(weight * (gain + config.entropy_scale * entropy)).mean()
        critic = (weight * self._value_loss(value.rows(slice(0, -1)), slow.rows(slice(0, -1)), returns)).mean()
        terms = {
            "actor_loss": actor.detach(),
            "critic_loss": critic.detach(),
            "entropy": entropy.detach().mean(),
            "imagined_return": returns.detach().mean(),
            "value": baseline.mean(),
            "return_scale": scale,
        }
        return BehaviorLoss(actor, critic, returns.detach(), terms)

    def replay_loss(
        self, features: Tensor, reward: Tensor, terminated: Tensor, is_last: Tensor, bootstrap: Tensor
    ) -> Tensor:
        """Return [], the critic's loss on real windows, whose lambda-returns rest on imagined ones.

        Args:
            features: [B, T, F], with a gradient to the model.
            reward: [B, T] arrives with the state.
            terminated: [B, T] bool.
            is_last: [B, T] bool, the last row of an episode.
            bootstrap: [B, T] what imagination returned from each state.
        """
        config = self.config
        returns = lambda_return(reward, bootstrap, 1.0 - terminated.float(), config.discount, config.lam, is_last)
        value, slow = self.value(features[:, :-1]), self.slow_value(features[:, :-1].detach())
        return ((~is_last[:, :-1]).float() * self._value_loss(value, slow, returns)).mean()

    def _value_loss(self, value: Value, slow: Value, returns: Tensor) -> Tensor:
        """Return [N, H]."""
        loss = value.loss(returns)
        if self.config.slow_regularizer:
            loss = loss + self.config.slow_regularizer * value.loss(slow.mean)
        return loss

    def _differentiable_value(self, features: Tensor) -> Tensor:
        """Return [N, H + 1], the values that returns are bootstrapped from, with a gradient to the features alone."""
        critic = self.slow_critic if self.config.slow_target else self.critic
        fixed = {name: p.detach() for name, p in critic.named_parameters()}
        outputs: Tensor = torch.func.functional_call(critic, fixed, (features,))
        return Value(outputs, self.bins).mean

    @torch.no_grad()
    def follow(self) -> None:
        """Move the slow critic towards the critic, where it is time; after a step of the optimiser."""
        self.updates.add_(1)
        due = torch.eq(self.updates % self.config.slow_every, 0).float()
        slow: list[Tensor] = list(self.slow_critic.parameters())
        fast: list[Tensor] = list(self.critic.parameters())
        change = list(torch._foreach_sub(fast, slow))
        torch._foreach_mul_(change, due * self.config.slow_rate)
        torch._foreach_add_(slow, change)


def _weights(continuation: Tensor, discount: float) -> Tensor:
    """Return [N, H + 1], how much each state counts: how surely it is reached, discounted; the first one's end, too."""
    return (continuation * discount).cumprod(1) / discount
