"""Speed of DreamerV3's update and of its parts, side by side in one process on one thread. Prints medians of ratios.

    OMP_NUM_THREADS=1 python benchmarks/dreamer_speed.py --r2dreamer /path/to/a/checkout/of/r2dreamer

The contestants take turns; a ratio is the median over the rounds of the ratio within a round. Times are CPU seconds of
the process, which on one thread are those of the clock on an idle machine. Untrained weights, synthetic data: the work
does not depend on them. 17 numbers or 64 x 64 x 3 bytes are observed, 6 numbers are the action.

    update      one update from 16 x 64 real steps, 15 imagined from each: all losses, gradients, clipping, optimiser
    observe     beliefs of 16 x 64 steps of which the tokens are given, forward and backward
    imagine     15 steps from 1,024 beliefs and the choice of their actions, without rewards
    two_hot     the loss of 16,384 numbers over 255 bins, forward and backward

The parts are taken with vectors only: images change no more of them than the width of the tokens.

Contestants: mbrl_gym (bfloat16 products where it decides so), mbrl_gym in float32, a plain reference (float32, dreams
step by step, targets as one-hot vectors; to notice regressions: a ratio against it is no claim), and r2dreamer, driven
by _r2dreamer.py, in float32 and in bfloat16. Results go to benchmarks/results/dreamer_speed.json.
"""

import argparse
import contextlib
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import _r2dreamer
import numpy as np
import torch
from _r2dreamer import ACTIONS, BATCH, HORIZON, LENGTH, OBSERVED, TARGETS
from dyna_learning import RESULTS, processor
from gymnasium import spaces
from torch import Tensor, nn

from mbrl_gym.agents.actor_critic import ActorCritic, BehaviorConfig, Dream
from mbrl_gym.agents.dreamer_learner import DreamerLearner
from mbrl_gym.agents.model_learner import OptimizerConfig
from mbrl_gym.batch import SequenceBatch
from mbrl_gym.distributions import TwoHot, symexp_bins
from mbrl_gym.model import imagine
from mbrl_gym.models.rssm import RSSM, RSSMState
from mbrl_gym.models.rssm_config import RSSMConfig
from mbrl_gym.nets import precision

Timed = Callable[[], Any]
ITEMS = {"vector": ("update", "observe", "imagine", "two_hot"), "image": ("update",)}
SPACES: dict[str, spaces.Space[Any]] = {
    "vector": spaces.Box(-np.inf, np.inf, (OBSERVED,), np.float32),
    "image": spaces.Box(0, 255, (64, 64, 3), np.uint8),
}


class Given(nn.Module):
    """An encoder that has its tokens already.

    Args:
        tokens: [B, T, E].
    """

    def __init__(self, tokens: Tensor) -> None:
        super().__init__()
        self.tokens = tokens

    def forward(self, *_: Any) -> Tensor:
        """Return the tokens, whatever is observed."""
        return self.tokens


class PlainLearner(DreamerLearner):
    """A learner whose dreams are those that any world model can have: `mbrl_gym.model.imagine`."""

    def _dream(self, start: RSSMState) -> Dream:
        model, behavior = self.model, self.behavior

        def policy(state: RSSMState) -> Tensor:
            return behavior.policy(model.features(state)).sample()

        dream = imagine(model, start, policy, behavior.config.horizon)
        features, after = model.features(dream.states), dream.prediction
        first, action = features[:, :1], policy(dream.states[:, -1])
        return Dream(
            features,
            torch.cat([dream.action, action[:, None]], 1),
            torch.cat([model.reward(first), after.reward], 1),
            torch.cat([model.continuation(first), after.continuation], 1),
        )


def one_hot_loss(self: TwoHot, target: Tensor) -> Tensor:
    """Return [...], what `TwoHot.loss` does, by vectors of a target's share in each of the bins."""
    target = target.detach().clamp(self.bins[0], self.bins[-1])
    above = (self.bins <= target[..., None]).sum(-1).clamp(max=len(self.bins) - 1)
    low, high = self.bins[above - 1], self.bins[above]
    share = ((target - low) / (high - low))[..., None]
    low_one, high_one = (nn.functional.one_hot(index, len(self.bins)).float() for index in (above - 1, above))
    return -(((1 - share) * low_one + share * high_one) * self.logits.log_softmax(-1)).sum(-1)


