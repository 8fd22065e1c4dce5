"""The bookends: how images enter and leave the space in which diffusion runs.

The algorithm between them is the same. `PixelCodec` is pixel diffusion; `LatentCodec(autoencoder, ...)` is latent
diffusion. Nothing else in the library asks which of the two it has.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alphabar.config import read
from alphabar.errors import AlphabarError, nearest
from alphabar.io import hash_tensors, load_tensors, load_weights, save_tensors
from alphabar.nn import Autoencoder, Gaussian, build, config_from_dict, config_to_dict
from alphabar.rng import Rng


class Codec(ABC):
    """How images enter and leave the space in which diffusion runs.

    `encode` is in two parts: `moments` is deterministic and may be cached on disk, `draw` is cheap and happens anew
    each time an image is seen.
    """

    cacheable: bool
    """Whether `moments` costs enough to be worth a file."""
    encoder_fingerprint: str
    """A hash of what `moments` depends on."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of every number that encode and decode depend on."""

    @abstractmethod
    def moments(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W] in [-1, 1] -> what is worth caching, one row per image."""

    @abstractmethod
    def draw(self, moments: Tensor, rng: Rng) -> Tensor:
        """Moments -> x0 [N, c, h, w] in a space of about unit scale."""

    def encode(self, images: Tensor, rng: Rng) -> Tensor:
        """Images [N, C, H, W] in [-1, 1] -> x0 [N, c, h, w]."""
        return self.draw(self.moments(images), rng)

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """x0 [N, c, h, w] -> images [N, C, H, W], about [-1, 1]."""

    @abstractmethod
    def shape(self, n: int, height: int, width: int) -> tuple[int, ...]:
        """The shape of x0 for n images of the given size."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Codec:
        """Move to a device, in place."""

    @abstractmethod
    def save(self, folder: Path) -> dict[str, Any]:
        """Write what belongs to it into a model folder; returns its description for model.json."""


class PixelCodec(Codec):
    """No bookends: diffusion runs on the pixels themselves.

    Args:
        channels: 1 for greyscale, 3 for colour.
    """

    cacheable = False
    encoder_fingerprint = fingerprint = "pixels"

    def __init__(self, channels: int) -> None:
        self.channels = channels

    def moments(self, images: Tensor) -> Tensor:
        return images

    def draw(self, moments: Tensor, rng: Rng) -> Tensor:
        return moments

    def decode(self, z: Tensor) -> Tensor:
        return z

    def shape(self, n: int, height: int, width: int) -> tuple[int, ...]:
        return n, self.channels, height, width

    def to(self, device: torch.device | str) -> PixelCodec:
        return self

    def save(self, folder: Path) -> dict[str, Any]:
        return {"type": "pixel", "channels": self.channels}


class LatentCodec(Codec):
    """A frozen autoencoder, with the shift and scale that bring its latents to mean 0 and standard deviation 1.

    Args:
        autoencoder: the first stage; it is switched to evaluation and its gradients are turned off.
        shift, scale: [c], the latents' mean and standard deviation over the data, from `fit`. Stable Diffusion's
            0.18215 is 1 / scale.
        slice_size: how many images go through the autoencoder at once.
    """

    cacheable = True

    def __init__(
        self,
        autoencoder: Autoencoder,
        shift: Tensor | None = None,
        scale: Tensor | None = None,
        slice_size: int = 256,
    ) -> None:
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.shift = torch.zeros(1) if shift is None else shift
        self.scale = torch.ones(1) if scale is None else scale
        self.slice_size = slice_size
        if not (torch.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise AlphabarError(f"the latent scale must be positive and finite, got {self.scale.tolist()}")

    @classmethod
    def fit(cls, autoencoder: Autoencoder, moments: Iterable[Tensor]) -> LatentCodec:
        """Measure shift and scale per channel over a data set's moments, given in batches [N, 2c, ...].

        A latent is mean + std * noise, so its variance is that of the means plus the mean of std^2.
        """
        count, total, square = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for batch in moments:
            mean, std = batch.cpu().double().transpose(0, 1).flatten(1).chunk(2)
            count += mean.shape[1]
            total = total + mean.sum(dim=1)
            square = square + (mean.square() + std.square()).sum(dim=1)
        if count == 0:
            raise AlphabarError("cannot fit the latent scale: there are no images")
        shift = total / count
        scale = (square / count - shift.square()).clamp(min=0).sqrt()
        if not (scale > 1e-6).all():
            dead = (scale <= 1e-6).nonzero().flatten().tolist()
            raise AlphabarError(f"latent channels {dead} do not vary over the data; lower the KL weight")
        return cls(autoencoder, shift.float(), scale.float())

    @property
    def fingerprint(self) -> str:
        return hash_tensors(self._state())

    @property
    def encoder_fingerprint(self) -> str:  # type: ignore[override]
        """Of the weights alone: shift and scale come after the moments."""
        return hash_tensors(self.autoencoder.state_dict())

    def _state(self) -> dict[str, Tensor]:
        return {**self.autoencoder.state_dict(), "codec.shift": self.shift, "codec.scale": self.scale}

    @torch.no_grad()
    def moments(self, images: Tensor) -> Tensor:
        return torch.cat([self.autoencoder.moments(part) for part in torch.split(images, self.slice_size)])

    def draw(self, moments: Tensor, rng: Rng) -> Tensor:
        posterior = Gaussian.from_moments(moments)
        latents = posterior.sample(rng.normal(*posterior.mean.shape[1:], device=moments.device))
        return (latents - _wide(self.shift, latents)) / _wide(self.scale, latents)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        latents = z * _wide(self.scale, z) + _wide(self.shift, z)
        return torch.cat([self.autoencoder.decode(part) for part in torch.split(latents, self.slice_size)])

    def shape(self, n: int, height: int, width: int) -> tuple[int, ...]:
        return n, *self.autoencoder.latent_shape(height, width)

    def to(self, device: torch.device | str) -> LatentCodec:
        self.autoencoder.to(device)
        self.shift, self.scale = self.shift.to(device), self.scale.to(device)
        return self

    def save(self, folder: Path) -> dict[str, Any]:
        save_tensors(folder / "codec.safetensors", self._state())
        return {
            "type": "latent",
            "network": config_to_dict(self.autoencoder.config),
            "sha256": self.fingerprint,
        }


def _wide(values: Tensor, like: Tensor) -> Tensor:
    """[c] -> [1, c, 1, ...], to broadcast over `like`."""
    return values.view(1, -1, *(1,) * (like.ndim - 2))


def load_codec(folder: Path, description: Mapping[str, Any]) -> Codec:
    """The way back from `Codec.save`; the weights must be the ones that the description was written for."""
    where = f"{folder / 'model.json'}: [codec]"
    kind = read(description, "type", str, where)
    if kind == "pixel":
        return PixelCodec(read(description, "channels", int, where))
    if kind != "latent":
        raise AlphabarError(f"{where} type cannot be {kind!r}{nearest(kind, ('latent', 'pixel'))}")
    path = folder / "codec.safetensors"
    tensors = load_tensors(path)
    if hash_tensors(tensors) != read(description, "sha256", str, where):
        raise AlphabarError(f"{path} is not the codec that this model was trained with (its hash differs)")
    shift, scale = tensors.pop("codec.shift"), tensors.pop("codec.scale")
    autoencoder = build(config_from_dict(read(description, "network", dict, where)))
    load_weights(autoencoder, tensors, path)
    assert isinstance(autoencoder, Autoencoder)
    return LatentCodec(autoencoder, shift, scale)
