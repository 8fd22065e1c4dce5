"""The notebook builder: both copies, and the faults of a source, each named with its line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from alphabar.cli import main
from alphabar.course.notebooks import build, build_all, read
from alphabar.errors import AlphabarError

SOURCE = """\
# Doubling

Half of one is {given}`0.5`, and $1 + 1$ is {compute}`1 + 1`. See {concept}`the closed form <closed-form>`.

% a comment
(here)=
```{code-cell}
start = 3.0
```

::::{exercise} look
:level: guided

```{predict}
- What is printed?
```

```{code-cell}
print(start / 2)
```
::::

::::{exercise} fill
:level: supported

```{math}
y = 2x
```

```{code-cell}
def double_it(x: tuple[int, ...]):
    y = ...
    return y
```

:::{solution} fill
Adding a thing to itself doubles it.

```{code-cell}
def double_it(x: tuple[int, ...]):
    y = x + x
    return y
```
:::
::::

```{code-cell}
:tags: [check]
got = double_it(start)
assert got is not ..., "double_it gives back a blank: write its line"
assert got == 6, f"double_it(3) is {got}, not 6: did you square it?"
```

::::{exercise} alone
:level: independent

Leave the sum of three threes in `nine`.

:::{solution} alone
```{code-cell}
nine = sum([start] * 3)
```
:::
::::

```{code-cell}
:tags: [check]
assert "nine" in globals(), "there is no `nine` yet: define it above"
assert nine == 9, f"`nine` is {nine}, not 9: is it the sum of three threes?"
```

