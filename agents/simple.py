"""SimPLe: a policy for a game's screen, trained by PPO in a model that predicts the next picture."""

from collections.abc import Mapping
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
from mbrl_gym.envs.view import FrameStack
from mbrl_gym.fit import TrainerConfig
from mbrl_gym.fit_report import FitReport
from mbrl_gym.models.video import VideoModel
from mbrl_gym.models.video_config import VideoConfig
from mbrl_gym.pictures import PictureLayout
from mbrl_gym.replay import SequenceReplay
from mbrl_gym.store import StoredModel
from mbrl_gym.wrappers.atari import AtariSettings, make_atari_vec
from mbrl_gym.wrappers.sb3 import SB3VecEnv

# Source: Kaiser et al. 2020, section 6; tensorflow/tensor2tensor at bafdc1b, models/research/rl.py
# (ppo_original_params) with the loop's own learning rate; batches of 320 of 800 transitions there.
PPO_DEFAULTS: dict[str, Any] = {
    "n_steps": 50,
    "batch_size": 200,
    "n_epochs": 3,
    "learning_rate": 1e-4,
    "clip_range": 0.1,
    "ent_coef": 0.01,
    "gamma": 0.99,
    "gae_lambda": 0.95,
}
TRAINER = TrainerConfig(learning_rate=1e-3, final_learning_rate=0.05, batch_size=8, length=30, holdout=0.0)
# One picture at a time, as the game draws it; no-ops and clipping as in SimPLe.
SCREENS = AtariSettings(height=210, width=160, stack=1, no_ops=8, clip_rewards=True)


