"""The one idea of the library, held to the bit: pixels and latents take the same path, only the bookends differ."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor

import tiny
from alphabar import models
from alphabar.codec import LatentCodec, PixelCodec
from alphabar.generate import SamplerConfig, sample
from alphabar.nn import CONFIGS, Autoencoder, NetworkConfig, registry
from alphabar.train import train


@dataclass(frozen=True)
class IdentityConfig(NetworkConfig):
    """No shape to choose."""

    type_name: ClassVar[str] = "identity"


class Identity(Autoencoder):
    """A first stage that changes nothing: its latents are the pixels."""

    variational = False
    factor = 1
    image_channels = 1

    def __init__(self, config: IdentityConfig) -> None:
        super().__init__()
        self.config = config

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, z: Tensor) -> Tensor:
        return z

    def latent_shape(self, height: int, width: int) -> tuple[int, ...]:
        return (1, height, width)


@pytest.fixture
def identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The identity as a model folder, its type known by name like any other."""
    monkeypatch.setitem(CONFIGS, "identity", IdentityConfig)
    monkeypatch.setitem(registry._BUILDERS, IdentityConfig, Identity)
    models.save_autoencoder(LatentCodec(Identity(IdentityConfig())), 8, 1, {}, tmp_path / "identity")
    return tmp_path / "identity"


def test_pixels_are_latents_of_the_identity(identity: Path, tmp_path: Path) -> None:
    settings = {"steps": 20, "batch_size": 96}  # across the end of the first epoch
    pixel, latent = tmp_path / "pixel", tmp_path / "latent"
    train(tiny.recipe(train=settings), pixel, quiet=True)
    train(tiny.recipe(train=settings, codec=str(identity)), latent, quiet=True)
    assert tiny.differing(tiny.run_state(pixel), tiny.run_state(latent)) == []
    assert tiny.timeless(pixel) == tiny.timeless(latent)

    one, other = models.load_model(pixel), models.load_model(latent)
    assert isinstance(one.codec, PixelCodec)
    assert isinstance(other.codec, LatentCodec)
    for sampler in (SamplerConfig("ddpm", 10), SamplerConfig("ddim", 10), SamplerConfig("dpmpp-2m", 10)):
        images = sample(one, 8, sampler, seed=1)
        assert torch.equal(images, sample(other, 8, sampler, seed=1))
        assert images.std() > 0.1
