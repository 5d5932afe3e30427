"""Dyna: SB3's interface, the schedule, exact resume, storing without pickles, VecNormalize, every algorithm."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_contrib import TQC, TRPO, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from mbrl_gym import CheckpointError, EnsembleConfig, SequenceReplay, TrainerConfig
from mbrl_gym.agents import Dyna
from mbrl_gym.agents.branched import BranchedRollouts
from mbrl_gym.agents.whole_episodes import return_deviation
from mbrl_gym.packing import same_numbers

SMALL: dict[str, Any] = {
    "model_config": EnsembleConfig(members=2, hidden=(16,)),
    "trainer_config": TrainerConfig(max_updates=20),
    "learning_starts": 50,
    "train_freq": 50,
    "dream_steps": 128,
    "dream_envs": 4,
    "dream_horizon": 10,
    "device": "cpu",
}
PPO_SMALL = {"n_steps": 16, "batch_size": 32, "n_epochs": 2}
DREAMS = ("dream_steps", "dream_envs", "dream_horizon")
BRANCHED = {
    **{name: value for name, value in SMALL.items() if name not in DREAMS},
    "train_freq": 25,
    "rollouts": BranchedRollouts(rollouts_per_step=5, updates_per_step=1),
}


class Corridor(gym.Env[Any, Any]):
    """Four steps to an end that is terminal and the time limit at once."""

    observation_space = gym.spaces.Dict(
        {"x": gym.spaces.Box(-9, 9, (2,), np.float64), "step": gym.spaces.Discrete(5), "odd": gym.spaces.MultiBinary(1)}
    )
    action_space = gym.spaces.MultiDiscrete([3, 2])

    def _obs(self) -> dict[str, Any]:
        return {"x": self.x.copy(), "step": self.steps, "odd": np.array([self.steps % 2], np.int8)}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.x, self.steps = self.np_random.normal(size=2), 0
        return self._obs(), {}

    def step(self, action: Any) -> Any:
        self.x, self.steps = self.x * 0.9 + 0.1 * (action[0] - 1), self.steps + 1
        end = self.steps == 4
        return self._obs(), -float(np.abs(self.x).sum()), end, end, {"is_success": end}


def small(env: Any = "Pendulum-v1", **kwargs: Any) -> Dyna:
    defaults = {**SMALL, "algorithm_kwargs": PPO_SMALL} if "algorithm" not in kwargs else SMALL
    algorithm = kwargs.get("algorithm", PPO)
    if isinstance(algorithm, type) and issubclass(algorithm, OffPolicyAlgorithm):
        defaults = BRANCHED
    return Dyna("MlpPolicy", env, **{**defaults, "seed": 0, **kwargs})


def assert_equal(a: Dyna, b: Dyna) -> None:
    mine, theirs = a.get_parameters(), b.get_parameters()
    assert mine.keys() == theirs.keys()
    for name in mine:
        assert same_numbers(mine[name], theirs[name]), f"{name} differs"
    first, second = a.replay.chunks(), b.replay.chunks()
    assert all(np.array_equal(x[k], y[k]) for x, y in zip(first, second, strict=True) for k in x)


# ---- the loop ------------------------------------------------------------------------------------


def test_num_timesteps_counts_real_steps_and_trainings_follow_the_schedule() -> None:
    agent = small(learning_starts=60, train_freq=40)
    agent.learn(139)
    assert (agent.num_timesteps, agent.real_steps, agent.replay.n_transitions) == (139, 139, 139)
    assert agent.trainings == 2  # after 60 and 100
    assert agent.imagined_timesteps == 2 * 128
    agent.learn(1, reset_num_timesteps=False)
    assert (agent.num_timesteps, agent.trainings) == (140, 3)
    agent.learn(10)
    assert (agent.num_timesteps, agent.real_steps) == (10, 150)


def test_the_replay_holds_what_the_environment_did_with_the_final_observation() -> None:
    agent = small()
    agent.learn(250)
    env = gym.make("Pendulum-v1").unwrapped
    rows = agent.replay.gather(agent.replay.windows(2), 2)
    for i in range(0, 250, 7):
        obs = rows.obs[i, 0].double().numpy()
        env.state = np.array([np.arctan2(obs[1], obs[0]), obs[2]])  # type: ignore[attr-defined]
        after, reward, *_ = env.step(2 * rows.action[i, 0].numpy())
        np.testing.assert_allclose(rows.obs[i, 1], after, atol=1e-4)
        np.testing.assert_allclose(rows.reward[i, 1], reward, rtol=1e-4, atol=1e-4)
    ends = rows.truncated[:, 1]
    assert ends.sum() == 1
    assert not rows.terminated.any()


def test_random_actions_only_before_the_first_training() -> None:
    agent = small(learning_starts=30, train_freq=1000)
    acted = []
    original = agent._act
    agent._act = lambda obs: (acted.append(agent.real_steps), original(obs))[1]  # type: ignore[method-assign]
    agent.learn(40)
    assert acted == list(range(30, 40))


def test_learn_trains_at_once_on_a_replay_that_is_given() -> None:
    source = small(learning_starts=1000)
    source.learn(120)
    agent = small(replay=source.replay)
    seen: list[int] = []
    original = agent._train
    agent._train = lambda: (seen.append(agent.num_timesteps), original())[1]  # type: ignore[method-assign, func-returns-value]
    agent.learn(10)
    assert seen == [0]
    assert agent.replay.n_transitions == 130
    with pytest.raises(ValueError, match="replay must have the environment's spaces"):
        small("CartPole-v1", replay=source.replay)
    with pytest.raises(ValueError, match="replay must hold 2 environments"):
        small(make_vec_env("Pendulum-v1", 2), replay=source.replay)


def test_a_callback_stops_the_run_and_sees_every_step() -> None:
    class Count(BaseCallback):
        calls = 0

        def _on_step(self) -> bool:
            self.calls += 1
            return self.calls < 17

    callback = Count()
    agent = small()
    agent.learn(100, callback=callback)
    assert (callback.calls, agent.num_timesteps) == (17, 17)


def test_sb3_callbacks_checkpoint_and_evaluate(tmp_path: Path) -> None:
    agent = small()
    evaluate = EvalCallback(
        make_vec_env("Pendulum-v1"), best_model_save_path=str(tmp_path), eval_freq=60, n_eval_episodes=1, verbose=0
    )
    agent.learn(130, callback=[evaluate, CheckpointCallback(60, str(tmp_path), name_prefix="dyna")])
    assert Dyna.load(tmp_path / "best_model").real_steps in (60, 120)
    assert Dyna.load(tmp_path / "dyna_60_steps.zip").num_timesteps == 60


def test_log_has_real_and_imagined_steps_returns_and_losses(tmp_path: Path) -> None:
    agent = small("CartPole-v1")
    agent.set_logger(configure(str(tmp_path), ["json"]))
    agent.learn(100)
    rows = [json.loads(line) for line in (tmp_path / "progress.json").read_text().splitlines()]
    assert [row["time/total_timesteps"] for row in rows] == [50, 100]
    assert [row["time/imagined_timesteps"] for row in rows] == [128, 256]
    for key in (
        "rollout/ep_rew_mean",
        "model/loss",
        "model/nll",
        "model/holdout_error",
        "dream/ep_rew_mean",
        "train/loss",
    ):
        assert np.isfinite(rows[-1][key]), key


def test_callbacks_find_what_sb3_gives_them(tmp_path: Path) -> None:
    class Look(BaseCallback):
        total = 0

        def _on_training_start(self) -> None:
            self.total = self.locals["total_timesteps"]

        def _on_step(self) -> bool:
            if self.num_timesteps == 70:
                self.model.stored_model(reset_states=20)  # type: ignore[attr-defined]
            return True

    agent = Dyna("MultiInputPolicy", Corridor(), algorithm_kwargs=PPO_SMALL, seed=0, **SMALL)
    agent.set_logger(configure(str(tmp_path), ["json"]))
    agent.learn(60)
    look = Look()
    agent.learn(40, callback=look, reset_num_timesteps=False)
    assert look.total == 100
    assert agent.num_timesteps == 100  # stored_model reset the environments: new episodes begin
    rows = [json.loads(line) for line in (tmp_path / "progress.json").read_text().splitlines()]
    assert rows[-1]["rollout/success_rate"] == 1.0


def test_set_random_seed_repeats_a_run() -> None:
    runs = [small(seed=seed) for seed in (1, 2)]
    runs[1].set_parameters(runs[0].get_parameters())
    before = torch.get_rng_state()
    for agent in runs:
        agent.set_random_seed(7)
    assert torch.equal(before, torch.get_rng_state())
    assert_equal(runs[0].learn(60), runs[1].learn(60))


def test_action_noise_explores_in_reality(tmp_path: Path) -> None:
    noise = NormalActionNoise(np.zeros(1), np.ones(1))
    agent = small(make_vec_env("Pendulum-v1", 2), algorithm=TD3, algorithm_kwargs={"action_noise": noise})
    agent.learn(60)
    actions = agent._act(np.zeros((2, 3), np.float32))
    assert actions.shape == (2, 1)
    assert actions[0] != actions[1]
    assert np.abs(actions).max() <= 2


def test_progress_bar_shows_real_and_imagined_steps_return_and_loss(capsys: pytest.CaptureFixture[str]) -> None:
    agent = small("CartPole-v1")
    agent.learn(100, progress_bar=True)
    shown = capsys.readouterr().err
    assert "100/100" in shown
    for word in ("imagined=", "real_return=", "model_loss=", "dream_return="):
        assert word in shown, word


def test_several_real_environments() -> None:
    agent = small(make_vec_env("CartPole-v1", 3))
    agent.learn(99)
    assert agent.num_timesteps == 99
    assert agent.replay.n_envs == 3
    assert agent.replay.n_transitions == 99


def test_learn_leaves_the_global_generators_alone_and_does_not_depend_on_them() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    a = small().learn(60)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])
    torch.manual_seed(2)
    np.random.seed(2)
    assert_equal(a, small().learn(60))


# ---- determinism and storing ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env_id", "algorithm", "kwargs"),
    [("Pendulum-v1", PPO, PPO_SMALL), ("Pendulum-v1", SAC, {}), ("CartPole-v1", DQN, {}), ("Pendulum-v1", TD3, {})],
)
def test_seeded_runs_are_bit_equal_and_seeds_matter(env_id: str, algorithm: type[BaseAlgorithm], kwargs: Any) -> None:
    runs = [small(env_id, algorithm=algorithm, algorithm_kwargs=kwargs, seed=s).learn(110) for s in (3, 3, 4)]
    assert_equal(runs[0], runs[1])
    with pytest.raises(AssertionError):
        assert_equal(runs[0], runs[2])


RESUMES: list[tuple[str, type[BaseAlgorithm], dict[str, Any], int]] = [
    ("Pendulum-v1", PPO, PPO_SMALL, 30),  # among the random actions
    ("CartPole-v1", DQN, {"exploration_final_eps": 0.5}, 85),  # which samples the action space
    ("Pendulum-v1", A2C, {"n_steps": 16, "use_sde": True}, 85),
    ("Pendulum-v1", SAC, {"use_sde": True}, 85),
    ("Pendulum-v1", TD3, {}, 85),
    ("Pendulum-v1", TRPO, {"n_steps": 16, "batch_size": 32}, 85),
]


@pytest.mark.parametrize(("env_id", "algorithm", "kwargs", "steps"), RESUMES)
def test_resume_equals_going_on(
    tmp_path: Path, env_id: str, algorithm: type[BaseAlgorithm], kwargs: dict[str, Any], steps: int
) -> None:
    agent = small(env_id, algorithm=algorithm, algorithm_kwargs=kwargs).learn(steps)
    agent.save(tmp_path / "agent")
    loaded = Dyna.load(tmp_path / "agent", env=env_id, device="cpu")
    assert_equal(agent.learn(40, reset_num_timesteps=False), loaded.learn(40, reset_num_timesteps=False))


RESUME = """
import sys
from stable_baselines3 import A2C, DQN, PPO, SAC
from mbrl_gym.agents import Dyna
agent = Dyna.load(sys.argv[1], env=sys.argv[2])
agent.learn(75, reset_num_timesteps=False)
agent.save(sys.argv[3])
"""


@pytest.mark.parametrize(("env_id", "algorithm", "kwargs"), [("CartPole-v1", PPO, PPO_SMALL), ("Pendulum-v1", SAC, {})])
def test_resume_in_a_new_process_equals_going_on(
    tmp_path: Path, env_id: str, algorithm: type[BaseAlgorithm], kwargs: Any
) -> None:
    agent = small(env_id, algorithm=algorithm, algorithm_kwargs=kwargs).learn(85)
    agent.save(tmp_path / "stopped")
    subprocess.run(
        [sys.executable, "-c", RESUME, str(tmp_path / "stopped"), env_id, str(tmp_path / "resumed")], check=True
    )
    agent.learn(75, reset_num_timesteps=False)
    resumed = Dyna.load(tmp_path / "resumed", env=env_id)
    assert (resumed.num_timesteps, resumed.trainings, resumed.imagined_timesteps) == (
        agent.num_timesteps,
        agent.trainings,
        agent.imagined_timesteps,
    )
    assert_equal(agent, resumed)


def test_loaded_agent_predicts_the_same_without_an_environment(tmp_path: Path) -> None:
    agent = small().learn(60)
    agent.save(tmp_path / "agent")
    loaded = Dyna.load(tmp_path / "agent")
    obs = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    assert np.array_equal(agent.predict(obs, deterministic=True)[0], loaded.predict(obs, deterministic=True)[0])
    assert loaded.predict(obs[0], deterministic=True)[0].shape == (1,)
    with pytest.raises(ValueError, match=r"env is not set; give one to load\(\)"):
        loaded.learn(10)
    loaded.set_env(gym.make("Pendulum-v1"))
    loaded.learn(10)


def test_replay_can_be_left_out(tmp_path: Path) -> None:
    agent = small().learn(60)
    agent.save(tmp_path / "agent", exclude=["replay"])
    loaded = Dyna.load(tmp_path / "agent", env=make_vec_env("Pendulum-v1", 2))
    assert len(loaded.replay) == 0
    loaded.learn(60, reset_num_timesteps=False)
    agent.save(tmp_path / "whole")
    with pytest.raises(ValueError, match=r"env must have 1 environments.*exclude=\['replay'\]"):
        Dyna.load(tmp_path / "whole", env=make_vec_env("Pendulum-v1", 2))
    with pytest.raises(ValueError, match="exclude may name 'replay', got"):
        agent.save(tmp_path / "agent", exclude=["policy"])


def test_without_its_replay_a_model_is_fitted_again_only_to_enough_experience(tmp_path: Path) -> None:
    agent = small().learn(99)
    agent.save(tmp_path / "agent", exclude=["replay"])
    loaded = Dyna.load(tmp_path / "agent", env="Pendulum-v1", device="cpu")
    loaded.learn(49)  # the next training was due after one step
    assert loaded.trainings == 1
    assert loaded.learn(1).trainings == 2
    given = Dyna.load(tmp_path / "agent", env="Pendulum-v1", device="cpu", replay=agent.replay)
    assert given.learn(1).trainings == 2


def test_nothing_in_a_checkpoint_is_a_pickle(tmp_path: Path) -> None:
    small().learn(60).save(tmp_path / "agent")
    kinds = {path.suffix or path.name for path in (tmp_path / "agent").rglob("*") if path.is_file()}
    assert kinds == {".json", ".safetensors", ".npz", "CURRENT"}


def test_load_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing"):
        Dyna.load(tmp_path / "nothing")
    agent = small().learn(60)
    agent.save(tmp_path / "agent")
    from mbrl_gym import load_model

    with pytest.raises(CheckpointError, match="dyna"):
        load_model(tmp_path / "agent")


def test_load_refuses_arguments_that_do_not_fit_what_was_learned(tmp_path: Path) -> None:
    small().learn(60).save(tmp_path / "agent")
    with pytest.raises(CheckpointError, match=r"(?s)agent: what was learned does not fit.*model_config"):
        Dyna.load(tmp_path / "agent", model_config=EnsembleConfig(members=3))


class CallersPPO(PPO):
    """An algorithm of the caller's own."""


