"""One self-contained HTML page: no script, no request, light and dark, wide and narrow."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from alphabar.report import cost, sections
from alphabar.report.document import frame
from alphabar.report.html import LARGEST, grid, number, pair, road_name
from alphabar.report.result import DemoResult, Road, Samples

SECTIONS: tuple[tuple[str, str, Callable[[DemoResult], str]], ...] = (
    ("forward", "An image dissolves", sections.forward),
    ("reconstruction", "The bookends: what the VAE keeps", sections.reconstruction),
    ("channels", "The latent channels", sections.channels),
    ("curves", "Training", sections.curves),
    ("noise", "Loss by noise level", sections.by_noise),
    ("trajectories", "From noise to image, coarse to fine", sections.trajectories),
    ("one-shot", "One jump is not enough", sections.one_shot),
    ("samples", "Samples: many steps and few", sections.samples),
    ("cost", "Cost and quality", cost.cost),
    ("algorithms", "The two algorithms", sections.algorithms),
)


def render(result: DemoResult) -> str:
    """The page as HTML text. A section whose part of the result is None or empty is left out, its link too.

    The file loads nothing, from disk or network: pictures are data URIs, the style is inline, there is no script.
    """
    made = [(name, title, body) for name, title, section in SECTIONS if (body := section(result))]
    links = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title, _ in made)
    body = "".join(
        f'<section id="{name}" aria-labelledby="{name}-title"><h2 id="{name}-title">{title}</h2>{text}</section>'
        for name, title, text in made
    )
    return frame(
        f"alphabar: pixels and latents on {result.dataset}",
        f'<header>{hero(result)}</header>\n<nav aria-label="Contents"><ol>{links}</ol></nav>\n'
        f"<main>{body}</main>\n<footer>{footer(result)}</footer>",
    )


def hero(result: DemoResult) -> str:
    """The idea, the headline figures, and what came out of both roads."""
    budget = (
        f" Each road had {number(result.budget_seconds)} seconds of training, the latent road's VAE included."
        if result.budget_seconds is not None
        else ""
    )
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in result.notes)
    verdict = cost.verdict(result)
    shown = [_hero_grid(road, made) for road in result.roads if (made := _shown(road)) is not None]
    return (
        "<h1>The algorithm does not change. <span>Only the bookends do.</span></h1>"
        f"<p>One diffusion algorithm, trained on {escape(result.dataset)} twice: on pixels, and on the latents of a "
        f"frozen VAE (encode before, decode after).{budget}</p>{notes}{cost.headlines(result)}"
        + (pair(shown) if shown else "")
        + (f"<p>{_quality(result)}{verdict}</p>" if verdict else "")
    )


def _quality(result: DemoResult) -> str:
    return f"Fréchet distance on the features of {escape(result.classifier)}, n = {number(result.frechet_n)}. "


def _shown(road: Road) -> Samples | None:
    """The samples of the best sampler of at most 50 steps, else the first there are."""
    best = road.best()
    found = road.made_by(best.sampler, best.steps) if best else None
    return found or next(iter(road.samples), None)


def _hero_grid(road: Road, made: Samples) -> str:
    alt = f"Samples of the {road.space} road: {made.label}"
    return (
        f'<figure class="{road.space}"><figcaption>{road_name(road)} · {escape(made.label)}</figcaption>'
        f"{grid(made.images, alt)}</figure>"
    )


def footer(result: DemoResult) -> str:
    """How to get this page again, and what it does not say."""
    versions = ", ".join(f"{escape(name)} {escape(version)}" for name, version in result.versions.items())
    shrunk = any(max(made.images.shape[-2:]) > LARGEST for road in result.roads for made in road.samples)
    missing = [*result.not_measured, *([f"Images larger than {LARGEST} pixels are shown shrunk."] if shrunk else [])]
    left_out = "".join(f"<li>{escape(item)}</li>" for item in missing)
    return (
        "<h2>How this page was made</h2><dl>"
        f"<dt>Command</dt><dd><code>{escape(result.command)}</code></dd><dt>Seed</dt><dd>{result.seed}</dd>"
        f"<dt>Hardware</dt><dd>{escape(result.hardware)}</dd><dt>Versions</dt><dd>{versions}</dd></dl>"
        + (f"<h3>What was not measured</h3><ul>{left_out}</ul>" if left_out else "")
    )
