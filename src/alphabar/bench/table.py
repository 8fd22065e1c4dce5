"""The result of a bench as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alphabar.bench.measure import SHARE_GOAL, UNIT


def table(result: Mapping[str, Any]) -> str:
    """A readable table of what `measure` or `measure_startup` returned."""
    if result["bench"] == "startup":
        return f"alphabar --help answers in {result['seconds']:.2f} s (goal: under {result['goal']} s)"
    unit = UNIT[result["bench"]]
    ours, hardware, versions = result["diffusers_over_ours"], result["hardware"], result["versions"]
    shape = "x".join(map(str, result["shape"]))
    lines = [
        f"one {unit}, batch {result['batch']} of {shape}, median of {result['repeats']} rounds in turns",
        f"{hardware['cpu']}, {hardware['threads']} threads, device {hardware['device']}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items()),
        f"diffusers' network has {ours['parameters']:.3f} times our parameters and {ours['flops']:.3f} times our FLOPs",
        "",
        f"{'':32} {'precision':9} {'ms':>8} {'images/s':>9} {'diffusers':>9} {'plain':>7} {'goal':>6} {'error':>8}",
    ]
    lines += [_line(result, name) for name in result["variants"]]
    shares = {name: row["sampler_share"] for name, row in result["variants"].items() if "sampler_share" in row}
    if shares:
        lines.append("")
        lines += [
            f"{sampler}'s own arithmetic: {share:.1%} of a {name} step (goal: under {SHARE_GOAL:.0%})"
            for name, row in shares.items()
            for sampler, share in row.items()
        ]
    return "\n".join(lines)


def _line(result: Mapping[str, Any], name: str) -> str:
    row = result["variants"][name]
    ratios = [result["ratios"][peer].get(name) for peer in ("diffusers", "plain")]
    times = [f"{r['ratio']:.2f}x" if r else "" for r in ratios]
    goal = result["goals"].get(name)
    error = row["relative_error"]
    return (
        f"{row['title']:32} {row['precision']:9} {row['ms']:8.1f} {row['images_per_second']:9.0f} {times[0]:>9} "
        f"{times[1]:>7} {f'{goal}x' if goal else '':>6} {'' if error is None else f'{error:.1e}':>8}"
    )
