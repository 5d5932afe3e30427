import pickle
import shutil
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec, registry
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import mbrl_gym
from mbrl_gym import LearnedEnv, LearnedVectorEnv, ModelNotAvailable, StoredModel, publish, save_model, zoo
from mbrl_gym.checkpoint import CheckpointError, MissingCheckpoint
from mbrl_gym.envs.registry import available_models, find_model, published_models
from mbrl_gym.envs.registry import home as home_folder
from mbrl_gym.store import load_shared
from worlds import Walk, WalkConfig, walk_starts

SHIPPED = sorted(zoo.shipped_models())


def stored_walk(first=0.0, horizon=9):
    model = Walk(config=WalkConfig())
    return StoredModel(model, walk_starts(model, first), None, horizon)


# Making environments


@pytest.mark.parametrize("env_id", SHIPPED)
def test_shipped_models_are_made_by_id(env_id, home):
    env = gym.make(env_id)
    assert isinstance(env.unwrapped, LearnedEnv)
    obs, _ = env.reset(seed=0)
    assert env.observation_space.contains(obs)
    venv = gym.make_vec(env_id, num_envs=64)
    assert isinstance(venv, LearnedVectorEnv)
    assert venv.reset(seed=0)[0].shape[0] == 64
    assert venv.model is env.unwrapped.model
    assert venv.horizon == env.unwrapped.dream.horizon
    assert isinstance(gym.make(f"mbrl_gym:{env_id}").unwrapped, LearnedEnv)
    assert isinstance(gym.make(env_id.rsplit("-v", 1)[0]).unwrapped, LearnedEnv)


def test_a_published_model_is_made_by_id_with_and_without_a_version_and_prefix(cartpole, home):
    publish(cartpole, "Learned-CartPole-v1")
    for env_id in ("Learned-CartPole-v1", "Learned-CartPole", "mbrl_gym:Learned-CartPole-v1"):
        assert gym.make(env_id).unwrapped.observation_space == cartpole.model.observation_space
        assert gym.make_vec(env_id, num_envs=3).num_envs == 3
    for env_id in ("Learned-CartPole-v1", "Learned-CartPole"):
        assert mbrl_gym.make(env_id).spec.id == "Learned-CartPole-v1"
        assert mbrl_gym.make_vec(env_id, 3).num_envs == 3


def test_keywords_reach_the_environment(cartpole, home):
    publish(cartpole, "Learned-CartPole-v1")
    assert gym.make("Learned-CartPole-v1").unwrapped.dream.horizon == 500
    assert gym.make("Learned-CartPole-v1", horizon=7).unwrapped.dream.horizon == 7
    assert gym.make_vec("Learned-CartPole-v1", num_envs=2, horizon=7).horizon == 7
    assert gym.make_vec("Learned-CartPole-v1", num_envs=2, max_episode_steps=8).horizon == 8
    assert gym.make("Learned-CartPole-v1", max_episode_steps=5).spec.max_episode_steps == 5  # Gymnasium's TimeLimit
    venv = gym.make_vec("Learned-CartPole-v1", num_envs=2, autoreset_mode="NextStep", backend="torch")
    assert venv.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert venv.backend == "torch"
    for make in (gym.make, lambda env_id, **kwargs: gym.make_vec(env_id, num_envs=2, **kwargs)):
        with pytest.raises(ValueError, match="horizon must be at least 1 imagined step, got 0"):
            make("Learned-CartPole-v1", horizon=0)


def test_gymnasium_makes_vectors_of_single_environments_too(cartpole, home):
    publish(cartpole, "Learned-CartPole-v1")
    venv = gym.make_vec("Learned-CartPole-v1", num_envs=2, vectorization_mode="sync")
    assert isinstance(venv, SyncVectorEnv)
    venv.reset(seed=0)
    venv.step(venv.action_space.sample())


