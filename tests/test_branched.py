"""Branched rollouts: what is imagined, what is kept of it, and when the algorithm learns."""

import json
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, PPO, SAC, TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.vec_env import VecNormalize

from mbrl_gym import CheckpointError, EnsembleConfig, TrainerConfig
from mbrl_gym.agents import (
    AdaptiveLength,
    BranchedRollouts,
    Dyna,
    FailureStarts,
    FixedLength,
    LeanSAC,
    RecentStarts,
    ScheduledLength,
)
from mbrl_gym.agents.branched import Branched
from mbrl_gym.agents.start_choice import StartChoice
from mbrl_gym.agents.value_expansion import MVE
from mbrl_gym.packing import same_numbers
from mbrl_gym.wrappers import Infoprop, KnownReward, KnownTermination, UncertaintyPenalty
from worlds import BOX, PUSH, Walk, WalkConfig

SMALL: dict[str, Any] = {
    "model_config": EnsembleConfig(members=2, hidden=(16,)),
    "trainer_config": TrainerConfig(max_updates=20),
    "rollouts": BranchedRollouts(rollouts_per_step=4, updates_per_step=1),
    "learning_starts": 40,
    "train_freq": 20,
    "device": "cpu",
    "seed": 0,
}


class Line(gym.Env[Any, Any]):
    """Two numbers between -3 and 3 that a push moves; never an end."""

    observation_space, action_space = BOX, PUSH

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-3, 3, 2).astype(np.float32)
        return self.place, {}

    def step(self, action: Any) -> Any:
        self.place = np.clip(self.place + np.float32(action[0]) / 2, -3, 3).astype(np.float32)
        return self.place, 0.0, False, False, {}


def agent(env: Any = "Pendulum-v1", algorithm: Any = LeanSAC, **change: Any) -> Dyna:
    return Dyna("MlpPolicy", env, algorithm=algorithm, **{**SMALL, **change})


def walking(config: WalkConfig | None = None, **change: Any) -> Dyna:
    """Dyna on a line, in a model whose steps are known."""
    rollouts = change.pop("rollouts", BranchedRollouts(FixedLength(4), rollouts_per_step=5, updates_per_step=1))
    return agent(Line(), model_class=Walk, model_config=config or WalkConfig(), rollouts=rollouts, **change)


def branched(of: Dyna) -> Branched:
    assert isinstance(of.strategy, Branched)
    return of.strategy


# ---- dreams ---------------------------------------------------------------------------------------------------------


def test_imagined_transitions_are_the_models() -> None:
    dyna = walking().learn(40)
    (dream,) = branched(dyna).buffer.dreams
    assert dream.batch_size == 5 * 20 * 4  # rollouts a real step, steps between trainings, steps of a rollout
    assert dyna.imagined_timesteps == 400
    scale = dyna.model.get_parameter("scale").detach()
    torch.testing.assert_close(dream.next_obs, dream.obs + dream.action * scale)  # type: ignore[operator]
    torch.testing.assert_close(dream.reward, dream.next_obs[:, 0])  # type: ignore[index]
    assert not dream.done.any()
    torch.testing.assert_close(dream.obs[100:], dream.next_obs[:-100])  # type: ignore[index]  # each goes on from the last
    real = dyna.replay.starts().obs[:, 0]  # type: ignore[index]
    assert all(any(torch.equal(start, row) for row in real) for start in dream.obs[:20])  # type: ignore[index]


def test_an_ended_rollout_is_not_continued() -> None:
    (dream,) = branched(walking(WalkConfig(ends_at=1.0)).learn(40)).buffer.dreams
    ended = dream.next_obs[:, 0] > 1  # type: ignore[index]
    assert 0 < int(ended.sum()) < dream.batch_size < 400
    assert torch.equal(dream.done, ended.float())
    assert (dream.obs[100:, 0] <= 1).all()  # type: ignore[index]  # behind the first steps none begins beyond the end


class Doubting(Walk):
    """Gives the end of every episode three in ten, and ends it beyond 1."""

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        state, step = super().predict(*args, **kwargs)
        return state, replace(step, continuation=torch.full_like(step.continuation, 0.7))


