"""The command line with words: prompts, images, masks and Stable Diffusion's files, on untrained weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from alphabar.cli import main
from alphabar.report.grid import image_grid, save_png
from alphabar.stable_diffusion import load, random_pipeline, save_folder, sd15
from tiny import pixel_model, word_model


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion 1.x in diffusers' layout."""
    full = sd15()
    unet = replace(full.unet, channels=(128, 128), blocks=1, attention=(0,), num_heads=4, emb_dim=512, context_dim=32)
    vae = replace(full.vae, channels=(128, 128), encoder_blocks=1, decoder_blocks=2)
    text = replace(full.text, vocab_size=600, width=32, layers=2, num_heads=4, mlp=64)
    out = tmp_path_factory.mktemp("sd") / "folder"
    save_folder(random_pipeline(replace(full, unet=unet, vae=vae, text=text, size=32)), out)
    return out


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("words") / "model"
    word_model().save(out)
    return out


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    save_png(image_grid(torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(0)), 1), path)
    return path


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_a_row_for_each_prompt(words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "x.png"
    prompts = ("--prompt", "red heart", "--prompt", "blue circle")
    assert run("sample", words, *prompts, "-n", 3, "--steps", 4, "--out", out, "--trajectory", tmp_path / "w.gif") == 0
    said = capsys.readouterr().out
    assert f"{out}: 6 images, ddim in 4 steps, guidance 2, seed 0" in said
    with Image.open(out) as sheet, Image.open(tmp_path / "w.gif") as walk:
        assert sheet.width > sheet.height
        assert getattr(walk, "n_frames", 1) == 4


def test_one_prompt_is_sixteen_pictures(words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("sample", words, "--prompt", "man", "--steps", 2, "--out", tmp_path / "x.png") == 0
    assert "16 images" in capsys.readouterr().out


def test_what_a_prompt_has_no_room_for_is_said(words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ("sample", words, "-n", 1, "--steps", 1, "--out", tmp_path / "x.png")
    assert run(*common, "--prompt", "red heart") == 0
    assert capsys.readouterr().err == ""
    assert run(*common, "--prompt", "red heart " * 4, "--negative", "blue") == 0
    assert "a prompt is too long by 'heart red heart red heart', which is not read" in capsys.readouterr().err


def test_a_walk_shows_as_many_images_as_are_drawn(tmp_path: Path) -> None:
    pixel_model().save(tmp_path / "model")
    walk = tmp_path / "w.gif"
    large = ("--size", 256, "--steps", 1, "--out", tmp_path / "x.png", "--trajectory", walk)
    assert run("sample", tmp_path / "model", *large) == 0  # one by default
    with Image.open(walk) as frame:
        assert frame.height < 512


def pixels(path: Path) -> list[int]:
    with Image.open(path) as image:
        return list(image.convert("RGB").tobytes())


def test_stable_diffusion_whole_and_one_stage_at_a_time(pipeline: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "one.png", tmp_path / "other.png"
    common = ("sample", pipeline, "--prompt", "a red fox", "--negative", "blurred", "--steps", 2)
    assert run(*common, "--out", one) == 0
    assert run(*common, "--out", other, "--low-memory") == 0
    worst = max(abs(a - b) for a, b in zip(pixels(one), pixels(other), strict=True))
    assert worst <= 1


def test_an_image_is_varied_and_filled_in(pipeline: Path, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.png"
    common = ("sample", pipeline, "--prompt", "a fox", "--image", photo, "--steps", 4, "--out", out)
    assert run(*common, "--strength", 0.5) == 0
    mask = Image.new("L", (40, 40))
    mask.paste(255, (20, 0, 40, 40))
    mask.save(tmp_path / "mask.png")
    assert run(*common, "--mask", tmp_path / "mask.png") == 0
    assert run(*common, "--size", 64) == 0
    with Image.open(out) as image:
        assert image.size >= (64, 64)


def test_conversion_there_and_back(pipeline: Path, tmp_path: Path) -> None:
    single, folder, own = tmp_path / "one.safetensors", tmp_path / "folder", tmp_path / "own"
    tokenizer = ("--tokenizer", pipeline / "tokenizer")
    assert run("convert", pipeline, single, "--to", "single-file") == 0
    assert run("convert", single, folder, "--to", "diffusers", *tokenizer) == 0
    assert run("convert", folder, own, "--to", "alphabar") == 0
    pictures = tmp_path / "theirs.png", tmp_path / "ours.png"
    for path, out in zip((pipeline, own), pictures, strict=True):  # with the same spacing, offset and guidance
        assert run("sample", path, "--prompt", "a fox", "--steps", 2, "-n", 1, "--out", out) == 0
    assert max(abs(a - b) for a, b in zip(*map(pixels, pictures), strict=True)) <= 1
    before, after = load(pipeline), load(folder)
    for one, other in ((before.network, after.network), (before.codec.autoencoder, after.codec.autoencoder)):  # type: ignore[attr-defined]
        assert all(
            torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("sample", "fashion-latent", "--prompt", "shoe"),
            "fashion-latent was trained without words: leave out --prompt",
        ),
        (("sample", "WORDS", "--low-memory"), "--low-memory, --prediction and --tokenizer are for Stable Diffusion"),
        (("sample", "WORDS", "--strength", "0.5"), "--mask and --strength are about an image: name it with --image"),
        (("sample", "WORDS", "--image", "no.png"), "cannot read the image no.png: no such file"),
        (
            ("sample", "WORDS", "--prompt", "a", "--steps", "2", "--rescale", "2"),
            "guidance rescale must lie in 0..1, got 2.0",
        ),
        (
            ("sample", "WORDS", "--guidance", "5"),
            "--negative, --guidance, --rescale and --interval are about words: give it a --prompt",
        ),
        (
            ("sample", "WORDS", "--prompt", "a", "--interval", "9", "3"),
            "guidance acts from the lower timestep to the higher: 3 9, not 9 3",
        ),
        (
            ("convert", "WORDS", "x", "--to", "alphabar", "--prediction", "v"),
            "--prediction and --tokenizer are for Stable Diffusion's files, not WORDS",
        ),
        (("sample", "WORDS", "-n", "0"), "-n must be at least 1, got 0"),
        (("convert", "SD", "x", "--to", "single-file"), "x: a single file ends in .safetensors, and a folder does not"),
        (("convert", "SD", "SD", "--to", "diffusers"), "SD exists; choose another place, nothing is written over"),
        (("convert", "SD", "x", "--to", "alphabar", "--fp16"), "alphabar's folders are float32: leave out --fp16"),
    ],
)
def test_bad_input_is_one_line(
    arguments: tuple[str, ...], message: str, words: Path, pipeline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"WORDS": words, "SD": pipeline}
    assert run(*(names.get(argument, argument) for argument in arguments)) == 2
    message = message.replace("SD ", f"{pipeline} ").replace("WORDS", str(words))
    assert capsys.readouterr().err.splitlines()[-1] == f"alphabar: error: {message}"
