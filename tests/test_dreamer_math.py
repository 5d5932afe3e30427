"""Returns, bins, distributions and the optimiser of the Dreamer family.

The golden numbers come from running danijar/dreamerv3 at e3f0224 with jax on a CPU: its TwoHot, OneHot, Normal,
Normalize, lambda_return, clip_by_agc, scale_by_rms and scale_by_momentum.
"""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mbrl_gym.distributions import BoundedNormal, TwoHot, UnimixCategorical, symexp_bins
from mbrl_gym.laprop import LaProp
from mbrl_gym.math import PercentileScale, lambda_return, symexp, symlog

REWARD = torch.tensor([[0.0, 1.0, -2.0, 0.5, 3.0], [0.0, 0.0, 1.0, 0.0, 2.0]])
VALUE = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0], [0.5, -0.5, 1.5, 2.5, -1.0]])


@settings(deadline=None)
@given(st.floats(-20.0, 20.0))
def test_symexp_undoes_symlog(x):
    number = symexp(torch.tensor(x, dtype=torch.float64))
    torch.testing.assert_close(symlog(number), torch.tensor(x, dtype=torch.float64))


# Returns


def test_the_lambda_return_of_a_replay_with_ends_is_the_references():
    terminal = torch.tensor([[0.0, 0.0, 0.0, 1.0, 0.0], [0.0] * 5])
    is_last = torch.tensor([[False, False, False, True, False], [False, False, True, False, False]])
    found = lambda_return(REWARD, VALUE, 1 - terminal, 0.997, 0.95, is_last)
    wanted = [
        [-0.2044072151184082, -1.3768750429153442, 0.5, 7.985000133514404],
        [2.3386878967285156, 2.495500087738037, 1.0746164321899414, 1.003000020980835],
    ]
    torch.testing.assert_close(found, torch.tensor(wanted))


def test_the_lambda_return_of_imagination_is_the_references():
    continuation = torch.tensor([[1.0, 0.9, 0.5, 0.99, 1.0], [0.2, 0.8, 1.0, 1.0, 0.3]])
    wanted = [
        [2.7832846641540527, 1.98045015335083, 8.222000122070312, 8.0],
        [2.0532801151275635, 2.7280001640319824, 1.7400000095367432, 1.7000000476837158],
    ]
    torch.testing.assert_close(lambda_return(REWARD, VALUE, continuation), torch.tensor(wanted))


def test_lambda_is_between_one_step_and_the_whole_sequence():
    alive = torch.ones_like(REWARD)
    one_step = REWARD[:, 1:] + 0.9 * VALUE[:, 1:]
    torch.testing.assert_close(lambda_return(REWARD, VALUE, alive, 0.9, 0.0), one_step)
    powers = 0.9 ** torch.arange(4)
    whole = (REWARD[:, 1:] * powers).sum(1) + 0.9**4 * VALUE[:, -1]
    torch.testing.assert_close(lambda_return(REWARD, VALUE, alive, 0.9, 1.0)[:, 0], whole)


def test_nothing_leaks_across_the_end_of_an_episode():
    """What comes behind the last row of an episode changes no return before it."""
    alive, is_last = torch.ones_like(REWARD), torch.zeros_like(REWARD, dtype=torch.bool)
    is_last[:, 2] = True
    changed = REWARD.clone()
    changed[:, 3:] += 100.0
    before, after = (lambda_return(r, VALUE, alive, 0.9, 0.95, is_last) for r in (REWARD, changed))
    assert torch.equal(before[:, :2], after[:, :2])
    assert not torch.equal(before[:, 2:], after[:, 2:])


def test_bad_returns_are_refused():
    with pytest.raises(ValueError, match=r"reward must be \[B, T\] with T of at least 2, got \(2, 1\)"):
        lambda_return(REWARD[:, :1], VALUE[:, :1], VALUE[:, :1])
    with pytest.raises(ValueError, match=r"continuation must have the shape \(2, 5\) of reward, got \(2, 4\)"):
        lambda_return(REWARD, VALUE, VALUE[:, 1:])


def test_the_scale_of_returns_is_the_references():
    scale = PercentileScale()
    assert scale.scale == 1.0
    scale.update(torch.arange(101.0)[torch.randperm(101)])
    torch.testing.assert_close(scale.low, torch.tensor(0.04999999701976776))
    assert scale.scale == 1.0
    scale.update(torch.arange(101.0).reshape(1, 101) * 1000)
    torch.testing.assert_close(scale.low, torch.tensor(50.04949951171875))
    torch.testing.assert_close(scale.scale, torch.tensor(900.8909912109375))


