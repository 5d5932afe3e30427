"""`mbrl-gym demo`: a model of a real environment is learned, and a policy inside it, before the user's eyes."""

import sys
import time
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import PPO
from tqdm.auto import tqdm

from mbrl_gym.agents import Dyna
from mbrl_gym.cli.callbacks import AfterTraining
from mbrl_gym.cli.commands import Demo
from mbrl_gym.cli.errors import UserError, user_errors
from mbrl_gym.cli.logs import run_logger
from mbrl_gym.cli.outputs import EVALUATION_SEED, HORIZON, model_error, save_agent, save_picture, unseen_experience
from mbrl_gym.cli.real import find_policy, make_real
from mbrl_gym.cli.run_folder import RunFolder, command_line, facts, fresh_folder, now
from mbrl_gym.cli.text import spread, table
from mbrl_gym.cli.train import WRONG_REQUEST, folder_text, next_text
from mbrl_gym.envs.single import LearnedEnv
from mbrl_gym.fit import TrainerConfig
from mbrl_gym.models.ensemble import EnsembleConfig
from mbrl_gym.replay import SequenceReplay
from mbrl_gym.report import Returns, animate_dream, run_episodes

COLUMNS = (("real steps", 10), ("imagined steps", 14), ("model error", 17), ("real return", 16), ("time", 6))


@dataclass(frozen=True)
class _Budget:
    """How much of everything beside the real steps."""

    episodes: int = 10  # of the evaluation after each iteration
    final_episodes: int = 20
    frames: int = 150
    agent: tuple[tuple[str, Any], ...] = ()


def _budget(quick: bool) -> _Budget:
    if not quick:
        return _Budget()
    small = {
        "model_config": EnsembleConfig(members=2, hidden=(16, 16)),
        "trainer_config": TrainerConfig(max_updates=20),
        "dream_steps": 512,
        "dream_envs": 16,
    }
    return _Budget(episodes=1, final_episodes=2, frames=12, agent=tuple(small.items()))


