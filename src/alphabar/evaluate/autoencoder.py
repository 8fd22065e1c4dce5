"""What an autoencoder keeps of an image, and what its latent space is good for."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from alphabar.codec import LatentCodec
from alphabar.errors import AlphabarError
from alphabar.rng import Rng


class QualityLadder(NamedTuple):
    """From real images down to pure chance; all [N, C, H, W], about [-1, 1]."""

    originals: Tensor
    reconstructions: Tensor
    samples: Tensor
    """Decoded N(0, 1) noise. Garbage is normal where the KL weight is small: that is what diffusion is for."""
    psnr: float
    """Mean over the images, of the reconstructions, in dB."""


class Interpolation(NamedTuple):
    """Frames from image a (weight 0) to image b (weight 1), each [K, N, C, H, W]."""

    weights: tuple[float, ...]
    latent: Tensor
    """Decoded mixtures of the latents: each looks like one image."""
    pixel: Tensor
    """Mixtures of the pixels: a double exposure."""


class Arithmetic(NamedTuple):
    """start + (mean of `plus` - mean of `minus`), in latents and, for comparison, in pixels; all [N, C, H, W]."""

    start: Tensor
    latent: Tensor
    pixel: Tensor
    plus_mean: Tensor
    """[C, H, W]: the decoded mean of the class added."""
    minus_mean: Tensor
    """[C, H, W]: the decoded mean of the class taken away."""


class LatentShare(NamedTuple):
    """How much of a picture each latent channel is."""

    latents: Tensor
    """[N, c, h, w], the posterior means at unit scale: for heat maps."""
    r2: tuple[float, ...]
    """Share of the grey image's variance that a line through each single channel explains, enlarged: 0..1."""
    r2_all: float
    """The same for the best linear mixture of all channels."""
    psnr: float
    """Of the reconstructions, in dB."""
    psnr_without: tuple[float, ...]
    """Of the reconstructions when one channel is set to its mean, in dB: the lower, the more it carried."""


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in [-1, 1]: 10 log10(4 / mse), [N] float64 in dB; inf if equal."""
    if a.shape != b.shape:
        raise AlphabarError(f"images to be compared differ in shape: {list(a.shape)} and {list(b.shape)}")
    mse = (a.double() - b.double()).square().flatten(1).mean(dim=1)
    return 10 * torch.log10(4 / mse)


def mean_latents(codec: LatentCodec, images: Tensor) -> Tensor:
    """The middle of each image's posterior, at unit scale: images [N, C, H, W] in [-1, 1] -> [N, c, ...]."""
    mean, std = codec.moments(images).chunk(2, dim=1)
    narrow = torch.cat([mean, torch.zeros_like(std)], dim=1)  # a posterior of no width draws its mean
    return codec.draw(narrow, Rng(0, range(len(images)), "evaluate/mean"))


def quality_ladder(codec: LatentCodec, images: Tensor, seed: int = 0) -> QualityLadder:
    """Originals [N, C, H, W] in [-1, 1], their reconstructions, and as many samples of the latent space.

    Reconstructions are of drawn latents, which is what a diffusion model is trained on; seed: keyed per image.
    """
    n, _, height, width = images.shape
    drawn = codec.encode(images, Rng(seed, range(n), "evaluate/posterior"))
    noise = Rng(seed, range(n), "evaluate/prior").normal(*codec.shape(n, height, width)[1:], device=images.device)
    reconstructions = codec.decode(drawn)
    return QualityLadder(images, reconstructions, codec.decode(noise), float(psnr(reconstructions, images).mean()))