```{warning} Mind
It is a float.
```
"""


def write(folder: Path, text: str = SOURCE) -> Path:
    file = folder / "doubling.md"
    file.write_text(text, encoding="utf-8")
    return file


def cells(path: Path, kind: str) -> list[str]:
    return [cell["source"] for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def test_solution_stands_in_place_of_the_blank_and_nowhere_in_the_students_copy(tmp_path: Path) -> None:
    student, solution = build(write(tmp_path), tmp_path / "out")
    assert [student, solution] == [tmp_path / "out" / copy / "doubling.ipynb" for copy in ("student", "solution")]
    asked, solved = cells(student, "code"), cells(solution, "code")
    assert len(asked) == len(solved) == 6
    assert "y = ..." in asked[2]
    assert "y = x + x" in solved[2]
    assert asked[4] == "# Your code.\n"
    assert solved[4] == "nine = sum([start] * 3)"
    assert [k for k in range(6) if asked[k] == solved[k]] == [0, 1, 3, 5]
    everything = student.read_text()
    assert "x + x" not in everything
    assert "sum(" not in everything
    assert "Adding a thing" not in everything
    assert "**Why.** Adding a thing to itself doubles it." in cells(solution, "markdown")


def test_markdown_is_jupyters(tmp_path: Path) -> None:
    student, _ = build(write(tmp_path), tmp_path / "out")
    text = cells(student, "markdown")
    assert text[0] == "# Doubling\n\nHalf of one is 0.5, and $1 + 1$ is 2. See the closed form."
    assert "../solution/doubling.ipynb" in text[1]
    assert "> **Predict before you run.**\n>\n> - What is printed?" in text
    assert "> **Mind**\n>\n> It is a float." in text
    assert any("$$\ny = 2x\n$$" in cell for cell in text)
    assert not any(re.search(r"\{[a-z-]+\}|:::|% a comment|\(here\)=|:level:", cell) for cell in text)


def test_copies_are_valid_and_the_same_bytes_each_time(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    file = write(tmp_path)
    once, again = build_all(tmp_path, tmp_path / "a"), build(file, tmp_path / "b")
    assert [path.read_bytes() for path in once] == [path.read_bytes() for path in again]
    for path in once:
        nbformat.validate(nbformat.read(path, as_version=4))


def test_check_cells_are_folded(tmp_path: Path) -> None:
    student, _ = build(write(tmp_path), tmp_path)
    checks = [c for c in json.loads(student.read_text())["cells"] if "check" in c["metadata"].get("tags", ())]
    assert len(checks) == 2
    assert all(c["metadata"]["jupyter"]["source_hidden"] and c["source"].startswith("# @title Check") for c in checks)


FAULTS = [
    (":level: supported", ":level: hard", "doubling.md:23: the exercise fill needs :level:"),
    ("{exercise} alone", "{exercise} fill", "doubling.md:54: there are two exercises fill"),
    ("{exercise} fill", "{exercise} Fill it", "doubling.md:23: an exercise needs an id"),
    ("```{math}", "```{mathematics}", "doubling.md:26: a notebook has no {mathematics}"),
    ("{compute}`1 + 1`", "{compute}`1 +`", "doubling.md:3: '1 +'"),
    ("{compute}`1 + 1`", "{widget}`noise`", "doubling.md:3: a notebook has no role {widget}"),
    ("start = 3.0", "start = 3.0\n%matplotlib inline", "doubling.md:9: this cell is not Python"),
    ("print(start / 2)", "print(...)", "doubling.md:11: the guided exercise look must be complete"),
    ("    y = ...\n", "    y = x\n", "doubling.md:23: the supported exercise fill has no blank"),
    ("y = x + x", "y = ...", "doubling.md:40: the solution of fill still holds a blank"),
    (":::{solution} fill", ":::{solution} look", "doubling.md:36: this solves 'look'"),
    (', "double_it gives back a blank: write its line"', "", "doubling.md:50: this assertion says nothing"),
    (SOURCE[SOURCE.index('assert "nine"') :], "nine\n```\n", "doubling.md:68: this check asserts nothing"),
    (
        "start = 3.0",
        "start = 3.0\nnine = sum([start]*3)  # as below",
        "doubling.md:8: this cell gives away the solution of alone",
    ),
    (
        "Leave the sum",
        "With `nine = sum([start] * 3)`, leave the sum",
        "doubling.md:54: this cell gives away the solution of alone",
    ),
    ("Leave the sum of", "Use `total_of`; leave the sum of", None),
    ("```{code-cell}\nstart", "````{code-cell}\nstart", "doubling.md:7: this fence is never closed"),
]


@pytest.mark.parametrize(("old", "new", "says"), FAULTS)
def test_a_fault_is_named_with_its_line(tmp_path: Path, old: str, new: str, says: str | None) -> None:
    assert SOURCE.count(old) == 1 or old.startswith(":level") or "solution} fill" in old
    file = write(tmp_path, SOURCE.replace(old, new, 1))
    if says is None:
        read(file)
    else:
        with pytest.raises(AlphabarError, match=re.escape(says)):
            read(file)


def test_an_independent_exercise_does_not_name_what_its_solution_uses(tmp_path: Path) -> None:
    text = SOURCE.replace("nine = sum([start] * 3)", "nine = total_of(start)").replace("Leave", "Use `total_of`; leave")
    with pytest.raises(AlphabarError, match=r"doubling.md:57: the independent exercise gives away total_of"):
        read(write(tmp_path, text))


def test_an_exercise_without_its_check_is_named(tmp_path: Path) -> None:
    with pytest.raises(AlphabarError, match=r"doubling.md:54: the independent exercise alone has the wrong checks"):
        read(write(tmp_path, SOURCE[: SOURCE.rindex("```{code-cell}")]))


def test_an_empty_folder_and_a_missing_or_empty_source_are_errors(tmp_path: Path) -> None:
    with pytest.raises(AlphabarError, match="no notebook sources"):
        build_all(tmp_path, tmp_path)
    with pytest.raises(AlphabarError, match="no such notebook source"):
        build(tmp_path / "none.md", tmp_path)
    with pytest.raises(AlphabarError, match=r"doubling\.md:1: this source holds no cell"):
        build(write(tmp_path, "% nothing yet"), tmp_path)


def test_the_command_builds_the_courses_sources(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    course = Path(__file__).parents[1] / "course"
    assert main(["course", "notebooks", "--course", str(course), "--out", str(tmp_path)]) == 0
    listed = capsys.readouterr().out.split()
    names = {file.stem for file in (course / "notebooks").glob("*.md")}
    assert names == {"build-a-diffusion-model", "from-pixels-to-latents"}
    assert set(listed) == {str(tmp_path / copy / f"{name}.ipynb") for copy in ("student", "solution") for name in names}
    assert all(Path(file).is_file() for file in listed)
