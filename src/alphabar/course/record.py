"""The curriculum record: what each lesson teaches, needs and promises, as typed data.

A lesson's record is a TOML file beside its page (`6.2.2-the-forward-process.toml`, `.md`): MyST reads only YAML as
front matter, where the notebook kernel's settings stand too; a lesson that is planned has a record and no page; and
TOML is in the standard library.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from alphabar.config import check, from_dict
from alphabar.course.page import Page, parse
from alphabar.errors import AlphabarError

Depth = Literal["mentioned", "introduced", "developed", "applied"]
DEPTHS: tuple[Depth, ...] = ("mentioned", "introduced", "developed", "applied")
"""From named in passing to used by the learner's own hands."""
Level = Literal["guided", "supported", "independent"]
LEVELS: tuple[Level, ...] = ("guided", "supported", "independent")
"""Scaffolding, from most to least."""


@dataclass(frozen=True)
class Concept:
    """Something that a lesson teaches.

    Args:
        id: one name for the whole course.
        depth: how far this lesson takes it.
        taught: how.
        counts_with: the concepts that carry its load, of which it is a tool, a facet or a joining. It is then not
            counted as new. Each is taught earlier, or counts as new in this same lesson.
        terms: words that give it away in prose; a page that uses one before the concept is taught is reported.
    """

    id: str
    depth: Depth
    taught: str
    counts_with: tuple[str, ...] = ()
    terms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Need:
    """A prerequisite; `recap` is the section that brings a fading one back."""

    concept: str
    depth: Depth
    recap: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the page; its id is the anchor there."""

    id: str
    title: str


@dataclass(frozen=True)
class Analogy:
    """A picture that stands for a concept."""

    id: str
    says: str


@dataclass(frozen=True)
class Misconception:
    """A wrong belief, the example that disproves it and the section that does so."""

    id: str
    says: str
    disproved_by: str
    place: str


@dataclass(frozen=True)
class Example:
    """A case that shows the concept, or one that shows where it ends."""

    kind: Literal["positive", "negative"]
    shows: str
    place: str


@dataclass(frozen=True)
class Modality:
    """One way in which the core concept is told."""

    kind: Literal["verbal", "visual", "symbolic", "concrete", "interactive", "intuitive"]
    what: str
    place: str


@dataclass(frozen=True)
class Check:
    """A question to the learner, where it stands and the sections that earn it."""

    id: str
    asks: str
    place: str
    earned_by: tuple[str, ...]


@dataclass(frozen=True)
class Exercise:
    """A part of a notebook."""

    id: str
    title: str
    level: Level


@dataclass(frozen=True)
class Notebook:
    """A notebook, its source in `course/notebooks/ID.md`."""

    id: str
    exercises: tuple[Exercise, ...]


@dataclass(frozen=True)
class Deferred:
    """What is left to a later lesson, or to a module of which no lesson is named yet."""

    what: str
    to: str
    concept: str = ""


@dataclass(frozen=True)
class Correction:
    """Where the seed is wrong; `compute` is the library's expression for `value`, when there is one."""

    seed: str
    right: str
    compute: str = ""
    value: float | None = None


@dataclass(frozen=True)
class Lesson:
    """A lesson's plan. Without `sections` it is an outline: only its concepts are recorded."""

    id: str
    title: str
    module: str
    order: int
    load: Literal["build", "stretch", "consolidate"]
    concepts: tuple[Concept, ...]
    written: bool = False
    needs: tuple[Need, ...] = ()
    sections: tuple[Section, ...] = ()
    mental_models: tuple[str, ...] = ()
    analogies: tuple[Analogy, ...] = ()
    misconceptions: tuple[Misconception, ...] = ()
    examples: tuple[Example, ...] = ()
    modalities: tuple[Modality, ...] = ()
    scope: tuple[str, ...] = ()
    deferred: tuple[Deferred, ...] = ()
    out_of_scope: tuple[str, ...] = ()
    widgets: tuple[str, ...] = ()
    notebooks: tuple[Notebook, ...] = ()
    checks: tuple[Check, ...] = ()
    corrections: tuple[Correction, ...] = ()

    def __post_init__(self) -> None:
        check(bool(self.sections) or not self.written, "a written lesson needs its sections")
        for name in ("concepts", "sections", "analogies", "misconceptions", "notebooks", "checks"):
            ids = Counter(item.id for item in getattr(self, name))
            twice = [item for item, times in ids.items() if times > 1]
            check(not twice, f"{name}: {', '.join(twice)} stands twice")

    @property
    def uses(self) -> set[str]:
        """The concepts that it teaches or needs."""
        return {concept.id for concept in self.concepts} | {need.concept for need in self.needs}


