"""One or two images through an autoencoder: what a latent is made of, and what becomes of it, as a page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import torch
from torch import Tensor

from alphabar.codec import LatentCodec
from alphabar.evaluate import interpolate, latent_share, mean_latents, psnr
from alphabar.nn import Gaussian
from alphabar.report.document import document, footer
from alphabar.report.grid import heat_map, tiles
from alphabar.report.html import figure, number, strip, table, ticks
from alphabar.rng import Rng

STRENGTHS = (0.0, 0.1, 0.25, 0.5, 1.0)
"""Standard deviations of the noise laid on the latents, whose own is about 1."""
FRAMES = 6
GAIN = 8
"""How much the difference between image and reconstruction is enlarged."""
WIDTH = 224
"""Pixels, about, of a picture on the page."""

STYLE = """
main > section > .scroll { max-width: 52rem; }
.one { max-width: 24rem; }
"""


@dataclass(frozen=True)
class Tiled:
    """Decoding in tiles against decoding whole: the largest and the root-mean-square error, on images in [-1, 1]."""

    tile: int
    largest: float
    rms: float


@dataclass(frozen=True)
class LatentLook:
    """What there is to see of an image in a latent space; images are [1, C, H, W], about [-1, 1].

    Attributes:
        image, reconstruction: before and after.
        psnr: of the reconstruction, in dB.
        latents: the posterior's middle, at unit scale, [1, c, h, w].
        std: the posterior's standard deviation at unit scale, per channel.
        r2: share of the grey image's variance that a line through each channel explains.
        without: decoded with each channel set to its mean, [c, C, H, W].
        psnr_without: of these.
        noisy: decoded with noise of each of `STRENGTHS` on the latents, [K, C, H, W].
        tiled: decoding in tiles; None where the image is too small for two.
        walk: frames to a second image, three rows of [K, C, H, W]: a straight line in latents, an arc, pixels.
    """

    image: Tensor
    reconstruction: Tensor
    psnr: float
    latents: Tensor
    std: tuple[float, ...]
    r2: tuple[float, ...]
    without: Tensor
    psnr_without: tuple[float, ...]
    noisy: Tensor
    tiled: Tiled | None
    walk: tuple[Tensor, Tensor, Tensor] | None

    @property
    def ratio(self) -> float:
        """How many numbers of the image stand for one of the latent."""
        return self.image.numel() / self.latents.numel()


def slerp(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """Along the arc from a to b, [N, ...], by the angle between them as vectors: the length does not dip on the way.

    Shoemake (1985). Where the angle is 0 the arc is the straight line.
    """
    x, y = a.flatten(1).double(), b.flatten(1).double()
    cosine = (x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1)).clamp(min=1e-12)
    angle = cosine.clamp(-1, 1).acos().view(-1, *(1,) * (a.ndim - 1))
    sine = angle.sin()
    straight = sine < 1e-6
    safe = torch.where(straight, 1.0, sine)
    left = torch.where(straight, 1 - weight, ((1 - weight) * angle).sin() / safe)
    right = torch.where(straight, weight, (weight * angle).sin() / safe)
    return (left * a + right * b).to(a.dtype)


def look(codec: LatentCodec, image: Tensor, second: Tensor | None = None, seed: int = 0) -> LatentLook:
    """Take an image [1, C, H, W] in [-1, 1] apart, and walk to a second one.

    Raises:
        AlphabarError: the latent is a vector, not a map, or the image does not fit the autoencoder.
    """
    share = latent_share(codec, image)
    latents, channels = share.latents, share.latents.shape[1]
    posterior = Gaussian.from_moments(codec.moments(image))
    scale = codec.scale.view(1, -1, *(1,) * (latents.ndim - 2))
    reconstruction = codec.decode(latents)
    dropped = latents.repeat(channels, 1, 1, 1)
    for channel in range(channels):
        dropped[channel, channel] = latents[0, channel].mean()
    without = codec.decode(dropped)
    noise = Rng(seed, [0], "latents/noise").normal(*latents.shape[1:], device=latents.device)
    noisy = codec.decode(torch.cat([latents + strength * noise for strength in STRENGTHS]))
    walk = None
    if second is not None:
        straight = interpolate(codec, image, second, FRAMES)
        ends = mean_latents(codec, image), mean_latents(codec, second)
        arc = codec.decode(torch.cat([slerp(*ends, weight) for weight in straight.weights]))
        walk = straight.latent[:, 0].cpu(), arc.cpu(), straight.pixel[:, 0].cpu()
    return LatentLook(
        image=image.cpu(),
        reconstruction=reconstruction.cpu(),
        psnr=float(psnr(reconstruction, image)[0]),
        latents=latents.cpu(),
        std=tuple((posterior.std / scale).transpose(0, 1).flatten(1).mean(dim=1).tolist()),
        r2=share.r2,
        without=without.cpu(),
        psnr_without=tuple(psnr(without, image.expand_as(without)).tolist()),
        noisy=noisy.cpu(),
        tiled=_tiled(codec, latents, reconstruction),
        walk=walk,
    )


def _tiled(codec: LatentCodec, latents: Tensor, whole: Tensor) -> Tiled | None:
    """Decode in tiles of about half the side."""
    factor = codec.autoencoder.factor
    tile = -(-latents.shape[-1] * 5 // 8) * factor
    if latents.shape[-1] < 8 or whole.shape[-1] != latents.shape[-1] * factor:
        return None
    error = (codec.tiled(tile).decode(latents) - whole).double()
    return Tiled(tile, float(error.abs().max()), float(error.square().mean().sqrt()))


def render_latents(seen: LatentLook, title: str, command: str, facts: Mapping[str, object]) -> str:
    """The page.

    Args:
        seen: what `look` saw.
        title: names of autoencoder and image.
        command: what made the page.
        facts: versions, hardware and the like, for the footer.
    """
    header = (
        f"<h1>{escape(title)}, <span>as latents.</span></h1><p>An image is encoded, taken apart and decoded. What the "
        "decoder does with a number is what the number means.</p>" + _headlines(seen)
    )
    sections = [
        ("In and out again", _reconstruction(seen)),
        ("The channels", _channels(seen)),
        ("Latents with noise", _noisy(seen)),
        ("From one image to the other", _walk(seen)),
        ("In tiles", _tiles(seen)),
    ]
    notes = [
        "Images are shown as the autoencoder sees them: the middle square, scaled to its size.",
        "Latents are the middle of the posterior, shifted and scaled to the unit variance that diffusion works on.",
    ]
    return document(f"alphabar: {title}, as latents", header, sections, footer(command, facts, notes), STYLE)


def _headlines(seen: LatentLook) -> str:
    shape = "×".join(map(str, seen.latents.shape[1:]))
    cells = [
        (f"{seen.ratio:.3g}×", "fewer numbers", f"{seen.image.numel():,} → {seen.latents.numel():,}"),
        (_decibel(seen.psnr), "reconstruction", "PSNR; more is better"),
        (shape, "the latent", f"standard deviation {float(seen.latents.std(correction=0)):.2f}"),
        (f"{sum(seen.std) / len(seen.std):.3g}", "width of the posterior", "mean over channels, at unit scale"),
    ]
    items = "".join(f"<li><b>{a}</b> <span>{b}</span> <small>{c}</small></li>" for a, b, c in cells)
    return f'<ul class="headlines" aria-label="In short">{items}</ul>'


def _decibel(value: float) -> str:
    return "exact" if math.isinf(value) else f"{value:.1f} dB"


def _strip(images: Tensor, alt: str) -> str:
    """Images [K, C, H, W] in a row, small ones enlarged by whole factors."""
    return strip(tiles(images.clamp(-1, 1), max(1, WIDTH // images.shape[-1])), alt)


def _reconstruction(seen: LatentLook) -> str:
    difference = (GAIN * (seen.reconstruction - seen.image)).abs() - 1  # black is equal
    row = torch.cat([seen.image, seen.reconstruction, difference])
    return _strip(row, "the image, its reconstruction and their difference") + ticks(
        ["the image", f"decoded, <b>{_decibel(seen.psnr)}</b>", f"difference × {GAIN}"]
    )


def _channels(seen: LatentLook) -> str:
    names = [f"channel {k}" for k in range(seen.latents.shape[1])]
    most = max(WIDTH // seen.latents.shape[-1], 1)
    maps = [heat_map(channel) for channel in seen.latents[0]]
    maps = [one.resize((one.width * most, one.height * most), 0) for one in maps]
    rows = [
        (
            name,
            f"{float(channel.min()):.2f} … {float(channel.max()):.2f}".replace("-", "−"),
            f"{std:.3g}",
            f"{r2:.2f}" if math.isfinite(r2) else "flat image",
            _decibel(without),
            _lost(seen.psnr, without),
        )
        for name, channel, std, r2, without in zip(
            names, seen.latents[0], seen.std, seen.r2, seen.psnr_without, strict=True
        )
    ]
    lost = [seen.psnr - without for without in seen.psnr_without]
    worst = lost.index(max(lost))
    head = ["", "from … to", "posterior’s std", "R² with the grey image", "PSNR without it", "lost"]
    return (
        "<p>Each channel as a heat map, dark is low and yellow is high, and below it what the decoder makes of the "
        f"latent with that channel set to its mean. Setting channel {worst} so costs most.</p>"
        + _maps_and_pictures(maps, seen.without, names)
        + table("The latent's channels", head, rows)
    )


def _lost(whole: float, without: float) -> str:
    return f"{whole - without:.1f} dB".replace("-", "−") if math.isfinite(whole - without) else ""


def _maps_and_pictures(maps: Sequence[object], without: Tensor, names: Sequence[str]) -> str:
    from PIL import Image

    pictures = [one for one in maps if isinstance(one, Image.Image)]
    return (
        figure(strip(pictures, "the channels of the latent as heat maps"), "channels", "above")
        + figure(_strip(without, "decoded with one channel at its mean"), "decoded without that channel", "above")
        + ticks(names)
    )


def _noisy(seen: LatentLook) -> str:
    clean = psnr(seen.noisy, seen.image.expand_as(seen.noisy)).tolist()
    labels = [f"+ {strength:g}<br><b>{_decibel(value)}</b>" for strength, value in zip(STRENGTHS, clean, strict=True)]
    return (
        "<p>Normal noise of a given standard deviation on latents whose own is about 1. A sampler's last errors look "
        "like this: the less a little noise does, the more a decoder forgives.</p>"
        + _strip(seen.noisy, "decoded from latents with noise")
        + ticks(labels)
    )


def _walk(seen: LatentLook) -> str:
    if seen.walk is None:
        return ""
    straight, arc, pixels = seen.walk
    shares = ticks(f"{k / (FRAMES - 1):.0%}" for k in range(FRAMES))
    return (
        "<p>The same way three times: the straight line between two latents, the arc between them (spherical, which "
        "keeps the length that noise of that size has), and the average of the pixels, a double exposure.</p>"
        + figure(_strip(straight, "the straight line in latents, decoded"), "latents, straight line", "above")
        + figure(_strip(arc, "the arc in latents, decoded"), "latents, arc", "above")
        + figure(_strip(pixels, "the average of the pixels"), "pixels", "above")
        + shares
    )


def _tiles(seen: LatentLook) -> str:
    if seen.tiled is None:
        return ""
    part = seen.tiled
    side = seen.image.shape[-1]
    return (
        f"<p>Decoded in overlapping tiles of {part.tile} pixels instead of {side} at once, this image is off by "
        f"{number(part.largest * 127.5)} of 255 grey levels where it is worst, {number(part.rms * 127.5)} on average "
        "(root of the mean square). Group norms and attention see only their tile; convolutions do not mind.</p>"
    )
