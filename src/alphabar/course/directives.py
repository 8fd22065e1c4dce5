"""The course's own directives: what stands in a page as a block."""

from __future__ import annotations

import json
from collections.abc import Callable
from html import escape
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective

from alphabar.course import values
from alphabar.course.page import CALLOUTS
from alphabar.course.place import Here
from alphabar.errors import AlphabarError

LEVEL_SAYS = {
    "guided": "Guided: the code is whole; say what it will do, then run it.",
    "supported": "Supported: a frame with blanks.",
    "independent": "Independent: the task alone.",
}


class Html(nodes.General, nodes.Element):
    """Children between two pieces of HTML, `open` and `close`."""


def html(open_tag: str, close_tag: str = "", *children: nodes.Node) -> Html:
    """A node of that kind."""
    return Html("", *children, open=open_tag, close=close_tag)


class Block(SphinxDirective):
    """A directive of the course; a fault in it becomes a warning that names file and line."""

    has_content = True
    optional_arguments = 1
    final_argument_whitespace = True
    what = "a title"
    """What its argument is, where it needs one."""

    def run(self) -> list[nodes.Node]:
        try:
            if self.required_arguments and not self.arguments:
                raise AlphabarError(f"{{{self.name}}} needs {self.what}")
            return self.made(Here(self.env))
        except AlphabarError as error:
            return [self.state.document.reporter.warning(str(error), line=self.lineno)]

    def made(self, here: Here) -> list[nodes.Node]:
        """The nodes that it stands for."""
        raise NotImplementedError

    @property
    def argument(self) -> str:
        """Its argument, or nothing."""
        return self.arguments[0].strip() if self.arguments else ""

    def body(self) -> list[nodes.Node]:
        """Its body as nodes."""
        return self.parse_content_to_nodes(allow_section_headings=True)

    def inline(self, text: str) -> list[nodes.Node]:
        """A line of Markdown as nodes."""
        return self.parse_inline(text, lineno=self.lineno)[0]

    def named(self, element: nodes.Element) -> nodes.Element:
        """The element with file and line, for warnings about it."""
        self.set_source_info(element)
        return element


class Callout(Block):
    """`{warning}`, `{insight}` and others: a title, which may be given, over a body."""

    titles: ClassVar[dict[str, str]] = {**CALLOUTS, "predict": "Before you run it"}

    def made(self, here: Here) -> list[nodes.Node]:
        return [callout(self.name, self.inline(self.argument or self.titles[self.name]), self.body())]


class Told(Block):
    """`{analogy}`, `{misconception}`: the record's own, told here; a misconception's title quotes the wrong belief."""

    what = "the id that it has in the record"
    required_arguments, optional_arguments = 1, 0

    def made(self, here: Here) -> list[nodes.Node]:
        mark = f' id="{self.name}-{self.argument}"'
        if self.name == "analogy":
            here.find("analogies", self.argument)
            return [callout("analogy", [nodes.Text("Analogy")], self.body(), mark)]
        belief = self.inline(here.find("misconceptions", self.argument).says)
        said = [html('<span class="not-so">Not so:</span> '), nodes.Text("“"), *belief, nodes.Text("”")]
        return [callout("misconception", said, self.body(), mark)]


def callout(kind: str, title: list[nodes.Node], body: list[nodes.Node], mark: str = "") -> Html:
    """A note beside the text; not an `aside`, which would be a landmark in the middle of the page."""
    head = html('<p class="callout-title">', "</p>", *title)
    return html(f'<div class="callout {kind}" role="note"{mark}>', "</div>", head, *body)


class Compare(Block):
    """`{compare}`: blocks side by side, each a `{side} Title`."""

    optional_arguments = 0

    def made(self, here: Here) -> list[nodes.Node]:
        body = self.body()
        if len([node for node in body if isinstance(node, Html)]) != len(body) or len(body) < 2:
            raise AlphabarError("{compare} holds two or more {side} blocks and nothing else")
        return [html('<div class="compare">', "</div>", *body)]


