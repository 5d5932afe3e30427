"""The progress bar of a run: real steps, and beside them whatever the agent is doing right now."""

import time
from typing import Any

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
