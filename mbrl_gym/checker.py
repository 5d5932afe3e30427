"""check_world_model: the contract of `WorldModel`, for every model here and for third parties' models."""

import copy
import json
from dataclasses import asdict
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from mbrl_gym.batch import SequenceBatch
from mbrl_gym.model import DensityModel, ModelLoss, Prediction, WorldModel
from mbrl_gym.spaces import Observation, ObservationCodec, observation_array, observation_tensor
from mbrl_gym.tensors import TensorStruct


def check_world_model(model: WorldModel[Any], batch_size: int = 6, seed: int = 0) -> None:
    """Raise unless ``model`` keeps the contract of `WorldModel`; it may be trained or not.

    Checked: beliefs are explicit, immutable and carry the batch axis; shapes, dtypes, ranges and finiteness of every
    output; rows do not touch each other; the same generator gives the same step and the mean needs none; the first
    observation of an episode forgets what was before; a batch of one works; branching; decoding into the space; a loss
    that is finite and reaches the parameters; gradients through an imagined step; round trip of configuration and
    weights. The model, its spaces and torch's global generator stay as they are.

    Args:
        model: the model.
        batch_size: B of the checks, at least 2.
        seed: of the random actions and observations.

    Raises:
        ValueError: ``batch_size`` is below 2.
        AssertionError: a rule is broken; the message names it and what was found.
    """
    if batch_size < 2:
        raise ValueError(f"batch_size must be at least 2, so that rows can be told apart, got {batch_size}")
    check = _Check(model, batch_size, seed)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        for rule in (
            check.belief,
            check.first,
            check.prediction,
            check.randomness,
            check.immutability,
            check.branching,
            check.decoding,
            check.batch_of_one,
            check.divergence,
            check.rows,
            check.gradients,
            check.loss,
            check.members,
            check.twin,
            check.moments,
        ):
            rule()