class Card(Block):
    """`{side}`, `{phase}`: a card under a title."""

    required_arguments, optional_arguments = 1, 0

    def made(self, here: Here) -> list[nodes.Node]:
        title = html(f'<p class="{self.name}-title">', "</p>", *self.inline(self.argument))
        return [html(f'<div class="{self.name}">', "</div>", title, *self.body())]


class Check(Block):
    """`{check} id`: the record's question; the body is the answer, and is unlocked by a guess."""

    what = "the id that it has in the record"
    required_arguments, optional_arguments = 1, 0

    def made(self, here: Here) -> list[nodes.Node]:
        name = self.argument
        question = html('<p class="check-question">', "</p>", *self.inline(here.find("checks", name).asks))
        said = f'id="guess-{name}" rows="3" aria-describedby="question-{name}"'
        guess = (
            f'<div class="check-guess" hidden><label for="guess-{name}">Your answer, before you look</label>'
            f"<textarea {said}></textarea>"
            '<p class="check-actions"><button type="button" class="check-show" disabled>Show the answer</button>'
            '<button type="button" class="check-aloud">I have said it aloud</button></p></div>'
        )
        label = f'<p class="card-label" id="question-{name}">Check</p>'
        answer = html('<details class="check-answer"><summary>Answer</summary>', "</details>", *self.body())
        block = html(f'<div class="check" id="check-{name}" data-check="{name}">', "</div>")
        block += [html(label), question, html(guess), answer]
        return [block]


class Exercise(Block):
    """`{exercise} id`: text and cells of an exercise; `:level:` is guided, supported or independent."""

    what = "its id"
    required_arguments, optional_arguments = 1, 0
    option_spec: ClassVar[dict[str, Callable[[str], Any]]] = {"level": directives.unchanged_required}

    def made(self, here: Here) -> list[nodes.Node]:
        level = self.options.get("level", "")
        if level not in LEVEL_SAYS:
            raise AlphabarError(f"the exercise {self.argument} needs :level: {', '.join(LEVEL_SAYS)}; it has {level!r}")
        listed = {one.id: one.title for book in here.lesson.notebooks for one in book.exercises}
        title = listed.get(self.argument, self.argument.replace("-", " ").capitalize())
        label = f'<p class="card-label">Exercise <span class="level" title="{LEVEL_SAYS[level]}">{level}</span></p>'
        head = html('<p class="exercise-title">', "</p>", *self.inline(title))
        block = html(
            f'<div class="exercise {level}" id="exercise-{escape(self.argument)}">', "</div>", html(label), head
        )
        block += self.body()
        return [block]


class Solution(Block):
    """`{solution} id`: folded."""

    def made(self, here: Here) -> list[nodes.Node]:
        return [html('<details class="solution"><summary>Solution</summary>', "</details>", *self.body())]


class Notebook(Block):
    """`{notebook} id`: a card that links the student's copy, the solution and Colab."""

    what = "the id that it has in the record"
    required_arguments, optional_arguments = 1, 0

    def made(self, here: Here) -> list[nodes.Node]:
        book = here.find("notebooks", self.argument)
        steps = "".join(
            f'<li><span class="level">{escape(one.level)}</span> {escape(one.title)}</li>' for one in book.exercises
        )
        links = here.notebook_links(book.id)
        if links:
            acts = "".join(f"<a {attributes}>{escape(text)}</a>" for text, attributes in links)
        else:
            acts = "<span>The notebook is not yet written.</span>"
        title = escape(book.id.replace("-", " ").capitalize())
        head = f'<p class="card-label">Notebook</p><p class="exercise-title">{title}</p>'
        return [
            html(
                f'<div class="notebook" id="notebook-{book.id}">{head}',
                f'<ol class="steps">{steps}</ol><p class="links">{acts}</p></div>',
                *self.body(),
            )
        ]


def _json(value: str | None) -> Any:
    try:
        return json.loads(value or "true")
    except json.JSONDecodeError:
        return value


class _Any(dict[str, Callable[[str], Any]]):
    """An option spec that takes every key: the widget knows its own state."""

    def __missing__(self, key: str) -> Callable[[str], Any]:
        return _json


