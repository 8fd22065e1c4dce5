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


def save_checkpoint(
    run: Path,
    progress: Progress,
    network: nn.Module,
    ema: nn.Module,
    optimizer: torch.optim.Optimizer,
    identity: dict[str, Any],
) -> None:
    """Write `run/checkpoints/step-N` and drop all but the newest two.

    Args:
        run: the run folder.
        progress: where the run is.
        network, ema, optimizer: what is saved.
        identity: what must be the same when the run is resumed (network config, codec hash, data fingerprint, ...).
    """
    folder = run / "checkpoints" / f"step-{progress.step:08d}"
    with atomic_folder(folder) as temporary:
        save_tensors(temporary / "network.safetensors", network.state_dict())
        save_tensors(temporary / "ema.safetensors", ema.state_dict())
        save_tensors(temporary / "optimizer.safetensors", _flatten(network, optimizer))
        write_json(temporary / "state.json", {"format": FORMAT, **progress._asdict(), "identity": identity})
    for old in _folders(run)[:-KEEP]:
        shutil.rmtree(old)


def latest_checkpoint(run: Path) -> Path | None:
    """The newest whole checkpoint of a run."""
    folders = _folders(run)
    return folders[-1] if folders else None


def load_checkpoint(
    folder: Path, network: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer, identity: dict[str, Any]
) -> Progress:
    """Restore network, EMA and optimizer; returns where the run was.

    Raises:
        AlphabarError: another format, another identity (naming the key), or tensors that do not fit.
    """
    state = read_json(folder / "state.json")
    where = str(folder / "state.json")
    if state.get("format") != FORMAT:
        raise AlphabarError(f"{folder}: format {state.get('format')} is not the {FORMAT} that this alphabar reads")
    written = read(state, "identity", dict, where)
    for key, value in json.loads(json.dumps(identity)).items():  # as it was written: tuples are lists
        found = written.get(key)
        if found != value:
            raise AlphabarError(f"cannot resume from {folder}: its {key} is {found!r}, the recipe's is {value!r}")
    load_weights(network, load_tensors(folder / "network.safetensors"), folder / "network.safetensors")
    load_weights(ema, load_tensors(folder / "ema.safetensors"), folder / "ema.safetensors")
    _unflatten(network, optimizer, load_tensors(folder / "optimizer.safetensors"))
    return Progress(
        step=read(state, "step", int, where),
        position=read(state, "position", int, where),
        seconds=read(state, "seconds", float, where),
    )


def _folders(run: Path) -> list[Path]:
    return sorted(p for p in (run / "checkpoints").glob("step-*") if (p / "state.json").is_file())


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
