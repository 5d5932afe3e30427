"""What draws from a posterior over an `EnsembleMLP` of one member have in common, and the variational posterior."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

from mbrl_gym.nets.ensemble_mlp import EnsembleMLP


def run_draws(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """Return the outputs [K, N, out] of K perceptrons, SiLU between their layers.

    Args:
        x: [N, in], which goes to all of them, or [K, N, in].
        weights: of each layer [K, fan_in, fan_out].
        biases: of each layer [K, 1, fan_out].
    """
    x = x.expand(len(weights[0]), *x.shape) if x.dim() == 2 else x
    last = len(weights) - 1
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        x = torch.baddbmm(bias, x, weight)
        if i < last:
            x = silu(x, inplace=not x.requires_grad)
    return x


class VariationalMLP(nn.Module):
    """A perceptron whose weights and biases are independent normal distributions.

    The deviation is softplus(rho), for a weight in units of 1 / sqrt(fan_in). The prior is a mixture of two zero-mean
    normal distributions in the same units, so that wider layers are a priori no larger functions.

    Sources: Blundell et al. 2015 (the mixture and its values recalled; the sampled weights' cost as in
    piEsposito/blitz-bayesian-deep-learning ``blitz/modules/weight_sampler.py``); Kingma et al. 2015 for sampling
    activations in place of weights, as in JavierAntoran/Bayesian-Neural-Networks
    ``src/Bayes_By_Backprop_Local_Reparametrization/model.py``. The units are ours: Neal's (1996) scaling of priors.

    Args:
        sizes: widths of input, hidden layers and output.
        share: pi, the weight of the prior's first component; 1: the only one.
        deviations: of the prior's two components, in units of 1 / sqrt(fan_in).
        initial: deviation of the posterior at the start, in the same units.
    """

    def __init__(self, sizes: tuple[int, ...], share: float, deviations: tuple[float, float], initial: float) -> None:
        super().__init__()
        self.mean = EnsembleMLP(1, sizes)
        self._share, self._deviations = share, deviations
        fans = [weight.shape[1] for weight in self.mean.weights]
        self._units = [fan**-0.5 for fan in fans]
        rho = [math.log(math.expm1(initial)) for _ in fans]
        self.weight_rho = nn.ParameterList(
            [nn.Parameter(torch.full_like(w, r)) for w, r in zip(self.mean.weights, rho, strict=True)]
        )
        self.bias_rho = nn.ParameterList(
            [nn.Parameter(torch.full_like(b, r)) for b, r in zip(self.mean.biases, rho, strict=True)]
        )

    def layers(self) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Return each layer's weights' mean and deviation [1, fan_in, fan_out], and its biases' [1, 1, fan_out]."""
        return [
            (weight, softplus(weight_rho) * unit, bias, softplus(bias_rho))
            for weight, weight_rho, bias, bias_rho, unit in zip(
                self.mean.weights, self.weight_rho, self.mean.biases, self.bias_rho, self._units, strict=True
            )
        ]

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs [1, N, out] of inputs [N, in], each row with weights of its own.

        A layer's outputs are drawn from what the weights' distribution makes of its inputs: less noise in the gradient
        than a draw of the weights for all rows. Noise is torch's global generator's.
        """
        x = x[None]
        last = len(self.weight_rho) - 1
        for i, (weight, deviation, bias, bias_deviation) in enumerate(self.layers()):
            mean = torch.baddbmm(bias, x, weight)
            variance = torch.baddbmm(bias_deviation.square(), x.square(), deviation.square())
            x = mean + variance.sqrt() * torch.randn_like(mean)
            x = silu(x) if i < last else x
        return x

    def divergence(self) -> Tensor:
        """Return [], the Kullback-Leibler divergence of the posterior from the prior, in nats.

        Exact where the prior has one component; otherwise its expected log density is estimated with one draw of the
        weights.
        """
        total = torch.zeros((), device=self.weight_rho[0].device)
        for unit, (weight, deviation, bias, bias_deviation) in zip(self._units, self.layers(), strict=True):
            total = total + self._divergence(weight / unit, deviation / unit)
            total = total + self._divergence(bias, bias_deviation)
        return total

    def _divergence(self, mean: Tensor, deviation: Tensor) -> Tensor:
        first, second = self._deviations
        if self._share == 1.0:
            square = (mean.square() + deviation.square()) / first**2
            return 0.5 * (square - 1.0).sum() - (deviation / first).log().sum()
        drawn = mean + deviation * torch.randn_like(mean)
        parts = [
            math.log(share) - math.log(scale) - 0.5 * (drawn / scale).square()
            for share, scale in ((self._share, first), (1.0 - self._share, second))
        ]
        return -0.5 * mean.numel() - deviation.log().sum() - torch.logaddexp(*parts).sum()
