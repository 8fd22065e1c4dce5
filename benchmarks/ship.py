"""Put a finished run's model among the weights that ship: python benchmarks/ship.py RUN NAME [NOTE].

Measures it with `alphabar evaluate`, writes the numbers and the note into its card and copies the model folder to
src/alphabar/pretrained/NAME. Refuses files over 16 MB.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from alphabar.cli import main
from alphabar.io import atomic_folder, read_json, write_json
from alphabar.models import PRETRAINED

LIMIT = 16 * 2**20


def ship(run: Path, name: str, note: str = "") -> None:
    """Measure and copy."""
    with tempfile.TemporaryDirectory() as scratch:
        status = main(["evaluate", str(run), "-n", "2000", "--out", scratch])
        if status:
            sys.exit(status)
        metrics = read_json(Path(scratch) / "evaluation.json")
    with atomic_folder(PRETRAINED / name) as temporary:
        shutil.copytree(run / "model", temporary, dirs_exist_ok=True)
        description = read_json(temporary / "model.json")
        said = {"note": note} if note else {}
        description["card"] = {"name": name, **description["card"], **said, "metrics": metrics}
        write_json(temporary / "model.json", description)
        for file in temporary.iterdir():
            if file.stat().st_size > LIMIT:
                sys.exit(f"{file.name} is {file.stat().st_size / 2**20:.1f} MB; the limit is 16")


if __name__ == "__main__":
    ship(Path(sys.argv[1]), *sys.argv[2:])
