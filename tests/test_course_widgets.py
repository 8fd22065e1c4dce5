"""The widgets of the course without a browser: one module each, run by Node, and what Python hands to it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from alphabar.course import widget_data, widgets
from alphabar.course.widgets import WIDGETS, AlphaBarCurve, NoiseSlider, NoiseStrip, Widget, element, module
from alphabar.data import datasets, to_uint8, to_unit
from alphabar.data.sources import NAMED_SETS, NamedSet
from alphabar.diffusion import NoiseSchedule, Process, make_prediction
from alphabar.errors import AlphabarError

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(
    NODE is None and os.environ.get("ALPHABAR_REQUIRE_NODE") != "1", reason="widgets are tried under Node"
)


def node(program: str, *arguments: str) -> Any:
    """What a program gives as JSON; it may import the widgets' common.js as it stands."""
    assert NODE is not None, "ALPHABAR_REQUIRE_NODE is set and there is no node"
    head = f'import * as common from "{(widgets.SOURCES / "common.js").as_uri()}";\n'
    head += "const given = JSON.parse(process.argv[1]);\n"
    done = subprocess.run(
        [NODE, "--input-type=module", "-e", head + program, *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def ask(expression: str, given: Any = None) -> Any:
    """The value of a JavaScript expression over `common` and `given`."""
    return node(f"console.log(JSON.stringify({expression}));", json.dumps(given))


# sources


@needs_node
@pytest.mark.parametrize("widget", WIDGETS)
def test_a_widget_is_one_module_that_gives_render(widget: str, tmp_path: Path) -> None:
    (tmp_path / "w.mjs").write_text(module(widget), encoding="utf-8")
    program = f'const w = await import("{(tmp_path / "w.mjs").as_uri()}");\n'
    program += "console.log(JSON.stringify([Object.keys(w), Object.keys(w.default), typeof w.default.render]));"
    assert node(program, "null") == [["default"], ["render"], "function"]
    lines = module(widget).splitlines()
    assert not [line for line in lines if line.startswith("import ")]
    assert lines[-1] == "export default { render };"


@needs_node
@pytest.mark.parametrize("widget", WIDGETS)
def test_a_widget_alone_is_a_script_that_parses(widget: str, tmp_path: Path) -> None:
    page = widgets.standalone(widget, {"label": "</script><b>"})
    script = page.split('<script type="module">')[1].split("</script>")[0]
    assert r"<\/script><b>" in script
    (tmp_path / "w.mjs").write_text(script, encoding="utf-8")
    assert NODE
    done = subprocess.run([NODE, "--check", str(tmp_path / "w.mjs")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_an_unknown_widget_is_named() -> None:
    with pytest.raises(AlphabarError, match="unknown widget 'noise-slidr'; did you mean 'noise-slider'"):
        module("noise-slidr")


# numbers


@needs_node
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.uint8])
def test_arrays_come_back_as_they_were(dtype: torch.dtype) -> None:
    x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    x = to_uint8(x) if dtype == torch.uint8 else x.to(dtype)
    back = torch.tensor(ask("Array.from(common.decodeArray(given))", widgets.array_record(x)))
    torch.testing.assert_close(back, (to_unit(x) if dtype == torch.uint8 else x.float()).flatten(), rtol=0, atol=1e-7)
    plain = [0.5, -0.25]
    assert ask("Array.from(common.decodeArray(given))", plain) == plain


@needs_node
def test_an_unknown_type_of_array_is_an_error() -> None:
    caught = "(() => { try { common.decodeArray(given); } catch (error) { return error.message; } })()"
    assert ask(caught, {"dtype": "int64", "data": ""}) == "arrays of type int64 are unknown to this widget"


@needs_node
def test_the_closed_form_is_the_library_s() -> None:
    schedule = NoiseSchedule.cosine()
    x0, eps = torch.randn(2, 1, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    given = {"x0": x0.flatten().tolist(), "eps": eps.flatten().tolist(), "table": widgets.schedule_table(schedule)}
    for t in (0, 300, 999):
        form = f"common.closedForm(Float32Array.from(given.x0), given.eps, common.alphaBarAt(given.table, {t}))"
        want = Process(schedule, make_prediction("eps")).noise(x0, eps, torch.tensor([t]))
        torch.testing.assert_close(torch.tensor(ask(f"Array.from({form})", given)), want.flatten(), rtol=0, atol=1e-6)
    assert ask("Array.from(common.closedForm(Float32Array.of(0.5), [9], common.alphaBarAt([0.1], -1)))") == [0.5]


@needs_node
def test_noise_is_standard_normal_and_belongs_to_its_seed() -> None:
    one, again, other = (torch.tensor(ask(f"Array.from(common.noise({seed}, 20000))")) for seed in (3, 3, 4))
    assert torch.equal(one, again)
    assert abs(torch.corrcoef(torch.stack([one, other]))[0, 1]) < 0.03
    assert abs(one.mean()) < 0.03
    assert abs(one.std() - 1) < 0.03


@needs_node
@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"),
        (0.0, "0"),
        (0.5, "0.500"),
        (0.05, "0.0500"),
        (0.9999, "0.9999"),
        (NoiseSchedule.cosine().alpha_bar(0), "0.99996"),
        (NoiseSchedule.linear().alpha_bar(999), "4.0·10⁻⁵"),
        (1 - 1e-9, "≈ 1"),
    ],
)
def test_a_share_is_never_rounded_to_none_or_all(value: float, text: str) -> None:
    assert ask("common.share(given)", value) == text


@needs_node
def test_every_alpha_bar_has_its_region() -> None:
    names = ["nearly clean", "details go", "shapes only", "outline", "static"]
    assert ask("given.map((a) => common.region(a).name)", [1, 0.8, 0.5, 0.2, 0.05]) == names
    assert ask("common.region(0).name") == "static"


# images and schedules


def without(name: str) -> NamedSet:
    named = NAMED_SETS[name]
    return NamedSet(name, named.counts, named.size, named.sums, named.class_names, (), ())


@pytest.fixture
def only_digits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No network and no cache: what is left are scikit-learn's digits."""
    pytest.importorskip("sklearn")
    sets = {"fashion-mnist": without("fashion-mnist"), "mnist": without("mnist"), "digits": NAMED_SETS["digits"]}
    monkeypatch.setattr(datasets, "NAMED_SETS", sets)
    widget_data.course_images.cache_clear()
    yield
    widget_data.course_images.cache_clear()


@needs_node
def test_a_site_gets_every_file_with_what_the_library_says(
    only_digits: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    widgets.write_widgets(tmp_path)
    assert capsys.readouterr().err.endswith("taking digits instead\n")
    found = {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file()}
    scripts = {f"widgets/{widget}.js" for widget in WIDGETS}
    assert found == scripts | {"widgets/host.js", "widgets/widgets.css", "data/images.json", "data/schedules.json"}
    schedules = json.loads((tmp_path / "data" / "schedules.json").read_text())["schedules"]
    library = {"linear": NoiseSchedule.linear(), "cosine": NoiseSchedule.cosine()}
    assert schedules == {name: schedule.alphas_bar.tolist() for name, schedule in library.items()}
    images = json.loads((tmp_path / "data" / "images.json").read_text())["images"]
    assert len({image["label"] for image in images}) == 11
    assert {tuple(image["shape"]) for image in images} == {(1, 28, 28)}
    assert images[1]["source"].endswith("of the test set of scikit-learn's digits")
    drawn = torch.tensor(ask("Array.from(common.decodeArray(given))", images[0]["pixels"]))
    torch.testing.assert_close(drawn, widgets.tshirt().flatten(), rtol=0, atol=0.51 / 127.5)


def test_the_drawn_tshirt_is_an_image_that_noise_can_tell_something_about() -> None:
    x = widgets.tshirt()
    assert (x.shape, x.dtype) == ((1, 28, 28), torch.float32)
    assert (x.min().item(), x.max() <= 1) == (-1, True)
    assert (x - x.flip(-1)).abs().mean() < 0.1  # about as wide on both sides
    assert len(x[0, 8:, 14].sign().unique_consecutive()) >= 4  # its stripes


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(2, 28, 28), r"must be \[C, H, W\] with 1 or 3 channels, not \[2, 28, 28\]"),
        (torch.full((1, 8, 8), 255.0), r"runs from 255 to 255: bring its pixels to \[-1, 1\]"),
        (torch.full((8, 8), torch.nan), "runs from nan to nan"),
        ({}, "the mapping of images is empty"),
    ],
)
def test_what_is_no_image_is_said(image: Any, message: str) -> None:
    with pytest.raises(AlphabarError, match=message):
        NoiseStrip(image)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (torch.zeros(2, 2), r"not of shape \[2, 2\]"),
        ([0.9, 1.2], "at t = 1 it is 1.2"),
        ([0.9, float("nan")], "at t = 1 it is nan"),
    ],
)
def test_what_is_no_schedule_is_said(schedule: Any, message: str) -> None:
    with pytest.raises(AlphabarError, match=message):
        NoiseSlider(widgets.tshirt(), schedule)


