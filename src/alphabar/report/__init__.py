"""Pictures, plots and the self-contained HTML report."""

from __future__ import annotations

from pathlib import Path

from alphabar.io import write_json, write_text
from alphabar.report.page import render
from alphabar.report.result import DemoResult, summary


def write_report(result: DemoResult, path: Path) -> None:
    """Write the page, and summary.json beside it."""
    write_text(path, render(result))
    write_json(path.parent / "summary.json", summary(result))
