"""SimPLe: a policy for a game's screen, trained by PPO in a model that predicts the next picture."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv

from mbrl_gym.agents.dyna import Dyna
from mbrl_gym.agents.imports import decode
from mbrl_gym.agents.simple_presets import PRESETS, SimPLePreset
from mbrl_gym.agents.whole_episodes import WholeEpisodes
from mbrl_gym.envs.view import FrameStack
from mbrl_gym.fit import TrainerConfig
from mbrl_gym.fit_report import FitReport
from mbrl_gym.model import WorldModel
from mbrl_gym.pictures import PictureLayout
from mbrl_gym.replay import SequenceReplay
from mbrl_gym.store import StoredModel
from mbrl_gym.wrappers.atari import make_atari_vec
from mbrl_gym.wrappers.sb3 import SB3VecEnv


class SimPLe(Dyna):
    """Collect real steps, train a model of the screen, train PPO in the model, and again.

    The real environment yields single pictures, as they are drawn: the model learns these, and the replay keeps each
    once. The policy reads stacks of them, resized (``view``), in reality as in the dream; SB3's ``state`` carries the
    stack from one `predict` to the next. What `export_sb3` writes plays environments that show such stacks, those of
    `mbrl_gym.wrappers.make_atari`. Dreams of 50 steps begin from real pictures and end as truncated. Source: Kaiser et
    al. 2020, algorithm 1.

    Trainings may have parts, after each of which ``on_part`` is called: the agent can be saved then, and resuming goes
    on with the next part.

    Args:
        policy: "CnnPolicy", or a class of PPO's.
        env: an id of ALE ("ALE/Pong-v5": the preset's screens, without sticky actions, rewards clipped), or an
            environment or VecEnv whose observation is one picture.
        preset: "cpu" or "paper" (`mbrl_gym.agents.simple_presets`), for every argument that is None. The paper's
            schedule has its last training after 96,000 real steps.
        view: what the policy sees.
        model_class: `VideoModel` or `StochasticVideoModel`, or one like them.
        model_config: the model's hyperparameters; None: the preset's, or those of ``model_class`` if that was given.
        trainer_config: how it is trained; ``length`` counts the ``context`` rows of each window, too.
        model_updates: gradient steps of the model in each training; the last number is that of all later ones.
        part: gradient steps and imagined steps of a part; (0, 0): each training is one piece.
        algorithm_kwargs: PPO's arguments; they win over the preset's.
        learning_starts: real steps of random actions before the first training.
        train_freq: real steps between trainings.
        dream_steps: imagined steps of each training; the last number is that of all later ones.
        dream_envs: dreams that step together.
        dream_horizon: imagined steps an episode.
        dream_starts: real contexts, drawn anew for each part, that dreams begin from.
        buffer_size: rows that the replay keeps.
        replay: experience to start from.
        policy_kwargs: the policy's arguments; None: the preset's.
        stats_window_size: episodes over which returns are averaged in the log.
        tensorboard_log: folder of TensorBoard logs.
        verbose: 1 prints the log table.
        seed: of everything.
        device: a torch device, or "auto".

    Raises:
        ValueError: an argument is out of its range, or the observation is no single picture.
    """

    kind = "simple"
    strategy: WholeEpisodes

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None,
        preset: str = "cpu",
        view: FrameStack | None = None,
        model_class: type[WorldModel[Any]] | None = None,
        model_config: Any = None,
        trainer_config: TrainerConfig | None = None,
        model_updates: Sequence[int] | None = None,
        part: Sequence[int] | None = None,
        algorithm_kwargs: dict[str, Any] | None = None,
        learning_starts: int | None = None,
        train_freq: int | None = None,
        dream_steps: int | Sequence[int] | None = None,
        dream_envs: int | None = None,
        dream_horizon: int | None = None,
        dream_starts: int | None = None,
        buffer_size: int = 110_000,
        replay: SequenceReplay | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: Any = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        defaults = find_preset(preset)
        self.preset = preset
        self.view = view or defaults.view
        steps = defaults.dream_steps if dream_steps is None else dream_steps
        self.planned_updates = _plan(
            "model_updates", defaults.model_updates if model_updates is None else model_updates
        )
        self.planned_dreams = _plan("dream_steps", (steps,) if isinstance(steps, int) else steps)
        self.part = _part(defaults.part if part is None else part)
        starts = defaults.dream_starts if dream_starts is None else dream_starts
        if starts < 1:
            raise ValueError(f"dream_starts must be at least 1 context, got {starts}")
        super().__init__(
            policy,
            screens(env, preset),
            algorithm=PPO,
            algorithm_kwargs={**defaults.ppo, **(algorithm_kwargs or {})},
            model_class=model_class or defaults.model_class,
            model_config=model_config or (defaults.model if model_class is None else None),
            trainer_config=trainer_config or defaults.trainer,
            learning_starts=defaults.learning_starts if learning_starts is None else learning_starts,
            train_freq=defaults.train_freq if train_freq is None else train_freq,
            dream_steps=self.planned_dreams[0],
            dream_envs=defaults.dream_envs if dream_envs is None else dream_envs,
            dream_horizon=defaults.dream_horizon if dream_horizon is None else dream_horizon,
            normalize_reward=False,
            buffer_size=buffer_size,
            replay=replay,
            policy_kwargs=defaults.policy if policy_kwargs is None else policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
        )
        self.dream_starts = int(starts)
        self._done = {"updates": 0, "dreamt": 0}  # of the training under way
        if isinstance(env, str) and self.real_id is None:
            self.real_id = env

    def _view(self) -> FrameStack:
        return self.view

    # ---- behaviour --------------------------------------------------------------------------------------------------

    def predict(
        self,
        observation: Any,
        state: tuple[np.ndarray[Any, Any], ...] | None = None,
        episode_start: np.ndarray[Any, Any] | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray[Any, Any], tuple[np.ndarray[Any, Any], ...] | None]:
        """Return actions for real pictures, and the stacks that the next call needs.

        Args:
            observation: [n, *obs] pictures, or one [*obs].
            state: what the last call returned; None: episodes begin, as if their first picture had been there before.
            episode_start: [n] bool, episodes that begin.
            deterministic: whether actions are the likeliest.
        """
        space = self.observation_space
        single = np.asarray(observation).shape == space.shape
        pictures = np.asarray(observation)[None] if single else np.asarray(observation)
        as_drawn = PictureLayout.of(space).channels_last(torch.from_numpy(pictures.copy())).numpy()
        begins = np.zeros(len(as_drawn), bool) if episode_start is None else np.asarray(episode_start, bool)
        stacks = self.view.pushed(None if state is None else state[0], as_drawn, begins)
        action, _ = self.algorithm.predict(stacks, deterministic=deterministic)
        return action[0] if single else action, (stacks,)

    # ---- training ---------------------------------------------------------------------------------------------------

    def _train(self) -> None:
        """Train the model, then the policy in it, in parts of which those that were made before are left out."""
        updates, dreams = (
            plan[min(self.trainings, len(plan) - 1)] for plan in (self.planned_updates, self.planned_dreams)
        )
        while self._done["updates"] < updates:
            done = self._done["updates"]
            self._now = range(done, min(done + (self.part[0] or updates), updates))
            self._updates = updates
            self._fit_model()
            self._done["updates"] = self._now.stop
            self._between_parts()
        while self._done["dreamt"] < dreams:
            steps = min(self.part[1] or dreams, dreams - self._done["dreamt"])
            self.strategy.dream(steps)
            self._done["dreamt"] += steps
            if self._done["dreamt"] < dreams:
                self._between_parts()
        self._done = {"updates": 0, "dreamt": 0}

    def _between_parts(self) -> None:
        if any(self.part) and self.on_part is not None:
            self.on_part()

    def _fit(self) -> FitReport:
        return self.trainer.fit_to_draws(self.replay, self._updates, self._on_epoch, self._now)

    # ---- storing ----------------------------------------------------------------------------------------------------

    def stored_model(self, reset_states: int = 256, card: Mapping[str, Any] | None = None) -> StoredModel:
        """Return the model with start states and the view (see `ModelOwner.stored_model`)."""
        return replace(super().stored_model(reset_states, card), view=asdict(self.view))

    def _arguments(self) -> dict[str, Any]:
        fixed = {"algorithm", "normalize_reward", "rollouts", "starts", "exploration"}
        fixed |= {"reward", "termination", "wrappers"}
        own = {
            "preset": self.preset,
            "view": asdict(self.view),
            "model_updates": list(self.planned_updates),
            "dream_steps": list(self.planned_dreams),
            "part": list(self.part),
            "dream_starts": self.dream_starts,
        }
        return {**{k: v for k, v in super()._arguments().items() if k not in fixed}, **own}

    @classmethod
    def _from_arguments(cls, arguments: dict[str, Any], given: dict[str, Any]) -> "SimPLe":
        known = {"model_class": "video", **arguments, "wrappers": []}  # once there was no other
        found = {k: v for k, v in cls._decoded(known, given).items() if k != "wrappers"}
        for name in {"policy", "algorithm_kwargs", "policy_kwargs"} - set(given):
            found[name] = decode(found[name], name)
        if "view" not in given:
            found["view"] = FrameStack(**found["view"])
        return cls(env=None, _init_setup_model=False, **found)

    def _learned_state(self) -> dict[str, Any]:
        return {**super()._learned_state(), "training": dict(self._done)}

    def _load_learned_state(self, state: dict[str, Any]) -> None:
        super()._load_learned_state(state)
        self._done = dict(state.get("training", self._done))

    @classmethod
    def load(  # type: ignore[override]
        cls, path: str | Path, env: GymEnv | str | None = None, device: Any = "auto", **given: Any
    ) -> "SimPLe":
        """Return the agent that `save` wrote (see `ModelBasedAlgorithm.load`); ``env`` may be an id of ALE."""
        if not is_game(env):
            return super().load(path, env, device, **given)  # type: ignore[arg-type]
        agent = super().load(path, None, device, **given)
        known = agent.real_id, agent.time_limit
        agent.set_env(screens(env, agent.preset))
        agent.real_id, agent.time_limit = known
        return agent


def find_preset(name: str) -> SimPLePreset:
    """Return the preset of a name.

    Raises:
        ValueError: there is none.
    """
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {sorted(PRESETS)}, got {name!r}")
    return PRESETS[name]()


def is_game(env: Any) -> bool:
    """Return whether ``env`` is an id of ALE."""
    return isinstance(env, str) and env.startswith("ALE/")


def screens(env: GymEnv | str | None, preset: str) -> Any:
    """Return the environment; of an id of ALE one that shows the screen as the preset has it."""
    if isinstance(env, str) and is_game(env):
        return SB3VecEnv(make_atari_vec(env, 1, find_preset(preset).screens))
    return env


def _plan(name: str, numbers: Sequence[int]) -> tuple[int, ...]:
    """Return the amounts of each training."""
    if len(numbers) < 1 or min(numbers) < 1:
        raise ValueError(f"{name} must be numbers of at least 1, one a training, got {tuple(numbers)}")
    return tuple(int(n) for n in numbers)


def _part(part: Sequence[int] | None) -> tuple[int, int]:
    """Return gradient steps and imagined steps of a part; 0: all of a training."""
    found = (0, 0) if part is None else tuple(part)
    if len(found) != 2 or min(found) < 0:
        raise ValueError(f"part must be two numbers of at least 0, gradient steps and imagined steps, got {found}")
    return int(found[0]), int(found[1])