def interpolate(codec: LatentCodec, a: Tensor, b: Tensor, steps: int = 8) -> Interpolation:
    """Walk in a straight line from images a to images b [N, C, H, W], in the latent space and beside it in pixels.

    Args:
        codec: the bookends.
        a, b: as many images each, in [-1, 1].
        steps: frames including both ends, at least 2.
    """
    if a.shape != b.shape or steps < 2:
        raise AlphabarError(
            f"interpolation needs two equal stacks of images and 2 or more steps, "
            f"got {list(a.shape)}, {list(b.shape)} and {steps}"
        )
    weights = [i / (steps - 1) for i in range(steps)]
    z_a, z_b = mean_latents(codec, a), mean_latents(codec, b)
    latent = torch.stack([codec.decode(torch.lerp(z_a, z_b, w)) for w in weights])
    return Interpolation(tuple(weights), latent, torch.stack([torch.lerp(a, b, w) for w in weights]))


def arithmetic(
    codec: LatentCodec, images: Tensor, labels: Tensor, start: int, plus: int, minus: int, count: int = 8
) -> Arithmetic:
    """Move images of one class by the difference of the means of two others: start + plus - minus.

    On Fashion-MNIST, T-shirt (0) + pullover (2) - T-shirt (0) gives T-shirts long sleeves.

    Args:
        codec: the bookends.
        images: [N, C, H, W] in [-1, 1], some hundred of each class, for its mean.
        labels: [N] int64.
        start, plus, minus: classes.
        count: how many images of the class `start` to move, the first ones.

    Raises:
        AlphabarError: a class without images.
    """
    for label in (start, plus, minus):
        if not (labels == label).any():
            raise AlphabarError(f"no image of class {label} among the {len(images)} given; give more images")
    z = mean_latents(codec, images)
    first = (labels == start).nonzero().flatten()[:count]
    z_plus, z_minus = z[labels == plus].mean(dim=0), z[labels == minus].mean(dim=0)
    pixels = images[first] + images[labels == plus].mean(dim=0) - images[labels == minus].mean(dim=0)
    return Arithmetic(
        start=images[first],
        latent=codec.decode(z[first] + z_plus - z_minus),
        pixel=pixels.clamp(-1, 1),
        plus_mean=codec.decode(z_plus[None])[0],
        minus_mean=codec.decode(z_minus[None])[0],
    )


def latent_share(codec: LatentCodec, images: Tensor) -> LatentShare:
    """Measure how much of a picture [N, C, H, W] in [-1, 1] each channel of a latent map is.

    Linear regression from the channels, enlarged bilinearly, to the grey image says how far they are small pictures;
    decoding with a channel set to its mean over the data says what the decoder takes from it.

    Raises:
        AlphabarError: the latent is a vector, not a map.
    """
    latents = mean_latents(codec, images)
    if latents.ndim != 4:
        raise AlphabarError(
            f"latent channels are maps only in a spatial latent, not in one of {list(latents.shape[1:])}"
        )
    enlarged = F.interpolate(latents, size=images.shape[2:], mode="bilinear", align_corners=False)
    grey = images.double().mean(dim=1).flatten()  # [N * H * W]
    maps = enlarged.double().transpose(0, 1).flatten(1)  # [c, N * H * W]
    channels = range(len(maps))
    return LatentShare(
        latents=latents,
        r2=tuple(_r2(maps[c : c + 1], grey) for c in channels),
        r2_all=_r2(maps, grey),
        psnr=float(psnr(codec.decode(latents), images).mean()),
        psnr_without=tuple(float(psnr(codec.decode(_without(latents, c)), images).mean()) for c in channels),
    )


def _without(latents: Tensor, channel: int) -> Tensor:
    kept = latents.clone()
    kept[:, channel] = latents[:, channel].mean()
    return kept


def _r2(maps: Tensor, target: Tensor) -> float:
    """Coefficient of determination of the least-squares fit from maps [c, P] to a target [P], with an intercept."""
    x, y = maps - maps.mean(dim=1, keepdim=True), target - target.mean()
    total = float(y @ y)
    if total == 0:
        return math.nan  # a flat picture has no variance to explain
    coefficients = torch.linalg.pinv(x @ x.T, hermitian=True) @ (x @ y)  # [c]; a channel that is constant gets 0
    return min(1.0, max(0.0, float((x @ y) @ coefficients) / total))
