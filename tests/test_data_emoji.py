"""The emoji set: what its captions say, what is held out, how often each row is drawn. Draws the real font."""

import hashlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from alphabar.cli import main
from alphabar.data import Loader, emoji, open_dataset
from alphabar.data.colour import from_oklab, main_colour, shift, to_oklab
from alphabar.data.emoji import (
    COLOURS,
    HELD_OUT_REAL,
    OBJECTS,
    RECOLOURED_SHARE,
    TONE_WEIGHT,
    TONES,
    Emoji,
    EmojiDataset,
    parse_name,
)
from alphabar.data.sources import NAMED_SETS, load, locate
from alphabar.errors import AlphabarError

FONT = "NotoColorEmoji.ttf"
DEBIAN_12 = "e5899ed38b8ed83e08bd3ac5de09791e9d19d288333a796de1d35ad17396f1ec"


@pytest.fixture(scope="session")
def font(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the font: from this machine, or fetched through the library; the user's cache stays as it is."""
    named, folder = NAMED_SETS["emoji"], tmp_path_factory.mktemp("font")
    with pytest.MonkeyPatch.context() as patch:
        if locate(named) is None:
            patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        (folder / FONT).write_bytes(load(named, [FONT])[FONT])
    return folder


def opened(font: Path, split: str, size: int | None = None, channels: int | None = None) -> EmojiDataset:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(font / "cache"))  # drawn once for all tests
        dataset = open_dataset("emoji", split, size, channels, root=font)
    assert isinstance(dataset, EmojiDataset)
    return dataset


@pytest.fixture
def few(train: EmojiDataset, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Emoji]]:
    """Only some emoji are known, which are drawn in no time; those whose colours are referred to are among them."""
    names = [one for one in emoji._names() if one.colour or one.subject in {"red heart", "seedling", "t-rex"}]
    monkeypatch.setattr(emoji, "_names", lambda: names)
    emoji._drawn.cache_clear()
    yield names
    emoji._drawn.cache_clear()


@pytest.fixture(scope="session")
def train(font: Path) -> EmojiDataset:
    return opened(font, "train")


@pytest.fixture(scope="session")
def test(font: Path, train: EmojiDataset) -> EmojiDataset:
    return opened(font, "test")


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unicode_name", "caption", "subject", "colour", "tones"),
    [
        (":woman_astronaut:", "woman astronaut", "woman astronaut", None, None),
        (
            ":woman_astronaut_medium-dark_skin_tone:",
            "woman astronaut medium dark skin tone",
            "woman astronaut",
            None,
            "medium dark skin tone",
        ),
        (
            ":person_light_skin_tone_white_hair:",
            "person white hair light skin tone",
            "person white hair",
            None,
            "light skin tone",
        ),
        (
            ":kiss_man_man_dark_skin_tone_medium-light_skin_tone:",
            "kiss man man dark skin tone medium light skin tone",
            "kiss man man",
            None,
            "dark skin tone medium light skin tone",
        ),
        (":light_blue_heart:", "light blue heart", "heart", "light blue", None),
        (":large_orange_diamond:", "large orange diamond", "large diamond", "orange", None),
        (":orange_circle:", "orange circle", "circle", "orange", None),
        (":leafy_green:", "leafy green", "leafy green", None, None),
        (":A_button_(blood_type):", "a button blood type", "a button blood type", None, None),
        (":four_o’clock:", "four o'clock", "four o'clock", None, None),
    ],
)
def test_a_name_and_its_parts(
    unicode_name: str, caption: str, subject: str, colour: str | None, tones: str | None
) -> None:
    one = parse_name("x", unicode_name)
    assert (one.caption, one.subject, one.colour, one.tones) == (caption, subject, colour, tones)


def test_captions_have_one_form(train: EmojiDataset, test: EmojiDataset) -> None:
    captions = [*train.captions, *test.captions]
    assert len(set(captions)) == len(captions)
    assert all(caption == " ".join(caption.lower().split()) for caption in captions)
    assert not {character for caption in captions for character in caption} & set("_:,()-’")
    assert not any("flag " in caption and "skin" in caption for caption in captions)
    for dataset in (train, test):
        for caption, subject, tones in zip(dataset.captions, dataset.subjects, dataset.tones, strict=True):
            assert not tones or caption == f"{subject} {tones}"
    assert {"pizza", "woman astronaut dark skin tone", "red apple", "keycap 3"} <= set(train.captions)


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_the_pictures(font: Path, train: EmojiDataset, test: EmojiDataset) -> None:
    assert (train.name, train.size, train.channels, train.labels, train.class_names) == ("emoji", 64, 3, None, None)
    assert train.images.shape == (len(train), 3, 64, 64)
    assert train.images.dtype == torch.uint8
    if hashlib.sha256((font / FONT).read_bytes()).hexdigest() == DEBIAN_12:
        assert (len(train), len(test)) == NAMED_SETS["emoji"].counts
    everything = torch.cat([train.images, test.images]).flatten(1)
    assert (everything != 255).any(dim=1).all()  # nothing is blank
    apple = train.rows([train.captions.index("red apple")])[0].float()
    assert apple[:, 0, 0].tolist() == [255, 255, 255]
    middle = apple[:, 28:36, 28:36].mean(dim=(1, 2))
    assert middle[0] > 2 * middle[1:].max()  # red


