"""GaussianProcess: exact Gaussian processes of the dynamics, for small data."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from mbrl_gym.batch import SequenceBatch
from mbrl_gym.fit_report import FitReport
from mbrl_gym.model import ModelLoss
from mbrl_gym.models.kernels import (
    Hyperparameters,
    fourier_features,
    log_marginal_likelihood,
    maximise_likelihood,
    posterior_draws,
    squared_exponential,
)
from mbrl_gym.models.transition import TransitionModel, Transitions, TransitionState
from mbrl_gym.models.transition_config import TransitionConfig
from mbrl_gym.nets.variational_linear import centred_noise

__all__ = ["GaussianProcess", "GaussianProcessConfig"]

TERMINATION_RATE, TERMINATION_BATCH = 3e-3, 64  # of the termination network's fit
CHUNK = 1 << 22  # kernel values that a prediction holds at a time


@dataclass(frozen=True, kw_only=True)
class GaussianProcessConfig(TransitionConfig):
    """Hyperparameters of `GaussianProcess`, beside those of `TransitionConfig`.

    Attributes:
        draws: K, how many functions are drawn from the posterior. They are fixed by each fit: a trajectory under
            TS-infinity follows one of them, and particles are a multiple of their number.
        max_points: transitions that a fit accepts at most. Its memory grows with their square, its time with the cube.
        likelihood_points: how many of them, at random, the marginal likelihood sees. Predictions see all.
        likelihood_steps: gradient steps on the marginal likelihood in a fit.
        frequencies: R, random Fourier frequencies that the draws' prior part is made of.
        termination_updates: gradient steps of the termination network in a fit.
        seed: of the draws, of the choice of ``likelihood_points``, and of the termination network's batches.

    Raises:
        ValueError: a value is out of its range.
    """

    draws: int = 10
    max_points: int = 2000
    likelihood_points: int = 500
    likelihood_steps: int = 100
    frequencies: int = 256
    termination_updates: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws < 2:
            raise ValueError(f"draws must be at least 2, because their mean is the model's, got {self.draws}")
        for name in ("max_points", "likelihood_points", "likelihood_steps", "frequencies", "termination_updates"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")


class GaussianProcess(TransitionModel):
    """One exact Gaussian process for each predicted dimension, its hyperparameters by their marginal likelihood.

    Prior: mean zero (after standardising: the mean change) and a squared exponential kernel with a length scale for
    each input, as in PILCO (Deisenroth & Rasmussen 2011; UCL-SML/pilco-matlab ``gp/train.m``). The K hypotheses are
    functions drawn from the posterior by Matheron's rule, f(x) + k(x, X) (K + noise)^-1 (y - f(X) - e), with f a draw
    from the prior by random Fourier features and e one of the noise (Wilson et al. 2020; j-wilson/GPflowSampling
    ``gpflow_sampling/sampling/updates/exact_updates.py``). Their mean is exactly the posterior's, and the square of
    their disagreement its variance without bias (`centred_noise`), but for what R frequencies miss of the prior. The
    aleatoric part is one noise variance a dimension, the same everywhere.

    It fits itself, in float64, to all training transitions and from the same start each time. `loss` is for comparison:
    what a step along it changes is seen by no prediction. It predicts in float32, and each prediction costs as much as
    there are points. Far from all points it says the mean change, with the prior's uncertainty.

    Raises:
        ValueError: a space is not supported, or ``config`` names a dimension that does not exist.
    """

    config_class = GaussianProcessConfig
    hypothesis_name = "draws"
    config: GaussianProcessConfig
    lengths: Tensor  # [T, in], T = D + 1, of the last fit, in standard deviations of the inputs
    noise_variance: Tensor  # [T], of the last fit, in standardised targets
    centres: Tensor  # [T, N, in] the data's inputs in units of the length scales
    coefficients: Tensor  # [T, N + 2 R, K] of the kernel's values at them and of the Fourier features
    frequencies: Tensor  # [R, in]

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        config: GaussianProcessConfig | None = None,
    ) -> None:
        config = config or GaussianProcessConfig()
        super().__init__(observation_space, action_space, config, config.draws)
        self.log_lengths = nn.Parameter(torch.zeros(self.targets, self.inputs))
        self.log_signal = nn.Parameter(torch.zeros(self.targets))
        self.log_noise = nn.Parameter(torch.full((self.targets,), -2.3))
        self._make_termination_net()
        frequencies = torch.randn(config.frequencies, self.inputs, generator=self._generator())
        self.register_buffer("frequencies", frequencies)
        self.register_buffer("lengths", torch.ones(self.targets, self.inputs))
        self.register_buffer("noise_variance", torch.ones(self.targets))
        self.register_buffer("centres", torch.zeros(0))
        self.register_buffer("coefficients", torch.zeros(0))
        self._condition(torch.zeros(0, self.inputs), torch.zeros(0, self.targets), self._generator())

    # ---- predictions ------------------------------------------------------------------------------------------------

    def _raw(self, x: Tensor, bound: bool) -> Tensor:
        """Return outputs (mean, noise variance) of the draws, standardised."""
        targets, terms, draws = self.coefficients.shape
        rows = max(1, CHUNK // (targets * terms * (draws if bound else 1)))
        parts = torch.split(self._normalise(x), rows, dim=-2)
        mean = torch.cat([self._drawn(part, bound) for part in parts], dim=1)  # [K, B, T]
        return torch.cat([mean, self.noise_variance.expand_as(mean)], dim=-1)

    def _drawn(self, inputs: Tensor, bound: bool) -> Tensor:
        """Return the draws' values [K, B, T] at standardised inputs [B, in], or [K, B, in] where ``bound``."""
        scaled = inputs.reshape(-1, inputs.shape[-1]) / self.lengths[:, None]  # [T, rows, in]
        kernel = squared_exponential(scaled, self.centres)
        basis = torch.cat([kernel, fourier_features(scaled, self.frequencies)], dim=-1)  # [T, rows, N + 2 R]
        if not bound:
            return (basis @ self.coefficients).permute(2, 1, 0)
        targets, terms, draws = self.coefficients.shape
        own = basis.view(targets, draws, -1, terms) @ self.coefficients.transpose(1, 2)[..., None]  # [T, K, B, 1]
        return own[..., 0].permute(1, 2, 0)

    def _moments(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance [..., D + 1] of (change, reward) in their own units."""
        mean, variance = raw.chunk(2, dim=-1)
        return torch.addcmul(self.target_mean, mean, self.target_std), variance * self.target_std.square()

    # ---- learning ---------------------------------------------------------------------------------------------------

    def fit(self, data: SequenceBatch, holdout: SequenceBatch | None) -> FitReport:
        """Fit everything to the training windows [W, T] and report the error on the held-out ones.

        Raises:
            ValueError: there are more transitions than ``config.max_points``.
        """
        rows = self._distinct(data)
        generator = self._generator()
        self.before_fit(data)
        inputs, targets = self._standardised(rows)
        some = torch.randperm(len(inputs), generator=generator)[: self.config.likelihood_points].to(self.device)
        found, likelihood = maximise_likelihood(inputs[some], targets[some], self.config.likelihood_steps)
        self._take(found)
        self._condition(inputs, targets, generator)
        terms = {"nll": -float(likelihood.mean())}
        if self._can_terminate:
            terms["termination"] = self._fit_termination(rows, generator)
        error = [] if holdout is None else self.holdout_error(holdout).tolist()
        steps = self.config.likelihood_steps
        return FitReport(steps, steps, data.batch_size, sum(terms.values()), terms, error)

    def loss(self, batch: SequenceBatch, start: TransitionState | None = None) -> ModelLoss[TransitionState]:
        """Return the negative log marginal likelihood of a batch by itself, a mean over transitions and dimensions.

        Added: the cross-entropy of the termination network.

        Raises:
            ValueError: there are more transitions than ``config.max_points``.
        """
        rows = self._distinct(batch)
        inputs, targets = self._standardised(rows)
        found = Hyperparameters(self.log_lengths.double(), self.log_signal.double(), self.log_noise.double())
        each = [log_marginal_likelihood(inputs, targets[:, t], *found.of(t)) for t in range(self.targets)]
        nll = -(torch.stack(each).mean() / max(1, len(inputs))).float()
        terms = {"nll": nll.detach()}
        if not self._can_terminate:
            return ModelLoss(nll, terms)
        ends = self._termination_error(self._normalise(rows.x), rows).mean()
        return ModelLoss(nll + ends, {**terms, "termination": ends.detach()})

    @torch.no_grad()
    def holdout_error(self, batch: SequenceBatch) -> Tensor:
        """Return [1]: twice the negative log-likelihood of the draws' mixture (its moments'), and of the ends.

        In standardised targets, without constants, a mean over dimensions.
        """
        data = self._transitions(replace(batch, weight=None))
        means, variances = self._raw(data.x, bound=False).chunk(2, dim=-1)  # [K, N, T]
        variance = variances.mean(0) + means.var(0, unbiased=False)
        error = (means.mean(0) - (data.target - self.target_mean) / self.target_std)[None]
        error = self._free(error.square() / variance + variance.log(), error, data).mean(-1)  # [1, N]
        if self._can_terminate:
            error = error + self._termination_error(self._normalise(data.x), data)
        return (error * data.weight).sum(1) / data.weight.sum(1).clamp(min=1.0)

    def _generator(self) -> torch.Generator:
        """Return the source of all of a fit's randomness, on the CPU: the same draws on every device."""
        return torch.Generator().manual_seed(self.config.seed)

    def _distinct(self, data: SequenceBatch) -> Transitions:
        """Return the N valid transitions, each of them once where windows overlap."""
        rows = self._transitions(replace(data, weight=None))
        _, first = np.unique(data.index[:, 1:].flatten().cpu().numpy(), return_index=True)
        kept = torch.as_tensor(first, device=self.device)
        kept = kept[rows.weight[0, kept] > 0]
        if len(kept) > self.config.max_points:
            raise ValueError(
                f"a Gaussian process must have at most max_points = {self.config.max_points} transitions, got "
                f"{len(kept)}; raise max_points (memory grows with the square, time with the cube: 4 times as many "
                "points take 64 times as long), fit to fewer of them, or take a model for large data, such as "
                "LastLayer or Ensemble"
            )
        return Transitions(*(x[:, kept] if x is rows.weight else x[kept] for x in rows))

    def _standardised(self, rows: Transitions) -> tuple[Tensor, Tensor]:
        """Return inputs [N, in] and targets [N, T] in float64."""
        return self._normalise(rows.x).double(), ((rows.target - self.target_mean) / self.target_std).double()

    @torch.no_grad()
    def _take(self, found: Hyperparameters) -> None:
        self.log_lengths.copy_(found.log_lengths)
        self.log_signal.copy_(found.log_signal)
        self.log_noise.copy_(found.log_noise)

    @torch.no_grad()
    def _condition(self, inputs: Tensor, targets: Tensor, generator: torch.Generator) -> None:
        """Draw K functions anew, given inputs [N, in] and targets [N, T], with the hyperparameters as they are."""
        found = Hyperparameters(self.log_lengths.double(), self.log_signal.double(), self.log_noise.double())
        parts = []
        for t in range(self.targets):
            lengths, _, noise = found.of(t)
            shapes = (2 * self.config.frequencies, len(inputs))
            prior, error = (
                centred_noise(self.config.draws, n, generator=generator, dtype=torch.float64).T.to(self.device)
                for n in shapes
            )
            draws = posterior_draws(
                inputs.double(), targets[:, t].double(), found, t, self.frequencies.double(), prior, error
            )
            self.lengths[t], self.noise_variance[t] = lengths, noise
            parts.append(draws)
        self.coefficients = torch.stack(parts).float()
        self.centres = (inputs / self.lengths[:, None]).float()

    def _fit_termination(self, rows: Transitions, generator: torch.Generator) -> float:
        """Train the termination network and return its mean cross-entropy over all transitions."""
        inputs, parameters = self._normalise(rows.x), list(self.termination_net.parameters())
        optimizer = torch.optim.Adam(parameters, TERMINATION_RATE)
        for _ in range(self.config.termination_updates):
            some = torch.randint(len(inputs), (TERMINATION_BATCH,), generator=generator).to(self.device)
            batch = Transitions(*(x[:, some] if x is rows.weight else x[some] for x in rows))
            optimizer.zero_grad()
            self._termination_error(inputs[some], batch).mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            return float(self._termination_error(inputs, rows).mean())

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        """Make room for the number of points that is loaded."""
        centres = state_dict.get(prefix + "centres")
        if centres is not None and centres.dim() == 3:
            points = centres.shape[1]
            rest = 2 * self.config.frequencies
            self.centres = self.centres.new_zeros(self.targets, points, self.inputs)
            self.coefficients = self.coefficients.new_zeros(self.targets, points + rest, self.config.draws)
        super()._load_from_state_dict(state_dict, prefix, *args)
