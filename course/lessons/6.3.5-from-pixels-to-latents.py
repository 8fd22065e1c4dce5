"""What lesson 6.3.5 computes and draws. The page's `{compute}` sees the public names; `{drawing}` calls the functions.

Orange is diffusion on pixels, blue diffusion on latents, green the codec, in every drawing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cache
from math import prod, sqrt
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from alphabar.codec import LatentCodec
from alphabar.course.drawing import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    WIDTH,
    Panel,
    arrow,
    box,
    dot,
    line,
    picture,
    row,
    rows,
    side_of,
    svg,
    text,
)
from alphabar.data import Dataset, fallback_dataset, open_dataset, read_image, to_unit
from alphabar.diffusion import Grid, Step, ddim
from alphabar.essence import listings
from alphabar.evaluate import LatentShare, SpaceCosts, count_spaces, latent_share, mean_latents, psnr
from alphabar.evaluate.cost import count_denoiser
from alphabar.generate import Guidance, SamplerConfig, encode_prompts, generate
from alphabar.models import Model, load_autoencoder, load_model, read_card
from alphabar.nn import DenseAutoencoderConfig, build
from alphabar.report.grid import heat_map
from alphabar.report.html import si
from alphabar.report.sections import diff_rows
from alphabar.rng import Rng
from alphabar.stable_diffusion import sd15
from alphabar.train import load_recipe
from alphabar.types import Cond, Estimate

__all__ = ["psnr", "read_card", "si"]  # what the page uses of the library
STEPS, GUIDED = 1000, 50  # calls in the ancestral loop, and steps of a guided image
LOOK = 20  # steps of the walks that are drawn


# what is at hand


@cache
def _images(split: str = "test") -> Dataset:
    return open_dataset(fallback_dataset(), split, size=28, channels=1)


@cache
def originals(n: int = 256) -> Tensor:
    """The first test images, [n, 1, 28, 28] in [-1, 1]."""
    return to_unit(_images().rows(range(n)))


@cache
def latent_model() -> Model:
    """The shipped diffusion on latents, beside the autoencoder that it was trained on."""
    return load_model("fashion-latent")


def codec(model: Model | None = None) -> LatentCodec:
    """A latent model's bookends."""
    found = (model or latent_model()).codec
    assert isinstance(found, LatentCodec)
    return found


@cache
def emoji() -> Model:
    """The shipped diffusion on latents that is told words."""
    return load_model("emoji")


# sizes and costs


@cache
def costs() -> SpaceCosts:
    """Stable Diffusion 1.5 at 512x512, on pixels and on latents, counted from shapes."""
    config = sd15()
    return count_spaces(config.unet, config.vae, config.text, 512, 3, config.text.length)


def ratio(what: str) -> float:
    """How many times as much a call on pixels takes: flops, values or peak_bytes."""
    return float(getattr(costs().pixels, what) / getattr(costs().latents, what))


def without_attention() -> float:
    """The same for FLOPs, attention left out."""
    pixels, latents = costs().pixels, costs().latents
    return (pixels.flops - pixels.attention_flops) / (latents.flops - latents.attention_flops)


def image_flops(space: str, steps: int = GUIDED) -> int:
    """A guided image: two calls a step, two readings of words, and on latents one decoding."""
    calls = 2 * steps * getattr(costs(), space).flops + 2 * costs().text.flops
    return int(calls + (costs().decode.flops if space == "latents" else 0))


@cache
def pixel_call(size: int = 28) -> int:
    """FLOPs of one call of the shipped network on pixels."""
    return count_denoiser(load_model("fashion-pixel").network.config, (1, size, size)).flops


# what was measured when the weights were made


@cache
def quality() -> dict[str, dict[str, float]]:
    """The repository's measured distances."""
    file = Path(__file__).resolve().parents[2] / "benchmarks" / "quality.json"
    found: dict[str, dict[str, float]] = json.loads(file.read_text(encoding="utf-8"))
    return found


