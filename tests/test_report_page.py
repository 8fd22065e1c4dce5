"""The page is whole, self-contained and honest: it says what the numbers say, and nothing about what is missing."""

from __future__ import annotations

import base64
import dataclasses
import io
import itertools
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

from alphabar.errors import AlphabarError
from alphabar.report import cost, html, plots, result, sections
from alphabar.report.banner import banner
from alphabar.report.page import SECTIONS, render

VOID = {"meta", "img", "br", "source"}


def images(n: int, channels: int = 1, size: int = 8) -> torch.Tensor:
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(n)) * 2 - 1


def road(space: result.Space, factor: float = 1.0) -> result.Road:
    times = [1000, 400, 20, 0]
    x = images(4) if space == "pixel" else torch.randn(4, 3, 4, 4)
    distances = [
        result.Distance(sampler, steps, factor * value, 0.01 * steps)
        for sampler, steps, value in (("ddpm", 1000, 3.0), ("ddpm", 50, 4.0), ("ddim", 50, 5.5), ("ddim", 20, 7.0))
    ]
    made = [result.Samples(sampler, steps, images(12)) for sampler in ("ddpm", "ddim") for steps in (1000, 50, 20)]
    return result.Road(
        space,
        f"run-{space}",
        result.Cost(1234, 64 if space == "pixel" else 48, 10**6, 5.0, 10**7, 10.0, 0.5 * factor, 30.0, 4096),
        distances,
        made,
        result.Curve([1.0, 2.0, 3.0], [0.9, 0.5, 0.4]),
        result.LossByNoise([0, 250, 500, 750, 1000], [0.4, 0.3, 0.2, 0.1]),
        result.Trajectory(times, x, images(4), "ddim", 20),
        result.OneShot(999, images(4) * 0.1, images(4), 50),
    )


@pytest.fixture(scope="module")
def demo() -> result.DemoResult:
    code = "codec = PixelCodec()\nx0 = codec.encode(images, rng)\nif a < b: pass\n"
    return result.DemoResult(
        dataset="noise",
        pixel=road("pixel", 2.0),
        latent=road("latent"),
        seed=7,
        versions={"alphabar": "0.1.0"},
        hardware="a <b>small</b> machine",
        command="alphabar demo --out 'a & b'",
        budget_seconds=30,
        floor=0.2,
        frechet_n=100,
        dissolve=[result.Dissolve(s, [0, 500, 999], [1.0, 0.1, 4e-5], images(3)) for s in ("linear", "cosine")],
        reconstruction=result.Reconstruction(images(4), images(4), 21.5),
        channels=result.LatentChannels(
            images(4), torch.randn(4, 3, 4, 4), [0.1, 0.7, 0.2], 0.8, [9.0, 8.0, 12.0], 20.0
        ),
        at_size=result.CostAtSize(512, 262144, 49152, 8 * 10**9, 10**9),
        algorithms=result.Algorithms(code, code.replace("PixelCodec()", "LatentCodec(vae)")),
        notes=["MNIST <instead>"],
        not_measured=["memory"],
    )


@pytest.fixture(scope="module")
def page(demo: result.DemoResult) -> str:
    return render(demo)


