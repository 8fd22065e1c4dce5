"""What `evaluate` shows of a model that draws words: tables, sheets of pictures, one page.

The tables are made from the plain values of words.json, so that a README can be filled from the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import torch
from PIL import Image

from alphabar.data.parts import HEADS
from alphabar.evaluate.words import GROUPS, Judged, WordJudge
from alphabar.report.document import frame
from alphabar.report.grid import labelled_grid
from alphabar.report.html import figure, picture, table

MEASURES = {
    "subject": "Right subject",
    "colour": "Right colour",
    "tone": "Right tone",
    "everything": "All that was asked for is right",
    "own_nearest": "No training picture is nearer, in pixels, than the one asked for",
    "reproduced": "Within the copy distance of the real picture that was asked for",
    "copies": "Within the copy distance of another training picture, which is nearer",
}
PROMPTS = 40
NEIGHBOURS = 24


def measure_table(words: Mapping[str, Any], measure: str) -> tuple[list[str], list[list[str]]]:
    """One measure as text: the head, and a row for each group with a cell for each source.

    Args:
        words: what words.json holds.
        measure: a key of MEASURES.
    """
    sources = words["judged"]
    scores = [{score["group"]: score for score in source["scores"]} for source in sources]
    rows = []
    for group in GROUPS:
        found = [of_source[group] for of_source in scores if group in of_source]
        if any(score[measure] for score in found):
            counts = f"{group} ({found[0]['subject']['n']} of {found[0]['captions']} captions)"
            rows.append([counts, *(_cell(score[measure]) for score in found)])
    return ["", *(source["source"] for source in sources)], rows


def _cell(share: Mapping[str, Any]) -> str:
    low, high = share["interval"]
    return f"{share['value']:.2f} ({low:.2f}–{high:.2f})"


def best(found: Sequence[Judged]) -> Judged:
    """The samples of which most are right in everything."""
    return max(found, key=lambda judged: int(judged.right.all(dim=1).sum()))


def prompt_sheet(judge: WordJudge, found: Sequence[Judged], n: int = PROMPTS) -> Image.Image:
    """Some captions of every group, two in a row: the real picture, then what was drawn at each guidance.

    Args:
        judge: whose real pictures are shown.
        found: of the same captions in the same order.
        n: how many captions.
    """
    images, labels = [], []
    for k in _spread(judge, found[0], n):
        row = int(found[0].rows[k])
        images.append(judge.images[row])
        labels.append(("unseen: " if row >= judge.known else "seen: ") + judge.captions[row])
        for judged in found:
            wrong = [head for head, right in zip(HEADS, judged.right[k].tolist(), strict=True) if not right]
            images.append(judged.images[k])
            setting = judged.source.removeprefix("guidance ").replace(", rescale ", ":")  # short, as the options are
            labels.append(f"{setting} " + (f"wrong {', '.join(wrong)}" if wrong else "right"))
    return labelled_grid(torch.stack(images), labels, columns=2 * (1 + len(found)), scale=_scale(judge))


def neighbour_sheet(judge: WordJudge, judged: Judged, n: int = NEIGHBOURS) -> Image.Image:
    """Some captions of every group, two in a row: the sample, its nearest training pictures, and what was asked for.

    The nearest in pixels comes first, with its distance, then the nearest in the judge's features.
    """
    images, labels = [], []
    for k in _spread(judge, judged, n):
        row, near, felt = (int(rows[k]) for rows in (judged.rows, judged.nearest, judged.nearest_features))
        images += [judged.images[k], judge.images[near], judge.images[felt], judge.images[row]]
        labels += [
            f"drawn, {judged.source}",
            f"{float(judged.distances[k]):.3f} {judge.captions[near]}",
            f"alike: {judge.captions[felt]}",
            ("unseen: " if row >= judge.known else "seen: ") + judge.captions[row],
        ]
    return labelled_grid(torch.stack(images), labels, columns=8, scale=_scale(judge))


def words_page(words: Mapping[str, Any], sheets: Mapping[str, Image.Image]) -> str:
    """Tables and pictures as one HTML page, which loads nothing.

    Args:
        words: what words.json holds.
        sheets: pictures by what they show.
    """
    tables = "".join(
        f"<h2>{title}</h2>{table(title, [escape(cell) for cell in head], rows)}"
        for measure, title in MEASURES.items()
        for head, rows in [measure_table(words, measure)]
        if rows
    )
    pictures = "".join(
        f"<section>{figure(picture(image, name), escape(name))}</section>" for name, image in sheets.items()
    )
    model, judge, limit = escape(words["model"]), escape(words["judge"]), words["copy_distance"]
    return frame(
        f"alphabar: {words['model']} draws words",
        f"<h1>{model}: <span>are the words in the pictures?</span></h1>"
        f"<p>Read by the judge {judge}, which learned the training pictures alone; what it says of the real "
        "pictures is the ceiling. Unseen combinations of parts were in no training. Brackets hold 95% intervals "
        "(Wilson), which take samples of one caption as independent. "
        f"{escape(words['sampler'])}, seed {words['seed']}; copy distance {limit:.3f} (root mean square, in [-1, 1]): "
        "as far as nearly every training picture lands from itself through the codec.</p>"
        f"<main>{tables}{pictures}</main>",
    )


def _spread(judge: WordJudge, judged: Judged, n: int) -> list[int]:
    """About n places among the judged, evenly over the groups and in them over the captions."""
    groups = judge.groups[judged.rows]
    present = groups.unique().tolist()
    chosen: list[int] = []
    for k, group in enumerate(present):
        places = (groups == group).nonzero().flatten().tolist()
        firsts = list({int(judged.rows[place]): place for place in reversed(places)}.values())[::-1]
        share = min((k + 1) * n // len(present) - k * n // len(present), len(firsts))
        chosen += [firsts[j * len(firsts) // share] for j in range(share)]
    return chosen


def _scale(judge: WordJudge) -> int:
    return max(1, 128 // judge.images.shape[-1])
