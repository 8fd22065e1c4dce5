"""The few types that every part speaks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol, TypeAlias

from torch import Tensor

Cond: TypeAlias = Mapping[str, Tensor] | None
"""What the network is told besides x and t: named tensors with one row per sample, or nothing."""


class Estimate(NamedTuple):
    """What a denoiser believes about x_t, in both coordinates.

    Both are kept because going from one to the other divides by alpha or sigma, which loses digits at the ends.
    """

    x0: Tensor
    eps: Tensor


class Network(Protocol):
    """A plain `nn.Module`: x [N, C, H, W], t [N] int64 in 0..T-1, cond -> a tensor shaped like x."""

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = None) -> Tensor: ...


class Denoiser(Protocol):
    """All that a sampler ever sees: x_t [N, ...], t [N] int64 -> an Estimate of x0 and eps."""

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = None) -> Estimate: ...
