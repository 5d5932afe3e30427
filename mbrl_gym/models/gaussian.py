"""GaussianNetwork: a transition model whose network says mean and log variance, and is trained by their likelihood."""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn.functional import pad, softplus

from mbrl_gym.batch import SequenceBatch
from mbrl_gym.models.gaussian_config import GaussianConfig
from mbrl_gym.models.transition import TransitionModel, Transitions, TransitionState
from mbrl_gym.nets.precision import multiplies_in_bfloat16

ROWS_AT_ONCE = 4096  # windows that the error is measured on at a time


class GaussianNetwork(TransitionModel):
    """A transition model by networks with outputs (mean, log variance) within learned bounds, in the targets' units.

    A subclass supplies the network (`_net`). Source of the bounds and the likelihood: Chua et al. 2018 (PETS);
    handful-of-trials ``dmbrl/modeling/models/BNN.py``.

    Args:
        observation_space: the real environment's.
        action_space: the real environment's.
        config: the hyperparameters.
        hypotheses: how many there are, before any of them is selected.
        members: how many of them are trained and selected separately.

    Raises:
        ValueError: a space is not supported, or ``config`` asks for a correction that this kind of network has not.
    """

    corrections: ClassVar[frozenset[str]] = frozenset()  # which of the settings below its loss follows
    config: GaussianConfig
    input_error: Tensor  # [D] where there is input noise: the model's error after the steps of a window, encoded units

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        config: GaussianConfig,
        hypotheses: int,
        members: int = 1,
    ) -> None:
        super().__init__(observation_space, action_space, config, hypotheses, members)
        for name, off in (("loss_horizon", 1), ("input_noise", 0.0)):
            if getattr(config, name) != off and name not in self.corrections:
                found = f"{name} must be {off} for {type(self).__name__}, whose loss has no such correction"
                raise ValueError(f"{found}, got {getattr(config, name)}; use an Ensemble for it")
        if config.input_noise > 0:
            self.register_buffer("input_error", torch.zeros(self.codec.size))
        size = (self.targets,)
        bounds = torch.full(size, config.max_log_variance), torch.full(size, config.min_log_variance)
        self.max_log_variance = nn.Parameter(bounds[0], requires_grad=config.learn_variance_bounds)
        self.min_log_variance = nn.Parameter(bounds[1], requires_grad=config.learn_variance_bounds)

    @abstractmethod
    def _net(self, inputs: Tensor, selected: bool) -> Tensor:
        """Return outputs [E, N, 2(D + 1)] from standardised inputs [N, in] or [E, N, in]; [K, ...] if ``selected``."""

    def _raw(self, x: Tensor, bound: bool) -> Tensor:
        """Return outputs (mean, log variance) of the hypotheses, standardised."""
        return self._net(self._normalise(x), bound)

    def _train_net(self, inputs: Tensor) -> Tensor:
        """Return outputs [E, N, 2(D + 1)]; products of large batches in bfloat16, weights and gradients in float32."""
        rows = self.config.bfloat16_rows
        rounds = rows is not None and inputs.shape[-2] >= rows and multiplies_in_bfloat16(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=rounds):
            raw = self._fresh(inputs)
        return raw.float()

    def _fresh(self, inputs: Tensor) -> Tensor:
        """Return the outputs that training differentiates, noise of their own included."""
        return self._net(inputs, False)

    def _outputs(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Split network outputs [..., 2(D + 1)] into mean and bounded log variance."""
        mean, log_variance = raw.chunk(2, dim=-1)
        log_variance = self.max_log_variance - softplus(self.max_log_variance - log_variance)
        return mean, self.min_log_variance + softplus(log_variance - self.min_log_variance)

    def _moments(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance [..., D + 1] of (change, reward) in their own units from outputs [..., 2(D + 1)].

        The bounds of the log variance, two softplus, come out as 1 / (1 / max + 1 / variance) + min in the variance.
        """
        mean, log_variance = raw.chunk(2, dim=-1)
        variance = torch.exp(torch.clamp(-log_variance, max=80.0)) + torch.exp(-self.max_log_variance)
        variance = (variance.reciprocal() + torch.exp(self.min_log_variance)) * self.target_std.square()
        return torch.addcmul(self.target_mean, mean, self.target_std), variance

    def _likelihood(self, raw: Tensor, inputs: Tensor, data: Transitions) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss summed over networks, and its terms, from their outputs [members, N, 2(D + 1)].

        Source: PETS' ``BNN._compile_losses``: mean over batch and dimensions of (mu - y)^2 exp(-lv) + lv, and the
        bounds' penalty. Added here: cross-entropy of the termination networks, weights by the predicted variance
        (beta-NLL; Seitzer et al. 2022, equation 4), and `_free`.
        """
        return self._whole_loss(self._surprise(raw, data), inputs, data)

    def _surprise(self, raw: Tensor, data: Transitions) -> Tensor:
        """Return [], the weighted negative log-likelihood of `_likelihood`, summed over networks."""
        mean, log_variance = self._outputs(raw)
        error = mean - (data.target - self.target_mean) / self.target_std  # [members, N, D + 1]
        nll = error.square() * torch.exp(-log_variance) + log_variance
        if self.config.variance_weighting > 0:
            nll = nll * torch.exp(self.config.variance_weighting * log_variance.detach())
        return (self._free(nll, error, data).mean(-1) * data.weight).mean(1).sum()

    def _whole_loss(self, total: Tensor, inputs: Tensor, data: Transitions) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss and its terms from the networks' surprise [] and the transitions whose ends are learned."""
        terms = {"nll": total.detach() / self.members}
        penalty = self.max_log_variance.sum() - self.min_log_variance.sum()
        total = total + self.config.variance_bound_penalty * penalty
        if self._can_terminate:
            ends = (self._termination_error(inputs, data) * data.weight).mean(1).sum()
            total = total + ends
            terms["termination"] = ends.detach() / self.members
        return total, terms

    # ---- input noise ------------------------------------------------------------------------------------------------

    def _perturbed(self, data: Transitions) -> Transitions:
        """Return the transitions from observations with the configured noise to the same next observations.

        The noise, from torch's global generator, has the deviation of the model's own error in each dimension, so that
        training sees what imagination will: observations that are as far from the recorded ones as its own predictions.
        """
        if self.config.input_noise == 0:
            return data
        noise = torch.randn_like(data.obs) * (self.input_error * self.config.input_noise)
        obs = self.codec.project(data.obs + noise)
        target = data.target + pad((data.obs - obs) * self._delta, (0, 1))
        return data._replace(x=self._inputs(obs, data.x[..., self._seen :]), obs=obs, target=target)

    @torch.no_grad()
    def calibrate(self, data: SequenceBatch, holdout: SequenceBatch | None) -> None:
        """Measure the error that the input noise follows, on held-out windows where there are any."""
        super().calibrate(data, holdout)
        if self.config.input_noise == 0:
            return
        windows = data if holdout is None else holdout
        squares, count = torch.zeros_like(self.input_error), torch.zeros_like(self.input_error[0])
        for begin in range(0, windows.batch_size, ROWS_AT_ONCE):
            part = windows[begin : begin + ROWS_AT_ONCE]
            whole = ~part.is_first[:, 1:].any(1)  # [B], of one episode
            squares += (
                (self._last_predicted(part) - self.codec.encode(part.obs)[:, -1]).square() * whole[:, None]
            ).sum(0)
            count += whole.sum()
        self.input_error.copy_((squares / count.clamp(min=1.0)).sqrt())

    def _last_predicted(self, batch: SequenceBatch) -> Tensor:
        """Return [B, D]: the windows' last observation as predicted from the first; every hypothesis has its share."""
        obs = self.codec.project(self.codec.encode(batch.obs)[:, 0])
        state = TransitionState(obs, torch.arange(len(obs), device=obs.device) % self.hypotheses)
        for t in range(batch.length - 1):
            state, _ = self.predict(state, batch.action[:, t], sample=False, uncertainty=False)
        return state.obs
