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
        status, word = _run_once(work)
        if not os.WIFSIGNALED(status):
            return os.waitstatus_to_exitcode(status)
        if os.WTERMSIG(status) in (signal.SIGTERM, signal.SIGINT):  # before it could take them
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


def _run_once(work: Callable[[Callable[[bool], None]], int]) -> tuple[int, bytes]:
    """Run the child; its wait status, and what it said when it was ready."""
    parent = os.getpid()
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receive)
        end_with_parent(parent)
        status = 1
        try:
            status = work(lambda durable: _say(send, READY if durable else VOLATILE))
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    os.close(send)
    handlers = {
        number: signal.signal(number, lambda number, _frame: os.kill(child, number))
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    }
    try:
        _, status = os.waitpid(child, 0)
        return status, os.read(receive, 1)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(receive)


def _say(pipe: int, word: bytes) -> None:
    os.write(pipe, word)


def end_with_parent(parent: int, with_signal: signal.Signals = signal.SIGTERM) -> None:
    """Have the kernel send us `with_signal` when `parent`, the process that started us, ends."""
    import ctypes

    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, int(with_signal))
    if os.getppid() != parent:  # it ended before we asked
        os.kill(os.getpid(), with_signal)
