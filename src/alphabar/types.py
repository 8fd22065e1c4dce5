"""The few types that every part speaks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from torch import Tensor

if TYPE_CHECKING:
    from alphabar.rng import Rng

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


class Codec(Protocol):
    """The bookends: how images enter and leave the space in which diffusion runs.

    `encode` is `draw(moments(images), rng)`: `moments` is deterministic and may be cached on disk, `draw` is cheap and
    happens anew each time an image is seen.
    """

    def moments(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W] in [-1, 1] -> what is worth caching, one row per image."""
        ...

    def draw(self, moments: Tensor, rng: Rng) -> Tensor:
        """Moments -> x0 [N, c, h, w] in a space of about unit scale."""
        ...

    def encode(self, images: Tensor, rng: Rng) -> Tensor:
        """Images [N, C, H, W] in [-1, 1] -> x0 [N, c, h, w]."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """x0 [N, c, h, w] -> images [N, C, H, W], about [-1, 1]."""
        ...

    def shape(self, n: int, height: int, width: int) -> tuple[int, ...]:
        """The shape of x0 for n images of the given size."""
        ...
