"""What the evaluation exports, and what it may import."""

import ast
from pathlib import Path

import alphabar.evaluate


def test_exports_exist_and_are_sorted() -> None:
    names = alphabar.evaluate.__all__
    assert names == sorted(names, key=lambda name: (not name[0].isupper(), name))
    assert all(hasattr(alphabar.evaluate, name) for name in names)


def test_it_imports_neither_the_report_nor_the_command_line() -> None:
    for file in Path(alphabar.evaluate.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith(("alphabar.report", "alphabar.cli")), file
