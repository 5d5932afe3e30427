"""`mbrl-gym export`."""

import shutil
from typing import Any

import gymnasium as gym

import mbrl_gym
from mbrl_gym.agents import Dyna
from mbrl_gym.checkpoint import CheckpointError
from mbrl_gym.cli.agents import load_agent
from mbrl_gym.cli.commands import Export
from mbrl_gym.cli.errors import UserError, user_errors
from mbrl_gym.cli.real import check_device
from mbrl_gym.cli.run_folder import RunFolder, command_line, facts, now
from mbrl_gym.cli.train import WRONG_REQUEST, folder_text, python_text
from mbrl_gym.store import StoredModel, load_model, save_model


def run_export(args: Export) -> int:
    """Write the newest model and policy of a run into a folder of their own; return the exit code."""
    check_device(args.device)
    run, out = RunFolder(args.folder), RunFolder(args.out)
    arguments = run.read()["arguments"]
    out.check_free()
    if args.publish is not None:
        with user_errors(ValueError, gym.error.Error, prefix="--publish: "):
            mbrl_gym.spec(args.publish)
    stored, agent = _newest(run, arguments, args.device)
    out.create()
    save_model(out.model, stored)
    if agent is not None:
        agent.export_sb3(out.policy)
    elif run.policy.is_file():
        shutil.copyfile(run.policy, out.policy)
    given = {"run": str(run.root), "env": arguments.get("env"), "publish": args.publish}
    out.write({"command": command_line(), "arguments": given, "finished": now(), "card": stored.card, **facts()})
    if args.publish:
        with user_errors(OSError, *WRONG_REQUEST, prefix="--publish: "):
            mbrl_gym.publish(stored, args.publish)
    print(f"{folder_text(out)}\n\nNext:\n{python_text(out, arguments.get('env'), args.publish)}", flush=True)
    return 0


def _newest(run: RunFolder, arguments: dict[str, Any], device: str) -> tuple[StoredModel, Dyna | None]:
    """Return the newest model of a run, and the agent where the policy has to come from there.

    A run writes its model when it ends, and its agent, which holds a model too, about once a minute.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    stored = None
    if run.model.exists():
        with user_errors(CheckpointError, ValueError, OSError):
            stored = load_model(run.model, device)
    agent = load_agent(run, arguments, device) if run.agent.exists() else None
    if agent is not None and agent.trainings and (stored is None or stored.card.get("real_steps") != agent.real_steps):
        return agent.stored_model(), agent if isinstance(agent, Dyna) else None
    if stored is None:
        raise UserError(f"{run.root} holds no trained model yet: neither {run.model} nor one in {run.agent}")
    return stored, None