@contextlib.contextmanager
def float32() -> Iterator[None]:
    """Let mbrl_gym take all products in float32."""
    with mock.patch.object(precision, "multiplies_in_bfloat16", return_value=False):
        yield


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """Let mbrl_gym take all products in float32, and the two-hot loss by one-hot vectors."""
    with float32(), mock.patch.object(TwoHot, "loss", one_hot_loss):
        yield


def inside(context: Callable[[], Any], work: Timed) -> Timed:
    """Return ``work``, done inside a new context."""

    def call() -> None:
        with context():
            work()

    return call


def learner(size: str, inputs: str, kind: type[DreamerLearner] = DreamerLearner) -> DreamerLearner:
    """Return an untrained learner."""
    torch.manual_seed(0)
    model = RSSM(SPACES[inputs], spaces.Box(-1, 1, (ACTIONS,), np.float32), RSSMConfig.dreamer_v3(size))
    features = model.features(model.initial(1)).shape[-1]
    behavior = ActorCritic(features, model.action_codec, BehaviorConfig(horizon=HORIZON, units=model.config.units))
    return kind(model, behavior, OptimizerConfig())


def parameters(size: str, inputs: str) -> int:
    """Return how many parameters mbrl_gym trains."""
    return sum(p.numel() for group in learner(size, inputs).optimizer.param_groups for p in group["params"])


def experience(inputs: str) -> SequenceBatch:
    """Return random windows: 64 steps, and before them the row whose belief the replay has."""
    rows = (BATCH, LENGTH + 1)
    image, no = inputs == "image", torch.zeros(rows, dtype=torch.bool)
    obs = torch.randint(0, 256, (*rows, 64, 64, 3), dtype=torch.uint8) if image else torch.randn(*rows, OBSERVED)
    action, index = torch.rand(*rows, ACTIONS) * 2 - 1, torch.zeros(rows, dtype=torch.int64)
    return SequenceBatch(obs, action, torch.randn(rows), no, no, no, index)


def updating(made: DreamerLearner, inputs: str) -> Timed:
    """Return one update."""
    batch, start = experience(inputs), made.model.initial(BATCH)
    return lambda: made.update(batch, start)


def observing(model: RSSM) -> Timed:
    """Return beliefs of real steps, forward and backward; the model keeps the tokens that it is given here."""
    tokens = torch.randn(BATCH, LENGTH + 1, model.config.units, requires_grad=True)
    model.encoder = Given(tokens)
    batch, start = experience("vector"), model.initial(BATCH)

    def observe() -> None:
        tokens.grad = None
        model.zero_grad()
        states, outputs = model._filter_all(batch, start)
        (states.deter.sum() + states.stoch.sum() + outputs.sum()).backward()

    return observe


def imagining(made: DreamerLearner) -> Timed:
    """Return imagined steps from as many beliefs as an update has."""
    rows = BATCH * LENGTH
    start, model, policy = made.model.initial(rows), made.model, made.behavior.policy

    def dream() -> None:
        with torch.no_grad(), precision.mixed_precision(model.device, rows):
            model.rollout(start, lambda features: policy(features).sample(), HORIZON)

    return dream


def two_hot() -> Timed:
    """Return the loss of numbers over bins, forward and backward."""
    logits, target, bins = torch.randn(TARGETS, 255, requires_grad=True), torch.randn(TARGETS), symexp_bins()

    def loss() -> None:
        logits.grad = None
        TwoHot(logits, bins).loss(target).sum().backward()

    return loss


