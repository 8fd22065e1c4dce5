"""How long the command line takes to answer."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from alphabar.errors import AlphabarError
from alphabar.evaluate.cost import median_seconds

START_GOAL = 0.3
"""Seconds from typing `alphabar --help` to its answer."""


def measure_startup(repeats: int = 7) -> dict[str, Any]:
    """Time `alphabar --help` in fresh processes, after two that warm the file cache."""
    if repeats < 1:
        raise AlphabarError(f"repeats must be at least 1, got {repeats}")
    command = [sys.executable, "-m", "alphabar", "--help"]

    def answer() -> None:
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)

    try:
        seconds = median_seconds(answer, repeats)
    except subprocess.CalledProcessError as error:
        raise AlphabarError(f"`python -m alphabar --help` failed with status {error.returncode}") from error
    return {"bench": "startup", "repeats": repeats, "seconds": seconds, "goal": START_GOAL}
