"""The widgets' Python side: what one's own model answers, without a browser."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny
from alphabar.course import model_widgets
from alphabar.course.export import export_network, step_counts, worker_source
from alphabar.course.model_widgets import Subject, TrainingStep, Trajectory, errors_by_timestep
from alphabar.data import to_uint8
from alphabar.errors import AlphabarError
from alphabar.generate import SamplerConfig, generate
from alphabar.models import Model
from alphabar.nn import SmallUNetConfig


def images(n: int = 5) -> Tensor:
    """8x8 pictures of gradients in [-1, 1]."""
    ramp = torch.linspace(-1, 1, 8)
    return torch.stack([(ramp[:, None] * k + ramp).view(1, 8, 8) / (k + 1) for k in range(n)])


def arrays(
    message: dict[str, Any], buffers: list[bytes], dtype: torch.dtype, shape: tuple[int, ...]
) -> dict[str, Tensor]:
    (buffer,) = buffers
    stack = torch.frombuffer(bytearray(buffer), dtype=dtype).reshape(len(message["arrays"]), *shape)
    return dict(zip(message["arrays"], stack, strict=True))


def predict(widget: TrainingStep, **changes: Any) -> dict[str, Tensor]:
    message = {"id": "a-1", "type": "predict", "image": "image 1", "t": 7, "seed": 3, **changes}
    reply, buffers = widget.answer(message, [])
    assert reply["type"] == "predicted"
    assert reply["milliseconds"] > 0
    return arrays(reply, buffers, torch.float32, tuple(widget.state["about"]["shape"]))


def test_a_training_step_is_what_training_does() -> None:
    model = tiny.pixel_model()
    model.network.train()
    got = predict(TrainingStep(model, images()))
    assert model.network.training
    t = torch.tensor([7])
    assert torch.equal(got["clean"], images()[1])
    torch.testing.assert_close(got["x"][None], model.process.noise(images()[1:2], got["noise"][None], t))
    model.network.eval()
    with torch.no_grad():
        estimate = model.denoiser()(got["x"][None], t)
    torch.testing.assert_close(got["x0"][None], estimate.x0)
    torch.testing.assert_close(got["eps"][None], estimate.eps)


def test_a_seed_is_a_noise() -> None:
    widget = TrainingStep(tiny.pixel_model(), images())
    first, again, other = (predict(widget, seed=seed)["noise"] for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(first, predict(widget, t=19, image="image 4")["noise"])


def test_the_model_that_answers_is_the_one_that_is_being_trained() -> None:
    model = tiny.pixel_model()
    widget = TrainingStep(model, images())
    before = predict(widget)["eps"]
    with torch.no_grad():
        next(model.network.parameters()).mul_(1.5)
    assert not torch.equal(before, predict(widget)["eps"])


def test_a_network_with_its_process_will_do() -> None:
    model = tiny.pixel_model()
    widget = TrainingStep(model.network, images(), model.process)
    assert widget.state["about"]["name"] == "of your own"
    assert widget.state["about"]["clip"] is None
    own = Trajectory(model.network, model.process, (1, 8, 8))
    assert own.state["about"]["steps"] == [1, 2, 4, 5, 8, 10, 15, 20]


def test_errors_in_eps_and_in_x0_are_one_number() -> None:
    model, x0 = tiny.pixel_model(), images()
    subject = Subject(model.network, model.process, (1, 8, 8), model.codec, clip=1.0)
    errors = errors_by_timestep(subject, x0, levels=3, source="here")
    assert errors["timesteps"] == [0, 10, 19]
    assert (errors["images"], errors["source"]) == (5, "here")

    def measured(t: int) -> tuple[float, float]:
        """The same from the widget's own answers, whose noise is another."""
        widget, of_eps, of_x0 = TrainingStep(model, x0), [], []
        for seed in range(20):
            got = [predict(widget, t=t, seed=seed, image=f"image {k}") for k in range(5)]
            of_eps += [float((g["eps"] - g["noise"]).square().mean()) for g in got]
            of_x0 += [float((g["x0"] - g["clean"]).square().mean()) for g in got]
        return sum(of_eps) / 100, sum(of_x0) / 100

    for i, t in enumerate(errors["timesteps"]):
        eps, of_x0 = measured(t)
        assert errors["eps"][i] == pytest.approx(eps, rel=0.25)
        assert errors["x0"][i] == pytest.approx(of_x0, rel=0.25)
        assert errors["eps"][i] == pytest.approx(model.process.schedule.snr[t].item() * errors["x0"][i])


