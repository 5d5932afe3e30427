"""`mbrl-gym train model`."""

import time
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.logger import Logger

import mbrl_gym
from mbrl_gym.cli.agents import check_options
from mbrl_gym.cli.commands import Train
from mbrl_gym.cli.dataset import Dataset, open_dataset
from mbrl_gym.cli.errors import UserError, user_errors
from mbrl_gym.cli.logs import run_logger
from mbrl_gym.cli.outputs import model_error, save_picture
from mbrl_gym.cli.real import check_device, make_real
from mbrl_gym.cli.run_folder import RunFolder, command_line, facts, fresh_seed, now
from mbrl_gym.cli.train import LINE_SECONDS, WRONG_REQUEST, folder_text, python_text
from mbrl_gym.data import episodes, replay_of
from mbrl_gym.fit import ModelTrainer, TrainerConfig
from mbrl_gym.fit_report import FitReport
from mbrl_gym.model import WorldModel
from mbrl_gym.replay import SequenceReplay
from mbrl_gym.store import MODELS, StoredModel, find_class, pick_device, save_model

KINDS = ("ensemble", "bayes_by_backprop", "mc_dropout", "swag", "last_layer", "gaussian_process")
HELD_OUT = 0.1  # of the episodes: what the model is judged by
STARTS = 1000  # start states that are stored at most
TIME_LIMIT = 1000  # of an environment without one, as agents have it


def run_train_model(args: Train) -> int:
    """Train a model on recorded experience, judge it, save it, and say what there is; return the exit code."""
    torch.set_num_threads(args.threads)
    check_device(args.device)
    run, seed = RunFolder(args.out), fresh_seed() if args.seed is None else args.seed
    _check(args, run)
    data = _with_env(open_dataset(args.dataset or ""), args)
    train, held_out = split(data.replay, seed)
    torch.manual_seed(seed)
    with user_errors(*WRONG_REQUEST, prefix=f"{args.model or KINDS[0]} of {args.dataset}: "):
        model = _untrained(args, data).to(pick_device(args.device))
        config = TrainerConfig() if args.updates is None else TrainerConfig(max_updates=args.updates)
        trainer = ModelTrainer(model, config, seed)
    run.create()
    arguments = {
        "agent": "model",
        "dataset": args.dataset,
        "model": args.model or KINDS[0],
        "env": data.real_id,
        "updates": config.max_updates,
        "seed": seed,
        "device": str(model.device),
        "publish": args.publish,
    }
    record: dict[str, Any] = {"command": command_line(), "arguments": arguments, "started": now(), "finished": None}
    record.update(facts(), status="running")
    run.write(record)
    print(f"{type(model).__name__} of {args.dataset}: {train.n_transitions:,} transitions, run folder {run.root}")
    try:
        with user_errors(ValueError, prefix=f"{arguments['model']} of {args.dataset}: "):
            report = _fit(trainer, train, run_logger(run.root))
    except BaseException as error:
        record["status"] = f"failed: {error!r}"
        run.write(record)
        raise
    model.eval().requires_grad_(False)
    record["fidelity"] = None if held_out is None else _fidelity(model, held_out)
    stored = _stored(model, data, seed, record)
    save_model(run.model, stored)
    record.update(finished=now(), status="finished", fit={"epochs": report.epochs, "updates": report.updates})
    run.write(record)
    _finish(stored, held_out, run, record)
    return 0


def split(replay: SequenceReplay, seed: int) -> tuple[SequenceReplay, SequenceReplay | None]:
    """Return experience to train on and to judge by, a tenth of the episodes (at least one); None where there is one.

    Raises:
        UserError: there is no episode.
    """
    found = list(episodes(replay))
    if not found:
        raise UserError("the data set must hold at least one episode with its beginning, got none; record more")
    spaces = replay.observation_space, replay.action_space
    order = np.random.default_rng(seed).permutation(len(found))
    held = set(order[: round(HELD_OUT * len(found)) or 1].tolist()) if len(found) > 1 else set()
    train = replay_of((e for i, e in enumerate(found) if i not in held), *spaces)
    return train, replay_of((e for i, e in enumerate(found) if i in held), *spaces) if held else None


