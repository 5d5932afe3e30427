"""RecordExperience: what SB3's algorithms go through, against what their environments say of it."""

import numpy as np
import pytest
from gymnasium import spaces
from sb3_contrib import TQC, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.callbacks import ConvertCallback, EvalCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize, VecTransposeImage

from mbrl_gym import SequenceReplay
from mbrl_gym.agents import Dyna, RecordExperience
from mbrl_gym.data import episodes, experience_facts, load_experience
from mbrl_gym.fit import TrainerConfig
from mbrl_gym.models.ensemble import EnsembleConfig
from recorded import BOX, PUSH, Told, as_lists

CHOICE = spaces.Discrete(4)
DICT = spaces.Dict(place=BOX, kind=spaces.Discrete(3))
IMAGE = spaces.Box(0, 255, (40, 36, 3), np.uint8)
FEW = {"n_steps": 16, "batch_size": 16, "seed": 0, "device": "cpu"}
OFF = {"learning_starts": 8, "batch_size": 8, "buffer_size": 100, "seed": 0, "device": "cpu"}
SMALL = {"net_arch": [4]}


def told_by(worlds):
    """What the environments said, one after the other."""
    return as_lists([episode for world in worlds for episode in world.episodes()])


def vector(worlds):
    return DummyVecEnv([lambda world=world: world for world in worlds])


@pytest.mark.parametrize(
    ("algorithm", "policy", "observation", "action", "arguments"),
    [
        (PPO, "MlpPolicy", BOX, PUSH, FEW),
        (PPO, "MultiInputPolicy", DICT, CHOICE, FEW),
        (A2C, "MlpPolicy", BOX, CHOICE, {"seed": 0, "device": "cpu"}),
        (RecurrentPPO, "MlpLstmPolicy", BOX, PUSH, FEW),
        (SAC, "MlpPolicy", BOX, PUSH, OFF),
        (TQC, "MlpPolicy", BOX, PUSH, OFF),
        (DQN, "MlpPolicy", BOX, CHOICE, OFF),
    ],
)
def test_nothing_is_lost_or_changed(algorithm, policy, observation, action, arguments):
    worlds = [Told(observation, action, lengths) for lengths in ((3, 1, 4), (2, 5))]
    replay = SequenceReplay(observation, action, 400, n_envs=2)
    callback = RecordExperience(replay)
    model = algorithm(policy, vector(worlds), policy_kwargs={**SMALL}, **arguments).learn(64, callback)
    found = list(episodes(replay))
    assert as_lists(found) == told_by(worlds)
    assert replay.n_transitions == model.num_timesteps >= 64
    assert {(e.terminated, e.truncated) for e in found} >= {(True, False), (False, True)}
    if action is PUSH:
        assert all((np.abs(e.action) <= 2).all() for e in found)
    assert not {"reset", "step_async", "step_wait"} & set(vars(model.env))


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_raw_values_are_kept_under_a_vec_normalize(algorithm):
    worlds = [Told(lengths=(3, 1)), Told(lengths=(2,))]
    callback = RecordExperience(SequenceReplay(BOX, PUSH, 400, n_envs=2))
    env = VecNormalize(vector(worlds), clip_obs=0.5)
    algorithm("MlpPolicy", env, policy_kwargs={**SMALL}, **(FEW if algorithm is PPO else OFF)).learn(64, callback)
    assert as_lists(episodes(callback.replay)) == told_by(worlds)


def test_pictures_as_the_algorithm_gets_them():
    world = Told(IMAGE, CHOICE)
    model = PPO("CnnPolicy", vector([world]), policy_kwargs={**SMALL, "normalize_images": True}, **FEW)
    assert isinstance(model.env, VecTransposeImage)
    callback = RecordExperience(SequenceReplay(model.observation_space, CHOICE, 100))
    model.learn(16, callback)
    turned = [(e.obs.transpose(0, 2, 3, 1), e.action.tolist()) for e in episodes(callback.replay)]
    assert all(
        np.array_equal(o, e.obs) and a == e.action.tolist() for (o, a), e in zip(turned, world.episodes(), strict=True)
    )


def test_a_learn_that_goes_on_goes_on_in_its_episode():
    worlds = [Told(lengths=(40,)), Told(lengths=(41,))]
    callback = RecordExperience(SequenceReplay(BOX, PUSH, 400, n_envs=2))
    model = PPO("MlpPolicy", vector(worlds), policy_kwargs={**SMALL}, **FEW)
    model.learn(32, callback)
    model.learn(64, callback, reset_num_timesteps=False)
    assert [len(e) for e in episodes(callback.replay)] == [40, 8, 41, 7]
    assert as_lists(episodes(callback.replay)) == told_by(worlds)
    model.learn(32, callback)  # resets
    assert [len(e) for e in episodes(callback.replay)] == [40, 8, 16, 41, 7, 16]
    assert as_lists(episodes(callback.replay)) == told_by(worlds)


