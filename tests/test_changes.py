"""Start states of pictures: kept as what changes from one picture to the next."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mbrl_gym import StartStates
from mbrl_gym._changes import pack_changes, unpack_changes


def pictures() -> np.ndarray:
    """Return contexts [5, 6, 20, 20] of a dot that walks over a noisy background."""
    x = np.repeat(np.random.default_rng(0).integers(0, 256, (1, 1, 20, 20), np.uint8), 5, 0).repeat(6, 1)
    for n in range(5):
        for t in range(6):
            x[n, t, n + 3, t + 2] = 255
    return x


def test_changes_are_the_pictures_in_less() -> None:
    parts = pack_changes(pictures())
    assert np.array_equal(unpack_changes(parts), pictures())
    assert parts["count"].max() == np.count_nonzero(pictures()[0, 0])
    assert parts["count"][1:].max() <= 2
    assert sum(x.nbytes for x in parts.values()) < pictures().nbytes / 4
    assert unpack_changes(pack_changes(pictures()[:0])).shape == (0, 6, 20, 20)


def test_start_states_of_pictures_are_kept_so(tmp_path: Path) -> None:
    starts = StartStates(torch.from_numpy(pictures()), torch.zeros(5, 6, 2))
    arrays = starts.to_arrays()
    assert "obs" not in arrays
    again = StartStates.from_arrays(arrays)
    assert isinstance(again.obs, torch.Tensor)
    assert torch.equal(again.obs, torch.from_numpy(pictures()))
    plain = StartStates.from_arrays({"obs": pictures(), "action": np.zeros((5, 6, 2), np.float32)})
    assert torch.equal(plain.obs, again.obs)  # type: ignore[arg-type]
    both = StartStates({"eye": starts.obs, "arm": torch.zeros(5, 6, 3)}, starts.action)  # type: ignore[dict-item]
    obs = StartStates.from_arrays(both.to_arrays()).obs
    assert isinstance(obs, dict)
    assert torch.equal(obs["eye"], torch.from_numpy(pictures()))
    assert "obs/arm" in both.to_arrays()


def test_parts_that_do_not_fit_are_refused() -> None:
    parts = pack_changes(pictures())
    for change in ({"count": parts["count"][1:]}, {"value": parts["value"][1:]}, {"index": parts["index"] + 1}):
        with pytest.raises(ValueError, match="packed pictures must have a count for each of 30 pictures"):
            unpack_changes(parts | change)
