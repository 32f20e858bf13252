"""Keeps a data plane running: a process of its own that is started again when something kills it.

A front end can kill it: memory that it shares and then truncates is a SIGBUS (hostile.md 2.9). The
sockets are the supervisor's, so a front end finds them again at once, and its in-flight area tells
the next data plane what the last one had not finished.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Final

from drivebay.cli.errors import CliError

__all__ = ["supervise"]

SHORT: Final = 0.5
"""A life of less than so many seconds is a short one."""
SHORT_LIVES: Final = 5
"""After so many short lives in a row there is no point in another."""

VOLATILE: Final = b"v"
READY: Final = b"r"


def supervise(work: Callable[[Callable[[bool], None]], int]) -> int:
    """Run ``work(ready)`` in a child process until it ends by itself; return its exit status.

    `work` calls ``ready(persistent)`` when it serves. If it is killed after that, it is started
    again, unless what it kept in memory is lost with it. Raises `CliError` if it cannot go on.
    """
    short = 0
    while True:
        born = time.monotonic()
        child = _Child(work)
        status, word = child.wait()
        if not os.WIFSIGNALED(status):
            return os.waitstatus_to_exitcode(status)
        if child.told_to_end:  # before it could take the signal, or at any other bad moment
            return 0
        name = signal.Signals(os.WTERMSIG(status)).name
        if word == VOLATILE:
            raise CliError(
                f"the data plane was killed by {name}, and the disks it kept in memory are lost",
                "a file: disk survives this",
            )
        short = short + 1 if time.monotonic() - born < SHORT else 0
        if word != READY or short >= SHORT_LIVES:
            raise CliError(f"the data plane was killed by {name}, again and again", "see its log")
        sys.stderr.write(f"drivebay: the data plane was killed by {name}: starting it again\n")


class _Child:
    """A process that does `work`, and what it said when it was ready."""

    def __init__(self, work: Callable[[Callable[[bool], None]], int]) -> None:
        self.told_to_end = False
        parent = os.getpid()
        self._receive, send = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._receive)
            end_with_parent(parent)
            status = 1
            try:
                status = work(lambda durable: _say(send, READY if durable else VOLATILE))
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        os.close(send)

    def wait(self) -> tuple[int, bytes]:
        """Pass signals on until it ends; its wait status, and the word."""
        signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        handlers = {number: signal.signal(number, self._pass_on) for number in signals}
        try:
            _, status = os.waitpid(self._pid, 0)
            return status, os.read(self._receive, 1)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            os.close(self._receive)

    def _pass_on(self, number: int, _frame: object) -> None:
        self.told_to_end |= number != signal.SIGHUP
        os.kill(self._pid, number)


def _say(pipe: int, word: bytes) -> None:
    os.write(pipe, word)


def end_with_parent(parent: int, with_signal: signal.Signals = signal.SIGTERM) -> None:
    """Have the kernel send us `with_signal` when `parent`, the process that started us, ends."""
    import ctypes

    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, int(with_signal))
    if os.getppid() != parent:  # it ended before we asked
        os.kill(os.getpid(), with_signal)
