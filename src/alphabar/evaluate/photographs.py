"""Photographs that other packages bring, to try an autoencoder on pictures of another kind than it learned from."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from alphabar.codec import LatentCodec
from alphabar.data import read_image
from alphabar.evaluate.autoencoder import psnr
from alphabar.nn import PerceptualLoss
from alphabar.rng import Rng

PHOTOGRAPHS = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "chelsea": ("skimage", "data/chelsea.png"),
    "china": ("sklearn", "datasets/images/china.jpg"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
}
"""The package, never imported, and the file in its wheel: of scikit-image and of scikit-learn."""


class Rebuilt(NamedTuple):
    """One photograph through an autoencoder.

    Attributes:
        name: a key of PHOTOGRAPHS.
        original, reconstruction: [3, H, W] in [-1, 1].
        psnr: in dB.
        perceptual: the perceptual distance; None without a metric.
    """

    name: str
    original: Tensor
    reconstruction: Tensor
    psnr: float
    perceptual: float | None

    @property
    def difference(self) -> Tensor:
        """How far each value is off, four times as bright, on black: [3, H, W] in [-1, 1]."""
        return (4 * (self.reconstruction - self.original).abs() - 1).clamp(-1, 1)


def find_photographs(size: int = 512) -> dict[str, Tensor]:
    """Those of PHOTOGRAPHS that are installed, each [1, 3, size, size] in [-1, 1]: the middle square, resized."""
    found = {}
    for name, (package, file) in PHOTOGRAPHS.items():
        spec = find_spec(package)  # finds a package without running it
        for folder in (spec and spec.submodule_search_locations) or ():
            if (Path(folder) / file).is_file():
                found[name] = read_image(Path(folder) / file, size, 3)
    return found


@torch.no_grad()
def rebuild_photographs(
    codec: LatentCodec, metric: PerceptualLoss | None = None, size: int = 512, seed: int = 0
) -> list[Rebuilt]:
    """Each installed photograph encoded and decoded alone; its latent is drawn, as diffusion is trained on draws.

    Args:
        codec: of colour images, whose latent is a map.
        metric: judges likeness; see `learned_metric`.
        size: height and width.
        seed: of the draws.
    """
    rebuilt = []
    for row, (name, photo) in enumerate(find_photographs(size).items()):
        back = codec.decode(codec.encode(photo, Rng(seed, [row], "evaluate/photographs"))).clamp(-1, 1)
        distance = None if metric is None else float(metric(back, photo))
        rebuilt.append(Rebuilt(name, photo[0], back[0], float(psnr(back, photo)), distance))
    return rebuilt
