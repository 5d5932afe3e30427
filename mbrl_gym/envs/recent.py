"""Recent: the last real steps, from which a learned environment forms the belief that reality is in."""

from collections import deque
from typing import Any

import numpy as np


class Recent:
    """The last observations of a real episode and the actions between them.

    Args:
        context: real steps that the model needs to form a belief.
    """

    def __init__(self, context: int) -> None:
        self._seen: deque[Any] = deque(maxlen=context)
        self._taken: deque[Any] = deque(maxlen=context)  # the action after each

    def begin(self, obs: Any) -> None:
        """Forget everything; ``obs`` is what an episode begins with."""
        self._seen.clear()
        self._taken.clear()
        self._seen.append(obs)

    def add(self, action: Any, obs: Any) -> None:
        """Remember a real step."""
        self._seen.append(obs)
        self._taken.append(action)

    @property
    def enough(self) -> bool:
        """Whether a belief can be formed."""
        return len(self._seen) == self._seen.maxlen

    def options(self) -> dict[str, Any]:
        """Return the options for ``reset`` of a `mbrl_gym.LearnedEnv`."""
        seen = list(self._seen)
        if isinstance(seen[0], dict):
            options: dict[str, Any] = {"start": {key: np.stack([obs[key] for obs in seen]) for key in seen[0]}}
        else:
            options = {"start": np.stack(seen)}
        if len(seen) > 1:
            taken = [np.asarray(action) for action in list(self._taken)[-(len(seen) - 1) :]]
            options["action"] = np.stack([*taken, taken[-1]])  # the last one is unused
        return options
