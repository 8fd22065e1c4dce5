"""A page's or notebook's MyST Markdown, read line by line: what stands where.

This is not a Markdown renderer. It knows fences, headings, anchors and roles, and keeps line numbers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

FORMULAS = {"math", "math-computed"}
LITERAL = {"code", "code-block", "code-cell", "sourcecode", "literalinclude", "mermaid", "raw", "eval-rst"} | FORMULAS
"""Directives whose body is not Markdown, so that no fence opens in it."""
CALLOUTS = {"note": "Note", "warning": "Warning", "tip": "Tip", "insight": "Insight", "try-this": "Try this"}
"""The titles of callouts, in pages and notebooks."""

_FENCE = re.compile(r"\s*(`{3,}|~{3,}|:{3,})\s*(?:\{([\w:-]+)\}\s*(.*?)|([^`{]*))\s*$")
_OPTION = re.compile(r"\s*:([\w-]+):\s*(.*?)\s*$")
_HEADING = re.compile(r"(#{1,6})\s+(.*\S)")
ANCHOR = re.compile(r"\(([\w.-]+)\)=\s*$")
ROLE = re.compile(r"\{([\w:-]+)\}`([^`]*)`")
_TARGET = re.compile(r"<([^<>]+)>\s*$")


@dataclass(frozen=True)
class Block:
    """A fence: a directive with its argument and options, or plain code, whose name is empty."""

    name: str
    argument: str
    line: int
    fence: str
    options: dict[str, str] = field(default_factory=dict)

    @property
    def literal(self) -> bool:
        """Whether its body is not Markdown."""
        return not self.name or self.name in LITERAL


@dataclass(frozen=True)
class Line:
    """A line of text or code, and the blocks that it stands in, outermost first."""

    number: int
    text: str
    blocks: tuple[Block, ...]

    @property
    def code(self) -> bool:
        """Inside a literal block; formulas count as prose."""
        return bool(self.blocks) and self.blocks[-1].literal and self.blocks[-1].name not in FORMULAS

    def inside(self, name: str) -> Block | None:
        """The innermost directive of that name around this line."""
        return next((block for block in reversed(self.blocks) if block.name == name), None)


@dataclass(frozen=True)
class Mark:
    """A directive or a role that names something: `{widget} noise-slider`, `{analogy}`ink-drop``."""

    kind: str
    id: str
    line: int


@dataclass
class Page:
    """What a file holds, each with its line."""

    file: Path
    lines: list[Line] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    headings: list[tuple[int, int, str]] = field(default_factory=list)
    """(line, level, title)"""
    anchors: dict[str, int] = field(default_factory=dict)
    unclosed: int | None = None
    """Where a fence opens that is never closed."""

    def named(self, kind: str) -> dict[str, int]:
        """The marks of one kind, by id: the first line of each."""
        return {mark.id: mark.line for mark in reversed(self.marks) if mark.kind == kind}

    def end(self, anchor: str) -> int:
        """The last line of the section that an anchor stands over."""
        start = self.anchors[anchor]
        own = next(((line, level) for line, level, _ in self.headings if line > start), None)
        if own is None:
            return self.last
        return next((line - 1 for line, level, _ in self.headings if line > own[0] and level <= own[1]), self.last)

    @property
    def last(self) -> int:
        """The number of the last line that holds anything."""
        return max((line.number for line in self.lines), default=1)


def parse(file: Path) -> Page:
    """Read a page."""
    page, stack = Page(file), list[Block]()
    lines = file.read_text(encoding="utf-8").splitlines()
    start = _after_front_matter(lines)
    for number, text in enumerate(lines[start:], start + 1):
        top = stack[-1] if stack else None
        if top and _closes(text, top.fence):
            stack.pop()
        elif found := _opens(text, number, top):
            stack.append(found)
            page.blocks.append(found)
            if found.name and found.argument:
                page.marks.append(Mark(found.name, found.argument, number))
        elif top and number == top.line + 1 + len(top.options) and (option := _OPTION.match(text)):
            top.options[option[1]] = option[2]
        elif not text.lstrip().startswith("%") or (top and top.literal):
            _read(page, Line(number, text, tuple(stack)))
    page.unclosed = stack[0].line if stack else None
    return page


def _after_front_matter(lines: list[str]) -> int:
    if not lines or lines[0].strip() != "---":
        return 0
    return next((number for number, text in enumerate(lines[1:], 2) if text.strip() == "---"), 0)


def _closes(text: str, fence: str) -> bool:
    text = text.strip()
    return len(text) >= len(fence) and set(text) == {fence[0]}


def _opens(text: str, number: int, top: Block | None) -> Block | None:
    found = None if top and top.literal else _FENCE.match(text)
    if not found or (found[1][0] == ":" and not found[2]):
        return None
    return Block(found[2] or "", found[3] or "", number, found[1])


def _read(page: Page, line: Line) -> None:
    page.lines.append(line)
    if line.code:
        return
    if not line.blocks and (heading := _HEADING.match(line.text)):
        page.headings.append((line.number, len(heading[1]), heading[2]))
    if anchor := ANCHOR.match(line.text.strip()):
        page.anchors.setdefault(anchor[1], line.number)
    for role in ROLE.finditer(line.text):
        target = _TARGET.search(role[2])
        page.marks.append(Mark(role[1], target[1] if target else role[2], line.number))
