"""Data sets: named ones and folders of images, what they give and what they refuse."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from alphabar import data
from alphabar.data import ArrayDataset, ImageFolder, datasets, fallback_dataset, open_dataset, to_uint8, to_unit
from alphabar.data.folder import hold_out
from alphabar.data.sources import NAMED_SETS, NamedSet, SourceError
from alphabar.errors import AlphabarError


@pytest.fixture(autouse=True)
def no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("ALPHABAR_DATA", raising=False)


def save(path: Path, pixels: object, mode: str | None = None, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.asarray(pixels, np.uint8))
    (image.convert(mode) if mode else image).save(path, **options)  # type: ignore[arg-type]
    return path


def flat(value: int = 200, size: int = 8) -> Image.Image:
    return Image.new("RGB", (size, size), (value, 10, 60))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six images in three formats, one of them in a folder below; and what is not an image."""
    folder = tmp_path / "photos"
    for i, name in enumerate(["b.png", "a.jpg", "c.webp", "below/d.PNG", "e.jpeg", "z.png"]):
        save(folder / name, flat(30 * i))
    (folder / "notes.txt").write_text("no image")
    save(folder / ".hidden" / "h.png", flat())
    save(folder / "._z.png", flat())
    return folder


def one(folder: Path, size: int = 8, channels: int = 3) -> Tensor:
    """The only image of a folder, [channels, size, size]."""
    dataset = ImageFolder(folder, "train", size, channels)
    assert len(dataset) == 1
    return dataset.rows([0])[0]


# --- converters -------------------------------------------------------------------------------------------------------


def test_converters_go_both_ways() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    unit = to_unit(every)
    assert unit.dtype == torch.float32
    assert (unit[0], unit[255]) == (-1, 1)
    assert torch.equal(to_uint8(unit), every)
    assert torch.equal(to_uint8(unit.bfloat16().double()), to_uint8(unit.bfloat16()))
    assert to_uint8(torch.tensor([-3.0, 3.0, 0.0])).tolist() == [0, 255, 128]
    with pytest.raises(TypeError, match=r"to_unit expects uint8 images, not torch\.float32"):
        to_unit(unit)


def test_the_exports_are_there() -> None:
    assert sorted(data.__all__) == sorted(set(data.__all__))
    assert all(hasattr(data, name) for name in data.__all__)


# --- named sets -------------------------------------------------------------------------------------------------------


def test_digits() -> None:
    train, test = open_dataset("digits"), open_dataset("digits", "test")
    assert (len(train), len(test)) == (1500, 297)
    assert (train.size, train.channels, train.name, train.captions) == (8, 1, "digits", None)
    assert train.class_names == tuple("0123456789")
    assert train.labels is not None
    assert train.labels[:4].tolist() == [0, 1, 2, 3]
    assert train.rows([3, 0]).shape == (2, 1, 8, 8)
    assert torch.equal(train.rows(torch.tensor([3, 0]))[1], train.rows([0])[0])
    large = open_dataset("digits", size=28, channels=3).rows([0])
    assert large.shape == (1, 3, 28, 28)
    assert large.dtype == torch.uint8
    assert torch.equal(large[:, 0], large[:, 2])
    assert abs(float(large.float().mean()) - float(train.rows([0]).float().mean())) < 3


def test_a_fingerprint_is_what_the_pixels_are() -> None:
    def of(**options: object) -> str:
        return open_dataset("digits", **options).fingerprint  # type: ignore[arg-type]

    assert of() == of()
    assert len({of(), of(split="test"), of(size=16), of(channels=3)}) == 4
    images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    labels = torch.tensor([0, 1])
    same = ArrayDataset("a", images, labels).fingerprint, ArrayDataset("b", images.clone(), labels).fingerprint
    assert same[0] == same[1]
    assert ArrayDataset("a", images).fingerprint != same[0]
    captioned = [ArrayDataset("a", images, captions=captions).fingerprint for captions in (["b", "c"], ["bc", ""])]
    assert len({*captioned, *same, ArrayDataset("a", images).fingerprint}) == 4


