"""The posterior's moments of a whole data set on disk: the encoder runs once per image, not once per epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from alphabar.codec import Codec
from alphabar.data import Dataset, to_unit
from alphabar.errors import AlphabarError
from alphabar.io import atomic_file

BATCH = 512


class MomentsCache:
    """A data set whose rows are moments [N, 2c, h, w] float32, read from a memory-mapped file.

    Args:
        path: the file, from `encode_dataset`.
        labels, weights: the data set's.
    """

    def __init__(self, path: Path, labels: Tensor | None = None, weights: Tensor | None = None) -> None:
        try:
            self._array = np.load(path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise AlphabarError(
                f"{path} is not a whole cache of moments ({error}); delete it to make it anew"
            ) from error
        self.labels, self.weights = labels, weights

    def __len__(self) -> int:
        return len(self._array)

    def rows(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Moments of some images, [N, 2c, h, w] float32."""
        return torch.from_numpy(self._array[np.asarray(indices)])

    def batches(self) -> Iterator[Tensor]:
        """All moments, in order, in batches."""
        for start in range(0, len(self), BATCH):
            yield self.rows(range(start, min(start + BATCH, len(self))))


def encode_dataset(codec: Codec, dataset: Dataset, folder: Path, device: torch.device) -> MomentsCache:
    """Encode a data set once; later calls with the same autoencoder and data read the file.

    Args:
        codec: its shift and scale do not matter, moments are stored before them.
        dataset: the pictures.
        folder: where the file lies, named after the hashes of both.
        device: where the autoencoder is.
    """
    path = folder / f"moments-{codec.encoder_fingerprint[:16]}-{dataset.fingerprint[:16]}.npy"
    if not path.is_file():
        with atomic_file(path) as temporary:
            _encode(codec, dataset, temporary, device)
    return MomentsCache(path, dataset.labels, dataset.weights)


def _encode(codec: Codec, dataset: Dataset, path: Path, device: torch.device) -> None:
    array: np.memmap[tuple[int, ...], np.dtype[np.float32]] | None = None
    for start in tqdm(range(0, len(dataset), BATCH), desc="encode", unit="batch", leave=False, disable=None):
        indices = range(start, min(start + BATCH, len(dataset)))
        moments = codec.moments(to_unit(dataset.rows(indices)).to(device)).float().cpu().numpy()
        if array is None:
            shape = (len(dataset), *moments.shape[1:])
            array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        array[start : start + len(moments)] = moments
    if array is None:
        raise AlphabarError(f"{dataset.name} has no images to encode")
    array.flush()
