"""Value expansion: MVE and STEVE against returns worked out by hand, in a world whose every step is known."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from told import told

from mbrl_gym import EnsembleConfig, TrainerConfig
from mbrl_gym.agents import BranchedRollouts, Dyna, LeanSAC
from mbrl_gym.agents.dream_data import Rows
from mbrl_gym.agents.value_expansion import MVE, STEVE, expand, steve_target
from worlds import BOX, PUSH, Walk, WalkConfig

SMALL: dict[str, Any] = {
    "model_config": EnsembleConfig(members=2, hidden=(16,)),
    "trainer_config": TrainerConfig(max_updates=20),
    "learning_starts": 50,
    "train_freq": 25,
    "device": "cpu",
    "seed": 0,
}


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def transitions(next_first: list[float], done: list[float]) -> Rows:
    """Rows with reward 100 that arrive where the first number is as given."""
    after = torch.tensor([[x, 0.0] for x in next_first])
    count = len(next_first)
    return Rows(torch.zeros(count, 2), torch.zeros(count, 1), after, torch.full((count,), 100.0), torch.tensor(done))


def push_one(obs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Always the encoded push 0.5; its entropy is worth 0.25."""
    return torch.full((len(obs), 1), 0.5), torch.full((len(obs),), 0.25)


def test_no_steps_leave_the_transitions_as_they_are() -> None:
    rows = transitions([1.0, 2.0], [0.0, 1.0])
    found, discounts = expand(Walk(BOX, PUSH), push_one, rows, 0, 0.9, generator())
    assert torch.equal(found.reward, rows.reward)
    assert torch.equal(found.next_obs, rows.next_obs)  # type: ignore[arg-type]
    assert torch.equal(found.done, rows.done)
    assert torch.equal(discounts, torch.full((2,), 0.9))  # the TD target's own


def test_imagined_rewards_are_discounted_and_ends_are_kept() -> None:
    """The walk's reward is its next first number: s + 0.5; it ends beyond 2."""
    model = Walk(BOX, PUSH, WalkConfig(ends_at=2.0))
    rows = transitions([0.0, 1.2, 1.7, 0.0], [0.0, 0.0, 0.0, 1.0])
    found, discounts = expand(model, push_one, rows, 2, 0.9, generator())
    first = 100 + 0.9 * (0.25 + 0.5) + 0.81 * (0.25 + 1.0)
    second = 100 + 0.9 * (0.25 + 1.7) + 0.81 * (0.25 + 2.2)  # which is terminal
    third = 100 + 0.9 * (0.25 + 2.2)  # terminal at once
    torch.testing.assert_close(found.reward, torch.tensor([first, second, third, 100.0]))
    assert found.done.tolist() == [0.0, 1.0, 1.0, 1.0]
    torch.testing.assert_close(discounts[0], torch.tensor(0.9**3))
    torch.testing.assert_close(found.next_obs[0], torch.tensor([1.0, 1.0]))  # type: ignore[index]


class Doubting(Walk):
    """Gives the end of every episode a quarter."""

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        state, step = super().predict(*args, **kwargs)
        return state, replace(step, continuation=torch.full_like(step.continuation, 0.75))


def test_what_comes_after_a_doubtful_end_counts_less() -> None:
    found, _ = expand(Doubting(BOX, PUSH), push_one, transitions([0.0], [0.2]), 2, 0.9, generator())
    reward = 100 + 0.9 * 0.8 * (0.25 + 0.5) + 0.81 * 0.8 * 0.75 * (0.25 + 1.0)
    torch.testing.assert_close(found.reward, torch.tensor([reward]))
    torch.testing.assert_close(found.done, torch.tensor([1 - 0.8 * 0.75**2]))


def test_steve_counts_what_comes_after_a_doubtful_end_less() -> None:
    model = Doubting(BOX, PUSH)
    rows = transitions([4.0], [0.2])
    found = steve_target(model, push_one, two_critics, rows, 0, 0.5, generator())
    torch.testing.assert_close(found, torch.tensor([100 + 0.5 * 0.8 * 6.0]))
    critic = lambda obs: obs[:, :1].T  # noqa: E731  # one critic: no variance, all horizons weigh the same
    found = steve_target(model, push_one, critic, rows, 1, 0.5, generator())
    longer = 100 + 0.5 * 0.8 * (0.25 + 4.5) + 0.25 * 0.8 * 0.75 * 4.5
    torch.testing.assert_close(found, torch.tensor([(100 + 0.5 * 0.8 * 4.0 + longer) / 2]))


class Cutting(Walk):
    """Cuts its rows beyond 1; where ``breaks``, it diverged there."""

    breaks = False

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        state, step = super().predict(*args, **kwargs)
        cut = state.obs[:, 0] > 1
        info = {"diverged": cut & self.breaks}
        return state, replace(step, truncated=cut, info=info)


