"""Files: safetensors and JSON, written atomically and read strictly.

Everything is first written beside its place and then renamed, so a reader never sees half a file, and a full disk or a
kill leaves what was there before.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from alphabar.errors import AlphabarError

PICKLES = {".pt", ".pth", ".ckpt", ".bin", ".pkl"}


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Whatever keeps `path` from being written, such as a full disk, becomes one clear line."""
    try:
        yield
    except OSError as error:
        raise AlphabarError(
            f"cannot write {path}: {error.strerror or error}; what was there before is untouched"
        ) from error
    except safetensors.SafetensorError as error:  # its own wrapping of an OSError
        raise AlphabarError(f"cannot write {path}: {error}; what was there before is untouched") from error


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the name, on failure it is removed."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o644)
            _sync(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it takes the name (replacing a folder there)."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        new, old = beside / "new", beside / "old"
        try:
            new.mkdir()
            yield new
            for file in new.rglob("*"):
                _sync(file)
            if path.exists():
                old.mkdir()  # so that moving a file there, which is not ours to replace, fails
                path.replace(old)
            new.replace(path)
        except AlphabarError as error:  # of a file inside, which is not told by its temporary name
            raise AlphabarError(str(error).replace(str(new), str(path))) from error
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically, indented, keys in the order given."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; a missing or broken file is one clear line."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AlphabarError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise AlphabarError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise AlphabarError(f"{path} should hold a JSON object, not {type(value).__name__}")
    return value


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file atomically."""
    plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    with atomic_file(path) as temporary:
        safetensors.torch.save_file(plain, temporary)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; half precision, in which weights are shipped, is widened to float32.

    Pickles are refused: loading one runs whatever code it carries.
    """
    if path.suffix in PICKLES:
        raise AlphabarError(
            f"{path} is a pickle, which can run code when it is loaded; convert it to .safetensors first"
        )
    if not path.is_file():
        raise AlphabarError(f"no such file: {path}")
    try:
        tensors = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise AlphabarError(f"{path} is not a whole safetensors file: {error}") from error
    return {key: tensor.float() if tensor.dtype == torch.float16 else tensor for key, tensor in tensors.items()}


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], source: object) -> None:
    """Copy tensors into a module; every key and shape must fit.

    Raises:
        AlphabarError: naming the first key that is missing, unknown or of another shape; the module is then unchanged.
    """
    own = module.state_dict()
    missing, unknown = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or unknown:
        what = f"lacks {missing[0]!r}" if missing else f"has an unknown key {unknown[0]!r}"
        count = len(missing) + len(unknown)
        raise AlphabarError(f"{source} does not fit {type(module).__name__}: it {what} ({count} keys differ)")
    for key, tensor in own.items():
        if tensors[key].shape != tensor.shape:
            shapes = f"{list(tensors[key].shape)}, not {list(tensor.shape)}"
            raise AlphabarError(f"{source} does not fit {type(module).__name__}: {key!r} has shape {shapes}")
    module.load_state_dict(dict(tensors))


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        tensor = tensors[key].detach().cpu().contiguous()
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
