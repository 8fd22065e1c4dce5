"""How good images are, judged by the features of our own classifier.

The distances are the Fréchet and the kernel distance on our classifier's features. Never call them FID or KID: those
are defined on another network, and values compare only within one network and at one n. So n and the floor, which is
what as many real images score, always stand beside them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from alphabar.data import Dataset, to_uint8, to_unit
from alphabar.errors import AlphabarError
from alphabar.evaluate.distance import KernelDistance, frechet_distance, kernel_distance
from alphabar.evaluate.mode import evaluating
from alphabar.nn import Classifier
from alphabar.rng import permutation

SUBSETS = 50
SUBSET_SIZE = 1000
BATCH_SIZE = 64  # on a CPU four times as fast as 500, whose maps leave the cache


class ClassHistogram(NamedTuple):
    """What a classifier sees in some images. High confidence alone means little: static can score 0.98."""

    counts: tuple[int, ...]
    """Images of each class."""
    confidence: float
    """Mean probability of the class chosen, 0..1."""


class Floor(NamedTuple):
    """The distances of n real training images from the real test set: what a perfect generator would score."""

    frechet: float
    kernel: float
    n: int


class Score(NamedTuple):
    """How n images compare with the real test set."""

    frechet: float
    kernel: float
    kernel_error: float
    n: int
    floor_frechet: float
    floor_kernel: float
    classes: ClassHistogram

    def __str__(self) -> str:
        return (
            f"Fréchet distance on our classifier's features {self.frechet:.3g} "
            f"(n = {self.n}, floor {self.floor_frechet:.3g}); "
            f"kernel distance {self.kernel:.2g} ± {self.kernel_error:.1g} (floor {self.floor_kernel:.1g})"
        )


def extract_features(classifier: Classifier, images: Tensor, batch_size: int = BATCH_SIZE) -> npt.NDArray[np.float32]:
    """The classifier's features of images [N, C, H, W], uint8 or float in [-1, 1], as an array [N, D]."""
    array: npt.NDArray[np.float32] = _features(classifier, images, batch_size).numpy()
    return array


def class_histogram(classifier: Classifier, images: Tensor, batch_size: int = BATCH_SIZE) -> ClassHistogram:
    """How many of the images [N, C, H, W], uint8 or float in [-1, 1], the classifier puts into each class."""
    return _histogram(classifier, _features(classifier, images, batch_size))


def accuracy(classifier: Classifier, dataset: Dataset) -> float:
    """The share of a labelled data set that the classifier puts where it belongs, 0..1."""
    if dataset.labels is None:
        raise AlphabarError(f"{dataset.name} has no labels to compare with")
    rows = _features(classifier, dataset.rows(torch.arange(len(dataset))), BATCH_SIZE)
    with evaluating(classifier):
        chosen = classifier.head(rows.to(classifier.head.weight.device)).argmax(dim=1).cpu()
    return float((chosen == dataset.labels).double().mean())


def floor(
    train_features: npt.NDArray[np.floating], test_features: npt.NDArray[np.floating], n: int, seed: int = 0
) -> Floor:
    """The distances of n training images, chosen by the seed, from all test images."""
    if not 2 <= n <= len(train_features):
        raise AlphabarError(f"a floor needs n in 2..{len(train_features)} (the training images), got {n}")
    chosen = train_features[permutation(seed, len(train_features), 0)[:n].numpy()]
    return Floor(frechet_distance(chosen, test_features), _kernel(chosen, test_features, seed).mean, n)


class Judge:
    """Scores generated images against the whole real test set, beside the floor at the same n.

    Args:
        classifier: whose features are compared; keep one classifier for all that is to be compared.
        train: real images for the floor.
        test: real images, the reference.
        seed: of the choice of the training images and of the kernel distance's subsets.
    """

    def __init__(self, classifier: Classifier, train: Dataset, test: Dataset, seed: int = 0) -> None:
        self.classifier = classifier
        self.train = train
        self.seed = seed
        self.reference = extract_features(classifier, test.rows(torch.arange(len(test))))
        self._floors: dict[int, Floor] = {}

    @property
    def most(self) -> int:
        """The most images that can be scored at once: the floor needs as many real ones."""
        return len(self.train)

    def floor(self, n: int) -> Floor:
        """What n real training images score; computed once for each n."""
        if not 2 <= n <= self.most:
            raise AlphabarError(f"score 2..{self.most} images (there are {self.most} real ones for the floor), got {n}")
        if n not in self._floors:
            chosen = permutation(self.seed, len(self.train), 0)[:n]
            real = extract_features(self.classifier, self.train.rows(chosen))
            self._floors[n] = floor(real, self.reference, n, self.seed)
        return self._floors[n]

    def score(self, images: Tensor) -> Score:
        """Score images [N, C, H, W], uint8 or float in [-1, 1].

        Raises:
            AlphabarError: fewer than 2 images, more than `most`, or images that are not finite.
        """
        n = len(images)
        real = self.floor(n)
        rows = _features(self.classifier, images, BATCH_SIZE)
        found = rows.numpy()
        frechet, kernel = frechet_distance(found, self.reference), _kernel(found, self.reference, self.seed)
        classes = _histogram(self.classifier, rows)
        return Score(frechet, kernel.mean, kernel.error, n, real.frechet, real.kernel, classes)


def _kernel(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating], seed: int) -> KernelDistance:
    """Half of the smaller set at the most, so that subsets differ and their spread means something."""
    size = max(2, min(SUBSET_SIZE, len(a) // 2, len(b) // 2))
    return kernel_distance(a, b, SUBSETS, size, seed)


def _features(classifier: Classifier, images: Tensor, batch_size: int) -> Tensor:
    with evaluating(classifier):
        return torch.cat([classifier.features(x).cpu() for x in _batches(classifier, images, batch_size)])


def _histogram(classifier: Classifier, rows: Tensor) -> ClassHistogram:
    """From features [N, D]: the head is all that is left to run."""
    with evaluating(classifier):
        logits = classifier.head(rows.to(classifier.head.weight.device))
    confidence, chosen = logits.float().softmax(dim=1).cpu().max(dim=1)
    counts = torch.bincount(chosen, minlength=logits.shape[1])
    return ClassHistogram(tuple(counts.tolist()), float(confidence.mean()))


def _batches(classifier: Classifier, images: Tensor, batch_size: int) -> Iterator[Tensor]:
    """Images as a viewer sees them, in [-1, 1]: floats are clamped and rounded to 256 levels, as real images are."""
    if images.ndim != 4 or len(images) == 0:
        raise AlphabarError(f"images must be [N, C, H, W] with N of at least 1, got {list(images.shape)}")
    device = next(classifier.parameters()).device
    for batch in images.split(batch_size):
        if not torch.isfinite(batch).all():
            raise AlphabarError("the images to be judged hold NaN or infinity; look at how they were sampled")
        yield to_unit(batch if batch.dtype == torch.uint8 else to_uint8(batch)).to(device)
