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
from contextlib import suppress
from typing import Final

from drivebay.cli.errors import CliError

__all__ = ["CHANGED", "READY", "VOLATILE", "end_with_parent", "supervise"]

SHORT: Final = 0.5
"""A life of less than so many seconds is a short one."""
SHORT_LIVES: Final = 5
"""After so many short lives in a row there is no point in another."""

READY: Final = b"r"
VOLATILE: Final = b"v"
"""It is ready, but what it keeps in memory would be lost with it."""
CHANGED: Final = b"c"
"""What it serves is no longer what it would be started with again."""

Work = Callable[[Callable[[bytes], None]], int]

WAITED_FOR: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD})


def supervise(work: Work) -> int:
    """Run ``work(say)`` in a child process until it ends by itself; return its exit status.

    `work` calls ``say(READY)`` or ``say(VOLATILE)`` when it serves, and perhaps ``say(CHANGED)``
    once after that. If it is killed then, it is started again, unless something would be lost or
    forgotten. Raises `CliError` if it cannot go on.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, WAITED_FOR)
    try:
        return _supervise(work, before)
    finally:
        while signal.sigpending() & WAITED_FOR:
            signal.sigwait(WAITED_FOR)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _supervise(work: Work, mask: set[int | signal.Signals]) -> int:
    short = 0
    while True:
        born = time.monotonic()
        status, word, told = _live(work, mask)
        if not os.WIFSIGNALED(status):
            return os.waitstatus_to_exitcode(status)
        killer = signal.Signals(os.WTERMSIG(status))
        if killer == told:  # before it could take the signal
            return 0
        if told is not None or not word:
            raise CliError(f"the data plane was killed by {killer.name}")
        if word == VOLATILE:
            raise CliError(
                f"the data plane was killed by {killer.name}, "
                "and the disks it kept in memory are lost",
                "a file: disk survives this",
            )
        if word == CHANGED:
            raise CliError(
                f"the data plane was killed by {killer.name}, "
                "and its disks had been changed through the control socket",
                "start it again with the disks that the answers named",
            )
        short = short + 1 if time.monotonic() - born < SHORT else 0
        if short >= SHORT_LIVES:
            raise CliError(f"the data plane was killed by {killer.name} {short} times in a row")
        sys.stderr.write(
            f"drivebay: the data plane was killed by {killer.name}: starting it again\n"
        )


def _live(work: Work, mask: set[int | signal.Signals]) -> tuple[int, bytes, signal.Signals | None]:
    """One data plane: its wait status, the word it said last, the signal that told it to end.

    Signals are waited for, not handled: none can come at a moment when nobody looks.
    """
    parent = os.getpid()
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receive)
        status = 1
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            end_with_parent(parent)
            status = work(lambda word: _say(send, word))
        finally:
            for stream in (sys.stdout, sys.stderr):
                with suppress(BrokenPipeError):
                    stream.flush()
            os._exit(status)
    os.close(send)
    told: signal.Signals | None = None
    while True:
        number = signal.Signals(signal.sigwait(WAITED_FOR))
        if number != signal.SIGCHLD:
            os.kill(child, number)
            told = told if number == signal.SIGHUP else number
            continue
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            word = os.read(receive, 2)[-1:]
            os.close(receive)
            return status, word, told


def _say(pipe: int, word: bytes) -> None:
    os.write(pipe, word)


def end_with_parent(parent: int, with_signal: signal.Signals = signal.SIGTERM) -> None:
    """Have the kernel send us `with_signal` when `parent`, the process that started us, ends."""
    import ctypes

    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, int(with_signal))
    if os.getppid() != parent:  # it ended before we asked
        os.kill(os.getpid(), with_signal)
