"""Notebooks: one MyST source each, and out of it a student's copy without solutions and a solved copy.

A source is Markdown with cells between. A `{solution}` takes the place of its exercise's blank cells in the solved copy
and is nowhere in the student's. `check` runs both copies: every solution passes its checks, and every check says
readably what is missing while its exercise is unsolved.
"""

from __future__ import annotations

import ast
import json
import re
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any, Literal

from alphabar.course.page import ANCHOR, CALLOUTS, Block, parse
from alphabar.course.prose import leaked
from alphabar.course.record import LEVELS
from alphabar.course.values import evaluate
from alphabar.errors import AlphabarError, nearest

Role = Literal["text", "predict", "code", "check", "why", "solution"]

CODE: tuple[Role, ...] = ("code", "check", "solution")
HOW = {
    "guided": "**Guided exercise.** The code is complete: predict, run, compare.",
    "supported": "**Supported exercise.** Put your code in place of each `...`, then run the check below.",
    "independent": "**Independent exercise.** Write it yourself in the cell below, then run the check.",
}
DIRECTIVES = ("exercise", "solution", "predict", "code-cell", "math", *CALLOUTS)
"""What a source may hold, besides plain fences."""

PREDICTION = "*Your prediction (double-click to write):*"
EMPTY = "# Your code.\n"

_WORDS = re.compile(r"\{(?:given|concept|analogy|misconception)\}`([^`<]*?)\s*(?:<[^>]*>)?`")
_COMPUTE = re.compile(r"\{compute\}`([^`]*)`")
_OTHER = re.compile(r"\{([\w-]+)\}`[^`]*`")
_NAME = re.compile(r"[^\W\d]\w+")


@dataclass(frozen=True)
class Cell:
    """A cell of the source, in its order.

    Args:
        role: text, a prompt to predict, code, a check, a solution's code or its reason.
        source: Markdown or Python.
        line: where it begins in the source file.
        exercise: the id of the exercise that it belongs to; a check belongs to the exercise before it.
        tags: of the cell, as the source gives them.
    """

    role: Role
    source: str
    line: int
    exercise: str = ""
    tags: tuple[str, ...] = ()

    @property
    def blank(self) -> bool:
        """Whether it is code that holds a `...` to be filled; one in a subscript or an annotation is none."""
        if self.role != "code":
            return False
        tree = ast.parse(self.source)
        inside = {id(n) for s in ast.walk(tree) if isinstance(s, ast.Subscript) for n in ast.walk(s.slice)}
        found = (n for n in ast.walk(tree) if isinstance(n, ast.Constant) and n.value is ...)
        return any(id(n) not in inside for n in found)


@dataclass
class Source:
    """A notebook's source, read and held against the rules."""

    file: Path
    cells: list[Cell] = field(default_factory=list)
    levels: dict[str, str] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    """Of each exercise."""

    @property
    def last(self) -> int:
        """The line of the last cell."""
        return max((cell.line for cell in self.cells), default=0)

    def of(self, exercise: str, role: Role) -> list[Cell]:
        """The cells of an exercise that have one role."""
        return [cell for cell in self.cells if cell.exercise == exercise and cell.role == role]

    def error(self, line: int, says: str) -> AlphabarError:
        """What is wrong, with its place."""
        return AlphabarError(f"{self.file}:{line}: {says}")


# reading


def read(file: Path) -> Source:
    """Read a source.

    Raises:
        AlphabarError: with file and line, where it breaks a rule: see `_exercises`, `_checks` and `_leaks`.
    """
    source = Source(file)
    if not file.is_file():
        raise AlphabarError(f"{file}: there is no such notebook source")
    page = parse(file)
    if page.unclosed:
        raise source.error(page.unclosed, "this fence is never closed; close it with as many marks")
    for block in page.blocks:
        if block.name and block.name not in DIRECTIVES:
            raise source.error(block.line, f"a notebook has no {{{block.name}}}{nearest(block.name, DIRECTIVES)}")
    for block in page.blocks:
        if block.name == "exercise":
            _declare(source, block)
    _Reader(source, {line.number for line in page.lines}, {block.line: block for block in page.blocks}).read()
    if not source.cells:
        raise source.error(1, "this source holds no cell")
    for cell in source.cells:
        if cell.role in CODE:
            _parses(source, cell)
    _exercises(source)
    _checks(source)
    _leaks(source)
    for name, level in source.levels.items():
        for line, word in leaked(page, name) if level == "independent" else ():
            raise source.error(line, f"the independent exercise gives away {word}, which only its solution uses")
    return source


