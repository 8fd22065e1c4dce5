"""The closed-form oracle: data N(0, c^2), where the best denoiser is linear and every sampler is a linear map.

The end of a run is then a number without sampling noise. The references are plain Python, written from the papers and
sharing no line with the library.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from alphabar.diffusion import NoiseSchedule
from alphabar.rng import Rng
from alphabar.types import Cond, Denoiser, Estimate


def gaussian_denoiser(schedule: NoiseSchedule, c: float) -> Denoiser:
    """E[x0 | x_t] and E[eps | x_t] for x0 of N(0, c^2)."""

    def denoise(x: Tensor, t: Tensor, cond: Cond = None) -> Estimate:
        alpha, sigma = schedule.gather(t, x)
        variance = alpha**2 * c**2 + sigma**2
        return Estimate(x0=alpha * c**2 / variance * x, eps=sigma / variance * x)

    return denoise


class Impulses(Rng):
    """Row k + 1 of the batch is 1 at draw number k and 0 at all others, so that each draw's way to the end is seen."""

    def __init__(self, draws: int) -> None:
        self.draws, self.asked = draws, 0

    def __len__(self) -> int:
        return self.draws + 1

    def normal(self, *shape: int, device: torch.device | str = "cpu") -> Tensor:
        """[draws + 1, *shape]."""
        out = torch.zeros(len(self), *shape)
        self.asked += 1
        out[self.asked] = 1.0
        return out.to(device)


def impulses(draws: int) -> tuple[Tensor, Impulses]:
    """The start and the noise of a batch whose rows together span everything random in a run: one value each."""
    x = torch.zeros(draws + 1, 1, dtype=torch.float64)
    x[0] = 1.0
    return x, Impulses(draws)


# The references. Lists of timesteps end with -1; A and S are the signal's and the noise's share.


def stable_diffusion_table() -> list[float]:
    """alpha-bar of Stable Diffusion's schedule."""
    low, high, table, product = 0.00085**0.5, 0.012**0.5, [], 1.0
    for i in range(1000):
        product *= 1 - (low + (high - low) * i / 999) ** 2
        table.append(product)
    return table


def A(table: list[float], t: int) -> float:  # noqa: N802, the formulas' own letters
    return 1.0 if t < 0 else math.sqrt(table[t])


def S(table: list[float], t: int) -> float:  # noqa: N802
    return 0.0 if t < 0 else math.sqrt(1 - table[t])


def reference_grid(spacing: str, n: int, timesteps: int = 1000) -> list[int]:
    """Leading has Stable Diffusion's offset of 1."""
    if spacing == "leading":
        steps = [i * (timesteps // n) + 1 for i in range(n)][::-1]
    elif spacing == "trailing":
        steps = [round(timesteps - i * timesteps / n) - 1 for i in range(n)]
    else:
        steps = [round((timesteps - 1) * (n - 1 - i) / (n - 1)) for i in range(n)]
    return [*steps, -1]


def reference_ddim(table: list[float], steps: list[int], c: float) -> float:
    """End standard deviation from a start of N(0, 1): the product of the steps' factors."""
    m = 1.0
    for t, s in pairwise(steps):
        at, st, a, d = A(table, t), S(table, t), A(table, s), S(table, s)
        m *= (a * at * c * c + d * st) / (at**2 * c * c + st**2)
    return m


def reference_ddpm(table: list[float], steps: list[int], c: float, *, large: bool = False) -> float:
    """End standard deviation from a start of N(0, 1): the variance, step by step."""
    v = 1.0
    for t, s in pairwise(steps):
        kept = (A(table, t) / A(table, s)) ** 2
        beta, noise, left = 1 - kept, S(table, t) ** 2, S(table, s) ** 2
        mean = A(table, s) * beta / noise * (A(table, t) * c * c / (A(table, t) ** 2 * c * c + noise))
        mean += math.sqrt(kept) * left / noise
        v = mean**2 * v + (0.0 if s < 0 else beta if large else beta * left / noise)
    return math.sqrt(v)


def karras(n: int, low: float = 0.002, high: float = 80.0, rho: float = 7.0) -> list[float]:
    """Noise levels of EDM (arXiv:2206.00364, eq. 5), falling."""
    return [(high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho for i in range(n)]


def reference_ode(sampler: str, sigmas: list[float], c: float) -> float:
    """What a start of 1 becomes in the variance-exploding coordinates of EDM."""

    def denoised(x: float, s: float) -> float:
        return x * c * c / (c * c + s * s)

    x, before = 1.0, (0.0, 0.0)
    for k, (s, u) in enumerate(pairwise(sigmas)):
        d, h = denoised(x, s), math.log(s / u)
        slope = (x - d) / s
        euler = x + (u - s) * slope
        if sampler == "ddim":
            x = euler
        elif sampler == "heun":
            x += (u - s) * (slope + (euler - denoised(euler, u)) / u) / 2
        else:
            r = before[0] / h
            blend = d if k == 0 else (1 + 1 / (2 * r)) * d - before[1] / (2 * r)
            x = u / s * x - math.expm1(-h) * blend
            before = h, d
    return x
