"""Algorithm + network + bookends: images out of noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alphabar.codec import Codec
from alphabar.config import check
from alphabar.diffusion import CFG, Grid, Inpaint, Step, ddim, ddpm, dpmpp_2m, heun
from alphabar.errors import AlphabarError, nearest
from alphabar.models import ProcessConfig
from alphabar.rng import Rng
from alphabar.text import TextEncoder
from alphabar.types import Cond

SamplerName: TypeAlias = Literal["ddpm", "ddim", "heun", "dpmpp-2m"]
Spacing: TypeAlias = Literal["trailing", "leading", "linspace"]
Variance: TypeAlias = Literal["small", "large"]


class Parts(Protocol):
    """What making images needs of a `Model`; Stable Diffusion's `LowMemory` has them too, one in memory at a time."""

    @property
    def settings(self) -> ProcessConfig: ...
    @property
    def size(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def text(self) -> TextEncoder | None: ...
    @property
    def network(self) -> nn.Module: ...
    @property
    def codec(self) -> Codec: ...

    @property
    def extra_channels(self) -> int: ...
    def shape(self, n: int) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class SamplerConfig:
    """Which sampler, and how many steps.

    Args:
        name: ddpm, ddim, heun (two network calls a step) or dpmpp-2m.
        steps: how many timesteps are visited.
        spacing: trailing, leading or linspace.
        eta: DDIM's share of fresh noise, 0..1.
        variance: DDPM's, small or large.
        offset: of leading timesteps; Stable Diffusion's is 1.
    """

    name: SamplerName = "ddpm"
    steps: int = 50
    spacing: Spacing = "trailing"
    eta: float = 0.0
    variance: Variance = "small"
    offset: int = 0

    def __post_init__(self) -> None:
        for what, value, kind in (
            ("sampler", self.name, SamplerName),
            ("spacing", self.spacing, Spacing),
            ("variance", self.variance, Variance),
        ):
            check(value in get_args(kind), f"unknown {what} {value!r}{nearest(value, get_args(kind))}")
        check(0 <= self.eta <= 1, f"eta must lie in 0..1, got {self.eta}")
        check(self.steps > 0, f"steps must be positive, got {self.steps}")

    def grid(self, timesteps: int) -> Grid:
        """The timesteps that are visited."""
        match self.spacing:
            case "trailing":
                return Grid.trailing(self.steps, timesteps)
            case "leading":
                return Grid.leading(self.steps, timesteps, self.offset)
            case "linspace":
                return Grid.linspace(self.steps, timesteps)


@dataclass(frozen=True)
class Guidance:
    """How closely samples follow their condition; see `CFG`.

    Args:
        scale: 1 takes the condition as it is, at one network call a step instead of two.
        rescale: 0..1, against the harsh contrast of large scales.
        interval: the timesteps at which guidance acts; None is all.
    """

    scale: float = 1.0
    rescale: float = 0.0
    interval: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        check(math.isfinite(self.scale), f"guidance must be a finite number, got {self.scale}")
        if self.interval is not None:
            low, high = self.interval
            check(low <= high, f"guidance acts from the lower timestep to the higher: {high} {low}, not {low} {high}")


@dataclass(frozen=True)
class Start:
    """An image to begin from instead of noise alone.

    Args:
        x0: the image in the codec's space, [n or 1, c, h, w]; from `Codec.encode`.
        strength: 0 (excluded)..1, the share of the walk that is done: 1 begins at pure noise and, without a mask,
            forgets the image.
        mask: [n or 1, 1, h, w], 1 where the image is to be made anew and 0 where it is kept; None makes all of it.
        concat: [n or 1, c, h, w], for a network trained to fill in: what it is told of the image instead.
    """

    x0: Tensor
    strength: float = 1.0
    mask: Tensor | None = None
    concat: Tensor | None = None

    def __post_init__(self) -> None:
        check(0 < self.strength <= 1, f"strength must lie in 0..1 (0 excluded), got {self.strength}")


def begin_from(parts: Parts, image: Tensor, strength: float = 1.0, mask: Tensor | None = None, seed: int = 0) -> Start:
    """An image to vary (image-to-image) or, with a mask, to fill in.

    A network with extra channels was trained to fill in: it is shown the mask and the rest of the image. Any other is
    held to the known part by `Inpaint`.

    Args:
        parts: the model.
        image: [1, C, H, W] in [-1, 1], of the model's size.
        strength: see `Start`.
        mask: [1, 1, H, W] of 0 and 1; 1 is made anew.
        seed: of the draw from the autoencoder's posterior.
    """
    extra, whole = parts.extra_channels > 0, image.to(parts.device)

    def encoded(image: Tensor) -> Tensor:
        return parts.codec.encode(image, Rng(seed, [0], "posterior"))

    if mask is None:
        if extra:
            raise AlphabarError("this model was trained to fill in: give it a mask with the image")
        return Start(encoded(whole), strength)
    small = F.adaptive_max_pool2d(mask, parts.shape(1)[2:]).to(parts.device)  # a value that is touched is made anew
    if not extra:
        return Start(encoded(whole), strength, small)
    rest = encoded((image * (mask < 0.5)).to(parts.device))  # grey where it is to be made
    return Start(encoded(whole), strength, None, torch.cat([small, rest], dim=1))


def encode_prompts(parts: Parts, prompts: Sequence[str], negative: str = "") -> tuple[Cond, Cond]:
    """What the network is told of the prompts, and the null condition that guidance moves away from (one row)."""
    text = parts.text
    if text is None:
        raise AlphabarError("this model was trained without words: it takes no prompt")
    return {"text": text.encode(prompts)}, {"text": text.encode([negative])}


def generate(
    parts: Parts,
    indices: Sequence[int],
    sampler: SamplerConfig | None = None,
    *,
    seed: int = 0,
    cond: Cond = None,
    null: Cond = None,
    guidance: Guidance | None = None,
    start: Start | None = None,
) -> Iterator[Step]:
    """Walk some samples from noise to data, yielding every step; `parts.codec.decode(step.x)` shows it.

    Args:
        parts: the model.
        indices: the numbers of the samples; sample k of a seed is the same alone and in any batch.
        sampler: which sampler and how many steps; DDPM on 50 steps where not given.
        seed: the seed of the noise.
        cond, null: conditions, one row per sample, and the null condition, of one row; see `encode_prompts`.
        guidance: how closely the condition is followed; not more than trained where not given.
        start: an image to begin from, or to fill in.
    """
    sampler = sampler or SamplerConfig()
    process = parts.settings.build()
    schedule, clip = process.schedule, parts.settings.clip
    grid = sampler.grid(schedule.timesteps)
    denoise = process.denoiser(parts.network)
    if guidance is not None:
        denoise = CFG(denoise, null, guidance.scale, guidance.rescale, guidance.interval, process)
    if clip is not None:
        denoise = process.clipped(denoise, clip)
    x = Rng(seed, indices, "initial").normal(*parts.shape(len(indices))[1:], device=parts.device)
    if start is not None:
        grid = grid[len(grid) - max(1, round(start.strength * len(grid))) :]
        if start.strength < 1:
            first = torch.full((len(x),), grid.timesteps[0], dtype=torch.int64, device=x.device)
            x = process.noise(start.x0.expand_as(x), x, first)
        if start.mask is not None:
            denoise = Inpaint(denoise, start.x0.expand_as(x), start.mask, process)
        if start.concat is not None:
            cond = {**(cond or {}), "concat": start.concat.expand(len(x), -1, -1, -1)}
    if parts.extra_channels and "concat" not in (cond or {}):
        raise AlphabarError("this model was trained to fill in: give it an image and a mask")
    walk = (denoise, x, grid, schedule, cond)
    match sampler.name:
        case "ddpm":
            return ddpm(*walk, rng=Rng(seed, indices, "sampler"), variance=sampler.variance)
        case "ddim":
            return ddim(*walk, rng=Rng(seed, indices, "sampler"), eta=sampler.eta)
        case "heun":
            return heun(*walk)
        case "dpmpp-2m":
            return dpmpp_2m(*walk)


def sample(
    parts: Parts,
    n: int,
    sampler: SamplerConfig | None = None,
    *,
    seed: int = 0,
    first: int = 0,
    batch_size: int = 64,
    prompts: Sequence[str] | None = None,
    negative: str = "",
    guidance: Guidance | None = None,
    start: Start | None = None,
    on_step: Callable[[], object] | None = None,
) -> Tensor:
    """Images number first..first+n-1 of a seed, [n, C, H, W] float32, clamped to [-1, 1].

    Args:
        parts, sampler, seed, guidance, start: see `generate`.
        n: how many.
        first: the number of the first.
        batch_size: how many at once.
        prompts: what to draw, one for each image.
        negative: what guidance moves away from; "" is the null condition of training.
        on_step: called after each step of each batch, for a progress bar.
    """
    if prompts is not None and len(prompts) != n:
        raise ValueError(f"{n} images need {n} prompts, not {len(prompts)}")
    if prompts is None and parts.text is not None:
        prompts = [""] * n
    if n == 0:
        return torch.empty(0, parts.channels, parts.size, parts.size)
    cond, null = (None, None) if prompts is None else encode_prompts(parts, prompts, negative)
    latents = []
    for begin in range(0, n, batch_size):
        numbers = range(first + begin, first + min(begin + batch_size, n))
        told = None if cond is None else {key: rows[begin : begin + batch_size] for key, rows in cond.items()}
        x = torch.empty(0)
        for step in generate(parts, numbers, sampler, seed=seed, cond=told, null=null, guidance=guidance, start=start):
            x = step.x
            if on_step is not None:
                on_step()
        latents.append(x)
    codec = parts.codec  # asked for once, after all walks: `LowMemory` reads each part once
    return torch.cat([codec.decode(x).clamp(-1, 1).cpu() for x in latents])
