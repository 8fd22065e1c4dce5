"""The widgets of images and schedules in JupyterLab, with the learner's own schedule and a kernel behind them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import alphabar

expect = pytest.importorskip("playwright.sync_api").expect
pytest.importorskip("jupyterlab")

CELLS = [
    """import torch
from alphabar.course.widgets import AlphaBarCurve, NoiseSlider, NoiseStrip, tshirt
from alphabar.diffusion import NoiseSchedule
mine = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 500), 0)
slider = NoiseSlider(tshirt(), mine)
slider""",
    "AlphaBarCurve({'linear': NoiseSchedule.linear(), 'mine': mine}, tshirt(), t=250)",
    "NoiseStrip(torch.rand(3, 16, 16) * 2 - 1, mine)",
    "slider.live.observe(lambda change: setattr(slider.live, 'seed', 1000 + slider.live.t), 't')\nslider.live.t = 444",
]


def notebook() -> str:
    """The cells as a notebook."""
    cells = [
        {"cell_type": "code", "id": f"c{i}", "metadata": {}, "outputs": [], "execution_count": None, "source": text}
        for i, text in enumerate(CELLS)
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": kernel, "cells": cells})


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """The address of a notebook in a JupyterLab of its own."""
    (tmp_path / "own.ipynb").write_text(notebook(), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"]
    options = ["--IdentityProvider.token=", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={tmp_path}"]
    source = str(Path(alphabar.__file__).parents[1])
    home = {"HOME": str(tmp_path), "JUPYTER_CONFIG_DIR": str(tmp_path / "config"), "PYTHONPATH": source}
    settings = ["--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    with (tmp_path / "log").open("w") as log:
        running = subprocess.Popen(
            [*program, *options, *settings], env={**os.environ, **home}, stdout=log, stderr=log, cwd=tmp_path
        )
        try:
            _wait(f"http://127.0.0.1:{port}/api/status", running, tmp_path / "log")
            yield f"http://127.0.0.1:{port}/lab/tree/own.ipynb"
        finally:
            running.terminate()
            running.wait(timeout=30)


def _wait(address: str, running: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(240):
        assert running.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.5)
    raise AssertionError(log.read_text())


def test_widgets_run_on_one_s_own_schedule_with_a_kernel(lab: str, browser: Any) -> None:
    page = browser.new_page(viewport={"width": 1200, "height": 3000})
    page.set_default_timeout(120_000)
    page.goto(lab)
    page.locator(".jp-NotebookPanel .jp-CodeCell").first.wait_for()
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    page.locator(".lm-MenuBar-itemLabel", has_text="Run").click()
    page.get_by_text("Run All Cells", exact=True).click()
    slider, curve = page.locator(".noise-slider"), page.locator(".alpha-bar-curve")
    expect(slider.locator(".readout .when")).to_have_text("t = 444 of 499", timeout=120_000)  # as the last cell says
    expect(slider.locator(".seed")).to_have_text("seed 1444", timeout=60_000)  # as Python answered
    slider.get_by_role("slider").focus()
    page.keyboard.press("Home")
    page.keyboard.press("PageUp")
    expect(slider.locator(".seed")).to_have_text("seed 1099", timeout=60_000)  # the kernel heard of the key
    curve.locator(".marker").focus()
    page.keyboard.press("ArrowRight")
    expect(curve.locator(".view .title").last).to_have_text("mine, t = 251")
    expect(page.locator(".noise-strip canvas[role=img]")).to_have_count(5)
    page.close()