def walk(widget: Trajectory, **changes: Any) -> list[tuple[dict[str, Any], dict[str, Tensor]]]:
    """Every step, asked for as the page does."""
    steps = []
    reply, buffers = widget.answer(
        {"id": "w", "type": "sample", "seed": 5, "steps": 4, "sampler": "ddim", **changes}, []
    )
    while reply["type"] == "step":
        steps.append((reply, arrays(reply, buffers, torch.uint8, tuple(widget.state["about"]["shape"]))))
        reply, buffers = widget.answer({"id": "w", "type": "next"}, [])
    assert reply["type"] == "done"
    assert not widget.walks
    return steps


@pytest.mark.parametrize("make", [tiny.pixel_model, tiny.latent_model])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "heun", "dpmpp-2m"])
def test_a_trajectory_is_the_librarys(make: Any, sampler: Any) -> None:
    model: Model = make()
    got = walk(Trajectory(model), sampler=sampler)
    wanted = list(generate(model, [0], SamplerConfig(sampler, 4), seed=5))
    assert [(reply["index"], reply["count"], reply["t"], reply["s"]) for reply, _ in got] == [
        (i, 4, step.t, step.s) for i, step in enumerate(wanted)
    ]
    before = None
    for (_, shown), step in zip(got, wanted, strict=True):
        assert shown["x"].shape == (1, 8, 8)
        for name, x in {"x": step.x, "x0": step.estimate.x0}.items():  # decoded together, which rounds otherwise
            pixels = to_uint8(model.codec.decode(x))[0]
            torch.testing.assert_close(shown[name].short(), pixels.short(), atol=1, rtol=0)
        assert before is None or torch.equal(shown["before"], before)
        before = shown["x"]


def test_a_walk_can_be_left_and_others_go_on() -> None:
    widget = Trajectory(tiny.pixel_model())
    start = {"type": "sample", "seed": 5, "steps": 20, "sampler": "ddim"}
    for name in ("a", "b"):
        assert widget.answer({**start, "id": name}, [])[0]["index"] == 0
    assert widget.answer({"id": "a", "type": "cancel", "job": "a"}, [])[0]["type"] == "cancelled"
    assert widget.answer({"id": "a", "type": "next"}, [])[0]["type"] == "cancelled"
    assert widget.answer({"id": "b", "type": "next"}, [])[0]["index"] == 1
    assert list(widget.walks) == ["b"]


def test_a_model_in_training_mode_stays_there_between_steps() -> None:
    model = tiny.pixel_model()
    model.network.train()
    widget = Trajectory(model)
    widget.answer({"id": "w", "type": "sample", "seed": 5, "steps": 4, "sampler": "ddim"}, [])
    assert model.network.training


def test_latents_are_laid_side_by_side() -> None:
    model = tiny.latent_model()
    widget = TrainingStep(model, images())
    assert widget.state["about"]["shape"] == [1, 8, 4]  # two channels of 4x4, one above the other
    got = predict(widget, image="image 2")
    assert torch.equal(got["clean"][0].view(2, 4, 4), widget.x0["image 2"])
    for widget_of in (widget, Trajectory(model)):
        with pytest.raises(AlphabarError, match="pixels only"):
            widget_of.to_html()


