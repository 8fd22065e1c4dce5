"""The course's notebooks, run: solved they pass, unsolved every check says what is missing, and mistakes are named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from alphabar.course.notebooks import Cell, Source, copied, read
from alphabar.course.rehearsal import rehearse, run_unsolved
from alphabar.errors import AlphabarError

FOLDER = Path(__file__).parents[2] / "course" / "notebooks"
SOURCES = sorted(FOLDER.glob("*.md"))


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.stem)
def test_solved_it_runs_and_each_check_fails_until_it_is(file: Path) -> None:
    made = rehearse(file)
    code = [cell for cell in made.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    pictures = [out for cell in code for out in cell.outputs if "image/png" in out.get("data", {})]
    assert len(pictures) > 3
    noise = [out.text for cell in code for out in cell.outputs if out.get("name") == "stderr"]
    assert not any("Warning" in text for text in noise)


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.stem)
def test_unsolved_every_check_says_what_is_missing(file: Path) -> None:
    run_unsolved(file)


TINY = """\
```{{code-cell}}
kept = [1]
```

::::{{exercise}} one
:level: supported

```{{code-cell}}
{blank}
```

:::{{solution}} one
```{{code-cell}}
{solved}
```
:::
::::

```{{code-cell}}
:tags: [check]
{check}
```
"""


def tiny(folder: Path, **parts: str) -> Path:
    right = {
        "blank": "two = ...\nkept = []",
        "solved": "two = len(kept) + 1",
        "check": 'assert two is not ..., "`two` is still a blank: write it"\nassert two == 2, "two is not 2 but other"',
    }
    file = folder / "tiny.md"
    file.write_text(TINY.format(**(right | parts)), encoding="utf-8")
    return file


def test_what_the_blanks_did_is_undone_before_the_solution_runs(tmp_path: Path) -> None:
    made = rehearse(tiny(tmp_path))
    assert [cell.execution_count for cell in made.cells if cell.cell_type == "code"] == [1, 2, 3]


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"solved": "two = len(kept) + 2"}, r"tiny\.md:22: this cell fails in the solved copy: AssertionError: two is"),
        ({"solved": "two = kept[7]"}, r"tiny\.md:15: this cell fails in the solved copy: IndexError"),
        ({"check": 'assert two != 5, "two is 5, and should be 2"'}, r"tiny\.md:22: the check of one, unsolved, passes"),
        ({"check": 'assert two + 1 == 3, "two is not 2"'}, r"unsolved, raises TypeError .* not an assertion"),
        ({"check": 'assert two == 2, "wrong"'}, r"unsolved, says only 'wrong'"),
    ],
)
def test_what_goes_wrong_is_named_with_its_line(tmp_path: Path, parts: dict[str, str], says: str) -> None:
    with pytest.raises(AlphabarError, match=says):
        rehearse(tiny(tmp_path, **parts))


# the usual mistakes

MISTAKES = {
    "the-schedule": [
        ("torch.cumprod(1 - betas, dim=0)", "1 - betas", "what each single step keeps"),
        ("torch.cumprod(1 - betas, dim=0)", "torch.cumprod(betas, dim=0)", "multiplies the βs, the noise"),
        ("torch.cumprod(1 - betas, dim=0)", "1 - torch.cumsum(betas, dim=0)", "subtracts the sum of the βs"),
        ("torch.cumprod(1 - betas, dim=0)", "torch.cumprod(1 - betas, dim=0).sqrt()", "is √ᾱ, the factor"),
        ("torch.cumprod(1 - betas, dim=0)", "torch.cumprod(1 - betas, dim=0)[1:]", "shape [999]"),
        (
            "torch.cumprod(1 - betas, dim=0)",
            "torch.cat([torch.ones(1), torch.cumprod(1 - betas, dim=0)[:-1]])",
            "alphas_bar[0] is 1.0: did you forget that step 0 already adds noise?",
        ),
    ],
    "the-closed-form": [
        (".view(-1, 1, 1, 1)", "", "shape [N, 1, 1, 1]?"),
        ("signal = alpha_bar.sqrt()", "signal = alpha_bar", "the signal's factor is"),
        ("noise = (1 - alpha_bar).sqrt()", "noise = 1 - alpha_bar", "did you forget the square root over 1 - ᾱ?"),
        ("noise = (1 - alpha_bar).sqrt()", "noise = 1 - alpha_bar.sqrt()", "you took 1 - √ᾱ"),
        ("alphas_bar[t]", "(1 - betas)[t]", "what one step keeps"),
        ("(1 - alpha_bar).sqrt()", "betas[t].view(-1, 1, 1, 1).sqrt()", "√β is the noise of one step"),
        ("alphas_bar[t]", "(1 - alphas_bar)[t]", "the wrong way round"),
    ],
    "the-unet": [
        ('"the height of the smallest map": 7', '"the height of the smallest map": 14', "28 is halved twice"),
        ('into decode1": 32', 'into decode1": 16', "what does `torch.cat` lay beside it?"),
        ('timestep": 6', 'timestep": 5', "count the lines of `forward`"),
    ],
    "the-training-loop": [
        ("torch.randint(T, (len(x0),))", "torch.randint(T, (len(x0), 1))", "one timestep for each"),
        ("torch.randint(T, (len(x0),))", "torch.randint(T, (1,)).expand(len(x0))", "one per batch"),
        ("torch.randint(T, (len(x0),))", "torch.randint(1, T, (len(x0),))", "timesteps begin at 0"),
        ("torch.randint(T, (len(x0),))", "torch.randint(T - 1, (len(x0),))", "draw from all timesteps"),
        ("torch.randn_like", "torch.rand_like", "did you draw it with torch.rand?"),
        ("torch.randn_like(x0)", "torch.randn_like(x0[:1]).expand_as(x0)", "the same noise"),
        ("network(x_t, t), eps", "network(x_t, t), x0", "the image x0"),
        ("network(x_t, t), eps)", "network(x_t, t), eps, reduction='sum')", "is it the sum"),
        ("    optimizer.zero_grad()\n", "", "was zero_grad left out?"),
        ("    optimizer.step()\n", "", "left the weight as it was"),
        ("q_sample(x0, t, eps)", "q_sample(eps, t, x0)", "the noise in x_t has"),
    ],
    "the-sampling-loop": [
        ("reversed(range(len(betas)))", "range(len(betas))", "the loop runs from 0 up"),
        ("reversed(range(len(betas)))", "range(len(betas) - 1, 0, -1)", "end at 0"),
        (" if t > 0 else mean", "", "the last step adds noise"),
        ("betas[t].sqrt() * torch", "betas[t] * torch", "did you forget its square root?"),
        (" + betas[t].sqrt() * torch.randn_like(x)", "", "no step adds fresh noise"),
        ("(1 - alphas_bar[t]).sqrt()", "(1 - alphas_bar[t])", "it lacks the square root"),
        (" / (1 - alphas_bar[t]).sqrt()", "", "too little noise is taken away"),
        ("/ (1 - betas[t]).sqrt()", "", "x keeps its factor 1"),
        ("/ (1 - betas[t]).sqrt()", "/ alphas_bar[t].sqrt()", "undoes all steps at once"),
        ("(x - betas[t]", "(x + betas[t]", "it has to be taken away"),
        ("torch.full((len(x),), t)", "torch.tensor([t])", "one timestep per image"),
    ],
    "vae-or-diffusion": [
        ("diffusion_seconds / vae_seconds", "vae_seconds / diffusion_seconds", "which way round is yours?"),
        ("diffusion_seconds = 60.0", "diffusion_seconds = 0.02", "calls of the network; all 1000 steps"),
        ("vae_seconds = took", "vae_seconds = 1000 * took", "loading or the loop is in it"),
    ],
}
QUICK = """\
decode = lambda: vae.decode(z)
took = quickest_of_five(decode)
vae_seconds = took
diffusion_seconds = 60.0
ratio = diffusion_seconds / vae_seconds
"""
"""In place of the last solution, whose loop takes long: the numbers that it would leave."""
NEEDED = """\
import time as _time
noise, vae = torch.randn(16, 1, 28, 28), load_autoencoder("fashion-vae")
z = torch.randn(vae.shape(16, 28, 28))

