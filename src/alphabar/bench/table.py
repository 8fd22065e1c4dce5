"""The result of a bench as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alphabar.bench.measure import SHARE_GOAL, UNIT
from alphabar.bench.stable_diffusion import TITLES


def table(result: Mapping[str, Any]) -> str:
    """A readable table of what `measure`, `measure_startup` or `measure_stable_diffusion` returned."""
    if result["bench"] == "startup":
        return f"alphabar --help answers in {result['seconds']:.2f} s (goal: under {result['goal']} s)"
    if result["bench"] == "stable-diffusion":
        return "\n".join(_stable_diffusion(result))
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


def _stable_diffusion(result: Mapping[str, Any]) -> list[str]:
    """With what was measured beside it: the memory of the whole, the error of tiles."""
    hardware, size = result["hardware"], result["size"]
    lines = [
        f"Stable Diffusion 1.5, {size}x{size} pixels, random weights, median of {result['repeats']} rounds in turns",
        f"{hardware['cpu']}, {hardware['threads']} threads; "
        + ", ".join(f"{name} {version}" for name, version in result["versions"].items()),
    ]
    for part, rows in result["parts"].items():
        head = f"{'seconds':>8} {'diffusers':>9} {'goal':>6} {'error':>8} {'transient':>10}"
        lines += ["", f"{TITLES[part]:42} {head}"]
        for name, row in rows.items():
            goal = result["goals"][part].get(name)
            lines.append(
                f"  {row['title']:40} {row['seconds']:8.2f} {row['ratio']:8.2f}x {f'{goal}x' if goal else '':>6} "
                f"{row['relative_error']:8.1e} {_gigabytes(row['transient_bytes']):>10}"
            )
    if "memory" in result:
        lines += ["", "one picture in one guided step, from files in fp16: the most memory of the process"]
        lines += [f"  {row['title']:40} {_gigabytes(row['peak_bytes']):>8}" for row in result["memory"].values()]
    if "tiling" in result:
        name, rows = result["tiling"]["autoencoder"], result["tiling"]["tiles"]
        lines += ["", f"a photograph of 512x512 pixels through {name}, in tiles against whole"]
        lines += [
            f"  tiles of {tile}: error {row['encode_error']:.1e} in encoding, {row['decode_error']:.1e} in decoding; "
            f"PSNR {row['psnr']:.2f} dB, whole {row['psnr_whole']:.2f} dB"
            for tile, row in rows.items()
        ]
    return lines


def _gigabytes(count: int | None) -> str:
    return "" if count is None else f"{count / 1e9:.2f} GB"
