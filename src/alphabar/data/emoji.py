"""The captioned set `emoji`: Noto's colour font drawn as pictures, with hold-outs that ask for new combinations.

Captions are the Unicode names in one form: lower case, no punctuation between words, the skin tones last ("woman
astronaut medium dark skin tone"). Few emoji share words, so some pictures come in other colours too ("purple frog").

The test split holds combinations which the train split never shows, though it shows each of their parts: a colour with
a shape, a skin tone with a person, a colour with a recoloured object. It is fixed by the lists and rules below.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib
import io
import json
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, features
from torch import Tensor

from alphabar.data.colour import Main, main_colour, shift, turn
from alphabar.data.datasets import ArrayDataset
from alphabar.data.sources import FRIBIDI, cache_folder, load
from alphabar.errors import AlphabarError
from alphabar.io import atomic_file

CANVAS = 136
"""Height and width of a drawn emoji; the font's bitmaps are 136 wide and 128 high."""
FONT_SIZE = 109
"""The only size that the font's bitmaps have."""
UNSUPPORTED_WIDTH = 140
"""A sequence that the font does not join into one picture is wider than one."""

TONE_WEIGHT = 0.5
"""How often a picture with a skin tone is drawn, against 1 for one without: half the set are tones of few people. With
0.2 the subjects came out right (0.98 of the seen ones) and of unseen people's tones 0.63; with this, 0.97 and 0.69."""
RECOLOURED_SHARE = 0.15
"""The share of all draws that are recoloured copies."""

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple")
"""What objects are recoloured to."""
TONES = ("light", "medium light", "medium", "medium dark", "dark")

HELD_OUT_REAL = frozenset(
    {
        "purple heart",
        "green heart",
        "black heart",
        "orange circle",
        "brown circle",
        "blue circle",
        "blue square",
        "yellow square",
        "red square",
        "green book",
    }
)
"""Colour x shape: every one of these colours and shapes is in the train split at least twice in other combinations."""
HELD_OUT_PEOPLE = 17
"""Tone x person: so many subjects of each of "man ...", "woman ..." and "person ...", evenly over the alphabet; the
j-th of them is held out in the tone j mod 5."""
HELD_OUT_EVERY = 3
"""Colour x recoloured object: every third object, over the alphabet, is held out in one colour, the colours in turn."""

_REFERENCES = ("red circle", "orange square", "yellow circle", "green circle", "blue heart", "purple circle")
"""Whose colour each of COLOURS is, so that a colour word means the same in a copy as in the font; none is held out."""
_FAMILIES = ("red circle", "red heart", "orange square")
"""An object with one of these outlines is not recoloured: a purple heart suit would show a held-out purple heart."""
_NOT_RECOLOURED = re.compile(
    r"\b(hearts?|circle|square|books?|notebook|ledger|diamond|suit|button|"
    r"faces?|heads?|busts?|eyes?|ears?|lips?|mouth|tongue|hands?|foot|leg|person|people|man|woman|baby|family|couple|"
    r"kiss|claus|cat|monkey|ogre|goblin|ghost|alien|robot|poo|restroom)\b"
)
"""The families by their words, and what has a face or is a part of a body."""
_BAD_FONT = "NotoColorEmoji.ttf is not the bitmap font that Pillow can draw; take the one of fonts-noto-color-emoji"
_COLOURED = re.compile(
    r"(?:(large|small|hollow) )?(light blue|red|orange|yellow|green|blue|purple|brown|black|white|grey|pink) (.+)"
)
_TONE = re.compile(r" (?:light|medium light|medium dark|medium|dark) skin tone")


@dataclass(frozen=True)
class Emoji:
    """One row: what it is called, and the parts of that name.

    Attributes:
        text: the emoji itself.
        caption: the whole name.
        subject: the caption without its colour and its tones.
        colour: the colour word, or None.
        tones: the tone words, or None.
        recoloured: whether it is a copy in another colour.
    """

    text: str
    caption: str
    subject: str
    colour: str | None = None
    tones: str | None = None
    recoloured: bool = False