def _declare(source: Source, block: Block) -> None:
    name, level = block.argument, block.options.get("level", "")
    if not re.fullmatch(r"[a-z0-9-]+", name):
        raise source.error(block.line, f"an exercise needs an id of small letters and hyphens, not {name!r}")
    if level not in LEVELS:
        raise source.error(block.line, f"the exercise {name} needs :level: {' | '.join(LEVELS)}, not {level!r}")
    if name in source.levels:
        raise source.error(block.line, f"there are two exercises {name}; the first is in line {source.lines[name]}")
    source.levels[name], source.lines[name] = level, block.line


class _Reader:
    """Walks the lines; the page's parser has told which of them are content, and where blocks open."""

    def __init__(self, source: Source, content: set[int], opens: dict[int, Block]) -> None:
        self.source, self.content, self.opens = source, content, opens
        self.stack: list[Block] = []
        self.text: list[tuple[int, str]] = []
        self.exercise = ""  # the last one opened: checks belong to it

    def read(self) -> None:
        lines = self.source.file.read_text(encoding="utf-8").splitlines()
        first = min({*self.content, *self.opens}, default=1)  # what stands before is front matter
        for number, raw in enumerate(lines, 1):
            top = self.stack[-1] if self.stack else None
            if number in self.opens:
                self.enter(self.opens[number])
            elif number in self.content:
                self.line(number, raw)
            elif top and number <= top.line + len(top.options):
                continue
            elif number >= first and not raw.lstrip().startswith("%"):
                self.leave(number)
        self.flush()

    def enter(self, block: Block) -> None:
        self.stack.append(block)
        if block.name in ("", "math"):  # stays in the text: Jupyter knows both
            self.text.append((block.line, "$$" if block.name else block.fence + block.argument))
            return
        self.flush(closing=self.stack[:-1])
        if block.name == "exercise":
            self.exercise = block.argument
            self.text.append((block.line, HOW[self.source.levels[block.argument]] + "\n"))
        elif block.name == "solution":
            self.solves(block)

    def leave(self, number: int) -> None:
        block = self.stack[-1]
        if block.name in ("", "math"):
            self.text.append((number, "$$" if block.name else block.fence))
        else:
            self.flush(closing=self.stack)
        self.stack.pop()

    def solves(self, block: Block) -> None:
        around = next((b.argument for b in reversed(self.stack) if b.name == "exercise"), "")
        name = block.argument or around
        if name != self.exercise or not name:
            raise self.source.error(block.line, f"this solves {name!r}; put it in or right after that exercise")

    def line(self, number: int, raw: str) -> None:
        top = self.stack[-1] if self.stack else None
        if not (top and top.literal):
            if raw.strip() == "+++":
                return self.flush(closing=self.stack)
            if ANCHOR.match(raw.strip()):
                return None
            raw = self.roles(number, raw)
        self.text.append((number, raw))
        return None

    def roles(self, number: int, raw: str) -> str:
        """A role becomes its words or its number, since Jupyter knows no roles."""
        raw = _WORDS.sub(r"\1", raw)
        try:
            raw = _COMPUTE.sub(lambda found: evaluate(found[1]), raw)
        except AlphabarError as error:
            raise self.source.error(number, str(error)) from None
        if other := _OTHER.search(raw):
            raise self.source.error(number, f"a notebook has no role {{{other[1]}}}: let a cell compute the number")
        return raw

    def flush(self, closing: Iterable[Block] = ()) -> None:
        """Make a cell of the lines so far, which stand in the blocks `closing`."""
        kept, self.text = self.text, []
        code = bool(blocks := list(closing)) and blocks[-1].name == "code-cell"
        body = "\n".join(text for _, text in kept)
        body = textwrap.dedent(body).rstrip("\n").lstrip("\n") if code else body.strip()
        if not body:
            return
        line = next(number for number, text in kept if text.strip())
        names = [block.name for block in blocks]
        if code:
            tags = tuple(re.findall(r"[\w-]+", blocks[-1].options.get("tags", "")))
            role: Role = "check" if "check" in tags else "solution" if "solution" in names else "code"
        else:
            tags = ()
            role = "why" if "solution" in names else "predict" if "predict" in names else "text"
            callout = next((block for block in blocks if block.name in CALLOUTS), None)
            if callout:
                body = _quoted(callout.argument or f"{CALLOUTS[callout.name]}.", body)
        inside = "exercise" in names or role in ("check", "solution", "why")
        self.source.cells.append(Cell(role, body, line, self.exercise if inside else "", tags))


