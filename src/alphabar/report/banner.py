"""One picture of both roads, for a README: how an image comes out of the noise, and what each road makes."""

from __future__ import annotations

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from alphabar.errors import AlphabarError
from alphabar.report.grid import heat_map, image_grid, sheet, tiles
from alphabar.report.html import LATENT_RANGE
from alphabar.report.result import DemoResult, Road

CELL = 56  # px, the side of every picture
COLUMNS = 8
ROWS = 4
PAPER = (255, 255, 255)
TEXT = (30, 34, 40)
GAP = 14


def banner(result: DemoResult) -> Image.Image:
    """Both roads side by side: x_t on its way above the image it predicts, and samples below."""
    panels = [_panel(road) for road in result.roads]
    width = sum(panel.width for panel in panels) + 3 * GAP
    canvas = Image.new("RGB", (width, max(panel.height for panel in panels) + 2 * GAP), PAPER)
    left = GAP
    for panel in panels:
        canvas.paste(panel, (left, GAP))
        left += panel.width + GAP
    return canvas


def _panel(road: Road) -> Image.Image:
    walk, shown = road.trajectory, road.made_by("ddpm", 50)
    if walk is None or shown is None:
        raise AlphabarError("the picture needs a trajectory and the samples of DDPM in 50 steps of both roads")
    picked = torch.linspace(0, len(walk.timesteps) - 1, COLUMNS).round().long()
    noisy = sheet([_state(x) for x in walk.x[picked]], COLUMNS)
    guesses = image_grid(walk.x0[picked], COLUMNS, scale=CELL // walk.x0.shape[-1])
    samples = image_grid(shown.images[: COLUMNS * ROWS], COLUMNS, scale=CELL // shown.images.shape[-1])
    space = "pixels" if road.space == "pixel" else "latents"
    return _captioned(
        [
            (f"Diffusion on {space}: x_t from noise to image", noisy),
            ("the image predicted at that step", guesses),
            (f"samples, {shown.label}", samples),
        ]
    )


def _state(x: Tensor) -> Image.Image:
    """What the sampler holds: an image, or the channels of a latent as heat maps, two by two."""
    if x.shape[0] in (1, 3):
        picture = tiles(x[None])[0]
    else:
        picture = sheet([heat_map(channel, -LATENT_RANGE, LATENT_RANGE) for channel in x], columns=2, pad=0)
    return picture.resize((CELL, CELL), Image.Resampling.NEAREST)


def _captioned(parts: list[tuple[str, Image.Image]]) -> Image.Image:
    font = ImageFont.load_default(15)
    line = 24
    height = sum(part.height + line for _, part in parts)
    canvas = Image.new("RGB", (max(part.width for _, part in parts), height), PAPER)
    draw, top = ImageDraw.Draw(canvas), 0
    for text, part in parts:
        draw.text((0, top + 3), text, TEXT, font)
        canvas.paste(part, (0, top + line))
        top += part.height + line
    return canvas
