"""Where a directive or role stands: its page, the lesson's record, and what it may link to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sphinx.environment import BuildEnvironment

from alphabar.course.record import Course, Lesson
from alphabar.errors import AlphabarError, nearest


class Here:
    """The page that is being read."""

    def __init__(self, env: BuildEnvironment) -> None:
        self.page: str = env.docname
        self.course: Course = env.config.alphabar_course
        self.lessons = Path(env.config.alphabar_lessons)

    @property
    def python(self) -> Path:
        """The page's own Python file; it need not exist."""
        return self.lessons / f"{self.page}.py"

    @property
    def lesson(self) -> Lesson:
        """The record of the page's lesson.

        Raises:
            AlphabarError: the page belongs to none.
        """
        for entry in self.course.entries:
            if entry.file.stem == self.page:
                return entry.lesson
        raise AlphabarError(f"{self.page} is no lesson's page, and so has no record to look in")

    def find(self, key: str, name: str) -> Any:
        """The item of that id in a list of the lesson's record."""
        items = {item.id: item for item in getattr(self.lesson, key)}
        if name not in items:
            raise AlphabarError(f"{self.page}.toml has no {name!r} in {key}{nearest(name, items)}")
        return items[name]

    def notebook_links(self, name: str) -> list[tuple[str, str]]:
        """(text, attributes) of the links to a notebook's copies; none while it has no source."""
        if not (self.lessons.parent / "notebooks" / f"{name}.md").exists():
            return []
        from alphabar.course.notebooks import colab

        links = [
            ("Download the notebook", f'href="notebooks/student/{name}.ipynb" download'),
            ("Download the solution", f'href="notebooks/solution/{name}.ipynb" download'),
        ]
        address = colab(name)
        return [*links, ("Open in Colab", f'href="{address}" class="outside"')] if address else links

    def taught_at(self, concept: str) -> tuple[str, str] | None:
        """(address, title) of where a concept is first taken beyond a mention; None where that is this page."""
        if concept not in self.course.taught:
            raise AlphabarError(f"no lesson teaches {concept!r}{nearest(concept, self.course.taught)}")
        taught = self.course.taught[concept]
        first = next((lesson for lesson, one in taught if one.depth != "mentioned"), taught[0][0])
        entry = next(entry for entry in self.course.entries if entry.lesson is first)
        title = f"{first.id} {first.title}"
        if entry.file.stem == self.page:
            return None
        if entry.live:
            return f"{entry.file.stem}.html", title
        if first.module in {module.id for module in self.course.modules}:
            return f"module-{first.module}.html#lesson-{first.id}", title
        return "", title