@pytest.mark.parametrize("breaks", [False, True])
def test_a_cut_row_bootstraps_where_it_was_cut_and_a_diverged_one_before(breaks: bool) -> None:
    model = Cutting(BOX, PUSH)
    model.breaks = breaks
    found, discounts = expand(model, push_one, transitions([0.8], [0.0]), 3, 0.9, generator())
    assert found.done.tolist() == [0.0]
    reward, reached, steps = (100.0, 0.8, 1) if breaks else (100 + 0.9 * (0.25 + 1.3), 1.3, 2)
    torch.testing.assert_close(found.reward, torch.tensor([reward]))
    torch.testing.assert_close(found.next_obs[0, 0], torch.tensor(reached))  # type: ignore[index]
    torch.testing.assert_close(discounts, torch.tensor([0.9**steps]))


def two_critics(obs: Any) -> torch.Tensor:
    """The first number, and twice it."""
    return torch.stack([obs[:, 0], 2 * obs[:, 0]])


def steve(rows: Rows, horizon: int, mean: Any) -> torch.Tensor:
    """Targets in a world of two hypotheses with constant changes, without noise."""
    model = told(mean, variance=0.0)
    return steve_target(model, push_one, two_critics, rows, horizon, 0.5, generator())


def test_steves_shortest_target_is_the_mean_over_critics() -> None:
    mean = [[0.0, 0.0, 0.0]] * 2
    torch.testing.assert_close(steve(transitions([4.0], [0.0]), 0, mean), torch.tensor([100 + 0.5 * 6.0]))
    torch.testing.assert_close(steve(transitions([4.0], [1.0]), 0, mean), torch.tensor([100.0]))


def test_steve_weighs_horizons_by_their_inverse_variances() -> None:
    """Hypotheses that say +0 and +2 of the first number, and rewards of 1 and 3."""
    found = steve(transitions([4.0], [0.0]), 1, [[0.0, 0.0, 1.0], [2.0, 0.0, 3.0]])
    short = torch.tensor([100 + 0.5 * 4, 100 + 0.5 * 8] * 2)
    entropy = 0.25
    far = torch.tensor(
        [100 + 0.5 * (reward + entropy) + 0.25 * q for reward, s in ((1, 4), (3, 6)) for q in (s, 2 * s)]
    )
    weights = torch.stack([1 / short.var(unbiased=False), 1 / far.var(unbiased=False)])
    expected = (weights * torch.stack([short.mean(), far.mean()])).sum() / weights.sum()
    torch.testing.assert_close(found, expected[None])


def test_each_row_has_the_candidates_of_its_own_hypotheses() -> None:
    mean = [[0.0, 0.0, 1.0], [2.0, 0.0, 3.0]]
    rows = transitions([4.0, -1.0, 2.0], [0.0, 0.0, 1.0])
    alone = [steve(transitions([x], [done]), 1, mean) for x, done in ((4.0, 0.0), (-1.0, 0.0), (2.0, 1.0))]
    torch.testing.assert_close(steve(rows, 1, mean), torch.cat(alone))


def test_steve_stops_at_an_end_and_bootstraps_where_a_row_was_cut() -> None:
    """One hypothesis and critics that agree: every horizon counts as much as the others."""

    def agreeing(obs: Any) -> torch.Tensor:
        return obs[:, :1].T.repeat(2, 1)

    def target(model: Any) -> torch.Tensor:
        return steve_target(model, push_one, agreeing, transitions([0.8], [0.0]), 3, 0.5, generator())

    one = 100 + 0.5 * (0.25 + 1.3)
    ended = target(Walk(BOX, PUSH, WalkConfig(ends_at=1.0)))
    torch.testing.assert_close(ended, torch.tensor([(100 + 0.5 * 0.8 + 3 * one) / 4]))
    cut = Cutting(BOX, PUSH)
    torch.testing.assert_close(target(cut), torch.tensor([(100 + 0.5 * 0.8 + 3 * (one + 0.25 * 1.3)) / 4]))
    cut.breaks = True
    torch.testing.assert_close(target(cut), torch.tensor([100 + 0.5 * 0.8]))


def test_imagined_rewards_are_in_the_units_of_the_real_ones_and_the_entropy_stays() -> None:
    rows, model = transitions([1.0], [0.0]), Walk(BOX, PUSH)
    found, _ = expand(model, push_one, rows, 1, 0.9, generator(), lambda reward: reward / 10)
    torch.testing.assert_close(found.reward, torch.tensor([100 + 0.9 * (0.25 + 0.15)]))
    zero = steve_target(model, push_one, lambda obs: torch.zeros(1, len(obs)), rows, 1, 0.9, generator(), torch.neg)
    torch.testing.assert_close(zero, torch.tensor([(100 + 100 + 0.9 * (0.25 - 1.5)) / 2]))


def test_a_sure_horizon_wins() -> None:
    found = steve(transitions([0.0], [0.0]), 1, [[0.0, 0.0, 1.0], [0.0, 0.0, 3.0]])  # at 0 both critics agree
    torch.testing.assert_close(found, torch.tensor([100.0]), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("algorithm", "expansion"), [(LeanSAC, MVE(2)), (LeanSAC, STEVE(2)), (TD3, MVE(1))])
