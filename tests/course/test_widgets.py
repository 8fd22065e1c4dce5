"""The noise strip, the noise slider and the alpha-bar curve in a real browser: by mouse, finger and keyboard."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from harness import expect, screenshot, served, write_page

from alphabar.course import widgets
from alphabar.course.widgets import WIDGETS, AlphaBarCurve, element, tshirt
from alphabar.diffusion import NoiseSchedule

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

IDS = ("noise-strip", "noise-slider", "alpha-bar-curve")
LINEAR, COSINE = NoiseSchedule.linear(), NoiseSchedule.cosine()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site of nothing but the three widgets."""
    out = tmp_path_factory.mktemp("widgets")
    widgets.write_widgets(out / "_static")
    for theme in ("light", "dark"):
        write_page(out / f"{theme}.html", *(element(name, {}) for name in IDS), theme=theme)
    return out


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """Where the folder is served, with its slash."""
    with served(folder) as at:
        yield at


Opened = Callable[..., "Page"]


@pytest.fixture
def opened(new_page: Opened, address: str) -> Opened:
    """`opened(name, width)` opens a page of the folder; any complaint of it fails the test."""

    def open_page(name: str = "light", width: int = 820, **options: Any) -> Page:
        page = new_page(viewport={"width": width, "height": 900}, **options)
        page.goto(f"{address}{name}.html")
        return page

    return open_page


def ready(page: Page, name: str) -> Locator:
    """A widget, once it has started."""
    found = page.locator(f".alphabar-widget.{name}")
    found.scroll_into_view_if_needed()
    expect(found.locator("canvas[role=img]").first).to_be_visible()
    return found


def pixels(canvas: Locator) -> list[int]:
    """The grey levels of a picture."""
    script = "c => Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)"
    levels: list[int] = canvas.evaluate(script)[::4]
    return levels


def held(folder: Path, number: int) -> Any:
    """An image of the page, by its number."""
    return json.loads((folder / "_static" / "data" / "images.json").read_text())["images"][number]


def shares(alpha_bar: float) -> tuple[str, str]:
    """The coefficients as the widgets write those in 0.1..0.999."""
    return f"{math.sqrt(alpha_bar):.3f}", f"{math.sqrt(1 - alpha_bar):.3f}"


# all of them


@pytest.mark.parametrize(("theme", "width"), [("light", 820), ("dark", 820), ("light", 390), ("dark", 390)])
def test_widgets_are_accessible_and_fit(opened: Opened, axe: Any, theme: str, width: int) -> None:
    page = opened(theme, width)
    for name in IDS:
        ready(page, name)
    axe(page, "html")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for target in page.locator("button:visible, input[type=range]:visible, label:has(input):visible").all():
        box = target.bounding_box()
        assert box
        assert min(box["width"], box["height"]) >= 40, target.inner_html()
    screenshot(page, f"widgets-{theme}-{width}")


@pytest.mark.parametrize("name", IDS)
def test_another_noise_is_another_and_the_same_seed_the_same(opened: Opened, name: str) -> None:
    last = "canvas[role=img]"
    widget = ready(opened(), name)
    before = pixels(widget.locator(last).last)
    button = widget.get_by_role("button", name="Another noise")
    button.focus()
    button.press("Enter")
    expect(widget.locator(".seed")).to_have_text("seed 1")
    after = pixels(widget.locator(last).last)
    assert sum(a != b for a, b in zip(before, after, strict=True)) > 300
    assert pixels(ready(opened(), name).locator(last).last) == before


def test_images_are_chosen_by_keyboard(opened: Opened, folder: Path) -> None:
    strip = ready(opened(), "noise-strip")
    strip.get_by_role("radio").first.focus()
    strip.page.keyboard.press("ArrowRight")
    second = held(folder, 1)
    expect(strip.get_by_role("radio").nth(1)).to_be_checked()
    expect(strip.get_by_role("img").first).to_have_attribute("aria-label", re.compile(f"^{second['label']} at t 0"))
    expect(strip.locator(".note")).to_contain_text(second["source"])


def test_a_widget_starts_when_it_comes_near(opened: Opened, folder: Path) -> None:
    far = '<div style="height: 3000px"></div>'
    write_page(folder / "far.html", element("noise-strip", {}), far, element("alpha-bar-curve", {}))
    page = opened("far")
    ready(page, "noise-strip")
    curve = page.locator(".alpha-bar-curve")
    expect(curve).to_have_text("The curve of alpha-bar, with a marker to drag. It needs JavaScript.")
    curve.scroll_into_view_if_needed()
    expect(curve.locator(".marker")).to_be_visible()