def test_a_doubtful_end_counts_as_much_as_it_is_probable_and_a_decided_one_fully() -> None:
    rollouts = BranchedRollouts(FixedLength(4), rollouts_per_step=5, updates_per_step=1)
    config = WalkConfig(ends_at=1.0)
    dyna = agent(Line(), model_class=Doubting, model_config=config, rollouts=rollouts).learn(40)
    (dream,) = branched(dyna).buffer.dreams
    ended = dream.next_obs[:, 0] > 1  # type: ignore[index]
    assert 0 < int(ended.sum()) < dream.batch_size
    torch.testing.assert_close(dream.done, torch.where(ended, 1.0, 0.3))


class Cutting(Walk):
    """Cuts every row whose first number is above 1; ``diverges``: because it diverged."""

    diverges = False

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        state, step = super().predict(*args, **kwargs)
        cut = state.obs[:, 0] > 1
        return state, replace(step, truncated=cut, info={"diverged": cut & self.diverges})


@pytest.mark.parametrize("diverges", [False, True])
def test_a_truncated_row_is_kept_and_not_terminal_and_a_diverged_one_is_left_out(
    diverges: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cutting, "diverges", diverges)
    rollouts = BranchedRollouts(FixedLength(4), rollouts_per_step=5, updates_per_step=1)
    dyna = agent(Line(), model_class=Cutting, model_config=WalkConfig(), rollouts=rollouts).learn(40)
    (dream,) = branched(dyna).buffer.dreams
    beyond = dream.next_obs[:, 0] > 1  # type: ignore[index]
    assert bool(beyond.any()) is not diverges
    assert not dream.done.any()
    assert dream.batch_size < 400


def test_hypotheses_get_equal_shares() -> None:
    dyna = agent(model_config=EnsembleConfig(members=3, hidden=(8,)))
    seen: list[Any] = []
    branch = type(dyna.model).branch

    def spy(self: Any, state: Any, n: int) -> Any:
        seen.append((state.batch_size, n))
        return branch(self, state, n)

    type(dyna.model).branch = spy  # type: ignore[assignment]
    try:
        dyna.learn(40)
    finally:
        type(dyna.model).branch = branch  # type: ignore[method-assign]
    assert seen == [(26, 3)]  # of 4 x 20 rollouts, in whole groups
    assert branched(dyna).buffer.dreams[0].batch_size == 78


def test_exploration_enters_the_dream() -> None:
    quiet = walking(algorithm=TD3).learn(40)
    noise = NormalActionNoise(np.zeros(1), np.full(1, 0.3))
    noisy = walking(algorithm=TD3, algorithm_kwargs={"action_noise": noise}).learn(40)
    spread = [branched(a).buffer.dreams[0].action[:100].std() for a in (quiet, noisy)]
    assert spread[1] > 0.2 > spread[0]
    for rate, expected in ((0.0, False), (1.0, True)):
        fixed = {"exploration_initial_eps": rate, "exploration_final_eps": rate, "exploration_fraction": 1.0}
        dqn = agent("CartPole-v1", DQN, algorithm_kwargs=fixed).learn(40)
        dream = branched(dqn).buffer.dreams[0]
        greedy = dqn.algorithm.predict(dream.obs.numpy(), deterministic=True)[0]  # type: ignore[union-attr]
        assert bool((dream.action[:, 0].numpy() != greedy).any()) is expected
        assert dream.action.dtype == torch.int64


def wandering() -> OrnsteinUhlenbeckActionNoise:
    return OrnsteinUhlenbeckActionNoise(np.zeros(1), np.full(1, 0.3), theta=0.0, dt=1.0)


def test_noise_with_a_memory_wanders_along_each_rollout() -> None:
    rollouts = BranchedRollouts(FixedLength(9), rollouts_per_step=20, updates_per_step=1)
    used = wandering()
    used.noise_prev = np.full(1, 9.0)
    dyna = walking(algorithm=TD3, algorithm_kwargs={"action_noise": used}, rollouts=rollouts).learn(40)
    dream = branched(dyna).buffer.dreams[0]
    chosen = dyna.algorithm.predict(dream.obs.numpy(), deterministic=True)[0] / 2  # type: ignore[union-attr]
    noise = (dream.action.numpy() - chosen).reshape(9, 400)  # of 400 rollouts, side by side
    assert abs(noise[0].std() - 0.3) < 0.05
    assert abs(np.diff(noise[:3], axis=0).std() - 0.3) < 0.05  # it goes on from where it was
    assert abs(noise[2].std() - 0.3 * 3**0.5) < 0.08
    assert abs(np.corrcoef(noise[2, 1:], noise[2, :-1])[0, 1]) < 0.2  # of the next rollout it knows nothing


