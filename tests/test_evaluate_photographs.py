"""Photographs through an autoencoder: where they come from, what is measured, what the command writes."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import words
from alphabar import models
from alphabar.cli import main
from alphabar.codec import LatentCodec
from alphabar.evaluate import Rebuilt, find_photographs, psnr, rebuild_photographs
from alphabar.evaluate import photographs as module
from alphabar.nn import PerceptualLoss
from tiny import Autoencoder, ConvAutoencoderConfig, network


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with two photographs, which fails when it is imported; a third file and another package lack."""
    folder = tmp_path / "site" / "someimages"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    for name, size in (("wide.png", (60, 40)), ("tall.png", (40, 80))):
        Image.linear_gradient("L").resize(size).convert("RGB").save(folder / "data" / name)
    monkeypatch.syspath_prepend(folder.parent)
    known = {
        "wide": ("someimages", "data/wide.png"),
        "gone": ("someimages", "data/gone.png"),
        "other": ("a_package_that_is_not_there", "data/wide.png"),
        "tall": ("someimages", "data/tall.png"),
    }
    monkeypatch.setattr(module, "PHOTOGRAPHS", known)
    return folder


class Levels(torch.nn.Module):
    """Sees the pixels."""

    def features_by_level(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [x]


def codec() -> LatentCodec:
    autoencoder = network(ConvAutoencoderConfig(3, (8, 8), 2))
    assert isinstance(autoencoder, Autoencoder)
    return LatentCodec(autoencoder)


def test_photographs_are_found_and_no_package_is_imported(package: Path) -> None:
    found = find_photographs(24)
    assert list(found) == ["wide", "tall"]
    assert all(photo.shape == (1, 3, 24, 24) for photo in found.values())
    assert found["wide"].min() >= -1
    assert found["wide"].max() <= 1
    assert found["wide"][0, 0, 12].std() < 0.01  # the gradient runs down
    assert found["wide"][0, 0, :, 12].diff().min() > 0


def test_the_real_ones_are_where_we_look() -> None:
    for name in ("sklearn", "skimage"):
        pytest.importorskip(name)
    assert list(find_photographs(8)) == list(module.PHOTOGRAPHS)


def test_each_is_rebuilt_alone_and_measured(package: Path) -> None:
    bookends, metric = codec(), PerceptualLoss(Levels())
    rebuilt = rebuild_photographs(bookends, metric, 24)
    assert [one.name for one in rebuilt] == ["wide", "tall"]
    for one in rebuilt:
        assert one.original.shape == one.reconstruction.shape == one.difference.shape == (3, 24, 24)
        assert one.psnr == float(psnr(one.reconstruction[None], one.original[None]))
        assert one.perceptual == float(metric(one.reconstruction[None], one.original[None]))
        assert not one.reconstruction.requires_grad
    assert torch.equal(rebuild_photographs(bookends, None, 24)[1].reconstruction, rebuilt[1].reconstruction)
    assert rebuild_photographs(bookends, None, 24)[0].perceptual is None


def test_the_difference_is_four_times_as_bright() -> None:
    original = torch.zeros(3, 1, 3)
    back = original + torch.tensor([0.0, -0.1, 0.9])
    difference = Rebuilt("x", original, back, 0.0, None).difference
    torch.testing.assert_close(difference[0, 0], torch.tensor([-1.0, -0.6, 1.0]))


def test_the_command_reports_them(package: Path, tmp_path: Path) -> None:
    data = words.data(tmp_path / "pictures")
    torch.manual_seed(2)
    models.save_autoencoder(codec(), 16, 3, {"recipe": {"data": data}}, tmp_path / "vae")
    assert main(["evaluate", str(tmp_path / "vae"), "--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())["photographs"]
    assert list(found) == ["wide", "tall"]
    assert all(3 < one["psnr_db"] < 60 for one in found.values())
    with Image.open(tmp_path / "out" / "photographs.png") as sheet:
        assert sheet.size == (3 * 514 + 2, 2 * 514 + 2)