@pytest.mark.parametrize(
    "env_id", ["Learned-Hopper-v5", "Learned-ALE/Pong-v5", "Learned-Pong", "Learned-phys2d/Pendulum-v0"]
)
def test_any_known_id_takes_a_checkpoint(env_id, pendulum, tmp_path, home):
    save_model(tmp_path / "model", pendulum)
    for checkpoint in (tmp_path / "model", str(tmp_path / "model")):
        env = gym.make(env_id, checkpoint=checkpoint)
        env.reset(seed=0)
        assert env.spec.id == env_id
        assert gym.make_vec(env_id, num_envs=2, checkpoint=checkpoint).reset()[0].shape == (2, 3)
        assert env.spec.kwargs["checkpoint"] == str(tmp_path / "model")
        again = gym.make(EnvSpec.from_json(env.spec.to_json()))
        assert np.array_equal(again.reset(seed=0)[0], env.reset(seed=0)[0])


def test_an_id_that_nobody_registered_goes_through_mbrl_gym(pendulum, tmp_path, home):
    save_model(tmp_path / "model", pendulum)
    env = mbrl_gym.make("Learned-Nobody-v3", checkpoint=tmp_path / "model", horizon=4)
    assert env.unwrapped.dream.horizon == 4
    assert mbrl_gym.make_vec("Learned-Nobody-v3", 5, checkpoint=tmp_path / "model").num_envs == 5
    spec = mbrl_gym.spec("Learned-Nobody-v3", checkpoint=str(tmp_path / "model"))
    assert gym.make(spec).spec.id == "Learned-Nobody-v3"
    assert gym.make_vec(pickle.loads(pickle.dumps(spec)), num_envs=2).num_envs == 2  # noqa: S301
    assert "Learned-Nobody-v3" not in registry


def test_a_checkpoint_that_is_not_there_is_named(home, tmp_path):
    with pytest.raises(MissingCheckpoint, match=str(tmp_path / "nothing")):
        gym.make("Learned-Hopper-v5", checkpoint=tmp_path / "nothing")


# What is not available


def test_an_id_without_a_model_says_what_there_is_and_how_to_get_one(pendulum, home):
    publish(pendulum, "Learned-Mine-v0")
    for make in (gym.make, gym.make_vec, mbrl_gym.make, mbrl_gym.make_vec):
        with pytest.raises(ModelNotAvailable) as error:
            make("Learned-Hopper-v5")
        message = str(error.value)
        assert message.startswith("no model of 'Learned-Hopper-v5' is shipped or published; available: ")
        assert all(env_id in message for env_id in [*SHIPPED, "Learned-Mine-v0"])
        assert "mbrl_gym.make('Learned-Hopper-v5', checkpoint=FOLDER)" in message
        assert "mbrl-gym train dyna --env Hopper-v5 --out runs/x --publish Learned-Hopper-v5" in message
    with pytest.raises(ModelNotAvailable, match="--env ALE/Breakout-v5"):
        gym.make("Learned-Breakout")


def test_an_unknown_id_says_the_same_through_mbrl_gym(home):
    for make in (mbrl_gym.make, mbrl_gym.make_vec):
        with pytest.raises(
            ModelNotAvailable, match="no model of 'Learned-Nobody-v3' is shipped or published; available"
        ):
            make("Learned-Nobody-v3")
        with pytest.raises(
            ValueError, match="env_id must begin with 'Learned-', as in 'Learned-Pendulum-v1', got 'Hopper"
        ):
            make("Hopper-v5")
        with pytest.raises(gym.error.Error, match="Malformed environment ID"):
            make("Learned-a b")
    with pytest.raises(gym.error.NameNotFound):
        gym.make("Learned-Nobody-v3")  # Gymnasium asks nobody about ids that it does not know


# Publishing


def test_publishing_is_seen_at_once_and_by_a_new_process(pendulum, home, python):
    folder = publish(pendulum, "Learned-MyPendulum-v0")
    assert folder == home / "models" / "Learned-MyPendulum-v0" == published_models()["Learned-MyPendulum-v0"]
    here = gym.make("Learned-MyPendulum-v0").reset(seed=0)[0]
    there = python(
        "import gymnasium as gym, mbrl_gym, sys\n"
        "print(gym.make('Learned-MyPendulum-v0').reset(seed=0)[0].tolist())\n"
        "print(gym.make_vec('Learned-MyPendulum', num_envs=2).num_envs)"
    )
    assert there.split("\n")[:2] == [str(here.tolist()), "2"]