def quickest_of_five(run):
    took = []
    for _ in range(5):
        before = _time.perf_counter()
        run()
        took.append(_time.perf_counter() - before)
    return min(took)
"""


@pytest.fixture(scope="module")
def solved() -> tuple[Source, dict[str, dict[str, Any]]]:
    """The source, and the names that are there before each exercise; nothing is trained."""
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("agg")
    book = read(FOLDER / "build-a-diffusion-model.md")
    names: dict[str, Any] = {"__name__": "notebook"}
    before: dict[str, dict[str, Any]] = {}
    kept, plt.show = plt.show, plt.close
    try:
        first = True
        for cell in copied(book, solved=True):
            if cell.role == "solution":
                before[cell.exercise] = dict(names)
            wanted = first or (cell.exercise and cell.exercise != "vae-or-diffusion")
            if cell.role in ("code", "solution", "check") and wanted:
                exec(cell.source, names)
                first = False
    finally:
        plt.show = kept
        plt.close("all")
    exec(NEEDED, names)
    before["vae-or-diffusion"] = names
    return book, before


CASES = [(exercise, *mistake) for exercise, mistakes in MISTAKES.items() for mistake in mistakes]


@pytest.mark.parametrize(("exercise", "old", "new", "says"), CASES)
def test_a_mistake_is_told_as_what_it_is(
    solved: tuple[Source, dict[str, dict[str, Any]]], exercise: str, old: str, new: str, says: str
) -> None:
    book, before = solved
    (cell,) = book.of(exercise, "solution")
    (check,) = book.of(exercise, "check")
    source = QUICK if exercise == "vae-or-diffusion" else cell.source
    assert old in source, "the solution has changed: bring the mistake after it"
    names = dict(before[exercise])
    exec(source.replace(old, new), names)
    with pytest.raises(AssertionError, match=re.escape(says)):
        exec(check.source, names)


def test_the_quick_numbers_pass(solved: tuple[Source, dict[str, dict[str, Any]]]) -> None:
    book, before = solved
    names = dict(before["vae-or-diffusion"])
    exec(QUICK, names)
    exec(book.of("vae-or-diffusion", "check")[0].source, names)


def test_a_cell_knows_a_blank() -> None:
    assert Cell("code", "x = ...", 1).blank
    assert Cell("code", "def f():\n    for t in ...:\n        pass", 1).blank
    assert not Cell("code", "y = x[..., 0]\nz: tuple[int, ...] = ()\n# ...\n'...'", 1).blank
