"""What a page computes: its expressions, and the figures that its own Python file draws.

A page `6.2.2-the-forward-process.md` may have a file of the same name that ends in `.py`. It is run once for a state of
its text; its public names are at hand in the page's expressions, and its functions without arguments are its drawings.
"""

from __future__ import annotations

import functools
import math
import re
import runpy
from pathlib import Path
from types import ModuleType
from typing import Any

from alphabar.errors import AlphabarError

INSIDE = re.compile(r"<<(.+?)>>", re.DOTALL)
"""An expression in a formula."""
INK = "#010203"
"""Black that follows the page: dark on light, light on dark."""
PALETTE = {"#0067a8": "blue", "#b84a00": "orange", "#00755e": "green", "#8a3f8f": "purple", "#6b7280": "grey"}
"""A drawing's colours, which the page's style sheet lightens on dark ground, as `var(--blue)`."""


def evaluate(source: str, file: Path | None = None) -> str:
    """An expression with an optional `:format` behind it, as an f-string writes it, in words.

    Args:
        source: such as `NoiseSchedule.linear().alpha_bar(499):.4f`.
        file: the page's own Python file, whose public names the expression may use; it need not exist.

    Raises:
        AlphabarError: naming the expression and what went wrong, or that a float was given no format.
    """
    expression, form = split(source)
    try:
        value = eval(expression, dict(names(file)))
        if isinstance(value, float) and not math.isfinite(value):
            raise AlphabarError(f"the value is {value}")
        if isinstance(value, float) and not form:
            if not value.is_integer():
                raise AlphabarError(f"the value is {value}: say how many digits, such as {expression}:.3f")
            form = ".0f"
        return format(value, form)
    except Exception as error:
        raise AlphabarError(f"{source!r}: {_said(error)}") from error


def substitute(formula: str, file: Path | None = None) -> str:
    """A formula with each `<<expression:format>>` in it computed."""
    return INSIDE.sub(lambda found: evaluate(found[1].strip(), file), formula)


def split(source: str) -> tuple[str, str]:
    """Expression and format: they part at the first colon that leaves a whole expression before it."""
    source = source.strip()
    for at in (at for at, letter in enumerate(source) if letter == ":"):
        if _is_expression(source[:at]):
            return source[:at].strip(), source[at + 1 :].strip()
    return source, ""


def _is_expression(text: str) -> bool:
    try:
        compile(text.strip(), "<page>", "eval")
    except (SyntaxError, ValueError):
        return False
    return True


def names(file: Path | None = None) -> dict[str, Any]:
    """All that a page's expressions may use."""
    return {**_library(), **(own(file) if file and file.exists() else {})}


@functools.cache
def _library() -> dict[str, Any]:
    import numpy as np
    import torch

    from alphabar.diffusion import Grid, NoiseSchedule, Process, make_schedule
    from alphabar.models import load_autoencoder, load_model

    return {
        "math": math,
        "np": np,
        "torch": torch,
        "NoiseSchedule": NoiseSchedule,
        "Grid": Grid,
        "Process": Process,
        "schedule": functools.cache(make_schedule),
        "shipped": functools.cache(load_model),
        "autoencoder": functools.cache(load_autoencoder),
    }


def own(file: Path) -> dict[str, Any]:
    """The public names of a page's Python file.

    Raises:
        AlphabarError: one line that names the file and what it raised.
    """
    return _run(file, file.stat().st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _run(file: Path, _changed: int) -> dict[str, Any]:
    try:
        found = runpy.run_path(str(file), run_name=file.stem)
    except Exception as error:
        raise AlphabarError(f"{file}: {_said(error)}") from error
    return {name: value for name, value in found.items() if not name.startswith("_")}


def draw(name: str, file: Path) -> str:
    """The SVG that a function of the page's Python file returns, or that its Matplotlib figure is saved as.

    A figure's text and axes take the colour of the page's text, its lines the page's palette; its ground is clear.

    Raises:
        AlphabarError: naming the function or the file that is missing, or what the function raised.
    """
    if not file.exists():
        raise AlphabarError(f"the drawing {name!r} is a function of {file.name}, which does not exist")
    function = own(file).get(name)
    if not callable(function) or isinstance(function, ModuleType):
        raise AlphabarError(f"{file}: no function {name!r}, which draws a figure")
    try:
        with _figure_style():
            drawn = function()
            text = _saved(drawn) if hasattr(drawn, "savefig") else str(drawn)
    except Exception as error:
        raise AlphabarError(f"{file}: {name}(): {_said(error)}") from error
    start = text.find("<svg")
    if start < 0:
        raise AlphabarError(f"{file}: {name}() must return an SVG text or a Matplotlib figure")
    return _own_ids(_follow_page(text[start:].strip()), name)


def _figure_style() -> Any:
    import matplotlib as mpl
    from cycler import cycler

    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")
    clear = ("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor")
    style: Any = dict.fromkeys(inked, INK) | dict.fromkeys(clear, "none")
    style |= {
        "axes.prop_cycle": cycler(color=list(PALETTE)),
        "axes.spines.right": False,
        "axes.spines.top": False,
        "figure.figsize": (5.8, 3.1),
        "figure.constrained_layout.use": True,
        "font.family": "sans-serif",
        "font.size": 10.5,
        "grid.color": INK,
        "grid.alpha": 0.15,
        "legend.frameon": False,
        "lines.linewidth": 2,
        "svg.fonttype": "path",
        "svg.hashsalt": "alphabar",
    }
    return mpl.rc_context(style)


def _saved(figure: Any) -> str:
    import io

    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    figure.clear()
    return out.getvalue()


def _follow_page(svg: str) -> str:
    svg = svg.replace(INK, "currentColor")
    for colour, name in PALETTE.items():
        svg = svg.replace(colour, f"var(--{name}, {colour})")
    return svg


def _own_ids(svg: str, name: str) -> str:
    """Ids that no other drawing in the page has."""
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    return re.sub(r'url\(#|href="#', lambda found: f"{found[0]}{name}-", svg)


def _said(error: Exception) -> str:
    """An exception in one line; the type is left out where the message is ours."""
    text = " ".join(str(error).split())
    return text if isinstance(error, AlphabarError) else f"{type(error).__name__}: {text}"
