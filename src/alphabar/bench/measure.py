"""The measurement itself: turns, medians, ratios, errors."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alphabar import engine
from alphabar.bench.subjects import DIFFUSERS, PLAIN, SHAPE, VARIANTS, Facts, Kind, prepare
from alphabar.bench.workers import workers
from alphabar.errors import AlphabarError

BATCH: dict[Kind, int] = {"sampling": 64, "training": 128}
UNIT: dict[Kind, str] = {"sampling": "call", "training": "step"}
GOALS: dict[Kind, dict[str, float]] = {"sampling": {"float32": 1.5, "bf16": 2.8}, "training": {"trained": 2.2}}
"""How many times as fast as diffusers each of our variants should be, on a CPU with bf16."""
SHARE_GOAL = 0.03
"""The largest share of a step that a sampler's own arithmetic should take."""
TOLERANCE = 0.05
"""Parameters and FLOPs of the peers may differ by this share."""

Rounds = Sequence[Mapping[str, Mapping[str, float]]]
"""Per round: variant -> action -> seconds."""


def measure(
    kind: Kind,
    *,
    batch: int | None = None,
    repeats: int = 7,
    device: torch.device | str = "cpu",
    on_round: Callable[[], object] | None = None,
) -> dict[str, Any]:
    """Time all variants side by side; see `alphabar.bench` for the method.

    Args:
        kind: a sampler's network call, or a training step.
        batch: images per call or step; 64 or 128 where not given.
        repeats: rounds, at least 1; fewer than 7 are not to be quoted.
        device: where.
        on_round: called after each round, for a progress bar.

    Returns:
        Plain values, ready for JSON.

    Raises:
        AlphabarError: no diffusers, peers of unequal size, or a process that failed.
    """
    batch = BATCH[kind] if batch is None else batch
    if batch < 1 or repeats < 1:
        raise AlphabarError(f"batch and repeats must be at least 1, got {batch} and {repeats}")
    if importlib.util.find_spec("diffusers") is None:
        raise AlphabarError('the bench compares with diffusers, which is missing: pip install "alphabar[bench]"')
    device = torch.device(device)
    makers = {v.name: partial(prepare, kind, v, batch, device) for v in VARIANTS[kind]}
    with workers(makers, device) as crew:
        made = {worker.name: worker.receive() for worker in crew}
        facts = {name: fact for name, (fact, _) in made.items()}
        equal = _equality(facts)
        rounds = []
        for _ in range(repeats):
            rounds.append({worker.name: worker.time() for worker in crew})
            if on_round is not None:
                on_round()
    ours = {name: answer for name, (_, answer) in made.items() if name != DIFFUSERS.name}
    errors = {name: relative_error(answer, ours[PLAIN.name]) for name, answer in ours.items()}
    return {
        "bench": kind,
        "batch": batch,
        "shape": list(SHAPE),
        "repeats": repeats,
        "variants": {v.name: _row(kind, v.title, v.name, batch, facts, rounds, errors) for v in VARIANTS[kind]},
        "ratios": {peer.name: _ratios(kind, peer.name, rounds) for peer in (DIFFUSERS, PLAIN)},
        "goals": GOALS[kind],
        "diffusers_over_ours": equal,
        "versions": engine.versions("diffusers"),
        "hardware": engine.hardware(device),
    }


def _equality(facts: Mapping[str, Facts]) -> dict[str, float]:
    """Parameters and FLOPs of diffusers' network as shares of ours; refuses to compare unequal ones."""
    peer, ours = facts[DIFFUSERS.name], facts[PLAIN.name]
    shares = {
        "parameters": peer.parameters / ours.parameters,
        "flops": peer.flops_per_image / ours.flops_per_image,
    }
    for what, share in shares.items():
        if abs(share - 1) > TOLERANCE:
            raise AlphabarError(f"diffusers' network has {share:.2f} times our {what}; mend PEER in bench/subjects.py")
    return shares


def relative_error(answer: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Relative L2 error."""
    exact = reference.astype(np.float64)
    return float(np.linalg.norm(answer - exact) / np.linalg.norm(exact))


def _row(
    kind: Kind,
    title: str,
    name: str,
    batch: int,
    facts: Mapping[str, Facts],
    rounds: Rounds,
    errors: Mapping[str, float],
) -> dict[str, Any]:
    seconds = [r[name][UNIT[kind]] for r in rounds]
    row: dict[str, Any] = {
        "title": title,
        **facts[name]._asdict(),
        "ms": 1000 * median(seconds),
        "ms_range": [1000 * min(seconds), 1000 * max(seconds)],
        "images_per_second": batch / median(seconds),
        "relative_error": errors.get(name),
    }
    arithmetic = {action: median(r[name][action] for r in rounds) for action in rounds[0][name] if action != UNIT[kind]}
    if arithmetic:
        row["sampler_ms_per_step"] = {action: 1000 * value for action, value in arithmetic.items()}
        row["sampler_share"] = {action: value / (value + median(seconds)) for action, value in arithmetic.items()}
    return row


def _ratios(kind: Kind, peer: str, rounds: Rounds) -> dict[str, dict[str, Any]]:
    """How many times as fast as the peer: of medians, and the range over the rounds."""
    unit = UNIT[kind]
    ratios = {}
    for name in GOALS[kind]:
        each = [r[peer][unit] / r[name][unit] for r in rounds]
        of_medians = median(r[peer][unit] for r in rounds) / median(r[name][unit] for r in rounds)
        ratios[name] = {"ratio": of_medians, "range": [min(each), max(each)]}
    return ratios
