"""Atari games with every setting stated: one environment by Gymnasium's wrappers, many by ale-py's threads.

`make_atari` and `make_atari_vec` show the same pixels, rewards and ends (tests/test_atari.py compares them bit by bit).
What differs are random numbers (the same seed means other sticky actions and other no-ops), the least number of no-ops
(1 in Gymnasium, 0 in ale-py), and whether a life counts as lost when none is left but the game goes on (in Gymnasium).

ale-py is imported when an environment is made, not before.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import (
    AtariPreprocessing,
    ClipReward,
    FrameStackObservation,
    RecordEpisodeStatistics,
    TimeLimit,
    TransformObservation,
)
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mbrl_gym.wrappers.atari_vector import AtariVector

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class AtariSettings:
    """All that is done to a game of the Arcade Learning Environment, with every default.

    Ids name the game alone: what their specs say of frame skips, sticky actions and time limits is overridden.

    The default is the usual one of model-free work but for its two changes of the task, clipped rewards and lost lives
    that end episodes, which are off. The presets are named after what they serve.

    Attributes:
        frame_skip: frames an action is repeated for; the last two are pooled by their maximum, rewards are summed.
        height: of an observation, in pixels.
        width: of an observation, in pixels. The screen of 210 x 160 is resized by areas (OpenCV's INTER_AREA).
        grayscale: grey by ALE's palette instead of RGB.
        stack: frames of an observation, oldest first, zeros before the episode's first.
        channels_last: [H, W, C] instead of [C, H, W], which the models of this library that see images read.
        sticky_probability: that a frame repeats the previous action whatever was chosen (Machado et al. 2018: 0.25).
        no_ops: the most idle frames at an episode's beginning, their number being random.
        fire_reset: press FIRE for a frame at the beginning, in games that have it.
        life_loss_terminates: a lost life ends the episode. The next one is a new game, not the rest of this one as
            under Stable-Baselines3's EpisodicLifeEnv: a later life is never seen.
        clip_rewards: their sign instead of the rewards. The score is in the final info's "episode" all the same.
        full_action_space: all 18 actions instead of those that the game reads.
        max_episode_steps: actions until an episode is truncated; 27,000 of 4 frames are half an hour of play.

    Raises:
        ValueError: a value is out of range.
    """

    frame_skip: int = 4
    height: int = 84
    width: int = 84
    grayscale: bool = True
    stack: int = 4
    channels_last: bool = False
    sticky_probability: float = 0.0
    no_ops: int = 30
    fire_reset: bool = False
    life_loss_terminates: bool = False
    clip_rewards: bool = False
    full_action_space: bool = False
    max_episode_steps: int = 27_000

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is bool and not isinstance(value, bool):
                raise ValueError(f"{field.name} must be True or False, got {value!r}")
            if field.type is int:
                _check_count(field.name, value, least=0 if field.name == "no_ops" else 1)
        if not 0.0 <= self.sticky_probability < 1.0:
            raise ValueError(f"sticky_probability must lie in [0, 1), got {self.sticky_probability!r}")

    @classmethod
    def machado(cls) -> "AtariSettings":
        """Return the protocol of Machado et al. 2018: sticky actions instead of no-ops, all actions, whole games.

        Source: google/dopamine ``dopamine/discrete_domains/atari_lib.py`` and ale-py's ``AtariEnv``, which recommends
        all actions. The size is DQN's.
        """
        return cls(sticky_probability=0.25, no_ops=0, full_action_space=True)

    @classmethod
    def simple(cls) -> "AtariSettings":
        """Return SimPLe's: half the screen in colour, up to 8 no-ops, clipped rewards, no sticky actions.

        Source: tensorflow/tensor2tensor ``rl/trainer_model_based_params.py`` and ``rl/gym_utils.py`` at bafdc1b.
        """
        return cls(height=105, width=80, grayscale=False, no_ops=8, clip_rewards=True)

    @classmethod
    def dreamer_v3(cls) -> "AtariSettings":
        """Return DreamerV3's for 200 million frames: single grey frames of 96 x 96, sticky, all actions.

        Source: danijar/dreamerv3 ``configs.yaml`` at e3f0224, whose frames are resized by Pillow (bilinear).
        """
        machine = cls(sticky_probability=0.25, full_action_space=True)
        return replace(machine, height=96, width=96, stack=1, channels_last=True)

    @classmethod
    def dreamer_v3_100k(cls) -> "AtariSettings":
        """Return DreamerV3's for Atari100k: single coloured frames of 64 x 64, not sticky.

        Source: as for `dreamer_v3`.
        """
        return cls(height=64, width=64, grayscale=False, stack=1, channels_last=True)

    def to_json(self) -> dict[str, Any]:
        """Return every setting by name."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "AtariSettings":
        """Return the settings that `to_json` described; what it lacks has its default.

        Raises:
            ValueError: a name is unknown, or a value is out of range.
        """
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(data) - set(known)):
            raise ValueError(f"data must hold settings of {known} alone, got {unknown}")
        return cls(**data)

    @property
    def observation_space(self) -> gym.spaces.Box:
        """uint8 [stack * C, H, W], or [H, W, stack * C] with ``channels_last``; C is 1 for grey frames, else 3."""
        channels = self.stack * (1 if self.grayscale else 3)
        size = (self.height, self.width)
        return gym.spaces.Box(0, 255, (*size, channels) if self.channels_last else (channels, *size), np.uint8)

    def arrange(self, stacks: Frames) -> Frames:
        """Return stacks [..., S, H, W], or [..., S, H, W, 3] of colour, as the observation space has them."""
        if not self.grayscale:
            stacks = np.moveaxis(stacks, -1, -3)
            stacks = stacks.reshape(*stacks.shape[:-4], -1, *stacks.shape[-2:])
        return np.ascontiguousarray(np.moveaxis(stacks, -3, -1)) if self.channels_last else stacks


