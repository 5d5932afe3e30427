"""Tree search led by a policy: its proposals and its critic, in the model's units."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from mbrl_gym import EnsembleConfig, TrainerConfig
from mbrl_gym.agents import BranchedRollouts, Dyna, policy_prior, policy_value, search_policy
from mbrl_gym.planners import MCTSConfig

MODEL = {
    "model_config": EnsembleConfig(members=2, hidden=(16,)),
    "trainer_config": TrainerConfig(max_updates=20),
    "learning_starts": 60,
    "seed": 0,
    "device": "cpu",
}
WHOLE = {**MODEL, "dream_steps": 128, "dream_envs": 4, "dream_horizon": 10}
PPO_SMALL = {"n_steps": 16, "batch_size": 32, "n_epochs": 2}
SEARCH = MCTSConfig(simulations=8, horizon=5)


def dyna(algorithm=PPO, env="CartPole-v1", **arguments):
    small = {"algorithm_kwargs": PPO_SMALL} if algorithm is PPO else {}
    return Dyna("MlpPolicy", env, algorithm=algorithm, **{**WHOLE, **small, **arguments})


def beliefs(agent, rows):
    obs = torch.as_tensor(rows, dtype=torch.float32)[:, None]
    return agent.model.believe(obs, torch.zeros(len(rows), 1, agent.model.action_codec.size))


ROWS = np.array([[0.0, 0.0, 0.0, 0.0], [1.0, -1.0, 0.1, 0.5], [2.0, 1.0, -0.1, 0.0]])


def test_the_value_is_in_the_units_of_the_models_rewards():
    agent = dyna().learn(70)
    scale = agent._sb3_env.reward_scale
    assert scale != 1.0
    with torch.no_grad():
        value = policy_value(agent)(beliefs(agent, ROWS))
        critic = agent.policy.predict_values(torch.as_tensor(ROWS, dtype=torch.float32))[:, 0]
    torch.testing.assert_close(value * scale, critic)


def test_a_loaded_agents_values_are_in_the_same_units(tmp_path):
    agent = dyna().learn(70)
    agent.save(tmp_path / "agent")
    loaded = Dyna.load(tmp_path / "agent", device="cpu")
    with torch.no_grad():
        before, after = (policy_value(a)(beliefs(a, ROWS)) for a in (agent, loaded))
    assert torch.equal(before, after)


def test_a_normalised_policy_reads_normalised_observations_and_its_values_are_scaled_back():
    env = VecNormalize(DummyVecEnv([lambda: gym.make("CartPole-v1")]))
    agent = dyna(env=env).learn(70)
    with torch.no_grad():
        value = policy_value(agent)(beliefs(agent, ROWS))
        seen = torch.as_tensor(env.normalize_obs(ROWS.astype(np.float32)))
        critic = agent.policy.predict_values(seen)[:, 0].numpy()
    np.testing.assert_allclose(value.numpy(), env.unnormalize_reward(critic), rtol=1e-5)


def test_the_prior_is_the_policy():
    agent = dyna().learn(70)
    prior = policy_prior(agent)
    with torch.no_grad():
        logits = prior(beliefs(agent, ROWS))
        wanted = agent.policy.get_distribution(torch.as_tensor(ROWS, dtype=torch.float32)).distribution.probs
    torch.testing.assert_close(logits.softmax(-1), wanted)


def test_one_group_of_discrete_actions_will_do():
    env = gym.wrappers.TransformAction(
        gym.make("CartPole-v1"), lambda action: int(action[0]), gym.spaces.MultiDiscrete([2])
    )
    agent = dyna(env=env).learn(70)
    assert search_policy(agent, SEARCH).predict(ROWS.astype(np.float32))[0].shape == (3, 1)


def test_the_value_of_dqn_is_its_best_action_and_there_is_no_prior():
    rollouts = BranchedRollouts(rollouts_per_step=5, updates_per_step=1)
    agent = Dyna("MlpPolicy", "CartPole-v1", algorithm=DQN, rollouts=rollouts, **MODEL).learn(70)
    with torch.no_grad():
        value = policy_value(agent)(beliefs(agent, ROWS))
        wanted = agent.policy.q_net(torch.as_tensor(ROWS, dtype=torch.float32)).amax(1)
    torch.testing.assert_close(value, wanted)
    assert policy_prior(agent) is None
    assert search_policy(agent, SEARCH).predict(ROWS.astype(np.float32))[0].shape == (3,)


def test_the_search_follows_critic_and_prior():
    """With a critic that loves the right, and with a prior that never goes left, the search goes right."""
    agent = dyna().learn(70)
    obs = ROWS[:1].astype(np.float32)
    policy = search_policy(agent, SEARCH, seed=3)
    policy.planner.prior = None
    for side, wanted in ((50.0, 1), (-50.0, 0)):
        policy.planner.terminal_value = lambda state, side=side: side * agent.model.decode(state)[:, 1]
        assert policy.predict(obs)[0].item() == wanted
    policy.planner.terminal_value = lambda state: torch.zeros(state.batch_size)
    for action in (0, 1):
        logits = torch.nn.functional.one_hot(torch.tensor([action]), 2).float() * 200
        policy.planner.prior = lambda state, logits=logits: logits.expand(state.batch_size, -1)
        assert policy.predict(obs)[0].item() == action


def test_the_discount_is_the_agents():
    agent = dyna(algorithm_kwargs={**PPO_SMALL, "gamma": 0.9}).learn(70)
    assert search_policy(agent, SEARCH).planner.config.discount == 0.9
    assert search_policy(agent, SEARCH).planner.config.simulations == 8


def test_it_is_an_sb3_policy_and_the_same_seed_acts_the_same():
    agent = dyna().learn(70)
    env = gym.make("CartPole-v1")
    found = []
    for _ in range(2):
        env.reset(seed=5)
        found.append(evaluate_policy(search_policy(agent, SEARCH, seed=1), env, 1, warn=False)[0])
    assert found[0] == found[1] > 5


@pytest.mark.parametrize(
    ("agent", "message"),
    [
        (
            lambda: dyna(SAC, "Pendulum-v1", dream_steps=None, dream_envs=None, dream_horizon=None),
            "PPO, A2C, TRPO or DQN",
        ),
        (lambda: dyna(env="Pendulum-v1"), "discrete actions"),
        (
            lambda: Dyna("MlpLstmPolicy", "CartPole-v1", algorithm=RecurrentPPO, algorithm_kwargs=PPO_SMALL, **WHOLE),
            "RecurrentPPO",
        ),
    ],
)
def test_what_cannot_lead_a_search_is_refused(agent, message):
    with pytest.raises(ValueError, match=message):
        search_policy(agent(), SEARCH)