MINUTES = (1.25, 2.5, 5, 30)


def _scores(road: str, minutes: float) -> list[float]:
    return [value for key, value in quality()["time"].items() if key.startswith(f"{road}-{minutes:g}min-")]


def distance(road: str, minutes: float) -> float:
    """The mean Fréchet distance of a road's images after some minutes of training, over its seeds."""
    scores = _scores(road, minutes)
    return sum(scores) / len(scores)


def seeds(road: str, minutes: float) -> int:
    """How many runs that is."""
    return len(_scores(road, minutes))


def spread(road: str, minutes: float) -> float:
    """How far apart the seeds are, as a share of their mean."""
    scores = _scores(road, minutes)
    return (max(scores) - min(scores)) / distance(road, minutes)


def metric(name: str, key: str) -> float:
    """A measure from the card of shipped weights."""
    return float(read_card(name)["metrics"][key])


# the autoencoders


class Toy(NamedTuple):
    """A VAE as in Module 6.1, trained here: what comes back of images, and what it draws by itself."""

    back: Tensor
    drawn: Tensor


TOY_STEPS, TOY_BATCH = 400, 64


@cache
def toy() -> Toy:
    """The recipe `dense-vae` for a few hundred steps."""
    recipe = load_recipe("dense-vae")
    assert isinstance(recipe.network, DenseAutoencoderConfig)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = build(recipe.network)
    optimizer, draws = torch.optim.Adam(vae.parameters(), 2e-3), torch.Generator().manual_seed(0)
    for _ in range(TOY_STEPS):
        rows = torch.randint(len(_images("train")), (TOY_BATCH,), generator=draws)
        x = to_unit(_images("train").rows(rows))
        out, posterior = vae(x, torch.randn(TOY_BATCH, recipe.network.latent_dim, generator=draws))
        loss = (out - x).square().flatten(1).mean(dim=1) + recipe.loss.kl_weight * posterior.kl() / x[0].numel()
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    with torch.no_grad():
        x = originals()
        back = vae.decode(vae.posterior(x).mean)
        return Toy(back, vae.decode(torch.randn(64, recipe.network.latent_dim, generator=draws)))


@cache
def rebuilt() -> Tensor:
    """The test images through the shipped codec and back."""
    return codec().decode(mean_latents(codec(), originals())).clamp(-1, 1)


def detail(images: Tensor) -> float:
    """The energy of an image's Laplacian, its finest detail, as a share of that of the originals."""
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]).view(1, 1, 3, 3)
    energy = [float(F.conv2d(one, kernel).square().mean()) for one in (images, originals())]
    return energy[0] / energy[1]


@cache
def share() -> LatentShare:
    """How much of a picture each latent channel is."""
    return latent_share(codec(), originals(64))


def kl_weight(recipe: str) -> float:
    """How much a recipe's autoencoder is pressed towards N(0, 1)."""
    return load_recipe(recipe).loss.kl_weight


class Photograph(NamedTuple):
    """A photograph through the emoji codec, which saw drawings only; both [1, 3, 512, 512]."""

    before: Tensor
    after: Tensor


@cache
def photograph() -> Photograph:
    """Matplotlib's sample photograph."""
    import matplotlib

    file = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    image, bookends = read_image(file, 512, 3), codec(emoji())
    return Photograph(image, bookends.decode(mean_latents(bookends, image)).clamp(-1, 1))


def photograph_values() -> int:
    """How many numbers its latent has."""
    return prod(codec(emoji()).shape(1, 512, 512))


def photograph_psnr() -> float:
    """In dB."""
    return float(psnr(photograph().after, photograph().before))


# the two listings, and the codec frozen or not


def differing() -> tuple[int, int]:
    """How many lines of the essence's two listings differ, and of how many."""
    rows = diff_rows(*(text.splitlines() for text in listings()))
    return sum(one != other for one, other in rows), len(rows)


