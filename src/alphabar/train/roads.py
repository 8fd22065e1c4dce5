"""The two roads of the argument, each trained for the same time: what the demo and the benchmark tables run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alphabar.models import read_card
from alphabar.train.config import load_recipe
from alphabar.train.trainer import train

VAE_SHARE = 0.3
"""Of the latent road's budget, what stage 1 may train for at most; encoding the data once comes on top."""
VAE_MINUTES = 2.0
"""Stage 1 trains no longer than this, so that a long budget goes to the denoiser."""


def train_pixel_road(out: Path, minutes: float, overrides: Sequence[str] = ()) -> Path:
    """Train `fashion-pixel` into `out/pixel` (or continue there); returns the run folder."""
    run = out / "pixel"
    train(load_recipe("fashion-pixel", [f"train.minutes={minutes}", *overrides]), run, resume=True)
    return run


def train_latent_road(out: Path, minutes: float, overrides: Sequence[str] = ()) -> Path:
    """Train `fashion-vae` and then, for what is left of the time, `fashion-latent` on its latents.

    Returns the run folder of the second stage, `out/latent`; the first is in `out/vae`.
    """
    vae, run = out / "vae", out / "latent"
    first = min(minutes * VAE_SHARE, VAE_MINUTES)
    train(load_recipe("fashion-vae", [f"train.minutes={first}", *overrides]), vae, resume=True)
    card = read_card(vae)
    left = max(minutes - (card["train_seconds"] + card["encode_seconds"]) / 60, minutes / 10)
    train(load_recipe("fashion-latent", [f"train.minutes={left}", f"codec={str(vae)!r}", *overrides]), run, resume=True)
    return run
