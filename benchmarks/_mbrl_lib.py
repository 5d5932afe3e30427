"""The peer of the speed benchmark: mbrl-lib, driven from a checkout, by our interpreter, with nothing installed for it.

    lib = load(path)
    step = lib.model_step(1025, "fixed_model", seed=0)  # every method returns a callable without arguments: time that
    step()

mbrl-lib (github.com/facebookresearch/mbrl-lib, measured at commit 3f93ccc) pins hydra-core 1.0.3, which Python 3.11
cannot import. hydra and omegaconf only build objects from configurations there, and termcolor only colours its log, so
`load` puts stand-ins in their place while mbrl-lib is imported. No stand-in runs inside a returned callable: those run
mbrl-lib, torch, numpy and tqdm alone, on the CPU, the network in float32, with the threads that the caller has set.

Configuration, of all three: GaussianMLP of 5 members, all of them elites, 4 hidden layers of 200 SiLU, fixed bounds of
the log variance, in a OneDTransitionRewardModel that predicts changes and normalises its inputs in float64. Weights are
untrained and data are synthetic: the work done does not depend on them.
"""

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch

MEMBERS = 5
PARTICLES = 20
HORIZON = 30
ACTIONS = 6
MODULES = ("models", "planning", "types", "util.common", "util.replay_buffer", "env.termination_fns")

Timed = Callable[[], Any]
Propagation = Literal["fixed_model", "random_model"]


class _Config(dict[str, Any]):
    """A configuration whose entries are attributes too: as much of omegaconf's DictConfig as mbrl-lib needs here."""

    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__


def _instantiate(config: dict[str, Any]) -> Any:
    """Return the `_target_` of a configuration, called with its other entries: hydra's function of that name."""
    module, _, name = config["_target_"].rpartition(".")
    arguments = {key: value for key, value in config.items() if key != "_target_"}
    return getattr(importlib.import_module(module), name)(**arguments)


def _stand_ins() -> dict[str, ModuleType]:
    """Return modules in the place of hydra, omegaconf and termcolor."""
    modules = {name: ModuleType(name, "A stand-in.") for name in ("hydra", "hydra.utils", "omegaconf", "termcolor")}
    modules["hydra.utils"].__dict__["instantiate"] = _instantiate
    modules["hydra"].__dict__["utils"] = modules["hydra.utils"]
    modules["omegaconf"].__dict__.update(
        DictConfig=_Config, ListConfig=list, OmegaConf=type("OmegaConf", (), {"create": staticmethod(_Config)})
    )
    modules["termcolor"].__dict__["colored"] = lambda text, *_, **__: text
    return modules


def _checkout(path: str | Path) -> Path:
    """Return the resolved path, or raise ValueError if no mbrl-lib lies there."""
    resolved = Path(path).expanduser().resolve()
    if not (resolved / "mbrl" / "models" / "gaussian_mlp.py").is_file():
        raise ValueError(
            f"path must be a checkout of mbrl-lib (with mbrl/models/gaussian_mlp.py), got {str(path)!r}; make one: "
            "git clone https://github.com/facebookresearch/mbrl-lib"
        )
    return resolved


def commit(path: str | Path) -> str:
    """Return the commit of a checkout, with "+changed" behind it where Python files of mbrl/ differ from it.

    Raises:
        ValueError: path is no checkout of mbrl-lib, or not one that git knows.
    """
    root = _checkout(path)
    if not (root / ".git").exists():
        raise ValueError(f"path must be a git checkout, so that its commit is known, got {str(path)!r}; git clone it")

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True, text=True).stdout

    changed = git("diff", "--name-only", "HEAD", "--", "mbrl/*.py")
    return git("rev-parse", "HEAD").strip() + ("+changed" if changed else "")


