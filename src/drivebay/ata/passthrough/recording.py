"""Answers of a drive, recorded and played back: one command a line, in JSON.

A line has ``cdb``, ``direction``, ``length`` and either ``error`` (an errno) or ``status``,
``sense``, ``residual`` and, of what came in, ``data``; bytes are in hex, data in base64. Data that
went out is not recorded.
"""

from __future__ import annotations

import base64
import json
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from drivebay.ata.passthrough.transport import Answer, Direction, Transport
from drivebay.disk.buffers import scatter
from drivebay.disk.contract import Buffers, byte_length

__all__ = ["RecordedAnswers", "Recorder", "UnknownCommandError"]


class UnknownCommandError(AssertionError):
    """A command came that was not recorded, or not any more."""


class Recorder:
    """Passes commands on to `inner`; `write`, as of a file, is given a line on each."""

    def __init__(self, inner: Transport, write: Callable[[str], object]) -> None:
        self._inner, self._write = inner, write

    def execute(self, cdb: bytes, direction: Direction, buffers: Buffers, seconds: float) -> Answer:
        """Pass it on, and record what came of it."""
        line: dict[str, Any] = {
            "cdb": cdb.hex(" "),
            "direction": direction,
            "length": byte_length(buffers),
        }
        try:
            status, sense, residual = self._inner.execute(cdb, direction, buffers, seconds)
        except OSError as error:
            self._write(json.dumps(line | {"error": error.errno}) + "\n")
            raise
        line |= {"status": status, "sense": sense.hex(" "), "residual": residual}
        if direction == "in":
            line["data"] = base64.b64encode(b"".join(buffers)).decode()
        self._write(json.dumps(line) + "\n")
        return status, sense, residual


class RecordedAnswers:
    """Answers as they were recorded in `lines`, which may be an open file. The answers to a CDB
    come in their order, the last of them again and again. `cdbs` lists what was asked.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self._answers: dict[str, deque[dict[str, Any]]] = {}
        for line in lines:
            if line.strip():
                answer = json.loads(line)
                self._answers.setdefault(answer["cdb"], deque()).append(answer)
        self.cdbs: list[bytes] = []

    def execute(self, cdb: bytes, direction: Direction, buffers: Buffers, seconds: float) -> Answer:
        """The answer to `cdb`. Raises `OSError` if that was one, and `UnknownCommandError` if there
        is none.
        """
        self.cdbs.append(cdb)
        known = self._answers.get(cdb.hex(" "))
        if not known:
            raise UnknownCommandError(f"not recorded: {cdb.hex(' ')}")
        answer = known.popleft() if len(known) > 1 else known[0]
        if "error" in answer:
            raise OSError(answer["error"], "as recorded")
        if direction == "in" and "data" in answer:
            data = memoryview(base64.b64decode(answer["data"]))
            scatter(buffers, data[: byte_length(buffers)])
        return answer["status"], bytes.fromhex(answer["sense"]), answer["residual"]
