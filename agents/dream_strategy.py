"""DreamStrategy: how the algorithm inside Dyna gets imagined experience and learns from it."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mbrl_gym.agents.dyna import Dyna


class DreamStrategy(ABC):
    """What differs between Dyna with on-policy and with off-policy algorithms.

    Args:
        agent: whose algorithm, model and replay these are.
    """

    def __init__(self, agent: "Dyna") -> None:
        self.agent = agent

    @property
    @abstractmethod
    def imagined_steps(self) -> int:
        """Imagined steps so far."""

    @abstractmethod
    def bind(self) -> None:
        """Take up the agent's algorithm, which is new."""

    def follow_normalization(self) -> None:
        """Let what the algorithm learns from be normalised as reality is now."""
        inner, real = self.agent.algorithm.get_vec_normalize_env(), self.agent._vec_normalize_env
        if inner is not None and real is not None:
            inner.ret_rms = real.ret_rms
            if real.norm_obs:
                inner.obs_rms = real.obs_rms

    @abstractmethod
    def before_fit(self) -> None:
        """Look at the model before it is fitted to what it has not seen yet."""

    @abstractmethod
    def after_fit(self) -> None:
        """Dream in the model as it is now."""

    @abstractmethod
    def after_step(self) -> None:
        """Learn after a step of the real environments."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return what resuming needs beside the algorithm, nested plain data and tensors."""

    @abstractmethod
    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned."""
