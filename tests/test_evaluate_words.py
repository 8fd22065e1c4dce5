"""The judge of words: what it is asked, how it learns, and that its report says what was drawn."""

from __future__ import annotations

import json
import runpy
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import tiny
from alphabar import models
from alphabar.cli.evaluate import _guidance
from alphabar.codec import Codec, LatentCodec, PixelCodec
from alphabar.data import ArrayDataset, Batch, to_unit
from alphabar.data.emoji import Emoji, EmojiDataset
from alphabar.data.parts import UNASKED, Vocabulary
from alphabar.errors import AlphabarError
from alphabar.evaluate import Share, WordJudge, caption_retrieval, ceiling, judge_words, load_word_judge
from alphabar.evaluate.words import GROUPS, SAME
from alphabar.generate import Guidance, SamplerConfig
from alphabar.models import Model, ProcessConfig
from alphabar.nn import (
    Autoencoder,
    Classifier,
    ClassifierConfig,
    ClipConfig,
    ClipImageConfig,
    ClipText,
    ClipTextConfig,
    ConvAutoencoderConfig,
    UNetConfig,
    build,
)
from alphabar.report.words import MEASURES, best, measure_table, neighbour_sheet, prompt_sheet, words_page
from alphabar.rng import Rng
from alphabar.text import TextEncoder
from alphabar.tokenizer import Tokenizer
from alphabar.train.augment import augment, recolour
from alphabar.train.tasks import make_task

SIZE = 16
PAINT = {"red": (200, 0, 0), "green": (0, 160, 0), "blue": (0, 0, 220)}
SKIN = {None: (250, 200, 30), "light skin tone": (240, 200, 170), "dark skin tone": (90, 50, 30)}
SHAPES = ("circle", "square", "cross", "man", "woman", "leaf")
HELD_OUT = ("green cross", "blue leaf", "woman dark skin tone")


def drawn(subject: str, paint: tuple[int, int, int]) -> Tensor:
    """A shape in a colour on white, uint8 [3, SIZE, SIZE]."""
    y, x = torch.meshgrid(torch.arange(SIZE) - 7.5, torch.arange(SIZE) - 7.5, indexing="ij")
    ink = {
        "circle": x.square() + y.square() < 36,
        "square": (x.abs() < 5) & (y.abs() < 5),
        "cross": (x.abs() < 2) | (y.abs() < 2),
        "man": (x.abs() < 3) | (y > 4),
        "woman": x.abs() < (y + 8) / 2,
        "leaf": (x + y).abs() < 4,
    }[subject]
    return torch.where(ink, torch.tensor(paint, dtype=torch.uint8).view(3, 1, 1), 255).to(torch.uint8)


@cache
def split(name: str) -> EmojiDataset:
    """Three shapes in three colours, two people in three tones, a leaf with recoloured copies; three are held out."""
    emoji = [Emoji("", f"{c} {s}", s, c) for s in SHAPES[:3] for c in PAINT]
    emoji += [Emoji("", f"{s} {t}" if t else s, s, tones=t) for s in ("man", "woman") for t in SKIN]
    emoji += [Emoji("", "leaf", "leaf"), *(Emoji("", f"{c} leaf", "leaf", c, recoloured=True) for c in ("red", "blue"))]
    chosen = [one for one in emoji if (one.caption in HELD_OUT) == (name == "test")]
    images = [drawn(one.subject, PAINT[one.colour or "green"] if not one.tones else SKIN[one.tones]) for one in chosen]
    ids = torch.tensor([sorted(SHAPES).index(one.subject) for one in chosen])
    people = [k for k, one in enumerate(chosen) if one.subject in ("man", "woman") and not one.tones]
    for k in people:
        images[k] = drawn(chosen[k].subject, SKIN[None])
    return EmojiDataset(name, torch.stack(images), chosen, ids)


SHAPE = {"type": "classifier", "in_channels": 3, "num_classes": [6, 3, 3], "channels": [16, 32, 32]}
STEPS = 200


