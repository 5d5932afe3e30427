"""FrozenPosterior: a Bayesian network of dynamics as it is now, its draws laid out once for prediction alone."""

from typing import Any

import torch
from torch import Tensor

from mbrl_gym.models.frozen_mlp import FrozenMLP
from mbrl_gym.models.posterior_network import PosteriorNetwork
from mbrl_gym.nets.ensemble_mlp import EnsembleMLP
from mbrl_gym.nets.precision import multiplies_in_bfloat16


class FrozenPosterior(PosteriorNetwork):
    """Predicts what its source did when it was made, faster; there is nothing to train.

    Args:
        source: the model to copy.
        bfloat16_rows: rows a draw from which layers run in bfloat16, where the device multiplies in it; None: never.
    """

    def __init__(self, source: PosteriorNetwork, bfloat16_rows: int | None) -> None:
        super().__init__(source.observation_space, source.action_space, source.config)
        self._source_class = type(source)
        self._make_termination_net()
        mine, theirs = self.state_dict(), source.state_dict()
        super().load_state_dict({name: theirs[name] for name in mine})
        self.to(source.device).eval().requires_grad_(False)
        draws = EnsembleMLP(self.config.draws, self.sizes).to(source.device).requires_grad_(False)
        for into, found in zip((draws.weights, draws.biases), source._drawn(), strict=True):
            for parameter, value in zip(into, found, strict=True):
                parameter.copy_(value.detach())
        one = torch.ones(self.sizes[-1], device=source.device)
        rows = bfloat16_rows if multiplies_in_bfloat16(source.device) else None
        self._layers = FrozenMLP(draws, self.input_mean, self.input_std, one, torch.zeros_like(one), None, rows)

    def frozen(self, bfloat16_rows: int | None = None) -> "FrozenPosterior":
        """Return itself."""
        return self

    def twin(self) -> PosteriorNetwork:
        """Return an untrained model of the source's class."""
        return self._source_class(self.observation_space, self.action_space, self.config)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load nothing.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("a frozen model cannot be changed; load into the model itself, then call its frozen()")

    def _raw(self, x: Tensor, bound: bool) -> Tensor:
        """Return outputs (mean, log variance) of the draws, standardised, from raw inputs."""
        return self._layers(x)

    def _drawn(self) -> tuple[list[Tensor], list[Tensor]]:
        raise RuntimeError("a frozen model has no weights to draw; ask the model that it was made of")

    def _fresh(self, inputs: Tensor) -> Tensor:
        raise RuntimeError("a frozen model cannot be trained; train the model that it was made of")