class EmojiDataset(ArrayDataset):
    """A split of the set `emoji` in memory; besides what a `Dataset` has, the parts of each caption.

    Attributes:
        subjects: each row's caption without its colour and tones ("heart", "woman astronaut").
        colours: each row's colour word, or None.
        tones: each row's tone words ("medium dark skin tone"; two people may have two), or None.
        recoloured: whether each row is a copy in another colour.
        class_ids: a number for each row's subject, [N] int64, the same in both splits.
        weights: how often the loader draws each row of the train split, [N] float64; None for the test split.
    """

    captions: Sequence[str]

    def __init__(self, split: str, images: Tensor, emoji: Sequence[Emoji], class_ids: Tensor) -> None:
        weights = sampling_weights(emoji) if split == "train" else None
        super().__init__("emoji", images, captions=[one.caption for one in emoji], weights=weights)
        self.subjects = [one.subject for one in emoji]
        self.colours = [one.colour for one in emoji]
        self.tones = [one.tones for one in emoji]
        self.recoloured = [one.recoloured for one in emoji]
        self.class_ids = class_ids


def open_emoji(font: bytes, split: str, size: int, channels: int) -> EmojiDataset:
    """The split as a data set.

    Args:
        font: the font file's bytes.
        split: "train" or "test".
        size: height and width in pixels.
        channels: 1 (grey) or 3 (RGB).

    Raises:
        AlphabarError: without the package `emoji`, or when Pillow cannot use the font or join sequences of signs.
    """
    emoji, images = _drawn(font, size, channels)
    held = held_out(emoji)
    numbers = {subject: i for i, subject in enumerate(sorted({one.subject for one in emoji}))}
    rows = [i for i, one in enumerate(emoji) if (one.caption in held) == (split == "test")]
    chosen = [emoji[i] for i in rows]
    return EmojiDataset(split, images[rows], chosen, torch.tensor([numbers[one.subject] for one in chosen]))


def sampling_weights(emoji: Sequence[Emoji]) -> Tensor:
    """How often each is drawn, [N] float64: tones `TONE_WEIGHT`, recoloured copies `RECOLOURED_SHARE` of the whole."""
    weights = torch.tensor([TONE_WEIGHT if one.tones else 1.0 for one in emoji], dtype=torch.float64)
    copies = torch.tensor([one.recoloured for one in emoji])
    weights[copies] = RECOLOURED_SHARE / (1 - RECOLOURED_SHARE) * weights[~copies].sum() / copies.sum()
    return weights


def held_out(emoji: Sequence[Emoji]) -> set[str]:
    """The captions of the test split, by the lists and rules at the head of this file."""
    held = {one.caption for one in emoji} & HELD_OUT_REAL
    tones: dict[str, set[str]] = {}
    copies: dict[str, list[str]] = {}
    for one in emoji:
        if one.tones:
            tones.setdefault(one.subject, set()).add(one.tones)
        if one.recoloured:
            copies.setdefault(one.subject, []).append(one.caption)
    every = {f"{tone} skin tone" for tone in TONES}
    for kind in ("man ", "woman ", "person "):
        people = sorted(subject for subject in tones if subject.startswith(kind) and tones[subject] == every)
        count = min(HELD_OUT_PEOPLE, len(people))
        for j in range(count):
            held.add(f"{people[j * len(people) // count]} {TONES[j % len(TONES)]} skin tone")
    for j, subject in enumerate(sorted(copies)[::HELD_OUT_EVERY]):
        held.add(copies[subject][j % len(copies[subject])])
    return held


def parse_name(text: str, unicode_name: str) -> Emoji:
    """An emoji and its parts from its name as the package `emoji` writes it (":woman_astronaut_dark_skin_tone:")."""
    words = re.sub(r"[\s_:,()-]+", " ", unicode_name.replace("’", "'")).strip().lower()
    tones = "".join(_TONE.findall(words)).strip() or None
    subject = _TONE.sub("", words)
    if match := _COLOURED.fullmatch(subject):
        size, colour, rest = match.groups()
        return Emoji(text, words, f"{size} {rest}" if size else rest, colour)
    return Emoji(text, f"{subject} {tones}" if tones else subject, subject, tones=tones)


def _names() -> list[Emoji]:
    """Every fully-qualified emoji that is not a flag, in the package's order."""
    try:
        from emoji import EMOJI_DATA, STATUS
    except ImportError as error:
        raise AlphabarError("the data set emoji needs the package emoji: pip install 'alphabar[emoji]'") from error
    return [
        parse_name(text, entry["en"])
        for text, entry in EMOJI_DATA.items()
        if entry["status"] == STATUS["fully_qualified"] and not _is_flag(text)
    ]