def test_arrays_of_another_shape_are_refused() -> None:
    images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"images must be uint8 \[N, C, H, H\], not torch.float32 \[2, 1, 4, 4\]"):
        ArrayDataset("a", images.float())
    with pytest.raises(ValueError, match=r"2 images need labels \[2\], not \[3\]"):
        ArrayDataset("a", images, torch.zeros(3))
    with pytest.raises(ValueError, match=r"2 images need 2 captions, not 1"):
        ArrayDataset("a", images, captions=["a dog"])
    with pytest.raises(ValueError, match=r"2 images need weights \[2\], not \[2, 1\]"):
        ArrayDataset("a", images, weights=torch.ones(2, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "mnits"}, "unknown dataset 'mnits': no such folder, and no set of that name; did you mean 'mnist'?"),
        (
            {"name": "some/folder"},
            "unknown dataset 'some/folder': no such folder, and no set of that name; "
            "known: digits, emoji, fashion-mnist, mnist",
        ),
        ({"name": "digits", "split": "tset"}, "unknown split 'tset'; did you mean 'test'?"),
        ({"name": "digits", "size": 0}, "the image size must be at least 1, not 0"),
        ({"name": "digits", "channels": 4}, "images have 1 channel (grey) or 3 (RGB), not 4"),
    ],
)
def test_bad_arguments(options: dict[str, object], message: str) -> None:
    with pytest.raises(AlphabarError) as error:
        open_dataset(**options)  # type: ignore[arg-type]
    assert str(error.value) == message


# --- the fallback -----------------------------------------------------------------------------------------------------


def without(name: str) -> NamedSet:
    named = NAMED_SETS[name]
    return NamedSet(name, named.counts, named.size, named.sums, named.class_names, (), ())


def test_the_demo_always_finds_data(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    sets = {"fashion-mnist": NAMED_SETS["digits"], "mnist": without("mnist"), "digits": NAMED_SETS["digits"]}
    monkeypatch.setattr(datasets, "NAMED_SETS", sets)
    assert fallback_dataset() == "fashion-mnist"
    assert capsys.readouterr().err == ""
    sets["fashion-mnist"] = without("fashion-mnist")
    assert fallback_dataset() == "digits"
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("alphabar: cannot get fashion-mnist; tried the cache (not there); ")
    assert first.endswith("; taking mnist instead")
    assert second.endswith("; taking digits instead")
    sets["digits"] = without("digits")
    with pytest.raises(AlphabarError, match="cannot get digits"):
        fallback_dataset()


# --- folders of images ------------------------------------------------------------------------------------------------


def test_a_folder(photos: Path) -> None:
    train, test = open_dataset(photos, size=8), open_dataset(str(photos), "test", size=8)
    assert isinstance(train, ImageFolder)
    assert isinstance(test, ImageFolder)
    assert sorted(train.files + test.files) == ["a.jpg", "b.png", "below/d.PNG", "c.webp", "e.jpeg", "z.png"]
    assert train.files == sorted(train.files)
    assert len(test) == 1
    assert (train.size, train.channels, train.name) == (8, 3, str(photos))
    assert train.labels is train.class_names is train.captions is None
    rows = train.rows(torch.tensor([0, 1]))
    assert rows.shape == (2, 3, 8, 8)
    index = train.files.index("z.png")
    assert train.rows([index])[0, :, 0, 0].tolist() == [150, 10, 60]
    assert open_dataset(photos, size=4, channels=1).rows([0]).shape == (1, 1, 4, 4)


def test_the_hold_out_is_stable() -> None:
    names = [f"{i}.png" for i in range(1000)]
    some, more = hold_out(names[:500]), hold_out(names)
    assert 10 < len(some["test"]) < 40
    assert sorted(some["train"] + some["test"]) == sorted(names[:500])
    assert set(some["test"]) < set(more["test"])  # images added later move none
    for n in range(2, 30):
        parts = hold_out(names[:n])
        assert len(parts["test"]) >= 1
        assert len(parts["train"]) >= 1
    assert hold_out(["a"]) == {"train": ["a"], "test": []}


def test_the_middle_square_is_taken_and_shrunk_smoothly(tmp_path: Path) -> None:
    wide = np.zeros((16, 48, 3), np.uint8)
    wide[:, 12:36] = 255  # the antialiasing looks a little beyond the square
    save(tmp_path / "wide" / "a.png", wide)
    assert one(tmp_path / "wide", 4).min() == 255
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    save(tmp_path / "stripes" / "a.png", stripes)
    grey = one(tmp_path / "stripes", 8, 1)
    assert int(grey.min()) > 110
    assert int(grey.max()) < 145
    save(tmp_path / "thin" / "a.png", np.full((1, 3000), 7, np.uint8))
    assert one(tmp_path / "thin", 512, 1).unique().tolist() == [7]


def test_a_large_jpeg_is_read_in_reduced_size(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 255, 256), (256, 1)).round()
    save(tmp_path / "a.jpg", ramp, quality=95)
    row = one(tmp_path, 16, 1)[0, 8].float()
    assert float((row - (torch.arange(16) * 16 + 7.5)).abs().max()) < 4