@cache
def classifier() -> Classifier:
    """Trained by the task on the train split, as the trainer does it."""
    torch.manual_seed(0)
    task_recipe = tiny.recipe(task="classify", network=SHAPE)
    network = build(task_recipe.network)
    task = make_task(task_recipe, split("train"), network, Path(), torch.device("cpu"))
    optimizer = torch.optim.AdamW(network.parameters())
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / STEPS)
        rows = torch.randint(len(split("train")), (32,), generator=torch.Generator().manual_seed(step))
        batch = Batch(split("train").rows(rows), range(32 * step, 32 * step + 32), rows, None)
        optimizer.zero_grad()
        task.loss(network, batch).per_sample.mean().backward()
        optimizer.step()
    assert isinstance(network, Classifier)
    return network.eval()


def judge() -> WordJudge:
    return WordJudge(classifier(), split("train"), split("test"))


def row(caption: str) -> int:
    return judge().captions.index(caption)


def test_labels_are_the_parts_of_captions() -> None:
    vocabulary = Vocabulary.of(split("train"))
    assert vocabulary.sizes == (6, 3, 3)
    labels = vocabulary.labels(split("test"))
    assert split("test").captions == ["green cross", "woman dark skin tone", "blue leaf"]
    assert labels.tolist() == [[1, 1, 0], [5, UNASKED, 1], [2, 0, 0]]
    with pytest.raises(AlphabarError, match="no picture of the train split shows 'circle'"):
        Vocabulary.of(split("test")).labels(split("train"))


def test_several_questions_share_one_network() -> None:
    many = Classifier(ClassifierConfig(num_classes=(2, 3), channels=(4,)))
    one = Classifier(ClassifierConfig(num_classes=5, channels=(4,)))
    one.load_state_dict(many.state_dict())  # the same keys and shapes
    images = torch.randn(4, 1, 16, 16)
    assert torch.equal(many(images), one(images))
    assert [logits.shape[1] for logits in many.split(many(images))] == [2, 3]
    assert ClassifierConfig.from_dict({"num_classes": [2, 3]}).heads == (2, 3)
    with pytest.raises(AlphabarError, match="num_classes must be at least 1"):
        ClassifierConfig(num_classes=(2, 0))
    with pytest.raises(AlphabarError, match="at least one number of classes"):
        ClassifierConfig(num_classes=())


def test_the_number_of_classes_must_fit_the_data() -> None:
    recipe = tiny.recipe(task="classify", network={**SHAPE, "num_classes": [6, 3]})
    with pytest.raises(AlphabarError, match=r"set network.num_classes=\[6, 3, 3\]"):
        make_task(recipe, split("train"), build(recipe.network), Path(), torch.device("cpu"))


def test_the_loss_leaves_out_what_is_not_asked() -> None:
    """No colour of a man, and neither colour nor tone of a picture whose hues were turned."""
    recipe = tiny.recipe(task="classify", network=SHAPE)
    network = build(recipe.network).eval()
    assert isinstance(network, Classifier)
    task = make_task(recipe, split("train"), network, Path(), torch.device("cpu"))
    rows = torch.tensor([row("red circle"), row("man")] * 4)
    batch = Batch(split("train").rows(rows), range(8), rows, None)
    loss = task.loss(network, batch)
    seed = recipe.train.seed
    views, changed = recolour(
        augment(to_unit(batch.rows), Rng(seed, range(8), "augment")), Rng(seed, range(8), "recolour")
    )
    answers, labels = network.split(network(views)), judge().labels[rows]
    asked = torch.stack([torch.ones(8, dtype=torch.bool), ~changed & (labels[:, 1] >= 0), ~changed], dim=1)
    expected = torch.zeros(8)
    for logits, ask, right in zip(answers, asked.T, labels.T, strict=True):
        expected[ask] += F.cross_entropy(logits[ask], right[ask], reduction="none")
    torch.testing.assert_close(loss.per_sample, expected)
    counts = [int(count) for _, count in loss.parts.values()]
    assert counts == asked.sum(dim=0).tolist()
    assert counts[0] == 8 > counts[2] > counts[1] > 0
    assert list(loss.parts) == ["accuracy_subject", "accuracy_colour", "accuracy_tone"]