# pages


class Parser(HTMLParser):
    """The attributes of the first element."""

    def __init__(self) -> None:
        super().__init__()
        self.first: dict[str, str | None] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.first = self.first or dict(attrs)


def test_an_element_says_what_its_widget_needs() -> None:
    parser = Parser()
    parser.feed(element("noise-slider", {"image": 'a "quoted" <name>'}))
    assert parser.first["data-module"] == "_static/widgets/noise-slider.js"
    assert parser.first["data-url"] == "_static/data/images.json _static/data/schedules.json"
    state = json.loads(parser.first["data-state"] or "")
    assert state == {**WIDGETS["noise-slider"].options, "image": 'a "quoted" <name>'}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"tt": 3}, "the widget noise-slider has no option 'tt'; did you mean 't'"),
        ({"t": "3"}, "the option t of the widget noise-slider is a int, not '3'"),
    ],
)
def test_a_wrong_option_is_named(state: dict[str, Any], message: str) -> None:
    with pytest.raises(AlphabarError, match=message):
        element("noise-slider", state)


# notebooks


def test_a_widget_takes_one_s_own_schedule_and_image() -> None:
    betas = torch.linspace(1e-4, 0.02, 200)
    mine = torch.cumprod(1 - betas, 0)
    slider = NoiseSlider(widgets.tshirt(), mine)
    assert slider.state["schedules"]["given"] == mine.double().tolist()
    assert slider.state["previews"] == [-1, 20, 40, 70, 100, 130, 160, 199]
    assert NoiseStrip(widgets.tshirt()).state["timesteps"] == [0, 250, 500, 750, 999]
    curve = AlphaBarCurve({"linear": NoiseSchedule.linear(), "mine": mine}, {"shirt": widgets.tshirt()}, t=700)
    assert (curve.state["shown"], curve.state["image"], curve.state["t"]) == (["linear", "mine"], "shirt", 700)
    with pytest.raises(AlphabarError, match=r"t: the timestep 200 is outside -1\.\.199"):
        NoiseSlider(widgets.tshirt(), mine, t=200)