def test_an_algorithm_of_the_callers_has_to_be_given_again(tmp_path: Path) -> None:
    agent = small(
        algorithm=CallersPPO, algorithm_kwargs={**PPO_SMALL, "learning_rate": lambda progress: 1e-3 * progress}
    )
    agent.learn(60)
    agent.save(tmp_path / "agent")
    with pytest.raises(CheckpointError, match=r"algorithm is .*CallersPPO.*pass algorithm= to load"):
        Dyna.load(tmp_path / "agent")
    with pytest.raises(
        CheckpointError, match=r"algorithm_kwargs\['learning_rate'\] was <function.*algorithm_kwargs= to load"
    ):
        Dyna.load(tmp_path / "agent", algorithm=CallersPPO)
    loaded = Dyna.load(tmp_path / "agent", algorithm=CallersPPO, algorithm_kwargs=PPO_SMALL)
    assert isinstance(loaded.algorithm, CallersPPO)


def test_a_file_cannot_name_what_is_called(tmp_path: Path) -> None:
    from mbrl_gym.agents.imports import decode

    for path in ("torch:load", "os:system", "torch.package:PackageImporter", "builtins:eval", "torchx.nn:Module"):
        with pytest.raises(CheckpointError, match="activation_fn"):
            decode({"dict": {"activation_fn": {"class": path}}}, "policy_kwargs")
    assert decode({"class": "torch.nn.modules.activation:ReLU"}, "policy_kwargs") is torch.nn.ReLU


