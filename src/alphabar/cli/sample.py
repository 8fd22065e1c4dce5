"""`alphabar sample`: images out of noise."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alphabar.generate import SamplerConfig
    from alphabar.models import Model

EPILOG = """\
examples:
  alphabar sample fashion-latent --out grid.png                    64 garments in a second or two, offline
  alphabar sample fashion-pixel --sampler ddim --steps 20          deterministic, 20 steps
  alphabar sample runs/fashion-pixel --sampler ddpm --steps 1000   DDPM as published
  alphabar sample fashion-latent -n 8 --trajectory walk.gif        watch them come out of the noise

Image k of a seed is the same whatever -n is. Models that come with alphabar: fashion-pixel, fashion-latent.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    form = argparse.RawDescriptionHelpFormatter
    parser = subparsers.add_parser(
        "sample", help="draw images from a model", description="Draw images.", epilog=EPILOG, formatter_class=form
    )
    parser.add_argument("model", metavar="RUN", help="a run folder, a model folder or the name of a shipped model")
    parser.add_argument("-n", type=int, default=64, metavar="N", help="how many images (default: 64)")
    parser.add_argument("--sampler", default="ddpm", choices=["ddpm", "ddim", "heun", "dpmpp-2m"], help="default: ddpm")
    parser.add_argument("--steps", type=int, default=50, metavar="N", help="timesteps visited (default: 50)")
    parser.add_argument(
        "--spacing", default="trailing", choices=["trailing", "leading", "linspace"], help="default: trailing"
    )
    parser.add_argument("--eta", type=float, default=0.0, metavar="X", help="DDIM's fresh noise, 0..1 (default: 0)")
    parser.add_argument("--variance", default="small", choices=["small", "large"], help="DDPM's (default: small)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the noise (default: 0)")
    parser.add_argument(
        "--precision",
        default="float32",
        choices=["float32", "bf16", "auto"],
        help="float32 is exact; bf16 is faster where the hardware has it; auto chooses (default: float32)",
    )
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, mps (default: the best there is)")
    parser.add_argument("--out", type=Path, default=Path("grid.png"), metavar="FILE", help="default: grid.png")
    parser.add_argument("--trajectory", type=Path, metavar="FILE", help="also write the walk of the first 16 as a GIF")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run `sample`; returns the exit status."""
    from tqdm import tqdm

    from alphabar import engine
    from alphabar.errors import AlphabarError
    from alphabar.generate import SamplerConfig, sample
    from alphabar.models import load_model
    from alphabar.report.grid import image_grid, save_png

    if args.n < 1:
        raise AlphabarError(f"-n must be at least 1, got {args.n}")
    for path, suffix in ((args.out, ".png"), (args.trajectory, ".gif")):
        if path is not None and path.suffix.lower() != suffix:
            raise AlphabarError(f"{path}: give it a name that ends in {suffix}")
    sampler = SamplerConfig(args.sampler, args.steps, args.spacing, args.eta, args.variance)
    engine.tune_allocator()
    device = engine.choose_device(args.device)
    model = load_model(args.model).to(device).prepared(engine.choose_precision(args.precision, device))
    batches = math.ceil(args.n / 64)
    with tqdm(total=batches * args.steps, unit="step", desc=args.model, disable=None) as bar:
        images = sample(model, args.n, sampler, seed=args.seed, on_step=bar.update)
    save_png(image_grid(images, columns=_columns(args.n), scale=max(1, 64 // model.size)), args.out)
    print(f"{args.out}: {args.n} images, {args.sampler} in {args.steps} steps, seed {args.seed}")
    if args.trajectory is not None:
        _write_trajectory(model, sampler, args)
    return 0


def _columns(n: int) -> int:
    """A grid of full rows, at most twice as wide as high, where n allows one; else about square."""
    square = math.ceil(math.sqrt(n))
    return next((c for c in range(square, math.isqrt(2 * n) + 1) if n % c == 0), square)


def _write_trajectory(model: Model, sampler: SamplerConfig, args: argparse.Namespace) -> None:
    """At most 60 frames: what the sampler holds on the left, the image it predicts on the right."""
    from alphabar.generate import generate
    from alphabar.report.grid import image_grid, save_gif, sheet

    count = min(args.n, 16)
    columns = 4 if count > 4 else count
    frames = []
    every = max(1, args.steps // 60)
    for k, step in enumerate(generate(model, range(count), sampler, seed=args.seed)):
        if k % every and k != args.steps - 1:
            continue
        pair = [model.codec.decode(x).clamp(-1, 1).cpu() for x in (step.x, step.estimate.x0)]
        grids = [image_grid(images, columns, scale=max(1, 64 // model.size)) for images in pair]
        frames.append(sheet(grids, columns=2, pad=8))
    save_gif(frames, args.trajectory, ms=80)
    print(f"{args.trajectory}: {len(frames)} frames; left what the sampler holds, right the image it predicts")
