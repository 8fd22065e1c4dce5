"""`alphabar train`: run a recipe."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

EPILOG = """\
examples:
  alphabar train fashion-vae                                  stage 1: the autoencoder, into runs/fashion-vae
  alphabar train fashion-latent codec=runs/fashion-vae        stage 2: diffusion on its latents
  alphabar train fashion-pixel train.minutes=5 train.lr=1e-3  any key of the recipe can be set
  alphabar train my.toml --data ~/photos --out runs/photos    your own recipe and your own images
  alphabar train fashion-pixel --resume                       continue after Ctrl-C or a kill
  accelerate launch --num_processes 4 -m alphabar train fashion-pixel      four GPUs

The run folder holds the recipe, metrics.jsonl, tensorboard/, samples/, checkpoints/ and model/, which `alphabar sample`
takes.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    form = argparse.RawDescriptionHelpFormatter
    parser = subparsers.add_parser(
        "train", help="run a recipe", description="Run a recipe.", epilog=EPILOG, formatter_class=form
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe's name, or a .toml file")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="set a key of the recipe, as section.key=value"
    )
    parser.add_argument("--data", metavar="NAME", help="a named data set or a folder of images instead of the recipe's")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the run folder (default: runs/ and the recipe's name)")
    parser.add_argument("--resume", action="store_true", help="continue the run in the run folder")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run `train`; returns the exit status: 130 when it was stopped and can be resumed."""
    from alphabar.train import RunStoppedError, load_recipe, train

    overrides = [*([f"data.name={args.data!r}"] if args.data else []), *args.overrides]
    recipe = load_recipe(args.recipe, overrides)
    try:
        folder = train(recipe, args.out or Path("runs") / recipe.name, resume=args.resume)
    except RunStoppedError as stop:
        print(f"alphabar: {stop}", file=sys.stderr)
        return 130
    print(folder)
    return 0