def test_gsde_draws_each_rollouts_noise() -> None:
    dyna = agent(algorithm=SAC, algorithm_kwargs={"use_sde": True})
    sizes: list[int] = []
    reset: Any = dyna.policy.reset_noise
    dyna.policy.reset_noise = lambda n=1: (sizes.append(n), reset(n))[1]  # type: ignore[method-assign, assignment]
    dyna.learn(40)
    assert sizes[-1] == 4 * 20


# ---- the schedule ---------------------------------------------------------------------------------------------------


def test_every_setting_has_an_effect() -> None:
    base = BranchedRollouts(FixedLength(2), rollouts_per_step=4, updates_per_step=1)

    def weights(rollouts: BranchedRollouts, starts: StartChoice | None = None) -> list[torch.Tensor]:
        return [p.detach().clone() for p in agent(rollouts=rollouts, starts=starts).learn(65).policy.parameters()]

    plain = weights(base)
    assert all(torch.equal(a, b) for a, b in zip(plain, weights(base), strict=True))
    changes: list[dict[str, Any]] = [
        {"length": FixedLength(3)},
        {"rollouts_per_step": 5},
        {"updates_per_step": 2},
        {"real_ratio": 0.5},
        {"retain": 2},
        {"expansion": MVE(1)},
    ]
    for change in changes:
        assert any(not torch.equal(a, b) for a, b in zip(plain, weights(replace(base, **change)), strict=True)), change
    recent = weights(base, RecentStarts(half_life=3.0))
    assert any(not torch.equal(a, b) for a, b in zip(plain, recent, strict=True))


def test_updates_count_environments_and_dqns_target_follows_them() -> None:
    dyna = agent(make_vec_env("Pendulum-v1", 2), rollouts=BranchedRollouts(rollouts_per_step=4, updates_per_step=3))
    dyna.learn(60)  # trained at 40: ten more steps of two environments
    assert dyna.algorithm._n_updates == 10 * 2 * 3
    kwargs = {"target_update_interval": 4, "tau": 1.0}
    dqn: Any = agent("CartPole-v1", DQN, algorithm_kwargs=kwargs).learn(44).algorithm
    pairs = zip(dqn.q_net.parameters(), dqn.q_net_target.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    dqn = agent("CartPole-v1", DQN, algorithm_kwargs=kwargs).learn(45).algorithm
    pairs = zip(dqn.q_net.parameters(), dqn.q_net_target.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)


def test_lengths_follow_the_schedule_and_the_models_error() -> None:
    scheduled = BranchedRollouts(ScheduledLength(40, 80, 1, 5), rollouts_per_step=4, updates_per_step=1)
    dyna = agent(rollouts=scheduled).learn(40)
    assert branched(dyna).mean_length == 1
    assert branched(dyna.learn(40, reset_num_timesteps=False)).mean_length == 5
    adaptive = BranchedRollouts(AdaptiveLength(1e9, longest=6, windows=10), rollouts_per_step=4, updates_per_step=1)
    dyna = agent(rollouts=adaptive).learn(40)
    assert branched(dyna).mean_length == 1  # nothing was fitted before
    assert branched(dyna.learn(20, reset_num_timesteps=False)).mean_length == 6


def test_start_states_follow_their_weights() -> None:
    class Newest(StartChoice):
        def weights(self, replay: Any, rows: Any) -> Any:
            return (rows == rows.max()).astype(float)

    dyna = walking(starts=Newest(), rollouts=BranchedRollouts(rollouts_per_step=5, updates_per_step=1)).learn(40)
    newest = dyna.replay.starts().obs[-1, 0]  # type: ignore[index]
    assert (branched(dyna).buffer.dreams[0].obs == newest).all()


def test_lengths_are_chosen_by_what_came_after_the_last_fit() -> None:
    seen: list[Any] = []

    class Spy(AdaptiveLength):
        def steps(self, experience: Any) -> int:
            seen.append((experience.real_steps, experience.model is not None, experience.unseen.tolist()))
            return super().steps(experience)

    env = make_vec_env("Pendulum-v1", 2)
    agent(env, rollouts=BranchedRollouts(Spy(), rollouts_per_step=4, updates_per_step=1)).learn(80)
    # a reset and 20, then 10 steps of each environment
    assert seen == [(40, False, [0, 0]), (60, True, [21, 21]), (80, True, [31, 31])]


@pytest.mark.parametrize("norm_obs", [True, False])
def test_a_real_vecnormalize_normalises_the_batches_alike(norm_obs: bool, tmp_path: Any) -> None:
    def real() -> VecNormalize:
        return VecNormalize(make_vec_env("Pendulum-v1", 2), norm_obs=norm_obs)

    env = real()
    rollouts = BranchedRollouts(rollouts_per_step=4, updates_per_step=1, expansion=MVE(1))
    dyna: Any = agent(env, rollouts=rollouts)
    batches: list[Any] = []
    sample = dyna.strategy.buffer.sample

    def spy(size: int, env: Any = None) -> Any:
        batches.append((sample(size, env), dyna.strategy.buffer.drawn))
        return batches[-1][0]

    dyna.strategy.buffer.sample = spy
    dyna.learn(60)
    batch, drawn = batches[-1]
    torch.testing.assert_close(batch.observations, torch.as_tensor(env.normalize_obs(drawn.obs.numpy())))
    assert torch.equal(batch.observations, drawn.obs) is not norm_obs
    dyna.save(tmp_path / "agent")
    loaded = Dyna.load(tmp_path / "agent", env=real(), device="cpu")
    for other in (dyna, loaded):
        other.learn(30, reset_num_timesteps=False)
    assert all(same_numbers(dyna.get_parameters()[k], loaded.get_parameters()[k]) for k in dyna.get_parameters())


# ---- resuming and refusing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"starts": FailureStarts(5, 3.0)},
        {"starts": RecentStarts(20.0), "rollouts": BranchedRollouts(AdaptiveLength(9.0, 4, 10), 4, 2, 0.5, 2, MVE(1))},
        {"wrappers": [(UncertaintyPenalty, {"coefficient": 0.5})], "reward": "known"},
        {"wrappers": [(Infoprop, {"horizon": 5})], "termination": "known"},
        {"algorithm": SAC, "algorithm_kwargs": {"use_sde": True}},
    ],
)
def test_resume_in_the_middle_equals_going_on(change: dict[str, Any], tmp_path: Any) -> None:
    dyna = agent(**change).learn(53)
    dyna.save(tmp_path / "agent")
    loaded = Dyna.load(tmp_path / "agent", env="Pendulum-v1", device="cpu")
    for other in (dyna, loaded):
        other.learn(30, reset_num_timesteps=False)
    mine, theirs = dyna.get_parameters(), loaded.get_parameters()
    assert all(same_numbers(mine[name], theirs[name]) for name in mine)
    assert dyna.imagined_timesteps == loaded.imagined_timesteps


