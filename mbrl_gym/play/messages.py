"""What a browser may say: small JSON objects, each of a known type with exactly its own fields. Nothing else counts."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mbrl_gym.play.session import Session

LONGEST = 512  # characters of a message
Check = Callable[[Any], bool]


class MessageError(ValueError):
    """A message is none of those that a browser may send; it is left out."""


@dataclass(frozen=True)
class Message:
    """A message that is as it should be.

    Attributes:
        type: one of `MESSAGES`, or "ack".
        fields: its fields.
    """

    type: str
    fields: dict[str, Any]

    def apply(self, session: Session) -> None:
        """Do what it says.

        Raises:
            ValueError: a value is out of its range, or what is asked for cannot be had.
        """
        MESSAGES[self.type][1](session, **self.fields)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30  # False for NaN


def _word(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 32


# By type: the fields and what each must be, and what is done.
MESSAGES: dict[str, tuple[dict[str, Check], Callable[..., None]]] = {
    "press": ({"key": _word}, Session.press),
    "release": ({"key": _word}, Session.release),
    "release_all": ({}, Session.release_all),
    "slide": ({"number": _whole, "value": _number}, Session.slide),
    "pause": ({"on": _flag}, Session.pause),
    "step": ({}, Session.step_once),
    "reset": ({}, Session.reset),
    "resync": ({}, Session.resync),
    "fps": ({"fps": _whole}, Session.set_fps),
    "horizon": ({"steps": _whole}, Session.set_horizon),
    "sample": ({"on": _flag}, Session.set_sample),
    "policy": ({"on": _flag}, Session.set_policy),
    "record": ({"on": _flag}, Session.record),
}
ACK: dict[str, Check] = {"frame": _whole}  # "this frame has been shown": the server's own


def read_message(text: str) -> Message:
    """Return the message that a text is.

    Raises:
        MessageError: it is none; what is said of it holds nothing of the text.
    """
    if len(text) > LONGEST:
        raise MessageError(f"a message must have at most {LONGEST} characters, got {len(text)}")
    try:
        data = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise MessageError("a message must be JSON, with finite numbers") from None
    kind = data.get("type") if isinstance(data, dict) else None
    if not isinstance(kind, str) or kind not in {*MESSAGES, "ack"}:
        raise MessageError("a message must be an object with a type that is known")
    wanted = ACK if kind == "ack" else MESSAGES[kind][0]
    fields = {name: value for name, value in data.items() if name != "type"}
    if set(fields) != set(wanted) or not all(is_one(fields[name]) for name, is_one in wanted.items()):
        raise MessageError(f"a message of the type {kind} must have {_described(wanted)}")
    return Message(kind, fields)


def _described(wanted: dict[str, Check]) -> str:
    kinds: dict[Check, str] = {
        _flag: "true or false",
        _whole: "a whole number",
        _number: "a finite number",
        _word: "a short text",
    }
    return " and ".join(f"{name}: {kinds[is_one]}" for name, is_one in wanted.items()) or "no other fields"


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is no number")