def test_arguments_may_differ_on_loading(tmp_path: Path) -> None:
    agent = small(
        seed=np.int64(0), learning_starts=np.int64(50), algorithm_kwargs={**PPO_SMALL, "gamma": np.float32(0.5)}
    )
    agent.learn(60)
    agent.save(tmp_path / "agent")
    assert Dyna.load(tmp_path / "agent").algorithm.gamma == 0.5  # type: ignore[attr-defined]
    kwargs = {"n_steps": 8, "batch_size": 32, "gamma": 0.9}
    env = gym.make("Pendulum-v1", max_episode_steps=77)
    loaded = Dyna.load(tmp_path / "agent", env=env, device="cpu", algorithm_kwargs=kwargs)
    assert (loaded.algorithm.gamma, loaded.time_limit) == (0.9, 77)  # type: ignore[attr-defined]
    assert loaded.imagined_timesteps == agent.imagined_timesteps
    loaded.learn(60)


def test_a_stopped_run_is_whole(tmp_path: Path) -> None:
    def interrupt(epoch: int, loss: float, error: Any) -> None:
        raise KeyboardInterrupt

    agent = small()
    agent._on_epoch = interrupt  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        agent.learn(60)
    del agent._on_epoch
    agent.save(tmp_path / "agent")
    loaded = Dyna.load(tmp_path / "agent", env="Pendulum-v1", device="cpu")
    assert_equal(agent.learn(20), loaded.learn(20))
    assert agent.trainings == 1  # what was interrupted came first


