"""Denoisers around denoisers: what changes a walk without the sampler, or the network, knowing of it."""

from __future__ import annotations

import torch
from torch import Tensor

from alphabar.diffusion.process import Process
from alphabar.errors import AlphabarError
from alphabar.types import Cond, Denoiser, Estimate


class CFG:
    """Classifier-free guidance (arXiv:2207.12598, eq. 6): away from what is believed under the null condition.

    Both coordinates of the estimate are mixed, unconditional + scale * (conditional - unconditional), so the result is
    the same whatever the network predicts. Both halves go through the network in one call of twice the batch.

    Args:
        denoise: the denoiser that is guided.
        null: the condition to move away from: no words, or a negative prompt. One row, or one per sample; keys of
            `cond` that it lacks (such as the masked image of inpainting) keep their value.
        scale: 1 is conditional and costs one network call, 0 unconditional, more follows the condition more closely.
        rescale: 0..1, how far the guided answer of the network is brought back to the standard deviation of the
            conditional one (arXiv:2305.08891, eq. 15 and 16), against the harsh contrast of large scales.
        interval: (low, high), the timesteps at which guidance acts, both included; elsewhere the scale is 1
            (arXiv:2404.07724). None is everywhere.
        process: tells what the network's answer is; needed only to rescale.
    """

    def __init__(
        self,
        denoise: Denoiser,
        null: Cond,
        scale: float,
        rescale: float = 0.0,
        interval: tuple[int, int] | None = None,
        process: Process | None = None,
    ) -> None:
        if not 0 <= rescale <= 1:
            raise AlphabarError(f"guidance rescale must lie in 0..1, got {rescale}")
        if rescale and process is None:
            raise ValueError("rescaling guidance needs the process")
        self.denoise, self.null, self.scale = denoise, null or {}, scale
        self.rescale, self.interval, self.process = rescale, interval, process

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = None) -> Estimate:
        scale = self._scale(t)
        if (scale == 1).all():
            return self.denoise(x, t, cond)
        null = {**(cond or {}), **{key: rows.expand(len(x), *rows.shape[1:]) for key, rows in self.null.items()}}
        if (scale == 0).all():
            return self.denoise(x, t, null)
        both = {key: torch.cat([null[key], rows]) for key, rows in (cond or {}).items()}
        halves = self.denoise(torch.cat([x, x]), torch.cat([t, t]), both)
        (x0_null, x0_cond), (eps_null, eps_cond) = (half.chunk(2) for half in halves)
        wide = scale.to(x).view(-1, *(1,) * (x.ndim - 1))
        guided = Estimate(torch.lerp(x0_null, x0_cond, wide), torch.lerp(eps_null, eps_cond, wide))
        return self._rescaled(guided, Estimate(x0_cond, eps_cond), x, t) if self.rescale else guided

    def _scale(self, t: Tensor) -> Tensor:
        """The scale of each sample [N]."""
        if self.interval is None:
            return torch.full(t.shape, self.scale, device=t.device)
        low, high = self.interval
        return torch.where((low <= t) & (t <= high), self.scale, 1.0)

    def _rescaled(self, guided: Estimate, conditional: Estimate, x: Tensor, t: Tensor) -> Estimate:
        """The training target of an estimate is what the network answered; its spread is what guidance inflates."""
        assert self.process is not None
        alpha, sigma = self.process.schedule.gather(t, x)
        prediction = self.process.prediction
        answer, reference = (prediction.target(*estimate, alpha, sigma) for estimate in (guided, conditional))
        dims = tuple(range(1, x.ndim))
        gain = reference.std(dim=dims, keepdim=True) / answer.std(dim=dims, keepdim=True).clamp_min(1e-8)
        return prediction.estimate(answer * torch.lerp(torch.ones_like(gain), gain, self.rescale), x, alpha, sigma)


class Inpaint:
    """Fill in a part of a known x0: outside of the mask the denoiser is told what it should have believed.

    Every sampler then keeps the known part, exactly so after its last step, and the rest grows to fit it.

    Args:
        denoise: the denoiser.
        known: x0 [N, c, h, w]; its values under the mask do not matter.
        mask: [N or 1, 1, h, w], 1 where x0 is to be made, 0 where it is known.
        process: gives the noise that follows from a belief.
    """

    def __init__(self, denoise: Denoiser, known: Tensor, mask: Tensor, process: Process) -> None:
        self.denoise, self.known, self.mask, self.process = denoise, known, mask, process

    def __call__(self, x: Tensor, t: Tensor, cond: Cond = None) -> Estimate:
        x0 = torch.lerp(self.known, self.denoise(x, t, cond).x0, self.mask)
        return self.process.estimate(x0, x, t)
