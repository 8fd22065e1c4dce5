"""The only two converters between stored pixels and the numbers that networks see."""

from __future__ import annotations

import torch
from torch import Tensor


def to_unit(images: Tensor) -> Tensor:
    """uint8 0..255 -> float32 in [-1, 1], any shape.

    Raises:
        TypeError: when the images are not uint8, as they would then be scaled twice.
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"to_unit expects uint8 images, not {images.dtype}")
    return images.to(torch.float32).div_(127.5).sub_(1.0)


def to_uint8(images: Tensor) -> Tensor:
    """Floats, about [-1, 1] -> uint8 0..255, any shape; rounds and clamps, so that `to_uint8(to_unit(x)) == x`."""
    return images.detach().to(torch.float32).add(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