def test_a_widget_that_cannot_start_says_so(browser: Browser, address: str, folder: Path) -> None:
    lost = element("noise-strip", {}).replace("images.json", "lost.json")
    wrong = element("noise-slider", {"image": "Hat"})
    write_page(folder / "broken.html", lost, wrong)
    page = browser.new_page()  # which may complain
    page.goto(f"{address}broken.html")
    alerts = page.get_by_role("alert")
    expect(alerts).to_have_count(2)
    expect(alerts.first).to_have_text(re.compile(r"This widget could not start: .*lost\.json answers 404"))
    expect(alerts.last).to_have_text(
        re.compile(r"This widget could not start: no image Hat; known: T-shirt \(drawn\), ")
    )
    page.close()


def test_a_cleaned_up_widget_listens_no_more(opened: Opened, folder: Path) -> None:
    page = opened()
    for name in IDS:
        left = page.evaluate(
            """async ({ name, state }) => {
              const [{ Model }, { default: widget }] = await Promise.all([
                import("./_static/widgets/host.js"), import(`./_static/widgets/${name}.js`)]);
              const model = new Model(state), el = document.body.appendChild(document.createElement("div"));
              const end = widget.render({ model, el }), before = model.listeners.length;
              end();
              return [before > 0, model.listeners.length];
            }""",
            {
                "name": name,
                "state": {
                    **WIDGETS[name].options,
                    "images": [held(folder, 0)],
                    "schedules": widgets.course_schedules(),
                },
            },
        )
        assert left == [True, 0]


@pytest.mark.parametrize(
    ("where", "attribute", "dark", "light"),
    [
        ("html", "data-theme", "dark", "light"),
        ("html", "theme", "dark", "light"),
        ("body", "data-jp-theme-light", "false", "true"),
        ("body", "class", "vscode-dark", "vscode-light"),
    ],
)
def test_the_theme_is_that_of_page_or_notebook(
    opened: Opened, where: str, attribute: str, dark: str, light: str
) -> None:
    page = opened(color_scheme="dark")  # against what the reader prefers
    page.evaluate("document.documentElement.removeAttribute('data-theme')")
    card = page.locator(".noise-strip")
    tone = "node => getComputedStyle(node).backgroundColor"
    assert card.evaluate(tone) == "rgb(27, 31, 39)"
    for value, color in ((light, "rgb(255, 255, 255)"), (dark, "rgb(27, 31, 39)")):
        page.locator(where).first.evaluate("(node, pair) => node.setAttribute(...pair)", [attribute, value])
        assert card.evaluate(tone) == color


def test_nothing_moves_by_itself_for_who_wants_less_motion(opened: Opened) -> None:
    for motion, moving in (("no-preference", True), ("reduce", False)):
        page = opened(reduced_motion=motion)
        widget = ready(page, "noise-slider")
        script = "nodes => nodes.some((n) => getComputedStyle(n).transitionDuration !== '0s')"
        assert widget.locator("*").evaluate_all(script) == moving


# noise strip


def test_the_strip_shows_five_levels_as_the_library_has_them(opened: Opened, folder: Path) -> None:
    write_page(folder / "linear.html", element("noise-strip", {"schedule": "linear"}))
    for page, schedule in (("light", COSINE), ("linear", LINEAR)):
        strip = ready(opened(page), "noise-strip")
        assert strip.locator(".when").all_inner_texts() == [f"t = {t}" for t in (0, 250, 500, 750, 999)]
        numbers = strip.locator(".number").all_inner_texts()
        for t, number in zip((250, 500), numbers[1:3], strict=True):
            expected = schedule.alpha_bar(t)
            assert number == f"ᾱ = {expected:.{3 if expected >= 0.1 else 4}f}"
        spread = [len(set(pixels(canvas))) for canvas in strip.get_by_role("img").all()]
        assert min(spread) > 20


# noise slider