def test_resume_with_noise_that_has_a_memory_equals_going_on(tmp_path: Any) -> None:
    dyna = agent(algorithm=TD3, algorithm_kwargs={"action_noise": wandering()}).learn(53)
    dyna.save(tmp_path / "agent")
    kwargs = {"action_noise": wandering()}
    loaded = Dyna.load(tmp_path / "agent", env="Pendulum-v1", device="cpu", algorithm_kwargs=kwargs)
    for other in (dyna, loaded):
        other.learn(30, reset_num_timesteps=False)
    mine, theirs = dyna.get_parameters(), loaded.get_parameters()
    assert all(same_numbers(mine[name], theirs[name]) for name in mine)


class OwnStarts(StartChoice):
    """A user's own choice."""

    def weights(self, replay: Any, rows: Any) -> Any:
        return None


class OwnLength(FixedLength):
    """A user's own length."""


def test_choices_of_ones_own_are_saved_around_and_have_to_be_given_again(tmp_path: Any) -> None:
    rollouts = BranchedRollouts(OwnLength(1), rollouts_per_step=4, updates_per_step=1)
    agent(starts=OwnStarts(), rollouts=rollouts).learn(45).save(tmp_path / "agent")
    with pytest.raises(CheckpointError, match=r"rollouts\['length'\] was OwnLength.*pass rollouts= to load\(\)"):
        Dyna.load(tmp_path / "agent")
    with pytest.raises(CheckpointError, match=r"starts was .*OwnStarts.*pass starts= to load\(\)"):
        Dyna.load(tmp_path / "agent", rollouts=rollouts)
    loaded = Dyna.load(tmp_path / "agent", rollouts=rollouts, starts=OwnStarts(), device="cpu")
    assert loaded.num_timesteps == 45


