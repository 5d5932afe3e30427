"""Fit of a VideoModel's moves alone, to a whole replay of which only the things on its screens are kept.

What goes where is learned from a table of boxes a hundred times as fast as from screens (`mbrl_gym.nets.moves`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mbrl_gym.models.video import VideoModel
from mbrl_gym.nets.moves import perturbed
from mbrl_gym.nets.things import Things
from mbrl_gym.replay import SequenceReplay
from mbrl_gym.tensors import TensorStruct, concatenate

FINAL = 0.02  # of the learning rate, which falls along a cosine


@dataclass(frozen=True)
class Table(TensorStruct):
    """The things of recorded play, in order, of one environment.

    Attributes:
        things: [N, O], of each screen.
        action: [N, A], what was done there.
        first: [N] bool, screens that an episode begins with.
    """

    things: Things
    action: Tensor
    first: Tensor

    def past(self, rows: Tensor, frames: int) -> list[Things]:
        """Return the things of rows [B] and of those before, the newest first; before the first there was the first."""
        found = [self.things[rows]]
        for _ in range(frames - 1):
            rows = torch.where(self.first[rows], rows, (rows - 1).clamp(min=0))
            found.append(self.things[rows])
        return found

    @property
    def steps(self) -> Tensor:
        """Rows that have a next one."""
        return (~self.first[1:]).nonzero()[:, 0]


def tabulate(model: VideoModel, replay: SequenceReplay, part: int = 512) -> Table:
    """Return the things of all screens of a replay, found ``part`` screens at a time."""
    rows = replay.windows(1)
    things, action, first = [], [], []
    for i in range(0, len(rows), part):
        batch = replay.gather(rows[i : i + part], 1)
        assert isinstance(batch.obs, Tensor)
        things.append(model.networks.things(model.encoded(batch.obs[:, 0])))
        action.append(batch.action[:, 0])
        first.append(batch.is_first[:, 0])
    return Table(concatenate(things), torch.cat(action), torch.cat(first))


def fit_moves(
    model: VideoModel,
    table: Table,
    updates: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    on_update: Callable[[int, dict[str, Tensor]], None] | None = None,
) -> None:
    """Train the moves of ``model`` by Adam, the code left out: it keeps no say in them.

    Args:
        model: palette and background are known.
        table: its things.
        updates: gradient steps.
        batch_size: steps of recorded play in each.
        learning_rate: at the start.
        seed: of the batches.
        on_update: called after each update with its number and the terms of its loss.

    Raises:
        FloatingPointError: what was learned is not finite.
    """
    moves, steps = model.networks.moves, table.steps
    optimizer = torch.optim.Adam(moves.parameters(), lr=learning_rate, fused=True)
    generator = torch.Generator().manual_seed(seed)
    for done in range(updates):
        fraction = FINAL + (1 - FINAL) * 0.5 * (1 + math.cos(math.pi * done / updates))
        optimizer.param_groups[0]["lr"] = learning_rate * fraction
        rows = steps[torch.randint(len(steps), (batch_size,), generator=generator)]
        scene = moves.scene(perturbed(table.past(rows, moves.frames), moves.reach, generator))
        nats, right = moves.loss(scene, table.action[rows], None, table.things[rows + 1])
        loss = nats.sum() / batch_size
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if on_update is not None:
            on_update(done + 1, {"moves": loss.detach(), "wrong_moves": (~right).float().sum() / batch_size})
    if not all(bool(p.isfinite().all()) for p in moves.parameters()):
        raise FloatingPointError(
            f"the moves are not finite after {updates} updates at a learning rate of {learning_rate}; lower it"
        )
