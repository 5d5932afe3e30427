"""Section: a part of the report, a frozen record of numbers that can be written as JSON."""

import math
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

PICTURES_ONLY = {"json": False}  # metadata of a field that only figures need


class Section:
    """A frozen dataclass of numbers and arrays."""

    def to_json(self) -> dict[str, Any]:
        """Return all fields but those that only figures need; what is not a finite number becomes None."""
        assert is_dataclass(self)
        shown = [field.name for field in fields(self) if field.metadata.get("json", True)]
        return {name: plain(getattr(self, name)) for name in shown}


def plain(value: Any) -> Any:
    """Return ``value`` as JSON has it: arrays as lists, sections as objects, NaN and infinities as None."""
    if isinstance(value, Section):
        return value.to_json()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