def _is_flag(text: str) -> bool:
    """Countries are pairs of regional letters, their parts end with the cancel tag."""
    return "\U0001f1e6" <= text[0] <= "\U0001f1ff" or text[-1] == "\U000e007f"


@lru_cache(maxsize=1)
def _drawn(font: bytes, size: int, channels: int) -> tuple[list[Emoji], Tensor]:
    """Every emoji that the font has, then the recoloured copies, uint8 [N, channels, size, size].

    Drawing takes some seconds, so the result is kept in our cache; the file's name says what it was drawn from.
    """
    names = _names()
    key = hashlib.sha256(font)
    for part in (repr(names), Path(__file__).read_text(encoding="utf-8"), PIL.__version__):
        key.update(part.encode())
    path = cache_folder("emoji") / f"drawn-{size}x{size}x{channels}-{key.hexdigest()[:16]}.npz"
    # It may not be there, or be broken, which makes numpy's reader fail with nearly any exception.
    with contextlib.suppress(Exception), path.open("rb") as file, np.load(file) as kept:
        return [Emoji(**one) for one in json.loads(kept["emoji"].tobytes())], torch.from_numpy(kept["images"])
    emoji, images = _draw_all(font, names, size, channels)
    with contextlib.suppress(AlphabarError), atomic_file(path) as temporary, temporary.open("wb") as out:
        rows = np.frombuffer(json.dumps([asdict(one) for one in emoji]).encode(), np.uint8)
        np.savez_compressed(out, emoji=rows, images=images.numpy())
    return emoji, images


def _load_fribidi() -> None:
    """Give Pillow the library that its wheels expect on the system, from wherever it can be had.

    Pillow looks for it once, when its font module is imported, by the name that a loaded library has for the whole
    process. So the library is loaded, and then the module is imported anew.
    """
    (library,) = load(FRIBIDI, tuple(FRIBIDI.sums)).values()
    with tempfile.NamedTemporaryFile(prefix="libfribidi-") as file:
        file.write(library)
        file.flush()
        try:
            ctypes.CDLL(file.name, ctypes.RTLD_GLOBAL)  # stays when the file is gone
        except OSError as error:
            raise AlphabarError(f"cannot load FriBiDi ({error}); apt install libfribidi0") from error
    sys.modules.pop("PIL._imagingft", None)
    ImageFont.core = importlib.import_module("PIL._imagingft")
    if not features.check("raqm"):
        raise AlphabarError("this Pillow cannot join emoji into one picture: pip install --upgrade pillow")


def _draw_all(font: bytes, names: Sequence[Emoji], size: int, channels: int) -> tuple[list[Emoji], Tensor]:
    """As `_drawn`, without the cache."""
    if not features.check("raqm"):
        _load_fribidi()
    try:
        face = ImageFont.truetype(io.BytesIO(font), FONT_SIZE)
    except OSError as error:
        raise AlphabarError(f"{_BAD_FONT} ({error})") from error
    emoji: list[Emoji] = []
    pictures: list[NDArray[np.uint8]] = []
    thumbs: list[NDArray[np.uint8]] = []
    seen: set[bytes] = set()
    for one in names:
        if face.getlength(one.text) > UNSUPPORTED_WIDTH:
            continue
        picture = draw(one.text, face)
        content = picture.tobytes()
        # A tone that cannot be seen (snowboarders wear masks) would teach that tones mean nothing. Two names for one
        # picture without a tone ("family adult child", "family man boy") are both right, so both stay.
        if content.count(255) == len(content) or (one.tones and content in seen):
            continue
        seen.add(content)
        emoji.append(one)
        pictures.append(_finish(picture, size, channels))
        thumbs.append(np.asarray(picture.resize((THUMB, THUMB), Image.Resampling.BOX)))
    for one, copy in recolour(emoji, np.stack(thumbs), face):
        emoji.append(one)
        pictures.append(_finish(copy, size, channels))
    images = torch.from_numpy(np.stack(pictures)).reshape(len(pictures), size, size, channels)
    return emoji, images.permute(0, 3, 1, 2).contiguous()


