"""The nets of Bayesian models: draws side by side, variational weights and their divergence, SWAG's statistics."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import silu

from mbrl_gym.nets.posterior_mlp import VariationalMLP, run_draws
from mbrl_gym.nets.weight_statistics import WeightStatistics


def variational(
    share: float = 1.0, deviations: tuple[float, float] = (0.7, 0.1), initial: float = 0.3
) -> VariationalMLP:
    torch.manual_seed(0)
    net = VariationalMLP((4, 8, 3), share, deviations, initial)
    for bias in net.mean.biases:
        nn.init.normal_(bias)
    return net


def test_draws_equal_plain_perceptrons() -> None:
    torch.manual_seed(0)
    weights, biases = [torch.randn(3, 2, 5), torch.randn(3, 5, 4)], [torch.randn(3, 1, 5), torch.randn(3, 1, 4)]
    x = torch.randn(7, 2)
    plain = [silu(x @ weights[0][k] + biases[0][k]) @ weights[1][k] + biases[1][k] for k in range(3)]
    torch.testing.assert_close(run_draws(x, weights, biases), torch.stack(plain))
    own = torch.randn(3, 7, 2)
    expected = torch.stack([run_draws(own[k], weights, biases)[k] for k in range(3)])
    torch.testing.assert_close(run_draws(own, weights, biases), expected)


def test_deviations_begin_in_units_of_the_fan_in() -> None:
    for (_, deviation, _, bias_deviation), fan_in in zip(variational().layers(), (4, 8), strict=True):
        torch.testing.assert_close(deviation, torch.full_like(deviation, 0.3 / fan_in**0.5))
        torch.testing.assert_close(bias_deviation, torch.full_like(bias_deviation, 0.3))


def test_the_divergence_from_one_normal_distribution_is_exact() -> None:
    net = variational()
    expected = torch.zeros(())
    for (weight, deviation, bias, bias_deviation), fan_in in zip(net.layers(), (4, 8), strict=True):
        expected = expected + kl_divergence(Normal(weight, deviation), Normal(0.0, 0.7 / fan_in**0.5)).sum()
        expected = expected + kl_divergence(Normal(bias, bias_deviation), Normal(0.0, 0.7)).sum()
    torch.testing.assert_close(net.divergence(), expected)
    # by hand, of one weight: mean 1, deviation 2, prior deviation 2: log(2 / 2) + (4 + 1) / 8 - 1 / 2
    one = VariationalMLP((1, 1), 1.0, (2.0, 1.0), 2.0)
    nn.init.ones_(one.mean.weights[0]), nn.init.zeros_(one.mean.biases[0])
    assert one.divergence().item() == pytest.approx(0.125, abs=1e-6)


def test_the_divergence_from_a_mixture_is_unbiased() -> None:
    net = variational(share=0.4)
    torch.manual_seed(1)
    found = torch.stack([net.divergence() for _ in range(1000)]).detach()
    # the same by quadrature over each weight's distribution
    z = torch.linspace(-8, 8, 2001)
    mass = Normal(0.0, 1.0).log_prob(z).exp() * (z[1] - z[0])
    total = 0.0
    for (weight, deviation, bias, bias_deviation), fan_in in zip(net.layers(), (4, 8), strict=True):
        for mean, spread, unit in ((weight, deviation, fan_in**-0.5), (bias, bias_deviation, 1.0)):
            for m, s in zip(mean.flatten().tolist(), spread.flatten().tolist(), strict=True):
                w = m + s * z
                log_prior = torch.logaddexp(
                    math.log(0.4) + Normal(0.0, 0.7 * unit).log_prob(w),
                    math.log(0.6) + Normal(0.0, 0.1 * unit).log_prob(w),
                )
                total += ((Normal(m, s).log_prob(w) - log_prior) * mass).sum().item()
    assert found.mean().item() == pytest.approx(total, abs=4 * found.std().item() / len(found) ** 0.5)


def test_a_mixture_of_equal_components_is_one_normal_distribution() -> None:
    exact = variational().divergence().item()
    net = variational(share=0.5, deviations=(0.7, 0.7))
    torch.manual_seed(2)
    found = torch.stack([net.divergence() for _ in range(800)]).detach()
    assert found.mean().item() == pytest.approx(exact, abs=4 * found.std().item() / len(found) ** 0.5)


def test_drawn_activations_have_the_moments_of_drawn_weights() -> None:
    """One layer, where both are normal distributions."""
    torch.manual_seed(0)
    net = VariationalMLP((3, 2), 1.0, (1.0, 1.0), 0.5)
    nn.init.normal_(net.weight_rho[0]), nn.init.normal_(net.bias_rho[0])
    x = torch.tensor([[1.0, -2.0, 0.5]])
    drawn = net(x.expand(40_000, 3))[0].detach()  # rows draw independently
    ((weight, deviation, bias, bias_deviation),) = net.layers()
    mean = (x @ weight[0] + bias[0])[0]
    spread = ((x.square() @ deviation[0].square() + bias_deviation[0].square()).sqrt())[0]
    torch.testing.assert_close(drawn.mean(0), mean, atol=0.04, rtol=0.0)
    torch.testing.assert_close(drawn.std(0), spread, atol=0.0, rtol=0.02)
    correlation = torch.corrcoef(torch.stack([drawn[:-1, 0], drawn[1:, 0]]))[0, 1]
    assert abs(correlation) < 0.02


# ---- SWAG's statistics ----------------------------------------------------------------------------------------------


def visited(path: list[list[float]], rank: int) -> WeightStatistics:
    parameter = nn.Parameter(torch.zeros(2))
    statistics = WeightStatistics([parameter], rank)
    for values in path:
        parameter.data = torch.tensor(values)
        statistics._parameters[0] = parameter
        statistics.add()
    return statistics


def test_two_parameters_by_hand() -> None:
    statistics = visited([[1.0, 0.0], [3.0, 2.0], [5.0, -2.0]], rank=2)
    assert statistics.mean[0].tolist() == pytest.approx([3.0, 0.0])
    assert statistics.variance[0].tolist() == pytest.approx([8 / 3, 8 / 3])
    # deviations from the mean so far, which was (2, 1) and then (3, 0); the first is forgotten
    assert [column[0].tolist() for column in statistics._deviations] == [
        pytest.approx([1.0, 1.0]),
        pytest.approx([2.0, -2.0]),
    ]


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_draws_have_the_covariance_of_swag(scale: float) -> None:
    statistics = visited([[1.0, 0.0], [3.0, 2.0], [5.0, -2.0], [6.0, 0.0]], rank=3)
    columns = torch.stack([column[0] for column in statistics._deviations])  # [K, 2]
    expected = scale * (torch.diag(statistics.variance[0]) + columns.T @ columns / 2)
    torch.manual_seed(0)
    (drawn,) = statistics.draw(200_000, scale)
    torch.testing.assert_close(torch.cov(drawn.T), expected, rtol=0.02, atol=0.02)
    torch.testing.assert_close(drawn.mean(0), torch.zeros(2), rtol=0.0, atol=0.03)


def test_parameters_deviate_together() -> None:
    """Weights of different layers share the low-rank part's noise."""
    one, other = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1, 1))
    statistics = WeightStatistics([one, other], 2)
    for value in (0.0, 1.0, 2.0, 3.0):
        one.data.fill_(value), other.data.fill_(-value)
        statistics.add()
    torch.manual_seed(0)
    first, second = statistics.draw(20_000, 0.5)
    assert first.shape == (20_000, 1)
    assert second.shape == (20_000, 1, 1)
    columns: Tensor = torch.tensor([1.0, 1.5])  # 2 - 1 and 3 - 1.5
    common = columns.square().sum()
    expected = -(common / (common + 1.25)).item()
    assert torch.corrcoef(torch.stack([first[:, 0], second[:, 0, 0]]))[0, 1].item() == pytest.approx(expected, abs=0.02)


def test_small_deviations_of_large_weights_are_not_lost() -> None:
    statistics = visited([[100.0, 0.0], [100.001, 0.0], [100.002, 0.0]], rank=2)
    assert statistics.variance[0][0].item() == pytest.approx(2e-6 / 3, rel=0.05)