@pytest.mark.parametrize("change", [{"rate": 0.5}, {"low": 40.0}, {"high": 60.0}, {"least": 5000.0}])
def test_every_number_of_the_scale_has_an_effect(change):
    plain, changed = PercentileScale(), PercentileScale(**change)
    for scale in (plain, changed):
        scale.update(torch.arange(101.0) * 1000)
    assert plain.scale != changed.scale


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": 0.0}, "rate must be above 0"),
        ({"low": 96.0}, "low below high, got 96.0 and 95.0"),
        ({"least": 0.0}, "least must be positive"),
    ],
)
def test_bad_scales_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        PercentileScale(**change)


def test_a_percentile_lies_between_its_neighbours_as_numpy_has_it():
    x = torch.randn(37, generator=torch.Generator().manual_seed(0))
    scale = PercentileScale(rate=1.0, low=12.5, high=77.0)
    scale.update(x)
    wanted = np.percentile(x.numpy(), [12.5, 77.0])
    np.testing.assert_allclose([float(scale.low), float(scale.high)], wanted, rtol=1e-5)


# A number over bins

LOGITS = torch.sin(torch.arange(255) * 0.37)[None] * torch.tensor([[0.0], [1.0], [3.0]])
TARGETS = [0.0, 0.3, -7.25, 1e3, 5e8, -6e8]


def test_the_bins_are_the_references():
    bins = symexp_bins()
    wanted = {
        0: -485165184.0,
        1: -414473568.0,
        63: -23829.94140625,
        120: -2.0112693309783936,
        126: -0.17055758833885193,
        127: 0.0,
        128: 0.17055758833885193,
        200: 98326.8203125,
        254: 485165184.0,
    }
    torch.testing.assert_close(bins[list(wanted)], torch.tensor(list(wanted.values())), rtol=2e-6, atol=0)
    for count in (255, 254, 3):
        assert len(symexp_bins(count)) == count
        assert torch.equal(symexp_bins(count), -symexp_bins(count).flip(0))
    with pytest.raises(ValueError, match="count must be at least 3 bins, got 2"):
        symexp_bins(2)


def test_the_mean_is_the_references_and_exactly_zero_at_the_start():
    found = TwoHot(LOGITS, symexp_bins()).mean
    assert found[0] == 0.0
    torch.testing.assert_close(found[1:], torch.tensor([-7789172.5, -12508651.0]), rtol=2e-6, atol=0)
    for count in (254, 255):
        assert (TwoHot(torch.full((1000, count), 0.3), symexp_bins(count)).mean == 0).all()


def test_the_loss_is_the_references():
    wanted = [
        [5.541263580322266] * 6,
        [
            5.643348693847656,
            6.228447914123535,
            6.693446159362793,
            5.401888847351074,
            6.04142951965332,
            5.776838779449463,
        ],
        [
            6.725159168243408,
            8.480456352233887,
            9.875450134277344,
            6.000779151916504,
            7.919402122497559,
            7.125629425048828,
        ],
    ]
    found = TwoHot(LOGITS[:, None].expand(-1, 6, -1), symexp_bins()).loss(torch.tensor(TARGETS).expand(3, 6))
    torch.testing.assert_close(found, torch.tensor(wanted), rtol=1e-5, atol=1e-5)


@settings(deadline=None)
@given(st.floats(-1e6, 1e6))
def test_the_best_distribution_of_a_number_has_that_number_as_its_mean(x):
    """The gradient of the loss is the prediction less the target's two-hot, so the two-hot can be read from it."""
    bins = symexp_bins().double()
    logits = torch.zeros(1, 255, requires_grad=True)
    TwoHot(logits, bins.float()).loss(torch.tensor([x])).sum().backward()
    target = 1 / 255 - logits.grad[0].double()
    assert ((target > 1e-6).sum()) <= 2
    assert float((target * bins)[target > 1e-6].sum()) == pytest.approx(x, rel=1e-3, abs=1e-3)


