"""What a page computes and draws, and what it is told where that fails."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from alphabar.course.page import parse
from alphabar.course.prose import typed_numbers
from alphabar.course.values import draw, evaluate, split, substitute
from alphabar.diffusion import NoiseSchedule
from alphabar.errors import AlphabarError

OWN = """\
from alphabar.diffusion import NoiseSchedule

LINEAR = NoiseSchedule.linear()
_hidden = 1


def plain():
    return '<svg viewBox="0 0 1 1"><g id="a"/><use href="#a"/></svg>'


def curve():
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.subplots()
    axes.plot([0, 1])
    axes.set_title("rises")
    return figure


def nothing():
    return 1


def broken():
    raise RuntimeError("no\\nink")
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    file = tmp_path / "page.py"
    file.write_text(OWN)
    return file


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("1 + 1", ("1 + 1", "")),
        ("x:.4f", ("x", ".4f")),
        ("x[1:2]:,", ("x[1:2]", ",")),
        ("{'a': 1}['a']:>3", ("{'a': 1}['a']", ">3")),
        ("(lambda x: x)(1)", ("(lambda x: x)(1)", "")),
        ("':'.join('ab')", ("':'.join('ab')", "")),
        ("now:%H:%M", ("now", "%H:%M")),
    ],
)
def test_expression_and_format_part_as_in_an_f_string(source: str, parts: tuple[str, str]) -> None:
    assert split(source) == parts


def test_numbers_come_from_the_library_and_from_the_page(own: Path) -> None:
    exact = NoiseSchedule.linear().alpha_bar(499)
    assert evaluate("NoiseSchedule.linear().alpha_bar(499):.4f") == f"{exact:.4f}"
    assert evaluate("LINEAR.alpha_bar(499):.6f", own) == f"{exact:.6f}"
    assert evaluate("60_000 * (1 + 1000) / 2:,.0f") == "30,030,000"
    assert evaluate("60_000 * (1 + 1000) / 2") == "30030000"
    assert evaluate("schedule('cosine').timesteps") == "1000"
    assert substitute(r"\bar\alpha = <<LINEAR.alpha_bar(0):.4f>> < 1", own) == r"\bar\alpha = 0.9999 < 1"


def test_a_changed_file_is_read_again(own: Path) -> None:
    assert evaluate("LINEAR.timesteps", own) == "1000"
    own.write_text(OWN.replace("linear()", "linear(timesteps=1234)"))
    assert evaluate("LINEAR.timesteps", own) == "1234"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("1 / 3", r"'1 / 3': the value is 0\.333\d+: say how many digits, such as 1 / 3:\.3f"),
        ("math.inf:.1f", r"'math\.inf:\.1f': the value is inf"),
        ("nowhere", r"'nowhere': NameError: name 'nowhere' is not defined"),
        ("_hidden", "NameError"),
        ("1 +", r"'1 \+': SyntaxError"),
        ("1:q", r"'1:q': ValueError"),
        ("shipped('fashion-pixle')", "fashion-pixel"),
    ],
)
def test_what_fails_is_one_line_with_the_expression(own: Path, source: str, said: str) -> None:
    with pytest.raises(AlphabarError, match=said) as caught:
        evaluate(source, own)
    assert "\n" not in str(caught.value)


def test_a_page_file_that_fails_is_named(tmp_path: Path) -> None:
    file = tmp_path / "page.py"
    file.write_text("import nothing_such")
    with pytest.raises(AlphabarError, match=r"page\.py: ModuleNotFoundError: No module named 'nothing_such'"):
        evaluate("1", file)


def test_a_drawing_takes_the_page_s_ink_and_own_ids(own: Path) -> None:
    svg = draw("curve", own)
    assert svg.startswith("<svg")
    assert "currentColor" in svg
    assert "var(--blue" in svg
    assert "#ffffff" not in svg
    ids = re.findall(r'\bid="([^"]+)"', svg)
    assert ids
    assert all(name.startswith("curve-") for name in ids)
    links = re.findall(r'(?:href="#|url\(#)([^")]+)', svg)
    assert links
    assert set(links) <= set(ids)
    assert draw("curve", own) == svg
    assert draw("plain", own) == '<svg viewBox="0 0 1 1"><g id="plain-a"/><use href="#plain-a"/></svg>'


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing", r"page\.py: no function 'missing'"),
        ("LINEAR", r"no function 'LINEAR'"),
        ("nothing", r"nothing\(\) must return an SVG text or a Matplotlib figure"),
        ("broken", r"page\.py: broken\(\): RuntimeError: no ink"),
    ],
)
def test_a_drawing_that_fails_is_named(own: Path, name: str, said: str) -> None:
    with pytest.raises(AlphabarError, match=said) as caught:
        draw(name, own)
    assert "\n" not in str(caught.value)


def test_a_page_without_a_python_file_has_no_drawing(tmp_path: Path) -> None:
    with pytest.raises(AlphabarError, match=r"'curve' is a function of page\.py, which does not exist"):
        draw("curve", tmp_path / "page.py")


def test_the_audit_sees_numbers_around_computed_ones(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "Here {cmath}`0.25 + <<0.75 - 0.0:.2f>>`.\n\n```{math-computed}\n<<0.123:.3f>> + 0.5\n```\n\n{compute}`0.1:.1f`"
    )
    assert list(typed_numbers(parse(page))) == [(1, "0.25"), (4, "0.5")]


def test_a_multiple_is_a_number_and_a_count_is_none(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("A chain of 1000 timesteps, 20 foldable parts.\nIt is 30 times slower, and grows 12-fold.")
    assert list(typed_numbers(parse(page))) == [(2, "30 times"), (2, "12-fold")]
