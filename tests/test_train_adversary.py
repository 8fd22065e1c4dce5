"""The first stage with a perceptual distance and a discriminator: what learns when, by how much, and what is kept."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tiny
from alphabar import models
from alphabar.data import Loader, open_dataset, to_unit
from alphabar.errors import AlphabarError, nearest
from alphabar.io import hash_tensors, load_tensors
from alphabar.models import shipped
from alphabar.nn import Classifier, ClassifierConfig, build
from alphabar.nn.perceptual import PerceptualLoss
from alphabar.train import Recipe, read_metrics, train
from alphabar.train.checkpoint import latest_checkpoint
from alphabar.train.tasks import Task, make_task

CPU = torch.device("cpu")
DISCRIMINATOR = {"image_channels": 1, "width": 8, "layers": 1}
LOSS: dict[str, Any] = {"adversarial_weight": 0.5, "discriminator": DISCRIMINATOR}
CONSTANT = {"lr_schedule": "constant", "log_every": 1}


def recipe(loss: dict[str, Any] | None = None, **overrides: Any) -> Recipe:
    """An autoencoder of digits; `loss` adds to an adversarial one, {} to a plain one."""
    overrides = {"task": "reconstruct", "network": tiny.AUTOENCODER, **overrides}
    return tiny.recipe(**overrides, loss=LOSS if loss is None else loss)


def classifier(folder: Path, size: int = 8, channels: int = 1) -> Path:
    network = tiny.network(ClassifierConfig(in_channels=channels, channels=(4, 8)))
    models.save_classifier(network, size, channels, {}, folder)
    return folder


def test_resuming_before_at_and_after_the_start(tmp_path: Path) -> None:
    loss = {**LOSS, "adversarial_start": 2, "perceptual": str(classifier(tmp_path / "judge"))}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(recipe(loss, train={**CONSTANT, "steps": 6}), whole, quiet=True)
    for stop in (1, 2, 4, 6):
        train(recipe(loss, train={**CONSTANT, "steps": stop}), parts, resume=True, quiet=True)
    state = tiny.run_state(whole)
    assert tiny.differing(tiny.run_state(parts), state) == []
    assert tiny.timeless(parts) == tiny.timeless(whole)
    assert any(name.startswith("adversary-optimizer: ") for name in state)
    lines = read_metrics(whole)
    assert ["adversary" in line for line in lines] == [False, False, True, True, True, True]
    assert all("perceptual" in line for line in lines)


def test_until_it_starts_nothing_is_another(tmp_path: Path) -> None:
    """And where there is none, a checkpoint has the files that it always had."""
    plain, late = tmp_path / "plain", tmp_path / "late"
    train(recipe({}), plain, quiet=True)
    train(recipe({**LOSS, "adversarial_start": 6}), late, quiet=True)
    one, other = tiny.run_state(plain), tiny.run_state(late)
    assert {name.split(":")[0] for name in one} == {"network", "ema", "optimizer"}
    assert [name for name, tensor in one.items() if not torch.equal(tensor, other[name])] == []
    assert {name.split(":")[0] for name in other.keys() - one.keys()} == {"adversary-network"}  # no optimizer step yet


def test_it_is_no_part_of_the_model(tmp_path: Path) -> None:
    train(recipe({}), tmp_path / "plain", quiet=True)
    train(recipe(), tmp_path / "with", quiet=True)
    files = {path.name for path in (tmp_path / "with" / "model").iterdir()}
    assert files == {path.name for path in (tmp_path / "plain" / "model").iterdir()}
    plain, other = (load_tensors(tmp_path / run / "model" / "codec.safetensors") for run in ("plain", "with"))
    assert plain.keys() == other.keys()
    assert any(not torch.equal(plain[name], other[name]) for name in plain)


def started(loss: dict[str, Any] | None = None) -> tuple[Task, Tensor]:
    """A task with the loss of its first batch, a number with gradients."""
    made = recipe(loss)
    torch.manual_seed(0)
    dataset = open_dataset("digits")
    task = make_task(made, dataset, build(made.network), Path(), CPU)
    return task, task.loss(task.network, next(Loader(dataset, 16, seed=0))).per_sample.mean()


def gradients(loss: Tensor, network: nn.Module) -> Tensor:
    """Of the decoder's last weight."""
    assert isinstance(network.decoder, nn.Module)
    return torch.autograd.grad(loss, network.decoder.conv_out.weight, retain_graph=True)[0]  # type: ignore[arg-type, union-attr]


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_it_pulls_as_hard_as_the_reconstruction_times_its_weight(weight: float) -> None:
    task, loss = started({**LOSS, "adversarial_weight": weight, "kl_weight": 0.0})
    plain, reconstruction = started({"kl_weight": 0.0})
    own = gradients(reconstruction, plain.network)
    pull = gradients(loss, task.network) - own
    torch.testing.assert_close(pull.norm(), weight * own.norm(), rtol=1e-3, atol=0)


