"""The audit: the real records pass, a clean course gives nothing, and each rule names what breaks it, and where."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from alphabar.cli import main
from alphabar.course.audit import RULES, Finding, audit, verdict
from alphabar.course.page import parse
from alphabar.course.record import Course, load
from alphabar.course.record_pages import module_record
from alphabar.diffusion import NoiseSchedule
from alphabar.errors import AlphabarError

LESSONS = Path(__file__).parents[1] / "course" / "lessons"

FIRST = """\
id = "1.1"
title = "First"
module = "1"
order = 1
load = "build"
concepts = [
  { id = "dot", depth = "introduced", taught = "with a pencil" },
]
"""
SECOND = """\
id = "1.2"
title = "Second"
module = "1"
order = 2
load = "stretch"
written = true
needs = [
  { concept = "dot", depth = "introduced" },
]
sections = [
  { id = "start", title = "Start" },
  { id = "middle", title = "Middle" },
  { id = "end", title = "End" },
]
widgets = ["slider"]
deferred = [
  { what = "planes", to = "1.3", concept = "plane" },
  { what = "all the rest", to = "2" },
]
concepts = [
  { id = "line", depth = "introduced", taught = "many dots" },
  { id = "segment", depth = "developed", taught = "a line that ends", counts_with = ["line"] },
]
analogies = [
  { id = "beads", says = "beads on a string" },
]
misconceptions = [
  { id = "thick", says = "lines are thick", disproved_by = "a magnifier", place = "start" },
  { id = "bent", says = "lines bend", disproved_by = "a ruler", place = "middle" },
  { id = "short", says = "lines end", disproved_by = "a walk", place = "middle" },
]
examples = [
  { kind = "positive", shows = "a ruler", place = "start" },
  { kind = "positive", shows = "a horizon", place = "middle" },
  { kind = "negative", shows = "a circle", place = "middle" },
]
modalities = [
  { kind = "verbal", what = "beads", place = "start" },
  { kind = "visual", what = "a drawing", place = "middle" },
  { kind = "symbolic", what = "an equation", place = "middle" },
]
checks = [
  { id = "why", asks = "why?", place = "end", earned_by = ["start", "middle"] },
]

[[notebooks]]
id = "drawing"
exercises = [
  { id = "dots", title = "Dots", level = "guided" },
  { id = "lines", title = "Lines", level = "independent" },
]
"""
THIRD = """\
id = "1.3"
title = "Third"
module = "1"
order = 3
load = "consolidate"
concepts = [
  { id = "line", depth = "applied", taught = "by hand" },
  { id = "sheet", depth = "developed", taught = "both", counts_with = ["dot", "line"], terms = ["flat sheet", "CLIP"] },
]
"""
PAGE = """\
---
kernelspec: {name: python3}
version: 0.12345
---
# Second