def test_exif_turns_the_image(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = 255  # bright on top as stored
    exif = Image.Exif()
    exif[0x0112] = 3  # shown upside down
    save(tmp_path / "a.png", pixels, exif=exif)
    image = one(tmp_path)
    assert image[:, 0].max() == 0
    assert image[:, 7].min() == 255


def test_transparent_is_white(tmp_path: Path) -> None:
    save(tmp_path / "rgba" / "a.png", Image.new("RGBA", (8, 8), (10, 20, 30, 0)))
    assert one(tmp_path / "rgba").min() == 255
    save(tmp_path / "la" / "a.png", Image.new("LA", (8, 8), (0, 128)))
    assert one(tmp_path / "la", channels=1).unique().tolist() == [127]
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([9, 9, 9])
    save(tmp_path / "p" / "a.png", palette, transparency=0)
    assert one(tmp_path / "p").min() == 255


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    deep = Image.fromarray(np.full((8, 8), 128 * 257, np.uint16))
    save(tmp_path / "a.png", deep)
    assert one(tmp_path, channels=1).unique().tolist() == [128]


def test_cmyk_and_two_colour_images(tmp_path: Path) -> None:
    save(tmp_path / "cmyk" / "a.jpg", Image.new("CMYK", (8, 8), (0, 0, 0, 0)))
    assert int(one(tmp_path / "cmyk").min()) > 250
    save(tmp_path / "bits" / "a.png", Image.new("1", (8, 8), 1))
    assert one(tmp_path / "bits").min() == 255


def test_a_folders_fingerprint_follows_its_content(photos: Path, tmp_path: Path) -> None:
    def of(folder: Path, split: str = "train", size: int = 8, channels: int = 3) -> str:
        return ImageFolder(folder, split, size, channels).fingerprint

    copy = tmp_path / "copy"
    for file in photos.rglob("*.*"):
        if file.is_file():
            target = copy / file.relative_to(photos)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    before = of(photos)
    assert of(copy) == before
    name = ImageFolder(copy, "train", 8, 3).files[0]
    told = [write_metadata(copy / "metadata.jsonl", {"file_name": name, "text": text}) and of(copy) for text in "ab"]
    assert len({before, *told}) == 3
    assert len({before, of(photos, "test"), of(photos, size=9), of(photos, channels=1)}) == 4
    train = ImageFolder(photos, "train", 8, 3)
    save(photos / train.files[0], flat(1))
    assert of(photos) != before
    (photos / train.files[0]).unlink()
    with pytest.raises(AlphabarError) as error:
        assert train.fingerprint
    assert str(error.value) == f"cannot read the image {photos / train.files[0]}: No such file or directory"


# --- captions ---------------------------------------------------------------------------------------------------------


def write_metadata(path: Path, *entries: object) -> Path:
    lines = [entry if isinstance(entry, str) else json.dumps(entry) for entry in entries]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_captions(photos: Path) -> None:
    write_metadata(
        photos / "metadata.jsonl",
        {"file_name": "a.jpg", "text": "eins"},
        "",
        {"file_name": "below/d.PNG", "text": "zwei ü"},
    )
    write_metadata(photos / "below" / "metadata.jsonl", {"file_name": "d.PNG", "text": "drei", "more": 1})
    found = {}
    for split in ("train", "test"):
        dataset = open_dataset(photos, split, size=8)
        assert isinstance(dataset, ImageFolder)
        assert dataset.captions is not None
        found.update(zip(dataset.files, dataset.captions, strict=True))
    # The file nearest to the image has the last word.
    assert found == {"a.jpg": "eins", "b.png": "", "below/d.PNG": "drei", "c.webp": "", "e.jpeg": "", "z.png": ""}


GOOD = {"file_name": "a.jpg", "text": "eins"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            '{"file_name": "a.jpg", ',
            "not valid JSON: Expecting property name enclosed in double quotes: line 1 column 24",
        ),
        ("[1]", "should be a JSON object, not list"),
        ({"text": "x"}, "needs 'file_name', a string"),
        ({"file_name": "a.jpg", "text": 3}, "needs 'text', a string"),
        ({"file_name": "gone.jpg", "text": "x"}, "no such image: gone.jpg"),
        ({"file_name": "../a.jpg", "text": "x"}, "no such image: ../a.jpg"),
    ],
)
def test_a_broken_line_of_metadata(photos: Path, line: object, message: str) -> None:
    path = write_metadata(photos / "metadata.jsonl", GOOD, line)
    with pytest.raises(AlphabarError) as error:
        open_dataset(photos, size=8)
    assert str(error.value).startswith(f"{path}, line 2: {message}")


