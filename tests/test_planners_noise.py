"""The planners' random numbers, and what they make of candidates: moments, spectra and hand-computed elites."""

import numpy as np
import pytest
import torch

from mbrl_gym.planners.noise import coloured_noise, correlated_noise, truncated_normal
from mbrl_gym.planners.sequences import best_candidates, moments, shift

CPU = torch.device("cpu")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_truncated_normal_is_inside_and_of_the_right_moments():
    x = truncated_normal((400_000,), seeded(), CPU)
    assert float(x.abs().max()) <= 2
    assert float(x.abs().max()) > 1.999
    assert float(x.mean()) == pytest.approx(0, abs=0.005)
    assert float(x.std()) == pytest.approx(0.87962, abs=0.003)
    assert float((x.abs() < 1).float().mean()) == pytest.approx(0.682689 / 0.954500, abs=0.003)
    assert float(truncated_normal((100_000,), seeded(), CPU, bound=0.5).abs().max()) <= 0.5


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0, 3.0])
def test_coloured_noise_has_the_asked_slope(exponent):
    x = coloured_noise((3000, 64), exponent, seeded(), CPU).double().numpy()
    power = (np.abs(np.fft.rfft(x, axis=1)) ** 2).mean(0)[1:]  # 1/64 .. 32/64
    slope = np.polyfit(np.log(np.arange(1, 33)), np.log(power), 1)[0]
    assert slope == pytest.approx(-exponent, abs=0.05)


@pytest.mark.parametrize("exponent", [0.0, 2.0])
@pytest.mark.parametrize("length", [1, 2, 7, 8])
def test_coloured_noise_has_unit_variance_at_every_step(length, exponent):
    x = coloured_noise((40_000, length), exponent, seeded(), CPU)
    assert x.shape == (40_000, length)
    torch.testing.assert_close(x.std(0), torch.ones(length), atol=0.02, rtol=0)
    torch.testing.assert_close(x.mean(0), torch.zeros(length), atol=0.03, rtol=0)
    if exponent == 0:
        torch.testing.assert_close(torch.corrcoef(x.T).reshape(length, -1), torch.eye(length), atol=0.03, rtol=0)


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.9])
def test_correlated_noise_is_stationary(correlation):
    x = correlated_noise((60_000, 6), correlation, seeded(), CPU)
    step = torch.arange(6)
    wanted = torch.tensor(correlation) ** (step[:, None] - step).abs()
    torch.testing.assert_close(torch.cov(x.T), wanted, atol=0.03, rtol=0)


def test_the_best_candidates_come_first_and_only_finite_ones_count():
    candidates = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])[:, :, None, None]
    inf = float("inf")
    returns = torch.tensor([[-3.0, -1.0, -inf, -2.0], [-inf, -inf, -5.0, -inf]])
    elites, counts = best_candidates(candidates, returns, 3)
    assert elites[0].flatten().tolist() == [2, 4, 1]
    assert counts.tolist() == [[True, True, True], [True, False, False]]
    assert float(elites[1, 0]) == 7
    mean, variance = moments(elites, counts)
    torch.testing.assert_close(mean.flatten(), torch.tensor([7 / 3, 7.0]))
    torch.testing.assert_close(variance.flatten(), torch.tensor([14 / 9, 0.0]))  # biased
    mean, variance = moments(elites, torch.zeros_like(counts))
    assert mean.abs().sum() == variance.abs().sum() == 0


def test_a_sequence_is_moved_by_one_step():
    moved = shift(torch.tensor([[[1.0], [2.0], [3.0]]]), torch.tensor([[[9.0]]]))
    assert moved.flatten().tolist() == [2, 3, 9]
