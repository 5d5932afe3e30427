"""The peer of the Dreamer's speed benchmark: r2dreamer, driven from a checkout, by our interpreter, uninstalled.

    lib = load(path)
    timed = lib.workload("1m", "vector", "float32", seed=0)  # callables without arguments, by name: time those
    timed["update"]()

r2dreamer (github.com/NM512/r2dreamer, measured at commit 546e4fa) is DreamerV3 in torch beside representation losses of
its own; here it is told to be DreamerV3 (``rep_loss: dreamer``). It wants tensordict, of which it reads no more than
keys and a shape here, and tensorboard, which only logs: `load` puts stand-ins in their place. Its modules have names
that anyone's could have (``tools``, ``optim``), so `load` takes them out of `sys.modules` again.

Its `update` hard-codes float16 products under a gradient scaler, which are for GPUs: without CUDA torch turns the
scaler off, and on a CPU float16 takes 5 to 15 times the time of bfloat16. So `load`'s result exchanges the one name
``autocast`` for a choice of float32 or bfloat16. Replay is a stand-in that always has the same batch. Everything else
that a returned callable runs is r2dreamer and torch alone, on the CPU, not compiled, with the threads that the caller
has set.

Configuration: ``configs/model/_base_.yaml`` and ``size12M.yaml``. There is no file of size 1M: it has the numbers of
DreamerV3's. Weights are untrained and data are synthetic: the work done does not depend on them.
"""

import contextlib
import importlib
import io
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

BATCH, LENGTH = 16, 64
HORIZON = 15
OBSERVED, ACTIONS = 17, 6
TARGETS = 16_384
# deter, hidden, discrete, depth, units
SIZES = {"1m": (512, 64, 4, 4, 64), "12m": (2048, 256, 16, 16, 256)}
SPACES = {
    "vector": spaces.Dict({"vector": spaces.Box(-np.inf, np.inf, (OBSERVED,))}),
    "image": spaces.Dict({"image": spaces.Box(0, 255, (64, 64, 3), np.uint8)}),
}
MODULES = ("tools", "distributions", "networks", "rssm", "optim.agc", "optim.laprop", "optim", "dreamer")

Timed = Callable[[], Any]
Precision = Literal["float32", "bfloat16"]


class _Config(dict[str, Any]):
    """A configuration whose entries are attributes too: as much of omegaconf's DictConfig as r2dreamer needs."""

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__


class _TensorDict(dict[str, Tensor]):
    """Tensors that share leading axes: as much of tensordict's class as r2dreamer's update needs."""

    def __init__(self, tensors: dict[str, Tensor], batch_size: tuple[int, ...]) -> None:
        super().__init__(tensors)
        self.shape = batch_size


class _Replay:
    """A replay that always has the same sequences [B, T], and forgets the states that it is given back.

    Args:
        data: what the sequences hold.
        initial: states [B] before them.
    """

    def __init__(self, data: dict[str, Tensor], initial: tuple[Tensor, Tensor]) -> None:
        self.data, self.initial = data, initial

    def sample(self) -> tuple[_TensorDict, None, tuple[Tensor, Tensor]]:
        """Return a shallow copy of the sequences, which r2dreamer changes, no index, and the states."""
        return _TensorDict(self.data, (BATCH, LENGTH)), None, self.initial

    def update(self, index: None, stoch: Tensor, deter: Tensor) -> None:
        """Do nothing."""


