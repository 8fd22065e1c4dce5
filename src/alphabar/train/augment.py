"""Many views of one picture, for a classifier whose classes have one picture each."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from alphabar.rng import Rng

SHIFT = 0.08
"""Of the width, to either side."""
ZOOM = 0.15
TURN = math.radians(10)
SOFT = (0.9, 0.6)
"""The most that an image is replaced by itself at a half, and then at a quarter of its size."""
LIGHT = 0.012  # neighbouring skin tones differ by 4 of 255, over a whole picture
GAIN = 0.02
GRAIN, RIPPLE = 0.12, 0.12
"""The most noise, as standard deviations in [-1, 1]: one value per pixel, and one per 4 x 4 pixels."""


def augment(images: Tensor, rng: Rng) -> Tensor:
    """Move, zoom, turn, soften, lighten and disturb each image by its own random numbers.

    Hues stay, and nothing is mirrored: colours and directions have names. Softening and noise are what autoencoders and
    diffusion do to pictures, so that a classifier which learned from sharp ones can read theirs.

    Args:
        images: [N, C, H, W] in [-1, 1], sides from 8 up; what lies outside is taken to be as the edge is.
        rng: one stream for each image.

    Returns:
        [N, C, H, W] float32, about [-1, 1].
    """
    device, (channels, height, width) = images.device, images.shape[1:]
    uniform = 2 * torch.special.ndtr(rng.normal(9, device=device)) - 1  # [N, 9] in -1..1
    right, down, zoom, turn = uniform[:, :4].unbind(1)
    moved = warp(images, SHIFT * right, SHIFT * down, ZOOM * zoom, TURN * turn)
    half, quarter, gain, light, noise = ((part + 1).view(-1, 1, 1, 1) / 2 for part in uniform[:, 4:].unbind(1))
    soft = moved.lerp(_shrunk(moved, 2), SOFT[0] * half)
    soft = soft.lerp(_shrunk(moved, 4), SOFT[1] * quarter.square())  # squared: seldom all of it
    lit = soft * (1 + GAIN * (2 * gain - 1)) + LIGHT * (2 * light - 1)
    ripple = rng.normal(channels, math.ceil(height / 4), math.ceil(width / 4), device=device)
    ripple = F.interpolate(ripple, (height, width), mode="bilinear")
    grain = rng.normal(channels, height, width, device=device)
    out: Tensor = lit + noise.square() * (GRAIN * grain + RIPPLE * ripple)
    return out


def recolour(images: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
    """Turn the hues of about half of the images by any angle and make them more or less vivid; greys stay.

    What a thing is must be read in colours that it was never shown in. What these colours are called must not be asked
    of the images that were changed.

    Args:
        images: [N, 3, H, W] in [-1, 1].
        rng: one stream for each image.

    Returns:
        The images, clamped to [-1, 1], and which were changed, [N] bool.
    """
    chosen, angle, vivid = (torch.special.ndtr(part) for part in rng.normal(3, device=images.device).unbind(1))
    grey = images.mean(dim=1, keepdim=True)
    cos, sin = (f(2 * math.pi * angle).view(-1, 1, 1, 1) for f in (torch.cos, torch.sin))
    colour = images - grey
    # The turn about the grey axis (Rodrigues): what is across it is (1, 1, 1) / sqrt(3) x colour.
    across = (colour.roll(1, dims=1) - colour.roll(-1, dims=1)) / math.sqrt(3)
    turned = grey + (0.3 + vivid.view(-1, 1, 1, 1)) * (cos * colour + sin * across)
    changed = chosen < 0.5
    return torch.where(changed.view(-1, 1, 1, 1), turned.clamp(-1, 1), images), changed


def warp(images: Tensor, right: Tensor, down: Tensor, zoom: Tensor, turn: Tensor) -> Tensor:
    """Look at another part of each image; what comes in at the edges is as the edge is.

    Args:
        images: [N, C, H, W].
        right, down: how far what is looked at moves, as a share of the side, [N].
        zoom: how much more is looked at, as a share, [N].
        turn: by which angle, in radians, [N].
    """
    cos, sin = (1 + zoom) * turn.cos(), (1 + zoom) * turn.sin()
    rows = [torch.stack([cos, -sin, 2 * right], dim=1), torch.stack([sin, cos, 2 * down], dim=1)]
    places = F.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)  # [N, H, W, 2]
    return F.grid_sample(images, places.to(images.device), padding_mode="border", align_corners=False)


def _shrunk(images: Tensor, factor: int) -> Tensor:
    """As they look after a way through fewer pixels."""
    small = F.interpolate(images, scale_factor=1 / factor, mode="bilinear", antialias=True)
    return F.interpolate(small, images.shape[2:], mode="bilinear")
