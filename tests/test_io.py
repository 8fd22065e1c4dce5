"""Files: written whole or not at all, read strictly."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from alphabar.errors import AlphabarError
from alphabar.io import (
    atomic_file,
    atomic_folder,
    hash_tensors,
    load_tensors,
    load_weights,
    read_json,
    save_tensors,
    write_json,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_round_trips(tmp_path: Path) -> None:
    tensors = {"b": torch.randn(3, 2).t(), "a": torch.arange(4), "c": torch.zeros(0), "d": torch.ones(2).bfloat16()}
    save_tensors(tmp_path / "deep" / "t.safetensors", tensors)
    back = load_tensors(tmp_path / "deep" / "t.safetensors")
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[key], tensors[key]) and back[key].dtype == tensors[key].dtype for key in tensors)
    write_json(tmp_path / "v.json", {"é": [1, None], "a": 1.5})
    assert read_json(tmp_path / "v.json") == {"é": [1, None], "a": 1.5}
    assert list(read_json(tmp_path / "v.json")) == ["é", "a"]
    assert (tmp_path / "v.json").stat().st_mode & 0o777 == 0o644
    assert names(tmp_path / "deep") == ["t.safetensors"]


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    write_text(tmp_path / "f", "old")
    with pytest.raises(ZeroDivisionError), atomic_file(tmp_path / "f") as temporary:
        temporary.write_text(f"half {1 / 0}")
    assert (tmp_path / "f").read_text() == "old"
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "half").write_text(f"half {1 / 0}")
    assert names(tmp_path) == ["f"]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    for generation in ("one", "two"):
        with atomic_folder(tmp_path / "folder") as temporary:
            (temporary / generation).mkdir()
            (temporary / generation / "file").write_text(generation)
    assert names(tmp_path) == ["folder"]
    assert names(tmp_path / "folder") == ["two"]
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o755


def test_a_folder_cannot_replace_a_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("old")
    with pytest.raises(AlphabarError, match="cannot write"), atomic_folder(tmp_path / "f") as temporary:
        (temporary / "x").write_text("new")
    assert (tmp_path / "f").read_text() == "old"
    assert names(tmp_path) == ["f"]


FULL = """
import resource, signal, sys
from pathlib import Path
import torch
from alphabar.errors import AlphabarError
from alphabar.io import atomic_folder, save_tensors, write_text

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
here = Path(sys.argv[1])


def folder():
    with atomic_folder(here / "folder") as temporary:
        (temporary / "large").write_bytes(bytes(100_000))


for write in (
    lambda: save_tensors(here / "t.safetensors", {"a": torch.zeros(100_000)}),
    lambda: write_text(here / "text", "x" * 100_000),
    folder,
):
    try:
        write()
    except AlphabarError as error:
        print(error)
"""


def test_a_full_disk(tmp_path: Path) -> None:
    """A real one, as far as a process can tell: its files may not grow past 10 kB."""
    save_tensors(tmp_path / "t.safetensors", {"a": torch.ones(1)})
    write_text(tmp_path / "text", "old")
    with atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "old").write_text("old")
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stderr
    for line, name in zip(lines, ("t.safetensors", "text", "folder"), strict=True):
        assert line.startswith(f"cannot write {tmp_path / name}: ")
        assert "File too large" in line
        assert line.endswith("; what was there before is untouched")
    assert names(tmp_path) == ["folder", "t.safetensors", "text"]
    assert load_tensors(tmp_path / "t.safetensors")["a"] == 1
    assert (tmp_path / "text").read_text() == "old"
    assert names(tmp_path / "folder") == ["old"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(AlphabarError, match=r"cannot write .*: Permission denied"):
        write_text(tmp_path / "f", "x")


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("old")
    with pytest.raises(AlphabarError, match=r"cannot write .*/f/g: (File exists|Not a directory); what was"):
        write_text(tmp_path / "f" / "g", "x")


def test_read_json_refuses(tmp_path: Path) -> None:
    path = tmp_path / "v.json"
    with pytest.raises(AlphabarError, match=r"cannot read .*: No such file"):
        read_json(path)
    path.write_text('{"a": ')
    with pytest.raises(AlphabarError, match="is not valid JSON: Expecting value"):
        read_json(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(AlphabarError, match="is not valid JSON"):
        read_json(path)
    path.write_text("[1]")
    with pytest.raises(AlphabarError, match="should hold a JSON object, not list"):
        read_json(path)


@pytest.mark.parametrize("suffix", ["pt", "pth", "ckpt", "bin", "pkl"])
def test_pickles_are_never_opened(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(AlphabarError, match="is a pickle, which can run code"):
        load_tensors(tmp_path / f"model.{suffix}")


def test_load_tensors_refuses(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    with pytest.raises(AlphabarError, match="no such file"):
        load_tensors(path)
    save_tensors(path, {"a": torch.zeros(1000)})
    whole = path.read_bytes()
    for broken in (b"", whole[:5], whole[:-7], whole + b"more", b"\x80\x04" + whole):
        path.write_bytes(broken)
        with pytest.raises(AlphabarError, match="is not a whole safetensors file"):
            load_tensors(path)


def test_load_weights_is_all_or_nothing() -> None:
    module = nn.Linear(2, 3)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    good = {"weight": torch.ones(3, 2), "bias": torch.ones(3)}
    wrong = {
        "it lacks 'bias' (1 keys differ)": {"weight": good["weight"]},
        "it has an unknown key 'scale' (1 keys differ)": {**good, "scale": torch.ones(1)},
        "it lacks 'bias' (2 keys differ)": {"weight": good["weight"], "bais": good["bias"]},
        "'bias' has shape [4], not [3]": {"weight": good["weight"], "bias": torch.ones(4)},
    }
    for message, tensors in wrong.items():
        with pytest.raises(AlphabarError) as error:
            load_weights(module, tensors, "file")
        assert str(error.value) == f"file does not fit Linear: {message}"
        assert all(torch.equal(module.state_dict()[key], before[key]) for key in before)
    load_weights(module, good, "file")
    assert (module.weight == 1).all()


def test_the_hash_sees_names_types_shapes_and_bits() -> None:
    a = torch.arange(6, dtype=torch.float32)
    hashes = [
        hash_tensors(tensors)
        for tensors in (
            {"a": a},
            {"b": a},
            {"a": a.double()},
            {"a": a.view(2, 3)},
            {"a": a.view(2, 3).t()},
            {"a": a + torch.tensor([0.0, 0, 0, 0, 0, 4.8e-7])},
            {"a": a, "b": a},
            {},
        )
    ]
    assert len(set(hashes)) == len(hashes)
    assert hash_tensors({"a": a, "b": a + 1}) == hash_tensors({"b": a + 1, "a": a.clone()})


def test_json_is_what_another_program_reads(tmp_path: Path) -> None:
    write_json(tmp_path / "v.json", {"a": 1})
    assert json.loads((tmp_path / "v.json").read_text()) == {"a": 1}
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY  # the limit stayed in the child
