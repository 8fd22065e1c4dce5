"""What the network is asked for, and the way back from its answer to an `Estimate`.

With x_t = alpha x0 + sigma eps and alpha^2 + sigma^2 = 1, each of eps, x0 and v = alpha eps - sigma x0 fixes the other
two. alpha and sigma are tensors that broadcast over x: one value per sample.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from alphabar.errors import AlphabarError, nearest
from alphabar.types import Estimate


class Prediction(Protocol):
    """One parameterisation of the same knowledge."""

    name: str

    def target(self, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """What the network should answer."""
        ...

    def estimate(self, output: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor) -> Estimate:
        """What an answer says about x0 and eps."""
        ...


class EpsPrediction:
    """The network predicts the noise (DDPM, eq. 14). Recovering x0 divides by alpha, so it needs some signal left."""

    name = "eps"

    def target(self, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return eps

    def estimate(self, output: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor) -> Estimate:
        return Estimate(x0=(x - sigma * output) / alpha, eps=output)


class X0Prediction:
    """The network predicts the clean image."""

    name = "x0"

    def target(self, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return x0

    def estimate(self, output: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor) -> Estimate:
        return Estimate(x0=output, eps=(x - alpha * output) / sigma)


class VPrediction:
    """The network predicts v = alpha eps - sigma x0 (arXiv:2202.00512, appendix D): well posed at every noise level."""

    name = "v"

    def target(self, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha * eps - sigma * x0

    def estimate(self, output: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor) -> Estimate:
        return Estimate(x0=alpha * x - sigma * output, eps=sigma * x + alpha * output)


PREDICTIONS: dict[str, Prediction] = {p.name: p for p in (EpsPrediction(), X0Prediction(), VPrediction())}


def make_prediction(name: str) -> Prediction:
    """A prediction by its name: eps, x0 or v."""
    if name not in PREDICTIONS:
        raise AlphabarError(f"unknown prediction {name!r}{nearest(name, PREDICTIONS)}")
    return PREDICTIONS[name]
