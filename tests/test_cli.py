"""The commands as a user runs them, on tiny real runs: train, sample, evaluate, compare."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from alphabar.cli import main, parser
from tiny import AUTOENCODER, write_recipe


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pixel road and a latent road on digits, trained through the command line."""
    root = tmp_path_factory.mktemp("runs")
    pixel = write_recipe(root / "pixel.toml", train={"previews": 1})
    vae = write_recipe(root / "vae.toml", task="reconstruct", network=AUTOENCODER, train={"previews": 1})
    network = {"type": "small-unet", "channels": [8, 8, 8], "emb_dim": 16, "in_channels": 2, "out_channels": 2}
    latent = write_recipe(root / "latent.toml", network=network, codec=str(root / "vae"))
    for recipe in (pixel, vae, latent):
        assert main(["train", str(recipe), "--out", str(root / recipe.stem)]) == 0
    return root


def picture(path: Path) -> tuple[int, int, int]:
    """Width, height and number of frames."""
    with Image.open(path) as image:
        return image.width, image.height, getattr(image, "n_frames", 1)


@pytest.mark.parametrize("command", ["demo", "train", "sample", "evaluate", "compare", "data", "bench"])
def test_help_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parser().parse_args([command, "--help"])
    assert stop.value.code == 0
    assert "examples:" in capsys.readouterr().out


def test_a_run_leaves_what_it_promises(runs: Path) -> None:
    run = runs / "pixel"
    assert {p.name for p in run.iterdir()} >= {"recipe.json", "metrics.jsonl", "samples", "checkpoints", "model"}
    assert list((run / "tensorboard").iterdir())
    assert picture(next((run / "samples").glob("*.png")))[0] > 8
    card = json.loads((run / "model" / "model.json").read_text())["card"]
    assert card["steps"] == 6
    assert card["images_seen"] == 96
    assert {"recipe", "seed", "data_sha256", "commit", "train_seconds"} <= card.keys()


def test_a_second_run_in_the_same_folder_is_refused(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(runs / "pixel.toml"), "--out", str(runs / "pixel")]) == 2
    assert "add --resume" in capsys.readouterr().err


def test_overrides_may_stand_anywhere(runs: Path, tmp_path: Path) -> None:
    recipe = str(runs / "pixel.toml")
    assert (
        main(["train", recipe, "train.seed=7", "--out", str(tmp_path / "run"), "train.steps=1", "train.lr=1e-3"]) == 0
    )
    made = json.loads((tmp_path / "run" / "recipe.json").read_text())["train"]
    assert (made["steps"], made["seed"], made["lr"]) == (1, 7, 1e-3)


def test_unknown_options_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["sample", "fashion-pixel", "--setps", "4"])
    assert "unrecognized arguments: --setps 4" in capsys.readouterr().err


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "heun", "dpmpp-2m"])
@pytest.mark.parametrize("road", ["pixel", "latent"])
def test_sample_writes_a_grid_and_a_walk(runs: Path, tmp_path: Path, road: str, sampler: str) -> None:
    out, walk = tmp_path / "grid.png", tmp_path / "walk.gif"
    options = ["-n", "3", "--sampler", sampler, "--steps", "4", "--out", str(out), "--trajectory", str(walk)]
    assert main(["sample", str(runs / road), *options]) == 0
    assert picture(out)[0] >= 2 * 64
    assert picture(walk)[2] >= 4


def test_evaluate_a_denoiser(runs: Path, tmp_path: Path) -> None:
    assert main(["evaluate", str(runs / "pixel"), "-n", "4", "--steps", "3", "--out", str(tmp_path)]) == 0
    numbers = json.loads((tmp_path / "evaluation.json").read_text())
    assert len(numbers["single_prediction_mse"]) == 5
    assert len(numbers["loss_by_quartile_of_t"]) == 4
    assert {p.name for p in tmp_path.glob("*.png")} == {"single-prediction.png", "samples.png"}


def test_evaluate_an_autoencoder_in_its_run_folder(runs: Path) -> None:
    assert main(["evaluate", str(runs / "vae"), "-n", "20"]) == 0
    out = runs / "vae" / "evaluation"
    assert json.loads((out / "evaluation.json").read_text())["psnr_db"] > 0
    assert {p.name for p in out.glob("*.png")} == {"ladder.png", "interpolation.png"}


def test_compare_writes_a_self_contained_page(runs: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert main(["compare", str(runs / "pixel"), str(runs / "latent"), "-n", "8", "--out", str(page)]) == 0
    html = page.read_text()
    assert not re.search(r'(?:src|href)="https?:', html)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["pixel"]["values_per_image"] == 64
    assert summary["latent"]["values_per_image"] == 32
    assert summary["latent"]["parameters"] > 0


def test_compare_refuses_two_roads_of_one_kind(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(runs / "pixel"), str(runs / "pixel"), "-n", "8"]) == 2
    assert "the second run must be one on latents" in capsys.readouterr().err


def test_the_command_line_starts_without_torch() -> None:
    code = "import sys, alphabar.cli as c; c.parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_system_error_is_one_line(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("not a folder")
    walk = tmp_path / "file" / "walk.gif"
    options = ["-n", "1", "--steps", "2", "--out", str(tmp_path / "grid.png"), "--trajectory", str(walk)]
    assert main(["sample", str(runs / "pixel"), *options]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("alphabar: error: ")


@pytest.mark.slow
def test_the_demo_from_nothing_to_a_report(tmp_path: Path) -> None:
    """On scikit-learn's digits, enlarged: what a machine without any data set would see."""
    out = tmp_path / "demo"
    assert main(["demo", "--data", "digits", "--minutes", "0.05", "-n", "64", "--out", str(out)]) == 0
    assert (out / "report.html").stat().st_size > 100_000
    summary = json.loads((out / "summary.json").read_text())
    assert summary["pixel"]["seconds_ddpm1000_n64"] > 0
    assert summary["latent"]["train_seconds"] > 0
