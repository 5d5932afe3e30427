"""The dream of a game, with the face that `mbrl_gym.play.reality.Reality` has."""

from typing import Any

from mbrl_gym.envs.single import LearnedEnv
from mbrl_gym.play.recorder import Picture


class Imagination:
    """Dreamt episodes.

    Args:
        env: a learned environment that draws itself; it is closed with this.
        seed: of all that is drawn.

    Attributes:
        obs: the latest observation, as the environment shows it.
        ended: how the episode ended; "" while it goes on.
        reward: of the latest step; None before the first one.
        total: the rewards of the episode.
        termination_probability: of the latest step; None before the first one.
        uncertainty: of the latest step; None before the first one.
    """

    def __init__(self, env: LearnedEnv, seed: int | None = None) -> None:
        self._env = env
        env.reset(seed=seed)
        self.begin(None)

    @property
    def horizon(self) -> int:
        """Imagined steps until an episode ends as truncated; assign to change it."""
        return self._env.dream.horizon

    @horizon.setter
    def horizon(self, value: int) -> None:
        self._env.dream.horizon = value

    @property
    def sample(self) -> bool:
        """Whether steps are drawn from what the model predicts, or are its mean; assign to change it."""
        return self._env.dream.sample

    @sample.setter
    def sample(self, value: bool) -> None:
        self._env.dream.sample = value

    @property
    def since_real(self) -> int:
        """Imagined steps since the last real frame."""
        return int(self._env.dream.steps[0])

    def begin(self, options: dict[str, Any] | None) -> None:
        """Begin an episode from a real context (`Reality.recent`), or from one of the model's starts."""
        self.obs, _ = self._env.reset(options=options)
        self.ended, self.total = "", 0.0
        self.reward: float | None = None
        self.termination_probability: float | None = None
        self.uncertainty: float | None = None

    def step(self, action: Any) -> None:
        """Take an imagined step."""
        self.obs, self.reward, terminated, truncated, info = self._env.step(action)
        said = self._env.prediction
        assert said is not None
        self.total += self.reward
        self.termination_probability, self.uncertainty = 1.0 - said.continuation.item(), said.uncertainty.item()
        self.ended = "terminated" if terminated else self._truncation(info) if truncated else ""

    def draw(self) -> Picture:
        """Return the picture [height, width, 3] of the latest step."""
        picture: Picture = self._env.render()
        return picture

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def _truncation(self, info: dict[str, Any]) -> str:
        if info.get("diverged"):
            return "the model broke down"
        return "horizon" if self.since_real >= self.horizon else "halted by the model"
