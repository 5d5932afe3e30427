"""Learned-Pong's build: what is written, what it says of itself, and the environment that comes of it."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_pong_training import SMALL

import mbrl_gym
from mbrl_gym.store import load_model
from mbrl_gym.wrappers import make_atari
from mbrl_gym.zoo import build_pong
from mbrl_gym.zoo.pong_fidelity import acceptance
from mbrl_gym.zoo.pong_training import Training


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Return the folder of a badly trained Pong and its card."""
    folder = tmp_path_factory.mktemp("zoo")
    training = Training(folder / "work", SMALL)
    assert build_pong.train(training, 1e9)
    return folder / "Learned-Pong", build_pong.build(training, folder, steps=10, samples=32)


def test_card_and_notice_say_what_it_is(built: tuple[Path, dict[str, Any]]) -> None:
    folder, card = built
    text = (folder / "CARD.md").read_text()
    assert "| ball drawn within 2 pixels, one step |" in text
    assert f"{SMALL.real_steps + SMALL.moves_steps} steps of ALE/Pong-v5" in text
    assert text.count("| ok |") + text.count("| short |") == 9
    assert "short" in text  # nobody learns Pong in nine updates
    assert "pictures of the game Pong" in (folder / "NOTICE").read_text()
    assert card["fidelity"]["played"]["random"]["dream"]["steps"] == 160


def test_what_is_written_is_what_was_measured(tmp_path: Path) -> None:
    """Its numbers were rounded to those of the file before."""
    training = Training(tmp_path / "work", SMALL)
    assert training.run(1e9)
    build_pong.build(training, tmp_path, steps=2, samples=32)
    found = load_model(tmp_path / "Learned-Pong", "cpu").model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in training.model.state_dict().items())
    size = (next((tmp_path / "Learned-Pong").glob("v*")) / "model.safetensors").stat().st_size
    count = sum(x.numel() for x in found.values() if x.is_floating_point())
    assert size < 2.5 * count + sum(x.numel() for x in found.values() if not x.is_floating_point())


def test_it_is_an_environment_that_looks_like_the_real_one(built: tuple[Path, dict[str, Any]]) -> None:
    dream, real = mbrl_gym.make("Learned-Pong", checkpoint=built[0]), make_atari("ALE/Pong-v5")
    assert dream.observation_space == real.observation_space
    assert dream.action_space == real.action_space
    first, _ = dream.reset(seed=0)
    assert first.shape == (4, 84, 84)
    assert first.dtype == np.uint8
    assert dream.spec is not None
    single = mbrl_gym.make("Learned-Pong", checkpoint=built[0], stack=1, render_mode="rgb_array")
    assert single.observation_space.shape == (1, 84, 84)
    single.reset(seed=0)
    assert np.asarray(single.render()).shape == (210, 160, 3)


def measured(**changes: float) -> dict[str, Any]:
    """Return what a perfect model would measure, but for ``changes``."""
    real = {"no-op": -0.024, "random": -0.022, "follow": -0.012}
    rates = {**real, **changes}
    row = {"longest_absence": changes.get("gone", 17), "longest_standstill": changes.get("still", 5)}
    row["longest_without_paddle"] = changes.get("unarmed", 1)
    swept = {"reward_rate": -1.0, **row, "longest_without_paddle": changes.get("swept", 1)}
    return {
        "one_step": {"recall": changes.get("recall", 0.99)},
        "alive": {"50": {"dream": changes.get("alive", 0.7), "real": 0.72}},
        "played": {
            **{n: {"dream": {"reward_rate": rates[n], **row}, "real": {"reward_rate": real[n]}} for n in real},
            "sweep": {"dream": swept, "real": {"reward_rate": 1.0}},
        },
    }


@pytest.mark.parametrize(
    ("changes", "short"),
    [
        ({}, []),
        ({"recall": 0.97}, ["ball drawn within 2 pixels, one step"]),
        ({"alive": 0.6}, ["ball on the screen after 50 steps of open loop"]),
        ({"gone": 31}, ["longest absence of the ball, steps"]),
        ({"unarmed": 4}, ["longest absence of the player's paddle, steps"]),
        ({"swept": 4}, ["longest absence of the player's paddle, steps"]),
        ({"still": 31}, ["longest standstill of the screen, steps"]),
        ({"follow": -0.007}, ["reward a step, follow"]),
        ({"no-op": -0.021}, ["order of these players"]),
    ],
)
def test_the_acceptance_test_has_its_bars(changes: dict[str, float], short: list[str]) -> None:
    assert [row.what for row in acceptance(measured(**changes)) if not row.ok] == short


def test_the_command_stops_and_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mbrl_gym.zoo import pong_training

    monkeypatch.setattr(build_pong, "Recipe", lambda: SMALL)
    monkeypatch.setattr(sys, "argv", ["build_pong", "--work", str(tmp_path / "run"), "--minutes", "0"])
    said: list[str] = []
    monkeypatch.setattr("builtins.print", lambda *words: said.append(" ".join(map(str, words))))
    build_pong.main()
    assert said[-1] == "0 of 9 updates are done; call again to go on."
    assert pong_training.Training(tmp_path / "run", SMALL).done == 0