def test_augmenting_belongs_to_the_sample_and_keeps_the_picture() -> None:
    images = to_unit(split("train").rows(range(8)))
    views = augment(images, Rng(3, range(8), "augment"))
    alone = augment(images[5:6], Rng(3, [5], "augment"))
    torch.testing.assert_close(views[5:6], alone, atol=1e-6, rtol=0)
    assert views.shape == images.shape
    assert not torch.equal(views, augment(images, Rng(4, range(8), "augment")))
    same = augment(images[:1].expand(64, -1, -1, -1), Rng(0, range(64), "augment"))
    assert same.std(dim=0).max() > 0.2  # it moves
    torch.testing.assert_close(
        same[:, :, 7:9, 7:9].mean(dim=(0, 2, 3)), images[0, :, 7:9, 7:9].mean(dim=(1, 2)), atol=0.1, rtol=0
    )
    assert same[:, :, 0, 0].mean() > 0.9  # the ground stays white where the picture moved away


def test_recolouring_turns_hues_alone() -> None:
    images = to_unit(torch.cat([drawn("square", PAINT["red"])[None], drawn("square", (128, 128, 128))[None]]))
    made, changed = recolour(images.repeat(32, 1, 1, 1), Rng(0, range(64), "recolour"))
    assert 20 < changed.sum() < 44
    assert torch.equal(made[~changed], images.repeat(32, 1, 1, 1)[~changed])
    torch.testing.assert_close(made[1::2], images[1:].expand(32, -1, -1, -1))  # grey on white stays
    inks = made[::2, :, 8, 8][changed[::2]]
    assert set(inks.argmax(dim=1).tolist()) == {0, 1, 2}  # red, green and blue
    assert (made[::2, :, 0, 0] == 1).all()


def test_groups_and_choice() -> None:
    found = judge()
    groups = [GROUPS[k] for k in found.groups.tolist()]
    for caption, group in {
        "red circle": "seen, without tone",
        "leaf": "seen, without tone",
        "man": "seen, without tone",
        "man dark skin tone": "seen, with tone",
        "red leaf": "seen, recoloured",
        "green cross": "unseen colour × shape",
        "blue leaf": "unseen colour × object",
        "woman dark skin tone": "unseen tone × person",
    }.items():
        assert groups[row(caption)] == group, caption
    rows = found.choose(4)
    counts = {GROUPS[k]: int((found.groups[rows] == k).sum()) for k in range(6)}
    assert counts == {
        "seen, without tone": 4,
        "seen, with tone": 3,
        "seen, recoloured": 4,
        "unseen colour × shape": 4,
        "unseen colour × object": 4,
        "unseen tone × person": 4,
    }
    assert torch.equal(rows, found.choose(4))
    assert not torch.equal(rows, found.choose(4, seed=1))


def test_it_reads_real_pictures() -> None:
    real, disturbed = ceiling(judge())
    assert [score.group for score in real.scores] == list(GROUPS)
    assert real.right[: judge().known].double().mean() > 0.95
    assert disturbed.right.double().mean() > 0.8
    assert sum(score.subject.n for score in real.scores) == len(judge().images)
    seen = real.scores[0]
    assert seen.own_nearest.value == 1.0
    assert seen.reproduced.value == 1.0
    assert all(score.copies.value == 0.0 for score in real.scores)
    assert seen.distance == 0.0
    assert real.scores[5].distance > SAME  # a held-out picture is no training picture
    assert real.scores[5].own_nearest.value == 1.0
    assert real.scores[5].colour is None


