"""The log of a run: progress.csv, which a resumed run continues, and TensorBoard where it is installed."""

import csv
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.logger import KVWriter, Logger, TensorBoardOutputFormat


class ContinuedCSV(KVWriter):
    """A CSV file of scalars that appends to what is there (SB3's own starts the file anew)."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._columns: list[str] = []
        if file.is_file():
            with file.open(newline="") as stream:
                self._columns = next(csv.reader(stream), [])

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Append a row; new columns rewrite the file."""
        row = {
            key: value
            for key, value in sorted(key_values.items())
            if "csv" not in (key_excluded.get(key) or ()) and isinstance(value, str | int | float | np.number)
        }
        new = [key for key in row if key not in self._columns]
        if new:
            self._add_columns(new)
        with self._file.open("a", newline="") as stream:
            csv.DictWriter(stream, self._columns).writerow(row)

    def _add_columns(self, new: list[str]) -> None:
        rows: list[dict[str, str]] = []
        if self._file.is_file():
            with self._file.open(newline="") as stream:
                rows = list(csv.DictReader(stream))
        self._columns += new
        with self._file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, self._columns)
            writer.writeheader()
            writer.writerows(rows)

    def close(self) -> None:
        """Nothing is kept open."""


def run_logger(root: Path) -> Logger:
    """Return SB3's logger for a run folder; it prints nothing."""
    outputs: list[KVWriter] = [ContinuedCSV(root / "progress.csv")]
    if importlib.util.find_spec("tensorboard") is not None:
        outputs.append(TensorBoardOutputFormat(str(root / "tensorboard")))
    return Logger(folder=str(root), output_formats=outputs)
