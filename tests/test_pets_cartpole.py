"""PETS's cart-pole, and the simulator as a world model."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import mujoco
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from mbrl_gym import ActionCodec, imagine
from mbrl_gym.model import trajectory_return
from mbrl_gym.tasks import known_reward, known_termination

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

pets_cartpole = importlib.import_module("pets_cartpole")
true_dynamics = importlib.import_module("true_dynamics")
TrueDynamics, SimulatorState = true_dynamics.TrueDynamics, true_dynamics.SimulatorState
CARTPOLE = "PETSCartpole-v0"


@pytest.fixture
def env():
    env = gym.make(CARTPOLE)
    yield env
    env.close()


def believe(model, obs):
    first = torch.ones(len(obs), dtype=torch.bool)
    return model.observe(model.initial(len(obs)), torch.zeros(len(obs), 1), torch.as_tensor(obs), first)


def test_the_physics_is_the_specified_one(env):
    model = env.unwrapped.model
    assert (model.opt.timestep, env.unwrapped.frame_skip, env.unwrapped.dt) == (0.02, 2, 0.04)
    assert model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4
    np.testing.assert_array_equal(model.opt.gravity, [0, 0, -9.81])
    np.testing.assert_array_equal(model.dof_damping, [1, 1])
    np.testing.assert_array_equal(model.dof_armature, [0, 0])
    np.testing.assert_array_equal(model.jnt_type, [mujoco.mjtJoint.mjJNT_SLIDE, mujoco.mjtJoint.mjJNT_HINGE])
    np.testing.assert_array_equal(model.jnt_limited, [1, 0])
    np.testing.assert_array_equal(model.jnt_range[0], [-2.5, 2.5])
    assert model.actuator_gear[0, 0] == 100
    np.testing.assert_array_equal(model.actuator_ctrlrange, [[-3, 3]])
    # a capsule weighs 1000 kg/m^3 times cylinder and ball: the cart 0.2 by radius 0.1, the pole 0.6 by radius 0.049
    capsules = [1000 * np.pi * r**2 * (length + 4 / 3 * r) for length, r in ((0.2, 0.1), (np.hypot(0.6, 0.001), 0.049))]
    np.testing.assert_allclose(model.body_mass[1:], capsules, rtol=1e-12)
    np.testing.assert_allclose(model.body_ipos[2], [0.0005, 0, -0.3], atol=1e-12)
    assert not (model.geom_contype | model.geom_conaffinity).any()


def test_spaces_and_checker(env):
    assert env.action_space == gym.spaces.Box(-3.0, 3.0, (1,), np.float32)
    assert env.observation_space == gym.spaces.Box(-np.inf, np.inf, (4,), np.float64)
    check_env(env.unwrapped, skip_render_check=True)  # which would open a window


def test_reward_by_hand(env):
    env.reset(seed=0)
    still = np.zeros(1, np.float32)
    by_hand = {
        (0.0, 0.0): np.exp(-4.0),  # it hangs: the tip is 1.2 below the goal, two length scales
        (0.0, np.pi): 1.0,
        (0.6, np.pi / 2): np.exp(-1.0),  # the tip is at (0.6 - 0.6, 0)
        (0.6, -np.pi / 2): np.exp(-5.0),  # the tip is at (1.2, 0)
    }
    for (x, theta), expected in by_hand.items():
        state = torch.tensor([[x, theta, 7.0, -7.0]], dtype=torch.float64)
        for push in (0.0, 3.0):
            action = torch.tensor([[push]])
            ours = known_reward(CARTPOLE)(state * 0, action, state)
            np.testing.assert_allclose(ours, [expected - 0.01 * push**2], atol=1e-6)
    env.unwrapped.set_state(np.zeros(2), np.zeros(2))
    _, reward, *_ = env.step(still)
    np.testing.assert_allclose(reward, np.exp(-4.0), rtol=1e-3)  # the leaning pole has hardly moved
    assert env.step(still + 3)[1] < -0.05


def test_known_reward_is_the_environments(env):
    rng, rows = np.random.default_rng(0), []
    env.action_space.seed(0)
    env.reset(seed=0)
    simulated = env.unwrapped
    for _ in range(300):
        simulated.set_state(rng.uniform([-2.5, -7], [2.5, 7]), rng.normal(size=2) * 3)
        obs, action = simulated.state_vector(), env.action_space.sample()
        after, reward, terminated, _, _ = simulated.step(action)
        assert not terminated
        np.testing.assert_array_equal(after, simulated.state_vector())
        rows.append((obs, action, after, reward))
    obs, action, after, reward = (torch.as_tensor(np.array(column)) for column in zip(*rows, strict=True))
    for cast in (torch.float64, torch.float32):
        ours = known_reward(CARTPOLE)(obs.to(cast), action, after.to(cast))
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, reward.float(), atol=5e-6, rtol=0)
    assert (known_reward(CARTPOLE)(after, action, obs) - reward).abs().max() > 0.1  # it is of the state after the step
    assert not known_termination(CARTPOLE)(obs, action, after).any()


def test_starts_hang_with_noise_of_a_tenth_on_every_number(env):
    starts = np.array([env.reset(seed=seed)[0] for seed in range(2000)])
    np.testing.assert_allclose(starts.mean(0), 0, atol=0.01)
    np.testing.assert_allclose(starts.std(0), 0.1, rtol=0.06)
    assert np.abs(starts).max() > 0.3  # normal, not uniform
    np.testing.assert_array_equal(env.reset(seed=3)[0], starts[3])


def test_time_limit_and_rail(env):
    env.reset(seed=0)
    for step in range(200):
        obs, _, terminated, truncated, _ = env.step(np.full(1, 3.0, np.float32))
        assert not terminated
        assert truncated == (step == 199)
    assert 2.4 < obs[0] < 2.7


def test_the_id_is_registered_once():
    spec = gym.spec(CARTPOLE)
    pets_cartpole.register()
    assert gym.spec(CARTPOLE) is spec
    assert spec.max_episode_steps == 200
    assert spec.to_json()


def test_rendering_shows_the_pole_where_it_is():
    code = (
        "import gymnasium as gym, numpy as np, pets_cartpole\n"
        "env = gym.make('PETSCartpole-v0', render_mode='rgb_array', width=96, height=96)\n"
        "env.reset(seed=0)\n"
        "env.unwrapped.set_state(np.zeros(2), np.zeros(2)); low = env.render()\n"
        "env.unwrapped.set_state(np.array([0, np.pi]), np.zeros(2)); high = env.render()\n"
        "assert low.shape == (96, 96, 3) and low.dtype == np.uint8\n"
        "moved = (np.abs(low.astype(int) - high).sum(2) > 60).nonzero()[0]\n"
        "print(len(moved), moved.min(), moved.max())\n"
    )
    variables = {"MUJOCO_GL": "egl", **os.environ}  # which mujoco reads as it is imported, so not in this process
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, env=variables)
    if done.returncode and any(missing in done.stderr for missing in ("OpenGL", "EGL", "GLFW")):
        pytest.skip("there is no OpenGL here")
    assert done.returncode == 0, done.stderr
    pixels, top, bottom = map(int, done.stdout.split())
    assert pixels > 30
    assert top < 48 < bottom


@pytest.mark.parametrize("env_id", [CARTPOLE, "InvertedPendulum-v5"])
def test_true_dynamics_is_the_environment(env_id):
    model, real = TrueDynamics.of(env_id), gym.make(env_id).unwrapped
    codec, rng = ActionCodec(real.action_space), np.random.default_rng(0)
    starts = [real.reset(seed=seed)[0] for seed in range(5)]
    starts[0] = starts[0] + np.array([0.0, 0.0, 9.0, 0.0])  # into the end of the rail, where solvers might differ
    encoded = torch.as_tensor(rng.uniform(-1, 1, (5, 20, 1)), dtype=torch.float32)
    state = believe(model, np.array(starts))
    np.testing.assert_array_equal(model.decode(state), starts)  # in float64
    obs, reward, ended = [], [], []
    for t in range(20):
        state, step = model.predict(state, encoded[:, t])
        obs.append(model.decode(state))
        reward.append(step.reward)
        ended.append(step.terminated)
        assert not step.truncated.any()
        np.testing.assert_allclose(step.continuation, 1.0 - step.terminated.float())
    furthest = 0.0
    for row, start in enumerate(starts):
        real.set_state(start[:2], start[2:])
        for t in range(20):
            after, paid, terminated, _, _ = real.step(codec.decode(encoded[row, t]).numpy())
            furthest = max(furthest, abs(after[0]))
            np.testing.assert_allclose(obs[t][row], after, atol=1e-5, rtol=0)
            np.testing.assert_allclose(reward[t][row], paid, atol=1e-5, rtol=0)
            assert bool(ended[t][row]) == terminated
    assert furthest > real.model.jnt_range[0, 1]
    assert state.obs.dtype == torch.float64
    torch.testing.assert_close(model.features(state), state.obs.float())


def test_true_dynamics_serves_planners():
    model = TrueDynamics.of(CARTPOLE)
    start = believe(model, np.zeros((3, 4)))
    actions = model.action_codec.sample(3 * 7).reshape(3, 7, 1)
    total = trajectory_return(model, start, actions, particles=2)
    dream = imagine(model, start, lambda state: actions[:, 0], 7)
    assert dream.states.obs.shape == (3, 8, 4)
    alone = trajectory_return(model, start[1:2], actions[1:2])
    torch.testing.assert_close(total[1:2], alone)
    torch.testing.assert_close(model.twin().initial(2).obs, model.initial(2).obs)
    with pytest.raises(NotImplementedError, match="plan on it"):
        model.loss(None)


def test_a_row_that_is_not_finite_is_diverged_and_leaves_the_others_alone():
    model = TrueDynamics.of(CARTPOLE)
    good = believe(model, np.full((3, 4), 0.1))
    bad = SimulatorState(good.obs.clone())
    bad.obs[0, 2] = torch.nan
    action = torch.zeros(3, 1)
    action[1] = torch.nan
    state, step = model.predict(bad, action)
    assert step.truncated.tolist() == step.info["diverged"].tolist() == [True, True, False]
    assert all(torch.isfinite(x).all() for x in (*state.tensors(), *step.tensors()))
    torch.testing.assert_close(state.obs[2], model.predict(good, torch.zeros(3, 1))[0].obs[2])


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "HalfCheetah-v5", "InvertedDoublePendulum-v5"])
def test_true_dynamics_refuses_what_it_cannot_simulate(env_id):
    with pytest.raises(ValueError, match=rf"observation is \(qpos, qvel\), got '{env_id}'"):
        TrueDynamics.of(env_id)


def test_true_dynamics_refuses_other_spaces(env):
    other = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    with pytest.raises(ValueError, match=r"use TrueDynamics.of"):
        TrueDynamics(env.observation_space, other)
