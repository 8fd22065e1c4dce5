"""The loader: one number is its state, and the order is the same however it is read."""

import itertools
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from alphabar.data import ArrayDataset, Batch, Loader
from alphabar.errors import AlphabarError
from alphabar.rng import permutation


class Latents:
    """Rows that are not images and have no labels; slow now and then, so that threads overtake each other."""

    def __init__(self, n: int = 10) -> None:
        self.table = torch.arange(n * 2, dtype=torch.float32).reshape(n, 2)
        self.threads: set[int] = set()

    def __len__(self) -> int:
        return len(self.table)

    def rows(self, indices: Tensor) -> Tensor:
        """Float [len(indices), 2]."""
        self.threads.add(threading.get_ident())
        time.sleep(0.002 * (int(indices[0]) % 3))
        return self.table[indices]


def take(loader: Loader, n: int) -> list[Batch]:
    return list(itertools.islice(loader, n))


def order(batches: list[Batch]) -> list[int]:
    return [i for batch in batches for i in batch.indices.tolist()]


def test_position_p_is_sample_p_of_its_epoch() -> None:
    source = Latents(10)
    batches = take(Loader(source, 4, seed=3), 8)
    expected = torch.cat([permutation(3, 10, epoch) for epoch in range(4)])[:32]
    assert order(batches) == expected.tolist()
    assert [p for batch in batches for p in batch.positions] == list(range(32))
    assert all(torch.equal(batch.rows, source.table[batch.indices]) for batch in batches)
    assert batches[0].labels is None


def test_labels_come_with_the_rows() -> None:
    images = torch.arange(6, dtype=torch.uint8).reshape(6, 1, 1, 1)
    (batch,) = take(Loader(ArrayDataset("a", images, torch.arange(6) * 10), 5, seed=0), 1)
    assert batch.labels is not None
    assert torch.equal(batch.labels, batch.indices * 10)
    assert torch.equal(batch.rows.flatten().long(), batch.indices)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_stop_in_the_middle_of_an_epoch_changes_nothing(workers: int) -> None:
    whole = order(take(Loader(Latents(), 4, seed=1), 9))
    loader = Loader(Latents(), 4, seed=1, workers=workers)
    before = order(take(loader, 4))
    assert loader.position == 16  # what was read ahead does not count
    after = order(take(Loader(Latents(), 4, seed=1, position=loader.position, workers=workers), 5))
    assert before + after == whole


def test_workers_change_nothing_but_the_thread() -> None:
    alone, many = Latents(), Latents()
    one, three = take(Loader(alone, 4, seed=5), 20), take(Loader(many, 4, seed=5, workers=3), 20)
    assert order(one) == order(three)
    assert all(torch.equal(a.rows, b.rows) for a, b in zip(one, three, strict=True))
    assert alone.threads == {threading.get_ident()}
    assert threading.get_ident() not in many.threads


def test_two_processes_share_a_batch() -> None:
    whole = Loader(Latents(), 6, seed=2)
    parts = [Loader(Latents(), 3, seed=2, rank=rank, world=2) for rank in range(2)]
    for _ in range(7):
        batch, halves = next(whole), [next(part) for part in parts]
        assert torch.equal(batch.rows, torch.cat([half.rows for half in halves]))
        assert [*batch.positions] == [p for half in halves for p in half.positions]
    assert [part.position for part in parts] == [whole.position] * 2 == [42, 42]


def test_a_source_smaller_than_a_batch() -> None:
    (batch,) = take(Loader(Latents(3), 8, seed=0), 1)
    assert batch.rows.shape == (8, 2)
    expected = torch.cat([permutation(0, 3, epoch) for epoch in range(3)])[:8]
    assert torch.equal(batch.indices, expected)


def test_the_order_is_another_in_each_epoch_and_for_each_seed() -> None:
    first, second = (
        order(take(Loader(Latents(50), 50, seed=0), 2))[:50],
        order(take(Loader(Latents(50), 50, seed=0), 2))[50:],
    )
    other = order(take(Loader(Latents(50), 50, seed=1), 1))
    assert sorted(first) == sorted(second) == sorted(other) == list(range(50))
    assert len({tuple(first), tuple(second), tuple(other)}) == 3


# --- sampling weights -------------------------------------------------------------------------------------------------


class Weighted(Latents):
    """Rows with sampling weights."""

    def __init__(self, weights: list[float]) -> None:
        super().__init__(len(weights))
        self.weights = torch.tensor(weights, dtype=torch.float64)


def counts(source: Latents, epochs: int, seed: int = 0, first: int = 0) -> Tensor:
    """How often each row is drawn in some epochs, [len]."""
    n = len(source)
    indices = [batch.indices for batch in take(Loader(source, n, seed, position=first * n), epochs)]
    return torch.bincount(torch.cat(indices), minlength=n)


