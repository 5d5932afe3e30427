import ast
import json
import shutil
import subprocess
import sys
import sysconfig

import pytest

import mbrl_gym

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest brings its ancestor
    import tomli as tomllib
from conftest import ROOT
from mbrl_gym import save_model, zoo
from mbrl_gym.store import MODELS

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = {"mbrl_gym": "mbrl_gym", "mbrl_gym.agents": "agents", "mbrl_gym.wrappers": "wrappers"}
FIXTURE = "Learned-Fixture-v0"


def modules():
    """The file of every module of the package, by its name."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join([package, *parts]).removesuffix(".__init__")] = path
    return found


# Files and folders


def test_the_list_of_packages_equals_the_folders():
    setuptools = PROJECT["tool"]["setuptools"]
    assert setuptools["package-dir"] == FOLDERS
    folders = [name for name, path in modules().items() if path.name == "__init__.py"]
    assert sorted(setuptools["packages"]) == sorted(folders)


def test_the_version_is_the_same_everywhere():
    assert mbrl_gym.__version__ == PROJECT["project"]["version"]


def test_everything_public_is_there():
    assert sorted(set(mbrl_gym.__all__), key=lambda name: (not name.isupper(), name)) == mbrl_gym.__all__
    assert all(hasattr(mbrl_gym, name) for name in mbrl_gym.__all__)


# The wheel


def run(folder, *arguments):
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory, pendulum):
    """A wheel, built from a copy of the checkout that ships one more model: the folder it is unpacked in."""
    root = tmp_path_factory.mktemp("wheel")
    source = root / "source"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in FOLDERS.values():
        shutil.copytree(ROOT / folder, source / folder, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    save_model(source / "mbrl_gym" / "zoo" / FIXTURE, pendulum)
    (source / "mbrl_gym" / "zoo" / FIXTURE / "README.md").write_text("a card")
    run(root, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(root), str(source))
    (built,) = root.glob("*.whl")
    run(root, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(root / "target"), str(built))
    return root


def test_the_wheel_holds_every_file(wheel):
    source, target = wheel / "source", wheel / "target" / "mbrl_gym"
    for folder, inside in (("mbrl_gym", "."), ("agents", "agents"), ("wrappers", "wrappers")):
        for path in (source / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                copy = target / inside / path.relative_to(source / folder)
                assert copy.read_bytes() == path.read_bytes()
    assert (target / "py.typed").is_file()
    assert sorted(path.name for path in (wheel / "target").iterdir() if "-" not in path.name) == ["bin", "mbrl_gym"]


def test_every_shipped_model_is_made_from_the_wheel_outside_the_checkout(wheel, python, home):
    code = """
import json, sys
import gymnasium as gym, mbrl_gym, mbrl_gym.agents, mbrl_gym.wrappers
from mbrl_gym import zoo
steps = {}
for env_id in zoo.shipped_models():
    env = gym.make(env_id)
    env.reset(seed=0)
    steps[env_id] = [env.step(env.action_space.sample())[1], gym.make_vec(env_id, num_envs=4).reset()[0].shape[0]]
files = [sys.modules[name].__file__ for name in sys.modules if name.split(".")[0] == "mbrl_gym"]
print(json.dumps({"steps": steps, "files": [file for file in files if file]}))
"""
    found = json.loads(python(code, path=wheel / "target"))
    assert sorted(found["steps"]) == sorted([*zoo.shipped_models(), FIXTURE])
    assert all(file.startswith(str(wheel / "target")) for file in found["files"])


def test_the_command_is_installed(wheel):
    assert (wheel / "target" / "bin" / "mbrl-gym").is_file() == ("scripts" in PROJECT["project"])


# The checkout

UNINSTALLED = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}]
sys.path.append({sysconfig.get_path("purelib")!r})
"""


def test_an_uninstalled_checkout_works(python):
    # -S: no .pth files, and so no editable install
    code = UNINSTALLED + "import mbrl_gym.agents, mbrl_gym.wrappers; print(mbrl_gym.agents.__file__)"
    assert python("-S", "-c", code).strip() == str(ROOT / "agents" / "__init__.py")


def test_the_checkout_works_under_python_m_pytest(python, tmp_path):
    (tmp_path / "test_it.py").write_text(
        "def test_it():\n    import mbrl_gym.agents, mbrl_gym.wrappers, mbrl_gym\n    assert mbrl_gym.agents.Dyna\n"
    )
    python("-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", str(tmp_path), cwd=ROOT, path="")


@pytest.mark.parametrize("name", ["agents", "wrappers"])
def test_a_bare_import_is_refused_by_its_right_name(name, python):
    printed = python("-c", f"import {name}", cwd=ROOT, fails=True)
    assert f"ImportError: import mbrl_gym.{name}, not {name}" in printed
    lint = [sys.executable, "-m", "ruff", "check", "--stdin-filename", "x.py", "-"]
    done = subprocess.run(lint, input=f"import {name}\n{name}.x()\n", cwd=ROOT, capture_output=True, text=True)
    assert "TID251" in done.stdout


