"""Randomness that belongs to a sample, not to a batch."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from alphabar.rng import Rng, derive_seed, permutation

seeds = st.integers(0, 2**40)


@given(seeds, st.lists(st.integers(0, 10**9), min_size=1, max_size=8, unique=True))
def test_a_row_is_the_same_alone_and_in_any_batch(seed: int, indices: list[int]) -> None:
    together = Rng(seed, indices, "noise")
    first, then = together.normal(2, 3), together.normal(4)
    whole = together.integers(1000)
    for k, index in enumerate(indices):
        alone = Rng(seed, [index], "noise")
        assert torch.equal(alone.normal(2, 3)[0], first[k])
        assert torch.equal(alone.normal(4)[0], then[k])
        assert alone.integers(1000)[0] == whole[k]


@given(st.tuples(seeds, seeds, st.sampled_from("ab")), st.tuples(seeds, seeds, st.sampled_from("ab")))
def test_streams_differ(one: tuple[int, int, str], other: tuple[int, int, str]) -> None:
    assert (derive_seed(*one) == derive_seed(*other)) == (one == other)
    assert 0 <= derive_seed(*one) < 2**63


def test_streams_are_pinned() -> None:
    """A seed means the same images in every version: changing these numbers changes everybody's results."""
    assert derive_seed(0, 0, "initial") == 4225229386127480369
    values = Rng(0, [0, 1], "initial").normal(2)
    torch.testing.assert_close(values, torch.tensor([[-0.302760, 0.222041], [-0.525419, -1.219479]]), rtol=0, atol=1e-6)


def test_numbers_are_standard_normal_and_uniform() -> None:
    rng = Rng(1, range(200), "noise")
    values = rng.normal(100)
    assert abs(values.mean()) < 0.03
    assert abs(values.std() - 1) < 0.03
    assert abs(torch.corrcoef(values)[~torch.eye(200, dtype=torch.bool)]).max() < 0.5  # rows do not follow each other
    draws = torch.stack([rng.integers(4) for _ in range(50)])
    assert draws.dtype == torch.int64
    counts = torch.bincount(draws.flatten(), minlength=4)
    assert len(counts) == 4
    assert (abs(counts / draws.numel() - 0.25) < 0.02).all()


def test_no_samples_no_numbers() -> None:
    rng = Rng(0, [], "noise")
    assert len(rng) == 0
    assert rng.normal(3).shape == (0, 3)
    assert rng.integers(10).shape == (0,)


def test_global_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    Rng(0, range(4), "noise").normal(8)
    permutation(0, 10, 0)
    assert torch.equal(torch.get_rng_state(), before)


@given(seeds, st.integers(1, 500), st.integers(0, 50))
def test_an_epoch_visits_everything_once(seed: int, size: int, epoch: int) -> None:
    order = permutation(seed, size, epoch)
    assert torch.equal(order.sort().values, torch.arange(size))
    assert torch.equal(order, permutation(seed, size, epoch))
    if size > 20:
        assert not torch.equal(order, permutation(seed, size, epoch + 1))
