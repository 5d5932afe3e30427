"""LearnedEnv: a world model as a single Gymnasium environment."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from torch import Tensor

from mbrl_gym.envs.dream import Dream
from mbrl_gym.envs.inputs import encode_actions, parse_start, split_options
from mbrl_gym.envs.rendering import Renderer, make_renderer
from mbrl_gym.envs.vector import plain_spec
from mbrl_gym.envs.view import View
from mbrl_gym.envs.window import Window, keys_to_action
from mbrl_gym.model import Prediction, WorldModel
from mbrl_gym.spaces import observation_array
from mbrl_gym.start_states import StartStates


class LearnedEnv(gym.Env[Any, Any]):
    """One learned environment; see `mbrl_gym.envs.vector.LearnedVectorEnv` for what its episodes are.

    Args:
        model: the world model.
        starts: contexts that episodes begin from.
        horizon: imagined steps an episode.
        render_mode: None; "rgb_array"; or "human", which shows each step in a window. Classic control is drawn by the
            real environment's own renderer from the predicted observation, pictures as they are predicted, any other
            vector observation as a strip chart of its dimensions.
        real_id: the id of the real environment, which chooses the renderer.
        view: what is shown of the belief, and so the observation's space (`mbrl_gym.envs.view`); None: what the model
            predicts.
        keys: actions by the keys that people play with; None: none are known.

    Attributes:
        prediction: all that the model said of the latest step, tensors [1]; None before the first one.

    Raises:
        ValueError: an argument is out of its range.
    """

    metadata: dict[str, Any] = {"render_modes": ["human", "rgb_array"], "render_fps": 30}  # noqa: RUF012  (as Env)

    def __init__(
        self,
        model: WorldModel[Any],
        starts: StartStates,
        horizon: int = 1000,
        render_mode: str | None = None,
        real_id: str | None = None,
        view: View | None = None,
        keys: dict[str, int] | None = None,
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode must be None or one of {self.metadata['render_modes']}, got {render_mode!r}")
        self.dream = Dream(model, starts, 1, horizon, view)
        self.model = model
        self.observation_space = self.dream.observation_space
        self.action_space = model.action_space
        self.render_mode = render_mode
        self._keys = keys
        self.prediction: Prediction | None = None
        self._renderer: Renderer | None = None
        self._window: Window | None = None
        if render_mode is not None:
            self._renderer = make_renderer(real_id, model.observation_space)
            self.metadata = {**self.metadata, "render_fps": self._renderer.fps}
            if render_mode == "human":
                self._window = Window("learned environment", self._renderer.fps)

    @property
    def spec(self) -> EnvSpec | None:
        """The spec it was made from, without anything that is not plain data."""
        spec: EnvSpec | None = self.__dict__.get("_spec")
        return spec

    @spec.setter
    def spec(self, value: EnvSpec | None) -> None:
        self.__dict__["_spec"] = plain_spec(value)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: fixes this episode and all that follow; without one the episodes go on differing.
            options: ``{"start": obs}`` begins from a given observation, or from a context [C, *obs] together with
                ``"action"`` [C, *act], the actions taken after each (the last is unused).

        Returns:
            The observation and ``{"uncertainty": 0.0}``.

        Raises:
            ValueError: an option is not as described.
        """
        chosen, _ = split_options(options, 1, ("start", "action"))
        starts = parse_start(self.model, {key: _batched(value) for key, value in chosen.items()}, 1)
        super().reset(seed=seed)
        # The generator follows np_random, so that a seeded reset fixes all that comes and an unseeded one goes on.
        self.dream.generator.manual_seed(int(self.np_random.integers(2**63)))
        obs = self._first(self.dream.reset(starts))
        if self._renderer is not None:
            self._renderer.begin(self._predicted(obs))
            self._show()
        return obs, {"uncertainty": 0.0}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Advance one imagined step; ``info`` has ``uncertainty`` and what the model adds, as Python numbers.

        Raises:
            RuntimeError: there was no reset yet.
            ValueError: the action has another shape, is not finite, or is no member of a discrete space.
        """
        if self.dream.state is None:
            raise RuntimeError("step() needs a reset() first")
        obs_batch, prediction = self.dream.step(encode_actions(self.model, _batched(action), 1))
        self.prediction = prediction
        obs = self._first(obs_batch)
        if self._renderer is not None:
            self._renderer.follow(self._predicted(obs), action, float(prediction.reward))
            self._show()
        info = {"uncertainty": prediction.uncertainty.item()}
        info |= {name: x.item() if x.dim() == 1 else observation_array(x)[0] for name, x in prediction.info.items()}
        return obs, float(prediction.reward), bool(prediction.terminated), bool(prediction.truncated), info

    def render(self) -> Any:
        """Return the picture [height, width, 3] uint8 of the predicted state; None without one to return."""
        return self._renderer.draw() if self._renderer is not None and self._window is None else None

    def get_keys_to_action(self) -> dict[tuple[int, ...], int]:
        """Return the actions of the keys, as `gymnasium.utils.play.play` asks for them.

        Raises:
            NotImplementedError: no keys are known.
        """
        if self._keys is None:
            raise NotImplementedError(
                f"keys must be given for people to play {self.action_space}, as in play(env, keys_to_action=...)"
            )
        return keys_to_action(self._keys)

    def close(self) -> None:
        """Close the renderer and the window."""
        if self._renderer is not None:
            self._renderer.close()
        if self._window is not None:
            self._window.close()

    def _show(self) -> None:
        if self._window is not None and self._renderer is not None:
            self._window.show(self._renderer.draw())

    def _predicted(self, obs: Any) -> Any:
        """Return what the model itself predicts, which is what is drawn; ``obs`` where that is what is shown."""
        if self.observation_space is self.model.observation_space:
            return obs
        return self._first(self.model.decode(self.dream.state), self.model.observation_space)

    def _first(self, obs: Any, space: Any = None) -> Any:
        batch, space = observation_array(obs), self.observation_space if space is None else space
        if isinstance(batch, dict):
            return {key: self._row(value, space[key]) for key, value in batch.items()}
        return self._row(batch, space)

    @staticmethod
    def _row(batch: Any, space: Any) -> Any:
        # A Discrete observation is a numpy scalar, as Discrete.sample() gives it.
        return batch[0] if space.shape == () else np.ascontiguousarray(batch[0])


def _batched(value: Any) -> Any:
    """Return an action, observation or context with a batch axis of one."""
    if isinstance(value, dict):
        return {key: _batched(item) for key, item in value.items()}
    return np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)[None]
