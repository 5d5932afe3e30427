"""Which keys mean which action. Keys have the names of a browser's ``KeyboardEvent.code``, whatever the layout."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

PAIRS = (("ArrowLeft", "ArrowRight"), ("ArrowDown", "ArrowUp"), ("KeyA", "KeyD"), ("KeyS", "KeyW"))
MOST_SLIDERS = 32
# WASD, in which ALE speaks, on the arrows.
ARROWS = {"KeyW": "ArrowUp", "KeyA": "ArrowLeft", "KeyS": "ArrowDown", "KeyD": "ArrowRight"}
# Pong's paddle goes up by RIGHT: games without up and down take these arrows as right and left.
SIDEWAYS = {"KeyD": "ArrowUp", "KeyA": "ArrowDown"}


@dataclass(frozen=True)
class Button:
    """Something to be pressed: what it does, and the keys that do it, held together."""

    label: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Slider:
    """A number of an action: its range, where it rests, and whether it is whole."""

    label: str
    low: float
    high: float
    rest: float
    whole: bool


class KeyMap(ABC):
    """Turns pressed keys into actions.

    Attributes:
        buttons: all that can be pressed.
        sliders: the numbers that can be set, none for a ``Discrete`` space.
    """

    buttons: tuple[Button, ...] = ()
    sliders: tuple[Slider, ...] = ()

    @property
    def keys(self) -> frozenset[str]:
        """All keys that mean something."""
        return frozenset(key for button in self.buttons for key in button.keys)

    @abstractmethod
    def action(self, pressed: Sequence[str], values: Sequence[float], step: int = 0) -> Any:
        """Return the environment's action.

        Args:
            pressed: the keys that are down, the latest last.
            values: where the sliders are.
            step: how many actions there were before.
        """

    @abstractmethod
    def combinations(self) -> dict[tuple[str, ...], Any]:
        """Return the action of every combination of keys that has one of its own."""


class DiscreteKeys(KeyMap):
    """One action at a time; of several combinations that are down, the largest counts, then the latest.

    Args:
        space: the actions.
        keys: the combinations of keys, and the action of each.
        names: what actions do, by number.
        idle: the actions while no key is down, in turns.
    """

    def __init__(
        self,
        space: spaces.Discrete[Any],
        keys: Mapping[tuple[str, ...], int],
        names: Mapping[int, str],
        idle: tuple[int, ...],
    ) -> None:
        start, n = int(space.start), int(space.n)
        digits: dict[tuple[str, ...], int] = {(f"Digit{i}",): start + i for i in range(min(n, 10))}
        self._actions: dict[tuple[str, ...], int] = {**digits, **keys}
        self._idle = idle
        self.buttons = tuple(Button(names.get(a, f"action {a}"), keys) for keys, a in self._actions.items())

    def action(self, pressed: Sequence[str], values: Sequence[float] = (), step: int = 0) -> int:
        """Return the number of the action."""
        down = [keys for keys in self._actions if set(keys) <= set(pressed)]
        if not down:
            return self._idle[step % len(self._idle)]
        return self._actions[max(down, key=lambda keys: (len(keys), max(map(pressed.index, keys))))]

    def combinations(self) -> dict[tuple[str, ...], int]:
        """Return all combinations."""
        return dict(self._actions)


class NumberKeys(KeyMap):
    """Several numbers at once, each on a slider; a pair of keys moves each of the first four to its ends.

    Args:
        space: a ``Box``, ``MultiDiscrete`` or ``MultiBinary``.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        self._space = space
        low, high = _range(space)
        whole = not np.issubdtype(np.dtype(space.dtype), np.floating)
        self._rest = np.clip(0.0, low, high)
        self.sliders = tuple(
            Slider(f"action[{i}]" if len(low) > 1 else "action", float(low[i]), float(high[i]), float(rest), whole)
            for i, rest in enumerate(self._rest[:MOST_SLIDERS])
        )
        self._ends = {
            key: (i, end)
            for i, slider in enumerate(self.sliders[: len(PAIRS)])
            for key, end in zip(PAIRS[i], (slider.low, slider.high), strict=True)
        }
        self.buttons = tuple(
            Button(f"{self.sliders[i].label} = {end:g}", (key,)) for key, (i, end) in self._ends.items()
        )

    def action(self, pressed: Sequence[str], values: Sequence[float], step: int = 0) -> np.ndarray[Any, Any]:
        """Return the sliders' values, and a pressed key's end in place of each that has one."""
        numbers = self._rest.copy()
        numbers[: len(values)] = values
        for key in pressed:
            if key in self._ends:
                index, end = self._ends[key]
                numbers[index] = end
        action: np.ndarray[Any, Any] = numbers.reshape(self._space.shape).astype(self._space.dtype)
        return action

    def combinations(self) -> dict[tuple[str, ...], np.ndarray[Any, Any]]:
        """Return every choice of at most one key of each pair."""
        pairs = PAIRS[: len(self.sliders)]
        choices = itertools.product(*[((), (low,), (high,)) for low, high in pairs])
        held = [tuple(itertools.chain(*choice)) for choice in choices]
        return {keys: self.action(keys, []) for keys in held if keys}