# the rules


def _parses(source: Source, cell: Cell) -> None:
    try:
        ast.parse(cell.source)
    except SyntaxError as error:
        line = cell.line + (error.lineno or 1) - 1
        raise source.error(line, f"this cell is not Python ({error.msg}); magics are not for notebooks here") from None


def _exercises(source: Source) -> None:
    """Guided: code, nothing to fill. Supported: blanks and as many solutions. Independent: a solution and no code."""
    for name, level in source.levels.items():
        code, solved = source.of(name, "code"), source.of(name, "solution")
        blanks, line = [cell for cell in code if cell.blank], source.lines[name]
        if level == "guided" and (blanks or solved or not code):
            raise source.error(line, f"the guided exercise {name} must be complete: code, no blank, no solution")
        if level == "supported" and not blanks:
            raise source.error(
                line, f"the supported exercise {name} has no blank; put `...` where the learner fills in"
            )
        if level == "supported" and len(blanks) != len(solved):
            says = f"the exercise {name} has {len(blanks)} cells with blanks and {len(solved)} cells in its solution"
            raise source.error(line, f"{says}; one takes the other's place")
        if level == "independent" and (code or len(solved) != 1):
            raise source.error(line, f"the independent exercise {name} has text only, and a solution of one cell")
        if any(cell.blank for cell in [Cell("code", cell.source, cell.line) for cell in solved]):
            raise source.error(solved[0].line, f"the solution of {name} still holds a blank")


def _checks(source: Source) -> None:
    """Whatever is solved is checked, and every assertion says what is wrong."""
    for name, level in source.levels.items():
        if (level == "guided") == bool(source.of(name, "check")):
            fix = "a guided one has nothing that could fail" if level == "guided" else "add a cell with :tags: [check]"
            raise source.error(source.lines[name], f"the {level} exercise {name} has the wrong checks; {fix}")
    for cell in source.cells:
        if cell.role != "check":
            continue
        if not cell.exercise:
            raise source.error(cell.line, "this check stands before any exercise")
        asserts = [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Assert)]
        for node in asserts:
            if node.msg is None:
                raise source.error(
                    cell.line + node.lineno - 1, "this assertion says nothing; add what is wrong and why"
                )
        if not asserts:
            raise source.error(cell.line, "this check asserts nothing")


def _leaks(source: Source) -> None:
    """Nothing that only a solution says stands anywhere in the student's copy."""
    cells = [cell for cell in source.cells if cell.role not in ("solution", "why")]
    shown = [(re.sub(r"(?m)^def.*", "", _packed(cell.source)), cell) for cell in cells]  # a signature is no call
    for name in source.levels:
        own = {part for cell in source.of(name, "code") for part in _telling(cell)}
        for part in sorted({part for cell in source.of(name, "solution") for part in _telling(cell)} - own):
            for text, cell in shown:
                if part in text:
                    raise source.error(cell.line, f"this cell gives away the solution of {name}: {part}")


def _telling(cell: Cell) -> Iterator[str]:
    """The lines of a cell that hold two names or more, and what they assign where it holds three; packed."""
    for line in _packed(cell.source).splitlines():
        assigned = re.split(r"(?<![=!<>:])=(?!=)", line, maxsplit=1)[-1]
        yield from (part for part, least in ((line, 2), (assigned, 3)) if len(set(_NAME.findall(part))) >= least)


def _packed(text: str) -> str:
    """Without comments and spaces, so that layout hides nothing."""
    return re.sub(r"[^\S\n]+|#.*", "", text)


# building


def build_all(source: Path, out: Path) -> list[Path]:
    """Both copies of every source in a folder; returns the files written.

    Raises:
        AlphabarError: with file and line, where a source breaks a rule.
    """
    return [path for file in sources(source) for path in build(file, out)]