def test_the_network_goes_into_the_file_as_it_is_exported(tmp_path: Path) -> None:
    model = tiny.pixel_model()
    export_network(model, tmp_path)
    state = Trajectory(model, sampler="heun", steps=4).html_state()
    assert base64.b64decode(state["network"]["weights"]) == (tmp_path / "weights.bin").read_bytes()
    described = json.loads((tmp_path / "network.json").read_text())
    assert {**state["network"]["description"], "name": "network"} == described
    assert (state["kernel"], state["sampler"], state["steps"]) == (False, "ddim", 4)  # the engine has no Heun


def test_states_are_json() -> None:
    model = tiny.pixel_model()
    for widget in (TrainingStep(model, images()), Trajectory(model)):
        assert json.loads(json.dumps(widget.state)) == widget.state
        json.dumps(widget.html_state())


def test_the_workers_program_is_a_classic_script() -> None:
    assert not any(line.startswith(("export ", "import ")) for line in worker_source().splitlines())


def test_step_counts_fit_the_schedule() -> None:
    assert step_counts(1000)[-3:] == [50, 100, 1000]
    assert step_counts(3) == [1, 2, 3]
    assert Trajectory(tiny.pixel_model()).state["steps"] == 20


def test_page_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_widgets, "fallback_dataset", lambda: "digits")
    monkeypatch.setattr(model_widgets, "TEST_IMAGES", 4)
    model_widgets.page_data(tmp_path)
    errors = json.loads((tmp_path / "data" / "training-step.json").read_text())["errors"]
    assert len(errors["eps"]) == len(errors["x0"]) == len(errors["timesteps"]) == model_widgets.LEVELS
    assert errors["eps"][0] > errors["eps"][-1]
    assert errors["x0"][0] < errors["x0"][-1]
    assert (tmp_path / "data" / "fashion-pixel" / "weights.bin").stat().st_size > 1_900_000


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda m: TrainingStep(m, images()[0]), r"images must be \[N, C, H, W\]"),
        (lambda m: TrainingStep(m, images()[:0]), "at least one"),
        (lambda m: TrainingStep(m, 2 * images()), r"bring its pixels to \[-1, 1\]"),
        (lambda m: TrainingStep(m, images(), t=20), r"t must lie in 0\.\.19, not 20"),
        (lambda m: TrainingStep(m, images(), m.process), "a Model has its process"),
        (lambda m: TrainingStep(m, torch.zeros(2, 1, 6, 6)), r"images of this model are \[1, 8, 8\], not \[1, 6, 6\]"),
        (lambda m: TrainingStep(m.network, images()), "give its process"),
        (lambda m: Trajectory(m.network, m.process), "the shape of one x0"),
        (lambda m: Trajectory(m.network, m.process, (8, 8)), "shape is"),
        (lambda m: Trajectory(m, steps=7), "steps must be one of 1, 2, 4, 5, 8, 10, 15, 20, not 7"),
        (lambda m: Trajectory(m, sampler="ddmp"), "unknown sampler 'ddmp'; did you mean 'ddpm'"),
        (lambda m: Trajectory(tiny.word_model()), "not those shown a text"),
        (lambda m: Trajectory(m).answer({"type": "dance"}, []), "asks for 'dance'"),
        (lambda m: TrainingStep(m, images()).answer({"type": "dance"}, []), "asks for 'dance'"),
    ],
)
def test_what_is_wrong_is_said(make: Any, words: str) -> None:
    with pytest.raises(AlphabarError, match=words):
        make(tiny.pixel_model())


def test_a_network_of_another_size_of_colours_is_shown_in_colour() -> None:
    network = tiny.network(SmallUNetConfig(in_channels=3, out_channels=3, channels=(8, 8, 8), emb_dim=16))
    widget = TrainingStep(network, images().expand(-1, 3, -1, -1), tiny.pixel_model().process)
    assert predict(widget)["x"].shape == (3, 8, 8)
