"""One process per subject, asked in turn: none can change another's allocator, and only one works at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

import torch

from alphabar.bench.subjects import Subject
from alphabar.errors import AlphabarError
from alphabar.evaluate.cost import median_seconds

CALLS = 3
"""Timed calls per turn, of which the median counts."""
Make: TypeAlias = Callable[[], Subject]
"""Builds a subject; it is called in the process of its own, so it must be one that can be sent there."""


class Worker:
    """A process that holds one subject and answers questions about it."""

    def __init__(self, name: str, make: Make, device: torch.device) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would inherit this process's allocator and threads
        self.name = name
        self.pipe, theirs = context.Pipe()
        arguments = (theirs, make, str(device), torch.get_num_threads())
        self.process = context.Process(target=_serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()

    def receive(self) -> Any:
        """The next answer; the first comes unasked, when the subject is ready: (facts, its answer as an array)."""
        try:
            good, value = self.pipe.recv()
        except EOFError as error:
            self.process.join()
            ended = f"its process ended with status {self.process.exitcode}"
            raise AlphabarError(f"{self.name}: {ended}; is memory full?") from error
        if not good:
            raise AlphabarError(f"{self.name}: {value}")
        return value

    def time(self) -> dict[str, float]:
        """Let it run for a turn: seconds per unit of each of its actions."""
        self.pipe.send("time")
        seconds: dict[str, float] = self.receive()
        return seconds

    def close(self) -> None:
        """End the process."""
        self.pipe.close()
        self.process.terminate()
        self.process.join()


@contextmanager
def workers(makers: Mapping[str, Make], device: torch.device) -> Iterator[list[Worker]]:
    """A worker per name; all end with the block."""
    with ExitStack() as stack:
        crew = []
        for name, make in makers.items():
            crew.append(Worker(name, make, device))
            stack.callback(crew[-1].close)
        yield crew


def _serve(pipe: Connection, make: Make, device: str, threads: int) -> None:
    """The life of a worker: prepare, say what was made, then time once per question until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    os.dup2(2, 1)  # stdout belongs to the result
    torch.set_num_threads(threads)
    try:
        subject = make()
        pipe.send((True, (subject.facts, subject.answer.cpu().numpy())))
        while True:
            pipe.recv()
            pipe.send((True, {name: _turn(subject, fn, device) / n for name, (fn, n) in subject.actions.items()}))
    except EOFError:
        return
    except Exception as error:  # whatever it is, the parent should say it
        pipe.send((False, f"{type(error).__name__}: {error}"))


def _turn(subject: Subject, fn: Callable[[], object], device: str) -> float:
    """Seconds of a call of `fn`."""
    if not subject.heavy:
        return median_seconds(fn, CALLS, device)  # and two untimed: after the others' turns the caches are theirs
    start = time.perf_counter()  # a call of seconds needs no warming
    fn()
    return time.perf_counter() - start
