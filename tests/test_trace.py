"""`alphabar trace`: what is traced is what is run, to the bit; the page draws it and loads nothing."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image

import tiny
from alphabar.cli import trace as cli
from alphabar.codec import PixelCodec
from alphabar.errors import AlphabarError
from alphabar.evaluate import Stage, Trace, Values, trace_sampling, trace_training
from alphabar.evaluate.cost import count_denoiser, count_flops
from alphabar.evaluate.stages import PIXELS, SILENT
from alphabar.generate import Guidance, SamplerConfig, sample
from alphabar.models import Model, ProcessConfig
from alphabar.nn import ClipTextConfig, UNetConfig, build
from alphabar.report.trace import lines, render_trace
from alphabar.rng import Rng
from alphabar.text import TextEncoder
from alphabar.tokenizer import Tokenizer

PROMPT = "a red <b>heart</b>"


def wordy_model() -> Model:
    """Reads words, draws 8x8 in the latents of `tiny.latent_codec`."""
    tokenizer = Tokenizer.train(["a red heart", "a blue car"], 560, length=16)
    tower = tiny.network(ClipTextConfig(vocab_size=560, length=16, width=8, layers=1, num_heads=2, mlp=16))
    shape = UNetConfig(2, 2, channels=(8, 8), blocks=1, attention=(1,), num_heads=2, emb_dim=16, context_dim=8)
    settings = ProcessConfig(timesteps=20)
    return Model(tiny.network(shape), settings, tiny.latent_codec(), 8, 1, text=TextEncoder(tokenizer, tower))


@pytest.fixture(scope="module")
def model() -> Model:
    return wordy_model()


@pytest.fixture(scope="module")
def traced(model: Model) -> Trace:
    return trace_sampling(model, PROMPT, "blue", Guidance(3.0), SamplerConfig("ddim", 4), seed=7)


@pytest.fixture(scope="module")
def trained(model: Model, traced: Trace) -> Trace:
    return trace_training(model, traced.image, "a red heart", seed=7)


def by_name(trace: Trace) -> dict[str, Stage]:
    return {stage.name: stage for stage in trace.stages}


@pytest.mark.parametrize("name", ["ddpm", "ddim", "heun", "dpmpp-2m"])
def test_the_image_is_the_one_that_sample_draws(model: Model, name: str) -> None:
    sampler = SamplerConfig(name, 4)  # type: ignore[arg-type]
    drawn = sample(model, 1, sampler, seed=7, prompts=[PROMPT], negative="blue", guidance=Guidance(3.0))
    assert torch.equal(trace_sampling(model, PROMPT, "blue", Guidance(3.0), sampler, seed=7).image, drawn[0])


@pytest.mark.parametrize("make", [tiny.pixel_model, tiny.latent_model])
def test_models_without_words_too(make: type[Model]) -> None:
    one = make()
    trace = trace_sampling(one, sampler=SamplerConfig("ddpm", 5), seed=3)
    assert torch.equal(trace.image, sample(one, 1, SamplerConfig("ddpm", 5), seed=3)[0])
    assert [stage.what for stage in trace.stages[:2]] == [SILENT, SILENT]
    assert all(stage.idle and stage.same for stage in trace.stages[:2])


def test_what_goes_in_and_comes_out(model: Model, traced: Trace) -> None:
    stages = by_name(traced)
    assert list(stages) == [
        "tokens",
        "embeddings",
        "initial noise",
        *(f"step {k} of 4" for k in (1, 2, 3, 4)),
        "decode",
    ]
    shapes = {name: tuple(one.shape for one in stage.outs) for name, stage in stages.items()}
    assert shapes["tokens"] == ((2, 16),)
    assert shapes["embeddings"] == ((1, 16, 8), (1, 16, 8))
    assert shapes["initial noise"] == ((1, 2, 4, 4),)
    assert shapes["step 1 of 4"] == ((1, 2, 4, 4), (1, 2, 4, 4))
    assert shapes["decode"] == ((1, 1, 8, 8),)
    assert "".join(traced.pieces) == PROMPT.replace(" ", "")
    for before, after in zip(traced.stages[2:-1], traced.stages[3:], strict=True):
        assert before.outs[0] == after.ins[0]  # what comes out goes in
    noise = Rng(7, [0], "initial").normal(2, 4, 4)
    assert stages["initial noise"].outs[0] == Values.of("x", noise)
    assert traced.image.shape == (1, 8, 8)
    assert [moment.s for moment in traced.moments][-1] == -1
    assert all(moment.shown is not None for moment in traced.moments)


def test_values_say_what_a_tensor_holds() -> None:
    values = Values.of("x", torch.tensor([[1.0, 2.0], [3.0, 6.0]]))
    assert values == Values("x", (2, 2), 4, 1.0, 6.0, 3.0, 3.5**0.5)


def test_what_each_stage_costs(model: Model, traced: Trace) -> None:
    stages = by_name(traced)
    shape = model.network.config
    assert isinstance(shape, UNetConfig)
    call = count_denoiser(shape, (2, 4, 4), length=16)
    steps = [stage for stage in traced.stages if stage.kind == "step"]
    assert [step.flops for step in steps] == [2 * call.flops] * 4  # with the prompt and without
    assert {step.parameters for step in steps} == {call.parameters}
    assert all("asked twice" in step.what for step in steps)
    once = trace_sampling(model, PROMPT, sampler=SamplerConfig("ddim", 2))
    assert by_name(once)["step 1 of 2"].flops == call.flops
    assert by_name(once)["tokens"].outs[0].shape == (1, 16)
    assert [stages[name].weights for name in ("tokens", "embeddings", "decode")] == ["none", "frozen", "frozen"]
    assert steps[0].weights == "trained"
    assert all(stage.seconds > 0 for stage in traced.stages)
    assert stages["initial noise"].peak_bytes == 4 * 2 * 4 * 4
    codec = model.codec
    with torch.no_grad():
        assert stages["decode"].flops == count_flops(lambda: codec.decode(torch.zeros(1, 2, 4, 4)))


def test_only_the_bookend_is_not_the_same_in_pixels(traced: Trace) -> None:
    assert [stage.name for stage in traced.stages if not stage.same] == ["decode"]
    pixels = trace_sampling(tiny.pixel_model(), sampler=SamplerConfig("ddim", 2))
    decode = by_name(pixels)["decode"]
    assert decode.idle
    assert decode.what == PIXELS
    assert decode.parameters == decode.flops == 0
    assert "pixels are the space" in render_trace([pixels], "c", {})


def test_a_training_step_is_the_loss_of_training_and_leaves_the_model_alone(model: Model) -> None:
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    fingerprints = model.codec.fingerprint, model.text and model.text.fingerprint
    image = torch.rand(1, 8, 8) * 2 - 1
    trace = trace_training(model, image, "a blue car", seed=5, lr=1e-3)
    assert all(torch.equal(value, before[name]) for name, value in model.network.state_dict().items())
    assert (model.codec.fingerprint, model.text and model.text.fingerprint) == fingerprints
    assert (
        not any(parameter.requires_grad for parameter in model.network.parameters()) or model.network.training is False
    )

    x0 = model.codec.encode(image[None], Rng(5, [0], "posterior"))
    rng = Rng(5, [0], "train")
    t, eps = rng.integers(20), rng.normal(2, 4, 4)
    assert model.text is not None
    loss = model.process.loss(model.network, x0, t, eps, {"text": model.text.encode(["a blue car"])})
    stages = by_name(trace)
    assert stages["compare"].outs[0].mean == pytest.approx(loss.item(), rel=1e-6)
    assert stages["draw t"].outs[0].mean == t.item()
    moved = stages["step"].outs[1]
    assert moved.count == sum(value.numel() for value in model.network.parameters())
    assert moved.high == pytest.approx(1e-3, rel=0.05)  # AdamW's first step is its rate, in each direction


def test_training_has_seven_steps_of_which_encoding_alone_is_not_the_same(trained: Trace) -> None:
    names = ["encode", "draw t", "draw noise", "noise it", "ask the network", "compare", "step"]
    assert list(by_name(trained)) == ["tokens", "embeddings", *names]
    assert [stage.name for stage in trained.stages if not stage.same] == ["encode"]
    frozen = [stage.name for stage in trained.stages if stage.weights == "frozen"]
    assert frozen == ["embeddings", "encode"]
    stages = by_name(trained)
    forward, back = stages["ask the network"].flops, stages["step"].flops
    assert 1.5 * forward < back < 2.5 * forward


def test_the_way_back_is_counted_as_it_runs(model: Model, trained: Trace) -> None:
    shape = model.network.config
    assert isinstance(shape, UNetConfig)
    network = build(dataclasses.replace(shape, attention=(), context_dim=None, middle_attention=False))
    plain = Model(network, model.settings, PixelCodec(2), 4, 2)
    answer = network.train()(torch.zeros(1, 2, 4, 4), torch.zeros(1, dtype=torch.int64))
    real = count_flops(lambda: answer.sum().backward())
    assert by_name(trace_training(plain, torch.zeros(2, 4, 4)))["step"].flops == real


def test_json_comes_back_as_it_went(traced: Trace, trained: Trace) -> None:
    for trace in (traced, trained):
        values = trace.to_dict()
        again = json.loads(json.dumps(values))
        assert again["stages"][3]["outs"][0]["shape"] == list(trace.stages[3].outs[0].shape)
        assert again["stages"][3]["seconds"] == trace.stages[3].seconds
        assert len(again["stages"]) == len(trace.stages)


def test_the_table_shows_some_of_many_steps(model: Model, traced: Trace) -> None:
    assert all(f"step {k} of 4" in lines(traced) for k in (1, 2, 3, 4))
    many = lines(trace_sampling(model, PROMPT, sampler=SamplerConfig("ddim", 20)))
    assert "… 14 more steps" in many
    assert "step 3 of 20" in many
    assert "step 4 of 20" not in many
    assert "step 18 of 20" in many
    assert "23 of 24 stages are the same in pixel diffusion" in many


class Reader(HTMLParser):
    """Checks that elements nest, and gathers what they load."""

    void = frozenset({"meta", "img", "br", "path"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.loads: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.loads += [value or "" for key, value in attrs if key in ("src", "srcset", "href")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_balanced_and_loads_nothing(traced: Trace, trained: Trace) -> None:
    page = render_trace([traced, trained], "alphabar trace x", {"torch": "2"}, ["random weights"])
    reader = Reader(page)
    assert not reader.tags & {"script", "link", "iframe"}
    assert all(value.startswith("data:image/png;base64,") for value in reader.loads)
    assert not re.search(r"https?://|url\(|@import", page)
    assert "<b>heart" not in page
    assert "&lt;b&gt;heart" in page
    for said in (
        "text encoder",
        "U-Net",
        "guidance",
        "sampler",
        "decoder",
        "2×4×4",
        "1×8×8",
        "frozen",
        "random weights",
    ):
        assert said in page
    assert 'class="box embeddings same frozen"' in page
    assert 'class="box decode only frozen"' in page
    assert len(page) < 1_000_000


def test_the_page_without_words_and_guidance() -> None:
    page = render_trace([trace_sampling(tiny.latent_model(), sampler=SamplerConfig("ddim", 2), decoded=1)], "c", {})
    Reader(page)
    assert 'class="box embeddings idle"' in page
    assert ">guidance<" not in page
    assert "decoded at the end only" in page


def test_a_prompt_needs_words() -> None:
    with pytest.raises(AlphabarError, match="trained without words"):
        trace_sampling(tiny.pixel_model(), "a heart")


def command(*words: str) -> int:
    """Run the command as the command line does."""
    top = argparse.ArgumentParser()
    cli.add_parser(top.add_subparsers())
    args = top.parse_args(["trace", *words, "--device", "cpu"])
    return int(args.run(args))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, model: Model) -> Path:
    path = tmp_path_factory.mktemp("model") / "wordy"
    model.save(path)
    return path


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (20, 10), "red").save(tmp_path / "red.png")
    words = [str(folder), "--prompt", PROMPT, "--steps", "3", "--training", "--image", str(tmp_path / "red.png")]
    assert command(*words, "--out", str(tmp_path / "trace.html")) == 0
    printed = capsys.readouterr().out
    assert "pieces: a | red | <" in printed
    assert "one training step" in printed
    assert (tmp_path / "trace.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert command(*words, "--json", "--size", "16") == 0
    values = json.loads(capsys.readouterr().out)
    assert [trace["title"] for trace in values["traces"]] == ["ddim in 3 steps", "one training step"]
    assert values["traces"][0]["stages"][-1]["outs"][0]["shape"] == [1, 1, 16, 16]
    assert values["traces"][0]["settings"]["guidance"] > 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("x", "--out", "trace.png"), "ends in .html"),
        (("x", "--guidance", "3"), "needs a --prompt"),
        (("x", "--image", "a.png"), "add --training"),
        (("x", "--size", "0"), "--size must be positive"),
        (("random:sd3",), "no Stable Diffusion is called 'sd3'"),
        (("fashion-latent", "--prompt", "a shirt"), "trained without words"),
        (("fashion-latent", "--training", "--image", "none.png", "--steps", "1"), "cannot read the image none.png"),
    ],
)
def test_mistakes_are_one_line(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(AlphabarError, match=message) as caught:
        command(*words)
    assert "\n" not in str(caught.value)
