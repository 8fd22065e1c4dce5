"""The course's site, built once for all tests, and a browser that lets nothing pass."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from harness import REQUIRED, served

ROOT = Path(__file__).parents[2]
COURSE = ROOT / "course"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
THEME = pytest.mark.filterwarnings("ignore:.*deprecated.*Check CHANGES for Sphinx API modifications")
"""What the theme still uses of Sphinx."""
NEEDED = ("playwright", "axe_playwright_python", "filelock", "sphinx", "myst_parser", "jupyterlab", "anywidget")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of this folder are of the course; without a browser they are skipped, unless CI demands one."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None] + ([] if CHROMIUM else ["chromium"])
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("course")
            item.add_marker(THEME)
            if missing and not REQUIRED:
                item.add_marker(pytest.mark.skip(reason=f"not installed: {', '.join(missing)}"))


def shared(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that one worker makes and all use."""
    from filelock import FileLock

    base = factory.getbasetemp()
    base = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    with FileLock(base / f"{name}.lock"):
        if not (base / name).exists():
            make(base / name)
    return base / name


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site, from the course's own content; one that is there already may be named instead."""
    if ready := os.environ.get("ALPHABAR_SITE"):
        return Path(ready)
    from alphabar.course.site import build

    return shared(tmp_path_factory, "site", lambda out: build(COURSE, out))


@pytest.fixture(scope="session")
def server(site: Path) -> Iterator[str]:
    """The address of the site, which ends in a slash."""
    with served(site) as address:
        yield address


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium without a window."""
    from playwright.sync_api import sync_playwright

    assert CHROMIUM, "no chromium here; name it in CHROMIUM"
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield running
        running.close()


@pytest.fixture
def new_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens pages; any request to another machine, missing file or error in page or console fails the test."""
    faults: list[str] = []
    contexts: list[Any] = []

    def asked(request: Any) -> None:
        address = urlsplit(request.url)
        if address.scheme not in ("data", "blob") and address.hostname != "127.0.0.1":
            faults.append(f"asked for {request.url}")

    def open_page(**options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        page.on("request", asked)
        page.on("response", lambda r: faults.append(f"{r.status} {r.url}") if r.status >= 400 else None)
        page.on("pageerror", lambda error: faults.append(f"error: {error}"))
        page.on("console", lambda said: faults.append(f"console: {said.text}") if said.type == "error" else None)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not faults, "\n".join(faults)


@pytest.fixture
def page(new_page: Callable[..., Any]) -> Any:
    """One such page, on a desktop."""
    return new_page()


@pytest.fixture
def axe() -> Callable[..., None]:
    """`axe(page, selector)`: axe finds nothing to mend inside the selector."""
    from axe_playwright_python.sync_playwright import Axe

    def check(page: Any, selector: str = "article.bd-article") -> None:
        options = {"preload": False}  # else it reads style sheets anew, and misses what they import
        found = Axe().run(page, context={"include": [[selector]]}, options=options).response
        said = [
            f"{rule['id']} ({rule['impact']}): {rule['help']}\n    {node['html'][:200]}\n    {node['failureSummary']}"
            for rule in found["violations"]
            for node in rule["nodes"][:3]
        ]
        assert not said, "\n".join(said)
        assert found["passes"], f"nothing matched {selector}"

    return check
