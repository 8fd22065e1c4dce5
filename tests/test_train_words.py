"""The second stage with words: what stays frozen, what a dropped caption is, what is random, what resumes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
import words
from alphabar import models
from alphabar.data import Batch, Loader, open_dataset
from alphabar.engine import autocast
from alphabar.errors import AlphabarError
from alphabar.generate import Guidance, SamplerConfig, encode_prompts, sample
from alphabar.io import hash_tensors, load_tensors
from alphabar.nn import build
from alphabar.train import Recipe, train
from alphabar.train.tasks import make_task
from alphabar.train.tasks.denoise import Captions, Denoise

CPU = torch.device("cpu")


def make(recipe: Recipe, cache: Path) -> Denoise:
    data = recipe.data
    dataset = open_dataset(data.name, size=data.size, channels=data.channels)
    task = make_task(recipe, dataset, build(recipe.network), cache, CPU)
    assert isinstance(task, Denoise)
    return task


def captions_of(task: Denoise) -> Captions:
    assert task.captions is not None
    return task.captions


def batch_of(positions: range, rows: int) -> Batch:
    indices = torch.tensor([position % rows for position in positions])
    return Batch(torch.zeros(len(positions), 1), positions, indices, None)


def test_no_bit_of_what_is_frozen_changes(tmp_path: Path) -> None:
    recipe = words.words_recipe(tmp_path, train={"previews": 1})
    folders = (tmp_path / "clip", tmp_path / "vae")
    before = {path: path.read_bytes() for folder in folders for path in folder.iterdir()}
    train(recipe, tmp_path / "run", quiet=True)
    assert {path: path.read_bytes() for folder in folders for path in folder.iterdir()} == before
    model, codec = models.load_model(tmp_path / "run"), models.load_autoencoder(tmp_path / "vae")
    clip, _ = models.load_clip(tmp_path / "clip")
    assert model.text is not None
    assert hash_tensors(model.text.tower.state_dict()) == hash_tensors(clip.text.state_dict())
    assert model.text.fingerprint == models.load_text_encoder(tmp_path / "clip").fingerprint
    assert model.codec.fingerprint == codec.fingerprint
    trained = {name.partition(": ")[2] for name in tiny.run_state(tmp_path / "run") if name.startswith("network: ")}
    assert trained == load_tensors(tmp_path / "run" / "model" / "network.safetensors").keys()
    assert len(list((tmp_path / "run" / "samples").iterdir())) == 1
    images = [
        sample(model, 2, SamplerConfig(steps=3), prompts=["red square"] * 2, guidance=Guidance(scale))
        for scale in (1.0, 3.0)
    ]
    assert images[0].shape == (2, 3, 16, 16)
    assert not torch.equal(*images)


def test_a_frozen_network_stays_so_within_a_step(tmp_path: Path) -> None:
    """The optimizer has no tensor of theirs, and backward leaves none a gradient."""
    task = make(words.words_recipe(tmp_path, {"dropout": 0.5}), tmp_path)
    assert task.text is not None
    loader = Loader(task.source, 8, seed=0)
    task.loss(task.network, next(loader)).per_sample.mean().backward()
    frozen = [*task.text.tower.parameters(), *task.codec.autoencoder.parameters()]  # type: ignore[attr-defined]
    own = {id(p) for p in task.network.parameters()}
    assert all(p.grad is None and not p.requires_grad and id(p) not in own for p in frozen)


def test_a_dropped_caption_is_what_the_sampler_moves_away_from(tmp_path: Path) -> None:
    recipe = words.words_recipe(tmp_path, {"dropout": 0.5})
    train(recipe, tmp_path / "run", quiet=True)
    model = models.load_model(tmp_path / "run")
    captions = captions_of(make(recipe, tmp_path))
    batch = batch_of(range(40), 19)
    with autocast(CPU, "bf16"):  # as the trainer does: what is told must not depend on it
        told = captions.cond(batch)
    assert told is not None
    assert model.text is not None
    chosen = captions.chosen(batch)
    null = model.text.encode([""])
    dropped = [row for row, caption in enumerate(chosen) if caption == ""]
    assert 5 < len(dropped) < 35
    _, away = encode_prompts(model, ["red square"])
    assert away is not None
    assert torch.equal(away["text"], null)
    for row in range(40):
        assert torch.equal(told["text"][row], model.text.encode([chosen[row]])[0])
        assert torch.equal(told["text"][row], null[0]) == (row in dropped)


@pytest.mark.parametrize("dropout", [0.0, 0.1, 0.5, 1.0])
def test_dropout_has_its_rate(dropout: float, tmp_path: Path) -> None:
    """20,000 samples of a fixed seed: within three standard deviations of a binomial."""
    n = 20_000
    text = models.load_text_encoder(words.save_clip(tmp_path / "clip"))
    captions = Captions(text, ["red square", "blue square", "green square"], dropout, seed=11)
    dropped = captions.chosen(batch_of(range(n), 3)).count("")
    assert abs(dropped - n * dropout) <= 3 * (n * dropout * (1 - dropout)) ** 0.5


def test_dropout_belongs_to_the_position(tmp_path: Path) -> None:
    """Not to the batch, nor to the picture: the same caption is dropped at one position and told at another."""
    text = models.load_text_encoder(words.save_clip(tmp_path / "clip"))
    captions = Captions(text, ["red square", "blue square", "green square"], 0.3, seed=4)
    together = captions.chosen(batch_of(range(60), 3))
    parts = [captions.chosen(batch_of(range(start, start + 5), 3)) for start in range(0, 60, 5)]
    assert together == [caption for part in parts for caption in part]
    assert {"", "red square"} <= set(together[::3])
    other = Captions(text, captions.captions, 0.3, seed=5)
    assert other.chosen(batch_of(range(60), 3)) != together
    more = Captions(text, captions.captions, 0.6, seed=4).chosen(batch_of(range(60), 3))
    assert all(more[k] == "" for k in range(60) if together[k] == "")  # nested rates: a comparison shares its noise


def test_what_is_kept_is_what_would_be_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make(words.words_recipe(tmp_path), tmp_path)
    captions = captions_of(task)
    first, again = captions.cond(batch_of(range(19), 19)), captions.cond(batch_of(range(19), 19))
    monkeypatch.setattr(Captions, "LIMIT", 0)  # bytes: none is kept
    fresh = captions_of(make(words.words_recipe(tmp_path), tmp_path)).cond(batch_of(range(19), 19))
    assert first is not None
    assert again is not None
    assert fresh is not None
    assert torch.equal(first["text"], again["text"])
    assert torch.equal(first["text"], fresh["text"])


def test_what_is_kept_has_a_limit_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = models.load_text_encoder(words.save_clip(tmp_path / "clip"))
    one = text.encode(["red square"])[0].nbytes
    captions = Captions(text, ["red square", "blue square", "green square"], 0.0, seed=0)
    monkeypatch.setattr(Captions, "LIMIT", 2 * one + one // 2)
    for start in (0, 1, 2, 0):
        captions.cond(batch_of(range(start, start + 1), 3))
    assert list(captions._kept) == ["red square", "blue square"]
    assert captions._bytes == 2 * one


def test_resuming(tmp_path: Path) -> None:
    settings = {"batch_size": 8, "lr_schedule": "constant", "log_every": 1}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for out, stops in ((whole, (6,)), (parts, (2, 5, 6))):
        for stop in stops:
            recipe = words.words_recipe(tmp_path, {"dropout": 0.3}, train={**settings, "steps": stop})
            train(recipe, out, resume=True, quiet=True)
    assert tiny.differing(tiny.run_state(parts), tiny.run_state(whole)) == []
    assert tiny.timeless(parts) == tiny.timeless(whole)


def test_the_words_matter_to_what_is_learned(tmp_path: Path) -> None:
    for name, dropout in (("told", 0.0), ("untold", 1.0)):
        train(words.words_recipe(tmp_path, {"dropout": dropout}), tmp_path / name, quiet=True)
    states = [tiny.run_state(tmp_path / name) for name in ("told", "untold")]
    assert tiny.differing(*states) != []


@pytest.mark.parametrize(
    ("change", "key"), [({"dropout": 0.2}, "dropout"), ({"layer": -2}, "text"), ({"metadata": "lime"}, "data")]
)
def test_other_words_are_another_run(change: dict[str, Any], key: str, tmp_path: Path) -> None:
    train(words.words_recipe(tmp_path), tmp_path / "run", quiet=True)
    if "metadata" in change:
        path = tmp_path / "pictures" / "metadata.jsonl"
        path.write_text(path.read_text().replace("green square", f"{change['metadata']} square"))
        change = {}
    with pytest.raises(AlphabarError, match=rf"^cannot resume from .*: its {key} is .*, the recipe's is .*$"):
        train(words.words_recipe(tmp_path, change), tmp_path / "run", resume=True, quiet=True)


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (
            None,
            {"wordless": True},
            "network.context_dim is set, but there are no words: name text.encoder, a CLIP's run",
        ),
        (
            None,
            {"network": {**words.UNET, "context_dim": 24}},
            "network.context_dim is 24, the text encoder's width 16; set it to that",
        ),
        (
            None,
            {"network": {**words.UNET, "context_dim": None}},
            "network.context_dim is None, the text encoder's width 16; set it to that",
        ),
        (
            None,
            {"network": {"type": "small-unet", "in_channels": 2, "out_channels": 2, "channels": [8, 8, 8]}},
            "network.context_dim is None, the text encoder's width 16; set it to that",
        ),
        (
            None,
            {"data": {"name": "digits", "size": 16, "channels": 3}},
            "digits has no captions for text.encoder: add a metadata.jsonl, or leave it out",
        ),
        ({"encoder": "VAE"}, {}, "VAE holds a model of kind 'autoencoder', not clip"),
        ({"layer": -3}, {}, "layer must be in -2..-1, not -3"),
        (
            None,
            {"task": "reconstruct", "codec": None},
            "text.encoder is for task='denoise', the reconstruct task does not read it; leave it out",
        ),
    ],
)
def test_what_does_not_fit(
    text: dict[str, Any] | None, overrides: dict[str, Any], message: str, tmp_path: Path
) -> None:
    vae = str(tmp_path / "vae")
    text = {key: vae if value == "VAE" else value for key, value in (text or {}).items()}
    wordless = {"text": None} if "wordless" in overrides else {}
    overrides = {key: value for key, value in overrides.items() if key != "wordless"}
    recipe = replace(words.words_recipe(tmp_path, text, **overrides), **wordless)
    with pytest.raises(AlphabarError) as caught:
        train(recipe, tmp_path / "run", quiet=True)
    assert str(caught.value) == message.replace("VAE", vae)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"dropout": 1.5}, "tiny.toml: [text] dropout must lie in 0..1, got 1.5"),
        ({"layer": 0}, "tiny.toml: [text] layer is counted from the end, -1 is the last, got 0"),
        ({"droput": 0.1}, "tiny.toml: [text] droput: unknown key; did you mean 'dropout'?"),
    ],
)
def test_wrong_settings(text: dict[str, Any], message: str) -> None:
    with pytest.raises(AlphabarError) as caught:
        tiny.recipe(text={"encoder": "clip", **text})
    assert str(caught.value) == message
