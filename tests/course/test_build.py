"""What the build refuses: each fault is a line with file, line and what is wrong, and the last site stays."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from alphabar.course.site import MARK, build
from alphabar.errors import AlphabarError

LESSONS = Path(__file__).parents[2] / "course" / "lessons"
PAGE = """\
# The forward process

Words, {compute}`nothing_such:.2f`, {cmath}`x = <<1 / 0>>` and {concept}`gausian-sum`.

```{check} no-such-check
An answer.
```

```{drawing} curve
:alt: A curve.
```

```{drawing} flat
```

```{widget} noise-slidder
```

```{compare}
Words alone.
```

[A link](nowhere.md) and {nonsense}`role`.

```{algorithms} pixel words
```
"""
SAID = (
    ":3: WARNING: 'nothing_such:.2f': NameError: name 'nothing_such' is not defined",
    ":3: WARNING: '1 / 0': ZeroDivisionError: division by zero",
    ":3: WARNING: no lesson teaches 'gausian-sum'; did you mean 'gaussian-sum'?",
    ":5: WARNING: 6.2.2-the-forward-process.toml has no 'no-such-check' in checks",
    "6.2.2-the-forward-process.py: curve(): RuntimeError: out of ink",
    ":13: WARNING: the drawing flat needs :alt:",
    "unknown widget 'noise-slidder'; did you mean 'noise-slider'?",
    "{compare} holds two or more {side} blocks",
    "nowhere.md",
    'Unknown interpreted text role "nonsense"',
    "{algorithms} takes the two roads, pixel and latent, not 'pixel words'",
)


@pytest.fixture
def course(tmp_path: Path) -> Path:
    """A course of one page."""
    lessons = tmp_path / "course" / "lessons"
    lessons.mkdir(parents=True)
    for record in LESSONS.glob("*.toml"):
        text = record.read_text(encoding="utf-8")
        written = "6.2.2" in record.name
        text = text.replace(f"written = {str(not written).lower()}", f"written = {str(written).lower()}")
        (lessons / record.name).write_text(text, encoding="utf-8")
    (lessons / "6.2.2-the-forward-process.md").write_text(PAGE, encoding="utf-8")
    own = "def curve():\n    raise RuntimeError('out of ink')\n\ndef flat():\n    return '<svg/>'\n"
    (lessons / "6.2.2-the-forward-process.py").write_text(own)
    return lessons.parent


def test_every_fault_is_named_and_the_last_site_stays(course: Path, tmp_path: Path) -> None:
    out = tmp_path / "html"
    out.mkdir()
    (out / MARK).write_text("the last one")
    for _ in range(2):  # what the first build registered is not in the way of a second
        with pytest.raises(AlphabarError) as caught:
            build(course, out)
    said = str(caught.value)
    for expected in SAID:
        assert expected in said
    assert str(course / "lessons" / "6.2.2-the-forward-process.md") in said
    assert len(said.splitlines()) == 1 + len(SAID)
    assert (out / MARK).read_text() == "the last one"
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []
    shutil.rmtree(out)
