"""Speed of PETS' parts side by side: a plan, steps of the model, an epoch of training. Prints medians of ratios.

    python benchmarks/pets_speed.py --mbrl-lib /path/to/a/checkout/of/mbrl-lib

Every item runs in a fresh process for each number of threads; there the contestants take turns, and a ratio is the
median over the rounds of the ratio within a round. Untrained weights, synthetic data: the work does not depend on them.

    plan        CEM, 500 candidates x 30 steps x 20 particles x 5 iterations, 5 networks of 4 x 200, known reward
    step ROWS   one step of that many rows (23 inputs, 18 outputs), under TS-infinity and TS1
    epoch N     one epoch over 10,000 transitions at batch size N, without evaluation

Contestants: mbrl_gym (bfloat16 where it decides so), mbrl_gym in float32, a plain reference written out below member by
member and layer by layer (to notice regressions: a ratio against it is no claim), and mbrl-lib, driven by _mbrl_lib.py.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import _mbrl_lib
import numpy as np
import torch
from dyna_learning import RESULTS, processor
from gymnasium import spaces
from torch import Tensor, nn

from mbrl_gym import Ensemble, EnsembleConfig, ModelTrainer, SequenceReplay, TrainerConfig
from mbrl_gym.planners import CEM, CEMConfig
from mbrl_gym.wrappers.known import KnownReward

Timed = Callable[[], Any]
OBSERVED, ACTIONS, MEMBERS, HIDDEN = 17, 6, 5, (200,) * 4
PLAN = CEMConfig(candidates=500, elites=50, iterations=5, horizon=30, particles=20, alpha=0.1, epsilon=0.0)
STEPS = (5, 35, 1025, 20_000)
ITEMS = ["plan", *(f"step {rows} {kind}" for rows in STEPS for kind in ("ts_inf", "ts1")), "epoch 32", "epoch 256"]
ROUNDS = {"plan": 5, "epoch": 7}


def ensemble(observed: int = OBSERVED, **change: Any) -> Ensemble:
    """Return an untrained ensemble whose normalisers are not trivial."""
    torch.manual_seed(0)
    box = spaces.Box(-np.inf, np.inf, (observed,), np.float32)
    config = EnsembleConfig(members=MEMBERS, hidden=HIDDEN, clamp_margin=None, **change)
    model = Ensemble(box, spaces.Box(-1, 1, (ACTIONS,), np.float32), config)
    state = model.state_dict()
    for name in ("input_mean", "target_mean"):
        state[name] = 0.1 * torch.randn_like(state[name])
    for name in ("input_std", "target_std"):
        state[name] = torch.rand_like(state[name]) + 0.5
    model.load_state_dict(state)
    return model


def forward_reward(obs: Tensor, action: Tensor, after: Tensor) -> Tensor:
    """Return [B]: a known reward, the same for all contestants."""
    return after[:, 0] - 0.1 * action.square().sum(-1)


class Plain:
    """The ensemble written out: each member by itself, each layer by itself, in float32."""

    def __init__(self, model: Ensemble) -> None:
        self.model = model
        self.layers = [
            [(w[e].T.contiguous(), b[e, 0]) for w, b in zip(model.net.weights, model.net.biases, strict=True)]
            for e in range(MEMBERS)
        ]

    def step(self, obs: Tensor, action: Tensor, particles: int, permute: bool, generator: torch.Generator) -> Tensor:
        """Return next observation and reward [B, D + 1] of rows in groups of particles, an equal share a member."""
        model = self.model
        x = (torch.cat([obs, action], -1) - model.input_mean) / model.input_std
        member = torch.arange(particles).mul(MEMBERS).div(particles, rounding_mode="floor").repeat(len(x) // particles)
        if permute:
            order = torch.rand(len(x) // particles, particles, generator=generator).argsort(1)
            member = member.view(-1, particles).gather(1, order).flatten()
        out = torch.empty(len(x), 2 * (obs.shape[1] + 1))
        for e, layers in enumerate(self.layers):
            rows = (member == e).nonzero()[:, 0]
            h = x[rows]
            for weight, bias in layers[:-1]:
                h = nn.functional.silu(nn.functional.linear(h, weight, bias))
            out[rows] = nn.functional.linear(h, *layers[-1])
        mean, log_variance = out.chunk(2, -1)
        softplus = nn.functional.softplus
        log_variance = model.max_log_variance - softplus(model.max_log_variance - log_variance)
        log_variance = model.min_log_variance + softplus(log_variance - model.min_log_variance)
        noise = torch.randn(mean.shape, generator=generator)
        change = (mean + (0.5 * log_variance).exp() * noise) * model.target_std + model.target_mean
        return torch.cat([obs + change[:, :-1], change[:, -1:]], -1)

    def plan(self, obs: Tensor, generator: torch.Generator) -> Tensor:
        """Return the plan [H, A] of `PLAN` for one observation [D]."""
        mean, variance = torch.zeros(PLAN.horizon, ACTIONS), torch.full((PLAN.horizon, ACTIONS), 0.25)
        for _ in range(PLAN.iterations):
            room = torch.minimum((1 - mean.abs()) / 2, variance.sqrt())
            noise = torch.empty(PLAN.candidates, PLAN.horizon, ACTIONS)
            candidates = mean + room * nn.init.trunc_normal_(noise, generator=generator)
            now = obs.expand(PLAN.candidates * PLAN.particles, -1)
            total = torch.zeros(len(now))
            for t in range(PLAN.horizon):
                action = candidates[:, t].repeat_interleave(PLAN.particles, 0)
                after = self.step(now, action, PLAN.particles, False, generator)[:, :-1]
                total, now = total + forward_reward(now, action, after), after
            elite = candidates[total.view(PLAN.candidates, -1).mean(1).topk(PLAN.elites).indices]
            mean = PLAN.alpha * mean + (1 - PLAN.alpha) * elite.mean(0)
            variance = PLAN.alpha * variance + (1 - PLAN.alpha) * elite.var(0, unbiased=False)
        return mean


def plans(lib: Any) -> dict[str, Timed]:
    """Return one plan by each contestant."""
    source = ensemble(18)
    generator = torch.Generator().manual_seed(0)
    planner = CEM(source.action_codec, PLAN)

    def ours(frozen: Ensemble) -> Timed:
        model = KnownReward(frozen, forward_reward)
        state, carry = model.initial(1), planner.initial(1)
        return lambda: planner.plan(model, state, carry, generator)

    plain, obs = Plain(source), torch.zeros(18)
    found = {
        "mbrl_gym": ours(source.frozen()),
        "float32": ours(source.frozen(None)),
        "plain": torch.no_grad()(lambda: plain.plan(obs, generator)),
    }
    return {**found, "mbrl-lib": lib.plan(0)} if lib else found


def steps(lib: Any, rows: int, propagation: str) -> dict[str, Timed]:
    """Return one step of ``rows`` rows by each contestant."""
    source = ensemble(propagation=propagation)
    generator = torch.Generator().manual_seed(0)
    particles = 20 if rows % 20 == 0 else 5
    action = torch.rand(rows, ACTIONS) * 2 - 1

    def ours(model: Ensemble) -> Timed:
        state = model.branch(model.initial(rows // particles), particles)
        return torch.inference_mode()(lambda: model.predict(state, action, generator, uncertainty=False))

    plain, obs, permute = Plain(source), torch.zeros(rows, OBSERVED), propagation == "ts1"
    found = {
        "mbrl_gym": ours(source.frozen()),
        "float32": ours(source.frozen(None)),
        "plain": torch.no_grad()(lambda: plain.step(obs, action, particles, permute, generator)),
    }
    theirs = {"ts_inf": "fixed_model", "ts1": "random_model"}[propagation]
    return {**found, "mbrl-lib": lib.model_step(rows, theirs, 0)} if lib else found


def experience(transitions: int = 10_000) -> SequenceReplay:
    """Return random transitions."""
    rng = np.random.default_rng(0)
    box, push = spaces.Box(-np.inf, np.inf, (OBSERVED,), np.float32), spaces.Box(-1, 1, (ACTIONS,), np.float32)
    replay = SequenceReplay(box, push, transitions + 1)
    replay.begin(rng.normal(size=(1, OBSERVED)).astype(np.float32))
    for _ in range(transitions):
        obs, action = rng.normal(size=(1, OBSERVED)), rng.uniform(-1, 1, (1, ACTIONS))
        replay.add(action.astype(np.float32), obs.astype(np.float32), rng.normal(size=1), [False], [False])
    return replay


def epochs(lib: Any, batch_size: int) -> dict[str, Timed]:
    """Return one epoch by each contestant."""
    replay = experience()

    def ours(rows: int | None) -> Timed:
        model = ensemble(bfloat16_rows=rows)
        trainer = ModelTrainer(model, TrainerConfig(batch_size=batch_size, holdout=0.0))
        data = replay.gather(replay.windows(2), 2, members=MEMBERS)

        def epoch() -> None:
            for index in torch.randperm(data.batch_size).split(batch_size):
                trainer.update(data[index])

        return epoch

    found = {"mbrl_gym": ours(EnsembleConfig.bfloat16_rows), "float32": ours(None), "plain": plain_epoch(batch_size)}
    return {**found, "mbrl-lib": lib.epoch(batch_size, 10_000, 0)} if lib else found


def plain_epoch(batch_size: int) -> Timed:
    """Return PETS' training written out member by member."""
    x, y = torch.randn(10_000, OBSERVED + ACTIONS), torch.randn(10_000, OBSERVED + 1)
    sizes = (OBSERVED + ACTIONS, *HIDDEN)
    networks = []
    for _ in range(MEMBERS):
        hidden = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.SiLU())]
        networks.append(nn.Sequential(*hidden, nn.Linear(HIDDEN[-1], 2 * (OBSERVED + 1))))
    optimizer = torch.optim.Adam([p for net in networks for p in net.parameters()], weight_decay=1e-5)

    def epoch() -> None:
        for index in torch.randperm(len(x)).split(batch_size):
            optimizer.zero_grad()
            for network in networks:
                mean, log_variance = network(x[index]).chunk(2, -1)
                log_variance = -10 + nn.functional.softplus(0.5 - nn.functional.softplus(0.5 - log_variance) + 10)
                loss = ((mean - y[index]).square() * (-log_variance).exp() + log_variance).mean()
                loss.backward()
            optimizer.step()

    return epoch