% a remark that nobody sees: 0.05
See module 2.1, lessons 1.1 and 1.2, Stable Diffusion 1.5, `0.25` and [this](https://a.b/1.25).

(start)=
## Start

It is {analogy}`a string of beads <beads>`, as {concept}`dot` says. Planes come later: {concept}`plane`.
{compute}`alpha_bar(499)` is a number, {given}`0.8` another, 28×28 and t = 500 are sizes.

```{misconception} thick
No.
```

(middle)=
## Middle

### Inside the middle

{misconception}`bent` {misconception}`short`

:::{widget} slider
:::

$$\\frac{1}{2} x$$

(end)=
## End

```python
ratio = 0.05
```

````{check} why
Since `x` is.
````

```{notebook} drawing
```
"""
NOTEBOOK = """\
# Drawing

````{exercise} dots
:level: guided

Call `draw_dot`.
```{code-cell} python
draw_dot(1)
```
````

````{exercise} lines
:level: independent

Join all dots with what you know, `draw_dot` included.
```{code-cell} python
# your code
```
````

````{solution} lines
```{code-cell} python
for dot in dots:
    draw_dot(dot)
joined = join_dots(dots, "closed_shape")  # smooth_curve
```
````
"""
MODULES = '[[modules]]\nid = "2"\ntitle = "Later"\n'
R1, R2, R3 = "lessons/1.1-first.toml", "lessons/1.2-second.toml", "lessons/1.3-third.toml"
P, N = "lessons/1.2-second.md", "notebooks/drawing.md"
FILES = {R1: FIRST, R2: SECOND, R3: THIRD, P: PAGE, N: NOTEBOOK, "lessons/modules.toml": MODULES}


def plant(folder: Path, *edits: tuple[str, str, str]) -> Course:
    """A tiny course after (file, old, new): old is replaced; if it is empty the file is written, if it is * removed."""
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    for name, old, new in edits:
        file = folder / name
        if not old:
            file.write_text(new, encoding="utf-8")
        elif old == "*":
            file.unlink()
        else:
            assert file.read_text(encoding="utf-8").count(old) == 1, f"{old!r} in {name}"
            file.write_text(file.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    return load(folder / "lessons")


def test_a_clean_course_gives_no_finding(tmp_path: Path) -> None:
    findings = audit(plant(tmp_path))
    assert findings == []
    assert verdict(findings) == "PASS"


NEED = '{ concept = "dot", depth = "introduced" }'
CASES: list[tuple[str, str, list[tuple[str, str, str]], str, str, str]] = [
    # rule, severity, edits, file, what its line holds, what is said
    ("prerequisite", "critical", [(R2, NEED, NEED.replace("introduced", "applied"))], R2, '"dot"', "must be applied"),
    ("prerequisite", "critical", [(R2, NEED, NEED.replace("dot", "sheet"))], R2, '"sheet"', "only in 1.3"),
    ("untaught", "critical", [(R2, NEED, NEED.replace("dot", "dash"))], R2, '"dash"', "no lesson teaches it"),
    ("untaught", "critical", [(P, "{concept}`dot`", "{concept}`sheet`")], P, "{concept}`sheet`", "leans on sheet"),
    ("untaught", "critical", [(P, "is a number", "is a Flat sheet")], P, "Flat sheet", "taught only in 1.3"),
    ("untaught", "critical", [(P, "is a number", "clips as CLIP does")], P, "CLIP does", "taught only in 1.3"),
    ("fading", "improvement", [(R2, "order = 2", "order = 11"), (R3, "order = 3", "order = 12")], R2, NEED, "for 9"),
    (
        "new-concepts",
        "critical",
        [
            (
                R2,
                "concepts = [\n",
                "concepts = [\n"
                + "".join(f'  {{ id = "c{i}", depth = "introduced", taught = "-" }},\n' for i in range(3)),
            )
        ],
        R2,
        '"line"',
        "4 new concepts",
    ),
    ("new-concepts", "critical", [(R3, ', counts_with = ["dot", "line"]', "")], R3, '"sheet"', "consolidate takes 0"),
    ("new-concepts", "critical", [(R3, '["dot", "line"]', '["cube"]')], R3, '"sheet"', "counts with cube"),
    ("stretching", "improvement", [(R1, '"build"', '"stretch"')], R2, 'load = "stretch"', "right after 1.1"),
    ("variety", "improvement", [(R2, '"symbolic"', '"visual"')], R2, "modalities", "2 kinds of modality"),
    ("variety", "improvement", [(R2, '"negative"', '"positive"')], R2, "examples", "0 negative"),
    ("variety", "improvement", [(R2, '"positive", shows = "a ruler"', '"negative", shows = "-"')], R2, "exam", "1 pos"),
    (
        "variety",
        "improvement",
        [
            (R2, '  { id = "thick", says = "lines are thick", disproved_by = "a magnifier", place = "start" },\n', ""),
            (P, "{misconception} thick", "{note}"),
        ],
        R2,
        "misconceptions",
        "2 misconceptions",
    ),
    ("place", "improvement", [(P, "(start)=", "(begin)=")], R2, '{ id = "start"', "no anchor (start)="),
    ("place", "improvement", [(R2, 'circle", place = "middle"', 'circle", place = "muddle"')], R2, "circle", "muddle"),
    ("place", "improvement", [(R2, NEED, NEED[:-2] + ', recap = "again" }')], R2, NEED[:-2], "'again'"),
    (
        "place",
        "improvement",
        [(P, "{misconception}`bent` ", ""), (P, "Since `x` is.", "{misconception}`bent`")],
        P,
        "bent",
        "the misconception bent stands outside its section middle",
    ),
    ("place", "improvement", [(R2, 'place = "end"', 'place = "middle"')], P, "{check} why", "check why stands outside"),
    ("promise", "critical", [(P, "`a string of beads <beads>`", "`something <else>`")], R2, "beads", "not in the page"),
    ("promise", "improvement", [(P, "It is ", "It is {analogy}`rope`, ")], P, "rope", "not in the record"),
    ("promise", "critical", [(P, "{widget} slider", "{note}")], R2, 'widgets = ["slider"]', "the widget slider"),
    ("promise", "improvement", [(R2, '["slider"]', "[]")], P, "{widget} slider", "the widget slider"),
    ("promise", "critical", [(P, "{notebook} drawing", "{note}")], R2, 'id = "drawing"', "the notebook drawing"),
    ("promise", "improvement", [(P, "{check} why", "{check} why\n````\n````{notebook} other")], P, "other", "notebook"),
    ("promise", "critical", [(P, "{check} why", "{tip}")], R2, '"why"', "the check why"),
    ("promise", "critical", [(N, "*", "")], R2, 'id = "drawing"', "no source"),
    ("written", "critical", [(P, "*", "")], R2, "written = true", "has no page"),
    ("written", "improvement", [(R2, "written = true", "written = false")], P, "---", "not yet written"),
    ("written", "critical", [(P, "```{notebook} drawing\n```", "```{notebook} drawing\n")], P, "drawing", "never"),
    ("outline", "polish", [(P, "# Second\n\n%", "# Another\n\n%")], P, "# Another", "'Another'"),
    ("outline", "polish", [(P, "(start)=", "(swap)="), (P, "(middle)=", "(start)="), (P, "(swap)=", "(middle)=")], P,
     "(middle)=", "middle stands before start"),
    ("deferred", "improvement", [(R2, 'to = "2"', 'to = "7"')], R2, "all the rest", "no lesson and no module"),
    ("deferred", "improvement", [(R2, 'to = "1.3"', 'to = "1.1"')], R2, "planes", "comes earlier"),
    (
        "deferred",
        "improvement",
        [
            (R3, "concepts = [", 'written = true\nsections = [{ id = "s", title = "S" }]\nconcepts = ['),
            ("lessons/1.3-third.md", "", "# Third\n\n(s)=\n## S\n"),
        ],
        R2,
        "planes",
        "does not teach it",
    ),
    (
        "check-order",
        "improvement",
        [(P, "(end)=\n## End\n", "(end)=\n## End\n\n(middle)=\n## Really\n"), (P, "(middle)=\n## Middle", "## Middle"),
         (P, "It is ", "{check}`why` It is ")],
        P,
        "{check}`why`",
        "before the section middle",
    ),
    (
        "check-order",
        "improvement",
        [(R2, "written = true", "written = false"), (R2, 'place = "end", earned', 'place = "start", earned')],
        R2,
        '"why"',
        "before the section middle",
    ),
    ("scaffolding", "improvement", [(R2, 'title = "Dots", level = "guided"', 'title = "Dots", level = "supported"'),
     (R2, 'level = "independent"', 'level = "guided"')], R2, '"lines"', "lines is guided after"),
    ("scaffolding", "improvement", [(N, ":level: guided", ":level: independent"), (N, "lines\n:level: independent",
     "lines\n:level: supported")], N, "{exercise} lines", "lines is supported after"),
    ("scaffolding", "improvement", [(N, ":level: guided\n", "")], N, "{exercise} dots", "has no level"),
    ("scaffolding", "improvement", [(N, ":level: guided", ":level: supported")], N, "{exercise} dots", "guided in the"),
    ("scaffolding", "improvement", [(N, "{exercise} dots", "{exercise} spots")], N, "spots", "absent in the record"),
    ("scaffolding", "improvement", [(N, "{exercise} dots", "{exercise} spots")], R2, '"dots"', "not in the notebook"),
    ("leak", "improvement", [(N, "what you know", "what you know of join_dots")], N, "what you know", "join_dots"),
    ("leak", "improvement", [(N, "# your code", "# join_dots(...)")], N, "# join_dots", "join_dots"),
    ("leak", "improvement", [(N, "with what", "into `joined` with what")], N, "into `joined`", "joined"),
    ("typed-number", "improvement", [(P, "is a number", "is 0.0786")], P, "is 0.0786", "0.0786"),
    ("typed-number", "improvement", [(P, "is a number", "is 22.4%")], P, "is 22.4%", "22.4%"),
    ("typed-number", "improvement", [(P, "is a number", "is 48× less")], P, "is 48×", "48×"),
    ("typed-number", "improvement", [(P, "is a number", "is $48\\times$ less")], P, "is $48", "48\\times"),
    ("typed-number", "improvement", [(P, "is a number", "is 30 times less")], P, "is 30", "30 times"),
    ("typed-number", "improvement", [(P, "is a number", "of 786,432")], P, "of 786,432", "786,432"),
    ("typed-number", "improvement", [(P, "\\frac{1}{2} x", "\\bar\\alpha = 0.05")], P, "0.05$$", "0.05"),
    ("typed-number", "improvement", [(P, ":::{widget}", "```{tip} 0.5\n```\n:::{widget}")],
     P, "{tip} 0.5", "0.5"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "severity", "edits", "file", "holds", "says"), CASES)
def test_each_rule_names_its_violation(
    tmp_path: Path, rule: str, severity: str, edits: list[tuple[str, str, str]], file: str, holds: str, says: str
) -> None:
    findings = [finding for finding in audit(plant(tmp_path, *edits)) if finding.rule == rule]
    found = next((finding for finding in findings if says in finding.says), None)
    assert found is not None, findings
    assert found.severity == severity
    assert found.file == tmp_path / file
    assert holds in found.file.read_text(encoding="utf-8").splitlines()[found.line - 1]
    assert found.fix


def test_every_rule_has_its_case() -> None:
    assert {case[0] for case in CASES} == {rule.__name__.replace("_", "-") for rule in RULES}
    assert all(rule.__doc__ for rule in RULES)


def test_a_solution_may_use_what_the_text_may_not(tmp_path: Path) -> None:
    """An ordinary word in prose is no leak, nor a string's content; nested solutions count as solutions."""
    text = NOTEBOOK.replace("Join all dots", "Now the joined dots")
    solution = text[text.index("````{solution}") :]
    nested = text.replace(solution, "").replace("# your code\n```\n````", f"# your code\n```\n{solution}````")
    nested = nested.replace("````{exercise} lines", "`````{exercise} lines")
    nested = nested[: nested.rindex("````")] + "`````\n"
    for planted in (text, nested):
        assert audit(plant(tmp_path, (N, "", planted))) == []
    leaking = nested.replace("what you know", "join_dots()")
    assert [finding.rule for finding in audit(plant(tmp_path, (N, "", leaking)))] == ["leak"]


def test_findings_are_sorted_and_judged(tmp_path: Path) -> None:
    applied = NEED.replace("introduced", "applied")
    course = plant(tmp_path, (P, "is a number", "is 0.5"), (P, "# Second\n\n%", "# Other\n\n%"), (R2, NEED, applied))
    findings = audit(course)
    assert [finding.severity for finding in findings] == ["critical", "improvement", "polish"]
    assert verdict(findings) == "MAJOR REVISION"
    assert verdict(findings[1:]) == "NEEDS REVISION"
    assert verdict(findings[2:]) == "PASS"


def test_the_page_keeps_its_lines(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text(
        "# A\n\n::::{tip}\n```{note} x\n:class: wide\n\n{widget}`a`\n```\n::::\n~~~\n```\n{widget}`b`\n~~~\n"
    )
    page = parse(file)
    assert page.unclosed is None
    assert page.named("widget") == {"a": 7}
    assert [(block.name, block.line, block.options) for block in page.blocks] == [
        ("tip", 3, {}),
        ("note", 4, {"class": "wide"}),
        ("", 10, {}),
    ]


@pytest.mark.parametrize(
    ("edits", "says"),
    [
        ([(R1, '"introduced"', '"introduce"')], "did you mean 'introduced'"),
        ([(R1, "load", "laod")], "laod: unknown key; did you mean 'load'"),
        ([(R1, "order = 1", "order = 2")], "order 2 is taken by 1.1-first.toml"),
        ([("lessons/stray.md", "", "# Stray\n")], "stray.md: no record belongs to this page; write stray.toml"),
        ([(R1, '"1.1"', '"1.2"')], "another lesson too has id '1.2'"),
        ([(R2, '"segment"', '"line"')], "concepts: line stands twice"),
        ([(R1, "[", "[[")], "1.1-first.toml: not TOML"),
        ([(R1, "order = 1", "order = 1\nwritten = true")], "a written lesson needs its sections"),
    ],
)
def test_a_record_that_is_wrong_says_so(tmp_path: Path, edits: list[tuple[str, str, str]], says: str) -> None:
    with pytest.raises(AlphabarError) as error:
        plant(tmp_path, *edits)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


# the real course


def test_the_course_passes() -> None:
    course = load(LESSONS)
    findings = audit(course)
    assert verdict(findings) == "PASS", findings
    assert {f"6.2.{n}" for n in range(1, 6)} | {"6.3.5"} <= {e.lesson.id for e in course.entries if e.lesson.sections}


def test_the_vae_fades_unless_it_is_brought_back(tmp_path: Path) -> None:
    for file in LESSONS.glob("*.toml"):
        (tmp_path / file.name).write_text(file.read_text(encoding="utf-8").replace(', recap = "vae-again"', ""))
    fading = [finding for finding in audit(load(tmp_path)) if finding.rule == "fading"]
    assert {finding.file.name for finding in fading} == {"6.3.5-from-pixels-to-latents.toml"}
    assert any(finding.says.startswith("vae was not used for 9 lessons") for finding in fading)


def test_the_corrections_are_computed() -> None:
    course = load(LESSONS)
    corrections = [one for entry in course.entries for one in entry.lesson.corrections]
    computed = [one for one in corrections if one.compute]
    assert len(computed) >= 5
    for one in computed:
        value = eval(one.compute, {"NoiseSchedule": NoiseSchedule})  # our own file
        assert value == pytest.approx(one.value, rel=1e-2), one.seed
    seeds = " ".join(one.seed for one in corrections)
    assert all(words in seeds for words in ("t = 500 alpha-bar is 0.05", "mirror", "skip connections from encoder"))


def test_a_modules_record_is_made_from_its_lessons() -> None:
    course = load(LESSONS)
    text = module_record(course, "6.2")
    for entry in course.entries:
        if entry.lesson.module == "6.2":
            assert f"## {entry.lesson.id} {entry.lesson.title}" in text
            assert all(f"| {concept.id} | {concept.depth} |" in text for concept in entry.lesson.concepts)
    assert "| closed-form | applied | 6.2.5 |" in text
    assert "vae-quality-ceiling (developed; from 6.1.4)" in text
    with pytest.raises(AlphabarError, match="no lesson is in module 9"):
        module_record(course, "9")


# the command


@pytest.fixture
def listed(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def call(*words: str) -> tuple[int, str]:
        status = main(["course", *words])
        return status, capsys.readouterr().out

    return call


def test_the_command_prints_and_exits(tmp_path: Path, listed: Callable[..., tuple[int, str]]) -> None:
    plant(tmp_path, (P, "is a number", "is 0.5"))
    status, out = listed("audit", "--course", str(tmp_path))
    assert status == 0  # nothing critical
    line = PAGE.splitlines().index(
        "{compute}`alpha_bar(499)` is a number, {given}`0.8` another, 28×28 and t = 500 are sizes."
    )
    assert f"1.2-second.md:{line + 1}\n" in out
    assert out.endswith("3 lessons recorded, 1 written\n0 critical, 1 improvement, 0 polish: NEEDS REVISION\n")
    plant(tmp_path, (P, "*", ""))
    status, out = listed("audit", "--course", str(tmp_path), "--json")
    answer = json.loads(out)
    assert status == 1
    assert answer["verdict"] == "MAJOR REVISION"
    assert answer["counts"] == {"critical": 1, "improvement": 0, "polish": 0}
    assert answer["findings"][0].keys() == Finding.__dataclass_fields__.keys()
    assert answer["findings"][0]["rule"] == "written"


def test_the_command_prints_a_record(listed: Callable[..., tuple[int, str]]) -> None:
    status, out = listed("record", "6.2", "--course", str(LESSONS.parent))
    assert status == 0
    assert out.startswith("# Module 6.2: Diffusion\n")


def test_no_lessons_is_a_users_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["course", "audit", "--course", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.endswith("lessons: no lessons here; run in the repository, or name the course with --course\n")
