"""Every widget in JupyterLab: the learner's own image, schedule and model, with a kernel that answers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from harness import expect, jupyterlab, screenshot

SLOW: Any = {"timeout": 60_000}
"""For what a kernel computes."""
CELLS = [
    """import torch
from alphabar.course.model_widgets import TrainingStep, Trajectory
from alphabar.course.widgets import AlphaBarCurve, NoiseSlider, NoiseStrip, tshirt
from alphabar.diffusion import NoiseSchedule, Process, make_prediction
from alphabar.nn import SmallUNet, SmallUNetConfig
image, mine = tshirt(), torch.cumprod(1 - torch.linspace(1e-4, 0.02, 500), 0)
process = Process(NoiseSchedule.linear(100), make_prediction("eps"))
network = SmallUNet(SmallUNetConfig(channels=(8, 8, 8), emb_dim=16))""",
    "NoiseStrip(torch.rand(3, 16, 16) * 2 - 1, mine)",
    "slider = NoiseSlider(image, mine)\nslider",
    "AlphaBarCurve({'linear': NoiseSchedule.linear(), 'mine': mine}, image, t=250)",
    "TrainingStep(network, torch.stack([image, image.flip(2)]), process)",
    "Trajectory(network, process, (1, 28, 28))",
    "slider.live.observe(lambda change: setattr(slider.live, 'seed', 1000 + slider.live.t), 't')\nslider.live.t = 444",
]


@pytest.fixture
def lab(browser: Any, tmp_path: Path) -> Any:
    """The notebook, every cell run; an error in page or console fails the test."""
    faults: list[str] = []
    page = browser.new_page(viewport={"width": 1200, "height": 1000})
    page.set_default_timeout(120_000)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
    with jupyterlab(CELLS, tmp_path) as address:
        page.goto(address)
        page.get_by_text("(ipykernel) | Idle").wait_for()
        page.evaluate("void window.jupyterapp.commands.execute('notebook:run-all-cells')")
        yield page
        screenshot(page, "lab")
        page.close()
    assert not faults


def test_every_widget_runs_with_a_kernel_behind_it(lab: Any) -> None:
    strip, slider, curve, step, walk = (
        lab.locator(f".jp-OutputArea .alphabar-widget.{name}")
        for name in ("noise-strip", "noise-slider", "alpha-bar-curve", "training-step", "trajectory")
    )
    expect(strip.locator("canvas[role=img]")).to_have_count(5, **SLOW)

    expect(slider.locator(".readout .when")).to_have_text("t = 444 of 499", **SLOW)  # as the last cell says
    expect(slider.locator(".seed")).to_have_text("seed 1444", **SLOW)  # as Python answered
    slider.get_by_role("slider").focus()
    lab.keyboard.press("Home")
    lab.keyboard.press("PageUp")
    expect(slider.locator(".seed")).to_have_text("seed 1099", **SLOW)  # the kernel heard of the key

    curve.locator(".marker").focus()
    lab.keyboard.press("ArrowRight")
    expect(curve.locator(".view .title").last).to_have_text("mine, t = 251", **SLOW)

    expect(step).to_have_attribute("data-shown", "image 0/50/0", **SLOW)
    expect(step.locator(".note").last).to_contain_text("answers with the noise itself", **SLOW)
    untrained = re.compile(r"Squared error here: (0\.[89]|1\b(?!\.[2-9]))")  # it answers with 0, and ε has variance 1
    expect(step.locator(".result")).to_contain_text(untrained)
    step.get_by_role("button", name="t = 95", exact=True).press("Enter")
    expect(step).to_have_attribute("data-shown", "image 0/95/0", **SLOW)

    walk.get_by_label("Sampler").select_option("heun")  # which the page's engine does not have
    walk.get_by_label("Steps").select_option("5")
    walk.locator(".play").press("Enter")
    expect(walk).to_have_attribute("data-done", "0/5/heun", **SLOW)
    expect(walk).to_have_attribute("data-frame", "5", **SLOW)
    expect(walk.locator(".status")).to_contain_text("5 calls of the network", **SLOW)
