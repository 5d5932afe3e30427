"""SimPLe's hyperparameters: `cpu` for a small game in an hour, `paper` as published, for a GPU."""

from dataclasses import dataclass, field, replace
from typing import Any

from mbrl_gym.agents.simple_policy import SmallCnn
from mbrl_gym.envs.view import FrameStack
from mbrl_gym.fit import TrainerConfig
from mbrl_gym.model import WorldModel
from mbrl_gym.models.stochastic_video import StochasticVideoModel
from mbrl_gym.models.stochastic_video_config import StochasticVideoConfig
from mbrl_gym.models.video import VideoModel
from mbrl_gym.models.video_config import VideoConfig
from mbrl_gym.wrappers.atari import AtariSettings


@dataclass(frozen=True)
class SimPLePreset:
    """What `SimPLe` takes where its own arguments say nothing.

    Attributes:
        screens: what is seen of a game of ALE.
        view: what the policy sees of that.
        model_class: the class of the model.
        model: its hyperparameters.
        trainer: how it is trained.
        model_updates: gradient steps of the model in each training; the last number is that of all later ones.
        dream_steps: imagined steps of each training, likewise.
        ppo: PPO's arguments.
        policy: the policy's arguments.
        part: gradient steps and imagined steps of a part of a training; None: it is one piece.
        dream_starts: real contexts, drawn anew for each part, that dreams begin from.
        learning_starts: real steps of random actions before the first training.
        train_freq: real steps between trainings.
        dream_envs: dreams that step together.
        dream_horizon: imagined steps an episode.
    """

    screens: AtariSettings
    view: FrameStack
    model_class: type[WorldModel[Any]]
    model: Any
    trainer: TrainerConfig
    model_updates: tuple[int, ...]
    dream_steps: tuple[int, ...]
    ppo: dict[str, Any]
    policy: dict[str, Any] = field(default_factory=dict)
    part: tuple[int, int] | None = None
    dream_starts: int = 512
    learning_starts: int = 6400
    train_freq: int = 6400
    dream_envs: int = 16
    dream_horizon: int = 50


# Source: tensorflow/tensor2tensor at bafdc1b, models/research/rl.py (ppo_original_params) with the loop's own learning
# rate (rl/trainer_model_based_params.py). A batch there is 20 times of 16 dreams.
_PPO: dict[str, Any] = {
    "n_steps": 50,
    "batch_size": 320,
    "n_epochs": 3,
    "learning_rate": 1e-4,
    "clip_range": 0.1,
    "ent_coef": 0.01,
    "gamma": 0.99,
    "gae_lambda": 0.95,
}


def cpu() -> SimPLePreset:
    """Return the light preset: the screen as the game draws it, in the colours it has."""
    return SimPLePreset(
        screens=AtariSettings(height=210, width=160, stack=1, no_ops=8, clip_rewards=True),
        view=FrameStack(),
        model_class=VideoModel,
        model=VideoConfig.tiny(),
        trainer=TrainerConfig(learning_rate=1e-3, final_learning_rate=0.05, batch_size=4, length=27, holdout=0.0),
        model_updates=(3000, 1000),
        dream_steps=(40_000,),
        # PPO on the real CatchScreen-v0, seed 100, training returns at 50,000 steps: 5.1 so, -6.6 as published.
        ppo={**_PPO, "batch_size": 200, "gamma": 0.95, "learning_rate": 2.5e-4, "clip_range": 0.2},
    )


def paper() -> SimPLePreset:
    """Return the published model and schedule: fifteen trainings, so 96,000 real steps until the last one.

    Source: rl/trainer_model_based.py (world_model_step_increment, train_agent) and trainer_model_based_params.py
    (rlmb_ppo_base, with the stochastic discrete model) of tensorflow/tensor2tensor at bafdc1b: 15,000 updates a
    training and three times as many in five of them, 800,000 imagined steps, twice in three and three times in the
    last. PPO makes 9 updates of 800 steps here, the last of each 3 smaller, for 7 there; advantages are normalised by
    batch, not by rollout. Not as there: real steps train no policy, random actions come first, dreams begin anywhere
    in the replay (there, in the last 6,400 steps, and one in sixteen where an episode does), and the policy does not
    know the number of the iteration.
    """
    thrice, double = (0, 1, 4, 9, 14), (1, 7, 11)
    return SimPLePreset(
        screens=replace(AtariSettings.simple(), stack=1),
        view=FrameStack(stack=4, height=105, width=80),
        model_class=StochasticVideoModel,
        model=StochasticVideoConfig(),
        trainer=TrainerConfig(
            learning_rate=2e-3,
            final_learning_rate=1.0,
            batch_size=4,
            length=10,  # four pictures, and six to predict
            holdout=0.0,
            grad_clip=1.0,
            optimizer="adafactor",
            warmup=2000,
        ),
        model_updates=tuple(45_000 if i in thrice else 15_000 for i in range(15)),
        dream_steps=tuple(2_400_000 if i == 14 else 1_600_000 if i in double else 800_000 for i in range(15)),
        ppo={**_PPO, "vf_coef": 1.0, "max_grad_norm": 0.5},
        policy={
            "features_extractor_class": SmallCnn,
            "net_arch": [],
            "optimizer_kwargs": {"betas": (0.85, 0.997), "eps": 1e-6},
        },
        part=(500, 20_000),
    )


PRESETS = {"cpu": cpu, "paper": paper}