def load(path: str | Path) -> "MbrlLib":
    """Import mbrl-lib from a checkout, to which nothing is written, and return what drives it.

    `sys.path` and the stand-ins are taken back afterwards; mbrl itself stays imported.

    Raises:
        ValueError: path is no checkout of mbrl-lib.
        RuntimeError: this process has imported another mbrl before.
    """
    root = _checkout(path)
    before = sys.modules.get("mbrl")
    if before is not None and Path(str(before.__file__)).resolve().parent.parent != root:
        raise RuntimeError(f"mbrl must come from {root}, but it is imported from {before.__file__}; use a new process")
    stand_ins = {name: module for name, module in _stand_ins().items() if name not in sys.modules}
    writes_bytecode = sys.dont_write_bytecode
    sys.modules.update(stand_ins)
    sys.path.insert(0, str(root))
    sys.dont_write_bytecode = True
    try:
        for name in MODULES:
            importlib.import_module(f"mbrl.{name}")
    finally:
        sys.dont_write_bytecode = writes_bytecode
        sys.path.remove(str(root))
        for name in stand_ins:
            del sys.modules[name]
    return MbrlLib(sys.modules["mbrl"])


def _cheetah_reward(actions: torch.Tensor, next_obs: torch.Tensor) -> torch.Tensor:
    """Return the known reward of PETS's half-cheetah, `next_obs[:, 0] - 0.1 |a|^2`, as a column of B rows."""
    return (next_obs[:, 0] - 0.1 * actions.square().sum(1))[:, None]