def test_a_tone_that_cannot_be_seen_is_left_out(train: EmojiDataset) -> None:
    assert [caption for caption in train.captions if caption.startswith("snowboarder")] == ["snowboarder"]
    pictures: dict[bytes, list[str]] = {}
    for caption, image in zip(train.captions, train.images, strict=True):
        pictures.setdefault(image.numpy().tobytes(), []).append(caption)
    shared = [captions for captions in pictures.values() if len(captions) > 1]
    assert not any("skin tone" in caption for captions in shared for caption in captions)


def test_another_size_and_grey_are_the_same_set(font: Path, few: list[Emoji]) -> None:
    test, small = opened(font, "test"), opened(font, "test", size=16, channels=1)
    assert small.captions == test.captions
    assert small.images.shape == (len(test), 1, 16, 16)
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    means = (test.images.float() * weights).sum(1, keepdim=True).unfold(2, 4, 4).unfold(3, 4, 4).mean((-1, -2))
    assert (small.images.float() - means).abs().mean() < 6  # Lanczos against a box
    assert small.fingerprint != test.fingerprint


def test_what_was_drawn_is_kept_and_drawn_again_where_it_is_broken(font: Path, few: list[Emoji]) -> None:
    first, other = opened(font, "train", size=24), opened(font, "train", size=25)  # the memory holds one size
    (path,) = (font / "cache" / "alphabar" / "emoji").glob("drawn-24x24x3-*.npz")
    content, written = path.read_bytes(), path.stat().st_mtime_ns
    again = opened(font, "train", size=24)
    assert path.stat().st_mtime_ns == written
    assert again.images.data_ptr() != first.images.data_ptr()
    for broken in (b"", content[:-1000], content[:5000] + bytes(100) + content[5100:]):
        path.write_bytes(broken)
        emoji._drawn.cache_clear()
        drawn = opened(font, "train", size=24)
        assert path.read_bytes() == content
        assert first.fingerprint == again.fingerprint == drawn.fingerprint != other.fingerprint
        assert first.subjects == again.subjects == drawn.subjects
        assert first.weights is not None
        assert again.weights is not None
        assert torch.equal(first.weights, again.weights)


def test_other_names_are_drawn_anew(font: Path, few: list[Emoji]) -> None:
    before = opened(font, "train", size=24)
    few.remove(next(one for one in few if one.caption == "yellow heart"))
    emoji._drawn.cache_clear()
    assert len(opened(font, "train", size=24)) == len(before) - 1


# --- held out ---------------------------------------------------------------------------------------------------------


def test_no_held_out_pair_is_in_the_train_split(train: EmojiDataset, test: EmojiDataset) -> None:
    assert not set(train.captions) & set(test.captions)

    def pairs(dataset: EmojiDataset) -> set[tuple[str, str | None, str | None]]:
        return set(zip(dataset.subjects, dataset.colours, dataset.tones, strict=True))

    assert not pairs(train) & pairs(test)
    kinds = Counter(
        "copy" if copy else "tone" if tones else "real" for copy, tones in zip(test.recoloured, test.tones, strict=True)
    )
    assert kinds == {"real": 10, "tone": 51, "copy": 20}
    assert set(test.captions) >= HELD_OUT_REAL


def test_nothing_in_the_train_split_looks_like_a_held_out_shape(train: EmojiDataset, test: EmojiDataset) -> None:
    pooled = F.avg_pool2d(train.images.float(), 4)
    for i in (i for i, tones in enumerate(test.tones) if not tones):
        others = [j for j, subject in enumerate(train.subjects) if subject != test.subjects[i] and not train.tones[j]]
        one = F.avg_pool2d(test.images[i].float(), 4)
        distances = (pooled[others] - one).square().mean(dim=(1, 2, 3)).sqrt()
        assert distances.min() > 25, (test.captions[i], train.captions[others[int(distances.argmin())]])  # of 255


