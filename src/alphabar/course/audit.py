"""The audit: every promise of the curriculum, checked against the records and the written pages.

Each rule looks at one lesson in its course; its findings bear its name, and its docstring is what it demands. Rules
about pages look at written lessons only, so that a plan can be recorded before its page is there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

from alphabar.course.page import Page
from alphabar.course.prose import leaked, spoken, typed_numbers
from alphabar.course.record import DEPTHS, LEVELS, Course, Entry

Severity = Literal["critical", "improvement", "polish"]
SEVERITIES: tuple[Severity, ...] = ("critical", "improvement", "polish")
"""The learner is lost or misled; the lesson would be clearly better; a detail."""

MAX_NEW = 3
MAX_UNUSED = 8
MIN_MODALITIES, MIN_POSITIVE, MIN_NEGATIVE, MIN_MISCONCEPTIONS = 3, 2, 1, 3


@dataclass(frozen=True)
class Finding:
    """One thing to mend."""

    severity: Severity
    file: Path
    line: int
    rule: str
    says: str
    fix: str


Found = Iterator[tuple[Severity, tuple[Path, int], str, str]]
"""(severity, (file, line), what is wrong, what mends it)"""


def audit(course: Course) -> list[Finding]:
    """All findings, the gravest first, then by file and line."""
    found = [
        Finding(severity, file, line, rule.__name__.replace("_", "-"), says, fix)
        for rule in RULES
        for entry in course.entries
        for severity, (file, line), says, fix in rule(course, entry)
    ]
    return sorted(found, key=lambda f: (SEVERITIES.index(f.severity), f.file, f.line, f.rule, f.says))


def count(findings: list[Finding]) -> dict[Severity, int]:
    """How many there are of each severity."""
    found = Counter(finding.severity for finding in findings)
    return {severity: found[severity] for severity in SEVERITIES}


def verdict(findings: list[Finding]) -> str:
    """PASS with polish at the most, NEEDS REVISION with improvements, MAJOR REVISION with anything critical."""
    counts = count(findings)
    return "MAJOR REVISION" if counts["critical"] else "NEEDS REVISION" if counts["improvement"] else "PASS"


# what a lesson stands on


def prerequisite(course: Course, entry: Entry) -> Found:
    """What a lesson needs is taught in an earlier one, at the depth needed."""
    for need in entry.lesson.needs:
        where, earlier = entry.at("needs", f'"{need.concept}"'), course.before(need.concept, entry.lesson)
        if earlier:
            lesson, best = max(earlier, key=lambda pair: DEPTHS.index(pair[1].depth))
            if best.depth in DEPTHS[: DEPTHS.index(need.depth)]:
                says = f"{need.concept} must be {need.depth} by now; {lesson.id} leaves it {best.depth}"
                yield "critical", where, says, f"deepen it before {entry.lesson.id}, or lean on it less"
        elif need.concept in course.taught:
            first = course.taught[need.concept][0][0].id
            yield "critical", where, f"{need.concept} is needed here and taught only in {first}", "teach it earlier"


def untaught(course: Course, entry: Entry) -> Found:
    """Nothing is assumed that no lesson has taught: in the record, and in the page by role or by term."""
    lesson, page = entry.lesson, entry.live
    for need in lesson.needs:
        if need.concept not in course.taught:
            says, fix = f"{need.concept} is needed and no lesson teaches it", "teach it, or correct the id"
            yield "critical", entry.at("needs", f'"{need.concept}"'), says, fix
    if not page:
        return
    allowed = {concept.id for concept in lesson.concepts} | {later.concept for later in lesson.deferred}
    declared = allowed | {need.concept for need in lesson.needs}
    for mark in page.marks:
        if mark.kind == "concept" and mark.id not in declared:
            says = f"the page leans on {mark.id}, which the lesson neither teaches nor needs"
            yield "critical", (page.file, mark.line), says, "add it to needs or to deferred, or leave it out"
    for name, ((first, concept), *_) in course.taught.items():
        for term in concept.terms if first.order > lesson.order and name not in allowed else ():
            if line := spoken(page, term):
                says = f"{term!r} is used here; {name} is taught only in {first.id}"
                yield "critical", (page.file, line), says, "say it without the term, or defer it by name"


def fading(course: Course, entry: Entry) -> Found:
    """A concept that more than eight lessons left unused is brought back in a recap before it is leant on."""
    earlier = [other.lesson for other in course.entries if other.lesson.order < entry.lesson.order]
    for need in entry.lesson.needs:
        used = [lesson.order for lesson in earlier if need.concept in lesson.uses]
        unused = entry.lesson.order - max(used, default=entry.lesson.order) - 1
        if unused > MAX_UNUSED and not need.recap:
            says = f"{need.concept} was not used for {unused} lessons and is fading"
            fix = "bring it back in a section and name that as the need's recap"
            yield "improvement", entry.at("needs", f'"{need.concept}"'), says, fix


# how much a lesson asks


def new_concepts(course: Course, entry: Entry) -> Found:
    """At most three new concepts a lesson, none in a consolidating one."""
    lesson, new = entry.lesson, course.new(entry.lesson)
    counted = [concept.id for concept in new if not concept.counts_with]
    limit = 0 if lesson.load == "consolidate" else MAX_NEW
    if len(counted) > limit:
        says = f"{len(counted)} new concepts, where a lesson to {lesson.load} takes {limit}: {', '.join(counted)}"
        yield "critical", entry.at("concepts", f'"{counted[limit]}"'), says, "move some to another lesson"
    for concept in new:
        for carrier in concept.counts_with:
            if carrier not in counted and not course.before(carrier, lesson):
                says = f"{concept.id} counts with {carrier}, which is neither known nor counted as new here"
                fix = "count it as new, or with a concept that is"
                yield "critical", entry.at("concepts", f'"{concept.id}"'), says, fix


def stretching(course: Course, entry: Entry) -> Found:
    """No two stretching lessons in a row."""
    stretched = {other.lesson.order: other.lesson.id for other in course.entries if other.lesson.load == "stretch"}
    before = stretched.get(entry.lesson.order - 1)
    if before and entry.lesson.order in stretched:
        says = f"{entry.lesson.id} stretches right after {before}"
        yield "improvement", entry.at("load"), says, "put a lesson between that builds or consolidates"


def variety(course: Course, entry: Entry) -> Found:
    """At least three modalities, two positive examples and a negative one, three misconceptions, a check."""
    lesson = entry.lesson
    kinds = Counter(example.kind for example in lesson.examples)
    wanted = [
        ("modalities", "kinds of modality", len({m.kind for m in lesson.modalities}), MIN_MODALITIES),
        ("examples", "positive examples", kinds["positive"], MIN_POSITIVE),
        ("examples", "negative examples", kinds["negative"], MIN_NEGATIVE),
        ("misconceptions", "misconceptions", len(lesson.misconceptions), MIN_MISCONCEPTIONS),
        ("checks", "checks", len(lesson.checks), 1),
    ]
    for key, what, has, least in wanted if lesson.sections else ():
        if has < least:
            yield "improvement", entry.at(key), f"{lesson.id} has {has} {what}, and needs {least}", "plan the rest"


def deferred(course: Course, entry: Entry) -> Found:
    """What is put off is picked up by the lesson or module named, or that one is not yet written."""
    modules = {module.id for module in course.modules}
    for later in entry.lesson.deferred:
        named = [e.lesson for e in course.entries if later.to in (e.lesson.id, e.lesson.module)]
        kept = later.concept in {concept.id for lesson in named for concept in lesson.concepts}
        wrong = ""
        if not named and later.to not in modules:
            wrong, fix = "which is no lesson and no module", "name a lesson, or list it in out_of_scope"
        elif named and max(lesson.order for lesson in named) <= entry.lesson.order:
            wrong, fix = "which comes earlier", "name a later lesson"
        elif named and not kept and all(lesson.written for lesson in named):
            wrong, fix = "which is written and does not teach it", "teach it there, and name its concept here"
        if wrong:
            says = f"{later.what!r} is deferred to {later.to}, {wrong}"
            yield "improvement", entry.at("deferred", later.what), says, fix


# what is promised, and where


def place(course: Course, entry: Entry) -> Found:
    """A place is a section of the plan, the page has that section, and its misconceptions and checks stand in it."""
    lesson, page = entry.lesson, entry.live
    sections = {section.id for section in lesson.sections}
    for key, word, named in _places(entry):
        if named not in sections:
            says = f"{key} names the place {named!r}, which is no section of {lesson.id}"
            yield "improvement", entry.at(key, word), says, "name one of its sections"
    if not page:
        return
    for section in lesson.sections:
        if section.id not in page.anchors:
            says = f"the page has no anchor ({section.id})= for the section {section.title!r}"
            yield "improvement", entry.at("sections", f'"{section.id}"'), says, "put the anchor over its heading"
    for kind, items in (("misconception", lesson.misconceptions), ("check", lesson.checks)):
        for item in items:
            line = page.named(kind).get(item.id)
            if line and item.place in page.anchors and not page.anchors[item.place] < line <= page.end(item.place):
                says = f"the {kind} {item.id} stands outside its section {item.place}"
                yield "improvement", (page.file, line), says, "move it, or correct its place in the record"


def _places(entry: Entry) -> Iterator[tuple[str, str, str]]:
    """(key, a word on its line, the section it names)"""
    lesson = entry.lesson
    yield from (("misconceptions", f'"{item.id}"', item.place) for item in lesson.misconceptions)
    yield from (("examples", item.shows, item.place) for item in lesson.examples)
    yield from (("modalities", item.what, item.place) for item in lesson.modalities)
    yield from (("needs", f'"{item.concept}"', item.recap) for item in lesson.needs if item.recap)
    for item in lesson.checks:
        yield from (("checks", f'"{item.id}"', named) for named in (item.place, *item.earned_by))


def promise(course: Course, entry: Entry) -> Found:
    """Every analogy, widget, notebook, check and misconception of the record is in the page, and the reverse."""
    lesson, page = entry.lesson, entry.live
    if not page:
        return
    named = {
        "analogy": ("analogies", [item.id for item in lesson.analogies]),
        "misconception": ("misconceptions", [item.id for item in lesson.misconceptions]),
        "widget": ("widgets", list(lesson.widgets)),
        "notebook": ("notebooks", [item.id for item in lesson.notebooks]),
        "check": ("checks", [item.id for item in lesson.checks]),
    }
    for kind, (key, ids) in named.items():
        there = page.named(kind)
        for name in ids:
            if name not in there:
                says = f"the record names the {kind} {name}, which is not in the page"
                yield "critical", entry.at(key, f'"{name}"'), says, f"add {{{kind}}} {name}, or drop it here"
        for name, line in there.items():
            if name not in ids:
                says = f"the {kind} {name} is in the page and not in the record"
                yield "improvement", (page.file, line), says, f"add it to {key} in {entry.file.name}"
    for name in named["notebook"][1]:
        if name not in entry.notebooks:
            says = f"the notebook {name} has no source"
            yield "critical", entry.at("notebooks", f'"{name}"'), says, f"write notebooks/{name}.md"


def written(course: Course, entry: Entry) -> Found:
    """A written lesson has its page, every fence in it is closed, and a page belongs to a written lesson."""
    lesson, page = entry.lesson, entry.page
    if lesson.written and page is None:
        says, fix = f"{lesson.id} is marked as written and has no page", f"write {entry.file.with_suffix('.md').name}"
        yield "critical", entry.at("written"), says, fix
    if page and not lesson.written:
        says = f"{lesson.id} has a page and is marked as not yet written, so that no rule looks at it"
        yield "improvement", (page.file, 1), says, f"set written = true in {entry.file.name}"
    for source in entry.sources:
        if source.unclosed:
            says = "a fence opens here and is never closed, so that what follows is not seen"
            yield "critical", (source.file, source.unclosed), says, "close it with as many marks"


def outline(course: Course, entry: Entry) -> Found:
    """The page's title and the order of its sections are the record's."""
    lesson, page = entry.lesson, entry.live
    if not page:
        return
    line, _, title = page.headings[0] if page.headings else (1, 1, "")
    if title != lesson.title:
        says = f"the page is called {title!r} and the record {lesson.title!r}"
        yield "polish", (page.file, line), says, "let both say the same"
    for one, other in pairwise(section.id for section in lesson.sections if section.id in page.anchors):
        if page.anchors[other] < page.anchors[one]:
            says = f"the section {other} stands before {one}, which the record puts first"
            yield "polish", (page.file, page.anchors[other]), says, "let both have one order"


# checks, exercises and numbers


def check_order(course: Course, entry: Entry) -> Found:
    """A check stands after every section that earns it."""
    order, page = [section.id for section in entry.lesson.sections], entry.live
    for asked in entry.lesson.checks:
        line = page.named("check").get(asked.id) if page else None
        for earning in asked.earned_by:
            if page and line and earning in page.anchors:
                early, where = line < page.anchors[earning], (page.file, line)
            else:
                known = earning in order and asked.place in order
                early = known and order.index(asked.place) < order.index(earning)
                where = entry.at("checks", f'"{asked.id}"')
            if early:
                says = f"the check {asked.id} stands before the section {earning}, which earns its answer"
                yield "improvement", where, says, "move the check behind it"


def scaffolding(course: Course, entry: Entry) -> Found:
    """Exercises lean on less and less: guided, supported, independent, and never back; each says its level."""
    for book in entry.lesson.notebooks:
        planned = {item.id: item.level for item in book.exercises}
        yield from _never_back([(name, planned[name], entry.at("notebooks", f'"{name}"')) for name in planned])
        source = entry.notebooks.get(book.id) if entry.lesson.written else None
        if source:
            levels = {name: level for name, level, _ in _levels(source)}
            for name in planned.keys() - levels.keys():
                says = f"the exercise {name} is in the record and not in the notebook"
                yield "improvement", entry.at("notebooks", f'"{name}"'), says, "write it, or drop it here"
            for name, level, where in _levels(source):
                if level != planned.get(name):
                    says = f"the exercise {name} is {level} here and {planned.get(name, 'absent')} in the record"
                    yield "improvement", where, says, "let both say the same"
    for page in entry.sources:
        for name, level, where in _levels(page):
            if level not in LEVELS:
                yield "improvement", where, f"the exercise {name} has no level", f"add :level: {' | '.join(LEVELS)}"
        yield from _never_back([item for item in _levels(page) if item[1] in LEVELS])


def _levels(page: Page) -> list[tuple[str, str, tuple[Path, int]]]:
    exercises = [block for block in page.blocks if block.name == "exercise"]
    return [(one.argument, one.options.get("level", "of no level"), (page.file, one.line)) for one in exercises]


def _never_back(levels: Sequence[tuple[str, str, tuple[Path, int]]]) -> Found:
    for (_, before, _), (name, level, where) in pairwise(levels):
        if level in LEVELS[: LEVELS.index(before)]:
            says = f"{name} is {level} after an exercise that was {before}"
            yield "improvement", where, says, "reorder the exercises, or take help away"


def leak(course: Course, entry: Entry) -> Found:
    """The text of an Independent exercise holds no identifier that only its solution uses."""
    for page in entry.sources:
        for name, level, _ in _levels(page):
            for line, word in leaked(page, name) if level == "independent" else ():
                says = f"the independent exercise {name} gives away {word}, which only its solution uses"
                yield "improvement", (page.file, line), says, "say what is to be done, not with which name"


def typed_number(course: Course, entry: Entry) -> Found:
    """Numbers in prose come from the library: none is typed by hand that it could compute."""
    for page in entry.sources:
        for line, number in typed_numbers(page):
            fix = "compute it with {compute}`expression`, or mark a chosen one with {given}`number`"
            yield "improvement", (page.file, line), f"{number} is typed by hand", fix


RULES: tuple[Callable[[Course, Entry], Found], ...] = (
    prerequisite,
    untaught,
    fading,
    new_concepts,
    stretching,
    variety,
    deferred,
    place,
    promise,
    written,
    outline,
    check_order,
    scaffolding,
    leak,
    typed_number,
)
