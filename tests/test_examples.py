"""The examples run, each in its short mode, as the user runs them."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import pytest

from mbrl_gym.agents import Dyna
from mbrl_gym.fit import TrainerConfig
from mbrl_gym.models.ensemble import EnsembleConfig

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
EXPECTED = {  # of the last line
    "cleanrl_style.py": "return in the real CartPole-v1",
    "dyna_pendulum.py": "100 real steps, 2,048 imagined: return",
    "dyna_q_maze.py": "episode 5 with 50 planning steps:",
    "pets_pendulum.py": "400 real steps, 190,000 imagined: the last returns",
    "pong_as_a_gif.py": "10 imagined screens in pong.gif: ",
    "ppo_in_shipped_pendulum.py": "return in the real Pendulum-v1",
    "publish_your_model.py": "Learned-MyMountainCar-v0: return of random actions",
    "your_own_environment.py": "2,000 real steps: return",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Tiny models under the ids of the shipped ones, so that the examples do not depend on those."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MBRL_GYM_HOME", str(folder))
        for real in ("Pendulum-v1", "CartPole-v1"):
            agent = Dyna(
                "MlpPolicy",
                gym.make(real),
                model_config=EnsembleConfig(members=2, hidden=(16, 16)),
                trainer_config=TrainerConfig(max_updates=20),
                learning_starts=50,
                dream_steps=512,
                dream_envs=16,
                seed=0,
            )
            agent.learn(50)
            agent.publish(f"Learned-{real}")
    return folder


def test_every_example_is_listed_here():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_it_is_short_and_says_its_command_and_its_number(name):
    source = (EXAMPLES / name).read_text()
    docstring = ast.get_docstring(ast.parse(source))
    assert f"python examples/{name}" in docstring
    assert any(character.isdigit() for character in docstring)
    assert len(source.splitlines()) < 70


def rows():
    """The rows of the table of the docs, as cells, by the name of the example."""
    table = re.findall(
        r"^\| `python examples/(\S+)` \| (.*) \| (.*) \| (.*) \|$", (ROOT / "docs" / "examples.md").read_text(), re.M
    )
    return {name: cells for name, *cells in table}


def test_the_table_of_the_docs_has_every_example():
    assert set(rows()) == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_the_number_in_the_table_is_that_of_its_docstring(name):
    _, number, seconds = rows()[name]
    docstring = ast.get_docstring(ast.parse((EXAMPLES / name).read_text()))
    assert re.search(r"-?\d+", number)[0] in re.findall(r"-?\d+", docstring)
    assert seconds.isdigit()


@pytest.mark.parametrize("name", EXPECTED)
def test_it_runs(name, home, tmp_path):
    environment = {**os.environ, "MBRL_GYM_HOME": str(home), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(EXAMPLES / name), "--short"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert EXPECTED[name] in result.stdout.splitlines()[-1]


def test_the_cleanrl_style_script_knows_nothing_of_us():
    tree = ast.parse((EXAMPLES / "cleanrl_style.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not [name for name in imported if name.startswith("mbrl_gym")]