def test_every_part_of_a_held_out_pair_is_seen_elsewhere(train: EmojiDataset, test: EmojiDataset) -> None:
    colours, tones = Counter(train.colours), Counter(train.tones)
    shapes = Counter(zip(train.subjects, [c is not None for c in train.colours], strict=True))
    people = Counter(zip(train.subjects, [t is not None for t in train.tones], strict=True))
    real = Counter(c for c, copy in zip(train.colours, train.recoloured, strict=True) if not copy)
    for subject, colour, tone, copy in zip(test.subjects, test.colours, test.tones, test.recoloured, strict=True):
        if tone:
            assert people[subject, True] == 4  # the other tones
            assert people[subject, False] == 1  # and without one
            assert tones[tone] > 100
        else:
            assert colours[colour] >= 3
            assert shapes[subject, True] >= 2
            assert copy or real[colour] >= 2


def test_the_hold_out_spreads(train: EmojiDataset, test: EmojiDataset) -> None:
    held = Counter(tones for tones in test.tones if tones)
    assert held.keys() == {f"{tone} skin tone" for tone in TONES}
    assert min(held.values()) >= 9
    for kind in ("man ", "woman ", "person "):
        assert sum(subject.startswith(kind) for subject in test.subjects) == 17
    copies = {colour for colour, copy in zip(test.colours, test.recoloured, strict=True) if copy}
    assert copies == set(COLOURS)


def test_class_ids_are_one_numbering_of_the_subjects(train: EmojiDataset, test: EmojiDataset) -> None:
    number = dict(zip(train.subjects, train.class_ids.tolist(), strict=True))
    assert len(set(number.values())) == len(number)
    assert [number[subject] for subject in test.subjects] == test.class_ids.tolist()
    assert test.class_ids.dtype == torch.int64


# --- recoloured copies ------------------------------------------------------------------------------------------------


def test_oklab_comes_back_and_knows_its_white() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (50, 3), dtype=np.uint8)
    assert np.array_equal(from_oklab(to_oklab(rgb)), rgb)
    assert np.allclose(to_oklab(np.array([255, 255, 255], np.uint8)), [1, 0, 0], atol=1e-6)
    assert np.allclose(to_oklab(np.array([255, 0, 0], np.uint8)), [0.62796, 0.22486, 0.12585], atol=1e-4)


def test_a_shift_moves_the_main_colour_and_leaves_greys() -> None:
    picture = np.full((9, 9, 3), 255, np.uint8)
    picture[1:6], picture[6:8] = (30, 140, 60), (50, 50, 50)
    target = main_colour(np.full((4, 4, 3), (142, 36, 170), np.uint8))
    own = main_colour(picture)
    assert own is not None
    assert target is not None
    assert own.of_object == pytest.approx(5 / 7)
    assert own.of_picture == pytest.approx(5 / 9)
    moved = shift(picture, own, target)
    assert np.abs(moved[1:6].astype(int) - (142, 36, 170)).max() <= 1
    assert np.array_equal(moved[6:], picture[6:])
    assert np.array_equal(moved[0], picture[0])
    assert main_colour(picture[6:]) is None


def test_copies_are_objects_in_the_colour_that_they_say(train: EmojiDataset, test: EmojiDataset) -> None:
    objects = set()
    everything = dict(zip(train.captions, train.images, strict=True))
    for dataset in (train, test):
        for i in [i for i, copy in enumerate(dataset.recoloured) if copy]:
            subject, colour = dataset.subjects[i], dataset.colours[i]
            assert dataset.captions[i] == f"{colour} {subject}"
            assert subject in everything  # the object in its own colour
            objects.add(subject)
    assert len(objects) == OBJECTS
    assert not {"heart", "heart suit", "circle", "closed book", "grinning face", "raised hand", "tomato"} & objects
    balloon = everything["blue seedling"].float().mean(dim=(1, 2))
    assert balloon.argmax() == 2
    own = everything["seedling"].float().mean(dim=(1, 2))
    assert own.argmax() == 1


# --- weights ----------------------------------------------------------------------------------------------------------


