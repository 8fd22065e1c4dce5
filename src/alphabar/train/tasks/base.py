"""What the trainer knows of a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from alphabar.data import Batch, Dataset, Rows
from alphabar.errors import AlphabarError
from alphabar.io import hash_tensors
from alphabar.nn import Autoencoder
from alphabar.train.config import Recipe

if TYPE_CHECKING:
    from PIL import Image


class Loss(NamedTuple):
    """The loss of each sample [N], and named sums for the log: (sum, count), both scalars."""

    per_sample: Tensor
    parts: dict[str, tuple[Tensor, Tensor]]


@dataclass
class Task(ABC):
    """One thing to train.

    Args:
        network: what the optimizer changes.
        dataset: the pictures.
        source: what the loader draws rows from: the pictures, or their cached moments.
        recipe: the recipe.
        adversary: a network that learns against it, by an optimizer of its own; it is no part of the exported model.
        step: optimizer steps taken, which the trainer keeps.
    """

    network: nn.Module
    dataset: Dataset
    source: Rows
    recipe: Recipe
    adversary: nn.Module | None = None
    step: int = 0

    @abstractmethod
    def loss(self, network: nn.Module, batch: Batch) -> Loss:
        """The loss of a batch; everything random in it is keyed by the batch's positions."""

    def adversary_loss(self, adversary: nn.Module) -> Tensor | None:
        """The adversary's loss, a number, on the batch that `loss` had last; None while it does not take part.

        Args:
            adversary: `self.adversary`, as it is wrapped for several processes.
        """
        return None

    @abstractmethod
    def preview(self, network: nn.Module, device: torch.device) -> Image.Image:
        """A picture of what the network can do by now."""

    @abstractmethod
    def export(self, network: nn.Module, folder: Path, card: dict[str, Any], *, final: bool, cache: Path) -> None:
        """Write the model folder."""

    def identity(self) -> dict[str, Any]:
        """What must not change when a run is resumed."""
        plain = self.recipe.to_dict()
        keep = {key: plain[key] for key in ("task", "network", "process", "loss")}
        keep |= {key: plain["train"][key] for key in ("seed", "batch_size", "accumulate")}
        weights = self.dataset.weights
        drawn = {} if weights is None else {"weights": hash_tensors({"weights": weights})}
        return {**keep, "data": self.dataset.fingerprint, **drawn}


def check_equal(key: str, value: int, needed: int, what: str) -> None:
    if value != needed:
        raise AlphabarError(f"{key} is {value}, but there are {needed} {what}; set {key}={needed}")


def check_images(network: Autoencoder, dataset: Dataset) -> None:
    """An autoencoder fits its images."""
    network.latent_shape(dataset.size, dataset.size)
    own = network.image_channels
    if own != dataset.channels:
        raise AlphabarError(
            f"the autoencoder is for images of {own} channels, those of {dataset.name} have {dataset.channels}"
        )
