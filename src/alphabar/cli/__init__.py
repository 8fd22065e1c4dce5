"""The command line: one file per command, each with `add_parser` and `run`; `model.py` opens what they name.

Nothing here imports torch before a command runs, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import alphabar
from alphabar.cli import bench, compare, convert, cost, course, data, demo, evaluate, latents, sample, trace, train
from alphabar.errors import AlphabarError

EPILOG = """\
examples:
  alphabar sample fashion-latent --out grid.png     64 garments from the weights that come with alphabar
  alphabar sample emoji --prompt "purple heart"     words to pictures, offline
  alphabar demo                                     pixels against latents: train both, compare, write a report
  alphabar train fashion-pixel --out runs/pixel     train a recipe; Ctrl-C stops it, --resume continues it
  alphabar COMMAND --help                           examples and options of a command
"""


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="alphabar",
        description="Diffusion and latent diffusion: train, sample, measure.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"alphabar {alphabar.__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (demo, train, sample, trace, latents, cost, evaluate, compare, data, convert, bench, course):
        command.add_parser(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status: 0, 2 for what the user can mend, 130 after Ctrl-C."""
    args = _parse(arguments)
    try:
        return int(args.run(args))
    except AlphabarError as error:
        print(f"alphabar: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # what no one wrapped, such as a disk that fills while TensorBoard writes
        print(f"alphabar: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("alphabar: stopped", file=sys.stderr)
        return 130


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Argparse ends a list of positionals at the first option; key=value may also stand after options."""
    top = parser()
    args, rest = top.parse_known_args(arguments)
    if rest and not (args.command == "train" and all("=" in word and not word.startswith("-") for word in rest)):
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.overrides += rest
    return args