def test_a_learn_in_between_that_was_not_recorded_leaves_a_gap():
    world = Told(lengths=(100,))
    callback = RecordExperience(SequenceReplay(BOX, PUSH, 400))
    model = PPO("MlpPolicy", vector([world]), policy_kwargs={**SMALL}, **FEW)
    for recorder in (callback, None, callback):
        model.learn(16, recorder, reset_num_timesteps=False)
    first, second = episodes(callback.replay)
    (told,) = world.episodes()
    assert np.array_equal(first.obs, told.obs[:17])
    assert np.array_equal(second.obs, told.obs[32:])
    assert np.array_equal(second.action, told.action[32:])


def test_equal_first_observations_do_not_join_episodes():
    nothing = spaces.Discrete(1)
    callback = RecordExperience(SequenceReplay(nothing, CHOICE, 400))
    model = PPO("MlpPolicy", vector([Told(nothing, CHOICE, lengths=(40,))]), policy_kwargs={**SMALL}, **FEW)
    model.learn(16, callback)
    model.learn(16, callback)
    assert [len(e) for e in episodes(callback.replay)] == [16, 16]


def test_an_evaluation_beside_the_training_is_not_recorded():
    world = Told()
    callback = RecordExperience(SequenceReplay(BOX, PUSH, 400))
    evaluation = EvalCallback(VecNormalize(vector([Told()])), eval_freq=8, n_eval_episodes=1, warn=False, verbose=0)
    model = PPO("MlpPolicy", VecNormalize(vector([world])), policy_kwargs={**SMALL}, **FEW)
    model.learn(32, [callback, evaluation])
    assert as_lists(episodes(callback.replay)) == told_by([world])


def test_a_learn_that_failed_leaves_nothing_behind():
    world = Told()
    callback = RecordExperience(SequenceReplay(BOX, PUSH, 400))
    model = PPO("MlpPolicy", vector([world]), policy_kwargs={**SMALL}, **FEW)

    def fail(*_):
        raise RuntimeError("told to")

    with pytest.raises(RuntimeError, match="told to"):
        model.learn(32, [callback, ConvertCallback(fail)])
    model.learn(16, callback)
    assert as_lists(episodes(callback.replay)) == told_by([world])
    assert "step_wait" not in vars(model.env)


def test_two_recorders_do_not_disturb_each_other():
    replays = [SequenceReplay(BOX, PUSH, 100) for _ in range(2)]
    model = PPO("MlpPolicy", vector([Told()]), policy_kwargs={**SMALL}, **FEW)
    model.learn(16, [RecordExperience(replay) for replay in replays])
    assert as_lists(episodes(replays[0])) == as_lists(episodes(replays[1]))
    assert not {"reset", "step_async", "step_wait"} & set(vars(model.env))


def test_a_directory_is_written_when_learning_ends(tmp_path):
    callback = RecordExperience(tmp_path / "e", capacity=300)
    assert callback.replay is None
    model = PPO("MlpPolicy", "CartPole-v1", policy_kwargs={**SMALL}, **FEW)
    model.learn(32, callback)
    assert load_experience(tmp_path / "e").n_transitions == 32
    model.learn(32, callback, reset_num_timesteps=False)
    loaded = load_experience(tmp_path / "e")
    assert (loaded.n_transitions, loaded.capacity) == (64, 300)
    assert as_lists(episodes(loaded)) == as_lists(episodes(callback.replay))
    facts = {"real_id": "CartPole-v1", "time_limit": 500, "recorded_from": "PPO"}
    assert experience_facts(tmp_path / "e") == facts


def test_the_library_s_own_agents_are_recorded_too():
    world = Told(lengths=(5,))
    callback = RecordExperience(SequenceReplay(BOX, PUSH, 200))
    small = {"model_config": EnsembleConfig(members=2, hidden=(4,)), "trainer_config": TrainerConfig(max_updates=2)}
    agent = Dyna(
        "MlpPolicy", vector([world]), dream_steps=64, dream_envs=4, learning_starts=20, train_freq=20, seed=0, **small
    )
    agent.learn(40, callback)
    assert as_lists(episodes(callback.replay)) == as_lists(episodes(agent.replay))
    assert callback.replay.n_transitions == 40


@pytest.mark.parametrize(
    ("replay", "message"),
    [
        (SequenceReplay(BOX, CHOICE, 50), "target must be a replay of the environment's spaces"),
        (SequenceReplay(BOX, PUSH, 50, n_envs=2), "target must be a replay of 1 environments as env is, got 2"),
    ],
)
def test_a_replay_that_does_not_fit_is_refused(replay, message):
    with pytest.raises(ValueError, match=message):
        PPO("MlpPolicy", vector([Told()]), policy_kwargs={**SMALL}, **FEW).learn(16, RecordExperience(replay))
