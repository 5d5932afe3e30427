"""DARTNoise: exploration in reality that is shaped by how the policy changed last."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium import spaces

from mbrl_gym.agents.dream_data import normalized
from mbrl_gym.agents.start_choice import age
from mbrl_gym.spaces import Observation

if TYPE_CHECKING:
    from mbrl_gym.agents.dyna import Dyna

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class DARTNoise:
    """Noise on the real actions with the covariance of the policy's last change, so that the model sees its neighbours.

    DART proper (Laskey et al. 2017) is a method of imitation learning: it disturbs a supervisor as the learner errs,
    so that demonstrations show how to recover. There is no supervisor here. What is taken over is the idea: the next
    policy will differ from this one about as this one from the last, and the model should know the states to which that
    leads. The covariance is scale^2 * mean((new - old) (new - old)^T) + least^2, over the newest real states, of the
    deterministic actions on the scale of [-1, 1], from one training to the next. For a Box of actions.

    Source: BerkeleyAutomation/DART ``experiments/tools/noise.py`` (``sample_covariance_trajs``), whose mean of outer
    products this is with ``scale`` 1, of another difference; the paper's rescaling by the anticipated error (recalled)
    is left to ``scale``.

    Attributes:
        scale: times the change of the policy.
        least: standard deviation that is always added, also before the policy has changed for the first time.
        states: how many of the newest real states the change is measured on.
    """

    scale: float = 1.0
    least: float = 0.0
    states: int = 256

    def __post_init__(self) -> None:
        for name in ("scale", "least"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be at least 0 and finite, got {getattr(self, name)}")
        if self.states < 1:
            raise ValueError(f"states must be at least 1, got {self.states}")


class DARTExplorer:
    """The noise of `DARTNoise` for one agent.

    Args:
        agent: whose policy explores.
        config: how.

    Raises:
        ValueError: the actions are not a Box.
    """

    def __init__(self, agent: "Dyna", config: DARTNoise) -> None:
        if not isinstance(agent.action_space, spaces.Box):
            raise ValueError(
                f"exploration=DARTNoise needs a Box of actions, got {agent.action_space}; leave exploration out"
            )
        self._agent, self._config = agent, config
        size = agent.model.action_codec.size
        self.covariance: Array = config.least**2 * np.eye(size)
        self._seen: Observation | None = None
        self._chosen: Array | None = None  # [M, A], what the policy of the last training does there
        self._rng = np.random.default_rng(0)

    def seed(self, seed: int) -> None:
        """Start the noise anew."""
        self._rng = np.random.default_rng(seed)

    def disturb(self, action: Array) -> Array:
        """Return environment actions [n, *act] with noise, within the space."""
        policy = self._agent.policy
        scaled = np.asarray(policy.scale_action(action))
        noise = self._rng.multivariate_normal(np.zeros(len(self.covariance)), self.covariance, len(action))
        noisy: Any = np.clip(scaled + noise.reshape(scaled.shape), -1, 1)
        return np.asarray(policy.unscale_action(noisy.astype(scaled.dtype)))

    def follow(self) -> None:
        """Measure how the policy changed since the last call; the agent calls it after each training."""
        if self._seen is not None and self._chosen is not None:
            change = self._choices(self._seen) - self._chosen  # [M, A]
            least = self._config.least**2 * np.eye(change.shape[1])
            self.covariance = self._config.scale**2 * change.T @ change / len(change) + least
        replay = self._agent.replay
        oldest_first = np.argsort(-age(replay, replay.start_rows(1)), kind="stable")  # of all environments
        newest = torch.from_numpy(oldest_first[-self._config.states :].copy())
        starts = replay.starts(1)[newest].obs
        self._seen = {k: v[:, 0] for k, v in starts.items()} if isinstance(starts, dict) else starts[:, 0]
        self._chosen = self._choices(self._seen)

    def _choices(self, obs: Observation) -> Array:
        """Return the policy's deterministic actions [M, A] for raw observations, on the scale of [-1, 1]."""
        seen = normalized(obs, self._agent._vec_normalize_env)
        arrays: Any = {k: v.numpy() for k, v in seen.items()} if isinstance(seen, dict) else seen.numpy()
        action, _ = self._agent.algorithm.predict(arrays, deterministic=True)
        scaled: Array = np.asarray(self._agent.policy.scale_action(action)).reshape(len(action), -1).astype(np.float64)
        return scaled

    def state(self) -> dict[str, Any]:
        """Return what resuming needs, nested plain data and tensors."""
        chosen = None if self._chosen is None else torch.as_tensor(self._chosen)
        return {"covariance": torch.as_tensor(self.covariance), "seen": self._seen, "chosen": chosen}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned."""
        self.covariance = state["covariance"].cpu().numpy()
        seen = state["seen"]  # where the agent is; the replay is on the CPU
        self._seen = {k: v.cpu() for k, v in seen.items()} if isinstance(seen, dict) else seen
        if isinstance(self._seen, torch.Tensor):
            self._seen = self._seen.cpu()
        self._chosen = None if state["chosen"] is None else state["chosen"].cpu().numpy()
