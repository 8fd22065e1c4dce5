"""Any folder of images as a data set, decoded when asked for."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from alphabar.data.convert import to_unit
from alphabar.errors import AlphabarError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}
METADATA = "metadata.jsonl"
HOLD_OUT = 0.05
"""The share of a folder's images that is its test split."""


class ImageFolder:
    """The PNG, JPEG and WebP images below a folder, in the order of their relative names.

    An image is turned upright (EXIF), put on white where it is transparent, scaled and cropped to the square in its
    middle, `size` x `size` (bicubic, antialiased) and made grey or RGB. Hidden files and folders are passed over.

    The test split is held out by a hash of each image's relative name: about 5%, at least one image, so that an image
    added later moves no other from one split to the other.

    Captions are read from each `metadata.jsonl` on the way (one JSON object a line; `file_name`, relative to that file,
    and `text`), the convention of Hugging Face image folders. The file nearest to an image has the last word; an image
    that none names has the caption "".

    Args:
        folder: the folder.
        split: "train" or "test".
        size: height and width in pixels.
        channels: 1 (grey) or 3 (RGB).

    Raises:
        AlphabarError: no images; too few for the split; a broken line of metadata, or one that names a missing image.
    """

    labels = None
    class_names = None
    weights = None

    def __init__(self, folder: Path, split: str, size: int, channels: int) -> None:
        names, metadata = _scan(folder)
        if not names:
            raise AlphabarError(f"no PNG, JPEG or WebP images in {folder}")
        captions = _read_captions(folder, metadata, set(names))
        self.files = hold_out(names)[split]
        if not self.files:
            raise AlphabarError(f"{folder} has a single image: nothing is left for a test split")
        self.folder = folder
        self.name = str(folder)
        self.size = size
        self.channels = channels
        self.captions = [captions.get(name, "") for name in self.files] if metadata else None

    def __len__(self) -> int:
        return len(self.files)

    def rows(self, indices: Tensor | Sequence[int]) -> Tensor:
        """Decode these rows: uint8 [len(indices), channels, size, size].

        Raises:
            AlphabarError: naming the first image that cannot be read.
        """
        out = torch.empty((len(indices), self.channels, self.size, self.size), dtype=torch.uint8)
        for row, index in zip(out, torch.as_tensor(indices).tolist(), strict=True):
            row.copy_(_decode(self.folder / self.files[index], self.size, self.channels))
        return out

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over size, channels, and the name, content and caption of each file.

        Content, not modification time: a copy of the folder is the same data set, and reading the files once costs less
        than one epoch, which decodes them too.
        """
        digest = hashlib.sha256(f"{self.size} {self.channels}\n".encode())
        with ThreadPoolExecutor(4) as pool:
            for name, content in zip(self.files, pool.map(self._hash, self.files), strict=True):
                digest.update(f"{name}\0{content}\n".encode())
        for caption in self.captions or ():
            digest.update(f"{caption}\0".encode())
        return digest.hexdigest()

    def _hash(self, name: str) -> str:
        try:
            with (self.folder / name).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise AlphabarError(f"cannot read the image {self.folder / name}: {error.strerror}") from error


def read_image(path: Path, size: int, channels: int) -> Tensor:
    """One picture file, read as the images of a folder are: [1, channels, size, size] in [-1, 1].

    Raises:
        AlphabarError: naming the file that cannot be read.
    """
    return to_unit(_decode(path, size, channels).unsqueeze(0))


def _decode(path: Path, size: int, channels: int) -> Tensor:
    """uint8 [channels, size, size]."""
    try:
        with Image.open(path) as image:
            square = to_square(image, size, channels)
    except Exception as error:  # damaged files make Pillow's readers fail with nearly any exception
        reason = "no such file" if isinstance(error, FileNotFoundError) else " ".join(str(error).split())
        raise AlphabarError(f"cannot read the image {path}: {reason}") from error
    return torch.from_numpy(np.array(square).reshape(size, size, channels).transpose(2, 0, 1))


def to_square(image: Image.Image, size: int, channels: int) -> Image.Image:
    """An opened image -> upright, opaque, its middle square resized to size x size, mode "L" or "RGB"."""
    mode = "L" if channels == 1 else "RGB"
    image.draft(mode, (2 * size, 2 * size))  # a large JPEG is decoded at a fraction of its size, at least twice ours
    upright = _to_mode(ImageOps.exif_transpose(image), mode)
    width, height = upright.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    # Cropping by the box of the resize: a thin image is never blown up along its long side.
    return upright.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion clips at 255 instead of scaling
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
    if image.has_transparency_data:
        colour = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", colour.size, "white"), colour)
    return image.convert(mode)


def _scan(folder: Path) -> tuple[list[str], list[str]]:
    """Relative names (with forward slashes) of the images, sorted, and of the metadata files, the outer ones first."""
    images, metadata = [], []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            relative = (Path(parent) / name).relative_to(folder).as_posix()
            if name == METADATA:
                metadata.append(relative)
            elif Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                images.append(relative)
    return sorted(images), sorted(metadata, key=lambda file: (file.count("/"), file))


def _read_captions(folder: Path, metadata: Sequence[str], images: set[str]) -> dict[str, str]:
    """Captions by relative image name."""
    captions = {}
    for file in metadata:
        try:
            lines = (folder / file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise AlphabarError(f"cannot read {folder / file}: {error}") from error
        for number, line in enumerate(lines, start=1):
            if line.strip():
                where = f"{folder / file}, line {number}"
                name, text = _parse_caption(line, where)
                relative = os.path.normpath(Path(file).parent / name).replace(os.sep, "/")
                if relative not in images:
                    raise AlphabarError(f"{where}: no such image: {name}")
                captions[relative] = text
    return captions


def _parse_caption(line: str, where: str) -> tuple[str, str]:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise AlphabarError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(entry, dict):
        raise AlphabarError(f"{where}: should be a JSON object, not {type(entry).__name__}")
    for key in ("file_name", "text"):
        if not isinstance(entry.get(key), str):
            raise AlphabarError(f"{where}: needs {key!r}, a string")
    return entry["file_name"], entry["text"]


def hold_out(names: Sequence[str]) -> dict[str, list[str]]:
    """Divide names into "train" and "test" by a hash of each: about 5% test, each at least one where there are two."""
    ranks = {name: int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) / 2**64 for name in names}
    order = sorted(names, key=ranks.__getitem__)
    count = sum(rank < HOLD_OUT for rank in ranks.values())
    test = set(order[: max(min(count, len(names) - 1), min(1, len(names) - 1))])
    return {"train": [n for n in names if n not in test], "test": [n for n in names if n in test]}
