"""Run a network for its answers only."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


@contextlib.contextmanager
def evaluating(*networks: object) -> Iterator[None]:
    """Eval mode without gradients; afterwards every part is back in its own mode, frozen parts of a network included.

    What is not an `nn.Module` has no mode and is left alone. No `inference_mode`: a tensor that a network caches in it
    could not be trained with later.
    """
    before = [(m, m.training) for network in networks if isinstance(network, nn.Module) for m in network.modules()]
    try:
        for module, _ in before:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module, training in before:
            module.training = training