def test_a_number_of_other_bins_is_refused():
    with pytest.raises(ValueError, match=r"logits must end with the 255 bins, got \(2, 41\)"):
        TwoHot(torch.zeros(2, 41), symexp_bins())
    with pytest.raises(ValueError, match=r"target must have the shape \(2,\), got \(2, 1\)"):
        TwoHot(torch.zeros(2, 255), symexp_bins()).loss(torch.zeros(2, 1))


# Classes

CLASSES = torch.tensor([[[0.0, 1.0, 2.0], [3.0, -1.0, 0.0]], [[0.0, 0.0, 0.0], [10.0, 0.0, -10.0]]])
OTHERS = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], [[5.0, 0.0, -5.0], [0.0, 0.0, 0.0]]])


def test_divergence_entropy_and_log_probability_are_the_references():
    found, others = UnimixCategorical(CLASSES), UnimixCategorical(OTHERS)
    torch.testing.assert_close(found.kl(others).sum(-1), torch.tensor([1.8176472187042236, 3.392803907394409]))
    torch.testing.assert_close(found.entropy().sum(-1), torch.tensor([1.1332862377166748, 1.1435377597808838]))
    one_hot = torch.eye(3)[torch.tensor([[2, 0], [1, 0]])]
    torch.testing.assert_close(
        found.log_prob(one_hot).sum(-1), torch.tensor([-0.48495209217071533, -1.1053465604782104])
    )


def test_the_straight_through_gradient_is_the_references():
    logits = CLASSES.clone().requires_grad_()
    sample = UnimixCategorical(logits).sample(torch.Generator().manual_seed(0))
    (sample * torch.arange(12).reshape(2, 2, 3) * 0.1).sum().backward()
    wanted = [
        [
            [-0.014039893634617329, -0.01393626444041729, 0.027976160869002342],
            [-0.010230226442217827, 0.0015102616744115949, 0.00871996395289898],
        ],
        [
            [-0.03299999609589577, -1.0095536850940334e-08, 0.033000003546476364],
            [-4.494562745094299e-06, 4.494188033277169e-06, 4.080807913808826e-10],
        ],
    ]
    torch.testing.assert_close(logits.grad, torch.tensor(wanted), rtol=1e-4, atol=5e-8)


def test_samples_are_one_hots_as_often_as_they_are_probable_and_the_floor_is_kept():
    logits = torch.tensor([8.0, 0.0, 1.0]).expand(200_000, 3)
    dist = UnimixCategorical(logits, 0.3)
    sample = dist.sample(torch.Generator().manual_seed(0))
    assert torch.equal(sample.sum(-1), torch.ones(200_000))
    torch.testing.assert_close(sample.mean(0), dist.probabilities[0], atol=4e-3, rtol=0)
    assert (dist.probabilities >= 0.1).all()
    assert UnimixCategorical(torch.tensor([200.0, 0.0]), 0.0).entropy() == 0.0
    assert torch.equal(dist.mode[0], torch.tensor([1.0, 0.0, 0.0]))
    with pytest.raises(ValueError, match="unimix must be at least 0 and below 1, got 1"):
        UnimixCategorical(logits, 1)


# Actions


def test_the_bounded_gaussian_is_the_references():
    mean, deviation = torch.tensor([[0.0], [1.0], [-3.0]]), torch.tensor([[0.0], [-2.0], [4.0]])
    found = BoundedNormal(mean, deviation)
    torch.testing.assert_close(found.deviation[:, 0], torch.tensor([0.8927173018455505, 0.55, 0.9977746605873108]))
    wanted = torch.tensor([-0.9623023867607117, -0.43421149253845215, -0.9212486147880554])
    torch.testing.assert_close(found.log_prob(torch.tensor([[0.5], [0.5], [-0.9]])), wanted)
    entropy = torch.tensor([1.3054533004760742, 0.8211015462875366, 1.4167107343673706])
    torch.testing.assert_close(found.entropy(), entropy)


def test_log_probabilities_add_up_over_dimensions_and_samples_follow_them():
    dist = BoundedNormal(torch.tensor([0.5, -1.0]).expand(100_000, 2), torch.tensor([0.0, -3.0]), 0.2, 0.8)
    single = [BoundedNormal(torch.tensor([m]), torch.tensor([d]), 0.2, 0.8) for m, d in ((0.5, 0.0), (-1.0, -3.0))]
    action = torch.tensor([0.1, 0.2])
    parts = sum(d.log_prob(a[None]) for d, a in zip(single, action, strict=True))
    torch.testing.assert_close(dist.log_prob(action)[0], parts)
    sample = dist.sample(torch.Generator().manual_seed(0))
    torch.testing.assert_close(sample.mean(0), dist.mode[0], atol=6e-3, rtol=0)
    torch.testing.assert_close(sample.std(0), dist.deviation, atol=6e-3, rtol=0)
    with pytest.raises(ValueError, match=r"least must be positive and below most = 0\.1, got 0\.5"):
        BoundedNormal(action, action, 0.5, 0.1)


