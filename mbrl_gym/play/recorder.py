"""Recordings of what was played: an animation, and the numbers."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Picture = np.ndarray[Any, np.dtype[np.uint8]]
LONGEST = 1200  # steps: over a minute at 15 a second, and some tens of MB
HEIGHT = 240  # of the pictures, in pixels
CAPTION, GAP = 22, 8


class Recorder:
    """Keeps what was played until it is saved as ``play-0001/play.gif`` and ``play-0001/play.npz``.

    Args:
        folder: where recordings go, each into a new folder of its own.
        fps: pictures a second of the animation.
    """

    def __init__(self, folder: Path, fps: float) -> None:
        self._folder, self._fps = folder, fps
        self._pictures: list[bytes] = []  # packed: a minute of them as they are takes half a gigabyte
        self._columns: dict[str, list[Any]] = {}

    @property
    def full(self) -> bool:
        """Whether it holds as much as it may."""
        return len(self._pictures) >= LONGEST

    def add(self, pictures: dict[str, Picture], **columns: Any) -> None:
        """Keep a step: its pictures by name, and numbers or arrays that go into the npz."""
        packed = io.BytesIO()
        _beside(pictures).save(packed, "PNG", compress_level=1)
        self._pictures.append(packed.getvalue())
        for name, value in columns.items():
            self._columns.setdefault(name, []).append(value)

    def save(self) -> Path | None:
        """Write both files and return their folder; None where nothing was kept.

        Raises:
            OSError: they cannot be written.
        """
        if not self._pictures:
            return None
        folder = _new_folder(self._folder)
        pictures = self._unpacked()
        options: dict[str, Any] = {"duration": max(20, round(1000 / self._fps)), "loop": 0}
        next(pictures).save(folder / "play.gif", save_all=True, append_images=pictures, **options)
        columns: dict[str, Any] = {name: np.asarray(kept) for name, kept in self._columns.items()}
        np.savez_compressed(folder / "play.npz", **columns)
        return folder

    def _unpacked(self) -> Iterator[Image.Image]:
        for packed in self._pictures:
            yield Image.open(io.BytesIO(packed))


def _beside(pictures: dict[str, Picture]) -> Image.Image:
    """Return the pictures side by side under their names, of one height."""
    panes = {}
    for name, array in pictures.items():
        picture = Image.fromarray(array)
        small = picture.height < HEIGHT  # pixels of games stay squares
        size = max(1, round(picture.width * HEIGHT / picture.height)), HEIGHT
        panes[name] = picture.resize(size, Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS)
    width = sum(pane.width for pane in panes.values()) + GAP * (len(panes) - 1)
    canvas, left = Image.new("RGB", (width, CAPTION + HEIGHT), "white"), 0
    pen = ImageDraw.Draw(canvas)
    for name, pane in panes.items():
        pen.text((left + 4, 3), name, fill="black", font=ImageFont.load_default(size=14))
        canvas.paste(pane, (left, CAPTION))
        left += pane.width + GAP
    return canvas


def _new_folder(parent: Path) -> Path:
    """Make and return the first of play-0001, play-0002, ... that is not there yet, whoever else makes some."""
    parent.mkdir(parents=True, exist_ok=True)
    for number in range(1, 10_000):
        folder = parent / f"play-{number:04}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise OSError(f"{parent} holds 9,999 recordings already; choose another --record")