class Widget(Block):
    """`{widget} id`: options are its first state, each a JSON value or a word; the body is its caption."""

    what = "a widget's id"
    required_arguments, optional_arguments = 1, 0
    option_spec: ClassVar[dict[str, Callable[[str], Any]]] = _Any(label=directives.unchanged)

    def made(self, here: Here) -> list[nodes.Node]:
        from alphabar.course.widgets import element

        label = self.options.pop("label", None)
        return [figure("widget-figure", element(self.argument, self.options, label=label), self.body())]


class Drawing(Block):
    """`{drawing} name`: what the function of that name in the page's Python file draws; the body is the caption."""

    what = "the name of a function"
    required_arguments, optional_arguments = 1, 0
    option_spec: ClassVar[dict[str, Callable[[str], Any]]] = {
        "alt": directives.unchanged_required,
        "class": directives.class_option,
    }

    def made(self, here: Here) -> list[nodes.Node]:
        if not self.options.get("alt"):
            raise AlphabarError(f"the drawing {self.argument} needs :alt:, what it shows in words")
        self.env.note_dependency(str(here.python))
        svg = values.draw(self.argument, here.python)
        label = escape(self.options["alt"], quote=True)
        shown = f'<div class="scroll"><div role="img" aria-label="{label}">{svg}</div></div>'
        return [figure(" ".join(["drawing", *self.options.get("class", [])]), shown, self.body())]


class MathComputed(Block):
    """`{math-computed}`: a displayed formula in which `<<expression:format>>` is computed."""

    optional_arguments = 0

    def made(self, here: Here) -> list[nodes.Node]:
        text = values.substitute("\n".join(self.content), here.python)
        block = nodes.math_block(text, text, nowrap=False, number=None, label=None, docname=self.env.docname)
        return [self.named(block)]


class Algorithms(Block):
    """`{algorithms} pixel latent`: the library's own source of both roads, with the lines that differ marked."""

    required_arguments, optional_arguments = 1, 0
    what = "the two roads: pixel latent"

    def made(self, here: Here) -> list[nodes.Node]:
        from alphabar.essence import listings
        from alphabar.report.sections import diff_rows

        roads = self.argument.split()
        if sorted(roads) != ["latent", "pixel"]:
            raise AlphabarError(f"{{algorithms}} takes the two roads, pixel and latent, not {self.argument!r}")
        source = dict(zip(("pixel", "latent"), (text.splitlines() for text in listings()), strict=True))
        rows = diff_rows(source[roads[0]], source[roads[1]])
        heads = "".join(f'<th class="{road}" scope="col">{road.capitalize()} diffusion</th>' for road in roads)
        body = "".join(_code_row(row, roads) for row in rows)
        table = f'<table class="listings highlight"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'
        return [figure("algorithms", table, self.body())]


def _code_row(row: tuple[str | None, str | None], roads: list[str]) -> str:
    """A line of both listings; what is the same in both is read out once."""
    left, right = (_code(line or "") for line in row)
    if row[0] == row[1]:
        kind = "same" if (row[0] or "").strip() else "same empty"
        return f'<tr class="{kind}"><td>{left}</td><td aria-hidden="true">{right}</td></tr>'
    first, other = roads
    return f'<tr class="differs"><td data-road="{first}">{left}</td><td data-road="{other}">{right}</td></tr>'


def _code(line: str) -> str:
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    indent = len(line) - len(line.lstrip())
    code = highlight(line.strip(), PythonLexer(), HtmlFormatter(nowrap=True)).strip("\n")
    return f'<pre style="--indent: {indent}">{code}</pre>'


def figure(kind: str, content: str, caption: list[nodes.Node]) -> nodes.Node:
    """A figure of ready HTML over a caption of nodes."""
    under = [html("<figcaption>", "</figcaption>", *caption)] if caption else []
    return html(f'<figure class="{kind}">{content}', "</figure>", *under)


DIRECTIVES: dict[str, type[Block]] = {
    **dict.fromkeys(Callout.titles, Callout),
    "analogy": Told,
    "misconception": Told,
    "compare": Compare,
    "side": Card,
    "phase": Card,
    "check": Check,
    "exercise": Exercise,
    "solution": Solution,
    "notebook": Notebook,
    "widget": Widget,
    "drawing": Drawing,
    "math-computed": MathComputed,
    "algorithms": Algorithms,
}
