"""The Sphinx extension of the course: roles, what is added to each lesson's page, and how our nodes become HTML."""

from __future__ import annotations

import re
from html import escape
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxRole
from sphinx.writers.html5 import HTML5Translator

from alphabar.course import values
from alphabar.course.directives import DIRECTIVES, Html, html
from alphabar.course.place import Here
from alphabar.course.record import Course, Entry
from alphabar.errors import AlphabarError

logger = logging.getLogger(__name__)
_TITLED = re.compile(r"(.+?)\s*<([^<>]+)>$", re.DOTALL)


class Role(SphinxRole):
    """A role of the course; a fault in it becomes a warning that names file and line."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        try:
            return self.made(Here(self.env)), []
        except AlphabarError as error:
            logger.warning(str(error), location=self.get_location())
            return [nodes.literal("", self.text)], []

    def made(self, here: Here) -> list[nodes.Node]:
        """The nodes that it stands for."""
        raise NotImplementedError

    def titled(self) -> tuple[str, str]:
        """(text, id) of `text <id>`, and no text for `id`."""
        found = _TITLED.match(self.text)
        return (found[1], found[2]) if found else ("", self.text)


class Compute(Role):
    """``{compute}`expression:format` ``: a number from the library; the expression shows on hover."""

    def made(self, here: Here) -> list[nodes.Node]:
        shown = values.evaluate(self.text, here.python)
        return [html(f'<span class="computed" title="{escape(self.text, quote=True)}">', "</span>", nodes.Text(shown))]


class ComputedMath(Role):
    """``{cmath}`x = <<expression:format>>` ``: a formula with computed numbers."""

    def made(self, here: Here) -> list[nodes.Node]:
        formula = values.substitute(self.text, here.python)
        return [nodes.math(formula, formula)]


class Given(Role):
    """``{given}`0.8` ``: a number that was chosen."""

    def made(self, here: Here) -> list[nodes.Node]:
        return [nodes.Text(self.text)]


class Told(Role):
    """``{analogy}`words <id>` ``, ``{misconception}`id` ``: marks the place where the record's own is told."""

    def made(self, here: Here) -> list[nodes.Node]:
        words, name = self.titled()
        here.find({"analogy": "analogies", "misconception": "misconceptions"}[self.name], name)
        return [html(f'<span id="{self.name}-{escape(name)}">', "</span>", nodes.Text(words))]


class Concept(Role):
    """``{concept}`id` ``: a link to where a concept is taught."""

    def made(self, here: Here) -> list[nodes.Node]:
        words, name = self.titled()
        words = words or name.replace("-", " ")
        place = here.taught_at(name)
        if place is None:
            return [html('<span class="concept">', "</span>", nodes.Text(words))]
        address, title = place
        tag, link = ("a", f' href="{address}"') if address else ("span", "")
        return [
            html(f'<{tag} class="concept"{link} title="{escape(title, quote=True)}">', f"</{tag}>", nodes.Text(words))
        ]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register all of it."""
    app.add_config_value("alphabar_course", None, "env", types=[Course])
    app.add_config_value("alphabar_lessons", "", "env", types=[str])
    app.add_node(Html, html=(_open, _close))
    for name, directive in DIRECTIVES.items():
        app.add_directive(name, directive, override=True)  # of docutils' tip and warning
    roles = {"compute": Compute, "cmath": ComputedMath, "given": Given, "analogy": Told, "misconception": Told}
    for name, role in {**roles, "concept": Concept}.items():
        app.add_role(name, role())
    app.connect("doctree-read", add_ticks)
    app.connect("html-page-context", add_head)
    return {"parallel_read_safe": False, "parallel_write_safe": True}


def _open(translator: HTML5Translator, node: Html) -> None:
    translator.body.append(node["open"])


def _close(translator: HTML5Translator, node: Html) -> None:
    translator.body.append(node["close"])


def _entry(app: Sphinx, page: str) -> Entry | None:
    course: Course = app.config.alphabar_course
    return next((entry for entry in course.entries if entry.file.stem == page), None)


def add_ticks(app: Sphinx, doctree: nodes.document) -> None:
    """A box to tick under each section that the record names, and one for the lesson; without JavaScript, none."""
    entry = _entry(app, app.env.docname)
    if not entry:
        return
    listed = {section.id for section in entry.lesson.sections}
    for section in doctree.findall(nodes.section):
        for name in listed & set(section["ids"]):
            section += html(_tick(name, "Done with this section"))
    top = next(iter(doctree.findall(nodes.section)), None)
    if top is not None:
        top += html(_tick("", "Done with this lesson"))


def _tick(section: str, says: str) -> str:
    kind = "tick" if section else "tick whole"
    return f'<p class="{kind}" hidden><label><input type="checkbox" data-tick="{section}"> {says}</label></p>'


def add_head(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Over a lesson's title: where it stands in the course, and what it asks. Before widgets: their style and host."""
    body = context.get("body", "").replace('<th class="head"><p></p></th>', "<td></td>")  # a corner heads nothing
    if 'class="alphabar-widget' in body:
        style = '<link rel="stylesheet" href="_static/widgets/widgets.css">'
        body = f'{style}<script type="module" src="_static/widgets/host.js"></script>{body}'
    if body:
        context["body"] = body
    entry = _entry(app, page)
    if not entry or "body" not in context:
        return
    lesson = entry.lesson
    module = next((one for one in app.config.alphabar_course.modules if one.id == lesson.module), None)
    where = f'<a href="module-{lesson.module}.html">{escape(module.title)}</a>' if module else ""
    context["body"] = (
        f'<p class="eyebrow" data-lesson="{lesson.id}" data-sections="{" ".join(s.id for s in lesson.sections)}">'
        f'<span>Lesson {lesson.id}</span><span>{where}</span><span class="load {lesson.load}">{lesson.load}</span>'
        f"</p>{context['body']}"
    )
