"""Data sets: images as uint8 [N, C, H, W] by row number, with labels or captions where there are any."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from alphabar.data.fetch import from_idx
from alphabar.data.folder import ImageFolder
from alphabar.data.sources import NAMED_SETS, SPLITS, NamedSet, load, note
from alphabar.errors import AlphabarError, nearest

Indices = Tensor | Sequence[int]


class Dataset(Protocol):
    """What training and evaluation know of a data set."""

    @property
    def name(self) -> str:
        """The set's name, or the folder as it was given."""
        ...

    @property
    def size(self) -> int:
        """Height and width in pixels."""
        ...

    @property
    def channels(self) -> int:
        """1 (grey) or 3 (RGB)."""
        ...

    @property
    def labels(self) -> Tensor | None:
        """The class of each image, [len] int64, or None."""
        ...

    @property
    def class_names(self) -> Sequence[str] | None:
        """What label k is called, or None."""
        ...

    @property
    def captions(self) -> Sequence[str] | None:
        """The caption of each image ("" where it has none), or None."""
        ...

    @property
    def weights(self) -> Tensor | None:
        """How often the loader draws each image, [len] float, at least 0, in any unit; None: all alike."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what the pixels are: two sets with the same one give the same rows."""
        ...

    def __len__(self) -> int: ...

    def rows(self, indices: Indices) -> Tensor:
        """The images of these rows, uint8 [len(indices), channels, size, size], in this order."""
        ...


class ArrayDataset:
    """A data set in memory.

    Args:
        name: what it is called.
        images: uint8 [N, C, H, W] with H = W and C 1 or 3.
        labels: [N] whole numbers, or None.
        class_names: what label k is called.
        captions: the caption of each image, or None.
        weights: how often the loader draws each image, [N] float, or None for all alike.

    Raises:
        ValueError: on images or labels of another type or shape, or another number of captions or weights.
    """

    def __init__(
        self,
        name: str,
        images: Tensor,
        labels: Tensor | None = None,
        class_names: Sequence[str] | None = None,
        captions: Sequence[str] | None = None,
        weights: Tensor | None = None,
    ) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[2] != images.shape[3]:
            raise ValueError(f"images must be uint8 [N, C, H, H], not {images.dtype} {list(images.shape)}")
        if labels is not None and labels.shape != images.shape[:1]:
            raise ValueError(f"{len(images)} images need labels [{len(images)}], not {list(labels.shape)}")
        if captions is not None and len(captions) != len(images):
            raise ValueError(f"{len(images)} images need {len(images)} captions, not {len(captions)}")
        if weights is not None and weights.shape != images.shape[:1]:
            raise ValueError(f"{len(images)} images need weights [{len(images)}], not {list(weights.shape)}")
        self.name = name
        self.images = images
        self.labels = labels if labels is None else labels.long()
        self.class_names = class_names
        self.captions = captions
        self.weights = weights
        self.channels = int(images.shape[1])
        self.size = int(images.shape[2])

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, indices: Indices) -> Tensor:
        """The images of these rows, uint8 [len(indices), C, H, W]."""
        return self.images[torch.as_tensor(indices, dtype=torch.int64)]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the shape, the pixels, the labels and the captions."""
        digest = hashlib.sha256(f"{list(self.images.shape)}\n".encode())
        digest.update(self.images.reshape(-1).numpy().data)
        if self.labels is not None:
            digest.update(self.labels.reshape(-1).numpy().data)
        for caption in self.captions or ():
            digest.update(f"{caption}\0".encode())
        return digest.hexdigest()


def resize(images: Tensor, size: int) -> Tensor:
    """uint8 [N, C, H, H] -> uint8 [N, C, size, size], bicubic and antialiased; in slices, to spare memory."""
    if images.shape[-1] == size:
        return images
    slices = (
        F.interpolate(part.float(), (size, size), mode="bicubic", antialias=True).round_().clamp_(0, 255).byte()
        for part in torch.split(images, 4096)
    )
    return torch.cat(list(slices))


def open_dataset(
    name: str | Path,
    split: str = "train",
    size: int | None = None,
    channels: int | None = None,
    root: Path | None = None,
    progress: bool | None = None,
) -> Dataset:
    """Open a named set or a folder of images.

    Args:
        name: `fashion-mnist`, `mnist`, `digits`, `emoji`, or the path of a folder with PNG, JPEG or WebP images. A
            name wins over a folder of the same name; `./mnist` is the folder.
        split: "train" or "test". A folder's test split is held out by a hash of each image's name (see `ImageFolder`).
        size: height and width to resize to; default the set's own. A folder needs one.
        channels: 1 (grey) or 3 (RGB); default the set's own, 3 for a folder.
        root: where to look first for a named set; default `$ALPHABAR_DATA`.
        progress: True shows a bar on stderr while fetching, False none, None only on a terminal.

    Raises:
        AlphabarError: an unknown name, split, size or number of channels; a set that no source has; a bad folder.
    """
    if split not in SPLITS:
        raise AlphabarError(f"unknown split {split!r}{nearest(split, SPLITS)}")
    if size is not None and size < 1:
        raise AlphabarError(f"the image size must be at least 1, not {size}")
    if channels not in (None, 1, 3):
        raise AlphabarError(f"images have 1 channel (grey) or 3 (RGB), not {channels}")
    if str(name) in NAMED_SETS:
        return _open_named(NAMED_SETS[str(name)], split, size, channels, root, progress)
    folder = Path(name)
    if not folder.is_dir():
        if folder.exists():
            raise AlphabarError(
                f"{folder} is a file; a dataset is a folder of images, or one of {', '.join(NAMED_SETS)}"
            )
        known = nearest(str(name), NAMED_SETS)
        raise AlphabarError(f"unknown dataset {str(name)!r}: no such folder, and no set of that name{known}")
    if size is None:
        raise AlphabarError(f"{folder} is a folder of images: say which size they should have, as in size=64")
    return ImageFolder(folder, split, size, channels or 3)


def _open_named(
    named: NamedSet, split: str, size: int | None, channels: int | None, root: Path | None, progress: bool | None
) -> ArrayDataset:
    if named.name == "emoji":
        from alphabar.data.emoji import open_emoji

        (font,) = load(named, tuple(named.sums), root, progress).values()
        return open_emoji(font, split, size or named.size, channels or named.channels)
    files = SPLITS[split]
    data = load(named, files, root, progress)
    images, labels = (torch.from_numpy(from_idx(file, data[file]).copy()) for file in files)
    pixels = resize(images.unsqueeze(1), size or named.size)
    if channels == 3:
        pixels = pixels.expand(-1, 3, -1, -1)  # grey as RGB, without three copies
    return ArrayDataset(named.name, pixels, labels, named.class_names)


def fallback_dataset(root: Path | None = None, progress: bool | None = None) -> str:
    """The name of the best set that can be had here: fashion-mnist, else mnist, else digits (8x8, to be enlarged).

    Fetches it where needed, and says in one line on stderr when it is not the first.

    Raises:
        AlphabarError: when not even scikit-learn's digits are there.
    """
    *wanted, last = ("fashion-mnist", "mnist", "digits")
    for name, instead in zip(wanted, (*wanted[1:], last), strict=True):
        named = NAMED_SETS[name]
        try:
            load(named, tuple(named.sums), root, progress)
        except AlphabarError as error:
            note(f"{error}; taking {instead} instead")
        else:
            return name
    load(NAMED_SETS[last], tuple(NAMED_SETS[last].sums), root, progress)
    return last
