"""What a page's words give away: terms, identifiers and numbers, found line by line."""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Iterator

from alphabar.course.page import ROLE, Line, Page

_COMPUTED = re.compile(r"<<.+?>>")
_FORMULA = re.compile(r"\{cmath\}`([^`]*)`")
_ORDINARY = {*keyword.kwlist, *dir(builtins), "self"}
_WORD = re.compile(r"[^\W\d]\w*")
_CODE_LIKE = re.compile(r"\w+_\w+|\w*[a-z]\w*[A-Z]\w*|\w+(?=\()")
"""Words that no prose holds: `snake_case`, `CamelCase`, `call()`."""
_NUMBER = re.compile(
    r"(?<![\w.,])(?:\d+\.\d+\s?%?|\d+\s?\\?%|\d{1,3}(?:,\d{3})+|\d{5,}"
    r"|\d+\s?(?:×|\\times)(?!\s?\d)|\d{2,}x\b|\d{2,}[ -](?:times|fold)\b)"
    r"(?![\d.]*\.\d)"
)
"""Decimals, percentages, large numbers and multiples; small whole numbers are counts, sizes and timesteps."""
_NOT_PROSE = re.compile(
    r"\{[\w:-]+\}`[^`]*`|`[^`]*`|\]\([^)]*\)|<?https?://\S+|arXiv:\S+|\d+\.\d+\.\d+"
    r"|\b(?:module|lesson|series|section|figure|python|diffusion|sd|version|v)s?\s?\d+(?:\.\d+)*"
    r"(?:(?:,| and| to| or)\s\d+(?:\.\d+)+)*",
    re.IGNORECASE,
)


def spoken(page: Page, term: str) -> int | None:
    """The first line of prose that holds a term; one with a capital (CLIP) is found only as it is written."""
    found = re.compile(rf"(?<!\w){re.escape(term)}(?!\w)", re.IGNORECASE if term == term.lower() else 0)
    return next((line.number for line in page.lines if not line.code and found.search(line.text)), None)


def leaked(page: Page, exercise: str) -> Iterator[tuple[int, str]]:
    """(line, identifier) where an exercise's text names what only its solution uses, in the whole page."""
    solution, text, known = set[str](), list[Line](), set[str]()
    for line in page.lines:
        inside, around = line.inside("solution"), line.inside("exercise")
        if inside and (inside.argument or (around.argument if around else "")) == exercise:
            solution |= _identifiers(line)
        elif around and around.argument == exercise:
            text.append(line)
        else:
            known |= _identifiers(line)
    for line in text:
        words = _identifiers(line) | set(_CODE_LIKE.findall(line.text))  # in comments too
        yield from ((line.number, word) for word in sorted(words & (solution - known)))


def _identifiers(line: Line) -> set[str]:
    """The names in a line of code, or in the inline code of a line of prose."""
    if line.code:
        code = re.sub(r"#.*|\"[^\"]*\"|'[^']*'", " ", line.text)
    else:
        code = " ".join(re.findall(r"`([^`]+)`", ROLE.sub(" ", line.text)))
    return {word for word in _WORD.findall(code) if word not in _ORDINARY and len(word) > 1}


def typed_numbers(page: Page) -> Iterator[tuple[int, str]]:
    """(line, number) where prose, a formula or a directive's title holds a number that the library could compute."""
    titles = [(block.line, block.argument) for block in page.blocks if not block.literal]
    prose = [(line.number, line.text) for line in page.lines if not line.code]
    for line, text in titles + prose:
        typed = _NOT_PROSE.sub(" ", _FORMULA.sub(r" \1 ", _COMPUTED.sub(" ", text)))
        yield from ((line, number.strip()) for number in _NUMBER.findall(typed))