def test_policy_arguments_survive(tmp_path: Path) -> None:
    agent = small(policy_kwargs={"net_arch": [8], "activation_fn": torch.nn.ReLU})
    agent.learn(60)
    agent.save(tmp_path / "agent")
    assert isinstance(Dyna.load(tmp_path / "agent").policy.mlp_extractor.policy_net[1], torch.nn.ReLU)  # type: ignore[union-attr,operator]


def test_the_callers_policy_arguments_stay_as_they_are() -> None:
    arguments = {"net_arch": [8]}
    small(algorithm=A2C, algorithm_kwargs={"n_steps": 16}, policy_kwargs=arguments)  # SB3's A2C adds an optimiser
    assert arguments == {"net_arch": [8]}


def test_export_is_a_stock_sb3_model(tmp_path: Path) -> None:
    agent = small().learn(60)
    agent.export_sb3(tmp_path / "policy.zip")
    obs = np.zeros((1, 3), dtype=np.float32)
    stock = PPO.load(tmp_path / "policy.zip")
    assert np.array_equal(stock.predict(obs, deterministic=True)[0], agent.predict(obs, deterministic=True)[0])


# ---- every algorithm -----------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", [PPO, A2C, TRPO, RecurrentPPO, SAC, TD3, TQC, DQN])
def test_every_algorithm_dreams(algorithm: type[BaseAlgorithm], tmp_path: Path) -> None:
    policy = "MlpLstmPolicy" if algorithm is RecurrentPPO else "MlpPolicy"
    env_id = "CartPole-v1" if algorithm is DQN else "Pendulum-v1"
    off = algorithm in (SAC, TD3, TQC, DQN)
    kwargs = {} if off else {"n_steps": 16, **({} if algorithm is A2C else {"batch_size": 32})}
    sizes = BRANCHED if off else SMALL
    agent = Dyna(policy, env_id, algorithm=algorithm, algorithm_kwargs=kwargs, **sizes, seed=0)
    before = {name: x.clone() for name, x in agent.policy.state_dict().items()}
    agent.learn(70)
    assert any(not torch.equal(before[name], x) for name, x in agent.policy.state_dict().items())
    evaluate_policy(agent, make_vec_env(env_id), 1)
    agent.save(tmp_path / "agent")
    assert type(Dyna.load(tmp_path / "agent").algorithm) is algorithm


