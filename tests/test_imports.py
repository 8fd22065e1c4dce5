"""Imports go one way, and the command line answers before anything heavy is loaded."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import alphabar

ROOT = Path(alphabar.__file__).parent
LAYERS = (
    ("alphabar", "errors", "types", "rng", "io", "config", "engine"),
    ("diffusion", "nn", "data", "tokenizer"),
    ("report.grid",),  # pictures of tensors, which training shows too; it knows images and files only
    ("codec", "text"),
    ("models",),
    ("essence", "generate"),
    ("stable_diffusion",),
    ("train",),
    ("evaluate",),
    ("report",),
    ("bench",),
    ("course",),
    ("cli",),
    ("__main__",),
)
"""Each part may import the lines above its own. In the first line, parts may import each other."""

RANK = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}


def part_of(module: str) -> str:
    """alphabar.train.tasks -> train."""
    names = module.split(".")[1:]
    longest = ".".join(names[:2])
    return longest if longest in RANK else names[0] if names else "alphabar"


def imports(file: Path) -> Iterator[str]:
    """The library's modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "alphabar")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            if node.module == "alphabar":
                yield from (f"alphabar.{alias.name}" for alias in node.names if alias.name != "__version__")
            elif node.module and node.module.startswith("alphabar."):
                yield node.module


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_go_one_way(file: Path) -> None:
    module = ".".join(("alphabar", *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    own = part_of(module)
    assert own in RANK, f"{own} is new: give it its line in LAYERS"
    for other in map(part_of, imports(file)):
        inside = own == other or RANK[own] == 0
        assert RANK[other] < RANK[own] or (inside and RANK[other] == RANK[own]), f"{own} imports {other}"


def test_the_algorithm_knows_torch_and_nothing_else() -> None:
    outside = set()
    for file in (ROOT / "diffusion").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                outside |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                outside.add(node.module.split(".")[0])
    assert outside - set(sys.stdlib_module_names) == {"torch", "alphabar"}
    lines = sum(len(file.read_text().splitlines()) for file in (ROOT / "diffusion").glob("*.py"))
    assert lines < 1000


LOOK = """
import sys
try:
    {act}
except SystemExit as end:
    assert end.code == 0, end.code
heavy = {{"torch", "numpy", "PIL", "matplotlib", "accelerate", "sklearn", "diffusers", "safetensors"}}
print(sorted(heavy & sys.modules.keys()), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "act",
    [
        "import alphabar; alphabar.__version__",
        "from alphabar.cli import main; main(['--help'])",
        "from alphabar.cli import main; main(['--version'])",
        "from alphabar.cli import main; main(['train', '--help'])",
    ],
)
def test_nothing_heavy_is_loaded(act: str) -> None:
    done = subprocess.run([sys.executable, "-c", LOOK.format(act=act)], capture_output=True, text=True)
    assert done.stderr == "[]\n"
