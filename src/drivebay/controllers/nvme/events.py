"""Asynchronous events: something has happened, and a host wants to know (Base 2.0 section 5.2)."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from drivebay.controllers.nvme.identity import OAES
from drivebay.controllers.nvme.opcodes import EventType, LogId, NoticeEvent
from drivebay.controllers.nvme.queues import SubmissionQueue
from drivebay.controllers.nvme.status import Refused, Status
from drivebay.controllers.nvme.structures import Command

if TYPE_CHECKING:
    from drivebay.controllers.nvme.controller import Controller

__all__ = ["MOST_REQUESTS", "Events"]

MOST_REQUESTS: Final = 8
"""Asynchronous Event Requests that may be outstanding."""
SMART_WARNINGS: Final = 0xFF
EVERYTHING: Final = SMART_WARNINGS | OAES.NamespaceAttributes | OAES.FirmwareActivation
_NOTICES: Final = {
    NoticeEvent.NAMESPACE_ATTRIBUTES: int(OAES.NamespaceAttributes),
    NoticeEvent.FIRMWARE_ACTIVATION: int(OAES.FirmwareActivation),
}
HELD = -1

Event = tuple[int, int, int]


class Events:
    """What the host of `controller` is to be told, and with which requests.

    An event that was told is not told again before its log page was read.
    """

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self.wanted = EVERYTHING
        """The Asynchronous Event Configuration feature."""
        self._requests: deque[int] = deque()
        self._events: deque[Event] = deque()
        self._told: set[Event] = set()

    def request(self, sq: SubmissionQueue, command: Command) -> int:
        """ASYNC EVENT REQUEST: it ends when there is something to tell. Raises `Refused`."""
        if len(self._requests) >= MOST_REQUESTS:
            raise Refused(Status.ASYNC_EVENT_LIMIT_EXCEEDED, f"{MOST_REQUESTS} are outstanding")
        self._requests.append(command.cid)
        self._deliver()
        return HELD

    def abort(self, cid: int) -> bool:
        """Whether there was such a request; it is forgotten."""
        found = cid in self._requests
        if found:
            self._requests.remove(cid)
        return found

    def tell(self, kind: EventType, info: int, log: LogId) -> None:
        """Something has happened; `log` says more."""
        event = (int(kind), info, int(log))
        if not self._is_wanted(kind, info) or event in self._told or event in self._events:
            return
        self._events.append(event)
        self._deliver()

    def _is_wanted(self, kind: EventType, info: int) -> bool:
        if kind == EventType.NOTICE:
            return bool(self.wanted & _NOTICES[NoticeEvent(info)])
        return True  # health looks at its own bits

    def read(self, log: int) -> None:
        """The log page was read, and its events may be told again."""
        self._told = {event for event in self._told if event[2] != log}

    def _deliver(self) -> None:
        controller = self._controller
        admin = controller.sqs[0]
        while self._requests and self._events and admin is not None and controller.working:
            event = self._events.popleft()
            self._told.add(event)
            kind, info, log = event
            cid = self._requests.popleft()
            controller.worker.finish(admin, cid, log << 16 | info << 8 | kind, 0)

    def reset(self) -> None:
        """No requests, no events, every kind wanted."""
        self.wanted = EVERYTHING
        self._requests.clear()
        self._events.clear()
        self._told.clear()

    def save(self) -> dict[str, Any]:
        """Everything but the requests, which are commands under way."""
        return {
            "wanted": self.wanted,
            "events": [list(event) for event in self._events],
            "told": [list(event) for event in sorted(self._told)],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `save` gave."""
        self.reset()
        self.wanted = state["wanted"]
        self._events.extend((kind, info, log) for kind, info, log in state["events"])
        self._told = {(kind, info, log) for kind, info, log in state["told"]}
