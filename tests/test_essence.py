"""The idea on one screen runs, on both roads, and its two listings differ in one line."""

from __future__ import annotations

import pytest
import torch

from alphabar.codec import Codec, PixelCodec
from alphabar.diffusion import Process, make_prediction, make_schedule
from alphabar.essence import draw, listings, pixel_bookends, train_step
from alphabar.nn import SmallUNetConfig, build
from alphabar.rng import Rng
from tiny import latent_codec


@pytest.mark.parametrize("road", ["pixel", "latent"])
def test_both_roads_train_and_sample_with_the_same_lines(road: str) -> None:
    codec: Codec = PixelCodec(1) if road == "pixel" else latent_codec()
    channels = codec.shape(1, 8, 8)[1]
    torch.manual_seed(0)
    network = build(SmallUNetConfig(in_channels=channels, out_channels=channels, channels=(16, 16, 16), emb_dim=16))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    process = Process(make_schedule("cosine"), make_prediction("v"))
    images = torch.zeros(8, 1, 8, 8)
    losses = [train_step(codec, process, network, optimizer, images, Rng(0, range(8), f"step {k}")) for k in range(150)]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    drawn = draw(codec, process, network.eval(), 3, 8, Rng(0, range(3), "draw"))
    assert drawn.shape == (3, 1, 8, 8)
    assert torch.isfinite(drawn).all()


def test_the_pixel_bookends_do_nothing() -> None:
    codec, channels = pixel_bookends()
    images = torch.randn(2, channels, 4, 4)
    assert codec.decode(codec.encode(images, Rng(0, range(2), "x"))) is images


def test_the_listings_differ_in_the_bookends_only() -> None:
    pixel, latent = (listing.splitlines() for listing in listings())
    different = [pair for pair in zip(pixel, latent, strict=True) if pair[0] != pair[1]]
    assert different == [
        ("codec, channels = PixelCodec(channels=1), 1", "codec, channels = load_autoencoder(autoencoder), 4")
    ]
