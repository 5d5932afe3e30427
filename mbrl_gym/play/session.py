"""Session: a player's game, the dream beside reality under the same actions. Nothing in it knows of networks."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from mbrl_gym.play.game import Game
from mbrl_gym.play.imagination import Imagination
from mbrl_gym.play.recorder import Picture, Recorder

HOLD = 15  # ticks that an end stays on the screen
FPS = (1, 60)
HORIZON = (1, 100_000)


@dataclass(frozen=True)
class Frame:
    """What a tick shows.

    Attributes:
        numbers: plain JSON.
        pictures: [height, width, 3] uint8 of "dream" and, where there is one, "real".
    """

    numbers: dict[str, Any]
    pictures: dict[str, Picture]


class Session:
    """One player's game.

    An end stays on the screen for `HOLD` ticks. Then the dream goes on from reality, or, where reality has ended too or
    there is none, both begin a new episode. Where reality ends first it stands still until the dream has ended.

    Args:
        game: what is played.
        seed: of dream and reality.

    Raises:
        NoRealityError: real episodes are too short to form a belief.
    """

    def __init__(self, game: Game, seed: int | None = None) -> None:
        self.game, self.fps, self.paused, self.policy_plays = game, game.fps, False, False
        self._pressed: list[str] = []
        self._values = self._rest
        self._recorder: Recorder | None = None
        self._single, self._hold = False, 0
        self._real_reward: float | None = None  # None where reality did not step
        self.notices: list[str] = []
        self._dream, self._real = Imagination(game.dream(), seed), game.reality(seed)
        self.reset()

    # ---- what the player does ---------------------------------------------------------------------------------------

    def press(self, key: str) -> None:
        """Hold a key down.

        Raises:
            ValueError: it means nothing here.
        """
        if key not in self.game.keys.keys:
            raise ValueError(f"key must be one of {', '.join(sorted(self.game.keys.keys))}, got {key!r}")
        self.release(key)
        self._pressed.append(key)

    def release(self, key: str) -> None:
        """Let a key go; one that is not down is none."""
        if key in self._pressed:
            self._pressed.remove(key)

    def release_all(self) -> None:
        """Let all keys go."""
        self._pressed.clear()

    def slide(self, number: int, value: float) -> None:
        """Set one of the action's numbers, within its range.

        Raises:
            ValueError: there is no such number, or the value is not finite.
        """
        sliders = self.game.keys.sliders
        if not 0 <= number < len(sliders):
            raise ValueError(f"number must be one of the {len(sliders)} sliders, got {number}")
        if not math.isfinite(value):
            raise ValueError(f"value must be finite, got {value}")
        slider = sliders[number]
        inside = min(max(value, slider.low), slider.high)
        self._values[number] = float(round(inside)) if slider.whole else float(inside)

    def pause(self, on: bool) -> None:
        """Stop, or go on."""
        self.paused = on

    def step_once(self) -> None:
        """Pause, and let the next tick take one step."""
        self.paused = self._single = True

    def set_fps(self, fps: int) -> None:
        """Set the steps a second.

        Raises:
            ValueError: it is out of `FPS`.
        """
        self.fps = _within("fps", fps, FPS)

    def set_horizon(self, steps: int) -> None:
        """Set the imagined steps until the dream ends as truncated.

        Raises:
            ValueError: it is out of `HORIZON`.
        """
        self._dream.horizon = _within("horizon", steps, HORIZON)

    def set_sample(self, on: bool) -> None:
        """Let the dream draw from what the model predicts, or follow its mean."""
        self._dream.sample = on

    def set_policy(self, on: bool) -> None:
        """Let the policy play, or the player.

        Raises:
            ValueError: there is no policy.
        """
        if on and self.game.policy is None:
            raise ValueError("there is no policy: start mbrl-gym play with --policy")
        self.policy_plays = on
        self._memory, self._begins = None, True

    def record(self, on: bool) -> None:
        """Begin a recording, or save the one that was begun.

        Raises:
            ValueError: there is no folder for recordings.
        """
        if not on:
            self._save()
        elif self.game.record is None:
            raise ValueError("nothing can be recorded: start mbrl-gym play with --record FOLDER")
        elif self._recorder is None:
            self._recorder = Recorder(self.game.record, self.fps)

    def reset(self) -> None:
        """Begin a new episode, in reality if there is one, and the dream from there."""
        self._steps = 0
        if self._real is None:
            self._wake(None)
            return
        self._real.begin(lambda step: self.game.keys.action([], self._rest, step))
        self._wake(self._real.recent())

    def resync(self) -> None:
        """Let the dream go on from where reality is.

        Raises:
            ValueError: there is no reality, or its episode has ended.
        """
        if self._real is None:
            raise ValueError(f"there is no real environment to resync to: {self.game.no_real}")
        if self._real.ended:
            raise ValueError("the real episode has ended: begin a new one with reset")
        self._wake(self._real.recent())

    # ---- what happens -----------------------------------------------------------------------------------------------

    def tick(self) -> Frame:
        """Take a step unless paused, and return what is to be seen."""
        moves = self._single or not self.paused
        self._single = False
        stepped = moves and self._advance()
        pictures = {"dream": self._dream.draw()}
        if self._real is not None:
            pictures["real"] = self._real.draw()
        if stepped and self._recorder is not None:
            self._keep(self._recorder, pictures)
        return Frame(self._numbers(stepped), pictures)

    def close(self) -> None:
        """Save what is being recorded, and close dream and reality."""
        self._save()
        self._dream.close()
        if self._real is not None:
            self._real.close()

    def _advance(self) -> bool:
        """Take a step, or wait where an end is shown; return whether a step was taken."""
        if self._hold:
            self._hold -= 1
            if not self._hold:
                self._go_on()
            return False
        self._action = self._choose()
        self._steps += 1
        self._dream.step(self._action)
        goes_on = self._real is not None and not self._real.ended
        self._real_reward = self._real.step(self._action) if self._real and goes_on else None
        self._hold = HOLD if self._dream.ended else 0
        return True

    def _go_on(self) -> None:
        if self._real is None or self._real.ended:
            self.reset()
        else:
            self.resync()

    def _choose(self) -> Any:
        if not self.policy_plays:
            return self.game.keys.action(self._pressed, self._values, self._steps)
        action, self._memory = self.game.act(self._dream.obs, self._memory, self._begins)
        self._begins = False
        return int(action) if np.ndim(action) == 0 else action

    def _wake(self, options: dict[str, Any] | None) -> None:
        """Begin a dream, whose first action nothing yet has led to."""
        self._dream.begin(options)
        self._hold, self._action = 0, None
        self._real_reward = None
        self._memory, self._begins = None, True

    @property
    def _rest(self) -> list[float]:
        return [slider.rest for slider in self.game.keys.sliders]

    # ---- what is told -----------------------------------------------------------------------------------------------

    def _numbers(self, stepped: bool) -> dict[str, Any]:
        dream, real = self._dream, self._real
        told, self.notices = self.notices, []
        return {
            "stepped": stepped,
            "step": self._steps,
            "since_real": dream.since_real,
            "action": None if self._action is None else np.asarray(self._action).tolist(),
            "dream": {"reward": dream.reward, "total": dream.total, "ended": dream.ended},
            "real": real and {"reward": _plain(self._real_reward), "total": _plain(real.total), "ended": real.ended},
            "termination_probability": dream.termination_probability,
            "uncertainty": dream.uncertainty,
            "paused": self.paused,
            "policy": self.policy_plays,
            "recording": self._recorder is not None,
            "sample": dream.sample,
            "horizon": dream.horizon,
            "fps": self.fps,
            "notices": told,
        }

    # ---- what is recorded -------------------------------------------------------------------------------------------

    def _keep(self, recorder: Recorder, pictures: dict[str, Picture]) -> None:
        dream, real = self._dream, self._real
        recorder.add(
            pictures,
            step=self._steps,
            since_real=dream.since_real,
            action=self._action,
            dream_reward=dream.reward,
            dream_ended=bool(dream.ended),
            real_reward=np.nan if self._real_reward is None else self._real_reward,
            real_ended=real is not None and bool(real.ended),
            uncertainty=dream.uncertainty,
            termination_probability=dream.termination_probability,
        )
        if recorder.full:
            self._save()

    def _save(self) -> None:
        recorder, self._recorder = self._recorder, None
        if recorder is None:
            return
        try:
            folder = recorder.save()
        except OSError as error:
            self.notices.append(f"the recording could not be saved: {error.strerror or error}")
            return
        self.notices.append("nothing was recorded" if folder is None else f"recorded: {folder.name}")


def _within(name: str, value: int, bounds: tuple[int, int]) -> int:
    if not bounds[0] <= value <= bounds[1]:
        raise ValueError(f"{name} must be {bounds[0]} to {bounds[1]}, got {value}")
    return value


def _plain(value: float | None) -> float | None:
    """Return a number that JSON has; None for others."""
    return float(value) if value is not None and math.isfinite(value) else None
