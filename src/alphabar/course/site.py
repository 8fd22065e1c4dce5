"""The course as a site: pages from Sphinx, with all that they need beside them, so that they ask no other machine."""

from __future__ import annotations

import importlib.util
import io
import re
import shutil
import tempfile
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from alphabar.course.record import Course, Entry, Module, load
from alphabar.course.record_pages import module_record
from alphabar.errors import AlphabarError
from alphabar.io import atomic_folder

STATIC = Path(__file__).parent / "static"
MARK = ".alphabar-course"
"""A file that says that a folder is a built site, which the next build may replace."""
WORKBENCH = "workbench.md"
"""The page of all widgets, in the course's folder."""
LOADS = {"build": "new ideas on known ground", "stretch": "the hard ones", "consolidate": "known parts, joined"}


def build(course: Path, out: Path) -> None:
    """Build the site of a course folder into `out`; it is replaced only when all went well.

    Raises:
        AlphabarError: a package is missing, `out` holds something else, a record is wrong, or, one a line, all that
            Sphinx warns of, each with file and line.
    """
    _require()
    from alphabar.course.notebooks import build_all
    from alphabar.course.widgets import page_data  # not at the head: with torch behind it

    lessons = course / "lessons"
    read = load(lessons)
    if out.exists() and not (out.is_dir() and ((out / MARK).exists() or not any(out.iterdir()))):
        raise AlphabarError(f"{out}: there already and not a course's site; name another folder with --out")
    with atomic_folder(out) as new, tempfile.TemporaryDirectory() as scratch:
        if (course / "notebooks").is_dir():
            build_all(course / "notebooks", new / "notebooks")  # first: it is quick to find fault
        stage = Path(scratch) / "pages"
        _stage(read, course / WORKBENCH, stage)
        warnings = _sphinx(read, lessons, stage, new)
        if warnings:
            count = f"{len(warnings)} warnings" if len(warnings) > 1 else "a warning"
            raise AlphabarError(f"{count} in the course's pages\n  " + "\n  ".join(warnings))
        _mathjax(new / "_static" / "mathjax")
        page_data(new / "_static")
        (new / MARK).write_text("made by: alphabar course build\n", encoding="utf-8")


def _require() -> None:
    for name in ("sphinx", "myst_parser", "sphinx_book_theme", "sphinx-mathjax-offline", "matplotlib"):
        if importlib.util.find_spec(name) is None:
            raise AlphabarError(f"the course's pages need the package {name}: pip install 'alphabar[course]'")


def _stage(course: Course, workbench: Path, stage: Path) -> None:
    """The lessons' pages, the one with all widgets, and those that are made from the records."""
    stage.mkdir()
    if workbench.exists():
        shutil.copy(workbench, stage)
    for entry in course.entries:
        if entry.live:
            shutil.copy(entry.live.file, stage / entry.live.file.name)
    for module in course.modules:
        if any(entry.lesson.module == module.id for entry in course.entries):
            record = re.sub(
                r"^## (\d\S*)", r"(lesson-\1)=\n## \1", module_record(course, module.id), flags=re.MULTILINE
            )
            text = f"---\nnosearch: true\norphan: true\n---\n{record}"
            (stage / f"module-{module.id}.md").write_text(text, encoding="utf-8")
    (stage / "index.md").write_text(home(course, workbench.exists()), encoding="utf-8")


def _sphinx(course: Course, lessons: Path, stage: Path, out: Path) -> list[str]:
    """Run Sphinx; returns its warnings, each with the file as its author knows it."""
    from sphinx.application import Sphinx
    from sphinx.errors import SphinxError
    from sphinx.util.docutils import docutils_namespace

    said = io.StringIO()
    try:
        with docutils_namespace():  # else a second build in this process would find its directives registered
            Sphinx(
                srcdir=stage,
                confdir=None,
                outdir=out,
                doctreedir=stage.parent / "doctrees",
                buildername="html",
                confoverrides=_settings(course, lessons),
                status=None,
                warning=said,
                freshenv=True,
            ).build()
    except SphinxError as error:
        said.write(f"{error}\n")
    for left in (".buildinfo", "objects.inv"):
        (out / left).unlink(missing_ok=True)
    plain = re.sub(r"\x1b\[[\d;]*m", "", said.getvalue()).replace(str(stage), str(lessons))
    return [line for line in plain.splitlines() if line.strip()]