def test_it_finds_what_is_wrong_and_what_is_copied() -> None:
    found = judge()
    asked = torch.tensor([row("green cross"), row("man dark skin tone"), row("man"), row("red circle")])
    shown = torch.tensor([row("red cross"), row("man light skin tone"), row("man light skin tone"), row("red square")])
    judged = found.judge("swapped", found.images[shown], asked, SAME)
    assert judged.right.tolist() == [[True, False, True], [True, True, False], [True, True, False], [False, True, True]]
    assert torch.equal(judged.nearest, shown)
    assert torch.equal(judged.nearest_features, shown)
    by_group = {score.group: score for score in judged.scores}
    unseen = by_group["unseen colour × shape"]
    assert (unseen.subject, unseen.colour, unseen.everything, unseen.copies) == ((1, 1), (0, 1), (0, 1), (1, 1))
    assert (unseen.own_nearest, unseen.reproduced) == ((0, 1), (0, 1))
    assert by_group["seen, without tone"].copies == (2, 2)
    with pytest.raises(AlphabarError, match="hold NaN or infinity"):
        found.judge("broken", torch.full((1, 3, SIZE, SIZE), torch.nan), asked[:1], SAME)
    assert by_group["seen, without tone"].tone == (1, 2)


def test_the_interval_is_wilsons() -> None:
    assert Share(0, 10).interval == pytest.approx((0.0, 0.2775), abs=1e-3)
    assert Share(8, 10).interval == pytest.approx((0.4902, 0.9433), abs=1e-3)
    assert Share(10, 10).interval[1] == 1.0


def tower(tokenizer: Tokenizer) -> ClipTextConfig:
    return ClipTextConfig(
        vocab_size=tokenizer.vocab_size, length=8, width=16, layers=1, num_heads=2, mlp=32, projection_dim=16
    )


def words_model(codec: Codec) -> Model:
    """A tiny U-Net that is told words, not trained."""
    tokenizer = Tokenizer.train(split("train").captions or (), 600, 8)
    text = TextEncoder(tokenizer, ClipText(tower(tokenizer)))
    width = codec.shape(1, SIZE, SIZE)[1]
    shape = UNetConfig(width, width, channels=(8, 8), blocks=1, attention=(1,), emb_dim=16, context_dim=16)
    return Model(tiny.network(shape), ProcessConfig(timesteps=20, clip=1.0), codec, SIZE, 3, text=text)


def small_autoencoder() -> LatentCodec:
    network = tiny.network(ConvAutoencoderConfig(image_channels=3, channels=(8, 8), latent_channels=2))
    assert isinstance(network, Autoencoder)
    return LatentCodec(network, torch.zeros(2), torch.ones(2))


@pytest.mark.parametrize("codec", [PixelCodec(3), small_autoencoder()], ids=["pixels", "latents"])
def test_a_model_is_judged_beside_the_ceiling(codec: Codec, tmp_path: Path) -> None:
    guidances = [Guidance(1.0), Guidance(3.0, 0.7)]
    sampler, found_by = SamplerConfig("ddim", 2), judge()
    steps: list[int] = []
    found, limit = judge_words(words_model(codec), found_by, guidances, 4, sampler, on_step=lambda: steps.append(1))
    names = [one.source for one in found]
    latent = isinstance(codec, LatentCodec)
    assert names == ["real pictures", *(["through the autoencoder"] * latent), "guidance 1", "guidance 3, rescale 0.7"]
    assert len(steps) == 4
    assert limit > SAME if latent else limit == SAME
    assert all(torch.equal(one.rows, found[0].rows) for one in found)
    assert torch.equal(found[0].images, found_by.images[found[0].rows])
    assert not torch.equal(found[-1].images, found[-2].images)
    assert best(found) is found[0]

    words = {
        "model": "tiny & small",
        "judge": "judge",
        "sampler": "ddim-2",
        "seed": 0,
        "copy_distance": limit,
        "best": best(found[-2:]).source,
        "judged": [{"source": one.source, "scores": [score.to_dict() for score in one.scores]} for one in found],
    }
    words = json.loads(json.dumps(words))
    head, rows = measure_table(words, "subject")
    assert head == ["", *names]
    assert [line[0].split(" (")[0] for line in rows] == list(GROUPS)
    share = found[-1].scores[0].subject
    assert rows[0][-1].startswith(f"{share.right / share.n:.2f} (")
    assert [line[0].split(" (")[0] for line in measure_table(words, "colour")[1]] == [GROUPS[k] for k in (0, 2, 3, 4)]
    sheets = {"prompts": prompt_sheet(found_by, found[-2:], 12), "neighbours": neighbour_sheet(found_by, found[-1], 6)}
    assert sheets["prompts"].height > sheets["prompts"].width / 4
    page = words_page(words, sheets)
    assert "tiny &amp; small" in page
    assert page.count("<table>") == len(MEASURES)
    assert page.count("<img") == 2
    assert "http" not in page


