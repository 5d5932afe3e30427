"""One update of SAC on tensors alone: SB3's mathematics without autograd, in the memory of SB3's own networks."""

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN
from torch import Tensor

from mbrl_gym.agents.sac_networks import FlatAdam, FlatParameters, Stack, Tape, actor_layers, critic_layers

Target = Callable[[ReplayBufferSamples, Tensor], Tensor]
WARM_UP = 3  # updates before a capture: libraries set themselves up


class SampledActions(NamedTuple):
    """Actions of the policy for ``rows`` observations, with what their gradient needs."""

    actions: Tensor  # [rows, A], squashed into (-1, 1)
    log_prob: Tensor  # [rows, 1]
    noise: Tensor  # [rows, A], standard normal
    std: Tensor  # [rows, A]
    room: Tensor  # [rows, A], 1 - actions ** 2
    tape: Tape


class LeanUpdate:
    """The networks of an SB3 SAC as flat tensors, and one gradient step on each of its losses.

    The log-probability is that of SB3's ``SquashedDiagGaussianDistribution`` with its epsilon. Its Gaussian part is
    written in the noise, -noise^2 / 2 - log std - log(2 pi) / 2, where SB3 takes the noise back out of the sum
    mean + std * noise, so that the two differ by rounding.

    Args:
        algorithm: a SAC whose networks `why_not_lean` has nothing against. They are moved into flat memory and stay
            the owners of their parameters; so do the optimisers.
        target: returns the critics' TD targets [rows, 1] for a batch and the entropy coefficient.
    """

    def __init__(self, algorithm: SAC, target: Target) -> None:
        self._algorithm, self._td_target = algorithm, target
        actor, critic = algorithm.actor, algorithm.critic
        self._epsilon = float(actor.action_dist.epsilon)
        self._n_actions = actor.action_dist.action_dim
        space = algorithm.observation_space
        self._vectors = isinstance(space, spaces.Box) and len(space.shape) == 1
        self.actor = Stack(actor_layers(actor), 1)
        self.critics = Stack(critic_layers(critic), critic.n_critics)
        self.targets = Stack(critic_layers(algorithm.critic_target), critic.n_critics)
        self._optimizers = [
            FlatAdam(actor.optimizer, self.actor.parameters),  # type: ignore[arg-type]
            FlatAdam(critic.optimizer, self.critics.parameters),  # type: ignore[arg-type]
        ]
        self._entropy: FlatParameters | None = None
        if algorithm.log_ent_coef is not None and algorithm.ent_coef_optimizer is not None:
            self._entropy = FlatParameters([algorithm.log_ent_coef])
            self._optimizers.append(FlatAdam(algorithm.ent_coef_optimizer, self._entropy))
        self._tapes: dict[tuple[int, str, int], Tape] = {}
        self.losses = torch.zeros(4)

    def open(self) -> bool:
        """Take up what loading or moving changed; return whether memory has moved, so that captures are void."""
        bound = [part.bind() for part in (self.actor, self.critics, self.targets, self._entropy) if part]
        opened = [optimizer.open() for optimizer in self._optimizers]
        moved = any(bound + opened)
        if moved:
            self.forget()
        self._actor_gradient = self.actor.matrices(self._optimizers[0].gradient)
        self._critic_gradient = self.critics.matrices(self._optimizers[1].gradient)
        if moved or self.losses.device != self.actor.parameters.flat.device:
            self.losses = self.actor.parameters.flat.new_zeros(4)
        self.losses.zero_()
        return moved

    def close(self, steps: int) -> None:
        """Leave the optimisers' states as ``steps`` stock steps since `open` would."""
        for optimizer in self._optimizers:
            optimizer.close(steps)

    def forget(self) -> None:
        """Give back the memory between the updates."""
        self._tapes.clear()

    def constants(self) -> tuple[Any, ...]:
        """Return the numbers that a captured update has seen for good."""
        algorithm = self._algorithm
        fixed = algorithm.ent_coef_tensor.data_ptr() if self._entropy is None else algorithm.target_entropy
        groups = [optimizer.optimizer.param_groups[0] for optimizer in self._optimizers]
        return (algorithm.gamma, fixed, *((group["betas"], group["eps"], group["weight_decay"]) for group in groups))

    # ---- what a TD target is made of --------------------------------------------------------------------------------

    def sample(self, observations: Tensor, use: str = "target") -> SampledActions:
        """Draw the policy's actions for raw ``observations`` [rows, *obs]; noise comes from the global generator.

        Args:
            observations: as the replay returns them.
            use: results of the same use and number of rows share memory: the next overwrites the last.
        """
        tape = self._tape(self.actor, use, observations.shape[0])
        tape.input.copy_(self._features(observations))
        head = self.actor.forward(tape)[0]
        mean, raw = head[:, : self._n_actions], head[:, self._n_actions :]
        log_std = raw.clamp(LOG_STD_MIN, LOG_STD_MAX)
        std, noise = log_std.exp(), torch.empty_like(mean).normal_()
        actions = torch.addcmul(mean, std, noise).tanh_()
        room = 1 - actions * actions
        density = noise.square().mul_(0.5).add_(log_std).add_((room + self._epsilon).log_())
        constant = self._n_actions * 0.5 * math.log(2 * math.pi)
        return SampledActions(actions, -density.sum(1, keepdim=True) - constant, noise, std, room, tape)

    def target_values(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Return every target critic's values [n_critics, rows, 1]; the next call of as many rows overwrites them."""
        tape = self._tape(self.targets, "target", actions.shape[0])
        return self._values(self.targets, tape, observations, actions)

    def _values(self, critics: Stack, tape: Tape, observations: Tensor, actions: Tensor) -> Tensor:
        torch.cat([self._features(observations), actions], dim=1, out=tape.input)
        return critics.forward(tape)

    def _features(self, observations: Tensor) -> Tensor:
        if self._vectors:  # what the general way comes down to
            return observations.float()
        actor = self._algorithm.actor  # the critics' extractor does the same: it has no parameters
        return actor.extract_features(observations, actor.features_extractor)

    def _tape(self, stack: Stack, use: str, rows: int) -> Tape:
        key = (id(stack), use, rows)
        if key not in self._tapes:
            self._tapes[key] = Tape(stack, rows)
        return self._tapes[key]

    # ---- the update -------------------------------------------------------------------------------------------------

    def __call__(self, batch: ReplayBufferSamples) -> None:
        """Take one step with each optimiser; `losses` counts up actor, critic, entropy loss and coefficient.

        The order is SB3's: actions for the batch, entropy coefficient, targets, critics, actor. The coefficient that
        the targets and the actor see is the one from before its step.
        """
        sampled = self.sample(batch.observations, "policy")
        coefficient = self._update_entropy(sampled.log_prob)
        target = self._td_target(batch, coefficient)
        critic_loss = self._update_critics(batch, target)
        actor_loss = self._update_actor(batch.observations, sampled, coefficient)
        self.losses[0] += actor_loss
        self.losses[1] += critic_loss

    def _update_entropy(self, log_prob: Tensor) -> Tensor:
        if self._entropy is None:
            coefficient = self._algorithm.ent_coef_tensor.detach().reshape(1)
            self.losses[3:].add_(coefficient)
            return coefficient
        assert isinstance(self._algorithm.target_entropy, float)
        log_coefficient, optimizer = self._entropy.flat, self._optimizers[2]
        coefficient = log_coefficient.exp()
        torch.neg(log_prob.mean() + self._algorithm.target_entropy, out=optimizer.gradient[0])
        self.losses[2:3].addcmul_(log_coefficient, optimizer.gradient)
        self.losses[3:].add_(coefficient)
        optimizer.step()
        return coefficient

    def _update_critics(self, batch: ReplayBufferSamples, target: Tensor) -> Tensor:
        rows = target.shape[0]
        tape = self._tape(self.critics, "critics", rows)
        error = self._values(self.critics, tape, batch.observations, batch.actions).sub_(target)
        loss = error.square().sum() * (0.5 / rows)
        self.critics.backward(tape, error.div_(rows), self._critic_gradient)
        self._optimizers[1].step()
        return loss

    def _update_actor(self, observations: Tensor, sampled: SampledActions, coefficient: Tensor) -> Tensor:
        """Descend mean(coefficient * log_prob - min over critics of Q), through Q only to the actions."""
        actions, log_prob, noise, std, room, policy = sampled
        rows = actions.shape[0]
        tape = self._tape(self.critics, "critics", rows)
        values, lowest = self._values(self.critics, tape, observations, actions).min(dim=0)
        loss = (coefficient * log_prob - values).mean()
        slope = self.critics.slope(tape, lowest.squeeze(1), tape.input.shape[1] - self._n_actions)
        weight = coefficient / rows
        # by the action before tanh; the Gaussian part of log_prob depends on the standard deviation alone
        push = (2 * actions / (room + self._epsilon) * weight).sub_(slope, alpha=1 / rows).mul_(room)
        raw = policy.layers[-1][0, :, self._n_actions :]
        inside = (raw >= LOG_STD_MIN) & (raw <= LOG_STD_MAX)
        delta = policy.deltas[-1]
        delta[0, :, : self._n_actions] = push
        delta[0, :, self._n_actions :] = ((push * noise * std).sub_(weight)).mul_(inside)
        self.actor.backward(policy, delta, self._actor_gradient)
        self._optimizers[0].step()
        return loss

    def update_targets(self, tau: float) -> None:
        """Move the target critics by ``tau`` towards the critics."""
        self.targets.parameters.flat.lerp_(self.critics.parameters.flat, tau)


class GraphedUpdate:
    """A `LeanUpdate` as one CUDA graph: an update is some hundred small kernels, slower to launch than to run.

    The first updates are made as ever, the next is captured and replayed from then on; one graph for each kind of
    batch. Where there can be no graph (another device, a target that is not `LeanSAC`'s own and may read memory which
    changes place) every update is made as ever. The learning rates are read anew at every replay.

    Written without a GPU at hand: tested with a stand-in for CUDA's graphs only.

    Args:
        update: the update; `LeanUpdate.open` was called before each use.
        enabled: whether to try.
    """

    def __init__(self, update: LeanUpdate, enabled: bool) -> None:
        self.update, self.enabled = update, enabled
        self.reset()

    def reset(self) -> None:
        """Forget what was captured: memory has moved."""
        self._graphs: dict[tuple[Any, ...], tuple[Any, ReplayBufferSamples]] = {}
        self._warm_ups = 0

    def __call__(self, batch: ReplayBufferSamples) -> None:
        """Update on ``batch``."""
        if not self.enabled:
            self.update(batch)
        elif self._warm_ups < WARM_UP:
            self._warm_ups += 1
            self._warm_up(batch)
        else:
            try:
                graph = self._graph(batch)
            except RuntimeError as error:
                self.enabled = False
                self.reset()
                self.update.forget()
                warnings.warn(f"SAC's update cannot be a CUDA graph and is made step by step: {error}", stacklevel=2)
                self.update(batch)
            else:
                graph.replay()

    def _warm_up(self, batch: ReplayBufferSamples) -> None:
        device = batch.rewards.device
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            self.update(batch)
        torch.cuda.current_stream(device).wait_stream(stream)

    def _graph(self, batch: ReplayBufferSamples) -> Any:
        """Return the graph for batches like this one, with its numbers in place."""
        key = (*self.update.constants(), *(None if x is None else (x.shape, x.dtype) for x in batch))
        if key not in self._graphs:
            copies: list[Any] = [None if x is None else x.clone() for x in batch]
            kept = ReplayBufferSamples(*copies)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.update(kept)
            self._graphs[key] = (graph, kept)
            return graph
        graph, kept = self._graphs[key]
        for inside, given in zip(kept, batch, strict=True):
            if inside is not None and given is not None:
                inside.copy_(given)
        return graph