def ours(size: str, inputs: str, context: Callable[[], Any]) -> dict[str, Timed]:
    """Return what can be timed of mbrl_gym inside a context, by name."""
    made = learner(size, inputs)
    found = {"update": updating(made, inputs)}
    if inputs == "vector":
        found |= {"observe": observing(learner(size, inputs).model), "imagine": imagining(made), "two_hot": two_hot()}
    return {name: inside(context, work) for name, work in found.items()}


def plainly(size: str, inputs: str) -> dict[str, Timed]:
    """Return what can be timed of the plain reference, by name; it observes as mbrl_gym does."""
    made = learner(size, inputs, PlainLearner)
    start = made.model.initial(BATCH * LENGTH)
    dream = torch.no_grad()(lambda: made._dream(start))
    found = {"update": updating(made, inputs), "imagine": dream, "two_hot": two_hot()}
    return {name: inside(plain, work) for name, work in found.items()}


def contestants(size: str, inputs: str, lib: _r2dreamer.R2Dreamer | None) -> dict[str, dict[str, Timed]]:
    """Return the contestants by name, and by item what is timed of each."""
    found = {"mbrl_gym": ours(size, inputs, contextlib.nullcontext)}
    if lib:
        found["r2dreamer float32"] = lib.workload(size, inputs, "float32", 0)
        found["r2dreamer bfloat16"] = lib.workload(size, inputs, "bfloat16", 0)
    return {**found, "float32": ours(size, inputs, float32), "plain": plainly(size, inputs)}


def measure(timed: dict[str, Timed], rounds: int) -> dict[str, dict[str, float]]:
    """Return CPU seconds of each contestant and the ratio to mbrl_gym."""
    found: dict[str, list[float]] = {name: [] for name in timed}
    for turn in range(-1, rounds):
        for name, call in timed.items():
            started = time.process_time()
            call()
            if turn >= 0:  # the first is not counted
                found[name].append(time.process_time() - started)
    first = np.array(found["mbrl_gym"])
    return {
        name: {"seconds": statistics.median(s), "over_mbrl_gym": float(np.median(np.array(s) / first))}
        for name, s in found.items()
    }


def compare(size: str, inputs: str, lib: _r2dreamer.R2Dreamer | None, rounds: int) -> dict[str, Any]:
    """Return, and print, parameters and times of one size."""
    table: dict[str, Any] = {"parameters": {"mbrl_gym": parameters(size, inputs)}}
    if lib:
        table["parameters"]["r2dreamer"] = lib.parameters(size, inputs)
    print(f"\n{size} {inputs}, parameters: {table['parameters']}")
    made = contestants(size, inputs, lib)
    for item in ITEMS[inputs]:
        row = measure({name: timed[item] for name, timed in made.items() if item in timed}, rounds)
        table[item] = row
        others = "   ".join(f"{name} {r['over_mbrl_gym']:.2f}x" for name, r in row.items() if name != "mbrl_gym")
        print(f"  {item:<8} {row['mbrl_gym']['seconds']:>8.3f} s   {others}", flush=True)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--r2dreamer", type=Path, help="a checkout of NM512/r2dreamer")
    parser.add_argument("--sizes", nargs="+", default=["1m", "12m"], choices=list(_r2dreamer.SIZES))
    parser.add_argument("--inputs", nargs="+", default=list(ITEMS), choices=list(ITEMS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "dreamer_speed.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=UserWarning)  # r2dreamer's, of torch's older functions
    lib = _r2dreamer.load(arguments.r2dreamer) if arguments.r2dreamer else None
    print("mbrl_gym's CPU seconds, and the others' over them")
    table = {
        f"{size} {inputs}": compare(size, inputs, lib, arguments.rounds)
        for inputs in arguments.inputs
        for size in arguments.sizes
    }
    peer = ["--r2dreamer PATH"] if lib else []
    chosen = ["--sizes", *arguments.sizes, "--inputs", *arguments.inputs, "--rounds", str(arguments.rounds)]
    result = {
        "command": " ".join(["dreamer_speed.py", *peer, *chosen]),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "r2dreamer_commit": _r2dreamer.commit(arguments.r2dreamer) if lib else None,
        "processor": processor(),
        "threads": 1,
        "table": table,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
