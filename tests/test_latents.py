"""The stochastic states of an RSSM: what holds of both kinds, and what of one."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from mbrl_gym.models.latents import CategoricalLatent, GaussianLatent

LATENTS = [GaussianLatent(6), CategoricalLatent(4, 5)]
CPU = torch.device("cpu")


def outputs(latent, *shape, seed=0):
    return torch.randn(*shape, latent.outputs, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("latent", LATENTS, ids=["gaussian", "categorical"])
def test_noise_for_all_steps_at_once_makes_the_same_samples_as_step_by_step(latent):
    said, noise = outputs(latent, 7, 3), latent.noise((7, 3), CPU, torch.Generator().manual_seed(1))
    whole = latent.sample(latent.dist(said), noise)
    assert whole.shape == (7, 3, latent.size)
    for t in range(7):
        assert torch.equal(latent.sample(latent.dist(said[t]), noise[t]), whole[t])


@pytest.mark.parametrize("latent", LATENTS, ids=["gaussian", "categorical"])
def test_a_divergence_is_zero_from_itself_and_positive_from_others(latent):
    dist, other = latent.dist(outputs(latent, 8)), latent.dist(outputs(latent, 8, seed=1))
    assert latent.kl(dist, dist).abs().max() < 1e-5
    assert latent.kl(dist, other).min() > 0.01
    assert not torch.allclose(latent.kl(dist, other), latent.kl(other, dist))
    assert latent.entropy(dist).shape == (8,)


@pytest.mark.parametrize("latent", LATENTS, ids=["gaussian", "categorical"])
def test_a_divergence_is_the_mean_difference_of_log_probabilities(latent):
    said, other = outputs(latent), outputs(latent, seed=1)
    dist, second = latent.dist(said.expand(200_000, -1)), latent.dist(other)
    sample = latent.sample(dist, latent.noise((200_000,), CPU, torch.Generator().manual_seed(2)))
    if isinstance(latent, CategoricalLatent):
        sample = sample.unflatten(-1, (latent.groups, latent.classes))
    difference = dist.log_prob(sample) - second.log_prob(sample)
    difference = difference.sum(-1) if difference.dim() > 1 else difference
    assert float(difference.mean()) == pytest.approx(float(latent.kl(latent.dist(said), second)), rel=0.03)


@pytest.mark.parametrize("latent", LATENTS, ids=["gaussian", "categorical"])
def test_a_sample_has_a_gradient_and_the_mode_is_the_likeliest(latent):
    said = outputs(latent, 2).requires_grad_()
    dist = latent.dist(said)
    weight = torch.arange(latent.size, dtype=torch.float32)
    (latent.sample(dist, latent.noise((2,), CPU)) * weight).sum().backward()
    assert said.grad is not None
    assert bool((said.grad != 0).any(-1).all())
    likeliest = latent.mode(dist)
    for _ in range(20):
        sample = latent.sample(dist, latent.noise((2,), CPU))
        pair = [x if x.shape == dist.mode.shape else x.unflatten(-1, dist.mode.shape[-2:]) for x in (likeliest, sample)]
        assert (dist.log_prob(pair[0]) >= dist.log_prob(pair[1])).all()


def test_gaussians_are_torchs():
    latent = GaussianLatent(6)
    dist, other = latent.dist(outputs(latent, 8)), latent.dist(outputs(latent, 8, seed=1))
    mine, theirs = (Normal(d.mean, d.deviation) for d in (dist, other))
    torch.testing.assert_close(latent.kl(dist, other), kl_divergence(mine, theirs).sum(-1))
    torch.testing.assert_close(latent.entropy(dist), mine.entropy().sum(-1))
    x = torch.randn(8, 6)
    torch.testing.assert_close(dist.log_prob(x), mine.log_prob(x).sum(-1))


def test_deviations_have_a_floor():
    said = torch.full((1, 4), -50.0)
    assert torch.equal(GaussianLatent(2, least=0.25).dist(said).deviation, torch.full((1, 2), 0.25))
    assert GaussianLatent(2).dist(torch.zeros(1, 4)).deviation[0, 0] == pytest.approx(0.6931 + 0.1, abs=1e-4)


def test_unimix_bounds_the_divergence():
    said = torch.tensor([[100.0, 0.0]])
    free, floored = (CategoricalLatent(1, 2, unimix) for unimix in (0.0, 0.01))
    wrong = said.flip(-1)
    assert free.kl(free.dist(said), free.dist(wrong)) > 90
    assert floored.kl(floored.dist(said), floored.dist(wrong)) < 6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianLatent(0), "size must be positive, got 0"),
        (lambda: GaussianLatent(3, 0.0), r"least must be positive, got 0\.0"),
        (lambda: CategoricalLatent(0, 3), "groups must be positive"),
        (lambda: CategoricalLatent(3, -1), "classes must be positive, got -1"),
        (lambda: CategoricalLatent(3, 3, 1.0), "unimix must be at least 0 and below 1"),
    ],
)
def test_bad_sizes_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
