"""A run that was stopped, by whatever, ends as if it had not been: N = k + resume + (N - k), bitwise."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import tiny
from alphabar import models
from alphabar.train import RunStoppedError, train
from alphabar.train.checkpoint import latest_checkpoint


def overrides(kind: str, tmp_path: Path) -> dict[str, Any]:
    """Each task and both bookends."""
    if kind == "autoencoder":
        return {"task": "reconstruct", "network": tiny.AUTOENCODER}
    if kind == "classifier":
        return {"task": "classify", "network": {"type": "classifier"}}
    if kind == "latents":
        models.save_autoencoder(tiny.latent_codec(), 8, 1, {}, tmp_path / "codec")
        network = {"type": "unet", "in_channels": 2, "out_channels": 2, "channels": [8, 8], "blocks": 1}
        network |= {"attention": [], "emb_dim": 16, "dropout": 0.1}  # dropout too must draw the same again
        return {"codec": str(tmp_path / "codec"), "network": network, "process": {"clip": None}}
    return {}


@pytest.mark.parametrize("kind", ["pixels", "latents", "autoencoder", "classifier"])
def test_resuming_across_the_end_of_an_epoch(kind: str, tmp_path: Path) -> None:
    """With a batch of 400 of 1,500 digits, an epoch ends within step 4; the classifier's 28x28 stay in the first."""
    small = kind == "classifier"
    common = {**overrides(kind, tmp_path), "data": {"name": "digits", "size": 28 if small else 8}}
    settings = {"batch_size": 40 if small else 400, "lr_schedule": "constant", "log_every": 1}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(tiny.recipe(**common, train={**settings, "steps": 6}), whole, quiet=True)
    for stop in (2, 5, 6):
        train(tiny.recipe(**common, train={**settings, "steps": stop}), parts, resume=True, quiet=True)
    assert tiny.differing(tiny.run_state(parts), tiny.run_state(whole)) == []
    assert tiny.timeless(parts) == tiny.timeless(whole)
    assert [line["step"] for line in tiny.timeless(parts)] == [1, 2, 3, 4, 5, 6]


def command(recipe: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "alphabar", "train", str(recipe), "--out", str(out), *more]


def test_kill_minus_nine_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    """The real thing: a process of its own that gets SIGKILL while it trains, and `--resume`."""
    settings = {"steps": 40, "batch_size": 64, "log_every": 1}  # an epoch ends within step 24
    recipe = tiny.write_recipe(tmp_path / "tiny.toml", train={**settings, "checkpoint_seconds": 0.0})
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    child = subprocess.Popen(command(recipe, killed), stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not (killed / "checkpoints" / "step-00000003").is_dir():
        assert child.poll() is None, child.communicate()[1].decode()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    for hidden in (killed / ".model.cut", killed / "checkpoints" / ".step-00000009.cut"):  # as if in a write
        hidden.mkdir()
    reached = latest_checkpoint(killed)
    assert reached is not None
    assert reached.name < "step-00000023"
    models.load_model(killed)  # whole, whenever the kill came

    train(tiny.recipe(train=settings), killed, resume=True, quiet=True)
    train(tiny.recipe(train=settings), whole, quiet=True)
    assert tiny.differing(tiny.run_state(killed), tiny.run_state(whole)) == []
    assert not list(killed.rglob(".*"))
    assert models.read_card(killed)["steps"] == models.read_card(whole)["steps"] == 40
    assert tiny.timeless(killed) == tiny.timeless(whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_and_saves(number: signal.Signals, tmp_path: Path) -> None:
    endless = {"steps": 10**6, "lr_schedule": "constant", "log_every": 1}
    run = tmp_path / "run"

    def send() -> None:
        while not (run / "metrics.jsonl").exists():
            time.sleep(0.002)
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    thread = threading.Thread(target=send)
    thread.start()
    with pytest.raises(RunStoppedError, match=r"stopped at step \d+; continue with --resume"):
        train(tiny.recipe(train=endless), run, quiet=True)
    thread.join()
    assert signal.getsignal(number) is before
    folder = latest_checkpoint(run)
    assert folder is not None
    step = int(folder.name.removeprefix("step-"))

    finish = tiny.recipe(train={**endless, "steps": step + 2})
    train(finish, run, resume=True, quiet=True)
    train(finish, tmp_path / "whole", quiet=True)
    assert tiny.differing(tiny.run_state(run), tiny.run_state(tmp_path / "whole")) == []


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    train(tiny.recipe(), tmp_path / "run", quiet=True)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.safetensors")}
    lines = tiny.timeless(tmp_path / "run")
    train(tiny.recipe(), tmp_path / "run", resume=True, quiet=True)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.safetensors")} == before
    assert tiny.timeless(tmp_path / "run") == lines


def test_resuming_where_there_is_no_run_starts_one(tmp_path: Path) -> None:
    train(tiny.recipe(), tmp_path / "a", resume=True, quiet=True)
    train(tiny.recipe(), tmp_path / "b", quiet=True)
    assert tiny.differing(tiny.run_state(tmp_path / "a"), tiny.run_state(tmp_path / "b")) == []


def test_a_metrics_line_cut_short_by_a_kill_is_dropped(tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = {"lr_schedule": "constant"}
    train(tiny.recipe(train={**settings, "steps": 4}), run, quiet=True)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "images": 96, "lo')
    train(tiny.recipe(train={**settings, "steps": 6}), run, resume=True, quiet=True)
    assert [line["step"] for line in tiny.timeless(run)] == [2, 4, 6]
