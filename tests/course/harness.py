"""What the tests in a browser share: a folder served, a page of widgets, a notebook in JupyterLab."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

from alphabar.course.serve import server
from alphabar.io import write_json

REQUIRED = bool(os.environ.get("ALPHABAR_REQUIRE_CHROMIUM"))
"""CI sets it: what is missing then fails a test instead of skipping it."""
PAGE = """<!doctype html><html lang="en" data-theme="{theme}"><head><meta charset="utf-8"><title>Widgets</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">
<link rel="stylesheet" href="_static/widgets/widgets.css"><style>body {{ font-family: sans-serif; margin: 16px;
background: {paper}; color: {ink} }}</style></head><body><main><h1>Widgets</h1>{widgets}</main>
<script type="module" src="_static/widgets/host.js"></script></body></html>"""


def expect(what: Any) -> Any:
    """Playwright's `expect`, imported when it is called: `make test` reads these files and need not have Playwright."""
    from playwright.sync_api import expect

    return expect(what)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder, as the course serves its site, with its slash."""
    with server(folder, 0) as running:
        thread = Thread(target=running.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_address[1]}/"
        finally:
            running.shutdown()
            thread.join()


def write_page(file: Path, *parts: str, theme: str = "light") -> None:
    """A page that holds these parts, beside the site's `_static`."""
    paper, ink = {"light": ("#fff", "#111"), "dark": ("#121212", "#eee")}[theme]
    file.write_text(PAGE.format(theme=theme, paper=paper, ink=ink, widgets="\n".join(parts)), encoding="utf-8")


def screenshot(page: Any, name: str) -> None:
    """Keep a picture of the page, where ALPHABAR_SCREENSHOTS names a folder."""
    if folder := os.environ.get("ALPHABAR_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


SETTINGS = {
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},  # draw what is out of sight too
}


@contextmanager
def jupyterlab(cells: Sequence[str], folder: Path) -> Iterator[str]:
    """The address of a notebook of these cells in a JupyterLab whose files are all in the folder."""
    listed = [
        {"cell_type": "code", "id": f"c{i}", "metadata": {}, "source": text, "outputs": [], "execution_count": None}
        for i, text in enumerate(cells)
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    (folder / "books").mkdir()
    book = {"cells": listed, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    (folder / "books" / "own.ipynb").write_text(json.dumps(book), encoding="utf-8")
    for name, values in SETTINGS.items():
        write_json(folder / "settings" / f"{name}.jupyterlab-settings", values)
    places = {
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "IPYTHONDIR": "ipython",
    }
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        "ServerApp.root_dir": folder / "books",
        "IdentityProvider.token": token,
        "LabApp.expose_app_in_browser": True,
        "LabApp.extension_manager": "readonly",
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--{key}={value}" for key, value in options.items()]
    environment = {**os.environ, **{key: str(folder / name) for key, name in places.items()}}
    log = folder / "log"
    with log.open("w") as out, subprocess.Popen(command, env=environment, stdout=out, stderr=out) as running:
        try:
            _answers(f"http://127.0.0.1:{port}/api?token={token}", running, log)
            yield f"http://127.0.0.1:{port}/lab/tree/own.ipynb?token={token}"
        finally:
            running.terminate()


def _answers(address: str, running: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        assert running.poll() is None, log.read_text()
        try:
            return urllib.request.urlopen(address, timeout=5).close()
        except OSError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())
