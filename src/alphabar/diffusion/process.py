"""The forward process, both ways, and the training objective."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from alphabar.diffusion.prediction import Prediction
from alphabar.diffusion.schedule import NoiseSchedule
from alphabar.errors import AlphabarError, nearest
from alphabar.types import Cond, Denoiser, Estimate, Network

Weight = Callable[[Tensor, Prediction], Tensor]
"""(SNR per sample [N], prediction) -> the weight of each sample's loss [N]."""


def uniform(snr: Tensor, prediction: Prediction) -> Tensor:
    """Plain mean squared error: DDPM's simplified objective (eq. 14)."""
    return torch.ones_like(snr)


def min_snr(snr: Tensor, prediction: Prediction, gamma: float = 5.0) -> Tensor:
    """Min-SNR weighting (arXiv:2303.09556, section 3.4): the x0 loss weighted by min(SNR, gamma).

    Written for each target: the same x0 error is SNR times as large in eps and SNR + 1 times as large in v.
    """
    clipped = snr.clamp(max=gamma)
    scale = {"x0": torch.ones_like(snr), "eps": snr, "v": snr + 1}[prediction.name]
    return clipped / scale


WEIGHTS: dict[str, Weight] = {"uniform": uniform, "min-snr": min_snr}


def make_weight(name: str) -> Weight:
    """A loss weight by its name: uniform or min-snr."""
    if name not in WEIGHTS:
        raise AlphabarError(f"unknown loss weight {name!r}{nearest(name, WEIGHTS)}")
    return WEIGHTS[name]


@dataclass(frozen=True)
class Process:
    """A schedule, what the network predicts, and how the loss is weighted: all of diffusion but the network."""

    schedule: NoiseSchedule
    prediction: Prediction
    weight: Weight = uniform

    def __post_init__(self) -> None:
        if self.prediction.name == "eps" and self.schedule.alphas_bar[-1] == 0:
            raise AlphabarError(
                "eps-prediction cannot recover x0 where no signal is left: with zero terminal SNR use v"
            )

    def noise(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Teleport to timestep t, [N] int64: x_t = sqrt(alpha-bar) x0 + sqrt(1 - alpha-bar) eps (DDPM, eq. 4)."""
        alpha, sigma = self.schedule.gather(t, x0)
        return alpha * x0 + sigma * eps

    def walk(self, x: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """One step from x_{t-1} to x_t: sqrt(1 - beta) x + sqrt(beta) eps (DDPM, eq. 2). Keeps a variance of 1."""
        beta = self._beta(t, x)
        return (1 - beta).sqrt() * x + beta.sqrt() * eps

    def walk_exploding(self, x: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """The bad example: noise is added, the signal is not scaled down, so each step adds beta to the variance."""
        return x + self._beta(t, x).sqrt() * eps

    def _beta(self, t: Tensor, like: Tensor) -> Tensor:
        beta = self.schedule.betas.to(t.device)[t].to(like.dtype)
        return beta.view((-1,) + (1,) * (like.ndim - 1))

    def loss(self, network: Network, x0: Tensor, t: Tensor, eps: Tensor, cond: Cond = None) -> Tensor:
        """Noise x0, ask the network, weigh its squared error (DDPM, algorithm 1, line 5). Returns [N] float32."""
        alpha, sigma = self.schedule.gather(t, x0)
        output = network(alpha * x0 + sigma * eps, t, cond)
        target = self.prediction.target(x0, eps, alpha, sigma)
        error = (output.float() - target.float()).square().flatten(1).mean(dim=1)
        if self.weight is uniform:
            return error
        return error * self.weight(self.schedule.snr.to(t.device)[t], self.prediction).to(error.dtype)

    def denoiser(self, network: Network, clip: float | None = None) -> Denoiser:
        """Turn a network, which answers in terms of `self.prediction`, into a `Denoiser`; for `clip` see `clipped`."""

        def denoise(x: Tensor, t: Tensor, cond: Cond = None) -> Estimate:
            alpha, sigma = self.schedule.gather(t, x)
            return self.prediction.estimate(network(x, t, cond).to(x.dtype), x, alpha, sigma)

        return denoise if clip is None else self.clipped(denoise, clip)

    def clipped(self, denoise: Denoiser, clip: float) -> Denoiser:
        """A denoiser whose x0 is known to lie in [-clip, clip]: clamp it there and let eps follow.

        At the noisiest steps x0 is a small difference of large numbers, and one bad estimate there ruins the sample.
        """

        def clamped(x: Tensor, t: Tensor, cond: Cond = None) -> Estimate:
            return self.estimate(denoise(x, t, cond).x0.clamp(-clip, clip), x, t)

        return clamped

    def estimate(self, x0: Tensor, x: Tensor, t: Tensor) -> Estimate:
        """The estimate that follows from believing in x0 at x_t."""
        alpha, sigma = self.schedule.gather(t, x)
        return Estimate(x0, (x - alpha * x0) / sigma)
