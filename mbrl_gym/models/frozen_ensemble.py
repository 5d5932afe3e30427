"""FrozenEnsemble: an `Ensemble` as it is now, laid out once for prediction alone."""

from typing import Any

import torch
from torch import Tensor

from mbrl_gym.models.ensemble import Ensemble
from mbrl_gym.models.frozen_mlp import FrozenMLP
from mbrl_gym.nets.ensemble_mlp import EnsembleMLP
from mbrl_gym.nets.precision import multiplies_in_bfloat16


class FrozenEnsemble(Ensemble):
    """Predicts what its source did when it was made, faster; there is nothing to train.

    What standardises inputs and outputs is folded into the first and the last layer, so that the networks' outputs are
    the mean of the change and -log(variance) in the units of the targets.

    Args:
        source: the ensemble to copy.
        bfloat16_rows: rows a member from which layers run in bfloat16, where the device multiplies in it; None: never.
    """

    def __init__(self, source: Ensemble, bfloat16_rows: int | None) -> None:
        super().__init__(source.observation_space, source.action_space, source.config)
        self.load_state_dict(source.state_dict())
        self.to(source.device).eval().requires_grad_(False)
        self.bfloat16_rows = bfloat16_rows if multiplies_in_bfloat16(self.device) else None
        size, square = len(self.target_std), self.target_std.square()
        scale = torch.cat([self.target_std, -torch.ones_like(square)])
        offset = torch.cat([self.target_mean, -square.log()])
        all_elites = len(self.elites) == self.members
        picked = None if all_elites else self.elites
        mean, std, seen = self.input_mean, self.input_std, self._seen
        self._all = self._fold(self.net, mean, std, None, scale, offset)
        self._elite = self._all if all_elites else self._fold(self.net, mean, std, picked, scale, offset)
        mean, std = torch.cat([mean, mean[:seen]]), torch.cat([std, std[:seen]])
        self._ends = self._fold(self.termination_net, mean, std, picked, torch.ones_like(mean[:1]), mean[:1] * 0)
        self._least_precision = torch.exp(-self.max_log_variance) / square
        self._least_variance = torch.exp(self.min_log_variance) * square
        self._targets = size

    def _fold(
        self, net: EnsembleMLP, mean: Tensor, std: Tensor, members: Tensor | None, scale: Tensor, offset: Tensor
    ) -> FrozenMLP:
        return FrozenMLP(net, mean, std, scale, offset, members, self.bfloat16_rows)

    def frozen(self, bfloat16_rows: int | None = None) -> "FrozenEnsemble":
        """Return itself."""
        return self

    def twin(self) -> Ensemble:
        """Return an untrained ensemble."""
        return Ensemble(self.observation_space, self.action_space, self.config)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load a state dict; only the constructor may.

        Raises:
            RuntimeError: the model is frozen already.
        """
        if hasattr(self, "_all"):
            raise RuntimeError("a frozen ensemble cannot be changed; load into the ensemble, then call its frozen()")
        return super().load_state_dict(*args, **kwargs)

    def _raw(self, x: Tensor, bound: bool) -> Tensor:
        """Return mean and -log(variance) [E, B, 2(D + 1)] in the targets' units (the elites' only, if so)."""
        return (self._elite if bound else self._all)(x)

    def _moments(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance [..., D + 1] in the targets' units from what `_raw` returns."""
        mean, precision = raw[..., : self._targets], raw[..., self._targets :]
        if raw.requires_grad:
            precision = precision.clamp(max=80.0)  # or the gradient of what overflows is no number
        return mean, (precision.exp() + self._least_precision).reciprocal() + self._least_variance

    def _termination_probability(self, x: Tensor, next_obs: Tensor) -> Tensor:
        """Return [B], the mean over the elites, from raw inputs [B, in] and encoded next observations [B, D]."""
        return torch.sigmoid(self._ends(torch.cat([x, self._transform(next_obs)], dim=-1))[..., 0]).mean(0)
