"""Randomness that belongs to a sample, not to a batch.

One independent stream per (seed, sample index, purpose). Image k of a batch therefore gets the numbers that it gets
when it is made alone, and a run split over N processes draws what one process would. Numbers are drawn on the CPU and
moved, so that a seed means the same on every device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor


def derive_seed(seed: int, index: int, purpose: str) -> int:
    """A 63-bit seed for one stream; unrelated for any two different triples."""
    digest = hashlib.blake2b(f"{seed}/{index}/{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Rng:
    """The streams of some samples: every draw has one row per sample, taken from that sample's own stream.

    Args:
        seed: the seed of the run.
        indices: the global index of each sample (its number in the run, not its row in the batch).
        purpose: what the numbers are for; different purposes never share numbers.
    """

    def __init__(self, seed: int, indices: Iterable[int], purpose: str) -> None:
        seeds = [derive_seed(seed, int(i), purpose) for i in indices]
        self._generators = [torch.Generator().manual_seed(s) for s in seeds]

    def __len__(self) -> int:
        return len(self._generators)

    def normal(self, *shape: int, device: torch.device | str = "cpu") -> Tensor:
        """Standard normal numbers, [n, *shape] float32, continuing each sample's stream."""
        out = torch.empty((len(self), *shape))
        for row, generator in zip(out, self._generators, strict=True):
            row.normal_(generator=generator)
        return out.to(device)

    def integers(self, high: int, device: torch.device | str = "cpu") -> Tensor:
        """Uniform whole numbers in 0..high-1, [n] int64, continuing each sample's stream."""
        draws = [torch.randint(high, (1,), generator=g) for g in self._generators]
        return torch.cat(draws).to(device) if draws else torch.empty(0, dtype=torch.int64, device=device)


def permutation(seed: int, size: int, epoch: int) -> Tensor:
    """The order in which epoch number `epoch` visits `size` samples, [size] int64."""
    generator = torch.Generator().manual_seed(derive_seed(seed, epoch, "order"))
    return torch.randperm(size, generator=generator)