def test_publishing_a_folder_and_publishing_again(pendulum, cartpole, home, tmp_path):
    save_model(tmp_path / "model", pendulum)
    publish(str(tmp_path / "model"), "Learned-Any-v0")
    assert gym.make("Learned-Any-v0").observation_space.shape == (3,)
    publish(cartpole, "Learned-Any-v0")
    assert gym.make("Learned-Any-v0").observation_space.shape == (4,)


def test_a_published_model_comes_before_a_shipped_one(cartpole, home):
    for env_id in SHIPPED:
        publish(cartpole, env_id)
        assert find_model(env_id) == home / "models" / env_id == available_models()[env_id]


@pytest.mark.parametrize("names", [("Learned-Pong", "Learned-ALE/Pong-v5"), ("Learned-ALE/Pong-v5", "Learned-Pong")])
def test_both_names_of_a_game_mean_the_same_model(names, pendulum, home):
    published, other = names
    folder = publish(pendulum, published)
    assert find_model(other) == folder
    assert gym.make(other).observation_space.shape == (3,)


@pytest.mark.parametrize(
    ("env_id", "error", "message"),
    [
        ("Pendulum-v9", ValueError, "env_id must begin with 'Learned-'"),
        ("Learned-two words-v0", gym.error.Error, "Malformed environment ID"),
        ("Learned-../../x-v0", gym.error.Error, "Malformed environment ID"),
        ("Learned-CartPole", gym.error.RegistrationError, "Can't register the unversioned environment"),
        ("Learned-Pong-v5", gym.error.RegistrationError, "Can't register the versioned environment"),
    ],
)
def test_ids_that_gymnasium_refuses_are_refused_before_anything_is_written(env_id, error, message, pendulum, home):
    before = dict(registry)
    with pytest.raises(error, match=message):
        publish(pendulum, env_id)
    assert not home.exists()
    assert registry == before


def test_publishing_what_is_no_model_is_refused_before_anything_is_registered(home, tmp_path):
    with pytest.raises(CheckpointError):
        publish(tmp_path / "nothing", "Learned-Nothing-v0")
    assert "Learned-Nothing-v0" not in registry
    assert not home.exists()


def test_a_third_partys_model_is_published_and_made_with_its_class(home):
    publish(stored_walk(3.0), "Learned-Walk-v0")
    with pytest.raises(
        CheckpointError, match=r"class 'worlds:Walk' is none of mbrl_gym's .*; pass the class as model_cl"
    ):
        gym.make("Learned-Walk-v0")
    env = gym.make("Learned-Walk-v0", model_class=Walk)
    assert env.reset()[0].tolist() == [3.0, 3.0]
    assert gym.make_vec("Learned-Walk-v0", num_envs=2, model_class=Walk).horizon == 9
    assert "model_class" not in env.unwrapped.spec.kwargs
    publish(home / "models" / "Learned-Walk-v0", "Learned-Walk-v1", model_class=Walk)


# The home


def test_the_home_is_where_the_variable_says(monkeypatch, tmp_path):
    monkeypatch.setenv("MBRL_GYM_HOME", str(tmp_path))
    assert home_folder() == tmp_path / "models"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MBRL_GYM_HOME", "~/x")
    assert home_folder() == tmp_path / "x" / "models"
    monkeypatch.delenv("MBRL_GYM_HOME")
    assert home_folder().name == "models"
    assert "mbrl_gym" in str(home_folder())


