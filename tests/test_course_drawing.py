"""The parts of a page's drawings: where things lie, and what the pictures hold."""

from __future__ import annotations

import base64
import io
import re

import pytest
import torch
from PIL import Image

from alphabar.course.drawing import GREY, WIDTH, Panel, picture, rows, side_of, svg


def test_a_panel_places_its_corners() -> None:
    panel = Panel(10, 20, 100, 50, (0, 4), (-1, 1))
    assert (panel.x(0), panel.x(4), panel.x(1)) == (10, 110, 35)
    assert (panel.y(1), panel.y(-1), panel.y(0)) == (20, 70, 45)


def test_a_logarithmic_panel_gives_equal_factors_equal_lengths() -> None:
    panel = Panel(0, 0, 90, 60, (1, 8), (0.25, 4), log=True)
    assert [panel.x(value) for value in (1, 2, 4, 8)] == pytest.approx([0, 30, 60, 90])
    assert [panel.y(value) for value in (4, 1, 0.25)] == pytest.approx([0, 30, 60])


def test_ticks_are_written_as_a_reader_writes_them() -> None:
    panel = Panel(0, 0, 100, 100, (-2, 1000), (0, 1))
    assert re.findall(r">([^<>]+)</text>", panel.across([-2, 1000])) == ["−2", "1,000"]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_keeps_its_pixels(channels: int) -> None:
    image = torch.linspace(-1, 1, channels * 16).view(channels, 4, 4)
    data = re.search(r'base64,([^"]+)"', picture(image, 0, 0, 10))
    assert data
    shown = Image.open(io.BytesIO(base64.b64decode(data[1])))
    assert (shown.mode, shown.size) == ("L" if channels == 1 else "RGB", (4, 4))
    assert shown.tobytes()[0] == 0
    assert shown.tobytes()[-1] == 255


def test_rows_fill_the_width_and_stand_under_one_another() -> None:
    one = torch.zeros(1, 2, 2)
    drawn = rows([("above", [one] * 8, GREY), ("below", [one] * 8, GREY)], under=["k"] * 8)
    places = [(float(x), float(y)) for x, y in re.findall(r'<image x="([\d.]+)" y="([\d.]+)"', drawn)]
    assert len(places) == 16
    assert places[7][0] + side_of(8) == pytest.approx(WIDTH, abs=0.1)
    assert places[8][1] - places[0][1] == pytest.approx(30 + side_of(8), abs=0.1)
    height = re.search(r'viewBox="0 0 480 ([\d.]+)"', drawn)
    assert height
    assert float(height[1]) == pytest.approx(places[8][1] + side_of(8) + 22, abs=0.1)


def test_a_drawing_never_grows_past_its_widest() -> None:
    assert "max-width:540px" in svg(10, [], widest=540)