class Reader(HTMLParser):
    """Checks that elements nest, and gathers attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_balanced_and_loads_nothing(page: str) -> None:
    reader = Reader(page)
    ids = {attrs["id"] for _, attrs in reader.attributes if "id" in attrs}
    for tag, attrs in reader.attributes:
        assert tag not in {"script", "link", "iframe"}
        for key in ("src", "srcset", "href"):
            if key in attrs:
                value = attrs[key] or ""
                assert value.startswith("data:") or (value.startswith("#") and value[1:] in ids)
        if tag == "img":
            assert attrs["alt"]
    assert not re.search(r"url\(|@import", page)
    headings = [int(tag[1]) for tag, _ in reader.attributes if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(headings))
    assert len(page.encode()) < 4_000_000


def test_every_picture_opens_and_charts_have_two_variants(page: str) -> None:
    for data in re.findall(r"data:image/png;base64,([^\"]+)", page):
        Image.open(io.BytesIO(base64.b64decode(data))).load()
    charts = [base64.b64decode(d).decode() for d in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", page)]
    assert len(charts) == 2 * (2 + 1 + 2 + 1)
    assert page.count("prefers-color-scheme: dark)") == len(charts) // 2 + 1  # and the style's own
    for dark, light in zip(charts[::2], charts[1::2], strict=True):
        assert plots.DARK.ink in dark or plots.DARK.muted in dark
        assert plots.LIGHT.muted in light
        assert dark != light


def test_names_are_escaped(page: str) -> None:
    assert "<b>small</b>" not in page
    assert "a &lt;b&gt;small&lt;/b&gt; machine" in page
    assert "MNIST &lt;instead&gt;" in page
    assert "if a &lt; b: pass" in page


def test_words_follow_the_numbers(demo: result.DemoResult, page: str) -> None:
    text = Reader(page).text
    assert "the latent road is nearer to the real images" in text
    assert "8× fewer operations" in text
    assert "Most like a thumbnail is channel 1 (R² 0.70)" in text
    assert "Setting channel 1 to its mean costs the reconstruction most, 12.0 dB" in text
    assert "4·10−5" in text
    assert "1 of 3 lines differ" in text
    assert "FID" not in text
    swapped = dataclasses.replace(demo, pixel=road("pixel"), latent=road("latent", 2.0))
    assert "the pixel road is nearer" in cost.verdict(swapped)
    assert "too close to call" in cost.verdict(dataclasses.replace(demo, pixel=road("pixel"), latent=road("latent")))


def test_what_was_not_measured_is_left_out(page: str) -> None:
    bare = result.DemoResult(
        dataset="noise",
        pixel=result.Road("pixel", "a", result.Cost(1, 64)),
        latent=result.Road("latent", "b", result.Cost(1, 48)),
        seed=0,
        versions={},
        hardware="h",
        command="alphabar compare a b",
    )
    left = render(bare)
    text = Reader(left).text
    assert re.findall(r'<section id="([^"]+)"', left) == ["cost"]
    assert re.findall(r'href="#([^"]+)"', left) == ["cost"]
    assert "not measured" in text
    assert "None" not in text
    assert "<img" not in left
    assert len(SECTIONS) == page.count("<section")


def test_colour_and_large_images_stay_small() -> None:
    large = result.Samples("ddpm", 50, torch.randint(0, 256, (16, 3, 200, 100), dtype=torch.uint8))
    page = render(bare_result(bare_road("pixel", samples=[large]), bare_road("latent")))
    assert "larger than 96 pixels are shown shrunk" in page
    assert len(page.encode()) < 400_000
    assert html.thumbnails(large.images).shape == (16, 3, 96, 48)


def test_settled_is_one_at_the_end_and_splits_coarse_from_fine() -> None:
    last = images(1, size=16)
    blurred = torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(last, 2), scale_factor=2)
    coarse, fine = sections.settled(torch.cat([torch.zeros_like(last), blurred, last]))
    assert coarse[-1] == fine[-1] == 1
    assert coarse[1] > 0.99
    assert abs(fine[1]) < 0.01
    assert coarse[0] < 0.5


def test_diff_rows_align_and_mark_only_what_differs() -> None:
    rows = sections.diff_rows(["a", "b", "c"], ["a", "x", "y", "c", "d"])
    assert rows == [("a", "a"), ("b", "x"), (None, "y"), ("c", "c"), (None, "d")]
    assert sections.diff_rows([], []) == []


def test_summary_has_the_agreed_keys(demo: result.DemoResult) -> None:
    made = result.summary(demo)
    keys = ["parameters", "values_per_image", "flops_per_call", "ms_per_call_batch64", "seconds_ddpm1000_n64"]
    keys += ["seconds_ddim50_n64", "frechet_ddim50", "frechet_best", "best_sampler", "train_seconds", "images_seen"]
    assert list(made) == ["pixel", "latent", "floor", "versions", "seed", "hardware"]
    assert list(made["pixel"]) == list(made["latent"]) == keys
    assert (made["latent"]["frechet_best"], made["latent"]["best_sampler"]) == (4.0, "ddpm-50")  # not the 1000 steps
    assert made["pixel"]["frechet_ddim50"] == 11.0
    assert json.loads(json.dumps(made)) == made


@pytest.mark.parametrize(
    ("value", "text"),
    [(784, "784"), (262144, "262,144"), (0.31, "0.310"), (5.8, "5.80"), (150.2, "150"), (0.0, "0"), (1e-4, "0.000100")],
)
def test_numbers(value: float, text: str) -> None:
    assert html.number(value) == text
    assert html.number(float("nan")) == "nan"


def test_ratios_and_units() -> None:
    assert html.times(30, 10, "fewer", "more") == ("3×", "fewer")
    assert html.times(10, 12.5, "fewer", "more") == ("1.2×", "more")
    assert html.times(10, 10.05, "fewer", "more") == ("1×", "equal")
    assert html.times(5, 1000, "fewer", "more") == ("200×", "more")
    assert html.si(12_345_678, "FLOPs") == "12.3 MFLOPs"
    assert html.si(4.56e15, "FLOPs") == "4.56 PFLOPs"


def test_smoothing_and_the_front() -> None:
    assert plots.smooth([1, 2, 3, 4], 3).tolist() == [1.5, 2, 3, 3.5]
    assert plots.smooth([5.0], 9).tolist() == [5]
    points = [result.Distance("ddpm", s, f, t) for s, f, t in ((1, 9, 1), (2, 10, 2), (3, 5, 3), (4, 1, None))]
    assert [one.steps for one in plots.front(points)] == [1, 3]


def test_the_same_numbers_give_the_same_chart() -> None:
    curve = result.Curve([1.0, 2.0], [0.5, 0.4])
    assert plots.training_curve(curve, "pixel") == plots.training_curve(curve, "pixel")


def bare_road(space: result.Space, **parts: object) -> result.Road:
    return result.Road(space, "r", result.Cost(1, 1), **parts)  # type: ignore[arg-type]


def bare_result(pixel: result.Road, latent: result.Road) -> result.DemoResult:
    return result.DemoResult("d", pixel, latent, 0, {}, "h", "c")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: result.Curve([1.0], []), "one loss per time"),
        (lambda: result.Distance("ddim", 5, float("nan")), "DDIM 5: a Fréchet distance must be"),
        (lambda: result.LossByNoise([0, 1], [1.0, 2.0]), "2 losses need 3 edges"),
        (lambda: result.Trajectory([1], images(2), images(2), "ddim", 2), "one x and one x0"),
        (lambda: result.Dissolve("linear", [0], [], images(1)), "one alpha-bar"),
        (lambda: result.LatentChannels(images(1), torch.zeros(1, 2, 4, 4), [0.1], 0.1, [1.0], 2.0), "one R²"),
        (lambda: bare_result(bare_road("latent"), bare_road("pixel")), "not latent and pixel"),
        (
            lambda: bare_result(bare_road("pixel", distances=[result.Distance("ddim", 5, 1.0)]), bare_road("latent")),
            "without their floor and n",
        ),
        (lambda: plots.training_curve(result.Curve([], []), "pixel"), "at least one logged loss"),
        (lambda: plots.loss_by_noise([]), "the same timesteps"),
        (lambda: plots.frechet_by_steps(bare_road("pixel"), 0.1, [1.0]), "no Fréchet distances"),
        (lambda: plots.frechet_by_seconds([bare_road("pixel")], 0.1), "sampling time"),
    ],
)
def test_bad_results_are_one_clear_line(call: Callable[[], object], message: str) -> None:
    with pytest.raises(AlphabarError) as caught:
        call()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_banner_shows_both_roads(demo: result.DemoResult) -> None:
    picture = banner(demo)
    assert picture.width > 2 * 8 * 56
    assert len(set(picture.convert("L").tobytes())) > 20


def test_the_banner_needs_something_to_show() -> None:
    with pytest.raises(AlphabarError, match="needs a trajectory and the samples"):
        banner(bare_result(bare_road("pixel"), bare_road("latent")))