class MbrlLib:
    """The contestants of one imported mbrl-lib; `load` makes it, and `mbrl` is the package itself.

    Every method seeds torch's global generator, which mbrl-lib draws weights and permutations from.
    """

    def __init__(self, mbrl: Any) -> None:
        self.mbrl = mbrl

    def _model(self, obs: int, propagation: Propagation, learned_rewards: bool, rng: np.random.Generator) -> Any:
        """Return the wrapped ensemble, its normaliser fitted to 1,000 rows in float64, as by mbrl-lib's own loops."""
        torch.manual_seed(int(rng.integers(2**31)))
        net = self.mbrl.models.GaussianMLP(
            in_size=obs + ACTIONS,
            out_size=obs + learned_rewards,
            device="cpu",
            num_layers=4,
            ensemble_size=MEMBERS,
            hid_size=200,
            propagation_method=propagation,
            activation_fn_cfg=_Config(_target_="torch.nn.SiLU"),
        )
        model = self.mbrl.models.OneDTransitionRewardModel(
            net, normalize=True, normalize_double_precision=True, learned_rewards=learned_rewards, num_elites=MEMBERS
        )
        rows, actions = rng.normal(size=(1_000, obs)), rng.uniform(-1, 1, (1_000, ACTIONS))
        model.update_normalizer(self.mbrl.types.TransitionBatch(rows, actions, rows, rows[:, 0], None, None))
        return model

    def _env(self, model: Any, obs: int, reward: Any, rng: np.random.Generator) -> Any:
        """Return a ModelEnv of the model that never terminates; it reads nothing but the spaces of the environment."""
        spaces = gym.Env[Any, Any]()
        spaces.observation_space = gym.spaces.Box(-np.inf, np.inf, (obs,))
        spaces.action_space = gym.spaces.Box(-1, 1, (ACTIONS,))
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        never = self.mbrl.env.termination_fns.no_termination
        return self.mbrl.models.ModelEnv(spaces, model, never, reward, generator)

    def model_step(self, rows: int, propagation: Propagation, seed: int, *, as_numpy: bool = False) -> Timed:
        """Return one `ModelEnv.step(actions, state, sample=True)`; observations of 17, actions of 6, learned reward.

        Timed: concatenation, float64 normaliser, the shuffle of rows over members, network, un-shuffle, bounds of the
        log variance, one normal sample per output, change added to the observation, termination function. All under
        `torch.no_grad`. Every call starts from the same state: a shallow copy of its dict is timed too, since
        mbrl-lib writes the next observation into the one that it is given. With "random_model" (TS1) the permutation
        of rows is drawn in every step; with "fixed_model" (TSinf) `ModelEnv.reset` drew it once, before.

        Args:
            rows: a multiple of the 5 members; mbrl-lib can step nothing else.
            propagation: "fixed_model" or "random_model".
            seed: of weights, rows and noise.
            as_numpy: actions are given and results returned as numpy arrays (mbrl-lib's default, and MBPO's way)
                instead of tensors (its planners' way).

        Returns:
            The callable; it returns next observations (rows, 17), rewards (rows, 1), dones (rows, 1) and the state.

        Raises:
            ValueError: rows is no multiple of the members.
        """
        if rows <= 0 or rows % MEMBERS:
            raise ValueError(f"rows must be a positive multiple of mbrl-lib's {MEMBERS} members, got {rows}")
        rng = np.random.default_rng(seed)
        env = self._env(self._model(17, propagation, True, rng), 17, None, rng)
        state = env.reset(rng.normal(size=(rows, 17)), return_as_np=as_numpy)
        array = rng.uniform(-1, 1, (rows, ACTIONS)).astype(np.float32)
        actions = array if as_numpy else torch.from_numpy(array)
        return lambda: env.step(actions, dict(state), sample=True)

    def plan(self, seed: int) -> Timed:
        """Return one CEM plan over PETS's half-cheetah: observations of 18, actions of 6, known reward, TSinf.

        Timed: `TrajectoryOptimizer.optimize`, that is `CEMOptimizer.optimize` (population 500, elite ratio 0.1, 5
        iterations, alpha 0.1, truncated normal, mean of the elites) over `ModelEnv.evaluate_action_sequences` (20
        particles, horizon 30): 150 steps of 10,000 rows with reward and termination function. Every plan starts from
        the same observation and from the shifted solution of the plan before. PETS's preprocessing of the cheetah's
        observation (24 inputs with and without it) and its one absolute output are left out.

        Returns:
            The callable; it returns the actions (30, 6) as a numpy array.
        """
        rng = np.random.default_rng(seed)
        env = self._env(self._model(18, "fixed_model", False, rng), 18, _cheetah_reward, rng)
        obs = rng.normal(size=18)
        cem = _Config(
            _target_="mbrl.planning.CEMOptimizer",
            num_iterations=5,
            elite_ratio=0.1,
            population_size=500,
            alpha=0.1,
            device="cpu",
            return_mean_elites=True,
        )
        bound = np.ones(ACTIONS)
        optimizer = self.mbrl.planning.TrajectoryOptimizer(cem, -bound, bound, HORIZON)

        def value(sequences: torch.Tensor) -> Any:
            return env.evaluate_action_sequences(sequences, initial_state=obs, num_particles=PARTICLES)

        return lambda: optimizer.optimize(value)

    def epoch(self, batch_size: int, transitions: int = 10_000, seed: int = 0) -> Timed:
        """Return one training epoch; observations of 17, actions of 6, learned reward, Adam at 1e-3, decay 1e-5.

        Timed: `ModelTrainer.train(..., num_epochs=1, evaluate=False, silent=True)`: a new order of the bootstrap
        samples, the gathering of every batch for every member, normaliser, loss, gradient norm, Adam. Without the
        evaluation pass that its default adds before and after the epoch, and without progress bar. The bootstrap draw
        (with replacement) and the fit of the normaliser are made before and not timed. The data are float64, as
        mbrl-lib's loops store them when the normaliser is. Training goes on from call to call.

        Returns:
            The callable; it returns the lists of training losses and (empty) validation scores.
        """
        rng = np.random.default_rng(seed)
        model = self._model(17, "random_model", True, rng)
        kinds = {"obs_type": np.float64, "action_type": np.float64, "reward_type": np.float64}
        buffer = self.mbrl.util.replay_buffer.ReplayBuffer(transitions, (17,), (ACTIONS,), rng=rng, **kinds)
        obs, actions = rng.normal(size=(transitions, 17)), rng.uniform(-1, 1, (transitions, ACTIONS))
        next_obs = obs + 0.1 * rng.normal(size=obs.shape)
        ends = np.zeros(transitions, bool)
        buffer.add_batch(obs, actions, next_obs, obs[:, 0], ends, ends)
        model.update_normalizer(buffer.get_all())
        batches, _ = self.mbrl.util.common.get_basic_buffer_iterators(buffer, batch_size, 0, ensemble_size=MEMBERS)
        trainer = self.mbrl.models.ModelTrainer(model, optim_lr=1e-3)
        return lambda: trainer.train(batches, num_epochs=1, evaluate=False, silent=True)