def _range(space: spaces.Space[Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the least and the largest of each number [n]."""
    if isinstance(space, spaces.Box):
        return space.low.astype(np.float64).ravel(), space.high.astype(np.float64).ravel()
    if isinstance(space, spaces.MultiDiscrete):
        start = np.asarray(space.start, np.float64).ravel()
        return start, start + space.nvec.ravel() - 1
    count = int(np.prod(space.shape or (1,)))
    return np.zeros(count), np.ones(count)


# ---- environments that are known ------------------------------------------------------------------------------------

Combinations = dict[tuple[str, ...], int]
SIDES: Combinations = {("ArrowLeft",): 0, ("ArrowRight",): 2}
# By name without the version: the keys, what actions do, and the actions while no key is down.
KNOWN: dict[str, tuple[Combinations, dict[int, str], tuple[int, ...]]] = {
    # No action leaves the cart alone; in turns the two nearly do.
    "CartPole": ({("ArrowLeft",): 0, ("ArrowRight",): 1}, {0: "push left", 1: "push right"}, (0, 1)),
    "MountainCar": (SIDES, {0: "push left", 1: "coast", 2: "push right"}, (1,)),
    "Acrobot": (SIDES, {0: "torque -1", 1: "no torque", 2: "torque +1"}, (1,)),
}


def make_key_map(
    space: spaces.Space[Any], real_id: str | None = None, real: Any = None, own: Mapping[str, int] | None = None
) -> KeyMap:
    """Return the keys for an action space.

    Args:
        space: the model's.
        real_id: the id of the real environment, by which classic control is known.
        real: the real environment, where there is one: its ``get_keys_to_action`` and ``get_action_meanings`` count.
        own: the keys that the model's card names, which come on top: characters, or "up", "down", "left", "right".
    """
    if not isinstance(space, spaces.Discrete):
        return NumberKeys(space)
    known = KNOWN.get((real_id or "").rsplit("-v", 1)[0])
    if known is not None:
        return DiscreteKeys(space, *known)
    meanings = _asked(real, "get_action_meanings") or []
    names = {int(space.start) + i: str(name).lower() for i, name in enumerate(meanings)}
    keys = _translated(_asked(real, "get_keys_to_action") or {}, space)
    keys |= {
        (f"Arrow{name.title()}" if len(name) > 1 else _code(name),): number for name, number in (own or {}).items()
    }
    idle = next((number for number, name in names.items() if name == "noop"), int(space.start))
    return DiscreteKeys(space, keys, names, (idle,))


def _asked(real: Any, name: str) -> Any:
    """Return what a method of the real environment says, None where it has none, or only in another mode (ALE)."""
    try:
        return real.get_wrapper_attr(name)()
    except AttributeError:
        return None


def _translated(given: Mapping[Any, Any], space: spaces.Discrete[Any]) -> dict[tuple[str, ...], int]:
    """Return Gymnasium's keys to actions by the names of a browser, WASD on the arrows too."""
    found: dict[tuple[str, ...], int] = {}
    for held, action in given.items():
        keys = tuple(_code(key) for key in (held if isinstance(held, tuple) else (held,)))
        if keys and all(keys) and action in space:
            found[keys] = int(action)
    used = {key for keys in found for key in keys}
    aliases = [ARROWS] if used & {"KeyW", "KeyS"} else [ARROWS, SIDEWAYS]
    for alias in aliases:
        found |= {tuple(alias.get(k, k) for k in keys): a for keys, a in found.items() if set(keys) & set(alias)}
    return found


def _code(key: Any) -> str:
    """Return a browser's name of a character or of its number; "" for what has none here."""
    character = chr(key) if isinstance(key, int) and key < 128 else key
    if not isinstance(character, str) or len(character) != 1:
        return ""
    if character == " ":
        return "Space"
    return f"Digit{character}" if character.isdigit() else f"Key{character.upper()}" if character.isalpha() else ""
