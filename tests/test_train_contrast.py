"""The contrast task: what is a wrong answer, what is random, what resumes, what is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import tiny
import words
from alphabar import models
from alphabar.data import ArrayDataset, Batch, Loader, open_dataset
from alphabar.data.emoji import Emoji, EmojiDataset
from alphabar.errors import AlphabarError
from alphabar.nn import build
from alphabar.nn.clip import Clip, retrieval
from alphabar.rng import Rng
from alphabar.train import read_metrics, train
from alphabar.train.tasks import make_task
from alphabar.train.tasks.contrast import Contrast, encode_images, encode_texts, find_captions, jitter


def test_resuming(tmp_path: Path) -> None:
    """Of 19 pictures in batches of 8, an epoch ends within step 3."""
    settings = {"batch_size": 8, "lr_schedule": "constant", "log_every": 1}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for out, stops in ((whole, (6,)), (parts, (2, 5, 6))):
        for stop in stops:
            train(words.contrast_recipe(tmp_path / "data", steps=stop, **settings), out, resume=True, quiet=True)
    assert tiny.differing(tiny.run_state(parts), tiny.run_state(whole)) == []
    assert tiny.timeless(parts) == tiny.timeless(whole)
    assert [line["step"] for line in tiny.timeless(parts)] == [1, 2, 3, 4, 5, 6]
    assert (parts / "model" / "tokenizer.json").read_bytes() == (whole / "model" / "tokenizer.json").read_bytes()


def test_other_captions_are_another_run(tmp_path: Path) -> None:
    train(words.contrast_recipe(tmp_path / "data"), tmp_path / "run", quiet=True)
    path = tmp_path / "data" / "metadata.jsonl"
    path.write_text(path.read_text().replace("green square", "lime square"))
    with pytest.raises(AlphabarError, match=r"^cannot resume from .*: its data is '\w+', the recipe's is '\w+'$"):
        train(words.contrast_recipe(tmp_path / "data"), tmp_path / "run", resume=True, quiet=True)


def test_words_and_pictures_find_each_other(tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = {"steps": 150, "batch_size": 19, "lr": 1e-2, "previews": 1, "ema_decay": 0.9, "log_every": 20}
    train(words.contrast_recipe(tmp_path / "data", **settings), run, quiet=True)
    lines = read_metrics(run)
    assert lines[-1]["top1_image_to_text"] > 0.9 > 0.4 > lines[0]["top1_image_to_text"]
    metrics = models.read_card(run)["metrics"]
    held_out = len(open_dataset(tmp_path / "data", "test", size=16))
    assert metrics["kind"] == "clip"
    assert (metrics["train"]["images"], metrics["train"]["captions"]) == (20 - held_out, 20 - held_out)
    assert (metrics["held_out"]["images"], metrics["held_out"]["captions"]) == (held_out, 20)
    assert metrics["train"]["top1"] > 0.9
    assert metrics["train"]["top5"] == 1.0
    assert len(list((run / "samples").iterdir())) == 1
    # what is loaded is what was measured
    clip, tokenizer = models.load_clip(run)
    dataset = open_dataset(tmp_path / "data", size=16)
    assert dataset.captions is not None
    found = find_captions(clip, tokenizer, dataset, dataset.captions)
    assert found == metrics["train"]
    assert models.load_text_encoder(run).width == 16


def pictures(captions: list[str]) -> ArrayDataset:
    images = torch.randint(256, (len(captions), 3, 16, 16), generator=torch.Generator().manual_seed(0))
    return ArrayDataset("pictures", images.byte(), captions=captions)


def tiny_clip() -> Clip:
    clip = build(tiny.recipe(task="contrast", network=words.CLIP).network)
    assert isinstance(clip, Clip)
    return clip


def test_identical_captions_are_no_wrong_answers(tmp_path: Path) -> None:
    recipe = tiny.recipe(task="contrast", network=words.CLIP)
    losses = []
    for captions in (["one", "one", "one", "one"], ["one", "two", "three", "four"]):
        dataset = pictures(captions)
        task = make_task(recipe, dataset, tiny_clip(), tmp_path, torch.device("cpu"))
        losses.append(task.loss(task.network, next(Loader(dataset, 4, seed=0))).per_sample)
    assert torch.equal(losses[0], torch.zeros(4))
    assert (losses[1] > 0.1).all()


def test_retrieval_among_all_captions_is_that_of_one_matrix() -> None:
    clip, captions = tiny_clip(), [f"number {k} of {k * k}" for k in range(12)]
    dataset = pictures(captions)
    recipe = tiny.recipe(task="contrast", network=words.CLIP)
    task = make_task(recipe, dataset, clip, Path(), torch.device("cpu"))
    tokenizer = task.tokenizer  # type: ignore[attr-defined]
    features = encode_images(clip, dataset, range(12)), encode_texts(clip, tokenizer, captions)
    expected = retrieval(*features, ks=(1, 5)).image_to_text
    found = find_captions(clip, tokenizer, dataset, captions)
    assert (found["top1"], found["top5"]) == (expected[1], expected[5])
    # a caption that is there twice is one answer, and more captions make it no easier
    assert find_captions(clip, tokenizer, dataset, [*captions, *captions]) == found
    harder = find_captions(clip, tokenizer, dataset, [*captions, *(f"other {k}" for k in range(30))])
    assert harder["captions"] == 42
    assert harder["top5"] <= found["top5"]


def test_jitter_belongs_to_the_sample_and_stays_small() -> None:
    images = torch.rand(6, 3, 16, 16)
    together = jitter(images, Rng(3, range(6), "jitter"))
    parts = [jitter(images[k : k + 2], Rng(3, range(k, k + 2), "jitter")) for k in (0, 2, 4)]
    assert torch.equal(together, torch.cat(parts))
    assert not torch.equal(together[0], images[0])
    halves = -torch.ones(200, 1, 32, 32)
    halves[..., 16:] = 1
    moved = jitter(halves, Rng(0, range(200), "jitter"))
    assert (moved[..., :12] < -0.999).all()  # neither mirrored nor moved far
    assert (moved[..., 20:] > 0.999).all()
    assert (moved != halves).any()
    white = torch.ones(9, 3, 8, 8)
    torch.testing.assert_close(jitter(white, Rng(0, range(9), "jitter")), white)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"network": {"type": "classifier"}}, "the contrast task needs a network of type 'clip'"),
        ({"data": {"name": "digits"}}, "digits has no captions for the contrast task: add a metadata.jsonl"),
        (
            {"data": {"channels": 1}},
            "network.image.image_channels is 3, but there are 1 image channels; set network.image.image_channels=1",
        ),
        (
            {"text": {"encoder": "somewhere"}},
            "text.encoder is for task='denoise', the contrast task does not read it; leave it out",
        ),
    ],
)
def test_what_does_not_fit(overrides: dict[str, dict[str, object]], message: str, tmp_path: Path) -> None:
    values = {"task": "contrast", "network": words.CLIP, "data": words.data(tmp_path / "data")}
    values |= {key: {**values.get(key, {}), **value} if key == "data" else value for key, value in overrides.items()}
    with pytest.raises(AlphabarError) as caught:
        train(tiny.recipe(**values), tmp_path / "run", quiet=True)
    assert str(caught.value) == message


def test_a_vocabulary_too_small_for_every_byte(tmp_path: Path) -> None:
    network = json.loads(json.dumps(words.CLIP))
    network["text"]["vocab_size"] = 100
    with pytest.raises(AlphabarError, match=r"^a vocabulary holds every byte, so vocab_size is at least 514$"):
        train(
            tiny.recipe(task="contrast", network=network, data=words.data(tmp_path / "data")),
            tmp_path / "run",
            quiet=True,
        )


def test_rivals_are_of_the_same_subject(tmp_path: Path) -> None:
    """Two people in three tones and a leaf: rivals come from the own family, and the row itself is no rival."""
    emoji = [
        Emoji("", f"{who} {tone}", who, tones=tone) for who in ("man", "woman") for tone in ("light", "mid", "dark")
    ]
    emoji.append(Emoji("", "leaf", "leaf"))
    dataset = EmojiDataset("test", torch.zeros(7, 3, 16, 16, dtype=torch.uint8), emoji, torch.zeros(7))
    recipe = words.contrast_recipe(tmp_path / "data")
    clip = build(recipe.network)
    assert isinstance(clip, Clip)
    task = Contrast(clip, dataset, recipe, dataset.captions)
    batch = Batch(dataset.rows(range(7)), range(70, 77), torch.arange(7), None)
    drawn = [task._siblings(batch._replace(positions=range(7 * k, 7 * k + 7))) for k in range(20)]
    assert [{rows[k] for rows in drawn} for k in range(7)] == [{0, 1, 2}] * 3 + [{3, 4, 5}] * 3 + [{6}]
    plain = ArrayDataset("plain", dataset.rows(range(7)), captions=dataset.captions)
    without = Contrast(clip, plain, recipe, dataset.captions).loss(clip, batch).per_sample
    more = task.loss(clip, batch).per_sample - without
    own = torch.tensor([row == k for k, row in enumerate(task._siblings(batch))])
    assert own[6]
    assert not own.all()
    assert (more[own] == 0).all()
    assert (more[~own] > 0).all()
