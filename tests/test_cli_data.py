"""mbrl-gym record, train model and export: experience in, a learned environment out."""

import csv
import json
import shutil
import signal

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import CartPoleEnv
from stable_baselines3 import PPO, SAC
from test_cli import error_of

import mbrl_gym
from mbrl_gym import load_model
from mbrl_gym.agents import Dyna, PlaNet
from mbrl_gym.cli.main import main
from mbrl_gym.cli.train_model import split
from mbrl_gym.data import episodes, experience_facts, load_experience, record, save_experience, to_minari
from mbrl_gym.fit import TrainerConfig
from mbrl_gym.models.ensemble import EnsembleConfig


@pytest.fixture(autouse=True)
def own_folders(monkeypatch, tmp_path):
    """Models and Minari's data sets in folders of the test's own."""
    monkeypatch.setenv("MBRL_GYM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The folder of 60 recorded steps of CartPole; not to be changed."""
    folder = tmp_path_factory.mktemp("recorded") / "run"
    assert main(["record", "CartPole-v1", "--steps", "60", "--seed", "3", "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    """The folder of a tiny agent as `mbrl-gym train` leaves it, at 20 steps, and as it is a minute later, at 30."""
    folder = tmp_path_factory.mktemp("agent") / "run"
    small = {"model_config": EnsembleConfig(members=2, hidden=(8,)), "trainer_config": TrainerConfig(max_updates=5)}
    schedule = {"learning_starts": 10, "train_freq": 10, "dream_steps": 64, "dream_envs": 4}
    made = Dyna("MlpPolicy", gym.make("CartPole-v1"), seed=0, **small, **schedule)
    made.learn(20)
    folder.mkdir()
    arguments = {"agent": "dyna", "env": "CartPole-v1", "algorithm": "stable_baselines3:PPO"}
    (folder / "run.json").write_text(json.dumps({"arguments": arguments}))
    mbrl_gym.save_model(folder / "model", made.stored_model())
    made.export_sb3(folder / "policy.zip")
    made.save(folder / "agent")
    made.learn(10, reset_num_timesteps=False)
    made.save(folder / "later")
    return folder


def printed(capsys, *arguments):
    """What a command prints."""
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["record"], ["--steps", "--out", "--policy", "--algo", "--seed", "package:Name-v0", "exploring"]),
        (["train", "model"], ["--dataset", "--model", "--updates", "ensemble", "gaussian_process", "Minari"]),
        (["export"], ["--out", "--publish", "Run folder"]),
    ],
)
def test_help_is_complete(command, words, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert [word for word in words if word not in text] == []


# ---- record ---------------------------------------------------------------------------------------------------------


def test_what_is_recorded(recorded):
    replay = load_experience(recorded / "experience")
    same = record(gym.make("CartPole-v1"), steps=60, seed=3)
    assert [e.obs.tolist() for e in episodes(replay)] == [e.obs.tolist() for e in episodes(same)]
    facts = {"real_id": "CartPole-v1", "time_limit": 500, "seed": 3}
    assert experience_facts(recorded / "experience") == facts
    run = json.loads((recorded / "run.json").read_text())
    lengths = [len(e) for e in episodes(replay) if e.terminated]
    assert run["recorded"] == {"steps": 60, "whole_episodes": len(lengths), "returns": lengths}
    assert run["arguments"] == {"env": "CartPole-v1", "steps": 60, "seed": 3, "policy": None, "algorithm": None}
    assert set(run) >= {"command", "versions", "git", "platform", "started", "finished"}
    rows = list(csv.DictReader((recorded / "progress.csv").open()))
    assert [float(row["rollout/ep_len"]) for row in rows] == lengths
    assert [float(row["rollout/ep_rew"]) for row in rows] == lengths


def test_a_policy_of_stable_baselines3_acts(tmp_path, capsys):
    PPO("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [4]}, seed=0, device="cpu").save(tmp_path / "policy.zip")
    given = ["--policy", tmp_path / "policy.zip", "--algo", "PPO", "--seed", 1]
    text = printed(capsys, "record", "CartPole-v1", "--steps", 20, "--out", tmp_path / "run", *given)
    assert "20 real steps of" in text
    assert f"mbrl-gym train model --dataset {tmp_path / 'run'}" in text
    model = PPO.load(tmp_path / "policy.zip", device="cpu")
    torch.manual_seed(1)
    same = record(gym.make("CartPole-v1"), model.predict, steps=20, seed=1)
    actions = [e.action.tolist() for e in episodes(load_experience(tmp_path / "run" / "experience"))]
    assert actions == [e.action.tolist() for e in episodes(same)]


def test_the_agent_of_a_run_acts(agent, tmp_path, capsys):
    printed(capsys, "record", "CartPole-v1", "--steps", 20, "--out", tmp_path / "run", "--policy", agent)
    assert load_experience(tmp_path / "run" / "experience").n_transitions == 20


def test_ctrl_c_keeps_what_there_is(tmp_path, monkeypatch, capsys):
    step, count = CartPoleEnv.step, iter(range(1, 10**9))

    def interrupting(self, action):
        if next(count) == 7:
            signal.raise_signal(signal.SIGINT)
        return step(self, action)

    monkeypatch.setattr(CartPoleEnv, "step", interrupting)
    assert main(["record", "CartPole-v1", "--steps", "50", "--out", str(tmp_path / "run")]) == 130
    assert load_experience(tmp_path / "run" / "experience").n_transitions == 7
    assert json.loads((tmp_path / "run" / "run.json").read_text())["finished"] is None


def test_long_recordings_are_saved_on_the_way(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mbrl_gym.cli.record.SAVE_SECONDS", -1.0)
    monkeypatch.setattr("mbrl_gym.cli.record.LINE_SECONDS", -1.0)
    saved = []
    monkeypatch.setattr("mbrl_gym.cli.record.save_experience", lambda path, replay, facts: saved.append(len(replay)))
    text = printed(capsys, "record", "CartPole-v1", "--steps", 3, "--out", tmp_path / "run")
    assert saved == [2, 3, 4, 4]
    assert "        2 real steps       0 episodes" in text


def test_what_cannot_be_recorded(tmp_path, capsys, agent):
    out, policy = tmp_path / "out", tmp_path / "policy.zip"
    SAC("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [4]}, buffer_size=10, device="cpu").save(policy)
    begin = ["record", "CartPole-v1", "--out", out, "--steps"]
    assert "--steps must be at least 1 real step, got 0" in error_of(capsys, *begin, 0)
    assert "--device nope cannot be used" in error_of(capsys, *begin, 5, "--device", "nope")
    assert "cannot make the environment 'Nope-v0'" in error_of(capsys, "record", "Nope-v0", "--out", out, "--steps", 1)
    begin.append(5)
    assert "there is no --policy; leave it out" in error_of(capsys, *begin, "--algo", "ppo")
    assert "--algorithm is needed to read" in error_of(capsys, *begin, "--policy", policy)
    assert "there is no file" in error_of(capsys, *begin, "--policy", tmp_path / "x.zip", "--algo", "ppo")
    assert "unknown algorithm 'nope'" in error_of(capsys, *begin, "--policy", policy, "--algo", "nope")
    assert "on other spaces than those of CartPole-v1" in error_of(capsys, *begin, "--policy", policy, "--algo", "sac")
    assert "cannot be read as a policy of ppo" in error_of(capsys, *begin, "--policy", policy, "--algo", "ppo")
    policy.write_text("no zip")
    assert "cannot be read as a policy of ppo" in error_of(capsys, *begin, "--policy", policy, "--algo", "ppo")
    assert "is no run folder" in error_of(capsys, *begin, "--policy", tmp_path)
    assert "--algorithm is for a zip" in error_of(capsys, *begin, "--policy", agent, "--algo", "ppo")
    (tmp_path / "run.json").write_text('{"arguments": {}}')
    assert "holds no agent" in error_of(capsys, *begin, "--policy", tmp_path)
    assert "holds a run already; choose another --out" in error_of(capsys, *begin[:2], "--steps", 5, "--out", agent)
    assert "is not empty; choose another" in error_of(capsys, *begin[:2], "--steps", 5, "--out", agent / "agent")
    assert not out.exists()


# ---- train model ----------------------------------------------------------------------------------------------------


def test_a_model_is_trained_and_makes_an_environment(recorded, tmp_path, capsys):
    out = tmp_path / "run"
    given = ["--dataset", recorded, "--out", out, "--seed", 5, "--updates", 30, "--publish", "Learned-FromData-v0"]
    text = printed(capsys, "train", "model", *given)
    assert 'gym.make("Learned-FromData-v0")' in text
    assert "steps that the model was not trained on" in text
    for source in ({"id": "Learned-FromData-v0"}, {"id": "Learned-CartPole-v1", "checkpoint": str(out / "model")}):
        env = gym.make(**source)
        obs, _ = env.reset(seed=0)
        assert env.observation_space.contains(obs)
        assert np.isfinite(env.step(env.action_space.sample())[1])
    stored, replay = load_model(out / "model"), load_experience(recorded / "experience")
    begun = replay.starts(kind="resets").obs.tolist()
    assert (stored.real_id, stored.horizon) == ("CartPole-v1", 500)
    assert stored.starts.obs.tolist() == begun
    assert stored.card["real_steps"] == 60
    run = json.loads((out / "run.json").read_text())
    expected = {"agent": "model", "dataset": str(recorded), "model": "ensemble", "env": "CartPole-v1", "seed": 5}
    assert run["arguments"].items() >= {**expected, "updates": 30, "publish": "Learned-FromData-v0"}.items()
    assert set(run) >= {"command", "versions", "git", "platform", "started", "finished", "fidelity"}
    assert run["fit"]["updates"] == 30
    assert (out / "model.png").stat().st_size > 10_000
    rows = list(csv.DictReader((out / "progress.csv").open()))
    assert len(rows) == run["fit"]["epochs"]
    assert float(rows[-1]["model/updates"]) == 30


def test_the_seed_decides(recorded, tmp_path, capsys):
    weights = []
    for n, seed in enumerate((1, 1, 2)):
        out = tmp_path / str(n)
        printed(capsys, "train", "model", "--dataset", recorded, "--out", out, "--seed", seed, "--updates", 5)
        weights.append(load_model(out / "model").model.state_dict()["net.weights.0"].tolist())
    assert weights[0] == weights[1] != weights[2]


def test_every_kind_of_model_can_be_asked_for(recorded, tmp_path, capsys):
    out = tmp_path / "run"
    printed(capsys, "train", "model", "--dataset", recorded, "--out", out, "--model", "mc_dropout", "--updates", 3)
    assert type(load_model(out / "model").model).__name__ == "MCDropout"


def test_the_experience_of_an_agent_is_a_data_set(agent, tmp_path, capsys):
    printed(capsys, "train", "model", "--dataset", agent, "--out", tmp_path / "run", "--updates", 3)
    stored = load_model(tmp_path / "run" / "model")
    assert (stored.real_id, stored.horizon, stored.card["real_steps"]) == ("CartPole-v1", 500, 20)


def test_a_data_set_of_minari(tmp_path, capsys):
    pytest.importorskip("minari", reason="Minari is an extra")
    to_minari(record(gym.make("Pendulum-v1"), steps=40), "p-v0", env_id="Pendulum-v1")
    text = printed(capsys, "train", "model", "--dataset", "p-v0", "--out", tmp_path / "run", "--updates", 3)
    assert "one episode is too few to keep any from the training" in text
    stored = load_model(tmp_path / "run" / "model")
    assert (stored.real_id, stored.horizon) == ("Pendulum-v1", 200)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["fidelity"] is None


def test_experience_without_an_environment_and_one_that_is_named(tmp_path, capsys):
    save_experience(tmp_path / "e", record(gym.make("Pendulum-v1"), steps=40))
    begin = ["train", "model", "--dataset", tmp_path / "e", "--updates", 3, "--out"]
    text = printed(capsys, *begin, tmp_path / "one")
    assert 'mbrl_gym.make("Learned-Mine-v0", checkpoint=' in text
    stored = load_model(tmp_path / "one" / "model")
    assert (stored.real_id, stored.horizon) == (None, 1000)
    assert mbrl_gym.make("Learned-Mine-v0", checkpoint=tmp_path / "one" / "model").reset()
    printed(capsys, *begin, tmp_path / "two", "--env", "Pendulum-v1")
    stored = load_model(tmp_path / "two" / "model")
    assert (stored.real_id, stored.horizon) == ("Pendulum-v1", 200)
    assert "in other spaces than those of CartPole-v1" in error_of(
        capsys, *begin, tmp_path / "x", "--env", "CartPole-v1"
    )


def test_start_states_are_no_more_than_are_needed(recorded, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mbrl_gym.cli.train_model.STARTS", 2)
    out = tmp_path / "run"
    printed(capsys, "train", "model", "--dataset", recorded, "--out", out, "--seed", 0, "--updates", 3)
    stored, replay = load_model(out / "model"), load_experience(recorded / "experience")
    rng = np.random.default_rng(0)
    assert stored.starts.obs.tolist() == replay.starts(kind="resets", most=2, rng=rng).obs.tolist()


def test_a_tenth_of_the_episodes_is_held_out():
    replay = record(gym.make("CartPole-v1"), steps=500)
    total = len(list(episodes(replay)))
    train, held = split(replay, seed=0)
    assert len(list(episodes(held))) == round(total / 10) > 1
    both = [e.obs.tolist() for part in (train, held) for e in episodes(part)]
    assert sorted(both) == sorted(e.obs.tolist() for e in episodes(replay))
    other = [e.obs.tolist() for e in episodes(split(replay, seed=1)[1])]
    assert other != [e.obs.tolist() for e in episodes(held)]


def test_a_fit_that_fails_says_so_in_run_json(recorded, tmp_path, capsys, monkeypatch):
    def fail(*_):
        raise ValueError("too many points")

    monkeypatch.setattr("mbrl_gym.fit.ModelTrainer.fit", fail)
    message = error_of_later(capsys, "train", "model", "--dataset", recorded, "--out", tmp_path / "run")
    assert "too many points" in message
    assert "failed" in json.loads((tmp_path / "run" / "run.json").read_text())["status"]


def error_of_later(capsys, *arguments):
    """The message of an error that comes after the first lines were printed."""
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 2
    return capsys.readouterr().err


def test_what_cannot_be_trained(recorded, tmp_path, capsys, agent):
    out = tmp_path / "out"
    begin = ["train", "model", "--out", out]
    assert "--dataset is needed" in error_of(capsys, *begin)
    begin += ["--dataset", recorded]
    assert "--device nope cannot be used" in error_of(capsys, *begin, "--device", "nope")
    assert "--steps counts real steps" in error_of(capsys, *begin, "--steps", 5)
    assert "--resume goes on with an agent" in error_of(capsys, *begin, "--resume")
    assert "--model must be one of ensemble" in error_of(capsys, *begin, "--model", "rssm")
    assert "--preset is an option of dreamer, mbpo, pets, planet, simple, not of model" in error_of(
        capsys, *begin, "--preset", "cpu"
    )
    assert "max_updates must be positive" in error_of(capsys, *begin, "--updates", 0)
    assert "--publish: env_id must begin with" in error_of(capsys, *begin, "--publish", "X-v0")
    assert "holds a run already" in error_of(capsys, "train", "model", "--dataset", recorded, "--out", agent)
    option = ["train", "dyna", "--env", "CartPole-v1", "--steps", 5, "--out", out, "--dataset", recorded]
    assert "--dataset is an option of model, not of dyna" in error_of(capsys, *option)
    begin = ["train", "model", "--out", out, "--dataset"]
    assert "holds no experience" in error_of(capsys, *begin, tmp_path)
    shutil.copytree(recorded / "experience", tmp_path / "broken")
    next((tmp_path / "broken" / "chunks").glob("*.npz")).write_text("")
    assert "broken" in error_of(capsys, *begin, tmp_path / "broken")
    empty = mbrl_gym.SequenceReplay(gym.spaces.Discrete(2), gym.spaces.Discrete(2), 5)
    save_experience(tmp_path / "empty", empty)
    assert "at least one episode with its beginning" in error_of(capsys, *begin, tmp_path / "empty")
    assert not out.exists()


def test_an_unknown_data_set_is_one_line(tmp_path, capsys):
    pytest.importorskip("minari", reason="Minari is an extra")
    begin = ["train", "model", "--out", tmp_path / "out", "--dataset"]
    assert "there is no folder nope, and Minari: a Minari dataset's id must be" in error_of(capsys, *begin, "nope")
    assert "got 'nope-v0'; there are: none" in error_of(capsys, *begin, "nope-v0")


# ---- export ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("newer", "steps"), [(False, 20), (True, 30)])
def test_the_newest_model_and_policy_are_exported(agent, tmp_path, capsys, newer, steps):
    run, out = tmp_path / "run", tmp_path / "out"
    shutil.copytree(agent, run)
    if newer:
        shutil.rmtree(run / "agent")
        shutil.move(run / "later", run / "agent")
    text = printed(capsys, "export", run, "--out", out, "--publish", "Learned-Exported-v0")
    assert 'gym.make("Learned-Exported-v0")' in text
    stored, newest = load_model(out / "model"), Dyna.load(run / "agent")
    assert stored.card["real_steps"] == steps == newest.real_steps
    assert all((value == newest.model.state_dict()[name]).all() for name, value in stored.model.state_dict().items())
    env = gym.make("Learned-Exported-v0")
    obs, _ = env.reset(seed=0)
    policy = PPO.load(out / "policy.zip", device="cpu")
    assert policy.predict(obs, deterministic=True)[0] == newest.predict(obs, deterministic=True)[0]
    assert all((v == policy.policy.state_dict()[k]).all() for k, v in newest.policy.state_dict().items())
    record = json.loads((out / "run.json").read_text())
    assert record["arguments"] == {"run": str(run), "env": "CartPole-v1", "publish": "Learned-Exported-v0"}


def test_a_run_without_a_policy_exports_its_model(recorded, tmp_path, capsys):
    printed(capsys, "train", "model", "--dataset", recorded, "--out", tmp_path / "run", "--updates", 3)
    text = printed(capsys, "export", tmp_path / "run", "--out", tmp_path / "out")
    assert "policy.zip" not in text
    assert gym.make("Learned-CartPole-v1", checkpoint=tmp_path / "out" / "model").reset()


def test_an_agent_without_an_sb3_policy_exports_its_model(agent, tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(agent, run)
    (run / "policy.zip").unlink()
    shutil.rmtree(run / "model")
    monkeypatch.setattr("mbrl_gym.cli.export.Dyna", PlaNet)  # as if the agent were of another kind
    printed(capsys, "export", run, "--out", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model", "run.json"]


def test_what_cannot_be_exported(recorded, agent, tmp_path, capsys):
    out = tmp_path / "out"
    assert "--device nope cannot be used" in error_of(capsys, "export", agent, "--out", out, "--device", "nope")
    assert "holds no trained model yet" in error_of(capsys, "export", recorded, "--out", out)
    assert "is no run folder" in error_of(capsys, "export", tmp_path, "--out", out)
    assert "there is no folder" in error_of(capsys, "export", tmp_path / "nope", "--out", out)
    assert "holds a run already; choose another --out" in error_of(capsys, "export", agent, "--out", agent)
    assert "--publish: env_id must begin" in error_of(capsys, "export", agent, "--out", out, "--publish", "X-v0")
    shutil.copytree(agent, tmp_path / "run")
    shutil.rmtree(next((tmp_path / "run" / "model").glob("v*")))
    assert "model" in error_of(capsys, "export", tmp_path / "run", "--out", out)
    assert not out.exists()
