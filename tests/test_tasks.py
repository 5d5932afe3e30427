"""Known rewards and terminations against the real environments."""

import warnings
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch

from mbrl_gym.tasks import known_reward, known_tasks, known_termination, register_reward, register_termination
from mbrl_gym.tasks import table as registries
from mbrl_gym.tasks.locomotion import ANT, HALF_CHEETAH, HALF_CHEETAH_V4, HOPPER, WALKER2D

WALKERS = ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5")
ROBOTS = {robot.name: robot for robot in (HALF_CHEETAH, HALF_CHEETAH_V4, HOPPER, WALKER2D, ANT)}
WITH_POSITION = {"exclude_current_positions_from_observation": False}
EXACT = [
    *((name, {}) for name in ("Pendulum-v1", "CartPole-v0", "CartPole-v1", "Reacher-v4", "Reacher-v5", "Pusher-v5")),
    *((name, {}) for name in ("InvertedPendulum-v4", "InvertedPendulum-v5")),
    *((name, WITH_POSITION) for name in ("HalfCheetah-v4", "HalfCheetah-v5", "Hopper-v5", "Walker2d-v5")),
]
# what the observation does not tell: positions that lag within the last substep; velocities beyond a clip
NEARLY = {"Ant-v5": (WITH_POSITION, 0.01, 0.2), "InvertedDoublePendulum-v5": ({}, 0.002, 0.3)}


