"""Small pieces of HTML: pictures as data URIs, strips, tables, numbers in words."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Sequence
from html import escape

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from alphabar.report.grid import heat_map, image_grid, sheet, tiles
from alphabar.report.plots import Chart
from alphabar.report.result import Road

MOST_VALUES = 150_000  # in one grid: a dozen of them stay within a few megabytes
LARGEST = 96  # px; the side to which larger images are shrunk for display
TILE = 84  # px; about the side to which smaller ones are enlarged
LATENT_RANGE = 3.0  # latents are scaled to unit variance, and so is x_t: three standard deviations
NOT_MEASURED = '<span class="muted">not measured</span>'


def number(value: float | None) -> str:
    """Three significant digits, thousands separated, no exponent; None says that it was not measured."""
    if value is None:
        return NOT_MEASURED
    if not math.isfinite(value):
        return str(value)
    if float(value).is_integer() or abs(value) >= 1000:
        return f"{value:,.0f}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}"


def small(value: float) -> str:
    """A number in 0..1 in three digits, tiny ones as a power of ten in HTML."""
    if value >= 1e-3 or value == 0:
        return f"{value:.3f}"
    exponent = math.floor(math.log10(value))
    return f"{value / 10**exponent:.0f}·10<sup>−{-exponent}</sup>"


def si(value: float | None, unit: str) -> str:
    """`12345678, "FLOPs"` -> `"12.3 MFLOPs"`."""
    if value is None:
        return NOT_MEASURED
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def times(pixel: float, latent: float, less: str, more: str) -> tuple[str, str]:
    """How the latent road's number stands to the pixel road's: `("3.1×", less)`, `("1.2×", more)` or `("1×", "equal")`.

    Both must be positive; within 5% they count as equal, since "1×" would be printed.
    """
    ratio = max(pixel, latent) / min(pixel, latent)
    if ratio < 1.05:
        return "1×", "equal"
    return f"{ratio:.2g}×" if ratio < 10 else f"{ratio:,.0f}×", less if latent < pixel else more


def uri(data: bytes, kind: str) -> str:
    """A data URI of a media type."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def picture(image: Image.Image, alt: str, css: str = "pixels") -> str:
    """A Pillow picture as an `<img>` holding its own PNG."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    size = f'width="{image.width}" height="{image.height}"'
    return f'<img class="{css}" {size} alt="{escape(alt)}" src="{uri(buffer.getvalue(), "image/png")}">'


def chart(svg: Chart, alt: str, caption: str) -> str:
    """A chart as a figure; the reader's colour scheme picks the variant. `caption` is HTML."""
    light, dark = (uri(text.encode(), "image/svg+xml") for text in svg)
    return (
        f'<figure class="chart"><picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img alt="{escape(alt)}" src="{light}"></picture><figcaption>{caption}</figcaption></figure>'
    )


def figure(body: str, caption: str, css: str = "") -> str:
    """A figure around `body`; both are HTML."""
    return f'<figure class="{css}">{body}<figcaption>{caption}</figcaption></figure>'


def thumbnails(images: Tensor) -> Tensor:
    """Images shrunk (by area) where a side is longer than `LARGEST`, others as they are."""
    longest = max(images.shape[-2:])
    if longest <= LARGEST:
        return images
    height, width = (max(1, round(side * LARGEST / longest)) for side in images.shape[-2:])
    small = functional.interpolate(images.float(), (height, width), mode="area")
    return small.round().to(torch.uint8) if images.dtype == torch.uint8 else small


def scale_of(images: Tensor) -> int:
    """By how much small images are enlarged in the file, so that a browser need not guess."""
    return max(1, TILE // images.shape[-1])


def grid(images: Tensor, alt: str, columns: int = 8, most: int = 64) -> str:
    """The first images, as many as `most`, whole rows and a page of reasonable size allow."""
    small = thumbnails(images)
    count = min(len(small), most, max(columns, MOST_VALUES // small[0].numel()))
    count -= count % columns if count > columns else 0
    return picture(image_grid(small[:count], columns, scale_of(small), pad=3), alt)


def strip(pictures: Sequence[Image.Image], alt: str) -> str:
    """Pictures in one row."""
    return picture(sheet(pictures, len(pictures), pad=3), alt)


def image_strip(images: Tensor, alt: str) -> str:
    """Images in one row, enlarged."""
    small = thumbnails(images)
    return strip(tiles(small, scale_of(small)), alt)


def ticks(labels: Iterable[str]) -> str:
    """Captions under the columns of a strip; each is HTML."""
    cells = "".join(f"<span>{label}</span>" for label in labels)
    return f'<div class="ticks">{cells}</div>'


def channels_tile(latents: Tensor, low: float = -LATENT_RANGE, high: float = LATENT_RANGE) -> Image.Image:
    """The channels of one latent [c, h, w] as heat maps in a square, about `TILE` pixels wide."""
    columns = math.ceil(math.sqrt(len(latents)))
    scale = max(1, TILE // (columns * latents.shape[-1]))
    maps = [heat_map(channel, low, high) for channel in latents]
    return sheet([m.resize((m.width * scale, m.height * scale), Image.Resampling.NEAREST) for m in maps], columns, 1)


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that scrolls inside itself; the first cell of each row is its heading. All cells are HTML."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>" for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def road_name(road: Road) -> str:
    """`Pixel road` or `Latent road`, in its colour."""
    return f'<span class="road {road.space}">{road.space.capitalize()} road</span>'


def pair(bodies: Sequence[str]) -> str:
    """Side by side where there is room, else below each other."""
    return f'<div class="pair">{"".join(bodies)}</div>'
