"""The qtest host: a machine worked through a qtest socket, and looked after through a QMP one."""

from __future__ import annotations

import logging
import socket
from typing import Final

from drivebay.hosts.qtest.monitor import Monitor
from drivebay.hosts.qtest.qmp import QmpSession
from drivebay.hosts.qtest.runstate import RunState
from drivebay.hosts.qtest.session import QtestSession
from drivebay.hosts.stream import Stream
from drivebay.platform.machine import Machine

__all__ = ["QtestHost"]

log = logging.getLogger(__name__)

MOST_ANSWERS: Final = 64 << 20
"""Bytes of qtest answers that may wait: one that is as long as can be, and what came before."""
MOST_EVENTS: Final = 16 << 20
"""Bytes of QMP answers and events that nobody reads."""


class QtestHost:
    """Serves `machine` to whoever is behind `qtest` and `qmp`, two connected sockets.

    The engine is stopped when the test has hung up its qtest socket, or says quit.
    """

    def __init__(
        self, machine: Machine, state: RunState, qtest: socket.socket, qmp: socket.socket | None
    ) -> None:
        self._engine = engine = machine.board.engine
        self._monitor = Monitor(machine, state, engine.stop)
        self._qtest = Stream(engine, qtest, most=MOST_ANSWERS)
        self._session = QtestSession(machine.board, machine.clock, self._qtest)
        self._qmp: Stream | None = None
        if qmp is not None:
            self._qmp = Stream(engine, qmp, most=MOST_EVENTS)
            commands = QmpSession(self._monitor, engine, self._qmp)
            self._qmp.start(commands.receive, closed=lambda: log.info("QMP: the test has left"))
        self._qtest.start(self._session.receive, closed=self._left, room=self._session.room)

    def _left(self) -> None:
        log.info("qtest: the test has left")
        self._session.close()
        self._engine.stop()

    def close(self) -> None:
        """Say good-bye and hang up."""
        self._monitor.emit("SHUTDOWN", {"guest": False, "reason": "host-signal"})
        for stream in (self._qtest, self._qmp):
            if stream is not None:
                stream.close()
        self._monitor.close()
