"""Pixel pictures: grids of images, captions, heat maps, GIFs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from alphabar.data import to_uint8
from alphabar.errors import AlphabarError
from alphabar.io import atomic_file

GROUND = 40  # a dark contact sheet: black and white images both stand out from it, on a light page and on a dark one
INK = 228
CAPTION_PX = 12
CAPTION_LIMIT = 150  # px; a longer caption is cut, or one long label would blow up every cell

# Nine points of viridis (van der Walt and Smith, 2015): even steps of lightness, in order for a colour-blind eye too.
_VIRIDIS = np.array(
    [
        (68, 1, 84),
        (71, 45, 123),
        (59, 82, 139),
        (44, 114, 142),
        (33, 145, 140),
        (40, 174, 128),
        (94, 201, 98),
        (173, 220, 48),
        (253, 231, 37),
    ]
)


def _pixels(images: Tensor) -> np.ndarray:
    """Images uint8 or float in [-1, 1], [N, C, H, W] -> uint8 [N, H, W, C] with C 1 or 3."""
    if images.ndim != 4 or len(images) == 0:
        raise AlphabarError(f"a grid needs at least one image as [N, C, H, W], not {list(images.shape)}")
    if images.shape[1] not in (1, 3):
        raise AlphabarError(f"a grid shows 1 or 3 channels, not {images.shape[1]}; show latents with heat_map")
    images = images.detach().cpu()
    if images.dtype != torch.uint8:
        images = to_uint8(images.float())
    return images.permute(0, 2, 3, 1).numpy()


def _check(columns: int, scale: int, pad: int) -> None:
    if columns < 1 or scale < 1 or pad < 0:
        raise AlphabarError(
            f"a grid needs columns >= 1, scale >= 1 and pad >= 0, not columns={columns}, scale={scale}, pad={pad}"
        )


def _tile(pixels: np.ndarray, scale: int) -> Image.Image:
    """One image [H, W, C], enlarged so that each of its pixels is a scale x scale square."""
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def _paste(tiles: Sequence[Image.Image], columns: int, pad: int, cell: tuple[int, int]) -> Image.Image:
    """Each tile at the top centre of its cell (width, height), cells `pad` apart and inside a border of `pad`."""
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    size = columns * (cell[0] + pad) + pad, rows * (cell[1] + pad) + pad
    grey = all(tile.mode == "L" for tile in tiles)
    canvas = Image.new("L", size, GROUND) if grey else Image.new("RGB", size, (GROUND,) * 3)
    for i, tile in enumerate(tiles):
        left = pad + (i % columns) * (cell[0] + pad) + (cell[0] - tile.width) // 2
        canvas.paste(tile, (left, pad + (i // columns) * (cell[1] + pad)))
    return canvas


def tiles(images: Tensor, scale: int = 1) -> list[Image.Image]:
    """Images [N, C, H, W], as for `image_grid`, each as its own picture enlarged `scale` times."""
    return [_tile(one, scale) for one in _pixels(images)]


def sheet(pictures: Sequence[Image.Image], columns: int, pad: int = 2) -> Image.Image:
    """Pictures of any kind on one ground, in rows of `columns`, each cell as large as the largest picture."""
    _check(columns, 1, pad)
    if not pictures:
        raise AlphabarError("a sheet needs at least one picture")
    return _paste(pictures, columns, pad, (max(p.width for p in pictures), max(p.height for p in pictures)))


def image_grid(images: Tensor, columns: int, scale: int = 1, pad: int = 2) -> Image.Image:
    """Images in rows of `columns`, in order, with `pad` pixels of dark ground around each.

    Args:
        images: [N, C, H, W], C 1 or 3, uint8 or float in [-1, 1] (values beyond are clamped).
        columns: images in a row; fewer images make a narrower grid.
        scale: each pixel becomes a scale x scale square (nearest neighbour: tiny images stay exact).
        pad: pixels between images and around the grid, not enlarged.

    Returns:
        An "L" or "RGB" picture; image i has its corner at pad + (i % columns) * (W * scale + pad) and likewise down.

    Raises:
        AlphabarError: no images, other channels, or a size that makes no grid.
    """
    _check(columns, scale, pad)
    return sheet(tiles(images, scale), columns, pad)


def _cut(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, limit: float) -> str:
    """The caption on one line, cut with an ellipsis where it is wider than `limit` pixels."""
    text = " ".join(text.split())
    if font.getlength(text) <= limit:
        return text
    while text and font.getlength(text + "…") > limit:
        text = text[:-1]
    return text.rstrip() + "…"


def labelled_grid(
    images: Tensor, labels: Sequence[str] | None, columns: int, scale: int = 1, pad: int = 4
) -> Image.Image:
    """`image_grid` with a small caption centred under each image; cells widen so that captions never touch.

    Args:
        images: as for `image_grid`.
        labels: one caption per image, or None for a plain grid. One wider than 150 pixels and than its image is cut.
        columns, scale, pad: as for `image_grid`.

    Raises:
        AlphabarError: as for `image_grid`, or another number of labels than images.
    """
    if labels is None:
        return image_grid(images, columns, scale, pad)
    _check(columns, scale, pad)
    pictures = tiles(images, scale)
    if len(labels) != len(pictures):
        raise AlphabarError(f"{len(labels)} labels for {len(pictures)} images; give one each, or none")
    font = ImageFont.load_default(CAPTION_PX)
    width, height = pictures[0].size
    texts = [_cut(label, font, max(width, CAPTION_LIMIT)) for label in labels]
    cell = max(width, *(int(font.getlength(text)) + 8 for text in texts)), height + CAPTION_PX + 8
    canvas = _paste(pictures, columns, pad, cell)
    draw = ImageDraw.Draw(canvas)
    ink = INK if canvas.mode == "L" else (INK,) * 3
    columns = min(columns, len(pictures))
    for i, text in enumerate(texts):
        centre = pad + (i % columns) * (cell[0] + pad) + cell[0] // 2
        top = pad + (i // columns) * (cell[1] + pad) + height + 3
        draw.text((centre, top), text, fill=ink, font=font, anchor="ma")
    return canvas


def heat_map(channel: Tensor, low: float | None = None, high: float | None = None) -> Image.Image:
    """One channel [H, W] as an RGB picture: dark blue is `low`, yellow is `high` (by default its own extremes).

    Raises:
        AlphabarError: not a matrix, or values that are not finite.
    """
    if channel.ndim != 2 or channel.numel() == 0:
        raise AlphabarError(f"a heat map needs one channel as [H, W], not {list(channel.shape)}")
    values = channel.detach().cpu().double().numpy()
    if not np.isfinite(values).all():
        raise AlphabarError("a heat map needs finite numbers; this channel has NaN or infinity")
    low = float(values.min()) if low is None else low
    high = float(values.max()) if high is None else high
    unit = ((values - low) / (high - low)).clip(0, 1) if high > low else np.full_like(values, 0.5)
    stops = np.linspace(0, 1, len(_VIRIDIS))
    colours = np.stack([np.interp(unit, stops, _VIRIDIS[:, c]) for c in range(3)], axis=-1)
    return Image.fromarray(colours.round().astype(np.uint8))


def save_png(image: Image.Image, path: Path) -> None:
    """Write a PNG atomically."""
    with atomic_file(path) as temporary:
        image.save(temporary, format="PNG", optimize=True)


def save_gif(frames: Sequence[Image.Image], path: Path, ms: int = 80) -> None:
    """Write an endless GIF atomically: `ms` milliseconds a frame, the last one held for ten times as long.

    Raises:
        AlphabarError: no frames, frames of different sizes, or less than the 20 ms that viewers keep to.
    """
    if not frames:
        raise AlphabarError("a GIF needs at least one frame")
    if len({frame.size for frame in frames}) > 1:
        raise AlphabarError("the frames of a GIF must all have the same size")
    if ms < 20:
        raise AlphabarError(f"a GIF frame needs at least 20 ms, not {ms}: viewers slow shorter ones down")
    durations = [ms] * (len(frames) - 1) + [10 * ms]
    with atomic_file(path) as temporary:
        frames[0].save(
            temporary, format="GIF", save_all=True, append_images=list(frames[1:]), duration=durations, loop=0
        )