def _settings(course: Course, lessons: Path) -> dict[str, Any]:
    return {
        "project": "alphabar",
        "author": "alphabar",
        "language": "en",
        "extensions": ["myst_parser", "sphinx.ext.mathjax", "alphabar.course.extension"],
        "alphabar_course": course,
        "alphabar_lessons": str(lessons),
        "myst_enable_extensions": ["amsmath", "attrs_block", "attrs_inline", "colon_fence", "deflist", "dollarmath"],
        "mathjax_path": "mathjax/tex-mml-chtml.js",
        "mathjax3_config": {"options": {"enableMenu": False}},  # its menu asks for files that do not come along
        "html_theme": "sphinx_book_theme",
        "html_title": "alphabar",
        "html_favicon": str(STATIC / "favicon.svg"),
        "html_static_path": [str(STATIC / name) for name in ("site.css", "site.js")],
        "html_css_files": ["site.css"],
        "html_js_files": [("site.js", {"type": "module"})],
        "html_context": {"default_mode": "auto"},
        "html_copy_source": False,
        "html_show_sourcelink": False,
        "html_theme_options": {
            "home_page_in_toc": True,
            "use_download_button": False,
            "use_fullscreen_button": False,
            "navbar_persistent": [],
            "footer_content_items": [],
            "search_bar_text": "Search the course",
            "show_navbar_depth": 2,
            "show_toc_level": 1,
            "toc_title": "On this page",
            "logo": {"text": "alphabar"},
            "back_to_top_button": False,
            "pygments_light_style": "github-light-high-contrast",
            "pygments_dark_style": "github-dark",
        },
    }


def _mathjax(to: Path) -> None:
    """One bundle and its fonts, 1.6 of the package's 15 MB."""
    spec = importlib.util.find_spec("sphinx-mathjax-offline")
    assert spec
    assert spec.submodule_search_locations
    source = Path(spec.submodule_search_locations[0]) / "static" / "mathjax"
    fonts = Path("output/chtml/fonts/woff-v2")
    shutil.copytree(source / fonts, to / fonts)
    shutil.copy(source / "tex-mml-chtml.js", to)


def home(course: Course, workbench: bool = False) -> str:
    """The first page: what the course is, its modules and lessons, which of them are written, and the workbench."""
    modules = {module.id for module in course.modules}
    lessons = [entry for entry in course.entries if entry.lesson.module in modules]
    written = sum(entry.lesson.written for entry in lessons)
    parts = [
        "# Diffusion, from one pixel to latents",
        "",
        "{.lead}",
        "This course explains diffusion models by running one: the denoiser in these pages is trained, and every "
        "number is computed by the library that the pages describe. It is written for engineers who have trained a "
        "network and want to know, line by line, how noise becomes an image and what changes when it happens in "
        "latents.",
        "",
        "```{widget} noise-strip\n```",
        "",
        *(
            (f"On the [workbench]({WORKBENCH}) the same denoiser makes images while you watch.", "")
            if workbench
            else ()
        ),
        f"Written so far: {written} of {len(lessons)} lessons. The modules' records plan the others.",
        "",
        *(line for module in course.modules for line in _module(course, module)),
        "## How a lesson is marked",
        "",
        *(f"{name}\n: {says}\n" for name, says in LOADS.items()),
        *_contents(course),
        *((f"```{{toctree}}\n:hidden:\n:caption: To play with\n\n{WORKBENCH}\n```",) if workbench else ()),
    ]
    return "\n".join(parts) + "\n"


def _module(course: Course, module: Module) -> Iterator[str]:
    entries = [entry for entry in course.entries if entry.lesson.module == module.id]
    yield from (f"## {module.id} {module.title}", "", module.goal, "")
    if entries:
        rows = "".join(_row(entry) for entry in entries)
        yield from (
            f'<ul class="lessons">{rows}</ul>',
            "",
            f"[Record of module {module.id}](module-{module.id}.md)",
            "",
        )
    else:
        yield from ("No lesson of it is recorded yet.", "")


def _row(entry: Entry) -> str:
    lesson = entry.lesson
    number, name = f'<span class="number">{lesson.id}</span>', f'<span class="name">{escape(lesson.title)}</span>'
    facts = f'<span class="load {lesson.load}">{lesson.load}</span>'
    if entry.live:
        sections = " ".join(section.id for section in lesson.sections)
        progress = f'<span class="lesson-progress" data-lesson="{lesson.id}" data-sections="{sections}"></span>'
        return f'<li class="written"><a href="{entry.file.stem}.html">{number} {name}</a>{progress}{facts}</li>'
    return f'<li class="planned"><span>{number} {name}</span><span class="state">planned</span>{facts}</li>'


def _contents(course: Course) -> Iterator[str]:
    """The side bar's lists."""
    for module in course.modules:
        pages = [e.file.stem for e in course.entries if e.live and e.lesson.module == module.id]
        if pages:
            yield from (f"```{{toctree}}\n:hidden:\n:caption: {module.id} {module.title}\n", *pages, "```", "")
