"""Many processes, accumulation and one large batch are three ways to take the same step."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tiny
from alphabar import models
from alphabar.train import train

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "alphabar"]


def assert_close(one: Path, other: Path) -> None:
    """To float32 tolerance: the same numbers were added in another order.

    Adam divides each gradient by its own size: weights whose gradient is nothing but rounding would take steps of full
    size in random directions; no weight of this network is such a one.
    """
    a, b = tiny.run_state(one), tiny.run_state(other)
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        torch.testing.assert_close(tensor, b[name], rtol=1e-3, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")
    for left, right in zip(tiny.timeless(one), tiny.timeless(other), strict=True):
        assert left == pytest.approx(right, rel=1e-4)


def test_accumulating_two_batches_is_one_of_twice_the_size(tmp_path: Path) -> None:
    train(tiny.recipe(train={"batch_size": 32}), tmp_path / "large", quiet=True)
    train(tiny.recipe(train={"batch_size": 16, "accumulate": 2}), tmp_path / "twice", quiet=True)
    assert_close(tmp_path / "large", tmp_path / "twice")


def test_two_processes_are_one_with_twice_the_batch(tmp_path: Path) -> None:
    """Two gloo processes on the CPU, on latents: the first encodes, writes and draws pictures while the other waits."""
    models.save_autoencoder(tiny.latent_codec(), 8, 1, {}, tmp_path / "codec")
    network = {"type": "small-unet", "in_channels": 2, "out_channels": 2, "channels": [8, 8, 8], "emb_dim": 16}
    more = {"codec": str(tmp_path / "codec"), "network": network}
    settings = {"log_every": 1, "checkpoint_seconds": 0.0, "previews": 1}
    recipe = tiny.write_recipe(tmp_path / "tiny.toml", **more, train={**settings, "batch_size": 16})
    command = [*LAUNCH, "train", str(recipe), "--out", str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "2 process(es)" in done.stderr
    train(tiny.recipe(**more, train={**settings, "batch_size": 32}), tmp_path / "one", quiet=True)
    assert_close(tmp_path / "one", tmp_path / "two")
    assert len(list((tmp_path / "two" / "samples").iterdir())) == 1


def test_two_processes_say_once_what_is_wrong(tmp_path: Path) -> None:
    """The second waits for the first to open the data, which it cannot; neither hangs nor shows a traceback of ours."""
    command = [*LAUNCH, "train", "digits-pixel", "--data", str(tmp_path / "missing"), "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode != 0
    assert done.stderr.count("alphabar: error: unknown dataset") == 1
    assert "src/alphabar" not in done.stderr
    assert not (tmp_path / "run").exists()
