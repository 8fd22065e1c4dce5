"""The classifiers that are the judges of the evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from alphabar import models
from alphabar.data import Batch, Dataset, to_unit
from alphabar.data.parts import HEADS, UNASKED, Parted, Vocabulary
from alphabar.errors import AlphabarError
from alphabar.nn import Classifier
from alphabar.rng import Rng
from alphabar.train.augment import augment, recolour
from alphabar.train.config import Recipe
from alphabar.train.tasks.base import Loss, Task, check_equal

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Drawn:
    """A data set whose images are drawn by other weights [N]: a judge must know what others see seldom."""

    dataset: Dataset
    weights: Tensor

    @property
    def labels(self) -> Tensor | None:
        """Those of the data set."""
        return self.dataset.labels

    def __len__(self) -> int:
        return len(self.dataset)

    def rows(self, indices: Tensor) -> Tensor:
        """Those of the data set."""
        return self.dataset.rows(indices)


class Classify(Task):
    """Train the classifier whose features the evaluation measures distances in, or that reads words off pictures.

    Where the data set knows the parts of its captions, the classifier is asked for each part, and each picture is
    augmented, as it may be the only one of its subject.
    """

    network: Classifier

    def __init__(self, network: nn.Module, dataset: Dataset, recipe: Recipe) -> None:
        source = dataset if dataset.weights is None else Drawn(dataset, dataset.weights.sqrt())
        super().__init__(network, dataset, source, recipe)
        self.labels, self.names, self.accuracies = _classes(dataset)

    def loss(self, network: nn.Module, batch: Batch) -> Loss:
        images, seed = to_unit(batch.rows), self.recipe.train.seed
        labels = self.labels[batch.indices].to(images.device)  # [N, questions]
        if isinstance(self.dataset, Parted):
            images = augment(images, Rng(seed, batch.positions, "augment"))
            images, changed = recolour(images, Rng(seed, batch.positions, "recolour"))
            labels[changed, 1:] = UNASKED
        else:
            images = _flip_half(images, Rng(seed, batch.positions, "flip"))
        loss, parts = torch.zeros(len(images), device=images.device), {}
        answers = self.network.split(network(images).float())
        for name, logits, right in zip(self.accuracies, answers, labels.unbind(1), strict=True):
            loss = loss + F.cross_entropy(logits, right, reduction="none")  # 0 where a question is not asked
            parts[name] = ((logits.argmax(dim=1) == right).sum(), (right >= 0).sum())
        return Loss(loss, parts)

    def preview(self, network: nn.Module, device: torch.device) -> Image.Image:
        from alphabar.report.grid import labelled_grid

        rows = self.dataset.rows(range(min(32, len(self.dataset))))
        answers = self.network.split(network(to_unit(rows).to(device)))
        return labelled_grid(rows, [self.names[k] for k in answers[0].argmax(dim=1).tolist()], columns=8)

    def export(self, network: nn.Module, folder: Path, card: dict[str, Any], *, final: bool, cache: Path) -> None:
        models.save_classifier(network, self.dataset.size, self.dataset.channels, card, folder)


def _classes(dataset: Dataset) -> tuple[Tensor, Sequence[str], Sequence[str]]:
    """Labels [N, questions], the names of the first question's classes, and what the log calls each accuracy."""
    if isinstance(dataset, Parted):
        vocabulary = Vocabulary.of(dataset)
        return vocabulary.labels(dataset), vocabulary.subjects, [f"accuracy_{head}" for head in HEADS]
    if dataset.labels is None:
        raise AlphabarError("the classify task needs a labelled data set and a network of type 'classifier'")
    return dataset.labels[:, None], dataset.class_names or (), ["accuracy"]


def _flip_half(images: Tensor, rng: Rng) -> Tensor:
    """Mirror about half of the pictures: a garment is the same garment from the left."""
    flip = rng.integers(2, device=images.device).bool().view(-1, 1, 1, 1)
    return torch.where(flip, images.flip(3), images)


def make_classify(recipe: Recipe, dataset: Dataset, network: nn.Module) -> Classify:
    """The task, checked against the data."""
    if not isinstance(network, Classifier):
        raise AlphabarError("the classify task needs a labelled data set and a network of type 'classifier'")
    check_equal("network.in_channels", network.config.in_channels, dataset.channels, "image channels")
    task = Classify(network, dataset, recipe)
    needed = [int(column.max()) + 1 for column in task.labels.unbind(1)]
    if list(network.config.heads) != needed:
        needs = needed if len(needed) > 1 else needed[0]
        own = network.config.num_classes
        raise AlphabarError(
            f"network.num_classes is {own}, but there are {needs} classes; set network.num_classes={needs}"
        )
    return task