def _config(size: str, image: bool) -> _Config:
    """Return r2dreamer's configuration of a size for images or vectors."""
    deter, hidden, discrete, depth, units = SIZES[size]
    like = {"act": "SiLU", "norm": True, "device": "cpu"}
    mlp = {"units": units, "outscale": 1.0, "symlog_inputs": False, **like}
    cnn = {"depth": depth, "units": units, "mults": (2, 3, 4, 4), "kernel_size": 5, "bspace": 8, **like}
    keys = {"mlp_keys": "$^", "cnn_keys": "image"} if image else {"mlp_keys": ".*", "cnn_keys": "$^"}
    two_hot = {"name": "symexp_twohot", "bin_num": 255}
    normal = {"name": "bounded_normal", "min_std": 0.1, "max_std": 1.0}
    return _attributes(
        {
            **{"act_entropy": 3e-4, "kl_free": 1.0, "imag_horizon": HORIZON, "horizon": 333, "lamb": 0.95},
            **{"compile": False, "log_grads": False, "device": "cpu", "rep_loss": "dreamer"},
            **{"lr": 4e-5, "agc": 0.3, "pmin": 1e-3, "eps": 1e-20, "beta1": 0.9, "beta2": 0.999, "warmup": 1000},
            **{"slow_target_update": 1, "slow_target_fraction": 0.02},
            "loss_scales": {"recon": 1.0, "rew": 1.0, "con": 1.0, "dyn": 1.0, "rep": 0.1}
            | {"policy": 1.0, "value": 1.0, "repval": 0.3},
            "rssm": {"stoch": 32, "deter": deter, "hidden": hidden, "discrete": discrete, "blocks": 8, **like}
            | {"img_layers": 2, "obs_layers": 1, "dyn_layers": 1, "unimix_ratio": 0.01, "initial": "learned"},
            "encoder": {"mlp": {**mlp, "name": "mlp_encoder", "layers": 3, "symlog_inputs": True}, "cnn": cnn, **keys},
            "decoder": {"mlp": {**mlp, "name": "mlp_decoder", "layers": 3, "dist": {"name": "identity"}}, "cnn": cnn}
            | {"mlp_dist": {"name": "symlog_mse"}, "cnn_dist": {"name": "mse"}, **keys},
            "reward": {**mlp, "name": "reward", "layers": 1, "shape": (255,), "dist": two_hot, "outscale": 0.0},
            "cont": {**mlp, "name": "cont", "layers": 1, "shape": (1,), "dist": {"name": "binary"}},
            "actor": {**mlp, "name": "actor", "layers": 3, "dist": {"cont": normal}, "outscale": 0.01},
            "critic": {**mlp, "name": "value", "layers": 3, "shape": (255,), "dist": two_hot, "outscale": 0.0},
        }
    )


def _attributes(entries: dict[str, Any]) -> _Config:
    """Return nested dictionaries as nested configurations."""
    return _Config({key: _attributes(value) if isinstance(value, dict) else value for key, value in entries.items()})


def _checkout(path: str | Path) -> Path:
    """Return the resolved path, or raise ValueError if no r2dreamer lies there."""
    resolved = Path(path).expanduser().resolve()
    if not (resolved / "dreamer.py").is_file() or not (resolved / "optim" / "agc.py").is_file():
        raise ValueError(
            f"path must be a checkout of r2dreamer (with dreamer.py and optim/agc.py), got {str(path)!r}; make one: "
            "git clone https://github.com/NM512/r2dreamer"
        )
    return resolved


def commit(path: str | Path) -> str:
    """Return the commit of a checkout, with "+changed" behind it where its Python files differ from it.

    Raises:
        ValueError: path is no checkout of r2dreamer, or not one that git knows.
    """
    root = _checkout(path)
    if not (root / ".git").exists():
        raise ValueError(f"path must be a git checkout, so that its commit is known, got {str(path)!r}; git clone it")

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True).stdout

    changed = git("diff", "--name-only", "HEAD", "--", "*.py")
    return git("rev-parse", "HEAD").strip() + ("+changed" if changed else "")


def _stand_ins() -> dict[str, ModuleType]:
    """Return modules in the place of tensordict and tensorboard."""
    modules = {name: ModuleType(name, "A stand-in.") for name in ("tensordict", "torch.utils.tensorboard")}
    modules["tensordict"].__dict__["TensorDict"] = _TensorDict
    modules["torch.utils.tensorboard"].__dict__["SummaryWriter"] = object
    return modules


@contextlib.contextmanager
def _importing_from(root: Path) -> Iterator[None]:
    """Let r2dreamer be imported inside, and leave `sys` as it was; nothing is written to the checkout."""
    missing = {name: module for name, module in _stand_ins().items() if name not in sys.modules}
    others = {name: sys.modules.pop(name) for name in MODULES if name in sys.modules}
    writes_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.modules.update(missing)
    sys.path.insert(0, str(root))
    try:
        yield
    finally:
        sys.path.remove(str(root))
        sys.dont_write_bytecode = writes_bytecode
        for name in (*MODULES, *missing):
            sys.modules.pop(name, None)
        sys.modules.update(others)


def load(path: str | Path) -> "R2Dreamer":
    """Import r2dreamer from a checkout and return what drives it.

    Raises:
        ValueError: path is no checkout of r2dreamer.
    """
    with _importing_from(_checkout(path)):
        dreamer, distributions = importlib.import_module("dreamer"), importlib.import_module("distributions")
    return R2Dreamer(dreamer, distributions)


