"""The colours of a picture as an eye sees them: which one is its main colour, and the same picture in another one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]

CHROMATIC = 0.06
"""A pixel with less OKLab chroma counts as grey."""
HUE_WIDTH = np.pi / 6
"""Hues this close to the commonest one are the same."""

# Linear RGB -> cone responses -> OKLab (Ottosson 2020, "A perceptual color space for image processing").
_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def to_oklab(rgb: NDArray[np.uint8]) -> Floats:
    """Bytes of sRGB [..., 3] -> OKLab [..., 3]."""
    unit = rgb / 255.0
    linear = np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4)
    result: Floats = np.cbrt(linear @ _CONES.T) @ _LAB.T
    return result


def from_oklab(lab: Floats) -> NDArray[np.uint8]:
    """OKLab [..., 3] -> sRGB bytes [..., 3]; colours beyond the screen's are clipped."""
    linear = ((lab @ np.linalg.inv(_LAB).T) ** 3 @ np.linalg.inv(_CONES).T).clip(0, 1)
    unit = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (unit * 255).round().astype(np.uint8)


@dataclass(frozen=True)
class Main:
    """The main colour of a picture: its mean in OKLab, and the shares of object and picture that have its hue."""

    lab: Floats
    of_object: float
    of_picture: float

    @property
    def hue(self) -> float:
        """In radians."""
        return float(np.arctan2(self.lab[2], self.lab[1]))

    @property
    def chroma(self) -> float:
        """Distance from grey."""
        return float(np.hypot(self.lab[1], self.lab[2]))


def turn(hue: Any, other: float) -> Any:
    """The signed way from one hue to another, -pi..pi."""
    return (hue - other + np.pi) % (2 * np.pi) - np.pi


def main_colour(thumb: NDArray[np.uint8]) -> Main | None:
    """The main colour of a picture [h, w, 3], or None when all of it is grey."""
    lab = to_oklab(thumb.reshape(-1, 3))
    chroma, hue = np.hypot(lab[:, 1], lab[:, 2]), np.arctan2(lab[:, 2], lab[:, 1])
    chromatic = chroma > CHROMATIC
    if not chromatic.any():
        return None
    counts, edges = np.histogram(hue[chromatic], 36, (-np.pi, np.pi), weights=chroma[chromatic])
    smooth = counts + np.roll(counts, 1) + np.roll(counts, -1)
    same = chromatic & (np.abs(turn(hue, edges[smooth.argmax()] + np.pi / 36)) < HUE_WIDTH)
    ink = (thumb.reshape(-1, 3).min(axis=1) < 240).sum()
    return Main(lab[same].mean(axis=0), same.sum() / ink, same.mean())


def shift(picture: NDArray[np.uint8], own: Main, target: Main) -> NDArray[np.uint8]:
    """The picture with its main colour moved to another one, [h, w, 3].

    Hues turn and chroma scales for every pixel alike, which leaves greys as they are. Lightness moves too, in
    proportion to a pixel's chroma: hue alone makes no yellow, as a dark yellow is called brown; and a pixel at an edge,
    half white, moves half as far.
    """
    lab = to_oklab(picture)
    amount = (np.hypot(lab[..., 1], lab[..., 2]) / own.chroma).clip(0, 1)
    angle, scale = turn(target.hue, own.hue), target.chroma / own.chroma
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    moved = [
        lab[..., 0] + amount * (target.lab[0] - own.lab[0]),
        cos * lab[..., 1] - sin * lab[..., 2],
        sin * lab[..., 1] + cos * lab[..., 2],
    ]
    return from_oklab(np.stack(moved, axis=-1))
