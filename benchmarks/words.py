"""The README's tables of words-to-emoji, as Markdown, from what `alphabar evaluate` wrote.

alphabar evaluate runs/emoji-latent --judge runs/emoji-judge --guidance 1 2 3 6 3:0.7
python benchmarks/words.py runs/emoji-latent/evaluation/words.json
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from alphabar.io import read_json
from alphabar.report.words import MEASURES, measure_table


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table: its first column is text, the others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", type=Path, metavar="words.json")
    parser.add_argument("--measures", nargs="+", choices=list(MEASURES), default=list(MEASURES))
    args = parser.parse_args()
    words = read_json(args.words)
    for measure in args.measures:
        head, rows = measure_table(words, measure)
        if rows:
            print(f"**{MEASURES[measure]}**\n\n{markdown(head, rows)}\n")
    print(f"{words['sampler']}, seed {words['seed']}; best setting: {words['best']}.")


if __name__ == "__main__":
    main()