class R2Dreamer:
    """The contestants of one imported r2dreamer; `load` makes it.

    Args:
        dreamer: r2dreamer's module of that name.
        distributions: the same.
    """

    def __init__(self, dreamer: Any, distributions: Any) -> None:
        self.dreamer, self.distributions = dreamer, distributions

    def agent(self, size: str, inputs: str, seed: int) -> Any:
        """Return an untrained agent.

        Args:
            size: "1m" or "12m".
            inputs: "vector", 17 numbers, or "image", 64 x 64 x 3 bytes.
            seed: of the weights.
        """
        torch.manual_seed(seed)
        actions = spaces.Box(-1, 1, (ACTIONS,))
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
            return self.dreamer.Dreamer(_config(size, inputs == "image"), SPACES[inputs], actions)

    def parameters(self, size: str, inputs: str) -> int:
        """Return how many parameters are trained."""
        return sum(p.numel() for p in self.agent(size, inputs, 0)._named_params.values())

    def workload(self, size: str, inputs: str, precision: Precision, seed: int) -> dict[str, Timed]:
        """Return what can be timed of one agent, by name, each with products in ``precision``.

            update    `Dreamer.update`: losses and gradients, clipping, LaProp, slow critic; 16 x 64 steps, 15 imagined
            observe   `RSSM.observe` of 16 x 64 embeddings, forward and backward
            imagine   `Dreamer._imagine` from 1,024 states: 16 choices of the actor and, as there, 16 steps
            two_hot   `TwoHot.log_prob` of 16,384 targets under logits of 255 bins, forward and backward

        Args:
            size: "1m" or "12m".
            inputs: "vector" or "image".
            precision: of products: "float32", or "bfloat16" by autocast where r2dreamer has float16.
            seed: of weights, data and samples.
        """
        agent = self.agent(size, inputs, seed)
        multiply = partial(torch.autocast, "cpu", torch.bfloat16, enabled=precision == "bfloat16")
        return {
            "update": self._update(agent, inputs, multiply),
            "observe": _observe(agent, multiply),
            "imagine": _imagine(agent, multiply),
            "two_hot": self._two_hot(),
        }

    def _update(self, agent: Any, inputs: str, multiply: Callable[[], Any]) -> Timed:
        """Return one update; images are divided by 255 in it."""
        rows = (BATCH, LENGTH)
        no = torch.zeros(*rows, 1, dtype=torch.bool)
        data = {"action": _actions(rows), "reward": torch.randn(*rows, 1)}
        data |= {"is_first": no, "is_last": no, "is_terminal": no}
        if inputs == "image":
            data["image"] = torch.randint(0, 256, (*rows, 64, 64, 3), dtype=torch.uint8)
        else:
            data["vector"] = torch.randn(*rows, OBSERVED)
        replay = _Replay(data, agent.rssm.initial(BATCH))

        def update() -> None:
            self.dreamer.autocast = lambda device_type, dtype: multiply()
            agent.update(replay)

        return update

    def _two_hot(self) -> Timed:
        """Return the distribution's own work; it is in float32 whatever products are in."""
        logits, target = torch.randn(TARGETS, 255, requires_grad=True), torch.randn(TARGETS, 1)

        def two_hot() -> None:
            logits.grad = None
            self.distributions.symexp_twohot(logits, 255).log_prob(target).sum().backward()

        return two_hot


def _observe(agent: Any, multiply: Callable[[], Any]) -> Timed:
    embedded = torch.randn(BATCH, LENGTH, agent.embed_size, requires_grad=True)
    action, is_first = _actions((BATCH, LENGTH)), torch.zeros(BATCH, LENGTH, dtype=torch.bool)
    initial = agent.rssm.initial(BATCH)

    def observe() -> None:
        embedded.grad = None
        agent.rssm.zero_grad()
        with multiply():
            found = agent.rssm.observe(embedded, action, initial, is_first)
        sum(x.float().sum() for x in found).backward()

    return observe


def _imagine(agent: Any, multiply: Callable[[], Any]) -> Timed:
    start = agent.rssm.initial(BATCH * LENGTH)

    def imagine() -> None:
        with multiply():
            agent._imagine(start, HORIZON + 1)

    return imagine


def _actions(rows: tuple[int, int]) -> Tensor:
    """Return [B, T, A] in [-1, 1]."""
    return torch.rand(*rows, ACTIONS) * 2 - 1
