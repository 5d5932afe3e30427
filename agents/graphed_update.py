"""GraphedUpdate: a whole update of a learner as one CUDA graph, the optimiser included."""

import warnings
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from mbrl_gym.batch import SequenceBatch
from mbrl_gym.models.rssm import RSSMState

Update = Callable[[SequenceBatch, RSSMState | None], tuple[RSSMState, dict[str, Tensor]]]
Made = tuple[RSSMState, dict[str, Tensor]]
WARM_UP = 3  # updates before the capture: libraries set themselves up, the optimiser makes its state


class GraphedUpdate:
    """An update that is captured once and replayed from then on: thousands of kernels, slower to launch than to run.

    The first updates are made as ever. So are all on another device than CUDA, batches of other shapes than the one
    that was captured, and every update where a capture fails. Noise comes from CUDA's default generator, whose state
    each replay takes up and moves on.

    Written without a GPU at hand: tested with a stand-in for `capture` only.

    Args:
        update: reads no number on the host, and holds on to no tensor that it made but by its modules and optimiser.
        enabled: whether to try.
    """

    def __init__(self, update: Update, enabled: bool) -> None:
        self.update, self.enabled = update, enabled
        self.reset()

    def reset(self) -> None:
        """Forget what was captured: memory that it writes to has moved."""
        self._warm_ups = 0
        self._region: _Region | None = None

    def __call__(self, batch: SequenceBatch, start: RSSMState | None) -> Made:
        """Return what ``update`` returns."""
        if not self.enabled:
            return self.update(batch, start)
        if self._warm_ups < WARM_UP:
            self._warm_ups += 1
            return aside(lambda: self.update(batch, start), batch.reward.device)
        try:
            region = self._region = self._region or _Region(self.update, batch, start)
        except RuntimeError as error:
            self.enabled = False
            warnings.warn(f"the update cannot be a CUDA graph and is made step by step: {error}", stacklevel=2)
            return self.update(batch, start)
        return region(batch, start) if region.fits(batch, start) else self.update(batch, start)


class _Region:
    """One captured update, with the tensors that it reads and writes."""

    def __init__(self, update: Update, batch: SequenceBatch, start: RSSMState | None) -> None:
        self._inputs = [x.clone() for x in _inputs(batch, start)]
        left = iter(self._inputs)
        kept = _read(batch).map(lambda _: next(left))
        begin = None if start is None else start.map(lambda _: next(left))
        self._replay = capture(lambda: update(kept, begin))

    def fits(self, batch: SequenceBatch, start: RSSMState | None) -> bool:
        """Return whether the numbers fit into the captured tensors."""
        given = _inputs(batch, start)
        return [(x.shape, x.dtype) for x in given] == [(x.shape, x.dtype) for x in self._inputs]

    def __call__(self, batch: SequenceBatch, start: RSSMState | None) -> Made:
        for kept, given in zip(self._inputs, _inputs(batch, start), strict=True):
            kept.copy_(given)
        states, terms = self._replay()
        # Copies: the next replay writes to the same memory.
        return states.map(Tensor.clone), {name: value.clone() for name, value in terms.items()}


def _read(batch: SequenceBatch) -> SequenceBatch:
    """Return a batch without what no update reads: beliefs come as ``start``."""
    return replace(batch, index=batch.index[:0], extras={})


def _inputs(batch: SequenceBatch, start: RSSMState | None) -> list[Tensor]:
    return [*_read(batch).tensors(), *(() if start is None else start.tensors())]


def aside(work: Callable[[], Made], device: torch.device) -> Made:
    """Return what ``work`` returns, done on a stream of its own as captures want it before."""
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        made = work()
    torch.cuda.current_stream(device).wait_stream(stream)
    return made


def capture(work: Callable[[], Made]) -> Callable[[], Made]:
    """Return what does ``work`` again as a CUDA graph, into the same memory at each call."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = work()

    def replay() -> Made:
        graph.replay()
        return made

    return replay
