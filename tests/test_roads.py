"""Both roads get the same time, and the latent road's autoencoder is paid from its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from alphabar.models import load_model, read_card
from alphabar.train import train_latent_road, train_pixel_road

MINUTES = 0.03
SETTINGS = ["data.name='digits'", "data.size=28", "train.batch_size=4", "train.previews=0"]


def test_the_pixel_road_trains_for_its_minutes(tmp_path: Path) -> None:
    card = read_card(train_pixel_road(tmp_path, MINUTES, SETTINGS))
    assert card["train_seconds"] >= 60 * MINUTES - 0.1
    assert card["steps"] > 1


def test_the_latent_road_pays_for_its_autoencoder(tmp_path: Path) -> None:
    run = train_latent_road(tmp_path, MINUTES, SETTINGS)
    card, first = read_card(run), read_card(tmp_path / "vae")
    assert card["codec_seconds"] == pytest.approx(first["train_seconds"] + first["encode_seconds"])
    whole, least = 60 * MINUTES - card["codec_seconds"], 6 * MINUTES  # a tenth of the time at the least
    assert card["recipe"]["train"]["minutes"] * 60 == pytest.approx(max(whole, least))
    assert load_model(run).codec.fingerprint != "pixels"
    assert len(list((tmp_path / "cache").glob("moments-*.npy"))) == 1
