"""BeliefPolicy: acting from a model's belief, as an SB3 policy whose memory travels in SB3's ``state``."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor

from mbrl_gym.model import WorldModel
from mbrl_gym.spaces import ActionCodec, check_observation, is_image, observation_tensor
from mbrl_gym.tensors import TensorStruct

Arrays = tuple[np.ndarray[Any, Any], ...]
Struct = TypeVar("Struct", bound=TensorStruct)


@dataclass(frozen=True)
class Memory(TensorStruct):
    """What acting remembers from one real step to the next, a row an environment.

    Attributes:
        carry: the actor's own memory (a planner's last plan); None where it has none.
        belief: the model's.
        action: [B, A] the encoded action taken last.
        calls: [B] int64, how often this memory was used; it numbers the random streams.
    """

    carry: Any
    belief: TensorStruct
    action: Tensor
    calls: Tensor


class BeliefPolicy(BasePolicy):
    """Filters real observations into beliefs and acts from these; seed, memory and observation determine the action.

    A subclass supplies `_choose`, and `_begin` where it has a memory of its own.

    Args:
        observation_space: the real environment's.
        action_space: the real environment's.
        seed: of everything random.
        exploration_noise: see `explored`.

    Attributes:
        exploring: whether there is such noise; in an agent's own collection, not in ``predict``.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        seed: int,
        exploration_noise: float = 0.0,
    ) -> None:
        super().__init__(observation_space, action_space)
        self.seed, self.exploration_noise, self.exploring = seed, exploration_noise, False
        self.last_belief: TensorStruct | None = None

    @property
    @abstractmethod
    def model(self) -> WorldModel[Any]:
        """The model that makes the beliefs."""

    @abstractmethod
    def _choose(
        self, belief: Any, carry: Any, deterministic: bool, generator: torch.Generator
    ) -> tuple[Tensor, TensorStruct | None]:
        """Return encoded actions [B, A] and the carry [B] after it."""

    def _begin(self, count: int) -> TensorStruct | None:
        """Return the carry [count] of new episodes."""
        return None

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return self.model.device

    def predict(
        self,
        observation: Any,
        state: Arrays | None = None,
        episode_start: np.ndarray[Any, Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray[Any, Any], Arrays | None]:
        """Return actions and the memory for the next call, for one observation or a batch of them.

        Args:
            observation: raw observation(s), of one or several environments.
            state: what the last call returned; None begins anew.
            episode_start: [n_envs] bool, where memory is to be forgotten.
            deterministic: whether a stochastic actor takes its likeliest action. Beliefs are samples either way.

        Raises:
            ValueError: an observation is not of the space or not finite, or ``state`` or ``episode_start`` are not of
                as many environments.
        """
        batch, vectorized = self._batch(observation)
        action, memory = self._act(batch, state, episode_start, deterministic)
        return (action if vectorized else action[0]), memory

    def _act(
        self, batch: Any, state: Arrays | None, episode_start: Any, deterministic: bool
    ) -> tuple[np.ndarray[Any, Any], Arrays]:
        count = len(next(iter(batch.values()))) if isinstance(batch, dict) else len(batch)
        fresh = self._fresh(count)
        memory = fresh if state is None else _from_arrays(fresh, state)
        begins = torch.full((count,), state is None, device=self.device)
        if episode_start is not None:
            begins = begins | torch.as_tensor(_flags(episode_start, count), device=self.device)
        carry = memory.carry if memory.carry is None else fresh.carry.where(begins, memory.carry)
        generator = self._generator(0 if state is None else int(state[-1].max()))
        obs = observation_tensor(batch, self.device)
        with torch.no_grad():
            belief = self.model.observe(memory.belief, memory.action, obs, begins, generator)
            encoded, carry = self._choose(belief, carry, deterministic, generator)
            if self.exploring and self.exploration_noise:
                encoded = explored(self.model.action_codec, encoded, self.exploration_noise, generator)
            action = self.model.action_codec.decode(encoded)
        after = Memory(carry, belief, encoded, memory.calls + 1)
        self.last_belief = belief
        return action.cpu().numpy(), tuple(np.array(x.cpu().numpy()) for x in after.tensors())

    def _fresh(self, count: int) -> Memory:
        return Memory(
            self._begin(count),
            self.model.initial(count),
            torch.zeros(count, self.model.action_codec.size, device=self.device),
            torch.zeros(count, dtype=torch.int64, device=self.device),
        )

    def _generator(self, call: int) -> torch.Generator:
        seed = np.random.SeedSequence([self.seed, call]).generate_state(1, np.uint64)[0]
        return torch.Generator(self.device).manual_seed(int(seed >> 1))

    def _batch(self, observation: Any) -> tuple[Any, bool]:
        """Return the observations with a batch axis, and whether they had one."""
        space = self.observation_space
        if isinstance(space, spaces.Dict):
            leaves = space.spaces
            observation = {k: _untransposed(np.asarray(v), leaves.get(k)) for k, v in observation.items()}
            key, leaf = next(iter(leaves.items()))
            vectorized = key in observation and observation[key].ndim > len(leaf.shape or ())
            batch: Any = observation if vectorized else {k: v[None] for k, v in observation.items()}
        else:
            array = _untransposed(np.asarray(observation), space)
            vectorized = array.ndim > len(space.shape or ())
            batch = array if vectorized else array[None]
        check_observation(batch, space)
        return batch, vectorized

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        """Return actions [B, *act] for observations [B, *obs] without memory (SB3's interface of tensors)."""
        batch = observation if isinstance(observation, dict) else observation.cpu().numpy()
        return torch.as_tensor(self._act(batch, None, None, deterministic)[0], device=self.device)


def _untransposed(array: np.ndarray[Any, Any], leaf: Any) -> np.ndarray[Any, Any]:
    """Return images that SB3's VecTransposeImage moved the channels of to the front as the model knows them."""
    if leaf is None or not is_image(leaf) or array.shape[-3:] == leaf.shape:
        return array
    height, width, channels = leaf.shape
    return np.moveaxis(array, -3, -1) if array.shape[-3:] == (channels, height, width) else array


def explored(codec: ActionCodec, action: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Return encoded actions [B, A] with noise: added and clipped in a Box, elsewhere a share of random ones."""
    if codec.continuous:
        return (action + noise * torch.randn(action.shape, generator=generator, device=action.device)).clamp(-1, 1)
    chance = torch.rand(len(action), 1, generator=generator, device=action.device)
    return torch.where(chance < noise, codec.sample(len(action), generator, action.device), action)


def _flags(episode_start: Any, count: int) -> np.ndarray[Any, Any]:
    flags = np.asarray(episode_start, dtype=bool).reshape(-1)
    if len(flags) != count:
        raise ValueError(
            f"episode_start must have one flag for each of {count} environments, got {len(flags)}; "
            "pass those of the observations' rows, or None"
        )
    return flags


def _from_arrays(like: Struct, arrays: Arrays) -> Struct:
    """Return a struct like ``like`` with the numbers of ``arrays``, as `predict` made them of one."""
    wanted = [(tuple(x.shape), str(x.dtype).removeprefix("torch.")) for x in like.tensors()]
    got: Any = type(arrays).__name__
    if isinstance(arrays, tuple | list) and all(isinstance(x, np.ndarray) for x in arrays):
        got = [(x.shape, str(x.dtype)) for x in arrays]
    if wanted != got:
        raise ValueError(
            f"state must be what the last call of predict returned for as many environments, {wanted}, got {got}; "
            "pass None to begin anew"
        )
    left: Iterator[np.ndarray[Any, Any]] = iter(arrays)
    return like.map(lambda x: torch.tensor(next(left), device=x.device))  # a copy: the caller's stays as it is
