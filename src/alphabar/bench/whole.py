"""How much memory a whole Stable Diffusion takes, from its files to a picture: the command as users run it."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from alphabar.bench.memory import resident
from alphabar.bench.stable_diffusion import DIFFUSERS, FULL, check
from alphabar.bench.subjects import Facts, Subject
from alphabar.bench.workers import Worker
from alphabar.engine import Precision
from alphabar.errors import AlphabarError
from alphabar.stable_diffusion import PipelineConfig, random_pipeline, save_folder


class Whole(NamedTuple):
    """One way to make a picture from a pipeline on disk."""

    title: str
    precision: Precision | None
    low_memory: bool = False


WHOLE = {
    DIFFUSERS: Whole("diffusers as it comes", None),
    "float32": Whole("alphabar", "float32"),
    "float32-low": Whole("alphabar --low-memory", "float32", low_memory=True),
    "bf16": Whole("alphabar in bf16", "bf16"),
    "bf16-low": Whole("alphabar in bf16 --low-memory", "bf16", low_memory=True),
}


def measure_memory(
    folder: Path, config: PipelineConfig = FULL, on_turn: Callable[[], object] | None = None
) -> dict[str, dict[str, Any]]:
    """The most memory that a process holds which makes one picture in one guided step, from files in fp16.

    Files that are read through memory maps count while they are resident, as the system counts them.

    Args:
        folder: where the pipeline is written; 2.1 GB at full size.
        config: its shapes.
        on_turn: called after each process.
    """
    check(1)
    cpu = torch.device("cpu")
    makers = {"write": partial(_write, folder, config)}
    makers |= {name: partial(_draw, name, folder) for name in WHOLE}
    rows = {}
    for name, make in makers.items():
        worker = Worker(name, make, cpu)
        try:
            facts, _ = worker.receive()
        finally:
            worker.close()
        if name in WHOLE:
            rows[name] = {"title": WHOLE[name].title, "peak_bytes": facts.transient_bytes}
        if on_turn is not None:
            on_turn()
    return rows


def _write(folder: Path, config: PipelineConfig) -> Subject:
    save_folder(random_pipeline(config), folder, torch.float16)
    return Subject(Facts(0, 0, "float16"), {}, torch.zeros(0))


def _draw(name: str, folder: Path) -> Subject:
    form, out = WHOLE[name], folder.parent / f"{name}.png"
    if form.precision is None:
        from diffusers import StableDiffusionPipeline

        pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)  # float32 where not asked
        pipeline.set_progress_bar_config(disable=True)
        pipeline("a cat", num_inference_steps=1).images[0].save(out)
    else:
        words = ["sample", str(folder), "-n", "1", "--prompt", "a cat", "--steps", "1", "--precision", form.precision]
        _command(*words, "--out", str(out), "--device", "cpu", *["--low-memory"] * form.low_memory)
    return Subject(Facts(0, 0, form.precision or "float32", resident(most=True)), {}, torch.zeros(0))


def _command(*words: str) -> None:
    """`python -m alphabar WORDS` in this process, whose memory is asked for afterwards."""
    sys.argv = ["alphabar", *words]
    try:
        runpy.run_module("alphabar", run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise AlphabarError(f"`alphabar {' '.join(words)}` ended with status {end.code}") from end
