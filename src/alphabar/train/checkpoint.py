"""Checkpoints: atomic folders of safetensors and JSON from which a run continues exactly.

Everything random in training is keyed by (seed, position), so the random state of a checkpoint is these two numbers.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from alphabar.config import read
from alphabar.errors import AlphabarError
from alphabar.io import atomic_folder, load_tensors, load_weights, read_json, save_tensors, write_json
from alphabar.train.config import with_defaults

FORMAT = 1
KEEP = 2


class Progress(NamedTuple):
    """How far a run is.

    Args:
        step: optimizer steps taken.
        position: samples seen, over all processes: the data cursor.
        seconds: time spent in training steps.
    """

    step: int = 0
    position: int = 0
    seconds: float = 0.0


class Learner(NamedTuple):
    """A network and what trains it."""

    network: nn.Module
    optimizer: torch.optim.Optimizer


def save_checkpoint(
    run: Path,
    progress: Progress,
    learner: Learner,
    ema: nn.Module,
    identity: dict[str, Any],
    adversary: Learner | None = None,
) -> None:
    """Write `run/checkpoints/step-N` and drop all but the newest two.

    Args:
        run: the run folder.
        progress: where the run is.
        learner, ema: what is saved.
        identity: what must be the same when the run is resumed (network config, codec hash, data fingerprint, ...).
        adversary: saved too, in files of its own.
    """
    folder = run / "checkpoints" / f"step-{progress.step:08d}"
    with atomic_folder(folder) as temporary:
        save_tensors(temporary / "ema.safetensors", ema.state_dict())
        for prefix, one in _learners(learner, adversary):
            save_tensors(temporary / f"{prefix}network.safetensors", one.network.state_dict())
            save_tensors(temporary / f"{prefix}optimizer.safetensors", _flatten(*one))
        write_json(temporary / "state.json", {"format": FORMAT, **progress._asdict(), "identity": identity})
    for old in _folders(run)[:-KEEP]:
        shutil.rmtree(old)


def discard_unfinished(run: Path) -> None:
    """Remove the hidden folders that a kill in the middle of a write left in a run that nobody writes to."""
    for place, name in ((run / "checkpoints", "step-"), (run, "model.")):
        for folder in place.glob(f".{name}*"):
            shutil.rmtree(folder)


def latest_checkpoint(run: Path) -> Path | None:
    """The newest whole checkpoint of a run."""
    folders = _folders(run)
    return folders[-1] if folders else None


def load_checkpoint(
    folder: Path, learner: Learner, ema: nn.Module, identity: dict[str, Any], adversary: Learner | None = None
) -> Progress:
    """Restore network, EMA and optimizer, and the adversary's; returns where the run was.

    Raises:
        AlphabarError: another format, another identity (naming the key), or tensors that do not fit.
    """
    state = read_json(folder / "state.json")
    where = str(folder / "state.json")
    if state.get("format") != FORMAT:
        raise AlphabarError(f"{folder}: format {state.get('format')} is not the {FORMAT} that this alphabar reads")
    written = _plain(with_defaults(read(state, "identity", dict, where), where))
    for key, value in _plain(identity).items():
        found = written.get(key)
        if found != value:
            raise AlphabarError(f"cannot resume from {folder}: its {key} is {found!r}, the recipe's is {value!r}")
    load_weights(ema, load_tensors(folder / "ema.safetensors"), folder / "ema.safetensors")
    for prefix, one in _learners(learner, adversary):
        weights = folder / f"{prefix}network.safetensors"
        load_weights(one.network, load_tensors(weights), weights)
        _unflatten(*one, load_tensors(folder / f"{prefix}optimizer.safetensors"))
    return Progress(
        step=read(state, "step", int, where),
        position=read(state, "position", int, where),
        seconds=read(state, "seconds", float, where),
    )


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """As JSON gives it back: tuples are lists."""
    return json.loads(json.dumps(values))  # type: ignore[no-any-return]


def _folders(run: Path) -> list[Path]:
    return sorted(p for p in (run / "checkpoints").glob("step-*") if (p / "state.json").is_file())


def _learners(learner: Learner, adversary: Learner | None) -> list[tuple[str, Learner]]:
    """All that learns, with how its files' names begin."""
    return [("", learner)] if adversary is None else [("", learner), ("adversary-", adversary)]


def _flatten(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state by parameter name; a plain file cannot hold its own numbering."""
    state = optimizer.state
    return {
        f"{name}/{key}": value
        for name, parameter in network.named_parameters()
        for key, value in state.get(parameter, {}).items()
    }


def _unflatten(network: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = dict(network.named_parameters())
    for path, tensor in tensors.items():
        name, _, key = path.rpartition("/")
        if name not in parameters:
            raise AlphabarError(f"the checkpoint's optimizer has an unknown parameter {name!r}")
        # The step count too: a fused optimizer, which ours is, counts on the device.
        optimizer.state[parameters[name]][key] = tensor.to(parameters[name].device)
