"""Running notebooks: the student's copy fails its checks readably, the solved one passes them.

Needs nbclient and a Jupyter kernel, which come with `pip install 'alphabar[course]'`.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from alphabar.course.notebooks import CODE, Cell, Source, copied, notebook, read

if TYPE_CHECKING:
    from nbformat import NotebookNode

LEAST_MESSAGE = 20
"""Characters of a check's message: fewer do not say what is wrong."""
CELL_SECONDS = 1800
"""After so long a cell is given up."""


def run_unsolved(source: Path) -> None:
    """The student's copy from top to bottom: every check fails, and says readably why."""
    book = read(source)
    cells = list(copied(book, solved=False))
    ran = _run([(cell, True) for cell in cells])
    first = min((book.lines[name] for name, level in book.levels.items() if level != "guided"), default=book.last)
    for cell, done in zip(cells, ran, strict=True):
        if cell.role == "check":
            _failed_readably(book, cell, done)
        elif (error := _error(done)) and cell.line < first:
            raise book.error(cell.line, f"this cell fails in the student's copy: {error[0]}: {error[1]}")


def rehearse(source: Path) -> NotebookNode:
    """The solved copy, with each exercise tried unsolved first: its checks then fail, and solved they pass.

    What the unsolved cells did is undone (names and torch's random state), so that the solved copy runs as it would
    alone. Returns it, executed.
    """
    book = read(source)
    plan: list[tuple[Cell, bool]] = []
    solved, unsolved = list(copied(book, solved=True)), list(copied(book, solved=False))
    checked = [name for name, level in book.levels.items() if level != "guided"]
    for number, cell in enumerate(solved):
        if cell.exercise in checked and all(other.exercise != cell.exercise for other in solved[:number]):
            tried = [(one, True) for one in unsolved if one.exercise == cell.exercise and one.role != "text"]
            plan += [(_SAVE, False), *tried, (_RESTORE, False)]
        plan.append((cell, False))
    ran = _run(plan)
    for (cell, may_fail), done in zip(plan, ran, strict=True):
        error = _error(done)
        if may_fail and cell.role == "check":
            _failed_readably(book, cell, done)
        elif error and not may_fail:
            raise book.error(cell.line, f"this cell fails in the solved copy: {error[0]}: {error[1]}")
    return _executed(book, plan, ran)


_SAVE = Cell(
    "code",
    """\
import sys as _sys
_torch = _sys.modules.get("torch")
_state = _torch and _torch.random.get_rng_state()
_kept = dict(globals())
""",
    0,
)
_RESTORE = Cell(
    "code",
    """\
for _name in set(globals()) - set(_kept) - {"_kept"}:
    del globals()[_name]
globals().update(_kept)
if _torch:
    _torch.random.set_rng_state(_state)
""",
    0,
)
"""Undo what cells did to names and to torch's random state, so that they leave no trace."""


def _run(plan: Sequence[tuple[Cell, bool]]) -> list[NotebookNode | None]:
    """Run (cell, whether it may fail) in one kernel, up to the first that fails and may not; text gives None."""
    import nbformat.v4 as v4
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    def node(cell: Cell, may_fail: bool) -> NotebookNode:
        metadata = {"tags": ["raises-exception"]} if may_fail else {}
        made: NotebookNode = v4.new_code_cell(cell.source, metadata=metadata)
        return made

    nodes = [node(cell, may_fail) if cell.role in CODE else None for cell, may_fail in plan]
    book = v4.new_notebook(cells=[made for made in nodes if made])
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            book, timeout=CELL_SECONDS, kernel_name="python3", resources={"metadata": {"path": folder}}
        )
        with contextlib.suppress(CellExecutionError):  # its cell holds the error, and the caller knows the line
            client.execute()
    return nodes


def _error(done: NotebookNode | None) -> tuple[str, str] | None:
    """(name, message) of what a cell raised."""
    raised = (out for out in (done.outputs if done else ()) if out.output_type == "error")
    return next(((out.ename, out.evalue) for out in raised), None)


def _failed_readably(book: Source, cell: Cell, done: NotebookNode | None) -> None:
    error = _error(done)
    where = f"the check of {cell.exercise}, unsolved,"
    if error is None:
        raise book.error(cell.line, f"{where} passes; it must fail until the exercise is solved")
    if error[0] != "AssertionError":
        raise book.error(
            cell.line, f"{where} raises {error[0]} ({error[1]}), not an assertion that says what is missing"
        )
    if len(error[1]) < LEAST_MESSAGE or " " not in error[1]:
        raise book.error(cell.line, f"{where} says only {error[1]!r}; say what is wrong, and why")


def _executed(book: Source, plan: Sequence[tuple[Cell, bool]], ran: Sequence[NotebookNode | None]) -> NotebookNode:
    """The solved copy with its outputs, without what was tried."""
    import nbformat

    made: NotebookNode = nbformat.from_dict(notebook(book, solved=True))
    kept = (done for (cell, may_fail), done in zip(plan, ran, strict=True) if done and cell.line and not may_fail)
    code = [cell for cell in made.cells if cell.cell_type == "code"]
    for number, (cell, done) in enumerate(zip(code, kept, strict=True), 1):
        cell.outputs, cell.execution_count = done.outputs, number
        for out in cell.outputs:
            if out.output_type == "execute_result":
                out.execution_count = number
    return made