def test_the_slider_goes_from_the_image_to_static(opened: Opened) -> None:
    slider = ready(opened(), "noise-slider")
    handle, image = slider.get_by_role("slider"), slider.locator(".big canvas")
    handle.focus()
    slider.page.keyboard.press("Home")
    expect(image).to_have_attribute("aria-label", "T-shirt (drawn) at the clean image: nearly clean")
    drawn = tshirt().add(1).mul(127.5).round().flatten().tolist()
    assert max(abs(a - b) for a, b in zip(pixels(image), drawn, strict=True)) <= 1
    expect(slider.locator(".equation")).to_have_attribute("aria-label", "x t is 1 times x zero plus 0 times epsilon")
    for key, t in (("ArrowRight", 0), ("PageUp", 100), ("Shift+ArrowRight", 110), ("ArrowLeft", 109), ("End", 999)):
        slider.page.keyboard.press(key)
        expect(handle).to_have_value(str(t))
    expect(handle).to_have_attribute("aria-valuetext", "t 999, static")
    expect(slider.locator(".says")).to_contain_text("Static.")
    black = sum(level in (0, 255) for level in pixels(image)) / 784
    assert 0.25 < black < 0.4  # of standard normal numbers, 32% lie beyond -1 and 1


def test_the_slider_is_dragged_and_its_bar_is_alpha_bar(opened: Opened) -> None:
    slider = ready(opened(), "noise-slider")
    handle = slider.get_by_role("slider")
    box = handle.bounding_box()
    assert box
    mouse = slider.page.mouse
    mouse.move(box["x"] + 12 + 0.3 * (box["width"] - 24), box["y"] + 20)
    mouse.down()
    mouse.move(box["x"] + box["width"] / 2, box["y"] + 20, steps=4)
    mouse.up()
    t = int(handle.input_value())
    assert abs(t - 499) < 6
    expect(slider.locator(".readout .when")).to_have_text(f"t = {t} of 999")
    for part, text in zip(("signal", "noise"), shares(COSINE.alpha_bar(t)), strict=True):
        expect(slider.locator(f".equation .{part}")).to_have_text(text)
    bar, signal = (slider.locator(name).bounding_box() for name in (".bar", ".bar .signal"))
    assert bar
    assert signal
    assert signal["width"] / bar["width"] == pytest.approx(COSINE.alpha_bar(t), abs=0.005)


def test_previews_lead_to_their_level(opened: Opened) -> None:
    slider = ready(opened(), "noise-slider")
    assert slider.locator(".previews button").count() == 8
    slider.get_by_role("button", name="t 650").click()
    expect(slider.get_by_role("slider")).to_have_value("650")
    expect(slider.get_by_role("button", name="t 650")).to_have_attribute("aria-pressed", "true")
    assert pixels(slider.locator(".big canvas")) == pixels(slider.locator(".previews [data-t='650'] canvas"))
    expect(slider).to_contain_text("forward: add noise, known formula")
    expect(slider).to_contain_text("reverse: what the network learns")


# alpha-bar curve


def stands_at(curve: Locator, t: int) -> None:
    """The curve's marker, its numbers and its names are those of t."""
    marker = curve.locator(".marker")
    expect(marker).to_have_attribute("aria-valuenow", str(t))
    for view, schedule in zip(curve.locator(".view").all(), (LINEAR, COSINE), strict=True):
        if view.is_visible():
            for part, text in zip(("signal", "noise"), shares(schedule.alpha_bar(t)), strict=True):
                expect(view.locator(f".equation .{part}")).to_have_text(text)


def axes_of(curve: Locator) -> Any:
    """The box of the chart's axes, once it has been laid out."""
    axis = curve.locator(".chart .axis")
    expect(axis).to_have_count(1)
    return axis.bounding_box()


def middle_of(curve: Locator, fraction: float) -> tuple[float, float]:
    """Where on the screen the chart has t at this fraction of its way."""
    axis = axes_of(curve)
    return axis["x"] + fraction * axis["width"], axis["y"] + axis["height"] / 2


def test_the_marker_goes_by_keyboard(opened: Opened) -> None:
    curve = ready(opened(), "alpha-bar-curve")
    stands_at(curve, 400)
    curve.locator(".marker").focus()
    steps = [("ArrowRight", 401), ("ArrowUp", 402), ("PageDown", 302), ("Shift+ArrowLeft", 292), ("PageUp", 392)]
    for key, t in steps:
        curve.page.keyboard.press(key)
        stands_at(curve, t)
    for key, t in (("End", 999), ("ArrowRight", 999), ("Home", 0), ("ArrowDown", 0)):
        curve.page.keyboard.press(key)
        expect(curve.locator(".marker")).to_have_attribute("aria-valuenow", str(t))


