"""Speed, measured beside diffusers at equal size and beside our own network with nothing prepared.

    from alphabar.bench import measure
    measure("sampling")["ratios"]["diffusers"]          # {"float32": ..., "bf16": ...}

How it is done, so that the ratios can be trusted:

- Every form lives in a process of its own, because `engine.tune_allocator` changes its whole process. One works at a
  time; the others wait.
- They take turns, A B C D A B C D, so that a machine that slows down slows all of them. A turn is two calls
  untimed and the median of three.
- A time is the median over the rounds; a ratio is one of two medians, and its range that of the rounds.
- A call of Stable Diffusion takes seconds: there a turn is one call, untimed before only once, and rounds are 3.
- Parameters and FLOPs of both networks are counted at run time, and must agree within `TOLERANCE`.
"""

from alphabar.bench.measure import GOALS, TOLERANCE, measure
from alphabar.bench.stable_diffusion import FULL, QUICK, measure_stable_diffusion
from alphabar.bench.startup import START_GOAL, measure_startup
from alphabar.bench.subjects import VARIANTS, Kind, Variant
from alphabar.bench.table import table
from alphabar.bench.tiling import measure_tiling, photograph
from alphabar.bench.whole import measure_memory

__all__ = [
    "FULL",
    "GOALS",
    "QUICK",
    "START_GOAL",
    "TOLERANCE",
    "VARIANTS",
    "Kind",
    "Variant",
    "measure",
    "measure_memory",
    "measure_stable_diffusion",
    "measure_startup",
    "measure_tiling",
    "photograph",
    "table",
]