def test_each_learns_from_its_own_loss_alone() -> None:
    task, loss = started()
    assert task.adversary is not None
    loss.backward()
    assert all(p.grad is None for p in task.adversary.parameters())
    before = {name: p.grad.clone() for name, p in task.network.named_parameters() if p.grad is not None}
    judged = task.adversary_loss(task.adversary)
    assert judged is not None
    judged.backward()
    assert all(p.grad is not None and p.grad.any() for p in task.adversary.parameters() if p.ndim > 1)
    assert all(torch.equal(p.grad, before[name]) for name, p in task.network.named_parameters() if p.grad is not None)
    assert task.adversary_loss(task.adversary) is None  # each batch once


def test_it_learns_to_tell_them_apart(tmp_path: Path) -> None:
    """At a weight of nearly nothing the autoencoder does not care, and the discriminator wins."""
    loss = {**LOSS, "adversarial_weight": 1e-6, "adversarial_lr": 5e-3}
    train(recipe(loss, train={"steps": 40, "lr": 1e-4, "log_every": 10}), tmp_path / "run", quiet=True)
    losses = [line["adversary"] for line in read_metrics(tmp_path / "run")]
    assert losses[0] > 0.4
    assert losses[-1] < 0.2


def test_accumulated_and_parallel_batches_teach_it_the_same(tmp_path: Path) -> None:
    """One batch of 32, twice 16, and two processes of 16. Its pull is weighed batch by batch, so it is made tiny."""
    loss = {**LOSS, "adversarial_weight": 1e-6}
    settings = {"log_every": 1, "batch_size": 16}
    train(recipe(loss, train={**settings, "batch_size": 32}), tmp_path / "large", quiet=True)
    train(recipe(loss, train={**settings, "accumulate": 2}), tmp_path / "twice", quiet=True)
    file = tiny.write_recipe(tmp_path / "tiny.toml", task="reconstruct", network=tiny.AUTOENCODER, train=settings)
    sections = f"[loss]\nadversarial_weight = 1e-6\n[loss.discriminator]\n{toml(DISCRIMINATOR)}\n"
    file.write_text(file.read_text() + sections)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, "-m", "alphabar", "train", str(file), "--out", str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    large = tiny.run_state(tmp_path / "large")
    for run in ("twice", "two"):
        other = tiny.run_state(tmp_path / run)
        assert other.keys() == large.keys()
        # Weights: Adam makes whole steps of the rounding in a bias before a norm, whose gradient is nothing else.
        for name in (n for n in large if n.startswith("adversary-network") and large[n].ndim > 1):
            torch.testing.assert_close(other[name], large[name], rtol=1e-3, atol=2e-5)
        lines = zip(tiny.timeless(tmp_path / run), tiny.timeless(tmp_path / "large"), strict=True)
        assert all(one["adversary"] == pytest.approx(two["adversary"], rel=1e-4) for one, two in lines)


def toml(values: dict[str, int]) -> str:
    return "\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items())


def test_the_perceptual_distance_is_added_and_named(tmp_path: Path) -> None:
    folder = classifier(tmp_path / "judge")
    loss = {"kl_weight": 0.0, "perceptual": str(folder), "perceptual_weight": 3.0}
    task, total = started(loss)
    plain, reconstruction = started({"kl_weight": 0.0})
    images = to_unit(next(Loader(open_dataset("digits"), 16, seed=0)).rows)
    batch = next(Loader(open_dataset("digits"), 16, seed=0))
    seen: list[Tensor] = []
    plain.network.register_forward_hook(lambda module, args, out: seen.append(out[0]))
    plain.loss(plain.network, batch)
    judge = PerceptualLoss(models.load_classifier(folder))
    expected = reconstruction + 3.0 * judge(seen[0], images).mean()
    torch.testing.assert_close(total, expected)
    assert expected > 1.01 * reconstruction

    train(recipe(loss), tmp_path / "run", quiet=True)
    card = models.read_card(tmp_path / "run")
    assert card["perceptual"] == {"name": str(folder), "sha256": hash_tensors(judge.state_dict())}
    assert task.identity()["perceptual"] == card["perceptual"]
    assert "perceptual" not in models.read_card(started_run(tmp_path / "plain"))