def test_the_marker_is_dragged(opened: Opened) -> None:
    curve = ready(opened(), "alpha-bar-curve")
    mouse = curve.page.mouse
    mouse.move(*middle_of(curve, 0.4))
    mouse.down()
    mouse.move(*middle_of(curve, 0.2), steps=3)
    t = int(curve.locator(".marker").get_attribute("aria-valuenow") or -1)
    assert abs(t - 200) <= 3
    stands_at(curve, t)
    before = pixels(curve.locator("canvas[role=img]").first)
    mouse.move(-50, 10)  # beyond the edge it stays at the end
    expect(curve.locator(".marker")).to_have_attribute("aria-valuenow", "0")
    mouse.up()
    mouse.move(*middle_of(curve, 0.8))  # and it has been let go
    expect(curve.locator(".marker")).to_have_attribute("aria-valuenow", "0")
    assert pixels(curve.locator("canvas[role=img]").first) != before


def test_the_marker_follows_a_finger(opened: Opened) -> None:
    page = opened(width=390, has_touch=True)
    curve = ready(page, "alpha-bar-curve")
    finger = page.context.new_cdp_session(page)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in points]})

    touch("touchStart", middle_of(curve, 0.4))
    for fraction in (0.45, 0.5, 0.6, 0.7):
        touch("touchMove", middle_of(curve, fraction))
    touch("touchEnd")
    expect(curve.locator(".marker")).to_have_attribute("aria-valuenow", re.compile("^(69|70)"))


def test_schedules_are_shown_one_or_both_and_never_none(opened: Opened) -> None:
    curve = ready(opened(), "alpha-bar-curve")
    linear, cosine = (curve.get_by_role("checkbox", name=name) for name in ("linear", "cosine"))
    assert curve.locator(".curve").count() == curve.locator(".view:visible").count() == 2
    linear.uncheck()
    expect(curve.locator(".curve")).to_have_count(1)
    expect(curve.locator(".view:visible .title")).to_have_text("cosine, t = 400")
    cosine.click()
    expect(cosine).to_be_checked()
    linear.check()
    expect(curve.locator(".curve")).to_have_count(2)
    stands_at(curve, 400)


def test_the_sentence_changes_with_the_region(opened: Opened) -> None:
    curve = ready(opened(), "alpha-bar-curve")
    curve.get_by_role("checkbox", name="linear").uncheck()
    curve.locator(".marker").focus()
    heard = []
    for t in (*range(0, 1000, 100), 999):
        curve.page.keyboard.press("PageUp" if t else "Home")
        expect(curve.locator(".marker")).to_have_attribute("aria-valuenow", str(t))  # drawn with the sentence
        heard.append(curve.locator(".view:visible .says").inner_text().split(".")[0])
    assert list(dict.fromkeys(heard)) == ["Nearly clean", "Details go", "Shapes only", "An outline", "Static"]


def test_the_dots_lie_on_the_curves(opened: Opened) -> None:
    curve = ready(opened(), "alpha-bar-curve")
    axis = axes_of(curve)
    for dot, schedule in zip(curve.locator(".dot").all(), (LINEAR, COSINE), strict=True):
        box = dot.bounding_box()
        assert box
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        assert (x - axis["x"]) / axis["width"] == pytest.approx(400 / 999, abs=0.005)
        assert 1 - (y - axis["y"]) / axis["height"] == pytest.approx(schedule.alpha_bar(400), abs=0.01)


# alone


def test_to_html_needs_no_other_file(opened: Opened, folder: Path) -> None:
    frame = AlphaBarCurve({"mine": LINEAR.alphas_bar[:300]}, {"shirt": tshirt()}).to_html()
    head = '<!doctype html><html lang="en" data-theme="dark"><link rel="icon" href="data:,"><title>Alone</title>'
    text = f"{head}<body><main>{frame}</main></body></html>"
    (folder / "alone.html").write_text(text, encoding="utf-8")
    page = opened("alone")
    inside = page.frame_locator("iframe")
    inside.locator(".marker").focus()
    page.keyboard.press("End")
    expect(inside.locator(".view .title")).to_have_text("mine, t = 299")
    tone = "node => getComputedStyle(node).backgroundColor"
    assert inside.locator(".alphabar-widget").evaluate(tone) == "rgb(27, 31, 39)"  # as dark as the page around
    card, outer = inside.locator(".alphabar-widget").bounding_box(), page.locator("iframe").bounding_box()
    assert card
    assert outer
    assert abs(card["height"] - outer["height"]) < 3
