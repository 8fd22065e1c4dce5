"""What a process holds, as Linux counts it; None elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from alphabar import engine

T = TypeVar("T")


def resident(most: bool = False) -> int | None:
    """Bytes of this process in memory, now or at the worst moment so far."""
    key = "VmHWM:" if most else "VmRSS:"
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(key):
                return 1024 * int(line.split()[1])
    return None


def transient(fn: Callable[[], T]) -> tuple[T, int | None]:
    """What `fn` gives, and by how many bytes this process grew at the worst moment of it.

    Unlike `evaluate.cost.peak_bytes`, which counts tensors, this sees what libraries take inside of an operator. Memory
    that the allocator keeps is given back first, so that its reuse does not hide the growth.
    """
    engine.release_memory()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # forget the worst moment so far
    except OSError:
        return fn(), None
    before = resident()
    made = fn()
    after = resident(most=True)
    return made, None if before is None or after is None else after - before
