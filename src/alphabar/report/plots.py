"""Charts as SVG text, each in a light and a dark variant on a transparent ground.

One colour per road, everywhere (Okabe and Ito's vermilion and blue, which survive colour blindness); samplers differ by
line and marker, never by colour alone.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from alphabar.errors import AlphabarError
from alphabar.report.result import Curve, Distance, LossByNoise, Road, Space, sampler_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = 4.6, 3.0  # inches; small, so that the type is still readable when a phone shrinks the chart
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"


@dataclass(frozen=True)
class Theme:
    """The colours of one variant; `pixel` and `latent` are the roads."""

    ink: str
    muted: str
    line: str
    pixel: str
    latent: str

    def road(self, space: Space) -> str:
        """The colour of one road."""
        return self.pixel if space == "pixel" else self.latent


LIGHT = Theme(ink="#1b1f24", muted="#59636e", line="#d5dae0", pixel="#b84a00", latent="#0067a8")
DARK = Theme(ink="#e8ebee", muted="#9aa4ae", line="#3a424b", pixel="#ff9d57", latent="#62b6f5")

_LINES = {"ddpm": ("-", "o"), "ddim": ("--", "s"), "heun": (":", "^"), "dpmpp-2m": ("-.", "D")}


class Chart(NamedTuple):
    """SVG text for a light page and for a dark one."""

    light: str
    dark: str


class _Label(NamedTuple):
    x: float
    y: float
    text: str
    colour: str


@contextlib.contextmanager
def _axes(theme: Theme, out: list[str]) -> Iterator[Axes]:
    """Bare axes in the theme's colours; their SVG is appended to `out` at the end."""
    import matplotlib
    from matplotlib.figure import Figure

    style: Any = {
        "svg.fonttype": "none",  # text stays text: selectable, and in the reader's own font
        "svg.hashsalt": "alphabar",  # the same numbers give the same file
        "text.parse_math": False,
        "font.size": 10,
        "text.color": theme.ink,
        "axes.edgecolor": theme.line,
        "axes.labelcolor": theme.muted,
        "xtick.color": theme.line,
        "ytick.color": theme.line,
        "xtick.labelcolor": theme.muted,
        "ytick.labelcolor": theme.muted,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": theme.line,
        "grid.linewidth": 0.6,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        yield axes
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    out.append(_slim(buffer.getvalue()))


def _slim(svg: str) -> str:
    """Without the parts that only other programs read, and with the reader's font."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    return svg.replace("'DejaVu Sans', ", "").replace("'DejaVu Sans'", FONT)


def _plain_log(axis: Any, ticks: Sequence[float], low: float, high: float) -> None:
    """A log axis with plain numbers at those of `ticks` that lie on it, and no minor ticks."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _steps_of(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, ... around a range: ticks of a log axis."""
    first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))
    return [m * 10.0**e for e in range(first, last + 1) for m in (1, 2, 5)]


def _log_limits(axes: Axes, which: str, values: Sequence[float], more: float = 1.25) -> None:
    low, high = min(values) / more, max(values) * more
    getattr(axes, f"set_{which}scale")("log")
    getattr(axes, f"set_{which}lim")(low, high)
    _plain_log(getattr(axes, f"{which}axis"), _steps_of(low, high), low, high)


def _label_lines(axes: Axes, labels: Sequence[_Label]) -> None:
    """Name each line at the right of the axes, at the height of its end, moved apart where names would touch."""
    to_unit = axes.transData.transform
    box = axes.transAxes.inverted()
    ends = sorted(((float(box.transform(to_unit((one.x, one.y)))[1]), one) for one in labels), key=lambda end: end[0])
    gap, last = 0.085, -1.0
    heights = []
    for height, _ in ends:
        last = max(height, last + gap)
        heights.append(last)
    over = max(0.0, heights[-1] - 1.0) if heights else 0.0
    for height, (_, one) in zip(heights, ends, strict=True):
        axes.annotate(
            one.text,
            xy=(one.x, one.y),
            xytext=(1.04, height - over),
            textcoords="axes fraction",
            color=one.colour,
            va="center",
            arrowprops={"arrowstyle": "-", "color": one.colour, "lw": 0.6, "alpha": 0.5, "shrinkA": 1, "shrinkB": 3},
        )


