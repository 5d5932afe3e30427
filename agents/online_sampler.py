"""OnlineSampler: windows of a replay for sequence models, the newest experience once before anything is drawn."""

from collections import deque
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from mbrl_gym.batch import SequenceBatch
from mbrl_gym.replay import SequenceReplay


class OnlineSampler:
    """Batches of windows that may run from one episode into the next.

    Every window of new rows, one after the other in each environment, is trained on once as soon as it is whole; what
    is left of a batch is drawn uniformly. Source: danijar/dreamerv3 ``embodied/core/replay.py`` (online queue).

    Args:
        replay: where rows come from; those it holds already are not new.
        batch_size: B.
        length: T, rows of a window.
        seed: of the draws.
        online: whether new windows come first.
    """

    def __init__(self, replay: SequenceReplay, batch_size: int, length: int, seed: int, online: bool = True) -> None:
        self.replay, self.batch_size, self.length, self.online = replay, batch_size, length, online
        self.rng = np.random.default_rng(seed)
        self._next = replay.newest_rows() + replay.n_envs  # first rows of the windows that come next
        self._queue: deque[int] = deque()

    @property
    def ready(self) -> bool:
        """Whether there is a window to draw."""
        newest, first = self.replay.newest_rows(), self.length - 1
        return bool((newest // self.replay.n_envs >= first).any())

    def sample(self, device: torch.device | str) -> SequenceBatch:
        """Return [B, T]; its ``index`` stays on the CPU, where rows are found: reading it back would be a wait.

        Raises:
            ValueError: the replay holds no window.
        """
        starts = self._new() if self.online else []
        missing = self.batch_size - len(starts)
        if missing:
            drawn = self.replay.draw(missing, self.length, self.rng, cross_episodes=True)
            starts = [*starts, *drawn.tolist()]
        batch = self.replay.gather(np.array(starts), self.length, device=device)
        index = np.array(starts)[:, None] + np.arange(self.length) * self.replay.n_envs
        return replace(batch, index=torch.from_numpy(index))

    def _new(self) -> list[int]:
        """Return the first rows of at most B windows that nobody was trained on."""
        stride = self.length * self.replay.n_envs
        newest = self.replay.newest_rows()
        for env, last in enumerate(newest):
            while self._next[env] + stride - self.replay.n_envs <= last:
                self._queue.append(int(self._next[env]))
                self._next[env] += stride
        found: list[int] = []
        while self._queue and len(found) < self.batch_size:
            start = self._queue.popleft()
            if self.replay.holds([start], self.length)[0]:  # else it was overwritten while it waited
                found.append(start)
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return what resuming needs beside the replay: plain data."""
        return {"rng": self.rng.bit_generator.state, "next": self._next.tolist(), "queue": list(self._queue)}

    def load_state_dict(self, state: dict[str, Any], rows: bool = True) -> None:
        """Take up what `state_dict` returned; ``rows`` is False where the replay that it speaks of is not here."""
        self.rng.bit_generator.state = state["rng"]
        if not rows:
            return
        self._next = np.array(state["next"], dtype=np.int64)
        self._queue = deque(state["queue"])