def sources(folder: Path) -> list[Path]:
    """The notebook sources of a folder."""
    found = sorted(folder.glob("*.md"))
    if not found:
        raise AlphabarError(f"{folder}: no notebook sources (*.md) there")
    return found


def build(source: Path, out: Path) -> list[Path]:
    """Write `out/student/ID.ipynb` and `out/solution/ID.ipynb`, the same bytes each time; returns both."""
    book, paths = read(source), list[Path]()
    for copy in ("student", "solution"):
        path = out / copy / f"{source.stem}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(notebook(book, copy == "solution"), indent=1, ensure_ascii=False) + "\n", "utf-8")
        paths.append(path)
    return paths


def notebook(book: Source, solved: bool) -> dict[str, Any]:
    """A copy as nbformat 4.5."""
    title, *rest = (made for cell in copied(book, solved) for made in _made(cell))
    cells = [title, _badges(book, solved), *rest]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number:03d}"
    return {
        "cells": cells,
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def copied(book: Source, solved: bool) -> Iterator[Cell]:
    """The cells of one copy, in order."""
    waiting = {name: iter(book.of(name, "solution")) for name in book.levels}
    for cell in book.cells:
        if cell.role == "code" and cell.exercise and cell.blank:
            yield next(waiting[cell.exercise]) if solved else cell
        elif cell.role == "solution":
            if book.levels[cell.exercise] == "independent":
                yield cell if solved else Cell("code", EMPTY, cell.line, cell.exercise)
        elif cell.role != "why" or solved:
            yield cell


def _made(cell: Cell) -> Iterator[dict[str, Any]]:
    if cell.role in ("code", "solution"):
        yield _code(cell.source, [*cell.tags, *([cell.role] if cell.role == "solution" else [])])
    elif cell.role == "check":
        made = _code(f"# @title Check\n{cell.source}", list(cell.tags))
        made["metadata"] |= {"jupyter": {"source_hidden": True}, "cellView": "form"}  # folded in Jupyter, in Colab
        yield made
    elif cell.role == "predict":
        yield _markdown(_quoted("Predict before you run.", cell.source))
        yield _markdown(PREDICTION, ["prediction"])
    else:
        yield _markdown(f"**Why.** {cell.source}" if cell.role == "why" else cell.source)


def _quoted(title: str, body: str) -> str:
    """A block quote under its title, which stands by itself since the body may begin with a list."""
    return "\n".join(f"> {line}".rstrip() for line in (f"**{title}**", "", *body.split("\n")))


def _code(source: str, tags: list[str]) -> dict[str, Any]:
    tagged = {"tags": tags} if tags else {}
    made: dict[str, Any] = {
        "cell_type": "code",
        "execution_count": None,
        "metadata": tagged,
        "outputs": [],
        "source": source,
    }
    return {"id": "", **made}


def _markdown(source: str, tags: list[str] | None = None) -> dict[str, Any]:
    return {"id": "", "cell_type": "markdown", "metadata": {"tags": tags} if tags else {}, "source": source}


def _badges(book: Source, solved: bool) -> dict[str, Any]:
    name = book.file.stem
    this, other = ("solution", "student") if solved else ("student", "solution")
    open_in = f"[Open in Colab]({colab(name, this)})" if colab(name, this) else "In Colab: File, Upload notebook"
    return _markdown(
        f"{open_in} · this is the {'solved' if solved else 'student’s'} copy"
        f" · [the {'student’s' if solved else 'solved'} copy](../{other}/{name}.ipynb)"
    )


def colab(name: str, copy: str = "student") -> str | None:
    """The address that opens a notebook in Colab; None where the package names no GitHub repository as its source."""
    try:
        urls = metadata("alphabar").get_all("Project-URL") or []
    except PackageNotFoundError:
        return None
    found = next((m for url in urls if (m := re.search(r"github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?/?$", url))), None)
    base = "https://colab.research.google.com/github"
    return f"{base}/{found[1]}/blob/notebooks/{copy}/{name}.ipynb" if found else None


def check(source: Path) -> None:
    """Run a source, or every one in a folder: its student's copy and its solution. Minutes each; needs nbclient.

    Raises:
        AlphabarError: with file and line: a rule is broken, a solution fails, or a check does not tell what is missing.
    """
    from alphabar.course.rehearsal import rehearse, run_unsolved

    for file in sources(source) if source.is_dir() else [source]:
        run_unsolved(file)
        rehearse(file)
