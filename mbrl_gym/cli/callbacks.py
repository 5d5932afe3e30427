"""Callbacks of a run: what happens after each training, and how Ctrl-C ends a run cleanly."""

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback


class AfterTraining(BaseCallback):
    """Calls a function whenever the agent has trained, and once more after the last time if ``learn`` ends there.

    It runs at a moment at which the agent can be saved.
    """

    def __init__(self, action: Callable[[], None]) -> None:
        super().__init__()
        self._action = action
        self._seen = 0

    def _on_training_start(self) -> None:
        self._seen = self._trainings()

    def _on_rollout_start(self) -> None:
        self._check()

    def _on_training_end(self) -> None:
        self._check()

    def _on_step(self) -> bool:
        return True

    def _trainings(self) -> int:
        agent: Any = self.model
        return int(agent.trainings)

    def _check(self) -> None:
        if self._trainings() > self._seen:
            self._seen = self._trainings()
            self._action()


class StopOnInterrupt(BaseCallback):
    """Within its context, the first Ctrl-C lets ``learn`` end at the next real step; the second interrupts."""

    def __init__(self) -> None:
        super().__init__()
        self.requested = False
        self._before: Any = None

    def __enter__(self) -> "StopOnInterrupt":
        if threading.current_thread() is threading.main_thread():  # only there can signals be handled
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        print(
            "\nCtrl-C: stopping at the next real step, then saving. Once more: stop now.", file=sys.stderr, flush=True
        )

    def _on_step(self) -> bool:
        return not self.requested
