"""The built course in a browser: it works by mouse, keyboard and phone, remembers, and asks no other machine."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import screenshot

from alphabar.course.record import Lesson, load

COURSE = Path(__file__).parents[2] / "course"
ENTRIES = [entry for entry in load(COURSE / "lessons").entries if entry.live]
LESSONS: dict[str, Lesson] = {entry.file.stem: entry.lesson for entry in ENTRIES}
CHECKED = next(iter(LESSONS))
PHONE = {"width": 390, "height": 844}
DARK = {"color_scheme": "dark"}
PAGES = ["index", "workbench", *LESSONS, "module-6.2", "search"]

NewPage = Callable[..., Any]


def test_what_the_site_holds(site: Path) -> None:
    assert LESSONS
    for name in PAGES:
        text = (site / f"{name}.html").read_text(encoding="utf-8")
        outside = re.findall(r'(?:src|href)="((?:https?:)?//[^"]+)"', text)
        assert not [address for address in outside if "colab.research.google.com" not in address]
        assert str(COURSE) not in text
    size = sum(file.stat().st_size for file in (site / "_static" / "mathjax").rglob("*"))
    assert size < 2e6
    assert not list(site.rglob("*.py"))


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("look", [{}, DARK, {"viewport": PHONE}], ids=["light", "dark", "phone"])
def test_every_page_is_whole(
    new_page: NewPage, server: str, axe: Any, request: pytest.FixtureRequest, name: str, look: dict[str, Any]
) -> None:
    page = new_page(reduced_motion="reduce", **look)
    page.goto(f"{server}{name}.html")
    _read_through(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    assert page.locator("html").get_attribute("data-theme") == look.get("color_scheme", "light")
    assert page.locator("mjx-merror").count() == 0
    assert page.locator(".widget-error").count() == 0
    if name != "search":
        axe(page, "article.bd-article")
    screenshot(page, request.node.callspec.id)


def _read_through(page: Any) -> None:
    """Scroll to the end, so that widgets start; then wait for the last of them, and for the formulas."""
    page.wait_for_load_state("networkidle")
    for widget in page.locator(".alphabar-widget[data-module]").all():
        widget.scroll_into_view_if_needed()
        page.wait_for_function("el => 'started' in el.dataset", arg=widget.element_handle())
    page.wait_for_load_state("networkidle")
    page.evaluate("window.MathJax?.startup?.promise")


@pytest.mark.parametrize("name", LESSONS)
def test_the_page_has_what_the_record_names(page: Any, server: str, name: str) -> None:
    lesson = LESSONS[name]
    page.goto(f"{server}{name}.html")
    assert page.locator("h1").first.inner_text().startswith(lesson.title)
    assert page.locator(".check").evaluate_all("all => all.map(el => el.dataset.check)") == [
        c.id for c in lesson.checks
    ]
    for widget in lesson.widgets:
        assert page.locator(f".alphabar-widget.{widget}").count() >= 1, widget
    ticked = page.locator("input[data-tick]").evaluate_all("all => all.map(el => el.dataset.tick)")
    assert ticked == [*(section.id for section in lesson.sections), ""]


def test_a_check_keeps_the_guess_and_then_unlocks(new_page: NewPage, server: str) -> None:
    page = new_page()
    page.goto(f"{server}{CHECKED}.html")
    check = page.locator(".check").first
    answer, show, field = check.locator(".check-answer"), check.locator(".check-show"), check.locator("textarea")
    assert show.is_disabled()
    assert not answer.is_visible()
    field.fill("  ")
    assert show.is_disabled()
    field.fill("It stays as it is.")
    show.click()
    assert answer.is_visible()
    assert answer.inner_text().strip()
    show.click()
    assert not answer.is_visible()
    page.reload()
    assert field.input_value() == "It stays as it is."
    assert show.is_enabled()
    assert not answer.is_visible()
    assert page.locator(".check").nth(1).locator(".check-show").is_disabled()


def test_a_check_unlocks_by_keyboard_when_answered_aloud(page: Any, server: str) -> None:
    page.goto(f"{server}{CHECKED}.html")
    check = page.locator(".check").first
    check.locator("textarea").focus()
    page.keyboard.press("Tab")  # past the answer's button, which is disabled
    page.keyboard.press("Enter")
    assert check.locator(".check-aloud").get_attribute("aria-pressed") == "true"
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    assert check.locator(".check-answer").is_visible()


def test_progress_survives_and_shows_on_the_first_page(page: Any, server: str) -> None:
    lesson = LESSONS[CHECKED]
    first = lesson.sections[0].id
    page.goto(f"{server}{CHECKED}.html")
    page.locator(f"input[data-tick='{first}']").check()
    page.reload()
    assert page.locator(f"input[data-tick='{first}']").is_checked()
    assert page.locator("input[data-tick]:checked").count() == 1
    marked = page.locator(f".bd-sidebar-secondary a[href='#{first}']").first
    assert "ticked" in (marked.get_attribute("class") or "")
    page.goto(f"{server}index.html")
    shown = page.locator(f".lesson-progress[data-lesson='{lesson.id}']")
    assert shown.inner_text() == f"1 of {len(lesson.sections)} sections"
    page.goto(f"{server}{CHECKED}.html")
    page.locator("input[data-tick='']").check()
    page.goto(f"{server}index.html")
    assert shown.inner_text() == "done ✓"


def test_another_theme_is_chosen_and_kept(page: Any, server: str) -> None:
    page.goto(f"{server}index.html")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.locator(".theme-switch-button").first.click()
    page.locator(".dropdown-menu.show").get_by_text("Dark").click()
    page.wait_for_function("document.documentElement.dataset.theme === 'dark'")
    assert page.evaluate(ground) != light
    page.reload()
    assert page.locator("html").get_attribute("data-theme") == "dark"


def test_search_finds_a_word(page: Any, server: str) -> None:
    page.goto(f"{server}index.html")
    page.keyboard.press("Control+k")
    page.keyboard.type("schedule")
    page.keyboard.press("Enter")
    found = page.locator("#search-results a")
    found.first.wait_for()
    addresses = found.evaluate_all("all => all.map(el => el.getAttribute('href'))")
    assert any(address.startswith(f"{CHECKED}.html") for address in addresses)


def test_the_keyboard_reaches_the_text_first(page: Any, server: str) -> None:
    page.goto(f"{server}{CHECKED}.html")
    page.keyboard.press("Tab")
    skip = page.locator(":focus")
    assert "Skip to main content" in skip.inner_text()
    page.keyboard.press("Enter")
    assert page.url.endswith("#main-content")
    page.locator("input[data-tick]").first.focus()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    page.keyboard.press("Space")
    assert page.locator("input[data-tick]").first.is_checked()


def test_it_reads_without_javascript(new_page: NewPage, server: str) -> None:
    page = new_page(java_script_enabled=False)
    page.goto(f"{server}{CHECKED}.html")
    answer = page.locator(".check-answer").first
    assert not answer.locator("> :not(summary)").first.is_visible()
    answer.locator("summary").click()
    assert answer.locator("> :not(summary)").first.is_visible()
    assert not page.locator(".tick").first.is_visible()
    assert not page.locator(".check-guess").first.is_visible()
    assert "JavaScript" in page.locator(".alphabar-widget").first.inner_text()


def test_wide_things_scroll_in_themselves_by_keyboard(new_page: NewPage, server: str) -> None:
    page = new_page(viewport={"width": 240, "height": 800})
    page.goto(f"{server}{CHECKED}.html")
    _read_through(page)
    wide = page.locator(".bd-article [tabindex='0'][aria-label='Scrolls sideways']").first
    wide.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("el => el.scrollLeft > 0", arg=wide.element_handle())
