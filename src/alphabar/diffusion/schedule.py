"""The noise schedule: one float64 table of alpha-bar, everything else derived from it.

Timesteps are 0-based here, as in Stable Diffusion's weights: t runs over 0..T-1, and the papers' t is our t + 1.
`CLEAN` (-1) is the state before t = 0, where alpha-bar is 1: the image itself. This is said once, here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from alphabar.errors import AlphabarError, nearest

CLEAN = -1


@dataclass(frozen=True)
class NoiseSchedule:
    """How much signal is left at each timestep.

    Args:
        alphas_bar: [T] float64, alpha-bar at t = 0..T-1: strictly decreasing, below 1, and 0 at the last entry at most
            (zero terminal SNR).

    x_t = sqrt(alpha-bar_t) x_0 + sqrt(1 - alpha-bar_t) eps  (DDPM, arXiv:2006.11239, eq. 4).
    """

    alphas_bar: Tensor

    def __post_init__(self) -> None:
        table = self.alphas_bar
        if table.dtype != torch.float64 or table.ndim != 1 or len(table) == 0:
            raise AlphabarError(f"alphas_bar must be float64 [T], got {table.dtype} {list(table.shape)}")
        falls = torch.diff(table, prepend=torch.ones(1, dtype=torch.float64)) < 0
        if not (falls.all() and table[-1] >= 0):
            raise AlphabarError("alphas_bar must fall strictly from below 1 to 0 at the least")

    @classmethod
    def from_betas(cls, betas: Tensor) -> NoiseSchedule:
        """From the noise added at each step, beta [T] in (0, 1]: alpha-bar_t = prod of (1 - beta)."""
        return cls(torch.cumprod(1.0 - betas.double(), dim=0))

    @classmethod
    def linear(cls, timesteps: int = 1000, start: float = 1e-4, end: float = 0.02) -> NoiseSchedule:
        """Beta rises linearly (DDPM, section 4)."""
        return cls.from_betas(torch.linspace(start, end, timesteps, dtype=torch.float64))

    @classmethod
    def scaled_linear(cls, timesteps: int = 1000, start: float = 0.00085, end: float = 0.012) -> NoiseSchedule:
        """The square root of beta rises linearly: Stable Diffusion's schedule."""
        return cls.from_betas(torch.linspace(start**0.5, end**0.5, timesteps, dtype=torch.float64) ** 2)

    @classmethod
    def cosine(cls, timesteps: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> NoiseSchedule:
        """Alpha-bar follows a squared cosine, beta capped at `max_beta` (Improved DDPM, arXiv:2102.09672, eq. 17)."""

        def f(t: float) -> float:
            return math.cos((t / timesteps + offset) / (1 + offset) * math.pi / 2) ** 2

        betas = [min(1 - f(t + 1) / f(t), max_beta) for t in range(timesteps)]
        return cls.from_betas(torch.tensor(betas, dtype=torch.float64))

    @classmethod
    def constant(cls, timesteps: int = 1000, beta: float = 0.01) -> NoiseSchedule:
        """The same beta at every step: the bad example, which spends half of its steps on images that are all noise."""
        return cls.from_betas(torch.full((timesteps,), beta, dtype=torch.float64))

    def zero_terminal_snr(self) -> NoiseSchedule:
        """Shift and scale sqrt(alpha-bar) so that the last step holds no signal (arXiv:2305.08891, algorithm 1).

        The first entry stays. Needs v- or x0-prediction: at the last step, noise says nothing about the image.
        """
        root = self.alphas_bar.sqrt()
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        return NoiseSchedule(root**2)

    @property
    def timesteps(self) -> int:
        """T, the number of noise levels."""
        return len(self.alphas_bar)

    @cached_property
    def betas(self) -> Tensor:
        """beta_t = 1 - alpha-bar_t / alpha-bar_{t-1}, [T] float64."""
        before = torch.cat([torch.ones(1, dtype=torch.float64), self.alphas_bar[:-1]])
        return 1 - self.alphas_bar / before

    @cached_property
    def snr(self) -> Tensor:
        """Signal-to-noise ratio alpha-bar / (1 - alpha-bar), [T] float64, strictly decreasing."""
        return self.alphas_bar / (1 - self.alphas_bar)

    def alpha_bar(self, t: int) -> float:
        """alpha-bar at one timestep in -1..T-1, where `CLEAN` gives exactly 1."""
        if not CLEAN <= t < self.timesteps:
            raise AlphabarError(f"timestep {t} is outside {CLEAN}..{self.timesteps - 1}")
        return 1.0 if t == CLEAN else self._table[t]

    @cached_property
    def _table(self) -> list[float]:
        return self.alphas_bar.tolist()

    def coefficients(self, t: int) -> tuple[float, float]:
        """(sqrt(alpha-bar), sqrt(1 - alpha-bar)) at one timestep in -1..T-1: the signal's and the noise's share."""
        alpha_bar = self.alpha_bar(t)
        return math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)

    def gather(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """The same for a timestep per sample: t [N] int64 in 0..T-1 -> two [N, 1, ...] that broadcast over `like`."""
        shape = (-1,) + (1,) * (like.ndim - 1)
        alpha_bar = self.alphas_bar.to(t.device)[t]
        return alpha_bar.sqrt().to(like.dtype).view(shape), (1 - alpha_bar).sqrt().to(like.dtype).view(shape)


SCHEDULES: dict[str, Callable[[int], NoiseSchedule]] = {
    "linear": NoiseSchedule.linear,
    "cosine": NoiseSchedule.cosine,
    "scaled-linear": NoiseSchedule.scaled_linear,
    "constant": NoiseSchedule.constant,
}


def make_schedule(name: str, timesteps: int = 1000, *, zero_terminal_snr: bool = False) -> NoiseSchedule:
    """A schedule by its name in `SCHEDULES`, as recipes and model folders write it."""
    if name not in SCHEDULES:
        raise AlphabarError(f"unknown schedule {name!r}{nearest(name, SCHEDULES)}")
    schedule = SCHEDULES[name](timesteps)
    return schedule.zero_terminal_snr() if zero_terminal_snr else schedule
