"""`alphabar compare`: two runs side by side."""

from __future__ import annotations

import argparse
from pathlib import Path

EPILOG = """\
examples:
  alphabar compare runs/fashion-pixel runs/fashion-latent --out report.html
  alphabar compare fashion-pixel fashion-latent -n 2000        the weights that come with alphabar

Writes one self-contained page, and summary.json beside it. The first run must be on pixels, the second on latents.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    form = argparse.RawDescriptionHelpFormatter
    parser = subparsers.add_parser(
        "compare", help="a report on two runs", description="A report on two runs.", epilog=EPILOG, formatter_class=form
    )
    parser.add_argument("pixel", metavar="PIXEL_RUN", help="a run or model folder, or the name of a shipped model")
    parser.add_argument("latent", metavar="LATENT_RUN", help="the same, on latents")
    parser.add_argument("-n", type=int, default=2000, metavar="N", help="images per Fréchet distance (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the noise (default: 0)")
    parser.add_argument("--precision", default="auto", choices=["auto", "float32", "bf16"], help="of sampling")
    parser.add_argument("--out", type=Path, default=Path("report.html"), metavar="FILE", help="default: report.html")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run `compare`; returns the exit status."""
    import sys

    from alphabar import engine
    from alphabar.errors import AlphabarError
    from alphabar.models import load_model
    from alphabar.report import write_report
    from alphabar.report.measure import Plan, gather, training_of

    if args.n < 2:
        raise AlphabarError(f"-n must be at least 2, got {args.n}")
    engine.tune_allocator()
    device = engine.choose_device()
    models = [load_model(name).to(device) for name in (args.pixel, args.latent)]
    data = {_dataset_of(name, model.card) for name, model in zip((args.pixel, args.latent), models, strict=True)}
    if len(data) > 1:
        raise AlphabarError(f"the two runs were trained on different data: {', '.join(sorted(data))}")
    result = gather(
        (args.pixel, models[0], training_of(Path(args.pixel), models[0])),
        (args.latent, models[1], training_of(Path(args.latent), models[1])),
        data.pop(),
        Plan(n=args.n, seed=args.seed, precision=engine.choose_precision(args.precision, device)),
        command=f"alphabar compare {args.pixel} {args.latent} -n {args.n} --seed {args.seed}",
        say=lambda message: print(message, file=sys.stderr, flush=True),
    )
    write_report(result, args.out)
    print(args.out)
    return 0


def _dataset_of(name: str, card: object) -> str:
    from alphabar.errors import AlphabarError

    try:
        return str(card["recipe"]["data"]["name"])  # type: ignore[index]
    except (KeyError, TypeError) as error:
        raise AlphabarError(f"the card of {name} does not say which data it was trained on") from error