def run_demo(args: Demo) -> int:
    """Run the demo; return the exit code."""
    if args.steps < 3:
        raise UserError(f"--steps must be at least 3 real steps, got {args.steps}")
    torch.set_num_threads(args.threads)
    budget, started = _budget(args.quick), time.monotonic()
    real, evaluation = make_real(args.env), make_real(args.env)
    iteration = min(1000, args.steps // 3)
    with user_errors(*WRONG_REQUEST, prefix=f"PPO in a model of {args.env}: "):
        policy = find_policy(PPO, real.observation_space)
        schedule = {"learning_starts": iteration, "train_freq": iteration, **dict(budget.agent)}
        agent = Dyna(policy, real, algorithm=PPO, seed=args.seed, **schedule)
    run = fresh_folder(args.out)
    run.create()
    record = {
        "command": command_line(),
        "arguments": {
            "agent": "dyna",
            "env": args.env,
            "steps": args.steps,
            "algorithm": "stable_baselines3:PPO",
            "seed": args.seed,
            "quick": args.quick,
        },
        "started": now(),
        "finished": None,
        **facts(),
    }
    run.write(record)
    print(_explanation(args, agent, iteration, budget, run), flush=True)
    random, experience = unseen_experience(evaluation, budget.final_episodes, args.seed)
    _row("0", "0", "-", spread(random.mean, random.std), started, " random actions")
    agent.set_logger(run_logger(run.root))
    watch = _Watch(agent, evaluation, experience, budget, started)
    agent.learn(args.steps, AfterTraining(watch.look), progress_bar=sys.stderr.isatty())
    dyna = run_episodes(agent.predict, evaluation, budget.final_episodes, EVALUATION_SEED)
    card = {"real_steps": agent.real_steps, "trained_with": "mbrl-gym demo", "seed": args.seed}
    stored = save_agent(agent, run, card)
    assert stored is not None
    rows = [("random actions", 0, random), (f"Dyna: PPO in the model of {args.env}", agent.real_steps, dyna)]
    if args.baseline:
        print("\nFor comparison: SB3's PPO, stock hyperparameters, in reality on as many steps ...", flush=True)
        rows.insert(1, _baseline(args, policy, evaluation, budget))
    note = save_picture(stored, experience, run)
    dream = LearnedEnv(stored.model, stored.starts, stored.horizon)
    eventful = EVALUATION_SEED + dyna.returns.index(min(dyna.returns))
    animate_dream(run.animation, agent.predict, evaluation, dream, steps=budget.frames, seed=eventful)
    record["results"] = {name: {"real_steps": steps, **r.to_json()} for name, steps, r in rows}
    record["finished"] = now()
    run.write(record)
    print(f"\n{_comparison(rows, budget)}\n")
    if note:
        print(note)
    print(f"{folder_text(run)}\n\nNext:\n{next_text(run, args.env)}")
    print(f"\n{time.monotonic() - started:.0f} s", flush=True)
    evaluation.close()
    return 0


def _explanation(args: Demo, agent: Dyna, iteration: int, budget: _Budget, run: RunFolder) -> str:
    members = getattr(agent.model, "members", 1)
    columns = "  ".join(name.rjust(width) for name, width in COLUMNS)
    return f"""\
A model of {args.env} is learned from {args.steps:,} real steps, and a policy is trained inside the model. Repeatedly:
  1. collect  {iteration:,} real steps (the first at random, then with the policy so far)
  2. fit      an ensemble of {members} neural networks to all real steps so far
  3. dream    {agent.dream_steps:,} steps of Stable-Baselines3's PPO inside the model; reality is not touched

Each line below: the error of the model after 1 and after {HORIZON} steps without seeing reality, in percent of the
standard deviation of the data; and the return of the policy in reality, mean ± standard deviation of {budget.episodes}
episodes. These are played on a separate copy: they are neither learned from nor counted as real steps.

run folder: {run.root}

{columns}
{"  ".join("-" * width for _, width in COLUMNS)}"""


def _row(real: str, imagined: str, error: str, returns: str, started: float, note: str = "") -> None:
    seconds = f"{time.monotonic() - started:.0f} s"
    cells = zip((real, imagined, error, returns, seconds), COLUMNS, strict=True)
    tqdm.write("  ".join(cell.rjust(width) for cell, (_, width) in cells) + note, file=sys.stdout)
    sys.stdout.flush()


class _Watch:
    """Evaluates and prints a line after each training; the episodes join the experience that models are judged on."""

    def __init__(
        self, agent: Dyna, env: gym.Env[Any, Any], experience: SequenceReplay, budget: _Budget, started: float
    ) -> None:
        self._agent, self._env, self._budget, self._started = agent, env, budget, started
        self._experience = experience

    def look(self) -> None:
        agent = self._agent
        returns = run_episodes(agent.predict, self._env, self._budget.episodes, EVALUATION_SEED, self._experience)
        error = model_error(agent.model, self._experience)
        text = "-"
        if error is not None:
            text = f"{_percent(error.overall[0])} / {_percent(error.overall[-1])}"
            text += f" (k={error.horizon})" if error.horizon != HORIZON else ""  # the episodes were too short
        agent.logger.record("eval/mean_reward", returns.mean)
        agent.logger.record("eval/mean_ep_length", float(np.mean(returns.lengths)))
        if error is not None:
            agent.logger.record("eval/model_error_1", float(error.overall[0]))
            agent.logger.record(f"eval/model_error_{error.horizon}", float(error.overall[-1]))
        agent.logger.record("time/total_timesteps", agent.num_timesteps, exclude="tensorboard")
        agent.logger.dump(agent.num_timesteps)  # a row of its own, as EvalCallback's
        real, imagined = f"{agent.real_steps:,}", f"{agent.imagined_timesteps:,}"
        _row(real, imagined, text, spread(returns.mean, returns.std), self._started)


def _percent(x: float) -> str:
    return f"{100 * x:.2g} %" if x < 1 else f"{100 * x:.0f} %"


def _baseline(args: Demo, policy: str, evaluation: gym.Env[Any, Any], budget: _Budget) -> tuple[str, int, Returns]:
    # PPO learns from whole rollouts, so it gets the last one in full. From 2,048 steps on, all settings are stock.
    rollout = 2048 if args.steps >= 2048 else max(64, args.steps // 64 * 64)
    ppo = PPO(policy, make_real(args.env), seed=args.seed, device="cpu", n_steps=rollout)
    ppo.learn(args.steps)
    returns = run_episodes(ppo.predict, evaluation, budget.final_episodes, EVALUATION_SEED)
    assert ppo.env is not None
    ppo.env.close()
    return "PPO in reality (Stable-Baselines3)", ppo.num_timesteps, returns


def _comparison(rows: list[tuple[str, int, Returns]], budget: _Budget) -> str:
    head = ("policy", "real steps", f"real return ({budget.final_episodes} episodes)")
    text = table(head, [(name, f"{steps:,}", spread(r.mean, r.std)) for name, steps, r in rows], right={1, 2})
    asked = min(steps for _, steps, _ in rows if steps)
    if any(steps > asked for _, steps, _ in rows):
        text += "\n(PPO learns from whole rollouts only, so it got some more steps.)"
    return text
