"""Serving the course's site, and what is refused before anything is built."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from alphabar.cli import main
from alphabar.course import site
from alphabar.course.record import load
from alphabar.course.serve import is_stale, server
from alphabar.course.site import MARK, build, home
from alphabar.errors import AlphabarError

COURSE = Path(__file__).parents[1] / "course"


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A folder that looks like a site."""
    out = tmp_path / "html"
    out.mkdir()
    (out / "index.html").write_text("<title>here</title>")
    (out / "site.js").write_text("export {};")
    (out / MARK).write_text("")
    return out


def test_it_serves_files_and_takes_another_port_where_one_is_taken(
    built: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with server(built, 0) as first, server(built, first.server_address[1]) as second:
        assert first.server_address[0] == second.server_address[0] == "127.0.0.1"
        assert first.server_address[1] != second.server_address[1]
        thread = Thread(target=second.serve_forever)
        thread.start()
        at = f"http://127.0.0.1:{second.server_address[1]}/"
        with urlopen(at) as page, urlopen(f"{at}site.js") as script:
            assert b"here" in page.read()
            assert page.headers["Cache-Control"] == "no-cache"
            assert script.headers["Content-Type"] == "text/javascript"
        with pytest.raises(HTTPError, match="404") as missing:
            urlopen(f"{at}missing.html")
        missing.value.close()
        second.shutdown()
        thread.join()
    said = capfd.readouterr().err
    assert "missing.html" in said
    assert "site.js" not in said


def test_a_port_that_is_none_is_named(built: Path) -> None:
    with pytest.raises(AlphabarError, match=r"--port 65536: a port lies in 0\.\.65535"):
        server(built, 65536)


def test_a_site_is_stale_when_a_source_is_newer(tmp_path: Path, built: Path) -> None:
    course = tmp_path / "course"
    later = time.time() + 60
    os.utime(built / MARK, (later, later))
    assert not is_stale(course, built)
    for name in ("course/lessons/a.md", "course/notebooks/b.md", "course/workbench.md", "benchmarks/quality.json"):
        source = tmp_path / name
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text("")
        assert not is_stale(course, built)
        os.utime(source, (later + 60, later + 60))
        assert is_stale(course, built), name
        source.unlink()
    assert is_stale(course, tmp_path / "nowhere")


def test_a_page_that_closes_in_the_middle_of_a_file_is_no_fault(built: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (built / "large.bin").write_bytes(bytes(20_000_000))
    with server(built, 0) as running, socket.create_connection(running.server_address[:2]) as page:
        running.daemon_threads = False  # so that its end is waited for
        thread = Thread(target=running.handle_request)
        thread.start()
        page.sendall(b"GET /large.bin HTTP/1.0\r\n\r\n")
        assert page.recv(1000)
        at_once = struct.pack("ii", 1, 0)
        page.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        page.close()
        thread.join()
    assert capfd.readouterr().err == ""


def test_another_fault_is_told(built: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with server(built, 0) as running:
        try:
            raise ValueError("no page")
        except ValueError:
            running.handle_error(None, ("127.0.0.1", 1))
    assert "ValueError: no page" in capfd.readouterr().err


def test_ctrl_c_ends_it_cleanly(tmp_path: Path, built: Path) -> None:
    later = time.time() + 600
    os.utime(built / MARK, (later, later))
    words = ["course", "serve", "--course", str(tmp_path), "--out", str(built), "--no-open"]
    script = (  # a shell may have started the tests with Ctrl-C ignored, and children inherit that
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"from alphabar.cli import main\nraise SystemExit(main({words!r}))"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", script], stdout=pipe, stderr=pipe, text=True) as run:
        assert run.stdout
        assert run.stdout.readline().startswith("http://127.0.0.1:")
        run.send_signal(signal.SIGINT)
        said = run.communicate(timeout=60)[1]
    assert run.returncode == 0
    assert "Traceback" not in said


def test_a_folder_that_is_no_site_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(site, "_require", lambda: None)
    (tmp_path / "thesis.tex").write_text("years")
    assert main(["course", "build", "--course", str(COURSE), "--out", str(tmp_path)]) == 2
    assert "there already and not a course's site; name another folder with --out" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").exists()


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: Callable[..., object] = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "sphinx" else found(name))
    with pytest.raises(AlphabarError, match=r"need the package sphinx: pip install 'alphabar\[course\]'"):
        build(COURSE, tmp_path / "html")


def test_the_first_page_lists_what_is_written_and_what_is_planned(tmp_path: Path) -> None:
    shutil.copytree(COURSE / "lessons", tmp_path / "lessons")
    for record in (tmp_path / "lessons").glob("6.2.1*.toml"):
        record.write_text(record.read_text().replace("written = true", "written = false"))
    course = load(tmp_path / "lessons")
    text = home(course)
    for entry in course.entries:
        if entry.lesson.module == "background":
            assert entry.lesson.title not in text
        else:
            linked = f'href="{entry.file.stem}.html"' in text
            assert linked == bool(entry.live), entry.lesson.id
            assert f'<span class="number">{entry.lesson.id}</span>' in text
    assert "planned" in text
