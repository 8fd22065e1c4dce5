"""Samplers: generators over explicit (t, s) pairs that yield every step. No hidden state, nothing to reset.

Each takes a `Denoiser`, the starting noise x [N, ...], a `Grid` of timesteps and a `NoiseSchedule`, walks from the
noisiest timestep to `CLEAN`, and yields a `Step` per pair. The last step's x is the sample.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from alphabar.diffusion.schedule import CLEAN, NoiseSchedule
from alphabar.errors import AlphabarError
from alphabar.rng import Rng
from alphabar.types import Cond, Denoiser, Estimate

LEAST_SIGNAL = 0.01
"""Heun's correction needs at least this sqrt(alpha-bar)."""


class Step(NamedTuple):
    """One step of a sampler: from timestep t to s, with the estimate made at t and x at s."""

    t: int
    s: int
    x: Tensor
    estimate: Estimate


@dataclass(frozen=True)
class Grid:
    """The timesteps a sampler visits: strictly decreasing, within 0..T-1, followed by `CLEAN`.

    The spacings are those of arXiv:2305.08891, table 2; only `trailing` and `linspace` start at T - 1.
    """

    timesteps: tuple[int, ...]

    def __post_init__(self) -> None:
        steps = self.timesteps
        if not steps or steps[-1] < 0 or any(t <= s for t, s in itertools.pairwise(steps)):
            raise AlphabarError(f"a grid must fall strictly and end at 0 or above, got {_shorten(steps)}")

    @classmethod
    def leading(cls, n: int, timesteps: int = 1000, offset: int = 0) -> Grid:
        """0, k, 2k, ... with k = T // n, plus `offset` (1 in Stable Diffusion), in reverse."""
        _check_count(n, timesteps)
        first = (n - 1) * (timesteps // n) + offset
        if first >= timesteps:
            raise AlphabarError(
                f"{n} leading steps with offset {offset} would start at timestep {first} of {timesteps}"
            )
        return cls(tuple(i * (timesteps // n) + offset for i in reversed(range(n))))

    @classmethod
    def trailing(cls, n: int, timesteps: int = 1000) -> Grid:
        """T - 1, T - 1 - k, ... with k = T / n, rounded at each place: starts where sampling starts."""
        _check_count(n, timesteps)
        return cls(tuple(round(timesteps - i * timesteps / n) - 1 for i in range(n)))

    @classmethod
    def linspace(cls, n: int, timesteps: int = 1000) -> Grid:
        """From T - 1 to 0, both included, evenly."""
        _check_count(n, timesteps)
        if n == 1:
            return cls((timesteps - 1,))
        return cls(tuple(round((timesteps - 1) * (n - 1 - i) / (n - 1)) for i in range(n)))

    @classmethod
    def full(cls, timesteps: int = 1000) -> Grid:
        """Every timestep: DDPM as published."""
        return cls(tuple(range(timesteps - 1, -1, -1)))

    def pairs(self) -> list[tuple[int, int]]:
        """(t, s) of each step; the last s is `CLEAN`."""
        return list(zip(self.timesteps, (*self.timesteps[1:], CLEAN), strict=True))

    def __len__(self) -> int:
        return len(self.timesteps)

    def __getitem__(self, k: slice) -> Grid:
        """A part of the grid, such as `grid[20:]` for starting from a half-noised image."""
        return Grid(self.timesteps[k])


def _check_count(n: int, timesteps: int) -> None:
    if not 1 <= n <= timesteps:
        raise AlphabarError(f"a grid needs 1..{timesteps} steps, got {n}")


def _shorten(steps: Sequence[int]) -> str:
    return str(list(steps)) if len(steps) <= 8 else f"[{', '.join(map(str, steps[:8]))}, ...]"


def _ask(denoise: Denoiser, x: Tensor, t: int, cond: Cond) -> Estimate:
    return denoise(x, torch.full((len(x),), t, dtype=torch.int64, device=x.device), cond)


def _fresh(rng: Rng, x: Tensor) -> Tensor:
    return rng.normal(*x.shape[1:], device=x.device).to(x.dtype)


@torch.no_grad()
def ddpm(
    denoise: Denoiser,
    x: Tensor,
    grid: Grid,
    schedule: NoiseSchedule,
    cond: Cond = None,
    *,
    rng: Rng,
    variance: str = "small",
) -> Iterator[Step]:
    """Ancestral sampling: draw x_s from the posterior q(x_s | x_t, x0) at the estimated x0 (DDPM, eq. 6 and 7).

    Args:
        denoise, x, grid, schedule, cond: see the module.
        rng: one stream per sample, the source of the fresh noise; none is used on the last step.
        variance: "small" is the posterior's, exact for a one-point data set; "large" is beta of the step, exact for
            N(0, 1) data (DDPM, section 3.2).
    """
    if variance not in ("small", "large"):
        raise AlphabarError(f"variance must be 'small' or 'large', got {variance!r}")
    for t, s in grid.pairs():
        estimate = _ask(denoise, x, t, cond)
        bar_t, bar_s = schedule.alpha_bar(t), schedule.alpha_bar(s)
        beta = 1 - bar_t / bar_s  # of the whole stride from s to t
        x = math.sqrt(bar_s) * beta / (1 - bar_t) * estimate.x0 + math.sqrt(1 - beta) * (1 - bar_s) / (1 - bar_t) * x
        if s != CLEAN:
            noise_variance = beta * (1 - bar_s) / (1 - bar_t) if variance == "small" else beta
            x = x + math.sqrt(noise_variance) * _fresh(rng, x)
        yield Step(t, s, x, estimate)


@torch.no_grad()
def ddim(
    denoise: Denoiser,
    x: Tensor,
    grid: Grid,
    schedule: NoiseSchedule,
    cond: Cond = None,
    *,
    rng: Rng | None = None,
    eta: float = 0.0,
) -> Iterator[Step]:
    """DDIM (arXiv:2010.02502, eq. 12 and 16): deterministic at eta = 0, DDPM with the small variance at eta = 1.

    Args:
        denoise, x, grid, schedule, cond: see the module.
        rng: one stream per sample; needed only where eta > 0.
        eta: 0..1, the share of fresh noise.
    """
    if not 0 <= eta <= 1:
        raise AlphabarError(f"eta must lie in 0..1, got {eta}")
    if eta > 0 and rng is None:
        raise AlphabarError("ddim with eta > 0 draws noise and needs an rng")
    for t, s in grid.pairs():
        estimate = _ask(denoise, x, t, cond)
        bar_t, bar_s = schedule.alpha_bar(t), schedule.alpha_bar(s)
        fresh = eta * math.sqrt((1 - bar_s) / (1 - bar_t) * (1 - bar_t / bar_s))
        x = math.sqrt(bar_s) * estimate.x0 + math.sqrt(max(0.0, 1 - bar_s - fresh**2)) * estimate.eps
        if rng is not None and fresh > 0:
            x = x + fresh * _fresh(rng, x)
        yield Step(t, s, x, estimate)


@torch.no_grad()
def heun(denoise: Denoiser, x: Tensor, grid: Grid, schedule: NoiseSchedule, cond: Cond = None) -> Iterator[Step]:
    """Heun's second-order method on the probability-flow ODE (EDM, arXiv:2206.00364, algorithm 1): two calls a step.

    In x / alpha and sigma / alpha the ODE is dx = eps d(sigma), and DDIM is its Euler step; Heun averages the slopes at
    both ends. A step to no noise has no second slope and stays Euler. So does one that starts with under 1% of signal
    (EDM never does, its sigma / alpha starts at 80): from the cosine schedule's 20,000, the average of the two slopes
    over so long a step throws the sample far off.
    """
    for t, s in grid.pairs():
        estimate = _ask(denoise, x, t, cond)
        alpha_t, sigma_t = schedule.coefficients(t)
        alpha_s, sigma_s = schedule.coefficients(s)
        euler = alpha_s * estimate.x0 + sigma_s * estimate.eps
        if s == CLEAN or alpha_t < LEAST_SIGNAL:
            x = euler
        else:
            slope = (estimate.eps + _ask(denoise, euler, s, cond).eps) / 2
            x = alpha_s / alpha_t * x + (sigma_s - sigma_t * alpha_s / alpha_t) * slope
        yield Step(t, s, x, estimate)


@torch.no_grad()
def dpmpp_2m(denoise: Denoiser, x: Tensor, grid: Grid, schedule: NoiseSchedule, cond: Cond = None) -> Iterator[Step]:
    """DPM-Solver++(2M) (arXiv:2211.01095, algorithm 2): second order from the previous step's x0, one call a step.

    lambda = log(alpha / sigma). The first step has no previous x0 and is of first order; so is one that starts from no
    signal, and the step to `CLEAN`, where lambda is infinite and the step is x0 itself.
    """
    before: tuple[float, Tensor] | None = None  # lambda and x0 of the previous step
    for t, s in grid.pairs():
        estimate = _ask(denoise, x, t, cond)
        alpha_t, sigma_t = schedule.coefficients(t)
        alpha_s, sigma_s = schedule.coefficients(s)
        if s == CLEAN or alpha_t == 0:
            x, before = alpha_s * estimate.x0 + sigma_s * estimate.eps, None
        else:
            lambda_t, lambda_s = math.log(alpha_t / sigma_t), math.log(alpha_s / sigma_s)
            h = lambda_s - lambda_t
            direction = estimate.x0
            if before is not None:
                ratio = h / (lambda_t - before[0])
                direction = estimate.x0 + ratio / 2 * (estimate.x0 - before[1])
            x = sigma_s / sigma_t * x - alpha_s * math.expm1(-h) * direction
            before = lambda_t, estimate.x0
        yield Step(t, s, x, estimate)


def one_shot(denoise: Denoiser, x: Tensor, schedule: NoiseSchedule, cond: Cond = None) -> Iterator[Step]:
    """The foggy failure: from pure noise to an image in a single step, which can only find the mean of all images."""
    return ddim(denoise, x, Grid((schedule.timesteps - 1,)), schedule, cond)
