"""Grids: every pixel where it belongs, captions that never touch, one clear line for what makes no picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alphabar.errors import AlphabarError
from alphabar.report import grid


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


def test_each_image_is_where_the_docstring_says_and_its_pixels_are_squares() -> None:
    images = torch.randint(0, 256, (5, 1, 3, 4), dtype=torch.uint8)
    picture = grid.image_grid(images, columns=2, scale=3, pad=2)
    assert picture.mode == "L"
    assert picture.size == (2 + 2 * (12 + 2), 2 + 3 * (9 + 2))
    shown = pixels(picture)
    outside = np.ones_like(shown, dtype=bool)
    for i, image in enumerate(images):
        top, left = 2 + (i // 2) * 11, 2 + (i % 2) * 14
        enlarged = image[0].numpy().repeat(3, 0).repeat(3, 1)
        assert (shown[top : top + 9, left : left + 12] == enlarged).all()
        outside[top : top + 9, left : left + 12] = False
    assert (shown[outside] == grid.GROUND).all()


def test_colour_and_floats() -> None:
    images = torch.tensor([-1.0, 0.0, 1.0]).reshape(1, 3, 1, 1).repeat(2, 1, 2, 2)
    picture = grid.image_grid(images, columns=7, pad=0)
    assert picture.mode == "RGB"
    assert picture.size == (4, 2)  # fewer images than columns: no empty ones
    assert tuple(pixels(picture)[0, 0][[0, 2]]) == (0, 255)
    assert pixels(grid.image_grid(images * 9, 2, pad=0)).max() == 255  # clamped, not wrapped


def test_captions_do_not_touch_each_other_or_the_images() -> None:
    images = torch.full((4, 1, 8, 8), 255, dtype=torch.uint8)
    plain = pixels(grid.labelled_grid(images, [" "] * 4, columns=2, scale=1))
    labels = ["Ankle boot and a very long story about it", "T-shirt/top", "Mg", "x"]
    picture = grid.labelled_grid(images, labels, columns=2, scale=1)
    shown = pixels(picture)
    width = (picture.width - 4) // 2
    gaps = [slice(0, 4), slice(width, width + 4), slice(picture.width - 4, None)]
    assert all((shown[:, gap] == grid.GROUND).all() for gap in gaps)  # nothing is drawn between the cells
    assert (shown == 255).sum() == (plain == 255).sum() == 4 * 64  # and nothing over the images
    assert ((shown != grid.GROUND) & (shown != 255)).any()
    assert grid.labelled_grid(images, None, 2).size == grid.image_grid(images, 2, pad=4).size


def test_heat_map_ends_and_flat_channel() -> None:
    ramp = pixels(grid.heat_map(torch.linspace(-3, 3, 9).reshape(1, 9)))
    assert tuple(ramp[0, 0]) == (68, 1, 84)
    assert tuple(ramp[0, -1]) == (253, 231, 37)
    lightness = ramp[0].astype(float) @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(lightness) > 0).all()
    assert len(np.unique(pixels(grid.heat_map(torch.zeros(4, 4))).reshape(-1, 3), axis=0)) == 1
    clipped = pixels(grid.heat_map(torch.tensor([[-9.0, 9.0]]), low=-1, high=1))
    assert tuple(clipped[0, 0]) == (68, 1, 84)


def test_png_and_gif_files(tmp_path: Path) -> None:
    frames = [grid.image_grid(torch.full((1, 1, 4, 4), i, dtype=torch.uint8), 1) for i in (0, 90, 200)]
    grid.save_png(frames[1], tmp_path / "new" / "a.png")
    assert (pixels(Image.open(tmp_path / "new" / "a.png")) == pixels(frames[1])).all()
    grid.save_gif(frames, tmp_path / "walk.gif", ms=40)
    with Image.open(tmp_path / "walk.gif") as gif:
        assert gif.n_frames == 3
        durations = []
        for i in range(3):
            gif.seek(i)
            durations.append(gif.info["duration"])
        assert durations == [40, 40, 400]
        assert gif.info["loop"] == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "walk.gif"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: grid.image_grid(torch.zeros(2, 4, 8, 8), 2), "shows 1 or 3 channels, not 4"),
        (lambda: grid.image_grid(torch.zeros(0, 1, 8, 8), 2), "at least one image"),
        (lambda: grid.image_grid(torch.zeros(1, 8, 8), 2), "[1, 8, 8]"),
        (lambda: grid.image_grid(torch.zeros(1, 1, 8, 8), 0), "columns=0"),
        (lambda: grid.image_grid(torch.zeros(1, 1, 8, 8), 1, scale=0), "scale=0"),
        (lambda: grid.labelled_grid(torch.zeros(2, 1, 8, 8), ["a"], 2), "1 labels for 2 images"),
        (lambda: grid.heat_map(torch.zeros(1, 8, 8)), "[1, 8, 8]"),
        (lambda: grid.heat_map(torch.full((2, 2), torch.nan)), "NaN"),
        (lambda: grid.save_gif([], Path("x.gif")), "at least one frame"),
        (lambda: grid.save_gif([Image.new("L", (1, 1))], Path("x.gif"), ms=1), "20 ms"),
        (lambda: grid.save_gif([Image.new("L", (1, 1)), Image.new("L", (2, 1))], Path("x.gif")), "same size"),
    ],
)
def test_bad_inputs_are_one_clear_line(call: object, message: str) -> None:
    with pytest.raises(AlphabarError) as caught:
        call()  # type: ignore[operator]
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