def _check(args: Train, run: RunFolder) -> None:
    check_options(args)
    if args.dataset is None:
        raise UserError("--dataset is needed: a folder of `mbrl-gym record`, or the id of a Minari data set")
    if args.steps is not None:
        raise UserError("--steps counts real steps, and train model takes none; leave it out (see --updates)")
    if args.resume:
        raise UserError("--resume goes on with an agent, and train model has none; leave it out")
    if args.model not in (None, *KINDS):
        raise UserError(f"--model must be one of {', '.join(KINDS)}, got {args.model!r}")
    if args.publish is not None:
        with user_errors(ValueError, gym.error.Error, prefix="--publish: "):
            mbrl_gym.spec(args.publish)
    run.check_free()


def _with_env(data: Dataset, args: Train) -> Dataset:
    """Return the data set with the id and the time limit of --env, where it is given."""
    if args.env is None:
        return data
    env = make_real(args.env)
    if (env.observation_space, env.action_space) != (data.replay.observation_space, data.replay.action_space):
        raise UserError(f"{args.dataset} was recorded in other spaces than those of {args.env}")
    limit = env.spec.max_episode_steps if env.spec is not None else None
    env.close()
    return Dataset(data.replay, args.env.rpartition(":")[2], limit)


def _untrained(args: Train, data: Dataset) -> WorldModel[Any]:
    cls = find_class(MODELS[args.model or KINDS[0]])
    model: WorldModel[Any] = cls(data.replay.observation_space, data.replay.action_space, cls.config_class())
    return model


def _fit(trainer: ModelTrainer, replay: SequenceReplay, logger: Logger) -> FitReport:
    printed = time.monotonic()

    def on_epoch(epoch: int, loss: float, error: Any) -> None:
        nonlocal printed
        logger.record("model/epochs", epoch)
        logger.record("model/loss", loss)
        logger.record("model/holdout_error", float(error.mean()))
        logger.record("model/updates", trainer.updates)
        logger.dump(epoch)
        if time.monotonic() - printed > LINE_SECONDS:
            print(
                f"{epoch:>5} epochs  {trainer.updates:>8,} updates  model error {float(error.mean()):.1e}", flush=True
            )
            printed = time.monotonic()

    report = trainer.fit(replay, on_epoch)
    logger.close()
    return report


def _fidelity(model: WorldModel[Any], held_out: SequenceReplay) -> dict[str, Any] | None:
    """Return the open-loop error on episodes that the model was not trained on, if one is long enough."""
    error = model_error(model, held_out)
    if error is None:
        return None
    return {
        "steps_held_out": held_out.n_transitions,
        "error_over_k": [float(f"{x:.3g}") for x in error.overall],
        "persistence_over_k": [float(f"{x:.3g}") for x in error.overall_persistence],
    }


def _stored(model: WorldModel[Any], data: Dataset, seed: int, record: dict[str, Any]) -> StoredModel:
    starts = data.replay.starts(model.context, kind="resets", most=STARTS, rng=np.random.default_rng(seed))
    card = {
        "real_steps": data.replay.n_transitions,
        "trained_with": "mbrl-gym train model",
        "dataset": record["arguments"]["dataset"],
        "seed": seed,
        "versions": record["versions"],
        "fidelity": record["fidelity"],
    }
    return StoredModel(model, starts, data.real_id, data.time_limit or TIME_LIMIT, card)


def _finish(stored: StoredModel, held_out: SequenceReplay | None, run: RunFolder, record: dict[str, Any]) -> None:
    if held_out is None:
        print("No error to show: one episode is too few to keep any from the training.")
    elif record["fidelity"] is not None:
        error, still = (record["fidelity"][name] for name in ("error_over_k", "persistence_over_k"))
        print(
            f"Error on {held_out.n_transitions:,} steps that the model was not trained on, in standard deviations (in "
            f"brackets: predicting that nothing changes): after 1 step {error[0]} ({still[0]}), after {len(error)} "
            f"{error[-1]} ({still[-1]})"
        )
    why = None if held_out is None else save_picture(stored, held_out, run)
    if why:
        print(why)
    publish = record["arguments"]["publish"]
    if publish:
        with user_errors(OSError, *WRONG_REQUEST, prefix="--publish: "):
            mbrl_gym.publish(stored, publish)
    print(f"\n{folder_text(run)}\n\nNext:\n{python_text(run, stored.real_id, publish)}", flush=True)
