"""The built site on this machine: built first where its sources are newer, and answered to no other machine."""

from __future__ import annotations

import functools
import sys
import webbrowser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import alphabar
from alphabar.course.site import MARK, WORKBENCH, build
from alphabar.errors import AlphabarError

HOST = "127.0.0.1"


def is_stale(course: Path, out: Path) -> bool:
    """Whether a source of the pages, or of the library that computes their numbers, is newer than the site."""
    mark = out / MARK
    if not mark.exists():
        return True
    built = mark.stat().st_mtime
    folders = (course / "lessons", course / "notebooks", Path(alphabar.__file__).parent)
    inside = (file for folder in folders for file in folder.rglob("*") if "__pycache__" not in file.parts)
    measured = course.parent / "benchmarks" / "quality.json"  # which lessons quote
    return any(file.stat().st_mtime > built for file in (*inside, course / WORKBENCH, measured) if file.exists())


class Handler(SimpleHTTPRequestHandler):
    """Files of the site; a browser asks again after each build, and only what is missing is logged."""

    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".js": "text/javascript", ".svg": "image/svg+xml"}

    def end_headers(self) -> None:
        """Nothing is taken from the browser's cache unasked."""
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        """Say what went wrong alone."""
        if str(code).startswith(("4", "5")):
            super().log_request(code, size)


def server(out: Path, port: int) -> ThreadingHTTPServer:
    """A server for a built site on 127.0.0.1, at the port, or at any that is free where it is taken.

    Raises:
        AlphabarError: the port is no port, or may not be used.
    """
    if not 0 <= port <= 65535:
        raise AlphabarError(f"--port {port}: a port lies in 0..65535")
    handler = functools.partial(Handler, directory=str(out))
    try:
        return Server((HOST, port), handler)
    except PermissionError as error:
        raise AlphabarError(f"--port {port} may not be used; choose one above 1023") from error
    except OSError:
        return Server((HOST, 0), handler)


class Server(ThreadingHTTPServer):
    """Two servers at one port would answer in turn."""

    allow_reuse_port = False
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that closes a page in the middle of a file is no fault."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def serve(course: Path, out: Path, port: int = 8000, *, browser: bool = True) -> None:
    """Build where that is needed, serve until Ctrl-C, and say where."""
    if is_stale(course, out):
        print(f"building {out}", flush=True)
        build(course, out)
    with server(out, port) as running:
        address = f"http://{HOST}:{running.server_address[1]}/"
        try:
            print(f"{address}  (Ctrl-C ends)", flush=True)
            if browser:
                webbrowser.open(address)
            running.serve_forever()
        except KeyboardInterrupt:
            print()