# The optimiser

GRADIENTS = [
    ([[10.0, -1.0], [0.1, 2.0]], [1.0, -1e-5]),
    ([[-0.01, 0.02], [0.3, 0.0]], [1e-6, 2e-5]),
    ([[0.5, 0.5], [-0.5, 0.1]], [0.0, 0.0]),
]


def parameters():
    return [torch.nn.Parameter(torch.tensor([[1.0, -2.0], [0.5, 0.0]])), torch.nn.Parameter(torch.tensor([1e-4, 0.0]))]


def descend(optimizer, params, gradients=GRADIENTS):
    for step in gradients:
        for parameter, gradient in zip(params, step, strict=True):
            parameter.grad = None if gradient is None else torch.tensor(gradient)
        optimizer.step()
    return [p.detach().clone() for p in params]


def test_three_steps_are_the_references():
    params = parameters()
    optimizer = LaProp(params, lr=1e-2, warmup=2)
    first = descend(optimizer, params, GRADIENTS[:1])
    assert all(torch.equal(a, b) for a, b in zip(first, parameters(), strict=True))  # the rate begins at zero
    second = descend(optimizer, params, GRADIENTS[1:2])
    wanted = [[0.9976871013641357, -1.9986951351165771], [0.49391186237335205, -0.002368404995650053]]
    torch.testing.assert_close(second[0], torch.tensor(wanted), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(
        second[1], torch.tensor([-0.0022808131761848927, -0.0013522417284548283]), rtol=1e-4, atol=0
    )
    third = descend(optimizer, params, GRADIENTS[2:])
    wanted = [[0.9915328621864319, -2.003338098526001], [0.4913099706172943, -0.008592914789915085]]
    torch.testing.assert_close(third[0], torch.tensor(wanted), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(
        third[1], torch.tensor([-0.005285381339490414, -0.003058760892599821]), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize(
    "change",
    [
        {"lr": 1e-3},
        {"betas": (0.5, 0.999)},
        {"betas": (0.9, 0.9)},
        {"eps": 0.1},
        {"clip": 0.01},
        {"clip": None},
        {"warmup": 5},
    ],
)
def test_every_hyperparameter_has_an_effect(change):
    plain, changed = ({"lr": 1e-2, "warmup": 0}, {"lr": 1e-2, "warmup": 0, **change})
    found = []
    for arguments in (plain, changed):
        params = parameters()
        found.append(descend(LaProp(params, **arguments), params))
    assert not torch.equal(found[0][0], found[1][0])


def test_a_parameter_without_a_gradient_moves_on_with_its_momentum():
    gradients = [([[1.0, 1.0], [1.0, 1.0]], [1.0, 1.0]), ([[1.0, 1.0], [1.0, 1.0]], None)]
    found = []
    for second in (None, [0.0, 0.0]):
        params = parameters()
        found.append(descend(LaProp(params, lr=1e-2, warmup=0), params, [gradients[0], (gradients[1][0], second)])[1])
    assert torch.equal(found[0], found[1])
    assert found[0][0] < 1e-4


def test_it_resumes_exactly():
    params, others = parameters(), parameters()
    optimizer = LaProp(params, lr=1e-2, warmup=4)
    descend(optimizer, params, GRADIENTS[:2])
    with torch.no_grad():
        for a, b in zip(others, params, strict=True):
            a.copy_(b)
    loaded = LaProp(others, lr=1.0)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # torch shares the tensors otherwise
    for a, b in zip(descend(optimizer, params), descend(loaded, others), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.0}, "lr must be positive, got 0.0"),
        ({"betas": (1.0, 0.9)}, "betas must be at least 0 and below 1"),
        ({"eps": 0.0}, "eps must be positive"),
        ({"clip": 0.0}, "clip must be positive, or None"),
        ({"warmup": -1}, "warmup must be at least 0 steps"),
    ],
)
def test_bad_hyperparameters_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        LaProp(parameters(), **change)
