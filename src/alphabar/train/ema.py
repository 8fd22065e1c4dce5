"""An exponential moving average of the weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


class Ema:
    """The averaged copy of a network that samples are drawn from.

    Args:
        network: the network in training; the copy starts equal to it.
        decay: the share of the average that is kept at each step, late in training; at step n at most
            (1 + n) / (10 + n), so that the random start is forgotten early.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move towards the network's weights after optimizer step number `step` (from 1); buffers are copied."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.network.parameters()), list(network.parameters()), 1 - decay)
        for own, other in zip(self.network.buffers(), network.buffers(), strict=True):
            own.copy_(other)