def contestants(item: str, lib: Any) -> dict[str, Timed]:
    """Return the contestants of an item, by name."""
    kind, *rest = item.split()
    if kind == "plan":
        return plans(lib)
    return steps(lib, int(rest[0]), rest[1]) if kind == "step" else epochs(lib, int(rest[0]))


def measure(item: str, lib: Any) -> dict[str, Any]:
    """Return seconds and the ratio to mbrl_gym of each contestant."""
    timed = contestants(item, lib)
    calls, rounds = {}, ROUNDS.get(item.split()[0], 31)
    for name, call in timed.items():
        call()
        once = _seconds(call, 1)
        calls[name] = max(1, int(0.03 / once)) if item.startswith("step") else 1
    found: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(rounds):
        for name, call in timed.items():
            found[name].append(_seconds(call, calls[name]))
    ours = np.array(found["mbrl_gym"])
    return {
        name: {"seconds": statistics.median(s), "over_mbrl_gym": statistics.median(np.array(s) / ours)}
        for name, s in found.items()
    }


def _seconds(call: Timed, calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - started) / calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mbrl-lib", type=Path, help="a checkout of facebookresearch/mbrl-lib")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--items", nargs="+", default=ITEMS, choices=ITEMS, metavar="ITEM")
    parser.add_argument("--only", help=argparse.SUPPRESS)  # one item, in this process, as JSON
    parser.add_argument("--out", type=Path, default=RESULTS / "pets_speed.json")
    arguments = parser.parse_args()
    if arguments.only:
        torch.set_num_threads(arguments.threads[0])
        lib = _mbrl_lib.load(arguments.mbrl_lib) if arguments.mbrl_lib else None
        print(json.dumps(measure(arguments.only, lib)))
        return
    peer = ["--mbrl-lib", str(arguments.mbrl_lib)] if arguments.mbrl_lib else []
    table: dict[str, dict[str, Any]] = {}
    for threads in arguments.threads:
        print(f"\n{threads} thread(s)          mbrl_gym ms   the others' time over mbrl_gym's")
        for item in arguments.items:
            command = [sys.executable, __file__, "--only", item, "--threads", str(threads), *peer]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            row = json.loads(done.stdout.splitlines()[-1])
            table.setdefault(str(threads), {})[item] = row
            others = "   ".join(f"{name} {r['over_mbrl_gym']:.2f}x" for name, r in row.items() if name != "mbrl_gym")
            print(f"  {item:<18} {1e3 * row['mbrl_gym']['seconds']:>12.3f}   {others}", flush=True)
    result = {
        "command": " ".join(["pets_speed.py --threads", *table, *(["--mbrl-lib PATH"] if peer else [])]),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "mbrl_lib_commit": _mbrl_lib.commit(arguments.mbrl_lib) if peer else None,
        "processor": processor(),
        "threads": table,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