class SimPLe(Dyna):
    """Collect real steps, train a model of the screen, train PPO in the model, and again.

    The real environment yields single pictures, as they are drawn: the model learns these, and the replay keeps each
    once. The policy reads stacks of them, resized (``view``), in reality as in the dream; SB3's ``state`` carries the
    stack from one `predict` to the next. What `export_sb3` writes plays environments that show such stacks, those of
    `mbrl_gym.wrappers.make_atari`. Dreams of 50 steps begin from real pictures and end as truncated. Source: Kaiser et
    al. 2020, algorithm 1. The model is not the paper's (`mbrl_gym.models.video`), nor is the schedule: what is real
    experience there is also trained on by PPO, and the policy knows the number of the iteration.

    Args:
        policy: "CnnPolicy", or a class of PPO's.
        env: an id of ALE ("ALE/Pong-v5": its screens, without sticky actions, rewards clipped), or an environment or
            VecEnv whose observation is one picture (`VideoModel`).
        view: what the policy sees.
        model_config: the model's hyperparameters.
        trainer_config: how it is trained; ``length`` counts the ``context`` rows of each window, too.
        model_updates: gradient steps of the model: in the first training, and in each later one.
        algorithm_kwargs: PPO's arguments; they win over SimPLe's.
        learning_starts: real steps of random actions before the first training.
        train_freq: real steps between trainings.
        dream_steps: imagined steps of each training.
        dream_envs: dreams that step together.
        dream_horizon: imagined steps an episode.
        dream_starts: real contexts, drawn anew for each training, that dreams begin from.
        buffer_size: rows that the replay keeps.
        replay: experience to start from.
        policy_kwargs: the policy's arguments.
        stats_window_size: episodes over which returns are averaged in the log.
        tensorboard_log: folder of TensorBoard logs.
        verbose: 1 prints the log table.
        seed: of everything.
        device: a torch device, or "auto".

    Raises:
        ValueError: an argument is out of its range, or the observation is no single picture.
    """

    kind = "simple"
    model: VideoModel

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None,
        view: FrameStack | None = None,
        model_config: VideoConfig | None = None,
        trainer_config: TrainerConfig | None = None,
        model_updates: tuple[int, int] = (3000, 1000),
        algorithm_kwargs: dict[str, Any] | None = None,
        learning_starts: int = 6400,
        train_freq: int = 6400,
        dream_steps: int = 40_000,
        dream_envs: int = 16,
        dream_horizon: int = 50,
        dream_starts: int = 512,
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
        if len(model_updates) != 2 or min(model_updates) < 1:
            raise ValueError(f"model_updates must be two numbers of at least 1, got {model_updates}")
        if dream_starts < 1:
            raise ValueError(f"dream_starts must be at least 1 context, got {dream_starts}")
        self.view = view or FrameStack()
        self.model_updates = (int(model_updates[0]), int(model_updates[1]))
        super().__init__(
            policy,
            _screens(env),
            algorithm=PPO,
            algorithm_kwargs={**PPO_DEFAULTS, **(algorithm_kwargs or {})},
            model_class=VideoModel,
            model_config=model_config,
            trainer_config=trainer_config or TRAINER,
            learning_starts=learning_starts,
            train_freq=train_freq,
            dream_steps=dream_steps,
            dream_envs=dream_envs,
            dream_horizon=dream_horizon,
            normalize_reward=False,
            buffer_size=buffer_size,
            replay=replay,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
        )
        self.dream_starts = int(dream_starts)
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
        newest = self.view.resized(as_drawn)  # [n, C, h, w]
        begun = np.tile(newest, (1, self.view.stack, 1, 1))
        if state is None:
            stacks = begun
        else:
            older = np.concatenate([state[0][:, newest.shape[1] :], newest], 1)
            first = np.zeros(len(newest), bool) if episode_start is None else np.asarray(episode_start, bool)
            stacks = np.where(first[:, None, None, None], begun, older)
        action, _ = self.algorithm.predict(stacks, deterministic=deterministic)
        return action[0] if single else action, (stacks,)

    # ---- training ---------------------------------------------------------------------------------------------------

    def _fit(self) -> FitReport:
        updates = self.model_updates[0 if self.trainings == 0 else 1]
        return self.trainer.fit_to_draws(self.replay, updates, self._on_epoch)

    # ---- storing ----------------------------------------------------------------------------------------------------

    def stored_model(self, reset_states: int = 256, card: Mapping[str, Any] | None = None) -> StoredModel:
        """Return the model with start states and the view (see `ModelOwner.stored_model`)."""
        return replace(super().stored_model(reset_states, card), view=asdict(self.view))

    def _arguments(self) -> dict[str, Any]:
        fixed = {"algorithm", "model_class", "normalize_reward", "rollouts", "starts", "exploration"}
        fixed |= {"reward", "termination", "wrappers"}
        own = {
            "view": asdict(self.view),
            "model_updates": list(self.model_updates),
            "dream_starts": self.dream_starts,
        }
        return {**{k: v for k, v in super()._arguments().items() if k not in fixed}, **own}

    @classmethod
    def _from_arguments(cls, arguments: dict[str, Any], given: dict[str, Any]) -> "SimPLe":
        found = dict(arguments)
        for name in ("policy", "algorithm_kwargs", "policy_kwargs"):
            found[name] = decode(found[name], name)
        if found["model_config"] is not None:
            found["model_config"] = VideoConfig(**found["model_config"])
        found["trainer_config"] = TrainerConfig(**found["trainer_config"])
        found["view"] = FrameStack(**found["view"])
        return cls(env=None, _init_setup_model=False, **{**found, **given})

    @classmethod
    def load(  # type: ignore[override]
        cls, path: str | Path, env: GymEnv | str | None = None, device: Any = "auto", **given: Any
    ) -> "SimPLe":
        """Return the agent that `save` wrote (see `ModelBasedAlgorithm.load`); ``env`` may be an id of ALE."""
        return super().load(path, _screens(env), device, **given)


def _screens(env: GymEnv | str | None) -> Any:
    """Return the environment; of an id of ALE one that shows the screen as it is drawn."""
    if isinstance(env, str) and env.startswith("ALE/"):
        return SB3VecEnv(make_atari_vec(env, 1, SCREENS))
    return env