def test_the_weights_and_what_the_loader_draws(train: EmojiDataset, test: EmojiDataset) -> None:
    assert test.weights is None
    assert train.weights is not None
    assert train.weights.dtype == torch.float64
    copy = torch.tensor(train.recoloured)
    tone = torch.tensor([tones is not None for tones in train.tones])
    assert (train.weights[tone] == TONE_WEIGHT).all()
    assert (train.weights[~tone & ~copy] == 1).all()
    assert float(train.weights[copy].sum() / train.weights.sum()) == pytest.approx(RECOLOURED_SHARE)
    epochs = 20
    loader = Loader(train, len(train), seed=0)
    counts = torch.bincount(torch.cat([next(loader).indices for _ in range(epochs)]), minlength=len(train)) / epochs
    assert float(counts[copy].sum() / counts.sum()) == pytest.approx(RECOLOURED_SHARE, rel=0.01)
    assert float(counts[tone].mean() / counts[~tone & ~copy].mean()) == pytest.approx(TONE_WEIGHT, rel=0.02)
    plain = counts[~tone & ~copy]
    assert plain.min() > 0.8 * plain.mean()
    assert plain.max() < 1.2 * plain.mean()


# --- bad inputs and the command ---------------------------------------------------------------------------------------


def test_without_the_package(font: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "emoji", None)
    with pytest.raises(AlphabarError) as error:
        open_dataset("emoji", size=20, root=font)
    assert str(error.value) == "the data set emoji needs the package emoji: pip install 'alphabar[emoji]'"


def test_without_fribidi(font: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL._imagingft.HAVE_RAQM", False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AlphabarError) as error:
        open_dataset("emoji", size=20, root=font)
    assert str(error.value) == (
        "cannot get fribidi; tried the cache (not there), the Debian archive (no apt-get on this machine); "
        "or apt install libfribidi0: without it Pillow does not join emoji into one picture"
    )
    monkeypatch.setenv("ALPHABAR_DATA", str(tmp_path))
    (tmp_path / "libfribidi.so.0").write_bytes(b"\x7fELF and nothing more")
    with pytest.raises(AlphabarError, match=r"^cannot load FriBiDi \(.*\); apt install libfribidi0$"):
        open_dataset("emoji", size=20, root=font)


JOIN = """
from PIL import ImageFont, features
assert not features.check("raqm")
from alphabar.data.emoji import FONT_SIZE, _load_fribidi
_load_fribidi()
face = ImageFont.truetype("NotoColorEmoji.ttf", FONT_SIZE)
assert face.getlength("\N{WOMAN}\N{ZERO WIDTH JOINER}\N{ROCKET}") < 140
"""


def test_a_fetched_fribidi_joins(font: Path, tmp_path: Path) -> None:
    """In a process of its own that does not see the system's library, where the system lets us make one."""
    system = next(Path("/usr/lib").glob("*-linux-*/libfribidi.so.0"), None)
    if system is None:
        pytest.skip("FriBiDi is not installed here, so every other test of this file tells")
    (tmp_path / "libfribidi.so.0").write_bytes(system.read_bytes())
    hidden = ["unshare", "-rm", "sh", "-c", f'mount --bind /dev/null {system.resolve()} && exec "$@"', "sh"]
    try:
        subprocess.run([*hidden, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no mount namespaces here, so the system's FriBiDi cannot be hidden")
    command = [*hidden, sys.executable, "-W", "error", "-c", JOIN]
    environment = {**os.environ, "ALPHABAR_DATA": str(tmp_path)}
    done = subprocess.run(command, cwd=font, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_without_the_font(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    if locate(NAMED_SETS["emoji"]) is not None:
        pytest.skip("the Debian package is installed here, so the font cannot be missing")
    with pytest.raises(AlphabarError) as error:
        open_dataset("emoji", root=tmp_path / "empty")
    assert str(error.value) == (
        f"cannot get emoji; tried {tmp_path / 'empty'} (no {FONT}[.gz] in it), the Debian package "
        "fonts-noto-color-emoji (not there), the cache (not there), the Debian archive (no apt-get on this machine); "
        f"or apt install fonts-noto-color-emoji, or name a folder that has {FONT}: --root DIR"
    )


def test_a_font_that_cannot_be_drawn(tmp_path: Path) -> None:
    (tmp_path / FONT).write_bytes(b"\0\1\0\0 and nothing more")
    with pytest.raises(AlphabarError, match=r"^NotoColorEmoji\.ttf is not the bitmap font that Pillow can draw; take"):
        open_dataset("emoji", root=tmp_path)


def test_the_command(
    font: Path, train: EmojiDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALPHABAR_DATA", str(font))
    monkeypatch.setenv("XDG_CACHE_HOME", str(font / "cache"))
    assert main(["data", "fetch", "emoji"]) == 0
    assert capsys.readouterr().out == f"emoji: 3,810 images, in {font}\n"
    assert main(["data", "show", "emoji", "-n", "9", "--out", str(tmp_path / "e.png")]) == 0
    assert f"9 of {len(train):,} images of emoji, train split" in capsys.readouterr().out
    assert (tmp_path / "e.png").stat().st_size > 5_000