def hash_before() -> str:
    """Of the autoencoder as it was left by its own training."""
    return load_autoencoder("fashion-vae").fingerprint


def hash_after() -> str:
    """Of the codec that the trained denoiser carries."""
    return codec().fingerprint


class Moved(NamedTuple):
    """Training steps with the diffusion loss, the encoder free or frozen; quality in dB, every fifth step."""

    losses: list[float]
    quality: list[float]
    pictures: list[Tensor]
    """One image through encoder and decoder at those same steps, [1, 1, 28, 28]."""


MOVED_STEPS, EVERY, JUDGED = 40, 5, 32


@cache
def moved(free: bool) -> Moved:
    """The essence's training step on the shipped model, with the encoder's gradients on or off."""
    model = load_model("fashion-latent")
    bookends, network = codec(model), model.network.train().requires_grad_(True)
    weights = list(network.parameters())
    if free:
        weights += bookends.autoencoder.encoder.requires_grad_(True).parameters()
    optimizer = torch.optim.Adam(weights, 5e-4)
    seen, judged = Moved([], [], []), originals()[:JUDGED]

    def judge() -> None:
        with torch.no_grad():
            back = bookends.decode(mean_latents(bookends, judged)).clamp(-1, 1)
        seen.quality.append(float(psnr(back, judged).mean()))
        seen.pictures.append(back[1:2])

    judge()
    for step in range(MOVED_STEPS):
        rows = range(16 * step, 16 * step + 16)
        rng = Rng(0, rows, "train")
        x0 = bookends.draw(bookends.autoencoder.moments(to_unit(_images("train").rows(rows))), rng)
        t, eps = rng.integers(model.process.schedule.timesteps), rng.normal(*x0.shape[1:])
        loss = model.process.loss(network, x0, t, eps).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.losses.append(loss.item())
        if (step + 1) % EVERY == 0:
            judge()
    return seen


def late_loss(free: bool) -> float:
    """The mean loss of the last ten steps."""
    return sum(moved(free).losses[-10:]) / 10


# with order and without


def _stirring() -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(0)
    return torch.randn(128, 128, generator=draws).double() * 30, torch.randn(128, 128, generator=draws).double() * 30


def stir(z: Tensor) -> Tensor:
    """Latents [N, 4, 8, 8] -> [N, 256]: each half shifted by a steep function of the other. It can be undone."""
    (first, second), (a, b) = _stirring(), z.flatten(1).double().chunk(2, dim=1)
    b = b + torch.sin(a @ first)
    return torch.cat([a + torch.sin(b @ second), b], dim=1)


def unstir(y: Tensor) -> Tensor:
    """The way back."""
    (first, second), (a, b) = _stirring(), y.chunk(2, dim=1)
    a = a - torch.sin(b @ second)
    return torch.cat([a, b - torch.sin(a @ first)], dim=1).float().view(-1, 4, 8, 8)


NUDGE = 0.05


@cache
def two_ends() -> tuple[Tensor, Tensor]:
    """The latents of a pullover and a boot."""
    z = mean_latents(codec(), originals()[:2])
    return z[1:2], z[0:1]


def nudged(stirred: bool, n: int = 4) -> Tensor:
    """One image after small random steps from its latent, decoded, [n, 1, 28, 28]."""
    z, draws = two_ends()[0], torch.Generator().manual_seed(1)
    noise = NUDGE * torch.randn(n, 256, generator=draws)
    if stirred:
        return codec().decode(unstir(stir(z) + noise.double()))
    return codec().decode(z + noise.view(n, 4, 8, 8))


def nudge_psnr(stirred: bool) -> float:
    """How near the decoded image stays, in dB."""
    start = codec().decode(two_ends()[0]).clamp(-1, 1)
    after = nudged(stirred, 64).clamp(-1, 1)
    return float(psnr(after, start.expand_as(after)).mean())


def stirred_error() -> float:
    """The largest difference that stirring and its undoing leave in any latent."""
    z = mean_latents(codec(), originals())
    return float((unstir(stir(z)) - z).abs().max())


