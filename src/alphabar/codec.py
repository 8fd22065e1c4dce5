"""The bookends: how images enter and leave the space in which diffusion runs.

The algorithm between them is the same. `PixelCodec` is pixel diffusion; `LatentCodec(autoencoder, ...)` is latent
diffusion. Nothing else in the library asks which of the two it has.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alphabar.config import read
from alphabar.engine import Precision, frugal_allocator, laid_out
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
    def prepared(self, precision: Precision) -> Codec:
        """A copy for inference that runs fast; takes and gives float32."""

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

    def prepared(self, precision: Precision) -> PixelCodec:
        return self

    def to(self, device: torch.device | str) -> PixelCodec:
        return self

    def save(self, folder: Path) -> dict[str, Any]:
        return {"type": "pixel", "channels": self.channels}


PIXELS_AT_ONCE = 512 * 512
"""What goes through an autoencoder at once where no slice size is given: 256 images of 32x32, one of 512x512."""


class LatentCodec(Codec):
    """A frozen autoencoder, with the shift and scale that bring its latents to mean 0 and standard deviation 1.

    Args:
        autoencoder: the first stage; it is switched to evaluation and its gradients are turned off.
        shift, scale: [c], the latents' mean and standard deviation over the data, from `fit`. Stable Diffusion's
            0.18215 is 1 / scale.
        slice_size: how many images go through the autoencoder at once; None for at most 256, and for no more than
            `PIXELS_AT_ONCE` but at least one.
        tile: larger images go through it in squares of this many pixels, so that memory does not grow with the image.
        overlap: pixels that neighbouring tiles share at least, up to half a tile; None for a quarter of it. One fades
            into the other along the middle half of them; what a tile made within a quarter of its rim is not used.

    Tiles equal the whole where the autoencoder looks no further than a quarter of the overlap. Group norms and
    attention look at all they are given, so with them every tile is made on its own terms: no seams, but other values.
    Relative error of fashion-vae (its border left out, images of 224x224): with tiles of 112, 1 to 3 % in decoding and
    3 to 11 % in encoding; with tiles of 64, 3 to 6 % and 8 to 21 %. A random network of Stable Diffusion's form errs by
    half. So let tiles be as large as memory allows; what overlaps is also computed twice.
    """

    cacheable = True

    def __init__(
        self,
        autoencoder: Autoencoder,
        shift: Tensor | None = None,
        scale: Tensor | None = None,
        slice_size: int | None = None,
        tile: int | None = None,
        overlap: int | None = None,
    ) -> None:
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.shift = torch.zeros(1) if shift is None else shift
        self.scale = torch.ones(1) if scale is None else scale
        self.slice_size = slice_size
        if not (torch.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise AlphabarError(f"the latent scale must be positive and finite, got {self.scale.tolist()}")
        self.tile, self.overlap = tile, 0
        if tile is not None:
            factor = autoencoder.factor
            self.overlap = tile // factor // 4 * factor if overlap is None else overlap
            _check_tiles(autoencoder, tile, self.overlap)

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

    def tiled(self, tile: int, overlap: int | None = None) -> LatentCodec:
        """The same codec, the same weights, with tiles."""
        return LatentCodec(self.autoencoder, self.shift, self.scale, self.slice_size, tile, overlap)

    def prepared(self, precision: Precision) -> LatentCodec:
        """A copy in its fastest form for inference, see `engine.laid_out`; float32 in and out.

        "float32" agrees to about 1e-5, "bf16" to about 1e-2; a Stable Diffusion decoder ran in 0.74 and 0.37 of its
        time on a CPU that has bfloat16.
        """
        overlap = None if self.tile is None else self.overlap
        autoencoder = laid_out(self.autoencoder, precision)
        return LatentCodec(autoencoder, self.shift, self.scale, self.slice_size, self.tile, overlap)

    @torch.no_grad()
    def moments(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        if self.tile is None or max(height, width) <= self.tile:
            return self._sliced(self.autoencoder.moments, images, height * width)
        channels, *sides = self.autoencoder.latent_shape(height, width)
        return self._tiled(self.autoencoder.moments, images, (len(images), 2 * channels, *sides))

    def draw(self, moments: Tensor, rng: Rng) -> Tensor:
        posterior = Gaussian.from_moments(moments)
        latents = posterior.sample(rng.normal(*posterior.mean.shape[1:], device=moments.device))
        return (latents - _wide(self.shift, latents)) / _wide(self.scale, latents)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        latents = z * _wide(self.scale, z) + _wide(self.shift, z)
        factor = self.autoencoder.factor
        sides = [side * factor for side in latents.shape[2:]]
        large = prod(sides) >= PIXELS_AT_ONCE and z.device.type == "cpu"
        with frugal_allocator() if large else nullcontext():
            return self._decoded(latents, sides)

    def _decoded(self, latents: Tensor, sides: list[int]) -> Tensor:
        if self.tile is None or max(sides) <= self.tile:
            return self._sliced(self.autoencoder.decode, latents, prod(sides))
        return self._tiled(self.autoencoder.decode, latents, (len(latents), self.autoencoder.image_channels, *sides))

    def _sliced(self, run: Callable[[Tensor], Tensor], x: Tensor, pixels: int) -> Tensor:
        """`run` over x [N, ...] a few images of so many pixels at a time, in the autoencoder's own number type."""
        size = self.slice_size or max(1, min(256, PIXELS_AT_ONCE // pixels))
        dtype = next((weight.dtype for weight in self.autoencoder.parameters()), x.dtype)
        return torch.cat([run(part.to(dtype)).to(x.dtype) for part in torch.split(x, size)])

    def _tiled(self, run: Callable[[Tensor], Tensor], x: Tensor, shape: tuple[int, ...]) -> Tensor:
        """`run` over x [N, C, H, W] tile by tile, blended into a tensor of `shape` [N, c, h, w]."""
        assert self.tile is not None
        factor = self.autoencoder.factor
        tile, overlap = self.tile // factor, self.overlap // factor
        height, width = (min(sides) for sides in zip(x.shape[2:], shape[2:], strict=True))  # of the latent map
        before, after = x.shape[2] // height, shape[2] // height  # values per side of one latent value: 1 or the factor
        rows, columns = (_cover(length, tile, overlap, after) for length in (height, width))
        blend = x.new_zeros(shape)
        for row in rows:
            for column in columns:
                part = x[..., row.values(before), column.values(before)]
                made = self._sliced(run, part, self.tile**2)  # [N, c, tile, tile]
                weight = torch.outer(row.weight, column.weight).to(made)  # [tile, tile]
                blend[..., row.values(after), column.values(after)] += made * weight
        return blend

    def shape(self, n: int, height: int, width: int) -> tuple[int, ...]:
        return n, *self.autoencoder.latent_shape(height, width)

    def to(self, device: torch.device | str) -> LatentCodec:
        self.autoencoder.to(device)
        self.shift, self.scale = self.shift.to(device), self.scale.to(device)
        return self

    def save(self, folder: Path) -> dict[str, Any]:
        state = self._state()
        if any(tensor.dtype == torch.bfloat16 for tensor in state.values()):
            raise AlphabarError("a codec prepared for bf16 has rounded weights; save the one that it was made from")
        save_tensors(folder / "codec.safetensors", state)
        return {
            "type": "latent",
            "network": config_to_dict(self.autoencoder.config),
            "sha256": self.fingerprint,
        }


def _wide(values: Tensor, like: Tensor) -> Tensor:
    """[c] -> [1, c, 1, ...], to broadcast over `like`."""
    return values.view(1, -1, *(1,) * (like.ndim - 2))


def _check_tiles(autoencoder: Autoencoder, tile: int, overlap: int) -> None:
    factor = autoencoder.factor
    if tile < 1 or tile % factor:
        raise AlphabarError(f"tile must be a multiple of {factor} pixels, the autoencoder's factor, not {tile}")
    if not 0 <= overlap <= tile // 2 or overlap % factor:
        raise AlphabarError(f"overlap must be a multiple of {factor} and at most half the tile {tile}, not {overlap}")
    if autoencoder.latent_shape(tile, tile)[1:] != (tile // factor,) * 2:
        raise AlphabarError("tiles need an autoencoder whose latent is a map without a border; leave tile out")


class _Strip(NamedTuple):
    """One tile along one side of a map: from latent value `start` to `stop`, with the weights of what it makes."""

    start: int
    stop: int
    weight: Tensor

    def values(self, per: int) -> slice:
        """Where it lies in a map with so many values per latent value."""
        return slice(self.start * per, self.stop * per)


def _cover(length: int, tile: int, overlap: int, per: int) -> list[_Strip]:
    """Strips of `tile` latent values, evenly spread over `length` of them; their weights sum to 1 everywhere.

    At least `overlap` values belong to two strips. The weight of either is 0 in the quarter next to its own end, where
    its convolutions saw zeros instead of the image, and 1 in the quarter next to the other's; between, a linear ramp.
    """
    count = 1 + max(0, -(-(length - tile) // (tile - overlap)))
    tile = min(tile, length)
    rise = ((torch.arange(tile * per) + 0.5) * 2 / (overlap * per) - 0.5).clamp(0, 1)  # all 1 without an overlap
    total = torch.zeros(length * per)
    strips = []
    for index in range(count):
        start = index * (length - tile) // max(1, count - 1)
        weight = torch.ones(tile * per)
        if index > 0:
            weight = weight * rise
        if index < count - 1:
            weight = weight * rise.flip(0)
        strips.append(_Strip(start, start + tile, weight))
        total[strips[-1].values(per)] += weight
    return [strip._replace(weight=strip.weight / total[strip.values(per)]) for strip in strips]


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