def draw(text: str, face: ImageFont.FreeTypeFont) -> Image.Image:
    """One emoji on white, RGB, CANVAS x CANVAS."""
    picture = Image.new("RGB", (CANVAS, CANVAS), "white")
    ImageDraw.Draw(picture).text((0, 4), text, font=face, embedded_color=True)
    return picture


def _finish(picture: Image.Image, size: int, channels: int) -> NDArray[np.uint8]:
    square = picture.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(square.convert("L") if channels == 1 else square)


# --- Recoloured copies ------------------------------------------------------------------------------------------------

THUMB = 34
"""Objects are chosen on pictures of this size."""
OBJECTS = 60
"""How many objects are recoloured: those with the largest share of their pixels in one hue."""
FILLED = 0.2
"""Objects with less than this share of the picture in that hue are left out: too small to learn a colour from."""
SAME_HUE = np.pi / 9
"""An object is not recoloured to a colour whose hue is this close to its own."""
SAME_OUTLINE = 0.86
"""Intersection over union, both outlines scaled to one frame, from which two outlines are the same."""


def _outline(thumb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The object's shape in its own frame, [32, 32]; each row is filled from its first to its last pixel."""
    some = thumb.min(axis=2) < 240
    filled = np.logical_or.accumulate(some, axis=1) & np.logical_or.accumulate(some[:, ::-1], axis=1)[:, ::-1]
    ink = Image.fromarray(filled.astype(np.uint8) * 255)
    return np.asarray(ink.resize((32, 32), Image.Resampling.BILINEAR, box=ink.getbbox())) > 127


def recolour(
    emoji: Sequence[Emoji], thumbs: NDArray[np.uint8], face: ImageFont.FreeTypeFont
) -> list[tuple[Emoji, Image.Image]]:
    """The objects that are most of one saturated colour, in each of COLOURS but their own.

    Which objects: neither a person nor a face, none of the families with real colours, at least `FILLED` of the picture
    in one hue; of these the `OBJECTS` with the largest share of themselves in that hue, but none with the outline of a
    family or of another one: a yellow droplet in training would show a held-out yellow drop of blood.

    Args:
        emoji: all that the font has.
        thumbs: their pictures, [N, THUMB, THUMB, 3].
        face: the font.
    """
    place = {one.caption: i for i, one in enumerate(emoji)}
    references = [main_colour(thumbs[place[one]]) for one in _REFERENCES if one in place]
    targets = {colour: main for colour, main in zip(COLOURS, references, strict=False) if main is not None}
    if len(targets) < len(COLOURS) or not place.keys() >= set(_FAMILIES):
        raise AlphabarError(_BAD_FONT)
    outlines = [_outline(thumbs[place[family]]) for family in _FAMILIES]
    people = {one.subject for one in emoji if one.tones}
    candidates = []
    for one, thumb in zip(emoji, thumbs, strict=True):
        if one.colour or one.subject in people or _NOT_RECOLOURED.search(one.subject):
            continue
        own = main_colour(thumb)
        if own is not None and own.of_picture >= FILLED:
            candidates.append((one, own, _outline(thumb)))
    candidates.sort(key=lambda candidate: -candidate[1].of_object)
    copies: list[tuple[Emoji, Image.Image]] = []
    for one, own, outline in candidates:
        if len(outlines) == len(_FAMILIES) + OBJECTS:
            break
        if any((outline & other).sum() > SAME_OUTLINE * (outline | other).sum() for other in outlines):
            continue
        outlines.append(outline)
        picture = np.asarray(draw(one.text, face))
        for colour, target in _others(own, targets).items():
            copy = replace(one, caption=f"{colour} {one.subject}", colour=colour, recoloured=True)
            copies.append((copy, Image.fromarray(shift(picture, own, target))))
    return copies


def _others(own: Main, targets: Mapping[str, Main]) -> dict[str, Main]:
    """The target colours but the one nearest to the object's own, and any of nearly its hue."""
    nearest = min(targets, key=lambda colour: float(np.linalg.norm(targets[colour].lab - own.lab)))
    return {
        colour: target
        for colour, target in targets.items()
        if colour != nearest and abs(turn(target.hue, own.hue)) > SAME_HUE
    }