# two denoisers under one codec


FITTED = 2000


@cache
def _gaussian() -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variances and axes of the latents of training images."""
    z = mean_latents(codec(), to_unit(_images("train").rows(range(FITTED)))).flatten(1).double()
    return z.mean(dim=0), *torch.linalg.eigh(torch.cov(z.T))


def gaussian_denoiser(x: Tensor, t: Tensor, cond: Cond = None) -> Estimate:
    """The exact denoiser for latents that were normally distributed: no network, no training."""
    mean, variance, axes = _gaussian()
    alpha, sigma = latent_model().process.schedule.gather(t, x)
    a, s = alpha.flatten(1).double(), sigma.flatten(1).double()
    along = (x.flatten(1).double() - a * mean) @ axes
    x0 = (mean + (along * a * variance / (a**2 * variance + s**2)) @ axes.T).float().view_as(x)
    return Estimate(x0, (x - alpha * x0) / sigma)


@cache
def under_one_codec() -> tuple[Tensor, Tensor]:
    """Images from the same noise, by the Gaussian denoiser and by the U-Net, [8, 1, 28, 28] each."""
    model = latent_model()
    x = Rng(1, range(8), "initial").normal(*model.shape(8)[1:])
    out = []
    for denoise in (gaussian_denoiser, model.denoiser()):
        *_, last = ddim(denoise, x, Grid.trailing(LOOK), model.process.schedule)
        out.append(model.codec.decode(last.x))
    return out[0], out[1]


# drawing

PIXELS, LATENTS, CODEC = ORANGE, BLUE, GREEN


def _heat(channel: Tensor) -> Image.Image:
    return heat_map(channel, -3, 3)  # latents have unit scale


def two_vaes() -> str:
    """Images, what two autoencoders give back, and what each draws by itself."""
    n, noise = 8, Rng(0, range(8), "prior").normal(*latent_model().shape(1)[1:])
    return rows(
        [
            ("images", originals()[:n].unbind(), INK),
            ("VAE of Module 6.1, 32 numbers: back", toy().back[:n].unbind(), INK),
            ("… drawn from its own prior", toy().drawn[:n].unbind(), GREY),
            ("this lesson’s, 4×8×8 numbers: back", rebuilt()[:n].unbind(), CODEC),
            ("… drawn from its own prior", codec().decode(noise).unbind(), GREY),
        ]
    )


def _loop(x: float, y: float, width: float, height: float, colour: str) -> str:
    """The box of the diffusion loop."""
    words = ("noise", "network", "step")
    lines = (
        text(x + width / 2, y + height / 2 + 5 + 19 * (k - 1), word, INK, "middle") for k, word in enumerate(words)
    )
    return box(x, y, width, height, colour) + "".join(lines)


def two_pipelines() -> str:
    """Both roads above each other; the middle is the same."""
    made = walk()[-1].image
    big, small, top, low = 84.0, 84 / 8, 34.0, 188.0
    middle, width = 190.0, 100.0
    z = _heat(walk()[-1].latents[0])
    parts = [
        box(middle - 14, 0, width + 28, low + big + 28, INK, 0.06, 0, 8),
        text(middle + width / 2, 18, "the same code", INK, "middle", "font-weight:600"),
        text(0, 18, "pixel diffusion", PIXELS, more="font-weight:600"),
        text(0, low - 16, "latent diffusion", LATENTS, more="font-weight:600"),
        _loop(middle, top, width, big, PIXELS),
        _loop(middle, low, width, big, LATENTS),
        arrow(big + 6, top + big / 2, middle - 6, top + big / 2),
        arrow(middle + width + 6, top + big / 2, WIDTH - big - 6, top + big / 2),
    ]
    for x in (0.0, WIDTH - big):
        parts += [picture(made, x, y, big) for y in (top, low)]
    for left, inwards in ((big + 8, True), (WIDTH - big - 52, False)):
        parts.append(_funnel(left, low, 44, big, inwards))
        parts.append(text(left + 22, low + big + 20, "encode" if inwards else "decode", CODEC, "middle"))
    for x in (big + 58, WIDTH - big - 58 - small):
        parts.append(picture(z, x, low + (big - small) / 2, small))
    parts.append(arrow(big + 58 + small + 3, low + big / 2, middle - 3, low + big / 2))
    parts.append(arrow(middle + width + 3, low + big / 2, WIDTH - big - 58 - small - 3, low + big / 2))
    return svg(low + big + 28, parts)


def _funnel(x: float, y: float, width: float, height: float, inwards: bool) -> str:
    wide, narrow = height * 0.42, height * 0.12
    left, right = (wide, narrow) if inwards else (narrow, wide)
    middle = y + height / 2
    data = f"M{x} {middle - left:.1f}L{x + width} {middle - right:.1f}V{middle + right:.1f}L{x} {middle + left:.1f}Z"
    return f'<path d="{data}" fill-opacity="0.14" stroke-width="1.5" style="fill:{CODEC};stroke:{CODEC}"/>'


def channels() -> str:
    """Two images, their four channels, three of them taken for colours, and the decoded image."""
    x = originals()[[0, 2]]
    z = mean_latents(codec(), x)
    side = side_of(7)
    heads = ["image", "0", "1", "2", "3", "as RGB", "decoded"]
    parts = [text(k * (side + 4) + side / 2, 13, head, GREY, "middle") for k, head in enumerate(heads)]
    for k, (image, latent, back) in enumerate(zip(x, z, codec().decode(z), strict=True)):
        cells, y = [image, *map(_heat, latent), latent[:3] / 2, back], 20 + k * (side + 4)
        parts += [picture(cell, column * (side + 4), y, side) for column, cell in enumerate(cells)]
    return svg(20 + 2 * (side + 4) - 4, parts)


def moving() -> str:
    """The diffusion loss and the reconstruction's quality, with the encoder frozen and with it free."""
    free, frozen = moved(True), moved(False)
    loss = Panel(30, 44, 196, 120, (0, MOVED_STEPS), (0, 0.8))
    decibels = Panel(272, 44, 196, 120, (0, MOVED_STEPS), (0, 32))
    parts = [text(0, 13, "diffusion loss", INK), text(242, 13, "reconstruction, dB", INK)]
    for panel, high, steps, kept, lost in (
        (loss, 0.8, range(WINDOW, MOVED_STEPS + 1), _smooth(frozen.losses), _smooth(free.losses)),
        (decibels, 32, range(0, MOVED_STEPS + 1, EVERY), frozen.quality, free.quality),
    ):
        parts += [
            panel.up([0, high / 2, high]),
            panel.across([0, MOVED_STEPS / 2, MOVED_STEPS], "steps of training"),
            panel.line(steps, kept, LATENTS),
            panel.line(steps, lost, PIXELS),
            panel.label(MOVED_STEPS, kept[-1] + 0.06 * high, "frozen", LATENTS, "end"),
            panel.label(steps[0], lost[len(lost) // 2] - 0.2 * high, "free to move", PIXELS),
        ]
    shown = free.pictures[::2]
    parts.append(row(212, "one image through the moving codec", [one[0] for one in shown], PIXELS))
    return svg(232 + side_of(len(shown)), parts)


WINDOW = 8


def _smooth(values: Sequence[float]) -> list[float]:
    """The running mean of the last `WINDOW` values, from where there are so many."""
    return [sum(values[k - WINDOW : k]) / WINDOW for k in range(WINDOW, len(values) + 1)]


class Moment(NamedTuple):
    """A place on a walk: t, the latents [c, h, w] and what the decoder makes of them and of the estimate."""

    t: int
    latents: Tensor
    image: Tensor
    estimate: Tensor


def _moments(model: Model, steps: Iterable[Step]) -> tuple[Moment, ...]:
    decoded = ((step, model.codec.decode(torch.cat([step.x, step.estimate.x0]))) for step in steps)
    return tuple(Moment(max(step.s, 0), step.x[0], *images) for step, images in decoded)


@cache
def walk() -> tuple[Moment, ...]:
    """A walk of the essence's loop in latents, from noise to an image."""
    model = latent_model()
    x = Rng(1, [3], "initial").normal(*model.shape(1)[1:])
    return _moments(model, ddim(model.denoiser(), x, Grid.trailing(LOOK), model.process.schedule))


def walking() -> str:
    """The walk: a channel of the latents, the latents decoded, and the estimate decoded."""
    shown = [walk()[k] for k in (0, 4, 8, 11, 14, 16, 19)]
    times = [f"t = {moment.t}" for moment in shown[:-1]] + ["end"]
    return rows(
        [
            ("one channel of the latents on their way", [_heat(one.latents[0]) for one in shown], LATENTS),
            ("the latents, decoded", [one.image for one in shown], CODEC),
            ("what the network expects at the end, decoded", [one.estimate for one in shown], CODEC),
        ],
        under=times,
    )


def areas() -> str:
    """Values, memory and FLOPs of one call: on latents as a share of the area on pixels."""
    side, parts = 142.0, []
    for k, (name, what) in enumerate((("values", "values"), ("memory", "peak_bytes"), ("FLOPs", "flops"))):
        x, times = 1 + k * 168.0, ratio(what)
        inner = side / sqrt(times)
        parts += [
            box(x, 22, side, side, PIXELS, 0.16, 1),
            box(x, 22 + side - inner, inner, inner, LATENTS, 1, 0, 0),
            text(x, 13, name, INK),
            text(x + side, 13, f"{times:.0f} : 1", INK, "end"),
        ]
    key = [
        text(0, 22 + side + 20, "one call on 512×512 pixels", PIXELS),
        text(248, 22 + side + 20, "on its latents", LATENTS),
    ]
    return svg(22 + side + 26, [*parts, *key])


def order() -> str:
    """The way between two images with order and without, and small steps from one."""
    a, b = two_ends()
    weights = [k / 7 for k in range(8)]
    straight = codec().decode(torch.cat([torch.lerp(a, b, w) for w in weights]))
    without = codec().decode(unstir(torch.cat([torch.lerp(stir(a), stir(b), w) for w in weights])))
    near = [*nudged(False), *nudged(True)]
    return rows(
        [
            ("with order: the line between two latents, decoded", straight.unbind(), LATENTS),
            ("stirred: the line between the same two", without.unbind(), PIXELS),
            ("small steps from the first image: four with order, four stirred", near, GREY),
        ]
    )


def one_codec() -> str:
    """The same noise under two denoisers, decoded by the same codec."""
    gaussian, network = under_one_codec()
    return rows(
        [
            ("denoiser: a mean and a covariance, fitted", gaussian.unbind(), GREY),
            ("denoiser: the U-Net, trained", network.unbind(), LATENTS),
        ]
    )


def photographs() -> str:
    """The photograph and what the emoji codec gives back, whole and a part of it."""
    side = (WIDTH - 8) / 2
    parts = [text(0, 13, "a photograph, 512×512", INK), text(side + 8, 13, "through the emoji codec", CODEC)]
    for k, image in enumerate(photograph()):
        whole = F.interpolate(image, size=320, mode="area")[0]
        parts.append(picture(whole, k * (side + 8), 20, side, jpeg=True))
    return svg(20 + side, parts)


def at_equal_compute() -> str:
    """Fréchet distance of both roads after equal training times, and the codec's own."""
    panel = Panel(42, 26, 316, 170, (MINUTES[0], MINUTES[-1]), (0.2, 8), log=True)
    parts = [
        text(0, 13, "distance to real images", INK),
        panel.up([0.25, 0.5, 1, 2, 4, 8]),
        panel.across(MINUTES, "minutes of training, the codec’s included"),
    ]
    for road, colour, down in (("pixel", PIXELS, -5), ("latent", LATENTS, 16)):
        means = [distance(road, minutes) for minutes in MINUTES]
        parts.append(panel.line(MINUTES, means, colour))
        for minutes, mean in zip(MINUTES, means, strict=True):
            seen = _scores(road, minutes)
            parts.append(panel.line([minutes] * 2, [min(seen), max(seen)], colour, 5, 'stroke-opacity="0.4"'))
            parts.append(dot(panel.x(minutes), panel.y(mean), colour))
        parts.append(text(366, panel.y(means[-1]) + down, f"{road}s {means[-1]:.2f}", colour))
    floor = metric("fashion-vae", "frechet_reconstructions")
    parts.append(panel.line((MINUTES[0], MINUTES[-1]), [floor] * 2, CODEC, 2, 'stroke-dasharray="6 4"'))
    parts.append(text(366, panel.y(floor) + 5, "codec alone", CODEC))
    return svg(238, parts)


PROMPT, SCALE = "blue teapot", 2.0


@cache
def prompted() -> tuple[Tensor, tuple[Moment, ...]]:
    """The first noise [4, 8, 8] and the walk of a prompt through the emoji model."""
    model = emoji()
    cond, null = encode_prompts(model, [PROMPT])
    sampler = SamplerConfig("dpmpp-2m", LOOK)
    steps = generate(model, [1], sampler, cond=cond, null=null, guidance=Guidance(SCALE))
    return Rng(0, [1], "initial").normal(*model.shape(1)[1:])[0], _moments(model, steps)


def whole_picture() -> str:
    """A prompt through text tower, loop and decoder, with what the emoji model makes of it."""
    noise, moments = prompted()
    told = encode_prompts(emoji(), [PROMPT])[0]["text"][0]
    last, x = moments[-1], 150.0
    centre = x + 90
    parts = [
        text(centre, 15, f"“{PROMPT}”", INK, "middle", "font-weight:600"),
        arrow(centre, 22, centre, 40),
        box(x, 42, 180, 30, GREY),
        text(centre, 62, "CLIP’s text tower", INK, "middle"),
        text(x + 190, 62, f"{len(told)} tokens × {told.shape[1]}"),
        arrow(centre, 72, centre, 104),
        text(centre + 8, 94, "with words, and with none"),
        box(x - 24, 106, 228, 156, LATENTS, 0.07),
        text(x - 14, 124, f"the loop, {LOOK} times", LATENTS),
        box(x, 134, 180, 30, LATENTS),
        text(centre, 154, "U-Net at time t", INK, "middle"),
        arrow(centre, 164, centre, 178),
        box(x, 180, 180, 30, LATENTS),
        text(centre, 200, "guidance", INK, "middle"),
        arrow(centre, 210, centre, 224),
        box(x, 226, 180, 28, LATENTS),
        text(centre, 245, "the sampler’s step", INK, "middle"),
        line([(x + 180, 240), (x + 194, 240), (x + 194, 149)]),
        arrow(x + 194, 149, x + 182, 149),
        picture(_heat(noise[0]), 20, 113, 72),
        text(56, 202, "noise,", LATENTS, "middle"),
        text(56, 220, "4×8×8", LATENTS, "middle"),
        arrow(96, 149, x - 2, 149, LATENTS),
        arrow(centre, 262, centre, 284),
        picture(_heat(last.latents[0]), centre - 36, 286, 72),
        text(centre + 44, 320, "clean latents,", LATENTS),
        text(centre + 44, 338, "4×8×8", LATENTS),
        arrow(centre, 360, centre, 378),
        box(x, 380, 180, 30, CODEC),
        text(centre, 400, "decoder, once", INK, "middle"),
        arrow(centre, 410, centre, 428),
        picture(last.image, centre - 48, 430, 96),
        text(centre + 56, 484, "64×64 pixels", INK),
    ]
    return svg(528, parts)
