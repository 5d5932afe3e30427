"""`mbrl-gym record`."""

import itertools
import time
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from mbrl_gym.cli.agents import load_agent
from mbrl_gym.cli.callbacks import StopOnInterrupt
from mbrl_gym.cli.commands import Record
from mbrl_gym.cli.errors import INTERRUPTED, UserError, user_errors
from mbrl_gym.cli.logs import run_logger
from mbrl_gym.cli.real import check_device, find_algorithm, make_real
from mbrl_gym.cli.run_folder import RunFolder, command_line, facts, fresh_seed, now
from mbrl_gym.cli.text import spread
from mbrl_gym.cli.train import LINE_SECONDS, SAVE_SECONDS, folder_text
from mbrl_gym.data import Predict, play, random_policy, save_experience
from mbrl_gym.replay import SequenceReplay

UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError, EOFError)


def run_record(args: Record) -> int:
    """Record, save, and say what there is; return the exit code."""
    torch.set_num_threads(args.threads)
    check_device(args.device)
    if args.steps < 1:
        raise UserError(f"--steps must be at least 1 real step, got {args.steps}")
    run = RunFolder(args.out)
    run.check_free()
    env = make_real(args.env)
    seed = fresh_seed() if args.seed is None else args.seed
    policy = _policy(args, env, seed)
    with user_errors(ValueError, MemoryError, prefix=f"{args.env}: "):
        replay = SequenceReplay(env.observation_space, env.action_space, 2 * args.steps + 1)  # whatever ends
    run.create()
    arguments = {
        "env": args.env,
        "steps": args.steps,
        "seed": seed,
        "policy": None if args.policy is None else str(args.policy),
        "algorithm": args.algorithm,
    }
    record = {"command": command_line(), "arguments": arguments, "started": now(), "finished": None, **facts()}
    run.write(record)
    print(f"{args.env}: {args.steps:,} real steps of {args.policy or 'random actions'}, run folder {run.root}")
    torch.manual_seed(seed)
    returns, stopped = _record(policy, env, replay, args.steps, seed, run)
    record.update(
        finished=None if stopped else now(),
        recorded={"steps": replay.total_added, "whole_episodes": len(returns), "returns": returns},
    )
    run.write(record)
    env.close()
    print(f"\n{replay.total_added:,} real steps, {len(returns)} whole episodes{_summary(returns)}.")
    print(
        f"\n{folder_text(run)}\n\nNext:\n  mbrl-gym train model --dataset {run.root} --out {run.root}-model", flush=True
    )
    return INTERRUPTED if stopped else 0


def _record(
    policy: Predict, env: gym.Env[Any, Any], replay: SequenceReplay, steps: int, seed: int, run: RunFolder
) -> tuple[list[float], bool]:
    """Return the returns of whole episodes, and whether Ctrl-C ended it early; saves about once a minute on the way."""
    logger = run_logger(run.root)
    spec = env.spec
    about = {"real_id": spec.id if spec else None, "time_limit": spec.max_episode_steps if spec else None, "seed": seed}
    returns, rewards = [], []
    saved = printed = time.monotonic()
    seeds = itertools.chain([seed], itertools.repeat(None))
    with StopOnInterrupt() as stop:
        for step in itertools.islice(play(policy, env, seeds, replay, deterministic=False), steps):
            rewards.append(step.reward)
            if step.ended:
                returns.append(sum(rewards))
                logger.record("rollout/ep_rew", returns[-1])
                logger.record("rollout/ep_len", len(rewards))
                logger.record("time/episodes", len(returns))
                logger.record("time/total_timesteps", replay.total_added)
                logger.dump(replay.total_added)
                rewards = []
            if time.monotonic() - printed > LINE_SECONDS:
                print(f"{replay.total_added:>9,} real steps  {len(returns):>6,} episodes", flush=True)
                printed = time.monotonic()
            if time.monotonic() - saved > SAVE_SECONDS:
                save_experience(run.experience, replay, about)
                saved = time.monotonic()
            if stop.requested:
                break
    save_experience(run.experience, replay, about)
    logger.close()
    return returns, stop.requested


def _policy(args: Record, env: gym.Env[Any, Any], seed: int) -> Predict:
    """Return what acts.

    Raises:
        UserError: it cannot be loaded, or is for other spaces.
    """
    if args.policy is None:
        if args.algorithm is not None:
            raise UserError("--algorithm says how to read the zip of --policy, and there is no --policy; leave it out")
        return random_policy(env.action_space, seed)
    agent = _of_run(args) if args.policy.is_dir() else _of_zip(args)
    if (agent.observation_space, agent.action_space) != (env.observation_space, env.action_space):
        raise UserError(f"the policy {args.policy} was trained on other spaces than those of {args.env}")
    predict: Predict = agent.predict
    return predict


def _of_run(args: Record) -> Any:
    assert args.policy is not None
    if args.algorithm is not None:
        raise UserError(f"--algorithm is for a zip, and {args.policy} is a folder; leave it out")
    run = RunFolder(args.policy)
    arguments = run.read()["arguments"]
    if not run.agent.exists():
        raise UserError(f"{args.policy} holds no agent: there is no {run.agent}; check --policy")
    return load_agent(run, arguments, args.device)


def _of_zip(args: Record) -> Any:
    policy = Path(args.policy or "")
    if args.algorithm is None:
        raise UserError(f"--algorithm is needed to read {policy}, as in --algorithm ppo")
    if not policy.is_file():
        raise UserError(f"there is no file {policy}; check --policy")
    algorithm = find_algorithm(args.algorithm)
    with user_errors(*UNREADABLE, UnpicklingError, prefix=f"{policy} cannot be read as a policy of {args.algorithm}: "):
        return algorithm.load(policy, device=args.device)


def _summary(returns: list[float]) -> str:
    return f", return {spread(float(np.mean(returns)), float(np.std(returns)))}" if returns else ""