def test_rows_are_drawn_by_their_weights_in_every_epoch() -> None:
    source = Weighted([1.0] * 12 + [0.2] * 10 + [3.0] * 2 + [0.0])
    expected = source.weights / source.weights.sum() * len(source)
    for epoch in range(20):  # as near to its share as whole numbers go
        drawn = counts(source, 1, seed=4, first=epoch)
        assert int(drawn.sum()) == len(source)
        assert (drawn >= expected.floor()).all()
        assert (drawn <= expected.ceil()).all()
    long = counts(source, 400, seed=4) / 400
    assert torch.allclose(long.double(), expected, atol=0.08)
    assert long[-1] == 0


def test_equal_weights_show_each_row_once() -> None:
    assert counts(Weighted([0.7] * 30), 1, seed=9).tolist() == [1] * 30


def test_weighted_epochs_are_shuffled_and_differ() -> None:
    source = Weighted([1.0, 2.0] * 25)
    first, second = (batch.indices.tolist() for batch in take(Loader(source, 50, seed=0), 2))
    other = next(Loader(source, 50, seed=1)).indices.tolist()
    assert sorted(first) != first
    assert len({tuple(first), tuple(second), tuple(other)}) == 3
    assert next(Loader(source, 50, seed=0)).indices.tolist() == first


@pytest.mark.parametrize("workers", [0, 2])
def test_weights_keep_what_resuming_and_sharing_promise(workers: int) -> None:
    source = Weighted([0.2, 1.0, 1.0, 4.0, 0.5, 1.0, 0.3])
    whole = take(Loader(source, 6, seed=2), 9)
    resumed = take(Loader(source, 6, seed=2, position=24, workers=workers), 5)
    assert order(resumed) == order(whole[4:])
    ranks = [take(Loader(source, 3, seed=2, rank=rank, world=2, workers=workers), 9) for rank in range(2)]
    for batch, left, right in zip(whole, *ranks, strict=True):
        assert torch.equal(batch.indices, torch.cat([left.indices, right.indices]))
        assert torch.equal(batch.rows, source.table[batch.indices])


def test_weights_of_none_are_no_weights() -> None:
    images = torch.zeros(9, 1, 1, 1, dtype=torch.uint8)
    plain, none = Loader(Latents(9), 4, seed=6), Loader(ArrayDataset("a", images), 4, seed=6)
    assert order(take(plain, 8)) == order(take(none, 8))


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_weights_that_cannot_be_drawn_by(weights: list[float]) -> None:
    with pytest.raises(AlphabarError, match="sampling weights must be finite and at least 0, and one of them above 0"):
        Loader(Weighted(weights), 2, seed=0)


def test_too_few_weights() -> None:
    source = Weighted([1.0, 2.0])
    source.weights = source.weights[:1]
    with pytest.raises(AlphabarError, match=r"2 rows need sampling weights \[2\], not \[1\]"):
        Loader(source, 2, seed=0)


class Broken(Latents):
    """One row cannot be read until it is mended."""

    broken = True

    def rows(self, indices: Tensor) -> Tensor:
        """As above, or an error."""
        if self.broken and 7 in indices:
            raise AlphabarError("cannot read the image 7.png")
        return super().rows(indices)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_stays_until_it_is_mended(workers: int) -> None:
    source = Broken()
    where = order(take(Loader(Latents(), 2, seed=0), 5)).index(7) // 2
    loader = Loader(source, 2, seed=0, workers=workers)
    take(loader, where)
    for _ in range(2):
        with pytest.raises(AlphabarError, match=r"cannot read the image 7\.png"):
            next(loader)
        assert loader.position == 2 * where
    source.broken = False
    resumed = Loader(source, 2, seed=0, position=loader.position, workers=workers)
    assert 7 in next(resumed).indices


@pytest.mark.parametrize(
    ("n", "options", "message"),
    [
        (0, {}, "there is nothing to load: the data set is empty"),
        (5, {"batch_size": 0}, "the batch size must be at least 1, not 0"),
        (5, {"workers": -1}, "workers and position must not be negative, not -1"),
        (5, {"position": -4}, "workers and position must not be negative, not -4"),
        (5, {"rank": 2, "world": 2}, "the rank must be in 0..1, not 2"),
    ],
)
def test_bad_arguments(n: int, options: dict[str, int], message: str) -> None:
    with pytest.raises(AlphabarError) as error:
        Loader(Latents(n), **{"batch_size": 4, "seed": 0, **options})
    assert str(error.value) == message


def test_threads_decode_a_folder(tmp_path: Path) -> None:
    from PIL import Image

    from alphabar.data import open_dataset

    for i in range(12):
        Image.new("L", (9, 9), 20 * i).save(tmp_path / f"{i:02}.png")
    dataset = open_dataset(tmp_path, size=8, channels=1)
    plain, threaded = Loader(dataset, 5, seed=0), Loader(dataset, 5, seed=0, workers=2)
    for _ in range(4):
        a, b = next(plain), next(threaded)
        assert torch.equal(a.rows, b.rows)
        assert a.positions == b.positions
