"""`alphabar demo`: pixels against latents, from nothing to a report."""

from __future__ import annotations

import argparse
from pathlib import Path

EPILOG = """\
examples:
  alphabar demo                            about 9 minutes on 2 cores; open demo/report.html
  alphabar demo --minutes 10 --out long    a longer training budget for each road
  alphabar demo --data mnist               other images, brought to 28 x 28 and grey

Trains the same diffusion on pixels and on the latents of an autoencoder, each road for the same time (the latent road's
includes its autoencoder), measures both and writes report.html, summary.json and roads.png. Ctrl-C stops it; the same
command continues it.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    form = argparse.RawDescriptionHelpFormatter
    parser = subparsers.add_parser(
        "demo",
        help="pixels against latents: a report",
        description="Pixels against latents.",
        epilog=EPILOG,
        formatter_class=form,
    )
    parser.add_argument("--minutes", type=float, default=2.5, metavar="M", help="training per road (default: 2.5)")
    parser.add_argument(
        "--data", metavar="NAME", help="a named set or a folder of images (default: fashion-mnist, or the next best)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of everything (default: 0)")
    parser.add_argument("-n", type=int, default=2000, metavar="N", help="images per Fréchet distance (default: 2000)")
    parser.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR", help="default: demo")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run `demo`; returns the exit status."""
    import sys

    from alphabar import engine
    from alphabar.data import fallback_dataset
    from alphabar.errors import AlphabarError
    from alphabar.models import load_model
    from alphabar.report import write_report
    from alphabar.report.banner import banner
    from alphabar.report.grid import save_png
    from alphabar.report.measure import Plan, gather, training_of
    from alphabar.train import RunStoppedError, train_latent_road, train_pixel_road

    if not args.minutes > 0:
        raise AlphabarError(f"--minutes must be positive, got {args.minutes}")
    if args.n < 2:
        raise AlphabarError(f"-n must be at least 2, got {args.n}")
    dataset = args.data or fallback_dataset()
    root: Path = args.out
    settings = [
        f"data.name={dataset!r}",
        "data.size=28",
        "data.channels=1",
        f"train.seed={args.seed}",
        "train.previews=3",
    ]
    try:
        pixel = train_pixel_road(root, args.minutes, settings)
        latent = train_latent_road(root, args.minutes, settings)
    except RunStoppedError as stop:
        print(f"alphabar: {stop}: run the same command again", file=sys.stderr)
        return 130

    device = engine.choose_device()
    roads = [(run.name, load_model(run).to(device), training_of(run, load_model(run))) for run in (pixel, latent)]
    notes = [] if args.data or dataset == "fashion-mnist" else [f"Fashion-MNIST could not be had; this is {dataset}."]
    result = gather(
        roads[0],
        roads[1],
        dataset,
        Plan(n=args.n, seed=args.seed, precision=engine.choose_precision("auto", device)),
        command=f"alphabar demo --data {dataset} --minutes {args.minutes:g} --seed {args.seed} -n {args.n}",
        budget_seconds=60 * args.minutes,
        notes=notes,
        say=lambda message: print(message, file=sys.stderr, flush=True),
    )
    report = root / "report.html"
    write_report(result, report)
    save_png(banner(result), root / "roads.png")
    print(f"{report}: open it in a browser; the numbers are in {root / 'summary.json'}")
    return 0
