"""`alphabar cost`: pixels against latents, counted."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alphabar.evaluate.cost import NetworkCost, SpaceCosts

EPILOG = """\
examples:
  alphabar cost sd15                      Stable Diffusion 1.5 at 512x512, without its weights
  alphabar cost sd21 --size 1024
  alphabar cost fashion-latent --size 28 --json

Nothing is run: the networks are built without numbers, and counted from the shapes of their tensors. So the column of
pixels, the same U-Net on the image itself, is told for sizes that no machine would run.
"""
GUIDED_STEPS = 50


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    form = argparse.RawDescriptionHelpFormatter
    parser = subparsers.add_parser(
        "cost", help="pixels against latents, counted", description=__doc__, epilog=EPILOG, formatter_class=form
    )
    parser.add_argument(
        "path", metavar="PATH", help="a run, model or Stable Diffusion folder, a .safetensors file, a name, sd15, sd21"
    )
    parser.add_argument("--size", type=int, metavar="PX", help="height and width (default: the model's own)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run `cost`; returns the exit status."""
    import json

    from alphabar.config import check

    check(args.size is None or args.size > 0, f"--size must be positive, not {args.size}")
    costs = count_path(args.path, args.size)
    print(json.dumps(to_dict(costs), indent=2) if args.json else lines(costs))
    return 0


def count_path(path: str, size: int | None = None) -> SpaceCosts:
    """Count what lies at a path; of Stable Diffusion, the settings alone are read."""
    from alphabar import models
    from alphabar.cli.model import SHAPES, known_config, open_model
    from alphabar.codec import LatentCodec
    from alphabar.errors import AlphabarError
    from alphabar.evaluate.cost import count_spaces
    from alphabar.nn import SmallUNet, UNet
    from alphabar.stable_diffusion import is_stable_diffusion, open_pipeline

    if path in SHAPES or is_stable_diffusion(path):
        config = known_config(path) if path in SHAPES else open_pipeline(path).config
        return count_spaces(config.unet, config.vae, config.text, size or config.size, 3, config.text.length)
    kind = models.kind_of(path)
    if kind == "autoencoder":
        codec = models.load_autoencoder(path)
        own, channels = models.read_image(path)
        return count_spaces(None, codec.autoencoder.config, None, size or own, channels)
    if kind != "denoiser":
        raise AlphabarError(f"{path} holds a {kind}; a cost is told of denoisers and autoencoders")
    model = open_model(path)
    assert isinstance(model.network, UNet | SmallUNet)
    text = None if model.text is None else model.text.tower.config
    length = 77 if model.text is None else model.text.tokenizer.length
    first = model.codec.autoencoder.config if isinstance(model.codec, LatentCodec) else None
    return count_spaces(model.network.config, first, text, size or model.size, model.channels, length)


def to_dict(costs: SpaceCosts) -> dict[str, Any]:
    """For JSON: every part with its counts, and pixels as multiples of latents."""
    parts = {name: None if part is None else _part(part) for name, part in costs._asdict().items() if name != "size"}
    pixels, latents = costs.pixels, costs.latents
    ratios = None
    if pixels is not None and latents is not None:
        ratios = {
            "values": pixels.values / latents.values,
            "flops": pixels.flops / latents.flops,
            "peak_bytes": pixels.peak_bytes / latents.peak_bytes,
        }
    return {"size": costs.size, **parts, "pixels_per_latents": ratios}


def _part(part: NetworkCost) -> dict[str, Any]:
    return {"values": part.values, **part._asdict(), "shape": list(part.shape)}


def lines(costs: SpaceCosts) -> str:
    """A table for the terminal."""
    from alphabar.report.trace import text_table

    spaces = {"pixels": costs.pixels, "latents": costs.latents}
    calls = {name: part for name, part in spaces.items() if part is not None}
    rest = {"encode": costs.encode, "decode": costs.decode, "read the prompt": costs.text}
    out = [f"an image of {costs.size}x{costs.size}, counted from shapes; nothing was run"]
    if calls:
        rows = [("one call of the network on", *(f"{name}" for name in calls), *["ratio"] * (len(calls) > 1))]
        rows += [_row(name, [of(part) for part in calls.values()], unit) for name, of, unit in _FACTS]
        rows.append(("of which attention", *(_share(part) for part in calls.values()), *[""] * (len(calls) > 1)))
        out += ["", text_table(rows)]
    parts = {name: part for name, part in rest.items() if part is not None}
    if parts:
        rows = [("once per image", *parts)]
        rows += [_row(name, [of(part) for part in parts.values()], unit, ratio=False) for name, of, unit in _FACTS]
        rows.append(("of which attention", *(_share(part) for part in parts.values())))
        out += ["", text_table(rows)]
    if costs.latents is not None and costs.pixels is not None and costs.decode is not None:
        calls_made = 2 * GUIDED_STEPS if costs.text else GUIDED_STEPS
        latent = calls_made * costs.latents.flops + costs.decode.flops + (2 * costs.text.flops if costs.text else 0)
        pixel = calls_made * costs.pixels.flops + (2 * costs.text.flops if costs.text else 0)
        rows = [
            (f"one image in {GUIDED_STEPS} steps{', guided' if costs.text else ''}", "pixels", "latents", "ratio"),
            _row("FLOPs, bookends and prompt included", [pixel, latent], "FLOPs"),
        ]
        out += ["", text_table(rows)]
    return "\n".join(out)


_FACTS: list[tuple[str, Any, str]] = [
    ("shape that goes in", lambda part: "x".join(map(str, part.shape)), ""),
    ("values", lambda part: part.values, ""),
    ("parameters", lambda part: part.parameters, ""),
    ("memory, at float32", lambda part: part.peak_bytes, "B"),
    ("FLOPs", lambda part: part.flops, "FLOPs"),
]


def _row(name: str, values: list[Any], unit: str, ratio: bool = True) -> tuple[str, ...]:
    """A line: the values, and how many times the second the first is."""
    cells = [value if isinstance(value, str) else _cell(value, unit) for value in values]
    if not ratio or len(values) < 2:
        return name, *cells
    return name, *cells, "" if isinstance(values[0], str) else _times(values[0] / values[1])


def _cell(value: int, unit: str) -> str:
    from alphabar.report.html import si

    return si(value, unit) if unit else f"{value:,}"


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}x" if ratio >= 100 else f"{ratio:.3g}x"


def _share(part: NetworkCost) -> str:
    return f"{part.attention_flops / part.flops:.0%}" if part.flops else "-"
