"""`alphabar cost`: counted from shapes, against hand counts, measured ones and the published sizes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tiny
from alphabar.cli import cost
from alphabar.errors import AlphabarError
from alphabar.evaluate.cost import (
    count_autoencoder,
    count_call,
    count_denoiser,
    count_flops,
    count_spaces,
    count_text,
    peak_bytes,
)
from alphabar.models import save_autoencoder
from alphabar.nn import ClipTextConfig, ConvAutoencoderConfig, SmallUNetConfig, UNetConfig, build
from alphabar.stable_diffusion import sd15, sd21


def command(*words: str) -> int:
    """Run the command as the command line does."""
    top = argparse.ArgumentParser()
    cost.add_parser(top.add_subparsers())
    args = top.parse_args(["cost", *words])
    return int(args.run(args))


def meta(*shape: int) -> torch.Tensor:
    return torch.empty(*shape, device="meta")


def test_a_convolution_by_hand() -> None:
    conv = nn.Conv2d(3, 8, 3, padding=1, device="meta")
    x = meta(1, 3, 10, 12)
    assert count_call(lambda: conv(x)) == (2 * (10 * 12) * 8 * (3 * 9), 0, 4 * 8 * 10 * 12)


def test_attention_is_one_operation_that_holds_no_scores() -> None:
    q, k = meta(1, 2, 16, 8), meta(1, 2, 10, 8)
    products = 2 * 2 * (2 * 16 * 10 * 8)
    assert count_call(lambda: F.scaled_dot_product_attention(q, k, k)) == (products, products, 4 * 2 * 16 * 8)


def test_memory_is_what_is_alive_at_the_worst_moment() -> None:
    x = meta(1000)

    def work() -> torch.Tensor:
        first = x + 1  # 4,000
        second = torch.cat([first, first])  # 12,000
        del first  # 8,000
        view = second[:500]  # of the same storage
        return view * 2  # 10,000

    assert count_call(work).peak_bytes == 12_000
    assert count_call(lambda: x.view(10, 100)).peak_bytes == 0
    assert count_call(lambda: x.add_(1)).peak_bytes == 0


@pytest.mark.parametrize(
    "config",
    [
        SmallUNetConfig(channels=(8, 8, 16), emb_dim=16),
        UNetConfig(in_channels=1, out_channels=1, channels=(16, 32), blocks=1, attention=(1,), num_heads=2),
    ],
)
def test_counts_agree_with_a_run(config: SmallUNetConfig | UNetConfig) -> None:
    counted = count_denoiser(config, (1, 32, 32))
    network, x, t = build(config).eval(), torch.zeros(1, 1, 32, 32), torch.zeros(1, dtype=torch.int64)
    with torch.no_grad():
        assert counted.flops == count_flops(lambda: network(x, t))
        measured = peak_bytes(lambda: network(x, t))
    assert counted.values == 1024
    assert counted.parameters == sum(p.numel() for p in network.parameters())
    assert counted.peak_bytes <= measured < 4 * counted.peak_bytes  # the run has scratch memory too


def test_text_and_concat_are_given_to_a_network_that_takes_them() -> None:
    shape = {"channels": (16, 32), "blocks": 1, "attention": (1,), "num_heads": 2, "context_dim": 8}
    plain = count_denoiser(UNetConfig(**shape), (3, 8, 8), length=5)
    longer = count_denoiser(UNetConfig(**shape), (3, 8, 8), length=6)
    wider = count_denoiser(UNetConfig(**shape, extra_channels=2), (3, 8, 8), length=5)
    layers = 1 + 2 + 1  # blocks with attention on the way down, in the middle, on the way up
    one_token = layers * 2 * (2 * 8 * 32 + 2 * 16 * 32)  # keys and values; scores and their mixture over 4x4 pixels
    assert longer.flops - plain.flops == one_token
    assert wider.flops - plain.flops == 2 * 64 * 16 * 9 * 2


def test_stable_diffusion_has_its_published_sizes() -> None:
    one, two = sd15(), sd21()
    encode, decode = count_autoencoder(one.vae, 3, 512)
    latents = count_denoiser(one.unet, (4, 64, 64))
    assert latents.parameters == 859_520_964
    assert encode.parameters + decode.parameters == 83_653_863
    assert count_text(one.text, 77).parameters == 123_060_480
    assert count_denoiser(two.unet, (4, 96, 96)).parameters == 865_910_724
    assert encode.values == 48 * decode.values == 3 * 512 * 512
    assert round(latents.flops / 1e9) == 803  # about 400 billion multiply-adds, as is often told


def test_pixels_are_the_same_network_on_the_image() -> None:
    unet = UNetConfig(in_channels=4, out_channels=4, channels=(16, 32), blocks=1, attention=())
    vae = ConvAutoencoderConfig(image_channels=3, channels=(8, 8, 8), latent_channels=4)
    costs = count_spaces(unet, vae, None, 64, 3)
    assert costs.pixels is not None
    assert costs.latents is not None
    assert costs.pixels.shape == (3, 64, 64)
    assert costs.latents.shape == (4, 16, 16)
    edges = costs.latents.parameters - costs.pixels.parameters
    assert edges == 2 * 9 * 16 + 1  # one channel less at either end, and its bias
    assert costs.text is None


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert command(*words, "--json") == 0
    values: dict[str, Any] = json.loads(capsys.readouterr().out)
    return values


def test_a_model_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.latent_model().save(tmp_path / "model")
    values = printed(capsys, str(tmp_path / "model"), "--size", "16")
    assert values["size"] == 16
    assert values["pixels"]["shape"] == [1, 16, 16]
    assert values["latents"]["shape"] == values["decode"]["shape"] == [2, 8, 8]
    assert values["pixels_per_latents"]["values"] == 2
    assert values["text"] is None
    assert command(str(tmp_path / "model")) == 0
    table = capsys.readouterr().out
    assert "an image of 8x8" in table
    assert "nothing was run" in table


def test_models_of_pixels_and_autoencoders_have_fewer_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.pixel_model().save(tmp_path / "pixel")
    values = printed(capsys, str(tmp_path / "pixel"))
    assert values["latents"] is values["decode"] is values["pixels_per_latents"] is None
    assert command(str(tmp_path / "pixel")) == 0
    assert "latents" not in capsys.readouterr().out
    save_autoencoder(tiny.latent_codec(), 8, 1, {}, tmp_path / "vae")
    values = printed(capsys, str(tmp_path / "vae"))
    assert values["pixels"] is None
    assert values["encode"]["values"] == 64


def test_shapes_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("sd15", "--size", "64") == 0
    lines = capsys.readouterr().out
    assert "859,520,964" in lines
    assert "one image in 50 steps, guided" in lines


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("fashion-classifier",), "holds a classifier"),
        (("sd16",), "no model at 'sd16'"),
        (("sd15", "--size", "0"), "--size must be positive"),
        (("sd15", "--size", "100"), "multiple of 8, not 100x100"),
    ],
)
def test_mistakes_are_one_line(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(AlphabarError, match=message) as caught:
        command(*words)
    assert "\n" not in str(caught.value)


def test_a_text_tower_by_hand() -> None:
    config = ClipTextConfig(vocab_size=10, length=6, width=8, layers=1, num_heads=2, mlp=16)
    counted = count_text(config, 6)
    assert counted.attention_flops == 2 * 2 * 6 * 6 * 8
    assert counted.flops == counted.attention_flops + 2 * 6 * (4 * 8 * 8 + 2 * 8 * 16)