def test_the_readme_table_comes_from_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (real, _), file = ceiling(judge()), tmp_path / "words.json"
    judged = [{"source": "real pictures", "scores": [score.to_dict() for score in real.scores]}]
    file.write_text(json.dumps({"judged": judged, "sampler": "ddim-40", "seed": 0, "best": "guidance 3"}))
    script = Path(__file__).parent.parent / "benchmarks" / "words.py"
    before, sys.argv = sys.argv, [str(script), str(file), "--measures", "tone"]
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        sys.argv = before
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == ["**Right tone**", "", "|  | real pictures |", "| --- | ---: |"]
    assert lines[4].startswith("| seen, without tone (")
    assert len([line for line in lines if line.startswith("|")]) == 2 + len(GROUPS)


def test_the_judge_must_know_these_pictures(tmp_path: Path) -> None:
    train, test = split("train"), split("test")
    models.save_classifier(classifier(), SIZE, 3, {"data_sha256": train.fingerprint}, tmp_path / "judge")
    assert load_word_judge(str(tmp_path / "judge"), train, test).known == len(train)
    with pytest.raises(AlphabarError, match="learned other pictures than those of emoji here; train it anew"):
        load_word_judge(str(tmp_path / "judge"), test, train)
    plain = ArrayDataset("plain", train.images)
    with pytest.raises(AlphabarError, match="which the captions of plain lack"):
        load_word_judge(str(tmp_path / "judge"), plain, plain)
    with pytest.raises(AlphabarError, match=r"has \(6, 3, 4\) classes, emoji has \(6, 3, 3\)"):
        WordJudge(Classifier(ClassifierConfig(in_channels=3, num_classes=(6, 3, 4))), train, test)


def test_words_need_a_model_that_is_told_them() -> None:
    silent = tiny.pixel_model()
    with pytest.raises(AlphabarError, match="not told any words"):
        judge_words(silent, judge(), [Guidance()])


def test_guidance_on_the_command_line() -> None:
    assert _guidance("3") == Guidance(3.0)
    assert _guidance("2.5:0.7") == Guidance(2.5, 0.7)
    for wrong in ("much", "3:x", "3:0.7:1"):
        with pytest.raises(AlphabarError, match=f"--guidance {wrong}: write a scale, such as 3"):
            _guidance(wrong)


def test_a_clip_that_knows_nothing_finds_little() -> None:
    tokenizer = Tokenizer.train(split("train").captions or (), 600, 8)
    clip = tiny.network(ClipConfig(tower(tokenizer), ClipImageConfig(channels=(8, 8), projection_dim=16)))
    found = caption_retrieval(clip, tokenizer, split("train"))
    assert set(found.image_to_text) == {1, 5, 10}
    assert 0 <= found.text_to_image[1] <= found.text_to_image[10] <= 1
    with pytest.raises(AlphabarError, match="plain has no captions to look for"):
        caption_retrieval(clip, tokenizer, ArrayDataset("plain", split("train").images))
