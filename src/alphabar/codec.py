"""The bookends: how images enter and leave the space in which diffusion runs.

The algorithm between them is the same. `PixelCodec` is pixel diffusion; `LatentCodec(autoencoder, ...)` is latent
diffusion. Nothing else in the library asks which of the two it has.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor, nn

from alphabar.errors import AlphabarError
from alphabar.io import hash_tensors
from alphabar.rng import Rng


class Autoencoder(Protocol):
    """What `LatentCodec` needs of a first stage."""

    def moments(self, x: Tensor) -> Tensor:
        """Images [N, C, H, W] -> mean and standard deviation of the posterior, [N, 2c, h, w]."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """Latents [N, c, h, w] -> images [N, C, H, W]."""
        ...

    def latent_shape(self, height: int, width: int) -> tuple[int, ...]:
        """The shape of one image's latent."""
        ...


class PixelCodec:
    """No bookends: diffusion runs on the pixels themselves."""

    fingerprint = "pixels"

    def __init__(self, channels: int) -> None:
        self.channels = channels

    def moments(self, images: Tensor) -> Tensor:
        return images

    def draw(self, moments: Tensor, rng: Rng) -> Tensor:
        return moments

    def encode(self, images: Tensor, rng: Rng) -> Tensor:
        return images

    def decode(self, z: Tensor) -> Tensor:
        return z

    def shape(self, n: int, height: int, width: int) -> tuple[int, ...]:
        return n, self.channels, height, width


class LatentCodec:
    """A frozen autoencoder, with the shift and scale that bring its latents to mean 0 and standard deviation 1.

    Args:
        autoencoder: the first stage; it is switched to evaluation and its gradients are turned off.
        shift, scale: [c], the latents' mean and standard deviation over the data, from `fit`. Stable Diffusion's
            0.18215 is 1 / scale.
        slice_size: how many images go through the autoencoder at once.
    """

    def __init__(
        self, autoencoder: nn.Module, shift: Tensor | None = None, scale: Tensor | None = None, slice_size: int = 256
    ) -> None:
        self.autoencoder: Autoencoder = autoencoder.eval().requires_grad_(False)  # type: ignore[assignment]
        self._module = autoencoder
        self.shift = torch.zeros(1) if shift is None else shift
        self.scale = torch.ones(1) if scale is None else scale
        self.slice_size = slice_size
        if not (torch.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise AlphabarError(f"the latent scale must be positive and finite, got {self.scale.tolist()}")

    @classmethod
    def fit(cls, autoencoder: nn.Module, moments: Iterable[Tensor]) -> LatentCodec:
        """Measure shift and scale per channel over a data set's moments, given in batches [N, 2c, h, w].

        A latent is mean + std * noise, so its variance is that of the means plus the mean of std^2.
        """
        count, total, square = 0, torch.zeros(()).double(), torch.zeros(()).double()
        for batch in moments:
            mean, std = batch.double().transpose(0, 1).flatten(1).chunk(2)
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
        """A hash of every number that encode and decode depend on."""
        return hash_tensors(self.state())

    def state(self) -> dict[str, Tensor]:
        """Weights, shift and scale."""
        return {**self._module.state_dict(), "codec.shift": self.shift, "codec.scale": self.scale}

    def to(self, device: torch.device | str) -> LatentCodec:
        """Move the autoencoder, shift and scale."""
        self._module.to(device)
        self.shift, self.scale = self.shift.to(device), self.scale.to(device)
        return self

    @torch.no_grad()
    def moments(self, images: Tensor) -> Tensor:
        return torch.cat([self.autoencoder.moments(part) for part in images.split(self.slice_size)])

    def draw(self, moments: Tensor, rng: Rng) -> Tensor:
        mean, std = moments.chunk(2, dim=1)
        latents = mean + std * rng.normal(*mean.shape[1:], device=mean.device)
        return (latents - self._wide(self.shift, latents)) / self._wide(self.scale, latents)

    def encode(self, images: Tensor, rng: Rng) -> Tensor:
        return self.draw(self.moments(images), rng)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        latents = z * self._wide(self.scale, z) + self._wide(self.shift, z)
        return torch.cat([self.autoencoder.decode(part) for part in latents.split(self.slice_size)])

    def shape(self, n: int, height: int, width: int) -> tuple[int, ...]:
        return n, *self.autoencoder.latent_shape(height, width)

    @staticmethod
    def _wide(values: Tensor, like: Tensor) -> Tensor:
        return values.view(1, -1, *(1,) * (like.ndim - 2))
