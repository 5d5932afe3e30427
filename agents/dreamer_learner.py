"""DreamerLearner: one update of model, actor and critic from a batch of real sequences."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from mbrl_gym.agents.actor_critic import ActorCritic, Dream
from mbrl_gym.batch import SequenceBatch
from mbrl_gym.laprop import LaProp
from mbrl_gym.models.rssm import RSSM, RSSMState

PARTS = ("model", "actor", "critic")


@dataclass(frozen=True)
class OptimizerConfig:
    """How the three networks are optimised; the defaults are DreamerV3's.

    Attributes:
        name: "laprop" (V3: gradients clipped by each tensor's size) or "adam" (V1, V2: clipped by each network's norm).
        learning_rate: of the model.
        actor_learning_rate: of the actor; None: the model's.
        critic_learning_rate: of the critic; None: the model's.
        clip: LaProp's share of each tensor's norm; Adam's largest norm.
        eps: Adam's; LaProp has its own.
        warmup: updates until the full learning rate.

    Raises:
        ValueError: a value is out of its range.
    """

    name: str = "laprop"
    learning_rate: float = 4e-5
    actor_learning_rate: float | None = None
    critic_learning_rate: float | None = None
    clip: float = 0.3
    eps: float = 1e-5
    warmup: int = 1000

    def __post_init__(self) -> None:
        if self.name not in ("laprop", "adam"):
            raise ValueError(f"name must be 'laprop' or 'adam', got {self.name!r}")
        for name in ("learning_rate", "actor_learning_rate", "critic_learning_rate", "clip", "eps"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if self.warmup < 0:
            raise ValueError(f"warmup must be at least 0 updates, got {self.warmup}")

    def rates(self) -> dict[str, float]:
        """Return the learning rates by part."""
        actor, critic = self.actor_learning_rate, self.critic_learning_rate
        rate = self.learning_rate
        return {"model": rate, "actor": rate if actor is None else actor, "critic": rate if critic is None else critic}


class DreamerLearner:
    """Learns a model from sequences, and behaviour from what the model imagines from all of their states.

    Source: danijar/dreamerv3 ``dreamerv3/agent.py`` (train, loss) at e3f0224: one backward pass over everything, in
    which behaviour's own losses stop at the features and the critic's loss on real sequences reaches the model.

    Attributes:
        updates: made so far.
        seed: of nothing here; `mbrl_gym.agents.owner.ModelOwner` wants one of every trainer.
        rng: the same.

    Args:
        model: the world model.
        behavior: actor and critic.
        config: of the optimiser.
    """

    def __init__(self, model: RSSM, behavior: ActorCritic, config: OptimizerConfig) -> None:
        self.model, self.behavior, self.config = model, behavior, config
        self._parts = {
            "model": list(model.parameters()),
            "actor": list(behavior.actor.parameters()),
            "critic": list(behavior.critic.parameters()),
        }
        self._rates = config.rates()
        groups = [{"params": self._parts[part], "lr": self._rates[part]} for part in PARTS]
        self.optimizer: Optimizer
        if config.name == "laprop":
            self.optimizer = LaProp(groups, clip=config.clip, warmup=config.warmup)
        else:
            self.optimizer = torch.optim.Adam(groups, eps=config.eps, fused=True)
        self.updates = 0
        self.seed, self.rng = 0, np.random.default_rng(0)

    def update(self, batch: SequenceBatch, start: RSSMState) -> tuple[RSSMState, dict[str, Tensor]]:
        """Return the beliefs [B, T - 1] and the terms of the losses [], after one step; no wait for the device.

        Args:
            batch: windows [B, T]; the first row of each is only what ``start`` was seen at.
            start: beliefs [B] of the first rows.
        """
        loss = self.model.loss(batch, start)
        assert loss.states is not None
        states = loss.states[:, 1:]
        dream = self._imagine(states.detach())
        behavior = self.behavior.imagination_loss(dream)
        total = loss.total + behavior.actor + behavior.critic
        terms = {f"model/{name}": value for name, value in {"loss": loss.total.detach(), **loss.terms}.items()}
        terms.update((f"behavior/{name}", value) for name, value in behavior.terms.items())
        if self.behavior.config.replay_value:
            replay = self._replay_loss(batch, states, behavior.returns)
            total = total + self.behavior.config.replay_value * replay
            terms["behavior/replay_critic_loss"] = replay.detach()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        self._step()
        return states.detach(), terms

    def _step(self) -> None:
        if self.config.name == "adam":
            ramp = min(1.0, (self.updates + 1) / self.config.warmup) if self.config.warmup else 1.0
            for group, part in zip(self.optimizer.param_groups, PARTS, strict=True):
                torch.nn.utils.clip_grad_norm_(self._parts[part], self.config.clip, foreach=True)
                group["lr"] = self._rates[part] * ramp
        self.optimizer.step()
        self.behavior.follow()
        self.updates += 1

    def _imagine(self, states: RSSMState) -> Dream:
        """Return rollouts from all states [B, T]; with a gradient to the actions where the actor learns by it."""
        start, behavior, model = states.map(lambda x: x.flatten(0, 1)), self.behavior, self.model
        through = behavior.config.reinforce < 1
        if not through:
            with torch.no_grad():
                return self._dream(start)
        # No gradient of behaviour may move the model.
        model.requires_grad_(False)
        try:
            return self._dream(start)
        finally:
            model.requires_grad_(True)

    def _dream(self, start: RSSMState) -> Dream:
        behavior = self.behavior
        features, action = self.model.rollout(
            start, lambda features: behavior.policy(features.detach()).sample(), behavior.config.horizon
        )
        return Dream(features, action, self.model.reward(features), self.model.continuation(features))

    def _replay_loss(self, batch: SequenceBatch, states: RSSMState, returns: Tensor) -> Tensor:
        """Return the critic's loss on the real rows behind the first, which imagined returns [B * (T - 1), H] end."""
        is_last = batch.terminated | batch.truncated
        is_last[:, :-1] |= batch.is_first[:, 1:]  # an episode that was cut ends without a flag
        return self.behavior.replay_loss(
            self.model.features(states),
            batch.reward[:, 1:],
            batch.terminated[:, 1:],
            is_last[:, 1:],
            returns[:, 0].view(states.deter.shape[:2]),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what resuming needs beside the weights: plain data and tensors, nested."""
        return {"optimizer": self.optimizer.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.updates = state["updates"]