def test_a_real_vecnormalize_normalises_the_dream_alike_and_the_replay_stays_raw(tmp_path: Path) -> None:
    env = VecNormalize(make_vec_env("Pendulum-v1"), clip_obs=1.0)
    agent = small(env)
    agent.learn(220)
    inner = agent.algorithm.get_vec_normalize_env()
    assert inner is not None
    assert inner.obs_rms is env.obs_rms
    obs = agent.replay.gather(agent.replay.windows(2), 2).obs
    assert obs[..., 2].abs().max() > 1.5  # beyond what clip_obs would have let through
    np.testing.assert_allclose(obs[..., 0] ** 2 + obs[..., 1] ** 2, 1.0, atol=1e-5)  # terminal observations included
    agent.save(tmp_path / "agent")
    other = VecNormalize(make_vec_env("Pendulum-v1"), clip_obs=1.0)
    Dyna.load(tmp_path / "agent", env=other)
    np.testing.assert_array_equal(other.obs_rms.mean, env.obs_rms.mean)  # type: ignore[union-attr]
    assert other.ret_rms.count == env.ret_rms.count


def test_evaluation_beside_a_normalised_environment() -> None:
    env, twin = VecNormalize(make_vec_env("Pendulum-v1")), VecNormalize(make_vec_env("Pendulum-v1"), training=False)
    inside = env.venv
    small(env).learn(60, callback=EvalCallback(twin, eval_freq=30, n_eval_episodes=1, verbose=0))
    assert env.venv is inside  # nothing of ours stays in the caller's chain
    np.testing.assert_array_equal(twin.obs_rms.mean.shape, env.obs_rms.mean.shape)  # type: ignore[union-attr]
    assert twin.obs_rms.count > 10  # type: ignore[union-attr]