class _Check:
    def __init__(self, model: WorldModel[Any], batch_size: int, seed: int) -> None:
        self.model = model
        self.batch = batch_size
        self.seed = seed
        self.space = copy.deepcopy(model.observation_space)  # drawing from the model's own would leave a trace
        self.space.seed(seed)

    # ---- material ---------------------------------------------------------------------------------------------------

    def generator(self, offset: int = 0) -> torch.Generator:
        return torch.Generator(device=self.model.device).manual_seed(self.seed + offset)

    def observations(self, *shape: int) -> Observation:
        total = int(torch.tensor(shape).prod())
        samples = [_modest(self.space) for _ in range(total)]
        obs: Any
        if isinstance(self.space, spaces.Dict):
            obs = {k: torch.stack([torch.as_tensor(s[k]) for s in samples]) for k in samples[0]}
            obs = {k: v.reshape(*shape, *v.shape[1:]) for k, v in obs.items()}
        else:
            obs = torch.stack([torch.as_tensor(s) for s in samples])
            obs = obs.reshape(*shape, *obs.shape[1:])
        return observation_tensor(obs, self.model.device)

    def actions(self, n: int | None = None) -> Tensor:
        return self.model.action_codec.sample(n or self.batch, self.generator(7))

    def start(self, n: int | None = None) -> Any:
        n = n or self.batch
        context = self.model.context
        action = self.model.action_codec.sample(n * context, self.generator(3)).reshape(n, context, -1)
        return self.model.believe(self.observations(n, context), action, self.generator(5))

    def predict(self, state: Any, offset: int = 0, **kwargs: Any) -> tuple[Any, Prediction]:
        result: tuple[Any, Prediction] = self.model.predict(
            state, self.actions(state.batch_size), self.generator(offset), **kwargs
        )
        return result

    # ---- rules ------------------------------------------------------------------------------------------------------

    def belief(self) -> None:
        for name in ("initial", "observe"):
            state = self.model.initial(self.batch) if name == "initial" else self.start()
            _require(
                isinstance(state, TensorStruct), f"{name}() must return a TensorStruct, got {type(state).__name__}"
            )
            for x in state.tensors():
                _require(
                    x.shape[:1] == (self.batch,),
                    f"every tensor of {name}()'s state must begin with the batch {self.batch}, got {tuple(x.shape)}",
                )
                _finite(f"{name}()'s state", x)
        features = self.model.features(self.start())
        _require(
            features.dim() == 2 and features.shape[0] == self.batch and features.dtype == torch.float32,
            f"features() must return [B, F] float32, got {tuple(features.shape)} {features.dtype}",
        )

    def first(self) -> None:
        obs, is_first = (
            self.observations(self.batch),
            torch.ones(self.batch, dtype=torch.bool, device=self.model.device),
        )
        used, action = self.start(), self.actions()
        kept = self.model.observe(self.model.initial(self.batch), action, obs, is_first, self.generator())
        again = self.model.observe(used, -action, obs, is_first, self.generator())
        _require(_same(kept, again), "observe() must ignore the belief and the action where is_first; it did not")

    def prediction(self) -> None:
        state, step = self.predict(self.start())
        _require(state.batch_size == self.batch, f"predict()'s state must keep B={self.batch}, got {state.batch_size}")
        for name in ("reward", "terminated", "truncated", "continuation", "uncertainty"):
            x = getattr(step, name)
            dtype = torch.bool if name in ("terminated", "truncated") else torch.float32
            _require(
                x.shape == (self.batch,) and x.dtype == dtype,
                f"Prediction.{name} must be [B] {dtype}, got {tuple(x.shape)} {x.dtype}",
            )
            _finite(f"Prediction.{name}", x)
        least = step.uncertainty.min()
        _require(bool(least >= 0), f"Prediction.uncertainty must be >= 0, got {least}")
        inside = (step.continuation >= 0) & (step.continuation <= 1)
        _require(bool(inside.all()), f"Prediction.continuation must lie in [0, 1], got {step.continuation}")
        for key, x in step.info.items():
            _require(x.shape[:1] == (self.batch,), f"Prediction.info[{key!r}] must be [B, ...], got {tuple(x.shape)}")
            _finite(f"Prediction.info[{key!r}]", x)

    def randomness(self) -> None:
        start = self.start()
        for sample, offset in ((True, 0), (False, 9)):
            first = self.predict(start, sample=sample)
            again = self.predict(start, offset, sample=sample)
            rule = "predict() with an equal generator must repeat" if sample else "predict(sample=False) is not random"
            _require(_same(first[0], again[0]) and _same(first[1], again[1]), f"{rule}; two calls differed")
        full, less = self.predict(start), self.predict(start, uncertainty=False)
        _require(
            _same(full[0], less[0]) and torch.equal(full[1].reward, less[1].reward),
            "predict(uncertainty=False) may skip the uncertainty only; the state or the reward changed",
        )
        self.model.predict(start, self.actions())  # without a generator

    def immutability(self) -> None:
        start = self.start()
        before = start.map(Tensor.clone)
        action = self.actions()
        kept = action.clone()
        self.model.predict(start, action, self.generator())
        self.model.features(start), self.model.decode(start), self.model.branch(start, 2 * self.model.hypotheses)
        is_first = torch.zeros(self.batch, dtype=torch.bool, device=self.model.device)
        self.model.observe(start, action, self.observations(self.batch), is_first, self.generator())
        _require(_same(before, start), "no method may change a state in place; one did")
        _require(torch.equal(kept, action), "predict() may not change the action in place; it did")

    def branching(self) -> None:
        n = 2 * self.model.hypotheses
        start = self.start()
        branched = self.model.branch(start, n)
        rows = branched.batch_size
        _require(rows == self.batch * n, f"branch(state, {n}) must return B * n = {self.batch * n} rows, got {rows}")
        expected, got = self.model.features(start).repeat_interleave(n, 0), self.model.features(branched)
        _require(torch.allclose(expected, got), "branch() must keep a belief's hypotheses together, unchanged")
        state, step = self.predict(branched, uncertainty=False)
        _require(
            state.batch_size == step.reward.shape[0] == rows,
            f"predict() of a branched belief must keep its {rows} rows, got {state.batch_size}",
        )

    def decoding(self) -> None:
        state, _ = self.predict(self.start())
        obs = observation_array(self.model.decode(state))
        space = self.model.observation_space
        for i in range(self.batch):
            row = {k: v[i] for k, v in obs.items()} if isinstance(obs, dict) else obs[i]
            _require(space.contains(row), f"decode() must return members of {space}, got {row!r} in row {i}")

    def batch_of_one(self) -> None:
        state, step = self.predict(self.start(1))
        _require(state.batch_size == 1 and step.reward.shape == (1,), "a batch of one row must work; its shape changed")

    def divergence(self) -> None:
        for scale in (1e3, 1e30, 1e38):
            wild = _scaled(self.start(), scale)
            for _ in range(3):
                wild = self._safe_step(f"predict() from a state scaled by {scale:g}", wild, self.actions())
        self._safe_step("predict() of an infinite action", self.start(), self.actions() * torch.inf)

    def _safe_step(self, name: str, state: Any, action: Tensor) -> Any:
        state, step = self.model.predict(state, action, self.generator())
        for x in (*state.tensors(), *step.tensors()):
            _finite(name, x)
        diverged = step.info.get("diverged")
        if diverged is not None:
            _require(bool(step.truncated[diverged].all()), "a row with info['diverged'] must be truncated; one is not")
        return state

    def rows(self) -> None:
        start, wild = self.start(), self.start()
        odd = torch.arange(self.batch, device=self.model.device) == 0
        tame, mixed = self.predict(start)[0], self.predict(_scaled(wild, 1e30).where(odd, start))[0]
        for x, y in zip(tame.tensors(), mixed.tensors(), strict=True):
            _require(
                torch.allclose(x[1:], y[1:], rtol=1e-4, atol=1e-5),
                "predict() must treat rows independently; a wild row changed the others",
            )

    def gradients(self) -> None:
        action = self.actions().requires_grad_()
        state, step = self.model.predict(self.start(), action, self.generator())
        total = step.reward.sum() + self.model.features(state).sum()
        _require(total.requires_grad, "predict() must be differentiable with respect to the action")
        for name, x in (("reward and features", total), ("uncertainty", step.uncertainty.sum())):
            if x.requires_grad:
                (gradient,) = torch.autograd.grad(x, action, retain_graph=True, allow_unused=True)
                _finite(f"the gradient of an imagined step's {name}", torch.zeros(()) if gradient is None else gradient)

    def loss(self) -> None:
        batch = self._windows(max(2, self.model.context + 1))
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        result = self.model.loss(batch)
        _require(isinstance(result, ModelLoss), f"loss() must return a ModelLoss, got {type(result).__name__}")
        _require(result.total.shape == (), f"ModelLoss.total must be a scalar, got {tuple(result.total.shape)}")
        _finite("ModelLoss.total", result.total)
        for name, x in result.terms.items():
            _require(not x.requires_grad and x.shape == (), f"ModelLoss.terms[{name!r}] must be a detached scalar")
        if parameters:
            _require(result.total.requires_grad, "loss() must reach the parameters; no gradient did")
            gradients = torch.autograd.grad(result.total, parameters, allow_unused=True)
            _require(any(g is not None for g in gradients), "loss() must reach the parameters; no gradient did")
        with torch.no_grad():
            error = self.model.holdout_error(batch)
        _require(
            error.shape == (self.model.members,),
            f"holdout_error() must return [E] with E = members = {self.model.members}, got {tuple(error.shape)}",
        )
        _finite("holdout_error()", error)

    def members(self) -> None:
        parameters = dict(self.model.named_parameters())
        for name in sorted(self.model.member_parameters()):
            shape = tuple(parameters[name].shape) if name in parameters else None
            _require(
                shape is not None and shape[:1] == (self.model.members,),
                f"member_parameters() must be parameters [E, ...], E = {self.model.members}, got {name!r} {shape}",
            )

    def twin(self) -> None:
        model = self.model
        try:
            config = type(model.config)(**json.loads(json.dumps(asdict(model.config))))
        except TypeError as error:
            raise AssertionError(f"config must be a dataclass of JSON values, got {model.config}: {error}") from error
        _require(config == model.config, f"config must survive JSON, got {config} from {model.config}")
        twin = model.twin()
        twin.load_state_dict(model.state_dict())
        twin.to(model.device)
        start = self.start()
        mine, theirs = self.predict(start), twin.predict(start, self.actions(), self.generator())
        _require(
            _same(mine[0], theirs[0]) and _same(mine[1], theirs[1]),
            "a model's twin() with its state_dict must predict the same",
        )

    def moments(self) -> None:
        if not isinstance(self.model, DensityModel):
            return
        mean, variance = self.model.moments(self.start(), self.actions())
        size = ObservationCodec(self.model.observation_space).size + 1
        _require(
            mean.shape == variance.shape and mean.dim() == 3 and mean.shape[1:] == (self.batch, size),
            f"moments() must be [E, B, D + 1] twice with B, D + 1 = {(self.batch, size)}, got {tuple(mean.shape)} and "
            f"{tuple(variance.shape)}",
        )
        _finite("the mean of moments()", mean)
        _require(bool((variance >= 0).all()), "moments() must return variances >= 0")

    # ---- helpers ----------------------------------------------------------------------------------------------------

    def _windows(self, length: int) -> SequenceBatch:
        shape, device = (self.batch, length), self.model.device
        flags = torch.zeros(shape, dtype=torch.bool, device=device)
        is_first = flags.clone()
        is_first[:, 0] = True
        action = self.model.action_codec.sample(self.batch * length, self.generator(11)).reshape(*shape, -1)
        reward = torch.randn(shape, generator=self.generator(13), device=device)
        index = torch.arange(self.batch * length, device=device).reshape(shape)
        return SequenceBatch(self.observations(*shape), action, reward, flags, flags, is_first, index)


def _modest(space: spaces.Space[Any]) -> Any:
    """Return a sample without the huge values that Box.sample() draws from wide bounds."""
    if isinstance(space, spaces.Dict):
        return {key: _modest(leaf) for key, leaf in space.spaces.items()}
    sample = space.sample()
    if isinstance(space, spaces.Box) and space.dtype is not None and space.dtype.kind == "f":
        return sample.clip(-10, 10).clip(space.low, space.high).astype(space.dtype)
    return sample


def _scaled(state: Any, scale: float) -> Any:
    return state.map(lambda x: x * scale if x.is_floating_point() else x)


def _same(a: TensorStruct, b: TensorStruct) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.tensors(), b.tensors(), strict=True))


def _finite(name: str, x: Tensor) -> None:
    _require(not x.is_floating_point() or bool(torch.isfinite(x).all()), f"{name} must be finite, got {x}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)
