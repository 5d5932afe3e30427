"""`mbrl-gym train`."""

import importlib.util
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback, CallbackList

import mbrl_gym
from mbrl_gym.agents import ModelBasedAlgorithm
from mbrl_gym.checkpoint import CheckpointError
from mbrl_gym.cli.agents import KINDS, find_kind
from mbrl_gym.cli.callbacks import AfterTraining, StopOnInterrupt
from mbrl_gym.cli.commands import Train
from mbrl_gym.cli.errors import INTERRUPTED, UserError, user_errors
from mbrl_gym.cli.logs import run_logger
from mbrl_gym.cli.outputs import EVALUATION_SEED, save_agent, save_picture, unseen_experience
from mbrl_gym.cli.real import check_device
from mbrl_gym.cli.run_folder import RunFolder, command_line, facts, fresh_seed, now
from mbrl_gym.cli.text import spread
from mbrl_gym.pictures import is_picture
from mbrl_gym.report import DreamLog, run_episodes
from mbrl_gym.store import StoredModel

SAVE_SECONDS = 60.0
LINE_SECONDS = 10.0
EPISODES = 10  # of the evaluation at the end
WRONG_REQUEST = (ValueError, AssertionError, TypeError, CheckpointError, gym.error.Error)


def run_train(args: Train) -> int:
    """Train, save, and say what there is; return the exit code."""
    torch.set_num_threads(args.threads)
    check_device(args.device)
    run = RunFolder(args.out)
    if args.publish is not None:
        with user_errors(ValueError, gym.error.Error, prefix="--publish: "):
            mbrl_gym.spec(args.publish)
    record, agent = _resume(args, run) if args.resume else _begin(args, run)
    env_id, steps = record["arguments"]["env"], record["arguments"]["steps"]
    left = steps - agent.real_steps
    if left <= 0 and not (args.resume and agent.training_due):
        raise UserError(
            f"{run.root} has {agent.real_steps:,} of {steps:,} real steps already; ask for more with --steps"
        )
    extra = _dream_log(args)
    run.create()
    agent.set_logger(run_logger(run.root))
    session = {
        "command": command_line(),
        "started": now(),
        "from_step": agent.real_steps,
        "status": "running",
        **facts(),
    }
    record["sessions"].append(session)
    run.write(record)
    print(f"{KINDS[args.agent].title(agent)} on {env_id}: {left:,} real steps, run folder {run.root}")
    try:
        stopped = _learn(agent, left, run, extra)
    except Exception as error:
        session.update(finished=now(), to_step=agent.real_steps, status=f"failed: {error!r}")
        run.write(record)
        raise
    stored = _save(agent, run, record)
    session.update(finished=now(), to_step=agent.real_steps, status="interrupted" if stopped else "finished")
    record["finished"] = None if stopped else session["finished"]
    run.write(record)
    if stopped:
        print(
            f"Stopped after {agent.real_steps:,} of {steps:,} real steps; everything is saved. Go on with:\n"
            f"  mbrl-gym train {args.agent} --out {run.root} --resume",
            flush=True,
        )
        return INTERRUPTED
    _finish(agent, stored, run, record)
    return 0


# ---- before ------------------------------------------------------------------------------------------


def _begin(args: Train, run: RunFolder) -> tuple[dict[str, Any], ModelBasedAlgorithm]:
    if args.env is None or args.steps is None:
        raise UserError("--env and --steps are needed, as in --env Pendulum-v1 --steps 3000 (or --resume a run)")
    if args.steps < 1:
        raise UserError(f"--steps must be at least 1 real step, got {args.steps}")
    if (run.root / "run.json").is_file():
        raise UserError(f"{run.root} holds a run already; continue it with --resume, or choose another --out")
    run.check_free()
    kind = find_kind(args)
    seed = fresh_seed() if args.seed is None else args.seed
    real = kind.real(args.env, args.preset)
    with user_errors(*WRONG_REQUEST, prefix=f"{kind.request(args)}: "):
        agent = kind.make(args, real, seed)
    arguments = {
        "agent": args.agent,
        "env": args.env,
        "steps": args.steps,
        "seed": seed,
        **kind.arguments(args, agent),
        "device": str(agent.device),
        "publish": args.publish,
    }
    return {
        "command": command_line(),
        "arguments": arguments,
        "started": now(),
        "finished": None,
        "sessions": [],
    }, agent


def _resume(args: Train, run: RunFolder) -> tuple[dict[str, Any], ModelBasedAlgorithm]:
    kind = find_kind(args)
    record = run.read()
    arguments = record["arguments"]
    fixed = {"agent": args.agent, "env": args.env, "seed": args.seed, **kind.given(args)}
    for name, given in fixed.items():
        stored = arguments.get(name)
        if given is not None and given != stored:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} of this run is {stored}, not {given}; leave it out, or begin another run")
    if args.steps is not None:
        arguments["steps"] = args.steps
    if args.publish is not None:
        arguments["publish"] = args.publish
    with user_errors(*WRONG_REQUEST, RuntimeError, prefix=f"cannot resume {run.root}: "):
        agent = kind.load(run, arguments, args.device, kind.real(arguments["env"], arguments.get("preset")))
    record.setdefault("sessions", [])
    return record, agent


