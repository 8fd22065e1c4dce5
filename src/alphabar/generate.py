"""Algorithm + network + bookends: images out of noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from alphabar.config import check
from alphabar.diffusion import Grid, Step, ddim, ddpm, dpmpp_2m, heun
from alphabar.errors import nearest
from alphabar.models import Model
from alphabar.rng import Rng
from alphabar.types import Cond

SamplerName: TypeAlias = Literal["ddpm", "ddim", "heun", "dpmpp-2m"]
Spacing: TypeAlias = Literal["trailing", "leading", "linspace"]
Variance: TypeAlias = Literal["small", "large"]

SPACINGS: dict[str, Callable[[int, int], Grid]] = {
    "trailing": Grid.trailing,
    "leading": Grid.leading,
    "linspace": Grid.linspace,
}


@dataclass(frozen=True)
class SamplerConfig:
    """Which sampler, and how many steps.

    Args:
        name: ddpm, ddim, heun (two network calls a step) or dpmpp-2m.
        steps: how many timesteps are visited.
        spacing: trailing, leading or linspace.
        eta: DDIM's share of fresh noise, 0..1.
        variance: DDPM's, small or large.
    """

    name: SamplerName = "ddpm"
    steps: int = 50
    spacing: Spacing = "trailing"
    eta: float = 0.0
    variance: Variance = "small"

    def __post_init__(self) -> None:
        for what, value, kind in (
            ("sampler", self.name, SamplerName),
            ("spacing", self.spacing, Spacing),
            ("variance", self.variance, Variance),
        ):
            check(value in get_args(kind), f"unknown {what} {value!r}{nearest(value, get_args(kind))}")
        check(0 <= self.eta <= 1, f"eta must lie in 0..1, got {self.eta}")
        check(self.steps > 0, f"steps must be positive, got {self.steps}")


def generate(
    model: Model,
    indices: Sequence[int],
    sampler: SamplerConfig | None = None,
    *,
    seed: int = 0,
    cond: Cond = None,
) -> Iterator[Step]:
    """Walk some samples from noise to data, yielding every step; `model.codec.decode(step.x)` shows it.

    Args:
        model: the model.
        indices: the numbers of the samples; sample k of a seed is the same alone and in any batch.
        sampler: which sampler and how many steps; DDPM on 50 steps where not given.
        seed: the seed of the noise.
        cond: conditions, one row per sample.
    """
    sampler = sampler or SamplerConfig()
    schedule = model.process.schedule
    grid = SPACINGS[sampler.spacing](sampler.steps, schedule.timesteps)
    shape = model.codec.shape(len(indices), model.size, model.size)
    x = Rng(seed, indices, "initial").normal(*shape[1:], device=model.device)
    walk = (model.denoiser(), x, grid, schedule, cond)
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
    model: Model,
    n: int,
    sampler: SamplerConfig | None = None,
    *,
    seed: int = 0,
    first: int = 0,
    batch_size: int = 64,
    on_step: Callable[[], object] | None = None,
) -> Tensor:
    """Images number first..first+n-1 of a seed, [n, C, H, W] float32, clamped to [-1, 1].

    Args:
        model, sampler, seed: see `generate`.
        n: how many.
        first: the number of the first.
        batch_size: how many at once.
        on_step: called after each step of each batch, for a progress bar.
    """
    images = [torch.empty(0, model.channels, model.size, model.size)]
    for start in range(first, first + n, batch_size):
        x = torch.empty(0)
        for step in generate(model, range(start, min(start + batch_size, first + n)), sampler, seed=seed):
            x = step.x
            if on_step is not None:
                on_step()
        images.append(model.codec.decode(x).clamp(-1, 1).cpu())
    return torch.cat(images)
