"""The progress bar of a run: real steps, and beside them whatever the agent is doing right now. And a stopwatch."""

import time
from typing import Any

import torch
from tqdm.auto import tqdm


class Progress:
    """A tqdm bar over real steps with numbers beside it; silent until `open`."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._numbers: dict[str, str] = {}
        self._drawn = 0.0

    def open(self, total: int, initial: int) -> None:
        """Show a bar that runs from ``initial`` to ``total`` real steps."""
        self._bar = tqdm(total=total, initial=initial, unit="step", desc="real steps", dynamic_ncols=True)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    @property
    def shown(self) -> bool:
        """Whether there is a bar."""
        return self._bar is not None

    def say(self, line: str) -> None:
        """Print a line; above the bar, where there is one."""
        tqdm.write(line)

    def advance(self, steps: int) -> None:
        """Count real steps."""
        if self._bar is not None:
            self._bar.update(steps)

    def show(self, **numbers: Any) -> None:
        """Put numbers beside the bar; they stay until they are replaced."""
        if self._bar is None:
            return
        self._numbers.update((k, f"{v:.4g}" if isinstance(v, float) else str(v)) for k, v in numbers.items())
        self._bar.set_postfix(self._numbers, refresh=False)
        now = time.monotonic()
        if now - self._drawn > 0.25:  # a model fits many epochs a second
            self._drawn = now
            self._bar.refresh()


class Stopwatch:
    """Seconds that a device spends between `start` and `stop`; nothing but reading them waits for it.

    Args:
        device: what works.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_cuda = device.type == "cuda"
        self._spans: list[tuple[Any, Any]] = []
        self._total = self._told = 0.0

    def start(self) -> None:
        """Begin to count."""
        self._begun = self._now()

    def stop(self) -> None:
        """Stop counting."""
        self._spans.append((self._begun, self._now()))

    def total(self) -> float:
        """Return all seconds so far."""
        for begun, ended in self._spans:
            if self._on_cuda:
                ended.synchronize()
            self._total += begun.elapsed_time(ended) / 1e3 if self._on_cuda else ended - begun
        self._spans.clear()
        return self._total

    def lap(self) -> float:
        """Return the seconds since the last call."""
        before, self._told = self._told, self.total()
        return self._told - before

    def _now(self) -> Any:
        """Return the time, or CUDA's event that will know it when the device comes to it."""
        if not self._on_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event