# ---- while ------------------------------------------------------------------------------------------


def _dream_log(args: Train) -> list[BaseCallback]:
    """Return the callback of --dream-log, where it is given."""
    if args.dream_log is None:
        return []
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError("--dream-log needs TensorBoard, which is not installed: pip install 'mbrl-gym[viz]'")
    with user_errors(ValueError, ImportError, prefix="--dream-log: "):
        return [DreamLog(args.dream_log)]


def _learn(agent: ModelBasedAlgorithm, steps: int, run: RunFolder, extra: list[BaseCallback]) -> bool:
    """Learn; return whether Ctrl-C ended it early. The agent is saved about once a minute on the way."""
    bar = sys.stderr.isatty()
    last = {"saved": time.monotonic(), "printed": -np.inf}

    def after_training() -> None:
        if time.monotonic() - last["saved"] > SAVE_SECONDS:
            agent.save(run.agent)
            last["saved"] = time.monotonic()
        if not bar and time.monotonic() - last["printed"] > LINE_SECONDS:
            print(_line(agent), flush=True)
            last["printed"] = time.monotonic()

    def between_parts() -> None:
        after_training()
        if stop.requested:
            raise KeyboardInterrupt

    agent.on_part = between_parts
    with StopOnInterrupt() as stop:
        try:
            callbacks = CallbackList([stop, AfterTraining(after_training), *extra])
            agent.learn(steps, callbacks, reset_num_timesteps=False, progress_bar=bar)
        except KeyboardInterrupt:  # in the middle of a training, which resuming begins again
            return True
    return stop.requested


def _line(agent: ModelBasedAlgorithm) -> str:
    episodes = agent.ep_info_buffer or ()
    text = f"{agent.real_steps:>9,} real steps  {agent.imagined_timesteps:>12,} imagined"
    if episodes:
        text += f"  return of real episodes {np.mean([ep['r'] for ep in episodes]):.1f}"
    if agent.last_fit is not None and agent.last_fit.holdout_error:
        text += f"  model error {np.mean(agent.last_fit.holdout_error):.1e}"
    return text + KINDS[agent.kind].note(agent)


# ---- after ------------------------------------------------------------------------------------------


def _save(agent: ModelBasedAlgorithm, run: RunFolder, record: dict[str, Any]) -> StoredModel | None:
    arguments = record["arguments"]
    card = {
        "real_steps": agent.real_steps,
        "trained_with": f"mbrl-gym train {arguments['agent']}",
        "algorithm": KINDS[arguments["agent"]].title(agent),
        "seed": arguments["seed"],
        "versions": record["sessions"][-1]["versions"],
    }
    return save_agent(agent, run, card)


def _finish(agent: ModelBasedAlgorithm, stored: StoredModel | None, run: RunFolder, record: dict[str, Any]) -> None:
    env_id = record["arguments"]["env"]
    real = KINDS[agent.kind].real(env_id, record["arguments"].get("preset"))
    experience = None if is_picture(real.observation_space) else unseen_experience(real, EPISODES)[1]
    returns = run_episodes(agent.predict, real, EPISODES, EVALUATION_SEED, experience)
    real.close()
    record["evaluation"] = returns.to_json()
    run.write(record)
    print(f"\n{agent.real_steps:,} real steps, {agent.imagined_timesteps:,} imagined steps.")
    print(
        f"Real return of the policy: {spread(returns.mean, returns.std)} ({EPISODES} evaluation episodes, not counted)"
    )
    if stored is None:
        print(f"Nothing was trained yet: that begins after {agent.learning_starts:,} real steps (--learning-starts).")
        return
    why = None if experience is None else save_picture(stored, experience, run)
    if why:
        print(why)
    publish = record["arguments"]["publish"]
    if publish:
        with user_errors(OSError, *WRONG_REQUEST, prefix="--publish: "):
            agent.publish(publish)
    print(f"\n{folder_text(run)}\n\nNext:\n{next_text(run, env_id, publish)}", flush=True)


def folder_text(run: RunFolder) -> str:
    """Return what is in the folder, a line each."""
    lines = [f"  {name:<16} {text}" for name, text in run.contents()]
    return "\n".join([f"In {run.root}:", *lines])


def next_text(run: RunFolder, env_id: str, published: str | None = None) -> str:
    """Return what can be done with a finished run."""
    folder = Path(run.root).as_posix()
    return (
        f"  mbrl-gym evaluate {folder} --dream          # the policy, in reality and in its dream\n"
        f"  mbrl-gym train dyna --env {env_id} --steps 3000 --out runs/mine --seed 1\n"
        f"{python_text(run, env_id, published)}"
    )


def python_text(run: RunFolder, env_id: str | None, published: str | None = None) -> str:
    """Return how Python makes the learned environment of a run; ``env_id`` is the real one's, where it has one."""
    learned = f"Learned-{(env_id or 'Mine-v0').rpartition(':')[2]}"
    make = f'{"gym" if learned in gym.registry else "mbrl_gym"}.make("{learned}", checkpoint="{run.model.as_posix()}")'
    if published:
        make = f'gym.make("{published}")'
    return f"  python:\n    import gymnasium as gym, mbrl_gym\n    env = {make}"
