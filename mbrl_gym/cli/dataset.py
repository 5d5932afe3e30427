"""The recorded experience that the command line names."""

from dataclasses import dataclass
from pathlib import Path

from mbrl_gym.checkpoint import CheckpointError, is_checkpoint
from mbrl_gym.cli.agents import load_agent
from mbrl_gym.cli.errors import UserError, user_errors
from mbrl_gym.cli.run_folder import RunFolder
from mbrl_gym.data import experience_facts, from_minari, load_experience, minari_facts
from mbrl_gym.replay import SequenceReplay


@dataclass(frozen=True)
class Dataset:
    """Experience and the environment it is of.

    Attributes:
        replay: the experience.
        real_id: the environment's id, where it is known.
        time_limit: its steps an episode, where there is a limit.
    """

    replay: SequenceReplay
    real_id: str | None
    time_limit: int | None


def open_dataset(name: str) -> Dataset:
    """Return what ``name`` stands for: a folder of experience, one of a run, or the id of a Minari data set.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    folder = Path(name)
    if folder.exists():
        return _of_folder(folder)
    with user_errors(ImportError, OSError, ValueError, MemoryError, prefix=f"there is no folder {name}, and Minari: "):
        facts = minari_facts(name)
        return Dataset(from_minari(name), facts["real_id"], facts["time_limit"])


def _of_folder(folder: Path) -> Dataset:
    run = RunFolder(folder)
    for path in (folder, run.experience):
        if is_checkpoint(path):
            with user_errors(CheckpointError, OSError, MemoryError):
                facts = experience_facts(path)
                return Dataset(load_experience(path), facts.get("real_id"), facts.get("time_limit"))
    if run.agent.exists():
        agent = load_agent(run, run.read()["arguments"], "cpu")
        return Dataset(agent.replay, agent.real_id, agent.time_limit)
    raise UserError(f"{folder} holds no experience: neither what mbrl-gym record writes nor an agent; check --dataset")
