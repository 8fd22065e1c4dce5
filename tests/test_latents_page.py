"""`alphabar latents`: the page says what the codec does."""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

import tiny
from alphabar.cli import latents as cli
from alphabar.codec import LatentCodec
from alphabar.errors import AlphabarError
from alphabar.evaluate import mean_latents, psnr
from alphabar.models import save_autoencoder
from alphabar.report.latents import FRAMES, STRENGTHS, LatentLook, look, render_latents, slerp


def image(seed: int, size: int = 32) -> Tensor:
    """[1, 1, size, size] in [-1, 1]."""
    return torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def codec() -> LatentCodec:
    return tiny.latent_codec()


@pytest.fixture(scope="module")
def seen(codec: LatentCodec) -> LatentLook:
    return look(codec, image(0), image(1))


def test_an_arc_keeps_the_length_and_the_ends() -> None:
    a, b = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    assert torch.allclose(slerp(a, b, 0.0), a)
    assert torch.allclose(slerp(a, b, 1.0), b)
    assert torch.allclose(slerp(a, b, 1 / 3), torch.tensor([[3 * math.cos(math.pi / 6), 1.5]]))
    assert torch.allclose(slerp(a, 2 * a, 0.25), 1.25 * a)  # no angle: the straight line


def test_each_sample_has_its_own_arc() -> None:
    a, b = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    alone = torch.cat([slerp(a[k : k + 1], b[k : k + 1], 0.3) for k in range(2)])
    assert torch.allclose(slerp(a, b, 0.3), alone)


def test_in_and_out(codec: LatentCodec, seen: LatentLook) -> None:
    z = mean_latents(codec, image(0))
    assert torch.equal(seen.latents, z)
    assert torch.equal(seen.reconstruction, codec.decode(z))
    assert seen.psnr == float(psnr(codec.decode(z), image(0))[0])
    assert seen.ratio == 32 * 32 / (2 * 16 * 16)
    _, std = codec.moments(image(0)).chunk(2, dim=1)
    assert seen.std == pytest.approx((std[0].flatten(1).mean(1) / torch.tensor([1.5, 2.5])).tolist())


def test_without_a_channel_and_with_noise(codec: LatentCodec, seen: LatentLook) -> None:
    z = seen.latents.clone()
    z[:, 1] = z[:, 1].mean()
    assert torch.allclose(seen.without[1:], codec.decode(z), atol=1e-6)
    assert len(seen.without) == len(seen.psnr_without) == len(seen.r2) == 2
    assert len(seen.noisy) == len(STRENGTHS)
    assert torch.allclose(seen.noisy[:1], seen.reconstruction, atol=1e-6)
    errors = psnr(seen.noisy, seen.reconstruction.expand_as(seen.noisy)).tolist()
    assert errors == sorted(errors, reverse=True)


def test_the_walk_goes_from_one_to_the_other(codec: LatentCodec, seen: LatentLook) -> None:
    assert seen.walk is not None
    for row in seen.walk:
        assert row.shape == (FRAMES, 1, 32, 32)
    straight, arc, pixels = seen.walk
    assert torch.allclose(straight[0], seen.reconstruction[0], atol=1e-5)
    assert torch.allclose(arc[-1], codec.decode(mean_latents(codec, image(1)))[0], atol=1e-5)
    assert torch.allclose(pixels[1], torch.lerp(image(0), image(1), 1 / (FRAMES - 1))[0])


def test_tiles_are_compared_with_the_whole(codec: LatentCodec, seen: LatentLook) -> None:
    assert seen.tiled is not None
    assert seen.tiled.tile == 20
    error = codec.tiled(20).decode(seen.latents) - seen.reconstruction
    assert seen.tiled.largest == pytest.approx(float(error.abs().max()))
    assert 0 < seen.tiled.rms < seen.tiled.largest
    assert look(codec, image(0, 8)).tiled is None


def test_the_page_loads_nothing_and_says_the_numbers(seen: LatentLook) -> None:
    page = render_latents(seen, "a <b> in c", "alphabar latents c a", {"torch": "2"})
    assert not re.search(r"https?://|url\(|@import|<script|<link", page)
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'src="([^"]+)"', page))
    assert "a &lt;b&gt; in c" in page
    assert f"{seen.psnr:.1f} dB" in page
    assert "2×16×16" in page
    assert page.count("<section>") == page.count("</section>") == 5
    assert "In tiles of" not in page
    assert "tiles of 20 pixels instead of 32" in page


def test_one_small_image_has_fewer_sections(codec: LatentCodec) -> None:
    page = render_latents(look(codec, image(0, 8)), "a", "c", {})
    assert page.count("<section>") == 3
    flat = render_latents(look(codec, torch.zeros(1, 1, 8, 8)), "a", "c", {})
    assert "flat image" in flat


def command(*words: str) -> int:
    """Run the command as the command line does."""
    top = argparse.ArgumentParser()
    cli.add_parser(top.add_subparsers())
    args = top.parse_args(["latents", *words, "--device", "cpu"])
    return int(args.run(args))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_autoencoder(tiny.latent_codec(), 8, 1, {}, tmp_path / "vae")
    tiny.latent_model().save(tmp_path / "model")
    for name, colour in (("a.png", "red"), ("b.webp", "blue")):
        Image.new("RGB", (40, 20), colour).save(tmp_path / name)
    files = [str(tmp_path / "a.png"), str(tmp_path / "b.webp")]
    out = tmp_path / "page.html"
    assert command(str(tmp_path / "vae"), *files, "--out", str(out)) == 0
    assert "2x4x4 latents, 2 times fewer numbers" in capsys.readouterr().out
    assert "From one image to the other" in out.read_text(encoding="utf-8")
    assert command(str(tmp_path / "model"), files[0], "--size", "16", "--out", str(out)) == 0
    assert "2x8x8 latents" in capsys.readouterr().out
    assert "From one image to the other" not in out.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("fashion-vae", "a.png", "--out", "page.png"), "ends in .html"),
        (("fashion-vae", "none.png"), "cannot read the image none.png: no such file"),
        (("fashion-vae", "a.png", "--size", "0"), "--size must be positive"),
        (("fashion-pixel", "a.png"), "works on pixels"),
        (("fashion-classifier", "a.png"), "kind 'classifier'"),
    ],
)
def test_mistakes_are_one_line(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(AlphabarError, match=message) as caught:
        command(*words)
    assert "\n" not in str(caught.value)


def test_a_size_that_does_not_fit(tmp_path: Path) -> None:
    Image.new("L", (20, 20)).save(tmp_path / "a.png")
    with pytest.raises(AlphabarError, match="multiple of 4"):
        command("fashion-vae", str(tmp_path / "a.png"), "--size", "30", "--out", str(tmp_path / "page.html"))
