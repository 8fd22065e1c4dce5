"""What the widgets are given: images and schedules, the course's and the learner's, as JSON holds them."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from alphabar.data import fallback_dataset, open_dataset, to_uint8
from alphabar.diffusion import NoiseSchedule
from alphabar.errors import AlphabarError

State = dict[str, Any]
"""What a widget knows, as JSON holds it."""
Schedule = NoiseSchedule | Tensor | Sequence[float]
"""A schedule, or its alpha-bar at t = 0..T-1."""
CALLED = {"fashion-mnist": "Fashion-MNIST", "mnist": "MNIST", "digits": "scikit-learn's digits"}
"""The data sets that `fallback_dataset` chooses from, as a reader knows them."""
DRAWN = "T-shirt (drawn)"
ROWS = (35, 5, 1, 86, 10, 82, 7, 12, 30, 28)
"""The image of each class in Fashion-MNIST's test set that the pages show: they differ in shape and in texture."""


def tshirt() -> Tensor:
    """A striped T-shirt, drawn: [1, 28, 28] float32 in [-1, 1], the same on every machine."""
    scale = 8
    image = Image.new("L", (28 * scale, 28 * scale), 0)
    draw = ImageDraw.Draw(image)

    def polygon(fill: int, *points: tuple[float, float]) -> None:
        draw.polygon([(round(x * scale), round(y * scale)) for x, y in points], fill=fill)

    for side in (1, -1):  # the sleeves, a shade darker, with a hem
        at = [(14 + side * (x - 14), y) for x, y in ((18, 4), (21, 5.5), (26.5, 12), (22.5, 15.5), (19, 11))]
        polygon(150, *at)
        polygon(190, *((14 + side * (x - 14), y) for x, y in ((26.5, 12), (22.5, 15.5), (21.9, 14.6), (25.8, 11.1))))
    polygon(205, (10, 4), (18, 4), (20.5, 6), (20, 26), (8, 26), (7.5, 6))
    for top in (10, 14, 18, 22):  # stripes: the texture that noise drowns first
        polygon(95, (7.7, top), (20.3, top), (20.2, top + 1.6), (7.8, top + 1.6))
    draw.ellipse([11 * scale, 1.2 * scale, 17 * scale, 6.6 * scale], fill=0)  # the neck
    pixels = np.asarray(image, dtype=np.float32).reshape(28, scale, 28, scale).mean(axis=(1, 3))
    return torch.from_numpy(pixels).div(127.5).sub(1)[None]


def image_record(label: str, image: Tensor, source: str) -> State:
    """An image as the widgets take it.

    Args:
        label: its name, by which it is chosen.
        image: [C, H, W], [1, C, H, W] or [H, W] with C 1 or 3: floats in [-1, 1], or uint8.
        source: where it is from.

    Raises:
        AlphabarError: on another shape, or on values that cannot be an image in [-1, 1].
    """
    x = torch.as_tensor(image).detach().cpu()
    x = x[0] if x.ndim == 4 and len(x) == 1 else x[None] if x.ndim == 2 else x
    if x.ndim != 3 or x.shape[0] not in (1, 3):
        raise AlphabarError(f"the image {label!r} must be [C, H, W] with 1 or 3 channels, not {list(x.shape)}")
    x = x if x.dtype == torch.uint8 else x.float()
    if x.is_floating_point() and not x.abs().max() <= 1.001:
        low, high = x.min().item(), x.max().item()
        raise AlphabarError(f"the image {label!r} runs from {low:.3g} to {high:.3g}: bring its pixels to [-1, 1]")
    return {"label": label, "source": source, "shape": list(x.shape), "pixels": array_record(x)}


def array_record(x: Tensor) -> State:
    """A float32, float16 or uint8 tensor as `decodeArray` of common.js takes it: little-endian, in base64."""
    numbers = x.detach().cpu().contiguous().numpy()
    data = numbers.astype(numbers.dtype.newbyteorder("<")).tobytes()
    return {"dtype": str(numbers.dtype), "data": base64.b64encode(data).decode()}


@cache
def course_images() -> tuple[State, ...]:
    """What the pages show: the drawn T-shirt, then a test image of each class of Fashion-MNIST (or the next best set).

    Raises:
        AlphabarError: when no data set can be had.
    """
    name = fallback_dataset()
    data = open_dataset(name, "test", size=28, channels=1)
    assert data.labels is not None  # all three sets have labels
    rows = ROWS if name == "fashion-mnist" else [int((data.labels == k).nonzero()[0, 0]) for k in range(10)]
    titles = data.class_names or [str(k) for k in range(10)]
    records = [image_record(DRAWN, to_uint8(tshirt()), "A T-shirt drawn by a program")]
    for row, image in zip(rows, data.rows(list(rows)), strict=True):
        title = titles[int(data.labels[row])]
        records.append(image_record(title, image, f"{title}, image {row} of the test set of {CALLED[name]}"))
    return tuple(records)


def images_state(image: Tensor | Mapping[str, Tensor] | None) -> State:
    """The state's `images` and `image`: one's own, or the course's."""
    if image is None:
        records: Sequence[State] = course_images()
    else:
        own = image if isinstance(image, Mapping) else {"your image": image}
        if not own:
            raise AlphabarError("there is no image to show: the mapping of images is empty")
        records = [image_record(label, x, label[:1].upper() + label[1:]) for label, x in own.items()]
    return {"images": list(records), "image": records[0]["label"]}


def schedule_table(schedule: Schedule) -> list[float]:
    """alpha-bar at t = 0..T-1 of a schedule, or of one's own array, which need not fall to be looked at.

    Raises:
        AlphabarError: when it is no row of at least two numbers in [0, 1].
    """
    given = getattr(schedule, "alphas_bar", schedule)
    table = torch.as_tensor(given).detach().cpu().double()
    if table.ndim != 1 or len(table) < 2:
        raise AlphabarError(f"a schedule is a row of alpha-bar for t = 0..T-1, not of shape {list(table.shape)}")
    wrong = ~((table >= 0) & (table <= 1))
    if wrong.any():
        t = int(wrong.nonzero()[0, 0])
        raise AlphabarError(f"alpha-bar lies in [0, 1], and at t = {t} it is {table[t].item():.4g}")
    values: list[float] = table.tolist()
    return values


def course_schedules() -> dict[str, list[float]]:
    """The two that the pages compare, as the library has them."""
    return {"linear": schedule_table(NoiseSchedule.linear()), "cosine": schedule_table(NoiseSchedule.cosine())}
