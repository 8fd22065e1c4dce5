"""The training loop: what it writes, what it leaves alone, and how its parts count."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

import alphabar
import tiny
from alphabar import models
from alphabar.data import open_dataset, to_unit
from alphabar.errors import AlphabarError
from alphabar.train import read_metrics, read_recipe, recipe_from_dict, train
from alphabar.train.checkpoint import latest_checkpoint
from alphabar.train.config import TrainConfig
from alphabar.train.ema import Ema
from alphabar.train.trainer import learning_rate

LATENT_UNET = {"type": "small-unet", "in_channels": 2, "out_channels": 2, "channels": [8, 8, 8], "emb_dim": 16}


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_what_a_run_leaves(tmp_path: Path) -> None:
    run = tmp_path / "run"
    recipe = tiny.recipe(train={"previews": 2, "steps": 8})
    assert train(recipe, run, quiet=True) == run / "model"
    names = {p.split("/")[0] for p in files(run)}
    assert names == {"checkpoints", "metrics.jsonl", "model", "recipe.json", "samples", "tensorboard"}
    assert recipe_from_dict(read_recipe(run), "again") == recipe
    lines = read_metrics(run)
    assert [(line["step"], line["images"]) for line in lines] == [(2, 32), (4, 64), (6, 96), (8, 128)]
    keys = {"step", "images", "seconds", "loss", "lr", "grad_norm", "images_per_second"}
    for line in lines:
        assert keys <= line.keys()
        assert {"loss_q1", "loss_q2", "loss_q3", "loss_q4"} <= line.keys()  # all noise levels at 32 images
    pictures = sorted((run / "samples").iterdir())
    assert len(pictures) == 2
    with Image.open(pictures[-1]) as picture:
        assert picture.width > 8 * 8
    card = models.read_card(run)
    assert (card["steps"], card["images_seen"], card["seed"], card["precision"]) == (8, 128, 0, "float32")
    assert card["recipe"] == json.loads(json.dumps(recipe.to_dict()))
    assert card["data_sha256"] == open_dataset("digits").fingerprint
    assert card["versions"] == {"alphabar": alphabar.__version__, "torch": torch.__version__}


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    train(tiny.recipe(train={"checkpoint_seconds": 0.0}), tmp_path, resume=True, quiet=True)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00000005", "step-00000006"]


def test_a_run_by_the_clock_ends(tmp_path: Path) -> None:
    train(tiny.recipe(train={"steps": None, "minutes": 0.005, "log_every": 1}), tmp_path / "run", quiet=True)
    line = read_metrics(tmp_path / "run")[-1]
    assert line["seconds"] >= 0.3
    assert models.read_card(tmp_path / "run")["steps"] == line["step"]


def test_the_loss_falls(tmp_path: Path) -> None:
    train(tiny.recipe(train={"steps": 60, "log_every": 15, "batch_size": 64}), tmp_path / "run", quiet=True)
    losses = [line["loss"] for line in read_metrics(tmp_path / "run")]
    assert losses[-1] < 0.8 * losses[0]


def test_two_stages_and_a_codec_that_no_bit_changes(tmp_path: Path) -> None:
    """Stage 2 trains on the frozen autoencoder of stage 1, with a latent scale fitted over the data."""
    first, second = tmp_path / "stage-1", tmp_path / "stage-2"
    train(tiny.recipe(task="reconstruct", network=tiny.AUTOENCODER, train={"previews": 1}), first, quiet=True)
    assert models.kind_of(first) == "autoencoder"
    line = read_metrics(first)[-1]
    assert line["loss"] == pytest.approx(line["reconstruction"] + 1e-3 * line["kl"], rel=1e-5)
    codec = models.load_autoencoder(first)
    images = to_unit(open_dataset("digits").rows(range(1500)))
    mean, std = codec.moments(images).chunk(2, dim=1)
    whitened = (mean - codec.shift.view(1, -1, 1, 1)) / codec.scale.view(1, -1, 1, 1)
    total = whitened.square() + (std / codec.scale.view(1, -1, 1, 1)).square()
    torch.testing.assert_close(total.mean((0, 2, 3)), torch.ones(2), rtol=1e-3, atol=1e-3)

    before = files(first)
    train(tiny.recipe(codec=str(first), network=LATENT_UNET, process={"clip": None}), second, quiet=True)
    assert files(first) == before
    assert models.load_model(second).codec.fingerprint == codec.fingerprint
    assert before["model/codec.safetensors"] == files(second)["model/codec.safetensors"]
    assert not any("autoencoder" in name or "codec" in name for name in tiny.run_state(second))
    assert len(list((tmp_path / "cache").iterdir())) == 1  # stage 1 encoded the data, stage 2 read that


def test_a_plain_autoencoder_has_no_divergence(tmp_path: Path) -> None:
    network = {**tiny.AUTOENCODER, "variational": False}
    recipe = tiny.recipe(task="reconstruct", network=network, loss={"reconstruction": "l1"})
    train(recipe, tmp_path / "run", quiet=True)
    line = read_metrics(tmp_path / "run")[-1]
    assert "kl" not in line
    assert line["loss"] == line["reconstruction"]


def test_the_classifier_learns(tmp_path: Path) -> None:
    train_section = {"steps": 25, "batch_size": 32, "log_every": 5, "lr": 4e-3, "previews": 1}
    data = {"name": "digits", "size": 28}
    recipe = tiny.recipe(task="classify", network={"type": "classifier"}, data=data, train=train_section)
    train(recipe, tmp_path / "run", quiet=True)
    lines = read_metrics(tmp_path / "run")
    assert lines[-1]["accuracy"] > lines[0]["accuracy"] + 0.2
    assert models.load_classifier(tmp_path / "run")


def test_a_nan_is_told_and_the_last_checkpoint_stays(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny.recipe(train={"steps": 4}), run, quiet=True)
    before = {name: data for name, data in files(run).items() if name.startswith(("checkpoints/", "model/"))}
    with pytest.raises(AlphabarError) as error:
        train(tiny.recipe(train={"steps": 9, "lr": 1e30}), run, resume=True, quiet=True)
    assert str(error.value) == (
        "the loss is nan near step 6: lower train.lr or use train.precision=float32; "
        f"the last checkpoint in {run} is still good"
    )
    after = files(run)
    assert {name: after[name] for name in before} == before
    train(tiny.recipe(train={"steps": 9}), run, resume=True, quiet=True)
    assert latest_checkpoint(run) == run / "checkpoints" / "step-00000009"


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    with pytest.raises(AlphabarError, match=r"weights are not finite at step 2; nothing was saved, lower train.lr"):
        train(
            tiny.recipe(train={"lr": 1e30, "log_every": 100, "checkpoint_seconds": 0.0}), tmp_path / "run", quiet=True
        )
    assert not (tmp_path / "run" / "checkpoints" / "step-00000002").exists()


def test_the_average_of_weights() -> None:
    """It holds that theta' = d theta' + (1 - d) theta, with d at most (1 + n) / (10 + n)."""
    network = nn.BatchNorm1d(2)
    ema = Ema(network, 0.9)
    expected = 1.0
    for step in range(1, 200):
        with torch.no_grad():
            network.weight.fill_(math.sin(step))
            network.running_mean.fill_(step)
        ema.update(network, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * math.sin(step)
        assert ema.network.weight.tolist() == pytest.approx([expected] * 2, abs=1e-5)
        assert ema.network.running_mean.tolist() == [step, step]
    assert not ema.network.training
    assert not any(p.requires_grad for p in ema.network.parameters())
    assert network.weight.requires_grad


def test_the_learning_rate() -> None:
    cosine = TrainConfig(steps=100, lr=1.0, warmup_steps=4)
    rates = [learning_rate(cosine, step, step / 100) for step in range(101)]
    assert rates[:4] == pytest.approx([0.2 * k * (1 + math.cos(math.pi * (k - 1) / 100)) / 2 for k in (1, 2, 3, 4)])
    assert rates[50] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0.0)
    assert learning_rate(cosine, 500, 1.7) == pytest.approx(0.0)
    constant = TrainConfig(steps=100, lr=1.0, warmup_steps=4, lr_schedule="constant")
    assert [learning_rate(constant, step, step / 100) for step in (0, 3, 4, 99)] == pytest.approx([0.2, 0.8, 1, 1])
    assert learning_rate(TrainConfig(steps=1, lr=1.0, warmup_steps=0), 0, 0.0) == 1.0


def test_gradients_are_clipped_and_their_norm_told(tmp_path: Path) -> None:
    train(tiny.recipe(train={"clip_norm": 1e-9, "weight_decay": 0.0}), tmp_path / "a", quiet=True)
    assert all(line["grad_norm"] > 0.1 for line in read_metrics(tmp_path / "a"))
    state = tiny.run_state(tmp_path / "a")
    assert max(t.abs().max().item() for name, t in state.items() if name.endswith("exp_avg")) <= 1e-9


@pytest.mark.parametrize("what", [{"seed": 1}, {"lr": 1e-4}, {"batch_size": 8}])
def test_what_the_weights_depend_on(what: dict[str, Any], tmp_path: Path) -> None:
    train(tiny.recipe(), tmp_path / "a", quiet=True)
    train(tiny.recipe(train=what), tmp_path / "b", quiet=True)
    assert tiny.differing(tiny.run_state(tmp_path / "a"), tiny.run_state(tmp_path / "b"))


def test_how_images_are_read_changes_nothing(tmp_path: Path) -> None:
    """Threads that read ahead, pictures and checkpoints on the way: the weights are the same to the bit."""
    train(tiny.recipe(), tmp_path / "a", quiet=True)
    busy = {"previews": 3, "checkpoint_seconds": 0.0, "log_every": 1}
    train(tiny.recipe(data={"workers": 3}, train=busy), tmp_path / "b", quiet=True)
    assert tiny.differing(tiny.run_state(tmp_path / "a"), tiny.run_state(tmp_path / "b")) == []


def test_bf16_trains(tmp_path: Path) -> None:
    train(tiny.recipe(train={"precision": "bf16"}), tmp_path / "run", quiet=True)
    assert all(math.isfinite(line["loss"]) for line in read_metrics(tmp_path / "run"))
    assert models.read_card(tmp_path / "run")["precision"] == "bf16"
    assert all(t.dtype == torch.float32 for t in tiny.run_state(tmp_path / "run").values())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler
def test_where_compiling_fails_training_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where torch itself refuses to compile, the run is the one of eager mode, to the bit."""
    with torch.compiler.set_stance("fail_on_recompile"):
        train(tiny.recipe(train={"compile": True}), tmp_path / "a", quiet=True)
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith("alphabar: torch.compile failed (")
    assert err.endswith("); training in eager mode\n")
    train(tiny.recipe(), tmp_path / "b", quiet=True)
    assert tiny.differing(tiny.run_state(tmp_path / "a"), tiny.run_state(tmp_path / "b")) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler
