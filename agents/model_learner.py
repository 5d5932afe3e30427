"""ModelLearner: gradient steps on a recurrent model, with the optimisers of the Dreamer family."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mbrl_gym.agents.graphed_update import GraphedUpdate
from mbrl_gym.batch import SequenceBatch
from mbrl_gym.laprop import LaProp
from mbrl_gym.model import ModelLoss
from mbrl_gym.models.rssm import RSSM, RSSMState


@dataclass(frozen=True)
class OptimizerConfig:
    """How model, actor and critic are optimised; the defaults are DreamerV3's.

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


class ModelLearner:
    """Learns a model from sequences, one gradient step at a time.

    Args:
        model: the world model.
        config: of the optimiser.

    Attributes:
        updates: made so far.
    """

    def __init__(self, model: RSSM, config: OptimizerConfig) -> None:
        self.model, self.config = model, config
        self.updates = 0
        self._parts = self._trained()
        self._rates = config.rates()
        self._on_cuda = model.device.type == "cuda"
        self._graphed = GraphedUpdate(self._learn, enabled=self._on_cuda)
        groups = [{"params": parameters, "lr": self._rates[part]} for part, parameters in self._parts.items()]
        self.optimizer: Optimizer
        if config.name == "laprop":
            self.optimizer = LaProp(groups, clip=config.clip, warmup=config.warmup)
        else:
            self.optimizer = torch.optim.Adam(groups, eps=config.eps, fused=True, capturable=self._on_cuda)
            self._moving_rates = [torch.zeros((), device=model.device) for _ in groups]  # read by captured updates

    def _trained(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters by the name that their learning rate has."""
        return {"model": list(self.model.parameters())}

    @property
    def parameters(self) -> int:
        """How many numbers are trained."""
        return sum(p.numel() for part in self._parts.values() for p in part)

    def update(self, batch: SequenceBatch, start: RSSMState | None) -> tuple[RSSMState, dict[str, Tensor]]:
        """Return the beliefs in the rows learned from and the terms of the losses [], after one step.

        Nothing waits for the device.

        Args:
            batch: windows [B, T].
            start: beliefs [B] of their first rows, which are then not learned from; None: windows begin with none.
        """
        if self.config.name == "adam":
            self._set_rates()
        made = self._graphed(batch, start)
        self.updates += 1
        return made

    def rate(self, part: str) -> float:
        """Return the learning rate that the last update had for "model", "actor" or "critic"."""
        return self._rates[part] * self._ramp(self.updates - int(self.config.name == "laprop"))  # LaProp begins with 0

    def _ramp(self, steps: int) -> float:
        return min(1.0, steps / self.config.warmup) if self.config.warmup else 1.0

    def _set_rates(self) -> None:
        """Set Adam's learning rates for the next update; LaProp has a ramp of its own."""
        for i, (group, part) in enumerate(zip(self.optimizer.param_groups, self._parts, strict=True)):
            rate = self._rates[part] * self._ramp(self.updates + 1)
            group["lr"] = self._moving_rates[i].fill_(rate) if self._on_cuda else rate

    def _learn(self, batch: SequenceBatch, start: RSSMState | None) -> tuple[RSSMState, dict[str, Tensor]]:
        """Do an update but for what the host counts: everything here is on the device, and can be captured."""
        loss = self.model.loss(batch, start)
        self._step(loss.total)
        return learned_rows(loss, start)[0].detach(), model_terms(loss)

    def _step(self, total: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        if self.config.name == "adam":
            for parameters in self._parts.values():
                torch.nn.utils.clip_grad_norm_(parameters, self.config.clip, foreach=True)
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Return what resuming needs beside the weights: plain data and tensors, nested."""
        return {"optimizer": self.optimizer.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.optimizer.load_state_dict(state["optimizer"])
        if self.config.name == "adam":
            for group in self.optimizer.param_groups:
                group["capturable"] = self._on_cuda  # and not as where it was saved
        self._graphed.reset()  # the optimiser's state has moved
        self.updates = state["updates"]


def learned_rows(loss: ModelLoss[RSSMState], start: RSSMState | None) -> tuple[RSSMState, slice]:
    """Return the beliefs [B, T or T - 1] in the rows that a loss is of, and which rows these are."""
    assert loss.states is not None
    rows = slice(0 if start is None else 1, None)
    return loss.states[:, rows], rows


def model_terms(loss: ModelLoss[RSSMState]) -> dict[str, Tensor]:
    """Return the model's losses by their names in the log."""
    return {f"model/{name}": value for name, value in {"loss": loss.total.detach(), **loss.terms}.items()}
