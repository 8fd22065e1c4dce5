"""`alphabar bench`: speed beside diffusers."""

from __future__ import annotations

import argparse

DESCRIPTION = """\
Measure speed, side by side in one run.

sampling   one network call of the small U-Net as samplers make it, and the sampler's own arithmetic
training   one training step: forward, loss, backward, clip, optimizer
startup    the time from `alphabar --help` to its answer

Compared are diffusers' UNet2DModel as it comes (eager, float32), at parameters and FLOPs within 5% of ours (counted and
printed); our network in plain eager PyTorch; and our network as alphabar runs it. Each lives in a process of its own,
since tuning the allocator changes a whole process. One works at a time, in turns (A B C D A B C D), and medians over
the rounds are compared. Errors are relative, L2, against plain float32: of the output (sampling) or of the gradient
(training). A sampler's arithmetic is timed with a network that answers at once.
"""
EPILOG = """\
examples:
  alphabar bench sampling                      a table, in under a minute
  alphabar bench training --json               one JSON object on stdout
  alphabar bench sampling --device cuda        on a GPU
  OMP_NUM_THREADS=1 alphabar bench sampling    on one core

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
    parser.add_argument("what", choices=["sampling", "training", "startup"], help="what to measure")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--repeats", type=int, default=7, metavar="N", help="rounds (default: 7)")
    parser.add_argument("--batch", type=int, metavar="N", help="images (default: 64 for sampling, 128 for training)")
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu or cuda (default: cpu)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run `bench`; returns the exit status."""
    import json

    from tqdm import tqdm

    from alphabar import engine
    from alphabar.bench import measure, measure_startup, table

    if args.what == "startup":
        result = measure_startup(args.repeats)
    else:
        device = engine.choose_device(args.device)
        with tqdm(total=args.repeats, unit="round", desc=f"bench {args.what}", disable=None, leave=False) as bar:
            result = measure(args.what, batch=args.batch, repeats=args.repeats, device=device, on_round=bar.update)
    print(json.dumps(result, indent=2) if args.json else table(result))
    return 0
