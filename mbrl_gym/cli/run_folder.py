"""Run folders, which explain themselves: run.json beside the agent, the model, the policy, the log and the pictures."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import mbrl_gym
from mbrl_gym.cli.errors import UserError

CONTENTS = {
    "run.json": "command, arguments, seed, versions, results",
    "model": "the learned environment: gym.make('Learned-...', checkpoint=...)",
    "policy.zip": "the policy, for Stable-Baselines3's own load()",
    "agent": "everything: model, policy, experience; mbrl-gym evaluate and --resume read it",
    "experience": "the recorded steps: mbrl-gym train model --dataset, mbrl_gym.data.load_experience",
    "progress.csv": "the log",
    "tensorboard": "the same for TensorBoard",
    "model.png": "picture: k-step prediction against reality",
    "dream.webp": "animation: dream beside reality",
    "evaluation.json": "return of each evaluation episode",
    "report": "fidelity of the model: report.html, figures, report.json (mbrl-gym report)",
}


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run."""

    root: Path

    @property
    def agent(self) -> Path:
        """The agent's checkpoint."""
        return self.root / "agent"

    @property
    def model(self) -> Path:
        """The stored model."""
        return self.root / "model"

    @property
    def policy(self) -> Path:
        """The policy as a stock SB3 zip."""
        return self.root / "policy.zip"

    @property
    def experience(self) -> Path:
        """The recorded experience."""
        return self.root / "experience"

    @property
    def picture(self) -> Path:
        """Prediction against reality."""
        return self.root / "model.png"

    @property
    def animation(self) -> Path:
        """Dream beside reality."""
        return self.root / "dream.webp"

    def exists(self) -> bool:
        """Whether anything is there that a run must not overwrite."""
        if self.root.is_dir():
            return any(self.root.iterdir())
        return os.path.lexists(self.root)

    def check_free(self) -> None:
        """Raise unless a run may begin here.

        Raises:
            UserError: something is there.
        """
        if (self.root / "run.json").is_file():
            raise UserError(f"{self.root} holds a run already; choose another --out")
        if self.exists():
            raise UserError(f"{self.root} exists and is not empty; choose another --out")

    def create(self) -> None:
        """Make the folder.

        Raises:
            UserError: it cannot be made.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make the run folder {self.root}: {error.strerror or error}") from error

    def read(self) -> dict[str, Any]:
        """Return run.json.

        Raises:
            UserError: there is none, or it cannot be read.
        """
        file = self.root / "run.json"
        if not self.root.is_dir():
            raise UserError(f"there is no folder {self.root}; check the path")
        if not file.is_file():
            raise UserError(f"{self.root} is no run folder: it has no run.json; check the path")
        try:
            record = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"{file} cannot be read: {error}") from error
        if not isinstance(record, dict) or not isinstance(record.get("arguments"), dict):
            raise UserError(f"{file} is not what mbrl-gym writes; check the path")
        return record

    def write(self, record: Mapping[str, Any]) -> None:
        """Write run.json, in one piece."""
        write_json(self.root / "run.json", record)

    def contents(self) -> list[tuple[str, str]]:
        """Return name and meaning of everything known that is in the folder."""
        return [(name, text) for name, text in CONTENTS.items() if (self.root / name).exists()]


def fresh_folder(root: Path) -> RunFolder:
    """Return the run folder ``root``, or the first of root-2, root-3, ... that does not hold anything yet."""
    candidates: Iterable[Path] = (root if n == 1 else root.with_name(f"{root.name}-{n}") for n in range(1, 10_000))
    return next(run for run in map(RunFolder, candidates) if not run.exists())


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Write JSON so that a reader sees the old file or the new one."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(temporary, file)


def facts() -> dict[str, Any]:
    """Return what a run's numbers may depend on: versions, revision, platform."""
    packages = ("torch", "gymnasium", "stable-baselines3", "sb3-contrib", "numpy")
    return {
        "versions": {
            "mbrl_gym": mbrl_gym.__version__,
            **{name: _version(name) for name in packages},
            "python": platform.python_version(),
        },
        "git": git_revision(),
        "platform": {"system": platform.platform(), "machine": platform.machine(), "cpus": os.cpu_count()},
    }


def now() -> str:
    """Return the time, UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def fresh_seed() -> int:
    """Return a seed from the system's randomness."""
    return int(np.random.SeedSequence().generate_state(1)[0] >> 1)


def command_line(arguments: list[str] | None = None) -> list[str]:
    """Return the command as it was typed."""
    return ["mbrl-gym", *(sys.argv[1:] if arguments is None else arguments)]


def git_revision() -> str | None:
    """Return the commit of the checkout that mbrl_gym runs from ("-dirty" if it was changed); None for a wheel."""
    root = Path(mbrl_gym.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    git = ["git", "--no-optional-locks", "-C", str(root)]
    try:
        revision = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        changes = subprocess.run(
            [*git, "status", "--porcelain"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return revision.stdout.strip() + ("-dirty" if changes.stdout.strip() else "")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
