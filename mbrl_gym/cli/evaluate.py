"""`mbrl-gym evaluate`."""

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from mbrl_gym.agents import ModelBasedAlgorithm
from mbrl_gym.checkpoint import CheckpointError, is_checkpoint
from mbrl_gym.cli.agents import load_agent, stored_kind
from mbrl_gym.cli.commands import Evaluate
from mbrl_gym.cli.errors import UserError, user_errors
from mbrl_gym.cli.real import check_device
from mbrl_gym.cli.run_folder import RunFolder, write_json
from mbrl_gym.cli.text import spread
from mbrl_gym.envs.single import LearnedEnv
from mbrl_gym.report import Returns, run_episodes
from mbrl_gym.store import load_model


def run_evaluate(args: Evaluate) -> int:
    """Evaluate, print, and write evaluation.json; return the exit code."""
    torch.set_num_threads(args.threads)
    if args.episodes < 1:
        raise UserError(f"--episodes must be at least 1, got {args.episodes}")
    check_device(args.device)
    run, arguments = _find(args.folder)
    env_id = args.env or arguments.get("env")
    if env_id is None:
        raise UserError(f"{args.folder} does not say which environment the agent is for; name it with --env")
    agent = load_agent(run, arguments, args.device)
    real = stored_kind(run, arguments).real(env_id, arguments.get("preset"))
    if (real.observation_space, real.action_space) != (agent.observation_space, agent.action_space):
        raise UserError(f"the agent in {args.folder} was trained on other spaces than those of {env_id}")
    results = {"real": run_episodes(agent.predict, real, args.episodes, args.seed)}
    real.close()
    if args.dream:
        results["dream"] = _in_dream(agent, run, args)
    report: dict[str, Any] = {
        "env": env_id,
        "seed": args.seed,
        "real_steps_of_training": agent.real_steps,
        **{name: returns.to_json() for name, returns in results.items()},
    }
    write_json(run.root / "evaluation.json", report)
    print(json.dumps(report, indent=1) if args.json else _summary(env_id, results, run))
    return 0


def _find(folder: Path) -> tuple[RunFolder, dict[str, Any]]:
    """Return the run folder and its arguments; an agent's own checkpoint counts as one, too.

    Raises:
        UserError: there is no agent.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; check the path")
    if is_checkpoint(folder):
        folder = folder.parent
    run = RunFolder(folder)
    if not run.agent.exists():
        raise UserError(f"{folder} holds no agent: there is no {run.agent}; check the path")
    return run, run.read()["arguments"]


def _in_dream(agent: ModelBasedAlgorithm, run: RunFolder, args: Evaluate) -> Returns:
    with user_errors(CheckpointError, ValueError, gym.error.Error):
        stored = load_model(run.model, args.device)
    env = LearnedEnv(stored.model, stored.starts, stored.horizon)
    return run_episodes(agent.predict, env, args.episodes, args.seed)


def _summary(env_id: str, results: dict[str, Returns], run: RunFolder) -> str:
    names = {"real": f"{env_id} (real)", "dream": "its learned environment"}
    width = max(len(names[name]) for name in results)
    lines = [
        f"{names[name]:<{width}}  return {spread(r.mean, r.std)}  over {len(r.returns)} episodes "
        f"(min {min(r.returns):.1f}, max {max(r.returns):.1f}; mean length {sum(r.lengths) / len(r.lengths):.0f})"
        for name, r in results.items()
    ]
    return "\n".join([*lines, f"Each episode: {run.root / 'evaluation.json'}"])
