"""The loader: an endless, shuffled stream of batches whose only state is one number."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from alphabar.errors import AlphabarError
from alphabar.rng import derive_seed, permutation

AHEAD = 2
"""Batches kept ready per worker."""


class Rows(Protocol):
    """What a loader reads from: a data set, or cached latents.

    Where it has `labels`, batches carry them; where it has `weights` ([len] float), rows are drawn by them.
    """

    def __len__(self) -> int: ...

    def rows(self, indices: Tensor) -> Tensor:
        """The rows with these indices, in this order; [len(indices), ...]."""
        ...


class Batch(NamedTuple):
    """One process's share of one batch.

    Attributes:
        rows: [n, ...] as the source gives them (images: uint8 [n, C, H, W]).
        positions: the global sample numbers of the rows, which key their randomness.
        indices: the source's row of each sample, [n] int64.
        labels: [n] int64, or None where the source has none.
    """

    rows: Tensor
    positions: range
    indices: Tensor
    labels: Tensor | None


class Loader:
    """Endless batches: position p of the run is sample `permutation(seed, len, p // len)[p % len]`.

    A source with `weights` is drawn by them: an epoch is still `len` samples, of which row i is `len * w_i / sum(w)`,
    rounded up or down, by systematic resampling (Kitagawa 1996). So chance hardly adds to how often a row is seen, and
    equal weights show each row once.

    The order depends on the seed alone: not on where a run was stopped, the number of processes or of workers. A batch
    may cross the end of an epoch, so all have the same size, and the source may be smaller than a batch.

    Args:
        source: what to read from.
        batch_size: samples per batch of this process; one global batch is `batch_size * world` samples.
        seed: of the run.
        position: samples that the whole run has seen already; what `position` said when it was stopped.
        rank: number of this process; it gets slice `rank` of each global batch.
        world: number of processes.
        workers: threads that read ahead (decoding releases Python's lock); 0 reads when asked.

    Raises:
        AlphabarError: an empty source, a number out of its range, or weights that cannot be drawn by. While iterating,
            whatever the source raises; the position then stays, and asking again raises it again.
    """

    def __init__(
        self,
        source: Rows,
        batch_size: int,
        seed: int,
        position: int = 0,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
    ) -> None:
        if len(source) == 0:
            raise AlphabarError("there is nothing to load: the data set is empty")
        if batch_size < 1:
            raise AlphabarError(f"the batch size must be at least 1, not {batch_size}")
        if workers < 0 or position < 0:
            raise AlphabarError(f"workers and position must not be negative, not {min(workers, position)}")
        if not 0 <= rank < world:
            raise AlphabarError(f"the rank must be in 0..{world - 1}, not {rank}")
        self.source = source
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world = world
        self._position = position
        self._labels: Tensor | None = getattr(source, "labels", None)
        weights: Tensor | None = getattr(source, "weights", None)
        self._cumulative = None if weights is None else _cumulative(weights, len(source))
        self._epoch: tuple[int, Tensor] | None = None
        self._limit = AHEAD * workers or 1
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="alphabar-loader") if workers else None
        self._pending: deque[tuple[range, Tensor, Future[Tensor]]] = deque()

    @property
    def position(self) -> int:
        """Samples that the whole run has been given: batches read ahead do not count. All that a resume needs."""
        return self._position

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        positions, indices, rows = self._read_ahead() if self._pool else self._read(self._position)
        labels = None if self._labels is None else self._labels[indices]
        self._position += self.batch_size * self.world
        return Batch(rows, positions, indices, labels)

    def _read(self, position: int) -> tuple[range, Tensor, Tensor]:
        positions, indices = self._share(position)
        return positions, indices, self.source.rows(indices)

    def _read_ahead(self) -> tuple[range, Tensor, Tensor]:
        assert self._pool is not None
        while len(self._pending) < self._limit:
            positions, indices = self._share(self._position + len(self._pending) * self.batch_size * self.world)
            self._pending.append((positions, indices, self._pool.submit(self.source.rows, indices)))
        positions, indices, rows = self._pending[0]
        result = rows.result()
        self._pending.popleft()  # only now: a batch that failed stays the next one
        return positions, indices, result

    def _share(self, position: int) -> tuple[range, Tensor]:
        """The rank's positions in the global batch that starts at `position`, and their rows in the source."""
        start = position + self.rank * self.batch_size
        positions = range(start, start + self.batch_size)
        parts = []
        while start < positions.stop:
            epoch, offset = divmod(start, len(self.source))
            part = self._order(epoch)[offset : offset + positions.stop - start]
            parts.append(part)
            start += len(part)
        return positions, torch.cat(parts)

    def _order(self, epoch: int) -> Tensor:
        if self._epoch is None or self._epoch[0] != epoch:
            order = permutation(self.seed, len(self.source), epoch)
            if self._cumulative is not None:
                order = self._drawn(self._cumulative, epoch)[order]
            self._epoch = epoch, order
        return self._epoch[1]

    def _drawn(self, cumulative: Tensor, epoch: int) -> Tensor:
        """The rows of one epoch before they are shuffled: one at each step of a comb with a random offset, [len]."""
        offset = (derive_seed(self.seed, epoch, "weights") >> 39) / 2**24  # in [0, 1): few bits, so the sum is exact
        comb = torch.arange(len(cumulative), dtype=torch.float64) + offset
        return torch.searchsorted(cumulative, comb, right=True)


def _cumulative(weights: Tensor, n: int) -> Tensor:
    """The running sum of the weights, scaled so that it ends at n, [n] float64."""
    if weights.shape != (n,):
        raise AlphabarError(f"{n} rows need sampling weights [{n}], not {list(weights.shape)}")
    cumulative = weights.double().cpu().cumsum(0)
    if not (weights >= 0).all() or not 0 < float(cumulative[-1]) < float("inf"):
        raise AlphabarError("sampling weights must be finite and at least 0, and one of them above 0")
    return cumulative / cumulative[-1] * n