def smooth(values: Sequence[float] | np.ndarray, window: int) -> np.ndarray:
    """The mean over `window` values around each; shorter, never padded, at the ends."""
    sums = np.concatenate([[0.0], np.cumsum(np.asarray(values, dtype=np.float64))])
    at = np.arange(len(values))
    low, high = np.maximum(at - window // 2, 0), np.minimum(at + window // 2 + 1, len(values))
    return np.asarray((sums[high] - sums[low]) / (high - low))


def training_curve(curve: Curve, space: Space, codec_seconds: float = 0.0, end: float | None = None) -> Chart:
    """Loss against seconds, as logged (faint) and smoothed; the autoencoder's share of the time is a grey band.

    Args:
        curve: at least one logged loss.
        space: the road, for its colour.
        codec_seconds: time before the denoiser's training, spent on the autoencoder.
        end: right end of the time axis, so that two roads can share one.
    """
    if not len(curve.loss):
        raise AlphabarError("a training curve needs at least one logged loss")
    seconds, loss = np.asarray(curve.seconds, dtype=float), np.asarray(curve.loss, dtype=float)
    mean = smooth(loss, max(1, len(loss) // 20))
    out: list[str] = []
    for theme in (LIGHT, DARK):
        colour = theme.road(space)
        with _axes(theme, out) as axes:
            axes.plot(seconds, loss, color=colour, lw=0.6, alpha=0.25)
            axes.plot(seconds, mean, color=colour, lw=1.8)
            finite = loss[np.isfinite(loss)]
            top = float(np.quantile(finite, 0.98)) * 1.15 if len(finite) and finite.max() > 0 else 1.0
            axes.set(xlim=(0, end or max(float(seconds[-1]), 1e-9)), ylim=(0, top))
            axes.set(xlabel="seconds of training", ylabel="loss")
            if codec_seconds > 0:
                axes.axvspan(0, codec_seconds, color=theme.muted, alpha=0.12, lw=0)
                axes.text(
                    codec_seconds / 2,
                    top / 2,
                    "the VAE trains",
                    color=theme.muted,
                    rotation=90,
                    ha="center",
                    va="center",
                )
            _label_lines(axes, [_Label(float(seconds[-1]), float(mean[-1]), f"{mean[-1]:.3g}", colour)])
    return Chart(*out)


def loss_by_noise(roads: Sequence[tuple[Space, LossByNoise]]) -> Chart:
    """Loss per range of timesteps, from little noise to much: bars, one colour per road, each with its number.

    Raises:
        AlphabarError: no road, or roads cut at different timesteps.
    """
    if not roads or any(list(part.edges) != list(roads[0][1].edges) for _, part in roads):
        raise AlphabarError("the roads' losses must be split at the same timesteps")
    edges = roads[0][1].edges
    out: list[str] = []
    for theme in (LIGHT, DARK):
        with _axes(theme, out) as axes:
            width = 0.8 / len(roads)
            for k, (space, part) in enumerate(roads):
                at = np.arange(len(part.loss)) + (k - (len(roads) - 1) / 2) * width
                bars = axes.bar(at, part.loss, width * 0.92, color=theme.road(space), label=space)
                axes.bar_label(bars, [f"{loss:.2g}" for loss in part.loss], fontsize=8, color=theme.ink, padding=1)
            axes.set_xticks(range(len(edges) - 1), [f"{a}–{b - 1}" for a, b in itertools.pairwise(edges)])
            axes.set(xlabel="timestep t (noise grows to the right)", ylabel="loss")
            axes.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
    return Chart(*out)


def _draw_floor(axes: Axes, floor: float, theme: Theme) -> None:
    """The floor as a line; where it is far below the axis, in words, rather than squeezing everything else."""
    low, high = axes.get_ylim()
    if low <= floor <= high:
        axes.axhline(floor, color=theme.muted, lw=1)
        at, offset = floor, 2
    else:
        at, offset = low, 4
    text = f"floor {floor:.3g}" + ("" if low <= floor else ", below" if floor < low else ", above")
    axes.annotate(
        text,
        (0.01, at),
        (0, offset),
        xycoords=axes.get_yaxis_transform(),
        textcoords="offset points",
        fontsize=8,
        color=theme.muted,
    )


def frechet_by_steps(road: Road, floor: float, limits: Sequence[float]) -> Chart:
    """Fréchet distance against network calls per image, one line per sampler; both axes logarithmic.

    Args:
        road: with at least one distance.
        floor: the distance of real images to real images, drawn as a line or, far off, named.
        limits: distances that the vertical axis must hold, so that two roads can share one.
    """
    if not road.distances:
        raise AlphabarError(f"{road.name} has no Fréchet distances to draw")
    samplers = list(dict.fromkeys(one.sampler for one in road.distances))
    steps = sorted({one.steps for one in road.distances})
    out: list[str] = []
    for theme in (LIGHT, DARK):
        colour = theme.road(road.space)
        with _axes(theme, out) as axes:
            _log_limits(axes, "x", steps, 1.15)
            _plain_log(axes.xaxis, steps, steps[0], steps[-1])
            _log_limits(axes, "y", limits)
            labels = []
            for sampler in samplers:
                points = sorted((one for one in road.distances if one.sampler == sampler), key=lambda one: one.steps)
                line, marker = _LINES.get(sampler, ("-", "x"))
                xs, ys = [one.steps for one in points], [one.frechet for one in points]
                axes.plot(xs, ys, ls=line, marker=marker, ms=4.5, lw=1.5, color=colour)
                labels.append(_Label(xs[-1], ys[-1], sampler_name(sampler), colour))
            _draw_floor(axes, floor, theme)
            axes.set(xlabel="sampling steps", ylabel="Fréchet distance")
            _label_lines(axes, labels)
    return Chart(*out)


def front(points: Sequence[Distance]) -> list[Distance]:
    """Those that no other beats in both time and distance, fastest first; points without a time do not count."""
    best: list[Distance] = []
    for one in sorted(points, key=lambda p: (p.seconds or 0.0, p.frechet)):
        if one.seconds is not None and (not best or one.frechet < best[-1].frechet):
            best.append(one)
    return best


def frechet_by_seconds(roads: Sequence[Road], floor: float) -> Chart:
    """Fréchet distance against seconds for 64 images: all points faint, the best that each time buys joined and named.

    Raises:
        AlphabarError: no road has a distance with a positive time.
    """
    timed = [one for road in roads for one in road.distances if one.seconds]
    if not timed:
        raise AlphabarError("no Fréchet distance has a sampling time")
    out: list[str] = []
    for theme in (LIGHT, DARK):
        with _axes(theme, out) as axes:
            _log_limits(axes, "x", [one.seconds for one in timed if one.seconds], 2)
            _log_limits(axes, "y", [one.frechet for one in timed])
            _draw_floor(axes, floor, theme)
            for road in roads:
                colour, best = theme.road(road.space), front(road.distances)
                for one in road.distances:
                    if one.seconds:
                        axes.plot(
                            one.seconds,
                            one.frechet,
                            _LINES.get(one.sampler, ("-", "x"))[1],
                            ms=4,
                            color=colour,
                            alpha=0.35,
                        )
                axes.plot(
                    [one.seconds or 0.0 for one in best],
                    [one.frechet for one in best],
                    "o-",
                    ms=4.5,
                    lw=1.6,
                    color=colour,
                )
            _name_points(axes, [(one, theme.road(road.space)) for road in roads for one in front(road.distances)])
            axes.set(xlabel="seconds for 64 images", ylabel="Fréchet distance")
    return Chart(*out)


def _name_points(axes: Axes, points: Sequence[tuple[Distance, str]]) -> None:
    """A name beside each point where it fits: left below, where its front has no points, else right above."""
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()  # the layout settles, so that sizes are final
    dots = [tuple(xy) for line in axes.lines for xy in axes.transData.transform(line.get_xydata())]
    taken: list[Any] = [Bbox.from_bounds(x - 3, y - 3, 6, 6) for x, y in dots]
    inside = axes.get_window_extent()
    for one, colour in points:
        for offset, ha, va in (((-4, -4), "right", "top"), ((5, 4), "left", "bottom")):
            name = axes.annotate(
                one.label,
                (one.seconds or 0.0, one.frechet),
                offset,
                textcoords="offset points",
                ha=ha,
                va=va,
                fontsize=8,
                color=colour,
            )
            name.set_in_layout(False)
            box = name.get_window_extent()
            if box.x0 >= inside.x0 and box.x1 <= inside.x1 and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            name.remove()