@dataclass(frozen=True)
class Module:
    """A module's own facts; the rest of its record is made from its lessons."""

    id: str
    title: str
    goal: str = ""


@dataclass(frozen=True)
class Entry:
    """A lesson with the files that it was read from."""

    lesson: Lesson
    file: Path
    text: str
    page: Page | None
    notebooks: dict[str, Page]

    @property
    def live(self) -> Page | None:
        """The page of a written lesson."""
        return self.page if self.lesson.written else None

    @property
    def sources(self) -> list[Page]:
        """A written lesson's page and the sources of its notebooks."""
        return [page for page in (self.page, *self.notebooks.values()) if page and self.lesson.written]

    def at(self, key: str, word: str = "") -> tuple[Path, int]:
        """File and line of a key's table or list in the record and, within it, of the first line with the word."""
        lines = list(enumerate(self.text.splitlines(), 1))
        head = re.compile(rf"\s*(\[\[{key}\]\]|{key}\s*=)")
        start = next((number for number, line in lines if head.match(line)), 1)
        return self.file, next((number for number, line in lines[start - 1 :] if word in line), start)


@dataclass(frozen=True)
class Course:
    """All lessons in their order, and the modules."""

    entries: tuple[Entry, ...]
    modules: tuple[Module, ...]

    @cached_property
    def taught(self) -> dict[str, list[tuple[Lesson, Concept]]]:
        """Where each concept is taught, in order."""
        out: dict[str, list[tuple[Lesson, Concept]]] = {}
        for entry in self.entries:
            for concept in entry.lesson.concepts:
                out.setdefault(concept.id, []).append((entry.lesson, concept))
        return out

    def before(self, concept: str, lesson: Lesson) -> list[tuple[Lesson, Concept]]:
        """Where a concept is taught earlier than in a lesson."""
        return [pair for pair in self.taught.get(concept, []) if pair[0].order < lesson.order]

    def new(self, lesson: Lesson) -> list[Concept]:
        """The concepts that a lesson takes beyond a mention and no earlier lesson does."""
        return [
            concept
            for concept in lesson.concepts
            if concept.depth != "mentioned" and all(c.depth == "mentioned" for _, c in self.before(concept.id, lesson))
        ]


def load(folder: str | Path) -> Course:
    """Read `modules.toml`, all records and their pages; notebook sources lie in `notebooks` beside the folder.

    Raises:
        AlphabarError: nothing there, or naming the file, key and value that is wrong.
    """
    folder = Path(folder)
    files = sorted(file for file in folder.glob("*.toml") if file.name != "modules.toml")
    if not files:
        raise AlphabarError(f"{folder}: no lessons here; run in the repository, or name the course with --course")
    for page in folder.glob("*.md"):
        if page.with_suffix(".toml") not in files:
            raise AlphabarError(f"{page}: no record belongs to this page; write {page.with_suffix('.toml').name}")
    entries = sorted((_entry(file) for file in files), key=lambda entry: entry.lesson.order)
    for one, other in pairwise(entries):
        if one.lesson.order == other.lesson.order:
            raise AlphabarError(f"{other.file}: order {other.lesson.order} is taken by {one.file.name}")
    ids = Counter(entry.lesson.id for entry in entries)
    for entry in entries:
        if ids[entry.lesson.id] > 1:
            raise AlphabarError(f"{entry.file}: another lesson too has id {entry.lesson.id!r}")
    modules = folder / "modules.toml"
    tables = _toml(modules).get("modules", []) if modules.exists() else []
    return Course(tuple(entries), tuple(from_dict(Module, table, str(modules)) for table in tables))


def _entry(file: Path) -> Entry:
    lesson = from_dict(Lesson, _toml(file), str(file))
    page = file.with_suffix(".md")
    sources = {book.id: file.parent.parent / "notebooks" / f"{book.id}.md" for book in lesson.notebooks}
    notebooks = {name: parse(source) for name, source in sources.items() if source.exists()}
    return Entry(lesson, file, file.read_text(encoding="utf-8"), parse(page) if page.exists() else None, notebooks)


def _toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise AlphabarError(f"{file}: not TOML: {error}") from error