def make_atari(
    env_id: str, settings: AtariSettings | None = None, *, render_mode: str | None = None
) -> gym.Env[Frames, Any]:
    """Return a game by Gymnasium's wrappers, its observations as in ``settings.observation_space``.

    The info of an episode's last step has "episode": {"r": the score, "l": steps, "t": seconds}, whether rewards are
    clipped or not. (Stable-Baselines3's ``Monitor`` around it counts the clipped ones.)

    The last observation of an episode that terminates does not show its last frames: Gymnasium and ale-py stop before
    they are read, and show the frames before once more.

    Args:
        env_id: a registered id of the game, such as "ALE/Pong-v5".
        settings: `AtariSettings()` if None.
        render_mode: None, "rgb_array" or "human".

    Raises:
        ValueError: ``env_id`` is not registered, or no Atari game.
        gymnasium.error.DependencyNotInstalled: ale-py is not installed.
        FileNotFoundError: the game's ROM is missing, or not the one that ale-py knows.
    """
    settings = settings or AtariSettings()
    _game(env_id)
    env: gym.Env[Any, Any] = gym.make(
        env_id,
        render_mode=render_mode,
        disable_env_checker=True,
        obs_type="grayscale" if settings.grayscale else "rgb",  # which is not looked at: the wrapper reads the screen
        frameskip=1,
        repeat_action_probability=settings.sticky_probability,
        full_action_space=settings.full_action_space,
        max_num_frames_per_episode=None,  # it would count the no-ops
    )
    if settings.fire_reset:
        env = _FireReset(env)
    env = AtariPreprocessing(
        env,
        noop_max=settings.no_ops,
        frame_skip=settings.frame_skip,
        screen_size=(settings.width, settings.height),  # in this order, although observations are [H, W]
        terminal_on_life_loss=settings.life_loss_terminates,
        grayscale_obs=settings.grayscale,
        grayscale_newaxis=False,
        scale_obs=False,
    )
    env = RecordEpisodeStatistics(TimeLimit(env, settings.max_episode_steps))
    if settings.clip_rewards:
        env = ClipReward(env, -1.0, 1.0)
    env = FrameStackObservation(env, settings.stack, padding_type="zero")
    if settings.grayscale and not settings.channels_last:
        return env
    space: gym.Space[Any] = settings.observation_space
    return TransformObservation(env, settings.arrange, space)


def make_atari_vec(
    env_id: str,
    num_envs: int,
    settings: AtariSettings | None = None,
    *,
    seed: int | None = None,
    num_threads: int = 0,
) -> "AtariVector":
    """Return ``num_envs`` games by ale-py's threads, with SAME_STEP autoreset; see `AtariVector` for what it repairs.

    ``SB3VecEnv(make_atari_vec(...))`` is what Stable-Baselines3 trains on.

    Args:
        env_id: a registered id of the game, such as "ALE/Pong-v5".
        num_envs: rows.
        settings: `AtariSettings()` if None.
        seed: what the first reset is seeded with where it brings no seed; row i has ``seed + i``.
        num_threads: 0 for one per row, but no more than processors.

    Raises:
        ValueError: ``env_id`` is not registered, or no Atari game, or a number is out of range.
        gymnasium.error.DependencyNotInstalled: ale-py is not installed.
        FileNotFoundError: the game's ROM is missing, or not the one that ale-py knows.
    """
    game = _game(env_id)
    from mbrl_gym.wrappers.atari_vector import AtariVector

    _check_count("num_envs", num_envs, least=1)
    _check_count("num_threads", num_threads, least=0)
    return AtariVector(game, num_envs, settings or AtariSettings(), seed=seed, num_threads=num_threads)


class _FireReset(gym.Wrapper[Any, Any, Any, Any]):
    """Presses FIRE for one frame after a reset, before the no-ops, as ale-py's vector environment does."""

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(**kwargs)
        meanings = self.get_wrapper_attr("get_action_meanings")()
        if "FIRE" not in meanings:
            return obs, info
        obs, _, _, _, later = self.env.step(meanings.index("FIRE"))
        return obs, {**info, **later}


def _game(env_id: str) -> str:
    """Return ALE's name of the game, as in "ms_pacman", once everything that it needs is there."""
    try:
        from ale_py import roms
    except ImportError as error:
        raise gym.error.DependencyNotInstalled(
            f"env_id={env_id!r} needs ale-py, got {error}: pip install ale-py"
        ) from error
    try:
        spec = gym.spec(env_id)
    except gym.error.Error as error:
        raise ValueError(f"env_id must be a registered game such as 'ALE/Pong-v5', got {env_id!r}: {error}") from error
    if spec.entry_point != "ale_py.env:AtariEnv":
        raise ValueError(
            f"env_id must be a game of ale-py such as 'ALE/Pong-v5', got {env_id!r} of {spec.entry_point}: "
            "make that with gymnasium.make"
        )
    game = str(spec.kwargs["game"])
    try:
        roms.get_rom_path(game)
    except OSError as error:
        raise FileNotFoundError(
            f"env_id={env_id!r} needs the ROM {game}.bin, got {error}: unset ALE_ROMS_DIR or install ale-py again"
        ) from error
    return game


def _check_count(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31 - 1:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