def started_run(run: Path) -> Path:
    train(recipe({}), run, quiet=True)
    return run


def test_another_judge_under_the_same_name_is_another_run(tmp_path: Path) -> None:
    folder = classifier(tmp_path / "judge")
    train(recipe({"perceptual": str(folder)}), tmp_path / "run", quiet=True)
    torch.manual_seed(5)
    models.save_classifier(Classifier(ClassifierConfig(channels=(4, 8))), 8, 1, {}, folder)
    with pytest.raises(AlphabarError, match=r"^cannot resume from .*: its perceptual is \{.*the recipe's is \{.*\}$"):
        train(recipe({"perceptual": str(folder)}), tmp_path / "run", resume=True, quiet=True)


@pytest.mark.parametrize(
    ("loss", "overrides", "message"),
    [
        (
            LOSS,
            {"train": {"compile": True}},
            "train.compile does not go with loss.adversarial_weight; set one of them to false or 0",
        ),
        (
            {"adversarial_weight": 1.0},
            {},
            "loss.discriminator.image_channels is 3, but there are 1 image channels; "
            "set loss.discriminator.image_channels=1",
        ),
        (
            {"adversarial_weight": 1.0, "discriminator": {"image_channels": 1}},
            {},
            "a patch-discriminator of 3 layers takes sides from 24 up, not 8x8; use fewer layers",
        ),
        (
            {"perceptual": "JUDGE"},
            {},
            "loss.perceptual: JUDGE judges images of 28x28 with 3 channel(s), those of digits are 8x8 with 1; "
            "name another classifier, or 'learned'",
        ),
        (
            {"perceptual": "absent"},
            {},
            f"no model at 'absent': not a model or run folder{nearest('absent', shipped())}",
        ),
    ],
)
def test_what_does_not_fit(loss: dict[str, Any], overrides: dict[str, Any], message: str, tmp_path: Path) -> None:
    judge = str(classifier(tmp_path / "judge", 28, 3))
    loss = {key: judge if value == "JUDGE" else value for key, value in loss.items()}
    with pytest.raises(AlphabarError) as caught:
        train(recipe(loss, **overrides), tmp_path / "run", quiet=True)
    assert str(caught.value) == message.replace("JUDGE", judge)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"adversarial_weight": -1.0}, "tiny.toml: [loss] adversarial_weight cannot be negative, got -1.0"),
        ({"adversarial_lr": 0.0}, "tiny.toml: [loss] adversarial_lr must be positive, got 0.0"),
        ({"discriminator": {"width": 0}}, "patch-discriminator.width must be at least 1, not 0"),
        ({"discriminator": {"wide": 8}}, "tiny.toml: [loss] discriminator: wide: unknown key; did you mean 'width'?"),
    ],
)
def test_wrong_settings(loss: dict[str, Any], message: str) -> None:
    with pytest.raises(AlphabarError) as caught:
        recipe(loss)
    assert message in str(caught.value)


def test_a_checkpoint_from_before_a_setting_existed_resumes(tmp_path: Path) -> None:
    """Settings that came since are at their defaults in it, which is how it was trained."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for out, stops in ((whole, (6,)), (parts, (3, 6))):
        for stop in stops:
            train(recipe({"kl_weight": 0.01}, train={**CONSTANT, "steps": stop}), out, resume=True, quiet=True)
            if stop == 3:
                forget(parts, "loss", "adversarial_weight", "discriminator", "perceptual")
                forget(parts, "network", "quant_convs")
    assert tiny.differing(tiny.run_state(parts), tiny.run_state(whole)) == []
    with pytest.raises(AlphabarError, match=r"cannot resume from .*: its loss is .*'kl_weight': 0\.01"):
        train(recipe({"kl_weight": 0.02}), parts, resume=True, quiet=True)


def forget(run: Path, section: str, *keys: str) -> None:
    folder = latest_checkpoint(run)
    assert folder is not None
    state = json.loads((folder / "state.json").read_text())
    for key in keys:
        del state["identity"][section][key]
    (folder / "state.json").write_text(json.dumps(state))
