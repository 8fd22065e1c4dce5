"""Pages that load nothing: their frame, which every page of a report shares, and the plain form of sections in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources


def frame(title: str, body: str, style: str = "") -> str:
    """The HTML of a whole page, with the reports' style inline.

    Args:
        title: as text.
        body: as HTML.
        style: further rules, after the reports' own.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{read_style('report.css')}{style}</style>\n</head>\n<body>\n"
        f"{body}\n</body>\n</html>\n"
    )


def read_style(name: str) -> str:
    """A style sheet that comes with the reports."""
    return resources.files("alphabar.report").joinpath(name).read_text(encoding="utf-8")


def document(title: str, header: str, sections: Sequence[tuple[str, str]], footer: str, style: str = "") -> str:
    """A page of a header, sections as (heading, body) and a footer; all but the title are HTML."""
    body = "".join(f"<section><h2>{heading}</h2>{text}</section>" for heading, text in sections if text)
    return frame(title, f"<header>{header}</header>\n<main>{body}</main>\n<footer>{footer}</footer>", style)


def footer(command: str, facts: Mapping[str, object], notes: Sequence[str]) -> str:
    """How a page was made, and what to know of its numbers."""
    rows = "".join(f"<dt>{escape(key)}</dt><dd>{escape(str(value))}</dd>" for key, value in facts.items())
    said = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f"<h2>How this page was made</h2><dl><dt>Command</dt><dd><code>{escape(command)}</code></dd>{rows}</dl>" + (
        f"<ul>{said}</ul>" if said else ""
    )
