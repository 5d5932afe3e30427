"""`mbrl-gym report`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from mbrl_gym.checkpoint import CheckpointError, is_checkpoint
from mbrl_gym.cli.agents import load_agent
from mbrl_gym.cli.commands import Report
from mbrl_gym.cli.errors import UserError, user_errors
from mbrl_gym.cli.real import check_device, find_algorithm, make_real
from mbrl_gym.cli.run_folder import RunFolder
from mbrl_gym.data import Predict
from mbrl_gym.envs.registry import find_model
from mbrl_gym.model import WorldModel
from mbrl_gym.replay import SequenceReplay
from mbrl_gym.report import ReportConfig, check_model, evaluate
from mbrl_gym.report.images import Locate
from mbrl_gym.report.stacked import matched_policy
from mbrl_gym.store import StoredModel, load_model
from mbrl_gym.wrappers.atari import AtariSettings, make_atari
from mbrl_gym.zoo import pong

RULE_FAILED = 1  # exit code of --check
OBJECTS: dict[str, Mapping[str, Locate]] = {pong.ID: {"ball": pong.ball, "paddle": pong.paddle}}


@dataclass(frozen=True)
class _Source:
    """What is judged.

    Attributes:
        model: the model.
        real_id: of the real environment.
        out: where the report goes by default.
        name: what it is called.
        policy: what acts in it; None: random actions.
        replay: recorded experience, or None.
        facts: to show.
    """

    model: WorldModel[Any]
    real_id: str | None
    out: Path
    name: str
    policy: Predict | None = None
    replay: SequenceReplay | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def run_report(args: Report) -> int:
    """Judge the model, print, and write the report; return the exit code."""
    torch.set_num_threads(args.threads)
    check_device(args.device)
    with user_errors(ValueError):
        config = ReportConfig(args.horizon, episodes=args.episodes, episode_steps=args.steps, seed=args.seed)
    source = _find(args)
    real_id = args.env or source.real_id
    if real_id is None:
        raise UserError(f"{args.source} does not say which environment it is a model of; name it with --env")
    real = _make_real(real_id, source.model)
    paths = [file for path in args.checkpoints for file in _checkpoints_in(path)]
    checkpoints = {path.as_posix(): _load_policy(path, "--checkpoints", args, source) for path in paths}
    policy = next(reversed(checkpoints.values()), source.policy)
    if args.policy is not None:
        policy = _load_policy(args.policy, "--policy", args, source)
    try:
        with user_errors(ValueError):
            report = evaluate(
                source.model,
                real if source.replay is None else source.replay,
                policy,
                env=real,
                checkpoints=checkpoints or None,
                objects=OBJECTS.get(real_id),
                title=f"{source.name}: a model of {real_id}",
                real_id=real_id,
                facts=source.facts,
                config=config,
                on_progress=lambda stage: print(f"... {stage}", flush=True),
            )
    finally:
        real.close()
    print(f"\n{report}\n")
    with user_errors(ImportError, OSError, prefix="cannot write the report: "):
        print(f"Written: {report.save(args.out or source.out)}")
    failed = any(verdict.level == "fail" for verdict in check_model(report))
    return RULE_FAILED if args.check and failed else 0


# ---- what is judged -------------------------------------------------------------------------------------------------


def _find(args: Report) -> _Source:
    folder = Path(args.source)
    if (folder / "run.json").is_file():
        return _of_run(RunFolder(folder), args)
    if is_checkpoint(folder):
        return _of_model(folder, folder.name, Path(f"{folder}-report"), args)
    if folder.is_dir():
        raise UserError(f"{folder} holds neither a run (run.json) nor a model; check the path")
    if not args.source.startswith("Learned-"):
        raise UserError(f"there is no folder {folder}, and ids begin with Learned-, as in Learned-Pendulum-v1")
    with user_errors(gym.error.Error):
        found = find_model(args.source)
    return _of_model(found, args.source, Path(f"{args.source.replace('/', '-')}-report"), args)


def _of_run(run: RunFolder, args: Report) -> _Source:
    arguments = run.read()["arguments"]
    if not run.agent.exists():
        raise UserError(f"{run.root} holds no agent: there is no {run.agent}; check the path")
    agent = load_agent(run, arguments, args.device)
    if not agent.trainings:
        raise UserError(f"the agent in {run.root} was never trained, so that its model knows nothing; train it longer")
    facts = {"agent": arguments.get("agent", "dyna"), "real steps": agent.real_steps, "seed": agent.seed}
    name = run.root.resolve().name
    return _Source(agent.model, arguments["env"], run.root / "report", name, agent.predict, agent.replay, facts=facts)


def _of_model(folder: Path, name: str, out: Path, args: Report) -> _Source:
    with user_errors(CheckpointError, OSError):
        stored: StoredModel = load_model(folder, args.device)
    known = {key.replace("_", " "): stored.card.get(key) for key in ("agent", "real_steps", "seed")}
    facts = {key: value for key, value in known.items() if value is not None}
    return _Source(stored.model, stored.real_id, out, name, facts=facts)


# ---- reality and policy ---------------------------------------------------------------------------------------------


def _make_real(real_id: str, model: WorldModel[Any]) -> gym.Env[Any, Any]:
    """Return the real environment; of a game its screen as the model draws it."""
    if not real_id.startswith("ALE/"):
        return make_real(real_id)
    shape = tuple(model.observation_space.shape or ())
    if len(shape) != 3:
        raise UserError(f"the model draws {model.observation_space}, which is no screen of {real_id}; check --env")
    last = shape[-1] < shape[0]
    channels, (height, width) = (shape[-1], shape[:2]) if last else (shape[0], shape[1:])
    settings = AtariSettings(
        height=height, width=width, stack=1, grayscale=channels == 1, channels_last=last, clip_rewards=True
    )
    with user_errors(gym.error.Error, ImportError, ValueError, prefix=f"cannot make the environment {real_id!r}: "):
        return make_atari(real_id, settings)


def _checkpoints_in(path: Path) -> list[Path]:
    """Return the policies that SB3's CheckpointCallback wrote into a folder, oldest first; else the path itself.

    Raises:
        UserError: the folder holds none.
    """
    if not path.is_dir() or (path / "run.json").is_file():
        return [path]
    found = {file: re.search(r"_(\d+)_steps\.zip$", file.name) for file in path.iterdir()}
    steps = {file: int(match[1]) for file, match in found.items() if match}
    if not steps:
        raise UserError(f"--checkpoints {path} holds no *_STEPS_steps.zip of SB3's CheckpointCallback; check the path")
    return sorted(steps, key=lambda file: (steps[file], file))


def _load_policy(path: Path, option: str, args: Report, source: _Source) -> Predict:
    """Return what acts: of a zip of --algo, or of a run folder.

    Raises:
        UserError: it cannot be loaded, or does not fit the model.
    """
    if (path / "run.json").is_file():
        run = RunFolder(path)
        loaded: Any = load_agent(run, run.read()["arguments"], args.device)
    else:
        loaded = _of_zip(path, option, args)
    model = source.model
    if loaded.action_space != model.action_space:
        raise UserError(
            f"{option} {path} has other actions than the model in {args.source}: {loaded.action_space}, not "
            f"{model.action_space}"
        )
    with user_errors(ValueError, prefix=f"{option} {path}: "):
        return matched_policy(loaded.predict, loaded.observation_space, model.observation_space)


def _of_zip(path: Path, option: str, args: Report) -> Any:
    if not path.is_file():
        raise UserError(f"there is no file {path}; check {option}")
    algorithm = find_algorithm(args.algo)
    kinds = (ValueError, AssertionError, TypeError, KeyError, AttributeError, RuntimeError, OSError)
    with user_errors(*kinds, prefix=f"{option} {path} is no policy of {algorithm.__name__}: "):
        return algorithm.load(path, device=args.device)