def test_stray_folders_in_the_home_do_not_break_the_import(pendulum, home, python):
    publish(pendulum, "Learned-Good-v0")
    models = home / "models"
    good = models / "Learned-Good-v0"
    for name in ("Learned-Broken-v0", "Learned-Empty-v0", "stray", "Learned-Dir-v0", "Learned-Nested"):
        (models / name).mkdir()
    (models / "Learned-Broken-v0" / "CURRENT").write_text("v00000009")
    (models / "Learned-Dir-v0" / "CURRENT").mkdir()
    (models / "Learned-Nested" / "file").write_text("x")
    (models / "Learned-File-v0").write_text("x")
    shutil.copytree(good, models / "stray" / "Learned-Deep-v0")
    code = "import gymnasium, mbrl_gym; print(sorted(mbrl_gym.available_models()))"
    assert python("-W", "error", "-c", code).strip() == str(sorted([*SHIPPED, "Learned-Good-v0"]))
    shutil.copytree(good, models / "Learned-two words-v0")
    shutil.copytree(good, models / "Learned-CartPole")  # CartPole has versions: Gymnasium allows no other id
    printed = python("import warnings; warnings.simplefilter('always')\n" + code + "\nmbrl_gym.make('Learned-Good-v0')")
    assert "Learned-Good-v0" in printed
    with pytest.raises(AssertionError, match="has no usable id and is left out"):
        python("-W", "error::UserWarning:mbrl_gym", "-c", "import mbrl_gym")


@pytest.mark.parametrize("content", ["a file", "nothing", "~nobody-of-this-name/x"])
def test_a_home_that_is_no_folder_is_an_empty_one(content, tmp_path, python):
    path = tmp_path / "home"
    if content == "a file":
        path.write_text("x")
    value = content if content.startswith("~") else str(path)
    code = "import mbrl_gym; print(sorted(mbrl_gym.available_models()))"
    assert python("-W", "error", "-c", code, env={"MBRL_GYM_HOME": value}).strip() == str(SHIPPED)


# Sharing


def test_environments_share_one_model(pendulum, home):
    publish(pendulum, "Learned-Shared-v0")
    models = {id(gym.make("Learned-Shared-v0").unwrapped.model) for _ in range(3)}
    models.add(id(gym.make_vec("Learned-Shared-v0", num_envs=2).model))
    assert len(models) == 1


def test_a_model_that_was_published_again_is_seen(home):
    for first in (1.0, 2.0):
        publish(stored_walk(first), "Learned-Walk-v0")
        assert gym.make("Learned-Walk-v0", model_class=Walk).reset()[0][0] == first


def test_a_folder_that_was_removed_and_made_again_is_seen(tmp_path):
    for first in (1.0, 2.0):  # both are version 1
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
        assert save_model(tmp_path / "model", stored_walk(first)).name == "v00000001"
        stored = load_shared(tmp_path / "model", "cpu", Walk)
        assert stored.starts.obs[0, 0, 0] == first
        assert load_shared(str(tmp_path / "model"), "cpu", Walk) is stored


# Which ids are registered


def test_every_id_of_gymnasium_has_a_learned_one():
    real = [entry.id for entry in registry.values() if str(entry.entry_point).startswith("gymnasium.")]
    assert len(real) > 40
    assert all(f"Learned-{env_id}" in registry for env_id in real)


def test_the_ids_do_not_depend_on_whether_ale_py_came_first(python):
    code = "import gymnasium, mbrl_gym; print(sorted(e for e in gymnasium.registry if e.startswith('Learned-')))"
    alone = python("-W", "error", "-c", code)
    assert python("-W", "error", "-c", "import ale_py\n" + code) == alone
    assert "'Learned-Pong'" in alone
    assert "'Learned-ALE/Pong-v5'" in alone
    assert "'Learned-Blackjack-v1'" in alone
    assert "'Learned-Blackjack'" not in alone


def test_the_list_of_atari_games_is_ale_pys(python):
    code = "import ale_py, gymnasium; print(*sorted(e for e in gymnasium.registry if e.startswith('ALE/')))"
    assert python(code).split() == sorted(zoo.atari_ids())


def test_importing_twice_and_registering_again_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mbrl_gym.envs.registry.register_all()
