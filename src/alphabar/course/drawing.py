"""SVG for a page's drawings: text, boxes, arrows, pictures and plots in the page's ink and palette.

A page's Python file puts such parts together; each is a piece of SVG text, and `svg` frames them. Lengths are user
units, `WIDTH` of them across. A phone shows about 350 px, so that type of 15 stays legible there.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from alphabar.course.values import INK, PALETTE
from alphabar.data import to_uint8

WIDTH = 480
BLUE, ORANGE, GREEN, PURPLE, GREY = PALETTE
FONT = "15px system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"

Picture = Tensor | Image.Image
"""Values [C, H, W] in [-1, 1], of one or three channels, or a finished image."""


def svg(height: float, parts: Iterable[str], widest: int = 600) -> str:
    """A drawing of `WIDTH` by `height` units, as wide as its column and at most `widest` px."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" style="display:block;width:100%;'
        f'max-width:{widest}px;height:auto;margin:auto;font:{FONT}">{"".join(parts)}</svg>'
    )


def text(x: float, y: float, words: str, colour: str = GREY, anchor: str = "start", more: str = "") -> str:
    """Words with their baseline at y; `anchor` is start, middle or end, `more` further CSS."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" style="fill:{colour};{more}">{words}</text>'


def line(points: Iterable[tuple[float, float]], colour: str = INK, width: float = 1.5, more: str = "") -> str:
    """A line through points; `more` is further SVG attributes."""
    data = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path d="{data}" fill="none" stroke-width="{width:g}" style="stroke:{colour}" {more}/>'


def rule(x1: float, y1: float, x2: float, y2: float) -> str:
    """A faint line, for axes."""
    return line([(x1, y1), (x2, y2)], INK, 1, 'stroke-opacity="0.18"')


def arrow(x1: float, y1: float, x2: float, y2: float, colour: str = INK) -> str:
    """A straight arrow along one axis; the head is drawn, since a marker's id would not be the drawing's own."""
    dx, dy = (x2 > x1) - (x2 < x1), (y2 > y1) - (y2 < y1)
    head = [(x2 - 6 * dx + 4 * dy, y2 - 6 * dy + 4 * dx), (x2, y2), (x2 - 6 * dx - 4 * dy, y2 - 6 * dy - 4 * dx)]
    return line([(x1, y1), (x2, y2)], colour) + line(head, colour)


def box(
    x: float, y: float, width: float, height: float, colour: str, fill: float = 0.12, edge: float = 1.5, rx: float = 4
) -> str:
    """A rectangle; `fill` is its ground's opacity, `edge` its outline's width, `rx` the radius of its corners."""
    stroke = f'stroke-width="{edge:g}" style="fill:{colour};stroke:{colour}"' if edge else f'style="fill:{colour}"'
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{rx:g}" '
        f'fill-opacity="{fill:g}" {stroke}/>'
    )


def dot(x: float, y: float, colour: str) -> str:
    """A point of a plot."""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" style="fill:{colour}"/>'


def picture(image: Picture, x: float, y: float, side: float, jpeg: bool = False) -> str:
    """A square image. Its pixels stay sharp, except in a photograph's `jpeg`."""
    if isinstance(image, Tensor):
        pixels = to_uint8(image.clamp(-1, 1)[None])[0].permute(1, 2, 0).numpy()
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=82) if jpeg else image.save(out, "PNG", optimize=True)
    data, kind = base64.b64encode(out.getvalue()).decode(), "jpeg" if jpeg else "png"
    return (
        f'<image x="{x:.1f}" y="{y:.1f}" width="{side:.1f}" height="{side:.1f}" '
        f'style="image-rendering:{"auto" if jpeg else "pixelated"}" href="data:image/{kind};base64,{data}"/>'
    )


GAP = 4  # between the pictures of a row


def side_of(n: int) -> float:
    """The side of a picture when n of them fill the width."""
    return (WIDTH - GAP * (n - 1)) / n


def row(y: float, label: str, pictures: Sequence[Picture], colour: str = GREY) -> str:
    """A label over pictures that fill the width; 20 units taller than they are."""
    side = side_of(len(pictures))
    shown = (picture(one, k * (side + GAP), y + 20, side) for k, one in enumerate(pictures))
    return text(0, y + 13, label, colour) + "".join(shown)


def rows(content: Sequence[tuple[str, Sequence[Picture], str]], under: Sequence[str] = ()) -> str:
    """A drawing of rows under one another: label, pictures, colour of each; `under` names the last row's columns."""
    y, parts = 0.0, []
    for label, pictures, colour in content:
        parts.append(row(y, label, pictures, colour))
        y += 30 + side_of(len(pictures))
    y -= 10
    side = side_of(len(under) or 1)
    parts += [text(k * (side + GAP) + side / 2, y + 18, words, anchor="middle") for k, words in enumerate(under)]
    return svg(y + 22 if under else y, parts)


@dataclass(frozen=True)
class Panel:
    """A plot: a rectangle of the drawing with coordinates of its own, linear or, on both axes, logarithmic."""

    left: float
    top: float
    width: float
    height: float
    xs: tuple[float, float]
    ys: tuple[float, float]
    log: bool = False

    def x(self, value: float) -> float:
        """Where a horizontal value lies."""
        return self.left + self.width * self._part(value, *self.xs)

    def y(self, value: float) -> float:
        """Where a vertical value lies."""
        return self.top + self.height * (1 - self._part(value, *self.ys))

    def _part(self, value: float, low: float, high: float) -> float:
        if self.log:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return (value - low) / (high - low)

    def line(self, xs: Iterable[float], ys: Iterable[float], colour: str, width: float = 2.4, more: str = "") -> str:
        """A curve; `more` is further SVG attributes."""
        points = ((self.x(x), self.y(y)) for x, y in zip(xs, ys, strict=True))
        return line(points, colour, width, f'stroke-linejoin="round" {more}')

    def bar(self, x: tuple[float, float], y: tuple[float, float], colour: str, fill: float = 1, rx: float = 0) -> str:
        """A rectangle from one pair of values to another, without an outline."""
        left, right, top, bottom = self.x(x[0]), self.x(x[1]), self.y(y[1]), self.y(y[0])
        return box(left, top, right - left, bottom - top, colour, fill, 0, rx)

    def label(self, x: float, y: float, words: str, colour: str = GREY, anchor: str = "start") -> str:
        """Words at a point."""
        return text(self.x(x), self.y(y), words, colour, anchor)

    def across(self, ticks: Sequence[float], name: str = "") -> str:
        """The horizontal axis: a rule, its ticks with their numbers, and a name under them."""
        bottom, middle = self.top + self.height, self.left + self.width / 2
        parts = [rule(self.left, bottom, self.left + self.width, bottom)]
        for at, tick in ((self.x(tick), tick) for tick in ticks):
            parts += [rule(at, bottom, at, bottom + 4), text(at, bottom + 18, _number(tick), anchor="middle")]
        return "".join(parts) + text(middle, bottom + 36, name, anchor="middle")

    def up(self, ticks: Sequence[float]) -> str:
        """The vertical axis: faint rules across the panel, with their numbers."""
        right = self.left + self.width
        rules = (rule(self.left, self.y(tick), right, self.y(tick)) for tick in ticks)
        return "".join(rules) + "".join(
            text(self.left - 6, self.y(tick) + 5, _number(tick), anchor="end") for tick in ticks
        )


def _number(value: float) -> str:
    return f"{value:,g}".replace("-", "−")
