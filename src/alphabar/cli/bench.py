"""`alphabar bench`: speed beside diffusers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

DESCRIPTION = """\
Measure speed, side by side in one run.

sampling   one network call of the small U-Net as samplers make it, and the sampler's own arithmetic
training   one training step: forward, loss, backward, clip, optimizer
startup    the time from `alphabar --help` to its answer
stable-diffusion
           Stable Diffusion 1.5 at full size, random weights, CPU: a guided step and a 512x512 decode, whole and in
           tiles, with the memory that each takes and its error against diffusers; the error of tiles on a photograph

Compared are diffusers' UNet2DModel as it comes (eager, float32), at parameters and FLOPs within 5% of ours (counted and
printed); our network in plain eager PyTorch; and our network as alphabar runs it. Each lives in a process of its own,
since tuning the allocator changes a whole process. One works at a time, in turns (A B C D A B C D), and medians over
the rounds are compared. Errors are relative, L2, against plain float32: of the output (sampling) or of the gradient
(training). A sampler's arithmetic is timed with a network that answers at once. Stable Diffusion's errors
are against diffusers' float32.
"""
EPILOG = """\
examples:
  alphabar bench sampling                      a table, in under a minute
  alphabar bench training --json               one JSON object on stdout
  alphabar bench sampling --device cuda        on a GPU
  OMP_NUM_THREADS=1 alphabar bench sampling    on one core
  alphabar bench stable-diffusion              ten minutes on two cores and 12 GB of memory
  alphabar bench stable-diffusion --memory     and the whole pipeline's memory; 2.1 GB of temporary files
  alphabar bench stable-diffusion --quick      a small network of the same form, only to see it run

Run it on a quiet machine and trust ratios rather than times. Needs diffusers: pip install "alphabar[bench]"
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "bench",
        help="measure speed beside diffusers",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=["sampling", "training", "startup", "stable-diffusion"], help="what to measure")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--repeats", type=int, metavar="N", help="rounds (default: 7; 3 for stable-diffusion)")
    parser.add_argument("--batch", type=int, metavar="N", help="images (default: 64 for sampling, 128 for training)")
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu or cuda (default: cpu)")
    large = parser.add_argument_group("stable-diffusion")
    large.add_argument("--quick", action="store_true", help="at a small size")
    large.add_argument(
        "--memory", action="store_true", help="also of the whole pipeline, with and without --low-memory"
    )
    large.add_argument(
        "--autoencoder", metavar="NAME", help="whose tiles to try on the photograph (default: emoji-vae)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run `bench`; returns the exit status."""
    import json

    from tqdm import tqdm

    from alphabar import engine
    from alphabar.bench import measure, measure_startup, table

    repeats = 7 if args.repeats is None else args.repeats
    if args.what == "startup":
        result = measure_startup(repeats)
    elif args.what == "stable-diffusion":
        result = _stable_diffusion(args)
    else:
        device = engine.choose_device(args.device)
        with tqdm(total=repeats, unit="round", desc=f"bench {args.what}", disable=None, leave=False) as bar:
            result = measure(args.what, batch=args.batch, repeats=repeats, device=device, on_round=bar.update)
    print(json.dumps(result, indent=2) if args.json else table(result))
    return 0


def _stable_diffusion(args: argparse.Namespace) -> dict[str, Any]:
    import tempfile

    from tqdm import tqdm

    from alphabar import bench
    from alphabar.errors import AlphabarError
    from alphabar.models import load_autoencoder, shipped

    if args.batch is not None or args.device != "cpu":
        raise AlphabarError("bench stable-diffusion measures a guided step on the CPU: leave out --batch and --device")
    config = bench.QUICK if args.quick else bench.FULL
    name = args.autoencoder or ("emoji-vae" if "emoji-vae" in shipped() else None)
    codec = None if name is None else load_autoencoder(name)  # before the long part: the name may be wrong
    with tqdm(unit="turn", desc="bench stable-diffusion", disable=None, leave=False) as bar:
        result = bench.measure_stable_diffusion(config=config, repeats=args.repeats, on_turn=bar.update)
        if args.memory:
            with tempfile.TemporaryDirectory() as folder:
                result["memory"] = bench.measure_memory(Path(folder) / "pipeline", config, bar.update)
    if codec is not None:
        result["tiling"] = {"autoencoder": str(name), "tiles": bench.measure_tiling(codec, bench.photograph())}
    return result