def test_the_configuration_survives_json() -> None:
    config = BranchedRollouts(AdaptiveLength(0.2, 7, 30), 3, 2, 0.4, 5, MVE(2))
    assert BranchedRollouts.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"algorithm": SAC, "dream_steps": 9}, "dream_steps must be left out with SAC.*BranchedRollouts"),
        ({"algorithm": PPO}, "rollouts must be left out with PPO, which learns in whole dream episodes"),
        ({"algorithm_kwargs": {"replay_buffer_class": object}}, r"may not hold \['replay_buffer_class'\]"),
        ({"algorithm_kwargs": {"gradient_steps": 2}}, r"may not hold \['gradient_steps'\] with LeanSAC, on which they"),
        ({"algorithm": TD3, "algorithm_kwargs": {"n_steps": 3, "train_freq": 4}}, r"hold \['n_steps', 'train_freq'\]"),
    ],
)
def test_what_does_not_go_together_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        agent(**change)


def test_what_changes_sampling_is_inside_of_what_is_known_and_the_rest_around_it() -> None:
    wrappers = [(UncertaintyPenalty, {"coefficient": 0.5}), (Infoprop, {"horizon": 5})]
    model: Any = agent(wrappers=wrappers, reward="known", termination="known").model
    assert [type(m) for m in (model, model.inner, model.inner.inner, model.inner.inner.inner)] == [
        UncertaintyPenalty,
        KnownReward,
        KnownTermination,
        Infoprop,
    ]
    assert model.coefficient == 0.5


def test_start_states_of_whole_episodes_follow_their_weights() -> None:
    class Newest(StartChoice):
        def weights(self, replay: Any, rows: Any) -> Any:
            return 3.0 * (rows == rows.max())

    sizes = {"dream_steps": 64, "dream_envs": 4, "dream_horizon": 8, "rollouts": None}
    dyna = agent(algorithm=PPO, algorithm_kwargs={"n_steps": 16, "batch_size": 32}, starts=Newest(), **sizes).learn(40)
    newest = dyna.replay.starts().obs[-1, 0].numpy()  # type: ignore[index]
    assert (dyna.dream.reset()[0] == newest).all()


def test_wrappers_reach_on_policy_dreams_too(tmp_path: Any) -> None:
    sizes = {"dream_steps": 64, "dream_envs": 4, "dream_horizon": 8, "rollouts": None}
    kwargs = {"n_steps": 16, "batch_size": 32}
    penalised = agent(algorithm=PPO, algorithm_kwargs=kwargs, wrappers=[(UncertaintyPenalty, {})], **sizes)
    penalised.set_logger(configure(str(tmp_path), ["json"]))
    penalised.learn(40)
    plain = agent(algorithm=PPO, algorithm_kwargs=kwargs, **sizes).learn(40)
    pairs = zip(penalised.policy.parameters(), plain.policy.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)
    assert isinstance(penalised.model, UncertaintyPenalty)
    assert json.loads((tmp_path / "progress.json").read_text())["dream/uncertainty"] > 0
    info = penalised._sb3_env.step_info
    assert (info["penalty"] > 0).any()
    assert "raw_reward" in info
    assert isinstance(penalised.action_space, spaces.Box)


class Reach(gym.Env[Any, Any]):
    """A number that pushes move; the nearer to zero, the better; five steps."""

    observation_space = spaces.Box(-2, 2, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place, self.steps = self.np_random.uniform(-1, 1, 1).astype(np.float32), 0
        return self.place, {}

    def step(self, action: Any) -> Any:
        self.place = np.clip(self.place + action, -2, 2).astype(np.float32)
        self.steps += 1
        return self.place, -float(self.place[0] ** 2), False, self.steps == 5, {}


@pytest.mark.slow
def test_lean_sac_learns_to_reach_in_250_real_steps() -> None:
    dyna = agent(
        Reach(),
        algorithm_kwargs={"gamma": 0.5, "policy_kwargs": {"net_arch": [32, 32]}, "learning_rate": 3e-3},
        model_config=EnsembleConfig(members=3, hidden=(32, 32)),
        trainer_config=TrainerConfig(max_updates=300),
        rollouts=BranchedRollouts(FixedLength(2), rollouts_per_step=20, updates_per_step=4),
        learning_starts=50,
        train_freq=50,
    ).learn(250)
    starts = np.linspace(-1, 1, 21, dtype=np.float32)[:, None]
    reached = starts + dyna.predict(starts, deterministic=True)[0]
    assert np.abs(reached).mean() < 0.15  # untrained: about 0.5