def make(name, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # v0 and v4 are old
        return gym.make(name, **kwargs).unwrapped


def put(env, rng):
    """Set a state far from the start, and return its observation."""
    name = type(env).__name__
    if name == "PendulumEnv":
        env.state = rng.uniform([-7, -8], [7, 8])
    elif name == "CartPoleEnv":
        env.state, env.steps_beyond_terminated = rng.uniform(-1, 1, 4) * [2.5, 3, 0.22, 3], None
        return env.state.astype(np.float32)
    else:
        q, v = env.init_qpos + 0.4 * rng.normal(size=env.model.nq), 3 * rng.normal(size=env.model.nv)
        if env.model.nq > 4 and name != "ReacherEnv" and name != "PusherEnv":
            q[0] += rng.uniform(-50, 50)  # along the track
        env.set_state(q, v)
    return env._get_obs()


def transitions(name, steps, far=True, kick=0.0, hold=1, length=20, **kwargs):
    """Return obs, action, next_obs, reward, terminated of random actions held for ``hold`` steps; half begin far."""
    env, rng, rows = make(name, **kwargs), np.random.default_rng(0), []
    env.action_space.seed(0)
    obs, t, ended = None, 0, True
    while len(rows) < steps:
        if ended or t % length == 0:
            obs, _ = env.reset(seed=t)
            if kick:
                env.set_state(env.data.qpos, np.r_[rng.uniform(-kick, kick), env.data.qvel[1:]])
                obs = env._get_obs()
        if far and t % 2:
            obs = put(env, rng)
        if t % hold == 0:
            action = env.action_space.sample()
            if hold > 1:
                action = np.sign(action)
        after, reward, ended, _, _ = env.step(action)
        rows.append((np.array(obs), np.array(action), np.array(after), reward, ended))
        obs, t = after, t + 1
    obs, action, after, reward, ended = (torch.as_tensor(np.array(column)) for column in zip(*rows, strict=True))
    return obs, action, after, reward.double(), ended


def tolerance(name, obs, reward):
    """Float32 keeps 24 bits: of the terms of the reward, and of the positions, whose difference is divided by dt."""
    bound = 1e-5 * (1 + reward.abs())
    robot = {"HalfCheetah-v4": 0.05, "HalfCheetah-v5": 0.05, "Hopper-v5": 0.008, "Walker2d-v5": 0.008}.get(name)
    return bound if robot is None else bound + (obs[:, 0].abs() + 1) * 2.0**-23 / robot


@pytest.mark.parametrize(("name", "kwargs"), EXACT)
def test_exact_in_float64_and_float32(name, kwargs):
    obs, action, after, reward, ended = transitions(name, 400, **kwargs)
    ours = known_reward(name)(obs, action, after)
    assert ours.shape == reward.shape
    assert ours.dtype == torch.float32
    exact = 1e-6 * (1 + reward.abs()) if obs.dtype == torch.float64 else tolerance(name, obs, reward)
    assert ((ours - reward).abs() <= exact).all()
    rounded = known_reward(name)(obs.float(), action, after.float())
    assert ((rounded - reward).abs() <= tolerance(name, obs, reward)).all()
    ends = known_termination(name)(obs, action, after)
    assert ends.dtype == torch.bool
    assert torch.equal(ends, ended)
    assert torch.equal(known_termination(name)(obs.float(), action, after.float()), ended)
    if name not in ("Pendulum-v1", "Reacher-v4", "Reacher-v5", "Pusher-v5", "HalfCheetah-v4", "HalfCheetah-v5"):
        assert 0.05 < ended.float().mean() < 0.95


@pytest.mark.parametrize("name", NEARLY)
def test_nearly_exact(name):
    kwargs, mean, worst = NEARLY[name]
    obs, action, after, reward, ended = transitions(name, 1500, far=False, **kwargs)
    assert torch.equal(known_termination(name)(obs, action, after), ended)
    error = (known_reward(name)(obs, action, after) - reward).abs()
    assert error.mean() < mean
    assert error.max() < worst


@pytest.mark.parametrize(("name", "kwargs"), [(n, WITH_POSITION) for n in WALKERS] + [("Humanoid-v5", WITH_POSITION)])
def test_terminations_for_both_widths(name, kwargs):
    obs, action, after, _, ended = transitions(name, 150 if name == "Humanoid-v5" else 300, **kwargs)
    hidden = 2 if name in ("Ant-v5", "Humanoid-v5") else 1
    known = known_termination(name)
    assert torch.equal(known(obs, action, after), ended)
    assert torch.equal(known(obs[:, hidden:], action, after[:, hidden:]), ended)
    if name != "HalfCheetah-v5":
        assert ended.any()
        assert not ended.all()
    with pytest.raises(ValueError, match=rf"{after.shape[1] - hidden} or {after.shape[1]}, got 5"):
        known(obs[:, :5], action, after[:, :5])


def test_contacts_are_paid_for_and_ant_needs_them_in_the_observation():
    env = make("Ant-v5", **WITH_POSITION)
    obs, _ = env.reset(seed=0)
    costs = []
    for _ in range(100):
        action = env.action_space.sample()
        after, _, ended, _, info = env.step(action)
        x = torch.as_tensor(np.array([obs, after]))
        free = x[1:].clone()
        free[:, -78:] = 0
        known = known_reward("Ant-v5")
        a = torch.as_tensor(action)[None]
        costs.append((float(known(x[:1], a, x[1:]) - known(x[:1], a, free)), info["reward_contact"]))
        obs = env.reset()[0] if ended else after
    ours, theirs = np.array(costs).T
    assert theirs.min() < -1e-3
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    with pytest.raises(ValueError, match=r"width 107, got 29"):
        known_reward("Ant-v5")(torch.zeros(2, 29), torch.zeros(2, 8), torch.zeros(2, 29))


# mean absolute error of the ":velocity" reward on random and on fast steps: the table of mbrl_gym/tasks/locomotion.py
VELOCITY_ERRORS = {
    "HalfCheetah-v5": (0.061, 0.079),
    "Hopper-v5": (0.0015, 0.0044),
    "Walker2d-v5": (0.0077, 0.021),
    "Ant-v5": (0.059, 0.062),
}


@pytest.mark.parametrize("name", WALKERS)
def test_velocity_rewards_are_as_good_as_documented(name):
    for documented, steps, manner in zip(
        VELOCITY_ERRORS[name], (3000, 1000), ({}, {"kick": 5.0, "hold": 5}), strict=True
    ):
        obs, action, after, reward, _ = transitions(name, steps, far=False, length=200, **manner)
        error = (known_reward(f"{name}:velocity")(obs, action, after) - reward).abs().mean()
        assert 0.7 * documented < error < 1.3 * documented
        newer = replace(ROBOTS[name], new_velocity_weight=1.0).velocity_reward(obs, action, after)
        assert (newer - reward).abs().mean() > 2 * error  # both ends of the step are needed


@pytest.mark.parametrize("name", WALKERS)
def test_each_reward_refuses_the_other_observation(name):
    robot = ROBOTS[name]
    short, long = torch.zeros(2, robot.width - robot.hidden), torch.zeros(2, robot.width)
    action = torch.zeros(2, 8)
    with pytest.raises(ValueError, match=rf"width {robot.width}, got {robot.width - robot.hidden}.*") as refused:
        known_reward(name)(short, action, short)
    assert "exclude_current_positions_from_observation=False" in str(refused.value)
    assert f"{name}:velocity" in str(refused.value)
    with pytest.raises(ValueError, match=f"width {robot.width - robot.hidden}, got {robot.width}"):
        known_reward(f"{name}:velocity")(long, action, long)
    assert known_termination(f"{name}:velocity") == known_termination(name)


def test_cartpole_at_its_borders():
    env = make("CartPole-v1")
    env.reset(seed=0)
    known = known_termination("CartPole-v1")
    for index, border in ((0, 2.4), (2, 12 * 2 * np.pi / 360)):
        for sign in (-1, 1):
            for beyond in (-1e-3, -1e-6, 1e-6, 1e-3):  # float32 has steps of 2.4e-7 there
                state = np.zeros(4)
                state[index] = sign * (border + beyond)
                env.state, env.steps_beyond_terminated = state, None
                after, _, ended, _, _ = env.step(0)
                assert ended == (beyond > 0)
                after = torch.as_tensor(after)[None]
                assert bool(known(after, torch.zeros(1), after)) == ended


def test_pendulum_pays_for_what_was_before_and_clips_the_torque():
    obs = torch.tensor([[0.0, 1.0, 2.0], [-1.0, 0.0, 0.0]])  # a quarter turn at 2 rad/s; hanging
    action = torch.tensor([[5.0], [1.0]])
    ours = known_reward("Pendulum-v1")(obs, action, torch.full_like(obs, torch.nan))
    quarter = -((np.pi / 2) ** 2 + 0.1 * 4 + 0.001 * 4)
    torch.testing.assert_close(ours, torch.tensor([quarter, -(np.pi**2) - 0.001], dtype=torch.float32))


def test_a_lost_number_ends_where_the_environment_says_so():
    lost = torch.full((1, 12), torch.nan)
    assert known_termination("Hopper-v5")(lost, lost, lost)
    assert known_termination("InvertedPendulum-v5")(lost[:, :4], lost, lost[:, :4])
    posture = torch.zeros(1, 105)
    posture[:, 0] = 0.5
    assert not known_termination("Ant-v5")(posture, posture, posture)
    posture[:, 7] = torch.nan
    assert known_termination("Ant-v5")(posture, posture, posture)
    hopper = torch.tensor([[1.25] + [0.0] * 10])
    assert not known_termination("Hopper-v5")(hopper, hopper, hopper)
    hopper[:, 3] = 101.0  # a joint turned beyond the range of healthy states
    assert known_termination("Hopper-v5")(hopper, hopper, hopper)


BORDERS = [  # a number of the default observation, and where a robot that is healthy with ``base`` ceases to be
    ("Hopper-v5", 11, 1.25, 0, (0.7, None)),
    ("Hopper-v5", 11, 1.25, 1, (-0.2, 0.2)),
    ("Hopper-v5", 11, 1.25, 4, (-100.0, 100.0)),
    ("Walker2d-v5", 17, 1.25, 0, (0.8, 2.0)),
    ("Walker2d-v5", 17, 1.25, 1, (-1.0, 1.0)),
    ("Ant-v5", 105, 0.75, 0, (0.2, 1.0)),
    ("Humanoid-v5", 348, 1.4, 0, (1.0, 2.0)),
]


@pytest.mark.parametrize(("name", "width", "base", "index", "borders"), BORDERS)
def test_healthy_ranges_by_hand(name, width, base, index, borders):
    posture = torch.zeros(1, width)
    posture[:, 0] = base
    for border, inwards in zip(borders, (1, -1), strict=True):
        for step in (-1e-3, 1e-3):
            if border is not None:
                posture[:, index] = border + step
                assert bool(known_termination(name)(posture, posture, posture)) == (step * inwards < 0)
    posture[:, index] = 1e6
    assert bool(known_termination(name)(posture, posture, posture)) == (borders[1] is not None)


def test_double_pendulum_by_hand():
    sin, cos = 0.6, 0.8  # the first pole leans so; the second stands upright over it
    after = torch.tensor([[3.0, sin, -sin, cos, cos, 9.0, 2.0, 4.0, 0.0]])
    tip = 3.0 + 0.6 * sin, 0.6 * cos + 0.6
    expected = 10 - 0.01 * tip[0] ** 2 - (tip[1] - 2) ** 2 - 0.001 * 4 - 0.005 * 16
    ours = known_reward("InvertedDoublePendulum-v5")(after * torch.nan, torch.zeros(1, 1), after)
    torch.testing.assert_close(ours, torch.tensor([expected]))
    after[:, 3:5] = 0.5  # the tip is at 0.6 (0.5 + 0.25 + 0.36)
    assert known_termination("InvertedDoublePendulum-v5")(after, after, after)


WIDTHS = {"Pendulum-v1": 3, "Reacher-v4": 11, "Reacher-v5": 10, "Pusher-v5": 23, "InvertedDoublePendulum-v5": 9}


@pytest.mark.parametrize("name", [*WIDTHS, *WALKERS, *(f"{name}:velocity" for name in WALKERS)])
def test_gradients_are_finite_even_where_lengths_and_angles_vanish(name):
    robot = ROBOTS.get(name.partition(":")[0])
    width = WIDTHS.get(name) or robot.width - (robot.hidden if ":" in name else 0)
    torch.manual_seed(0)
    for spread in (0.0, 1e-20, 0.3):
        obs = (spread * torch.randn(2, width)).requires_grad_()
        after = (spread * torch.randn(2, width)).requires_grad_()
        action = torch.full((2, 2), 0.5, requires_grad=True)
        known_reward(name)(obs, action, after).sum().backward()
        gradients = [x.grad for x in (obs, action, after) if x.grad is not None]
        assert all(torch.isfinite(gradient).all() for gradient in gradients)
        if name != "InvertedDoublePendulum-v5":
            assert action.grad.abs().sum() > 0
        if spread == 0.3:
            assert any(gradient.abs().sum() > 0 for gradient in (obs.grad, after.grad) if gradient is not None)


def test_more_leading_axes_and_no_wait_for_the_device():
    obs, action = torch.rand(4, 5, 17, device="meta"), torch.rand(4, 5, 6, device="meta")  # meta has no values to read
    known = known_tasks()
    assert known["Humanoid-v5"] == ("termination",)
    assert known["Ant-v5"] == ("reward", "termination")
    for name, kinds in known.items():
        robot = ROBOTS.get(name.partition(":")[0])
        width = WIDTHS.get(name, 350 if name == "Humanoid-v5" else 4)
        if robot is not None:
            width = robot.width - (robot.hidden if ":" in name else 0)
        obs = torch.rand(4, 5, width, device="meta")
        for kind in kinds:
            value = (known_reward if kind == "reward" else known_termination)(name)(obs, action, obs)
            assert value.shape == (4, 5)
            assert value.device.type == "meta"
            assert value.dtype == (torch.float32 if kind == "reward" else torch.bool)


@pytest.mark.parametrize("name", ["Pendulum-v1", "CartPole-v1", "Reacher-v5", "Pusher-v5", "InvertedPendulum-v5"])
def test_a_wrong_width_is_named(name):
    known = known_termination(name) if name == "CartPole-v1" else known_reward(name)
    wrong = torch.zeros(2, 7)
    with pytest.raises(ValueError, match=r"width \d+, got 7 .*pass the environment's own observations"):
        known(wrong, torch.zeros(2, 1), wrong)


def test_registering(monkeypatch):
    monkeypatch.setattr(registries, "_REWARDS", dict(registries._REWARDS))
    monkeypatch.setattr(registries, "_TERMINATIONS", dict(registries._TERMINATIONS))
    for kind, known, register in (
        ("reward", known_reward, register_reward),
        ("termination", known_termination, register_termination),
    ):
        with pytest.raises(
            ValueError, match=rf"{kind} is known, got 'Mine-v0'; there are .*Pendulum-v1.*register_{kind}"
        ):
            known("Mine-v0")
        first, second = (lambda obs, action, after: after[:, 0]), (lambda obs, action, after: obs[:, 0])
        register("Mine-v0", first)
        assert known("Mine-v0") is first
        with pytest.raises(ValueError, match=r"must be new, got 'Mine-v0'.*overwrite=True"):
            register("Mine-v0", second)
        assert known("Mine-v0") is first
        register("Mine-v0", second, overwrite=True)
        assert known("Mine-v0") is second
        with pytest.raises(ValueError, match="got 'no function'"):
            register("Other-v0", "no function")
    assert known_tasks()["Mine-v0"] == ("reward", "termination")
    assert "Other-v0" not in known_tasks()