@pytest.mark.parametrize("norm_obs", [True, False])
def test_dict_observations_in_a_vecnormalize(norm_obs: bool, tmp_path: Path) -> None:
    def make() -> VecNormalize:
        return VecNormalize(DummyVecEnv([Corridor] * 3), norm_obs=norm_obs, norm_obs_keys=["x"] if norm_obs else None)

    agent = Dyna("MultiInputPolicy", make(), algorithm_kwargs=PPO_SMALL, seed=0, **SMALL)
    agent.learn(63)
    agent.save(tmp_path / "agent")
    other = Dyna.load(tmp_path / "agent", env=make(), device="cpu")
    assert_equal(agent.learn(60), other.learn(60))
    rows = agent.replay.gather(agent.replay.windows(2), 2)
    ends = rows.terminated[:, 1]  # with a time limit at the same step: SB3 says terminated
    assert ends.sum() > 10
    assert not rows.truncated.any()
    assert (rows.obs["step"][ends, 1] == 4).all()  # the final observation, not the next episode's first
    assert (rows.obs["step"][~ends, 1] < 4).all()


def test_a_normalised_agent_gets_its_moments_with_a_later_environment_and_refuses_another(tmp_path: Path) -> None:
    agent = small(VecNormalize(make_vec_env("Pendulum-v1"))).learn(60)
    agent.save(tmp_path / "agent")
    for path in (tmp_path / "agent", tmp_path / "again"):  # saving without an environment keeps them, too
        loaded = Dyna.load(path, device="cpu")
        loaded.save(tmp_path / "again")
    loaded.set_env(VecNormalize(make_vec_env("Pendulum-v1")))
    assert_equal(agent.learn(60), loaded.learn(60))
    with pytest.raises(ValueError, match=r"env must be a VecNormalize with norm_obs=True.*got DummyVecEnv; wrap it"):
        Dyna.load(tmp_path / "agent", env=make_vec_env("Pendulum-v1"))
    with pytest.raises(ValueError, match="env must be without normalised observations"):
        small().learn(60).set_env(VecNormalize(make_vec_env("Pendulum-v1")))