def test_metadata_that_is_no_text(photos: Path) -> None:
    (photos / "metadata.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(AlphabarError, match=r"cannot read .*metadata\.jsonl: 'utf-8' codec can't decode"):
        open_dataset(photos, size=8)


# --- bad folders ------------------------------------------------------------------------------------------------------


def test_bad_folders(tmp_path: Path, photos: Path) -> None:
    def message(name: Path, split: str = "train", size: int | None = 8) -> str:
        with pytest.raises(AlphabarError) as error:
            open_dataset(name, split, size)
        return str(error.value)

    missing = tmp_path / "gone"
    assert message(missing).startswith(f"unknown dataset '{missing}': no such folder, and no set of that name; known: ")
    file = photos / "notes.txt"
    assert message(file) == f"{file} is a file; a dataset is a folder of images, or one of {', '.join(NAMED_SETS)}"
    missing.mkdir()
    assert message(missing) == f"no PNG, JPEG or WebP images in {missing}"
    save(missing / "a.png", flat())
    assert message(missing, "test") == f"{missing} has a single image: nothing is left for a test split"
    assert (
        message(photos, size=None) == f"{photos} is a folder of images: say which size they should have, as in size=64"
    )


def test_unreadable_images_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def message(path: Path) -> str:
        with pytest.raises(AlphabarError) as error:
            one(path.parent)
        assert "\n" not in str(error.value)
        return str(error.value)

    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3))
    for name in ("cut.png", "cut.jpg", "cut.webp"):
        path = save(tmp_path / name.replace(".", "-") / name, noise)
        path.write_bytes(path.read_bytes()[:-2000])
        assert message(path).startswith(f"cannot read the image {path}: ")
    text = tmp_path / "text" / "a.png"
    text.parent.mkdir()
    text.write_text("this is no image")
    assert message(text) == f"cannot read the image {text}: cannot identify image file '{text}'"
    link = tmp_path / "link" / "a.png"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "nowhere.png")
    assert message(link) == f"cannot read the image {link}: no such file"
    bomb = save(tmp_path / "bomb" / "a.png", Image.new("1", (500, 500)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    expected = "Image size (250000 pixels) exceeds limit of 2000 pixels, could be decompression bomb DOS attack."
    assert message(bomb) == f"cannot read the image {bomb}: {expected}"


def test_source_errors_are_no_user_errors() -> None:
    assert not issubclass(SourceError, AlphabarError)
