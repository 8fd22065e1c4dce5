"""Put a finished run's model among the weights that ship: python benchmarks/ship.py RUN NAME [--half] [--note TEXT].

Measures it with `alphabar evaluate`, writes the numbers and the note into its card and copies the model folder to
src/alphabar/pretrained/NAME. With --half, weights are rounded to half precision first, and what is measured is what is
shipped. `--evaluation FILE` takes numbers that were measured before. Refuses files over 16 MB.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from alphabar import models
from alphabar.cli import main
from alphabar.codec import LatentCodec
from alphabar.io import atomic_folder, load_tensors, read_json, save_tensors, write_json

LIMIT = 16 * 10**6


def halved(run: Path, out: Path) -> None:
    """The run's model, its weights rounded to half precision and stored so."""
    kind, card = models.kind_of(run), models.read_card(run)
    size, channels = models.read_image(run)
    if kind == "clip":
        clip, tokenizer = models.load_clip(run)
        _round([clip])
        models.save_clip(clip, tokenizer, size, channels, card, out)
    elif kind == "autoencoder":
        models.save_autoencoder(_rounded(models.load_autoencoder(run)), size, channels, card, out)
    elif kind == "classifier":
        classifier = models.load_classifier(run)
        _round([classifier])
        models.save_classifier(classifier, size, channels, card, out)
    else:
        model = models.load_model(run)
        _round([model.network, *([] if model.text is None else [model.text.tower])])
        if isinstance(model.codec, LatentCodec):
            _rounded(model.codec)
        model.save(out)
    for file in out.glob("*.safetensors"):
        save_tensors(file, {key: tensor.half() for key, tensor in load_tensors(file).items()})


@torch.no_grad()
def _round(modules: Iterable[nn.Module]) -> None:
    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.copy_(_half(tensor))


def _rounded(codec: LatentCodec) -> LatentCodec:
    _round([codec.autoencoder])
    codec.shift, codec.scale = _half(codec.shift), _half(codec.scale)
    return codec


def _half(tensor: Tensor) -> Tensor:
    return tensor.half().to(tensor.dtype) if tensor.is_floating_point() else tensor


def ship(run: Path, name: str, note: str, half: bool, evaluation: Path | None) -> None:
    """Measure and copy."""
    with tempfile.TemporaryDirectory() as scratch:
        source = run / "model"
        if half:
            source = Path(scratch) / "half"
            halved(run, source)
        if evaluation is None:
            status = main(["evaluate", str(source), "-n", "2000", "--out", scratch])
            if status:
                sys.exit(status)
            evaluation = Path(scratch) / "evaluation.json"
        metrics = read_json(evaluation)
        with atomic_folder(models.PRETRAINED / name) as temporary:
            shutil.copytree(source, temporary, dirs_exist_ok=True)
            description = read_json(temporary / "model.json")
            said = {"note": note} if note else {}
            card = description["card"]
            if "metrics" in card:  # of the training itself
                said["training_metrics"] = card["metrics"]
            description["card"] = {"name": name, **card, **said, "metrics": metrics}
            write_json(temporary / "model.json", description)
            for file in temporary.iterdir():
                if file.stat().st_size > LIMIT:
                    sys.exit(f"{file.name} is {file.stat().st_size / 10**6:.1f} MB; the limit is 16")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--half", action="store_true")
    parser.add_argument("--note", default="")
    parser.add_argument("--evaluation", type=Path)
    args = parser.parse_args()
    ship(args.run, args.name, args.note, args.half, args.evaluation)