def test_expansions_train_have_an_effect_and_resume(algorithm: Any, expansion: Any, tmp_path: Any) -> None:
    def agent(what: Any) -> Dyna:
        rollouts = BranchedRollouts(rollouts_per_step=4, updates_per_step=1, expansion=what)
        return Dyna("MlpPolicy", "Pendulum-v1", algorithm=algorithm, rollouts=rollouts, **SMALL)

    plain, expanded = agent(None).learn(62), agent(expansion).learn(62)
    assert any(
        not torch.equal(a, b) for a, b in zip(plain.policy.parameters(), expanded.policy.parameters(), strict=True)
    )
    expanded.save(tmp_path / "agent")
    loaded = Dyna.load(tmp_path / "agent", env="Pendulum-v1", device="cpu")
    assert loaded.rollouts == expanded.rollouts
    expanded.learn(20, reset_num_timesteps=False)
    loaded.learn(20, reset_num_timesteps=False)
    pairs = zip(loaded.policy.parameters(), expanded.policy.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_mve_of_no_steps_is_the_plain_target() -> None:
    def weights(what: Any) -> list[torch.Tensor]:
        rollouts = BranchedRollouts(rollouts_per_step=4, updates_per_step=1, expansion=what)
        agent = Dyna("MlpPolicy", "Pendulum-v1", algorithm=TD3, rollouts=rollouts, **{**SMALL, "train_freq": 1000})
        return list(agent.learn(55).policy.parameters())

    assert all(torch.equal(a, b) for a, b in zip(weights(None), weights(MVE(0)), strict=True))


def test_inside_of_dyna_policy_and_critics_count_the_entropy() -> None:
    rollouts = BranchedRollouts(rollouts_per_step=4, updates_per_step=1, expansion=STEVE(1))
    agent: Any = Dyna("MlpPolicy", "Pendulum-v1", algorithm=LeanSAC, rollouts=rollouts, **SMALL).learn(55)
    sac, expander, obs = agent.algorithm, agent.strategy._expander, torch.randn(6, 3)
    with torch.no_grad():
        torch.manual_seed(0)
        action, worth = expander._policy(obs)
        torch.manual_seed(0)
        expected, log_prob = sac.actor.action_log_prob(obs)
        assert torch.equal(action, expected)
        alpha = sac.log_ent_coef.exp()
        assert alpha != 1
        torch.testing.assert_close(worth, -alpha * log_prob)
        torch.manual_seed(0)
        values = expander._critics(obs)
        wanted = torch.stack([q[:, 0] for q in sac.critic_target(obs, action)]) - alpha * log_prob
    torch.testing.assert_close(values, wanted)
    assert not torch.equal(values[0], values[1])


@pytest.mark.parametrize("norm_reward", [False, True])
def test_under_a_vecnormalize_every_reward_is_normalised_once(norm_reward: bool) -> None:
    real = VecNormalize(make_vec_env("Pendulum-v1"), norm_reward=norm_reward)
    rollouts = BranchedRollouts(rollouts_per_step=4, updates_per_step=1, real_ratio=1.0, expansion=MVE(1))
    agent: Any = Dyna("MlpPolicy", real, algorithm=TD3, rollouts=rollouts, reward="known", **SMALL).learn(60)
    buffer, expander = agent.strategy.buffer, agent.strategy._expander
    with torch.no_grad():
        batch = buffer.sample(50, agent.algorithm.get_vec_normalize_env())
        action, _ = expander._policy(buffer.drawn.next_obs)
    unit = np.sqrt(real.ret_rms.var + real.epsilon) if norm_reward else 1.0
    angle = buffer.drawn.next_obs
    theta = torch.atan2(angle[:, 1], angle[:, 0])
    cost = theta**2 + 0.1 * angle[:, 2] ** 2 + 0.001 * (2 * action[:, 0]) ** 2  # Pendulum's, of state and action
    expected = buffer.drawn.reward - agent.algorithm.gamma * cost / unit
    torch.testing.assert_close(batch.rewards[:, 0], expected.float(), rtol=1e-3, atol=1e-3)


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(ValueError, match=r"forms a belief from one observation, got one that needs 2"):
        Dyna(
            "MlpPolicy",
            "Pendulum-v1",
            algorithm=TD3,
            model_class=Walk,
            rollouts=BranchedRollouts(expansion=MVE(1)),
            **{**SMALL, "model_config": WalkConfig(context=2)},
        )
    with pytest.raises(ValueError, match=r"expansion=STEVE needs algorithm=LeanSAC.*got TD3; take MVE"):
        Dyna("MlpPolicy", "Pendulum-v1", algorithm=TD3, rollouts=BranchedRollouts(expansion=STEVE(1)), **SMALL)
    with pytest.raises(ValueError, match="horizon must be at least 0 imagined steps, got -1"):
        MVE(-1)
