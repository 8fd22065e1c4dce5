"""The widgets of the course: one JavaScript source each, for a page, for a notebook, and for a file by itself.

On a page, `static/widgets/host.js` starts them (`element` writes what it looks for, `page_data` the files it reads). In
a notebook anywidget does, and the state is the learner's own schedule and image:

    NoiseSlider(image, schedule)                      # shown when it is a cell's last value
    AlphaBarCurve({"linear": linear, "mine": mine}, image).to_html()
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from alphabar.course.export import STATIC, worker_source
from alphabar.course.widget_data import (
    DRAWN,
    Schedule,
    State,
    array_record,
    course_images,
    course_schedules,
    image_record,
    images_state,
    schedule_table,
    tshirt,
)
from alphabar.diffusion import CLEAN, NoiseSchedule
from alphabar.errors import AlphabarError, nearest
from alphabar.io import atomic_file, write_json

__all__ = [
    "SOURCES",
    "WIDGETS",
    "AlphaBarCurve",
    "NoiseSlider",
    "NoiseStrip",
    "Spec",
    "State",
    "Widget",
    "array_record",
    "course_images",
    "course_schedules",
    "element",
    "image_record",
    "images_state",
    "module",
    "page_data",
    "schedule_table",
    "standalone",
    "styles",
    "tshirt",
    "write_widgets",
]

SOURCES = STATIC / "widgets"


class Spec(NamedTuple):
    """A widget on a page: what it is, its options as they are unless set, the files of `_static/data` that it reads."""

    says: str
    options: Mapping[str, Any]
    data: tuple[str, ...]


IMAGES = ("images.json", "schedules.json")
WIDGETS: Mapping[str, Spec] = {
    "noise-strip": Spec(
        "One image at five noise levels",
        {"image": DRAWN, "schedule": "cosine", "timesteps": [0, 250, 500, 750, 999], "seed": 0},
        IMAGES,
    ),
    "noise-slider": Spec(
        "An image from clean to static, with a slider",
        {
            "image": DRAWN,
            "schedule": "cosine",
            "t": 300,
            "previews": [CLEAN, 100, 200, 350, 500, 650, 800, 999],
            "seed": 0,
        },
        IMAGES,
    ),
    "alpha-bar-curve": Spec(
        "The curve of alpha-bar, with a marker to drag",
        {"image": DRAWN, "shown": ["linear", "cosine"], "t": 400, "seed": 0},
        IMAGES,
    ),
    "training-step": Spec(
        "One training step: the true noise, and what the network says it is",
        {"image": DRAWN, "t": 500, "seed": 0, "network": "fashion-pixel"},
        ("images.json", "training-step.json"),
    ),
    "trajectory": Spec(
        "A trained network walks from noise to an image",
        {"seed": 0, "steps": 20, "sampler": "ddim", "network": "fashion-pixel"},
        (),
    ),
}
"""Every widget by its id; what it is given besides its options is in its data."""


# sources

IMPORT = re.compile(r'^import \{[^}]*\} from "([^"]+)";\n', re.MULTILINE)
EXPORT = re.compile(r"^export (?!default)", re.MULTILINE)
END = "export default { render };\n"


def _spec(widget: str) -> Spec:
    if widget not in WIDGETS:
        raise AlphabarError(f"unknown widget {widget!r}{nearest(widget, WIDGETS)}")
    return WIDGETS[widget]


def _join(name: str, folder: Path, seen: set[Path]) -> str:
    """A source after all that it imports, each once, without imports and exports."""
    file = (folder / name).resolve()
    if file in seen:
        return ""
    seen.add(file)
    if file.name == "worker-source.js":  # made here: the worker's program as text
        return f"const WORKER_SOURCE = {json.dumps(worker_source())};\n"
    text = file.read_text(encoding="utf-8")
    needed = "".join(_join(match[1], file.parent, seen) for match in IMPORT.finditer(text))
    return needed + EXPORT.sub("", IMPORT.sub("", text))


@cache
def module(widget: str) -> str:
    """A widget and all it needs as one ES module without imports, whose default export is `{ render }`.

    Raises:
        AlphabarError: on an id that is not in `WIDGETS`.
    """
    _spec(widget)
    return _join(f"{widget}.js", SOURCES, set())


@cache
def styles() -> str:
    """The style sheet of all widgets."""
    return (SOURCES / "widgets.css").read_text(encoding="utf-8")


def standalone(widget: str, state: State) -> str:
    """A widget with its state as an HTML page that needs no other file."""
    _spec(widget)
    seen: set[Path] = set()
    parts = _join(f"{widget}.js", SOURCES, seen).replace(END, "") + _join("standalone.js", SOURCES, seen)
    script = f"{parts}standalone(render, {json.dumps(state)});".replace("</script", "<\\/script")
    title = escape(WIDGETS[widget].says)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width"><style>html, body { margin: 0; height: auto; '
        f"font-family: system-ui, sans-serif; background: transparent }}\n{styles()}</style></head>"
        f'<body><div class="alphabar-widget" role="group" aria-label="{title}"></div>'
        f'<script type="module">{script}</script></body></html>'
    )


# pages


def element(widget: str, state: Mapping[str, Any], label: str | None = None) -> str:
    """What stands in a page for a widget: host.js puts the widget in its place. Every page lies beside `_static`.

    Args:
        widget: its id.
        state: options of `WIDGETS[widget]` that differ from what they are otherwise.
        label: what it is, for who does not see it; None: what `WIDGETS` says.

    Raises:
        AlphabarError: on an unknown widget or option, or an option of another type.
    """
    spec = _spec(widget)
    for key, value in state.items():
        if key not in spec.options:
            raise AlphabarError(f"the widget {widget} has no option {key!r}{nearest(key, spec.options)}")
        wanted = type(spec.options[key])
        if type(value) is not wanted:
            raise AlphabarError(f"the option {key} of the widget {widget} is a {wanted.__name__}, not {value!r}")
    attributes = {
        "class": f"alphabar-widget {widget}",
        "role": "group",
        "aria-label": label or spec.says,
        "data-module": f"_static/widgets/{widget}.js",
        "data-state": json.dumps({**spec.options, **state}, ensure_ascii=False),
        "data-url": " ".join(f"_static/data/{name}" for name in spec.data),
    }
    written = " ".join(f'{key}="{escape(value)}"' for key, value in attributes.items())
    return f"<div {written}><p>{escape(spec.says)}. It needs JavaScript.</p></div>"


def page_data(out: Path) -> None:
    """Write into `out`, a site's `_static` folder, the widgets, their style sheet and host, and the data they read.

    Raises:
        AlphabarError: when no data set of images can be had, or a file cannot be written.
    """
    from alphabar.course import model_widgets  # which builds on this module

    write_widgets(out)
    model_widgets.page_data(out)


def write_widgets(out: Path) -> None:
    """The part of `page_data` that needs no network: sources, images and schedules."""
    texts = {f"{widget}.js": module(widget) for widget in WIDGETS}
    texts |= {"widgets.css": styles(), "host.js": (SOURCES / "host.js").read_text(encoding="utf-8")}
    for name, text in texts.items():
        with atomic_file(out / "widgets" / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    write_json(out / "data" / "images.json", {"images": list(course_images())})
    write_json(out / "data" / "schedules.json", {"schedules": course_schedules()})


# notebooks


class Widget:
    """A widget in a notebook: shown when it is the last value of a cell.

    Args:
        widget: its id.
        state: all that it is given.

    Where anywidget is missing, it is shown by `to_html`, which cannot speak with Python.
    """

    def __init__(self, widget: str, state: State) -> None:
        _spec(widget)
        self.widget = widget
        self.state = state

    @cached_property
    def live(self) -> Any:
        """The anywidget, made when first asked for: every key of the state is a trait, as in `.live.t = 500`."""
        if importlib.util.find_spec("anywidget") is None:
            raise AlphabarError("live widgets need anywidget: pip install 'alphabar[course]'")
        import anywidget
        import traitlets

        traits = {key: traitlets.Any(value).tag(sync=True) for key, value in self.state.items()}
        sources = {"_esm": module(self.widget), "_css": styles()}
        made = type(type(self).__name__, (anywidget.AnyWidget,), {**traits, **sources})()
        made.on_msg(self._received)
        return made

    def answer(self, message: State, buffers: list[bytes]) -> tuple[State, list[bytes]]:
        """Answer what the widget asks Python, as (message, buffers)."""
        raise AlphabarError(f"the widget {self.widget} asks for {message.get('type')!r}, which nothing answers")

    def _received(self, _: Any, message: State, buffers: list[bytes]) -> None:
        """Send the answer, or what went wrong, under the id of the question."""
        try:
            reply, out = self.answer(message, buffers)
        except Exception as error:  # the learner's own model may fail in any way, and the widget says how
            reply, out = {"type": "error", "message": f"{type(error).__name__}: {error}"}, []
        self.live.send({**reply, "id": message.get("id")}, out)

    def html_state(self) -> State:
        """The state for `to_html`: as it is now."""
        return {key: getattr(self.live, key) for key in self.state} if "live" in self.__dict__ else dict(self.state)

    def to_html(self) -> str:
        """The widget in a frame, with all it needs inside: for where anywidget is blocked, and for a file."""
        page, says = escape(standalone(self.widget, self.html_state())), escape(WIDGETS[self.widget].says)
        style = "width: 100%; height: 640px; border: 0; display: block"
        return f'<div><iframe title="{says}" style="{style}" srcdoc="{page}"></iframe></div>'

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        if importlib.util.find_spec("anywidget") is None:
            return {"text/html": self.to_html(), "text/plain": repr(self)}
        return self.live._repr_mimebundle_(include=include, exclude=exclude)


def _one(schedule: Schedule | None) -> State:
    """The state's `schedules` and `schedule`: one's own, or the cosine one."""
    name = "cosine" if schedule is None else "given"
    return {
        "schedules": {name: schedule_table(NoiseSchedule.cosine() if schedule is None else schedule)},
        "schedule": name,
    }


def _spread(table: Sequence[float], *parts: float) -> list[int]:
    """Timesteps at these parts of the way, the last one included."""
    return [min(int(part * len(table)), len(table) - 1) for part in parts]


def _inside(name: str, timesteps: Sequence[int], table: Sequence[float]) -> list[int]:
    for t in timesteps:
        if not CLEAN <= t < len(table):
            raise AlphabarError(f"{name}: the timestep {t} is outside {CLEAN}..{len(table) - 1}")
    return [int(t) for t in timesteps]


class NoiseStrip(Widget):
    """One image at a few noise levels, side by side.

    Args:
        image: [C, H, W] in [-1, 1], or several by name; None: the course's.
        schedule: a `NoiseSchedule` or its alpha-bar [T]; None: cosine, T = 1000.
        timesteps: the levels, in -1..T-1; None: five, evenly spread.
        seed: of the noise.
    """

    def __init__(
        self,
        image: Tensor | Mapping[str, Tensor] | None = None,
        schedule: Schedule | None = None,
        timesteps: Sequence[int] | None = None,
        seed: int = 0,
    ) -> None:
        state = images_state(image) | _one(schedule)
        table = state["schedules"][state["schedule"]]
        chosen = _spread(table, 0, 0.25, 0.5, 0.75, 1) if timesteps is None else timesteps
        super().__init__("noise-strip", state | {"timesteps": _inside("timesteps", chosen, table), "seed": seed})


class NoiseSlider(Widget):
    """One image from clean to static, with what is left of it.

    Args:
        image, schedule, seed: as of `NoiseStrip`.
        t: where it starts, in -1..T-1.
    """

    def __init__(
        self,
        image: Tensor | Mapping[str, Tensor] | None = None,
        schedule: Schedule | None = None,
        t: int | None = None,
        seed: int = 0,
    ) -> None:
        state = images_state(image) | _one(schedule)
        table = state["schedules"][state["schedule"]]
        start = _inside("t", _spread(table, 0.3) if t is None else [t], table)[0]
        previews = [CLEAN, *_spread(table, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 1)]
        super().__init__("noise-slider", state | {"t": start, "previews": previews, "seed": seed})


class AlphaBarCurve(Widget):
    """alpha-bar over t for one schedule or several, a marker to drag, and the image at its t for each.

    Args:
        schedules: one, or several by name, each as of `NoiseStrip`; None: linear and cosine, T = 1000.
        image, seed: as of `NoiseStrip`.
        t: where the marker starts, in 0..T-1 of the longest.
    """

    def __init__(
        self,
        schedules: Mapping[str, Schedule] | Schedule | None = None,
        image: Tensor | Mapping[str, Tensor] | None = None,
        t: int | None = None,
        seed: int = 0,
    ) -> None:
        if schedules is None:
            tables = course_schedules()
        else:
            named = schedules if isinstance(schedules, Mapping) else {"given": schedules}
            tables = {name: schedule_table(schedule) for name, schedule in named.items()}
        if not tables:
            raise AlphabarError("there is no schedule to show: the mapping of schedules is empty")
        longest = max(tables.values(), key=len)
        start = _inside("t", _spread(longest, 0.4) if t is None else [t], longest)[0]
        super().__init__(
            "alpha-bar-curve",
            images_state(image) | {"schedules": tables, "shown": list(tables), "t": start, "seed": seed},
        )
