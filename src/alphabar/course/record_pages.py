"""A module's record as Markdown, made from the records of its lessons."""

from __future__ import annotations

from collections.abc import Iterable

from alphabar.course.record import Concept, Course, Lesson
from alphabar.errors import AlphabarError, nearest


def module_record(course: Course, module: str) -> str:
    """The concept index and each lesson's summary.

    Raises:
        AlphabarError: no lesson has that module; it names those there are.
    """
    lessons = [entry.lesson for entry in course.entries if entry.lesson.module == module]
    if not lessons:
        raise AlphabarError(
            f"no lesson is in module {module}{nearest(module, {e.lesson.module for e in course.entries})}"
        )
    facts = next((one for one in course.modules if one.id == module), None)
    out = [f"# Module {module}{f': {facts.title}' if facts else ''}", ""]
    out += [facts.goal, ""] if facts and facts.goal else []
    out += [f"{sum(lesson.written for lesson in lessons)} of {len(lessons)} lessons written.", "", "## Concepts", ""]
    rows: list[tuple[str, ...]] = [
        (concept.id, concept.depth, lesson.id, _load(course, lesson, concept), concept.taught)
        for lesson in lessons
        for concept in lesson.concepts
    ]
    out += _table(("concept", "depth", "lesson", "load", "how it is taught"), rows)
    for lesson in lessons:
        out += ["", *_lesson(course, lesson)]
    return "\n".join(out) + "\n"


def _lesson(course: Course, lesson: Lesson) -> Iterable[str]:
    state = "written" if lesson.written else "not yet written"
    yield from (f"## {lesson.id} {lesson.title}", "", f"Load: {lesson.load}. {state.capitalize()}.")
    needs = [f"{need.concept} ({need.depth}; {_source(course, need.concept, lesson)})" for need in lesson.needs]
    parts: list[tuple[str, Iterable[str]]] = [
        ("Needs", needs),
        ("Mental models", lesson.mental_models),
        ("Analogies", (item.says for item in lesson.analogies)),
        ("Misconceptions", (f"{m.says} Disproved by: {m.disproved_by} ({m.place})" for m in lesson.misconceptions)),
        ("Examples", (f"{item.kind}: {item.shows} ({item.place})" for item in lesson.examples)),
        ("Modalities", (f"{item.kind}: {item.what} ({item.place})" for item in lesson.modalities)),
        ("Checks", (f"{c.asks} (earned by {', '.join(c.earned_by)})" for c in lesson.checks)),
        ("Scope", lesson.scope),
        ("Deferred", (f"{item.what} → {item.to}" for item in lesson.deferred)),
        ("Out of scope", lesson.out_of_scope),
        ("Widgets", lesson.widgets),
        (
            "Notebooks",
            (f"{b.id}: {', '.join(f'{e.title} ({e.level})' for e in b.exercises)}" for b in lesson.notebooks),
        ),
        ("Corrections to the seed", (f"{item.seed} Right: {item.right}" for item in lesson.corrections)),
    ]
    for title, items in parts:
        if listed := [f"- {item}" for item in items]:
            yield from ("", f"### {title}", "", *listed)


def _load(course: Course, lesson: Lesson, concept: Concept) -> str:
    if concept not in course.new(lesson):
        return ""
    return f"with {', '.join(concept.counts_with)}" if concept.counts_with else "new"


def _source(course: Course, concept: str, lesson: Lesson) -> str:
    earlier = course.before(concept, lesson)
    return f"from {earlier[-1][0].id}" if earlier else "untaught"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    lines = [head, tuple("---" for _ in head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines]