def test_python_and_the_live_widget_share_one_state() -> None:
    pytest.importorskip("anywidget")
    slider = NoiseSlider(widgets.tshirt())
    slider.live.t = 123
    assert slider.html_state()["t"] == 123
    assert slider.live._esm == module("noise-slider")
    assert "application/vnd.jupyter.widget-view+json" in slider._repr_mimebundle_()[0]


class Asked(Widget):
    """Answers one question, and fails at all others."""

    def answer(self, message: dict[str, Any], buffers: list[bytes]) -> tuple[dict[str, Any], list[bytes]]:
        """Twice the number."""
        return {"type": "doubled", "value": 2 * message["value"]}, buffers


def test_a_question_is_answered_under_its_id_and_so_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("anywidget")
    widget, sent = Asked("noise-slider", {"t": 1}), []
    monkeypatch.setattr(widget.live, "send", lambda message, buffers: sent.append((message, buffers)))
    widget._received(None, {"id": 7, "value": 4}, [b"x"])
    widget._received(None, {"id": 8}, [])
    assert sent[0] == ({"type": "doubled", "value": 8, "id": 7}, [b"x"])
    assert sent[1] == ({"type": "error", "message": "KeyError: 'value'", "id": 8}, [])


def test_importing_the_widgets_needs_no_anywidget() -> None:
    program = (
        "import sys; import alphabar.course.widgets; print('anywidget' in sys.modules, 'ipywidgets' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["False", "False"], done.stderr