def test_a_buried_vecnormalize_is_refused() -> None:
    env = VecFrameStack(VecNormalize(make_vec_env("Pendulum-v1")), 2)
    with pytest.raises(ValueError, match="VecNormalize must be the outermost wrapper"):
        small(env).learn(10)


# ---- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"learning_starts": 0}, "learning_starts must be at least 1"),
        ({"train_freq": 0}, "train_freq must be at least 1"),
        ({"buffer_size": 0}, "buffer_size must be at least 1"),
        ({"dream_steps": 0}, "dream_steps must be at least 1"),
        ({"dream_envs": 0}, "dream_envs must be at least 1"),
        ({"dream_horizon": 0}, "dream_horizon must be at least 1"),
        ({"algorithm": "PPO"}, "algorithm must be an algorithm class|algorithm must be a Stable-Baselines3 algorithm"),
        ({"algorithm": Dyna}, "algorithm must be model-free"),
        ({"algorithm": MaskablePPO}, "algorithm must do without action masks"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"algorithm_kwargs": {"device": "cpu"}}, r"algorithm_kwargs may not hold \['device'\]"),
    ],
)
def test_bad_arguments(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**kwargs)


def test_an_environment_that_returns_nan_is_named_and_nothing_is_stored() -> None:
    class Broken(gym.Wrapper[Any, Any, Any, Any]):
        steps = 0

        def step(self, action: Any) -> Any:
            obs, *rest = super().step(action)
            self.steps += 1
            return (obs * np.nan if self.steps == 20 else obs, *rest)

    agent = small(DummyVecEnv([lambda: Broken(gym.make("Pendulum-v1"))]))
    with pytest.raises(ValueError, match="finite"):
        agent.learn(40)
    assert agent.replay.n_transitions == 19