def test_a_compiled_run_is_an_eager_one_up_to_rounding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tiny.recipe(train={"compile": True}), tmp_path / "a", quiet=True)
    assert capsys.readouterr().err == ""
    train(tiny.recipe(), tmp_path / "b", quiet=True)
    for one, other in zip(tiny.timeless(tmp_path / "a"), tiny.timeless(tmp_path / "b"), strict=True):
        assert one == pytest.approx(other, rel=1e-3)
    assert models.load_model(tmp_path / "a").settings == models.load_model(tmp_path / "b").settings


def test_what_is_told_at_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tiny.recipe(), tmp_path / "run")
    first = capsys.readouterr().err.splitlines()[0]
    assert first == (
        f"tiny: denoise, 13,209 parameters, 1,500 images of digits, cpu float32, 1 process(es) -> {tmp_path / 'run'}"
    )


def test_metrics_of_no_run(tmp_path: Path) -> None:
    with pytest.raises(AlphabarError, match=r"is not a run folder: it has no metrics.jsonl"):
        read_metrics(tmp_path)
    with pytest.raises(AlphabarError, match=r"cannot read .*recipe.json: No such file"):
        read_recipe(tmp_path)


def test_the_tests_use_one_thread() -> None:
    assert torch.get_num_threads() == 1
    assert os.environ["OMP_NUM_THREADS"]