def test_importing_loads_nothing_heavy_and_changes_nothing(python):
    code = """
import json, logging, os, sys
import gymnasium, numpy, torch
before = dict(os.environ), logging.root.handlers[:], torch.get_num_threads(), torch.initial_seed()
state = str(numpy.random.get_state())
import mbrl_gym
after = dict(os.environ), logging.root.handlers[:], torch.get_num_threads(), torch.initial_seed()
assert after == before and str(numpy.random.get_state()) == state
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""
    loaded = set(json.loads(python("-W", "error", "-c", code)))
    heavy = {
        "mujoco",
        "ale_py",
        "stable_baselines3",
        "sb3_contrib",
        "matplotlib",
        "pygame",
        "cv2",
        "tensorboard",
        "tyro",
    }
    assert not loaded & heavy


# Layers: what may import what

BASE = {"tensors", "math", "laprop", "schedules", "packing", "frames", "fit_report", "pictures"}
CORE = BASE | {"spaces", "batch", "distributions", "nets", "model", "start_states", "replay", "checkpoint"}
EVERYTHING = CORE | {
    "models",
    "planners",
    "tasks",
    "checker",
    "data",
    "fit",
    "horizon_error",
    "data_as_demonstrator",
    "film",
    "store",
    "zoo",
    "envs",
    "report",
    "wrappers",
    "agents",
    "play",
}
MAY_IMPORT = {
    "tensors": set(),
    "math": set(),
    "laprop": set(),
    "schedules": set(),
    "frames": set(),
    "pictures": set(),
    "packing": BASE,
    "fit_report": set(),
    "spaces": BASE,
    "batch": BASE | {"spaces"},
    "distributions": BASE | {"spaces", "batch"},
    "nets": BASE | {"spaces", "batch", "distributions"},
    "checkpoint": BASE,
    "model": BASE | {"spaces", "batch", "distributions", "nets"},
    "start_states": BASE | {"spaces"},
    "replay": BASE | {"spaces", "batch", "start_states"},
    "models": CORE - {"checkpoint", "replay"},
    "planners": CORE - {"checkpoint", "replay"},
    "tasks": {"spaces"},
    "checker": CORE,
    "fit": CORE | {"data_as_demonstrator"},
    "horizon_error": CORE,
    "film": CORE,
    "data": CORE,
    "data_as_demonstrator": CORE | {"horizon_error"},
    "store": CORE,
    "zoo": {"checkpoint"},
    "envs": CORE | {"store", "zoo"},
    "wrappers": CORE | {"models", "envs", "store", "tasks"},
    "play": CORE | {"envs", "store", "wrappers"},
    "agents": EVERYTHING - {"report", "zoo", "play"},
    "mbrl_gym": EVERYTHING - {"report", "wrappers", "agents", "play"},
    "report": (EVERYTHING - {"play"}) | {"mbrl_gym"},
    "zoo.build": EVERYTHING | {"mbrl_gym"},
    "zoo.pong": {"data", "replay", "wrappers"},
    "zoo.pong_fidelity": CORE | {"models", "envs", "zoo.pong"},
    "zoo.build_pong": EVERYTHING | {"zoo.build", "zoo.pong", "zoo.pong_fidelity", "zoo.pong_training"},
    "zoo.pong_moves": CORE | {"models"},
    "zoo.pong_training": CORE | {"models", "fit", "packing", "zoo.pong", "zoo.pong_moves"},
    "cli": EVERYTHING | {"mbrl_gym", "zoo.build", "zoo.pong"},
}
# A helper belongs to the layer of what it helps.
MAKERS = {f"zoo.{name}" for name in ("build", "build_pong", "pong", "pong_fidelity", "pong_moves", "pong_training")}
HELPERS = {
    "_best_weights": "fit",
    "_device_columns": "replay",
    "_hash": "replay",
    "_ring": "replay",
    "_rows": "replay",
    "_changes": "start_states",
    "_checkpoint_format": "checkpoint",
}
ONLY_IN = {
    "stable_baselines3": ("agents", "wrappers.sb3", "report", "cli", "zoo.build"),
    "sb3_contrib": ("agents", "wrappers.sb3", "report", "cli", "zoo.build"),
    "matplotlib": ("report", "cli"),
    "tyro": ("cli",),
    "starlette": ("play.server",),
    "uvicorn": ("play.server",),
    "mujoco": (),
    "ale_py": ("cli", "wrappers.atari"),
}


def layer(module):
    """The layer of a module of the package."""
    name = module.removeprefix("mbrl_gym").removeprefix(".") or "mbrl_gym"
    name = name if name in MAKERS else name.split(".")[0]
    return HELPERS.get(name, name)


def imported(path, known):
    """Every module that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from {name if name in known else node.module for name in names}


def broken_rules(files):
    """What is imported against the rules, as (module, what it imports)."""
    models = {path.split(":")[0] for path in MODELS.values()}
    for module, path in files.items():
        assert layer(module) in MAY_IMPORT, f"{module} has no layer: add it to MAY_IMPORT or HELPERS in {__file__}"
        for other in imported(path, files):
            package, mine = other.split(".")[0], layer(module)
            if package in ONLY_IN and not module.removeprefix("mbrl_gym.").startswith(ONLY_IN[package]):
                yield module, other
            if package == "mbrl_gym" and layer(other) not in {mine, *MAY_IMPORT[mine]}:
                yield module, other
            if module in models and other in models - {module}:
                yield module, other


def test_the_layers_are_kept():
    assert list(broken_rules(modules())) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("mbrl_gym.model", "from mbrl_gym.envs.vector import LearnedVectorEnv"),
        ("mbrl_gym.models.ensemble", "import stable_baselines3.common"),
        ("mbrl_gym.envs.single", "from mbrl_gym import agents"),
        ("mbrl_gym.envs.vector", "def later():\n    import mbrl_gym.agents.dyna"),
        ("mbrl_gym.agents.dyna", "import mbrl_gym.cli.main"),
        ("mbrl_gym.wrappers.known", "from stable_baselines3 import PPO"),
        ("mbrl_gym.spaces", "import mbrl_gym"),
        ("mbrl_gym.replay", "import matplotlib.pyplot"),
    ],
)
def test_a_broken_rule_is_found(module, line, tmp_path):
    path = tmp_path / "module.py"
    path.write_text(line)
    assert len(list(broken_rules({**modules(), module: path}))) == 1