def test_images_are_refused_with_a_reason() -> None:
    env = gym.wrappers.TransformObservation(
        gym.make("CartPole-v1"),
        lambda _: np.zeros((36, 36, 3), np.uint8),
        gym.spaces.Box(0, 255, (36, 36, 3), np.uint8),
    )
    with pytest.raises(ValueError, match="images need a model made for them"):
        Dyna("CnnPolicy", env)


# ---- knobs ---------------------------------------------------------------------------------------


def test_dream_horizon_and_envs_shape_the_dream() -> None:
    agent = small(dream_horizon=7, dream_envs=3, algorithm_kwargs={**PPO_SMALL, "batch_size": 24})
    agent.learn(60)
    assert agent.algorithm.n_envs == 3
    assert {ep["l"] for ep in agent.algorithm.ep_info_buffer} == {7}  # type: ignore[union-attr]


def test_normalize_reward_scales_what_the_algorithm_sees() -> None:
    agent, raw = small(), small(normalize_reward=False)
    agent.learn(60)
    raw.learn(60)
    deviation = return_deviation(agent.replay, agent.algorithm.gamma)  # type: ignore[attr-defined]
    assert agent._sb3_env.reward_scale == pytest.approx(1 / deviation, rel=0.2)
    assert raw._sb3_env.reward_scale == 1.0


def test_return_deviation_by_hand() -> None:
    space = gym.spaces.Box(-1, 1, (1,), np.float32)
    replay = SequenceReplay(space, gym.spaces.Discrete(2), 10)
    zero, no = np.zeros((1, 1), np.float32), np.zeros(1, bool)
    replay.begin(zero)
    for reward in (1.0, 2.0, 4.0):
        replay.add(np.zeros(1, np.int64), zero, np.array([reward]), no, no)
    replay.begin(zero)
    replay.add(np.zeros(1, np.int64), zero, np.array([8.0]), no, no)
    assert return_deviation(replay, 0.5) == pytest.approx(np.std([1.0, 2.5, 5.25, 8.0]))


def test_dream_starts_are_real_states() -> None:
    agent = small()
    agent.learn(60)
    starts = {tuple(row) for row in agent.replay.starts(1).obs[:, 0].tolist()}
    obs, _ = agent.dream.reset()
    assert all(tuple(row) in starts for row in obs.tolist())


def test_stored_model_and_publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MBRL_GYM_HOME", str(tmp_path))
    agent = small(env=make_vec_env("Pendulum-v1"))
    with pytest.raises(ValueError, match="no experience yet"):
        agent.stored_model()
    agent.learn(60)
    stored = agent.stored_model(reset_states=20)
    assert (len(stored.starts), stored.real_id, stored.horizon) == (20, "Pendulum-v1", 200)
    assert stored.card["real_steps"] == 60
    agent.publish("Learned-MyPendulum-v0", reset_states=5)
    env = gym.make("Learned-MyPendulum-v0")
    obs, _ = env.reset(seed=0)
    assert obs in env.observation_space
    again = small().learn(60)
    again.stored_model(reset_states=50)  # resets of the real environment in between
    assert_equal(again.learn(40), small().learn(60).learn(40))


@pytest.mark.slow
def test_dyna_with_ppo_solves_pendulum_in_3000_real_steps() -> None:
    agent = Dyna("MlpPolicy", "Pendulum-v1", seed=100, device="cpu").learn(3_000)
    mean, _ = evaluate_policy(agent, make_vec_env("Pendulum-v1", seed=1), 20)
    assert mean > -250
