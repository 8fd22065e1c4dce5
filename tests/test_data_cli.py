"""`alphabar data`: what it prints and writes."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from alphabar.cli import data as command
from alphabar.errors import AlphabarError


@pytest.fixture(autouse=True)
def no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("ALPHABAR_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


def call(*words: str) -> int:
    parser = argparse.ArgumentParser("alphabar")
    command.add_parser(parser.add_subparsers())
    args = parser.parse_args(["data", *words])
    return int(args.run(args))


def test_list_says_where_each_set_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "mnist          60,000 train  10,000 test  28x28 grey  not fetched yet"
    assert lines[2] == "digits          1,500 train     297 test    8x8 grey  in scikit-learn"
    assert lines[3].startswith("emoji           3,729 train      81 test  64x64 RGB   ")


def test_fetch(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("fetch", "digits") == 0
    assert capsys.readouterr().out == "digits: 1,797 images, in scikit-learn\n"
    with pytest.raises(AlphabarError, match="unknown dataset 'digit'; did you mean 'digits'"):
        call("fetch", "digit")


def test_show_writes_a_grid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("alphabar.report.grid")
    assert call("show", "digits", "-n", "9", "--split", "test", "--out", "here/d.png") == 0
    assert capsys.readouterr().out == "here/d.png: 9 of 297 images of digits, test split\n"
    with Image.open(tmp_path / "here" / "d.png") as image:
        assert image.format == "PNG"
        assert image.width > 3 * 72
        assert image.height > image.width  # room for the labels


def test_show_a_folder_with_and_without_captions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("alphabar.report.grid")
    for i in range(5):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.new("RGB", (99, 80), (0, 50 * i, 0)).save(tmp_path / "photos" / f"{i}.jpg")
    assert call("show", "photos", "-n", "2") == 0
    with Image.open("grid.png") as plain:
        height = plain.height
    (tmp_path / "photos" / "metadata.jsonl").write_text('{"file_name": "1.jpg", "text": "a green field"}\n')
    assert call("show", "photos", "-n", "2", "--size", "64") == 0
    with Image.open("grid.png") as captioned:
        assert captioned.height > height
    assert "grid.png: 2 of 4 images of photos, train split" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-n", "0"], "-n must be at least 1, not 0"),
        (["--out", "grid.jpg"], "--out grid.jpg: a grid is written as PNG; give it a name that ends in .png"),
        (["--size", "0"], "the image size must be at least 1, not 0"),
        (["--split", "valid"], "unknown split 'valid'; known: test, train"),
    ],
)
def test_show_refuses(words: list[str], message: str) -> None:
    pytest.importorskip("alphabar.report.grid")
    with pytest.raises(AlphabarError) as error:
        call("show", "digits", *words)
    assert str(error.value) == message


def test_help_has_examples_and_needs_no_torch() -> None:
    code = (
        "import argparse, sys; from alphabar.cli import data; p = argparse.ArgumentParser(); "
        "data.add_parser(p.add_subparsers()); assert 'torch' not in sys.modules; p.parse_args(['data', '--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "alphabar data fetch fashion-mnist" in done.stdout
