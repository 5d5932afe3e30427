"""How good the uncertainty of each kind of model is, in and out of distribution, as a table and JSON.

    python benchmarks/model_kinds.py      # Pendulum-v1, 1,000 random steps, seeds 0-2

Each kind is fitted with its defaults to the same random steps. In distribution: other random steps. Out of it: steps
of a policy that pumps energy into the pendulum, which random actions never do. Per kind: negative log-likelihood of one
step [nats], coverage of the 50 / 80 / 90 / 95 % intervals, rank correlation of the uncertainty with the error, how well
the uncertainty tells the two apart (AUROC), and the CPU-seconds of the fit. Results go to
benchmarks/results/model_kinds.json. Run it with OMP_NUM_THREADS=1.
"""

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from dyna_learning import RESULTS, processor

import mbrl_gym
from mbrl_gym import (
    SWAG,
    BayesByBackprop,
    Ensemble,
    GaussianProcess,
    LastLayer,
    MCDropout,
    ModelTrainer,
    SequenceReplay,
)
from mbrl_gym.report import Calibration, calibration, ood_auroc, random_policy, run_episodes

KINDS: dict[str, type[Any]] = {
    "Ensemble": Ensemble,
    "LastLayer": LastLayer,
    "SWAG": SWAG,
    "BayesByBackprop": BayesByBackprop,
    "MCDropout": MCDropout,
    "GaussianProcess": GaussianProcess,
}
ENV, STEPS, TEST_STEPS = "Pendulum-v1", 1_000, 2_000


def energy_pump(obs: Any, *_: Any) -> tuple[Any, None]:
    """Return full torque with the motion: it spins the pendulum up to its fastest."""
    return np.array([2.0 if obs[2] > 0 else -2.0], np.float32), None


def experience(policy: Any, steps: int, seed: int) -> SequenceReplay:
    """Return ``steps`` real steps of a policy."""
    env = gym.make(ENV)
    replay = SequenceReplay(env.observation_space, env.action_space, 2 * steps)
    run_episodes(policy, env, steps // 200, seed=seed, replay=replay)
    return replay


def row(found: Calibration) -> dict[str, Any]:
    """Return what the table shows of a calibration."""
    return {
        "nll": found.overall_nll,
        "coverage": [float(x) for x in found.overall_coverage],
        "rmse": found.overall_rmse,
        "spearman": found.spearman,
        "aleatoric_spearman": found.aleatoric_spearman,
    }


def measure(kind: type[Any], seed: int) -> dict[str, Any]:
    """Return the scores of one kind of model on one seed."""
    env = gym.make(ENV)
    data = experience(random_policy(env.action_space, seed), STEPS, 1_000 + seed)
    inside = experience(random_policy(env.action_space, 50 + seed), TEST_STEPS, 2_000 + seed)
    outside = experience(energy_pump, TEST_STEPS, 3_000 + seed)
    torch.manual_seed(seed)
    model = kind(env.observation_space, env.action_space)
    started = time.process_time()
    ModelTrainer(model, seed=seed).fit(data)
    seconds = time.process_time() - started
    return {
        "seed": seed,
        "fit_cpu_seconds": seconds,
        "inside": row(calibration(model, inside)),
        "outside": row(calibration(model, outside)),
        "ood_auroc": ood_auroc(model, inside, outside),
    }


def line(name: str, runs: list[dict[str, Any]]) -> str:
    """Return one row of the table, means over seeds."""

    def mean(*keys: str) -> Any:
        values = list(runs)
        for key in keys:
            values = [v[key] for v in values]
        return np.mean(values, axis=0)

    parts = [f"{name:<16}"]
    for where in ("inside", "outside"):
        cover = " ".join(f"{100 * x:3.0f}" for x in mean(where, "coverage"))
        parts.append(f"{mean(where, 'nll'):9.2f}  {cover}  {mean(where, 'spearman'):5.2f}")
    return "  ".join([*parts, f"{mean('ood_auroc'):5.2f}", f"{mean('fit_cpu_seconds'):6.1f}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--out", type=Path, default=RESULTS / "model_kinds.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("                    inside: NLL   50  80  90  95   rho    outside: NLL   50  80  90  95   rho  AUROC  fit s")
    table: dict[str, Any] = {}
    for name in arguments.kinds:
        table[name] = [measure(KINDS[name], seed) for seed in arguments.seeds]
        print(line(name, table[name]), flush=True)
        versions = {"mbrl_gym": mbrl_gym.__version__, "torch": torch.__version__, "python": platform.python_version()}
        command = f"python benchmarks/model_kinds.py --seeds {' '.join(map(str, arguments.seeds))}"
        result = {"command": command, "versions": versions, "processor": processor(), "kinds": table}
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
