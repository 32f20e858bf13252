"""DMA by messages: what the client does not share is read and written by asking it.

The client may not look at its memory as long as we owe it an answer (QEMU holds a lock). So where
there is such memory a region write is answered before it is done, and while a device waits for its
DMA_READ the client's own commands are answered: writes are done later, unless a read must see them.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from drivebay.hosts.peer import PeerError
from drivebay.hosts.vfio_user.codec import NO_REPLY, Message, encode, reply
from drivebay.hosts.vfio_user.memory import ClientMemory
from drivebay.hosts.vfio_user.messages import Command, DmaAccess, RegionAccess
from drivebay.platform.engine import Engine
from drivebay.platform.logs import RationedLog

__all__ = ["DmaByMessages", "Link"]

DMA_SECONDS: Final = 2.0
"""So long a client may take to read or write its own memory for us."""
LOOK_AGAIN: Final = 0.001
MAX_DEPTH: Final = 4
"""DMA_READs that may wait for each other."""
WANTED: Final = (
    "QEMU needs -object memory-backend-memfd,id=mem,size=SIZE,share=on "
    "with -machine ...,memory-backend=mem -m SIZE"
)
UNSHARED: Final = "guest memory is not shared, so that DMA goes by messages and is slow"
PRIVATE: Final = (
    "guest memory is all zeroes when the guest enables DMA: it is not shared, and data will be lost"
)


class Link(Protocol):
    """The way to the client. Nothing raises, whatever has become of that."""

    def send(self, data: bytes, fd: int | None = None) -> None:
        """Send an answer, and perhaps a descriptor with it."""

    def send_all(self, data: bytes, seconds: float) -> None:
        """Send more than may find room at once."""

    def wait_for(self, wanted: Callable[[Any, bool], bool], seconds: float) -> Any | None:
        """The next message that is wanted; told the message, and whether it is the first."""

    def fail(self, why: object) -> None:
        """Close the connection, soon."""

    def resumed(self) -> None:
        """The session is no longer busy."""


class DmaByMessages:
    """The carrier of `memory`. `handle` does a command of the client's, any but a region write."""

    def __init__(
        self,
        memory: ClientMemory,
        engine: Engine,
        link: Link,
        peer_log: RationedLog,
        handle: Callable[[Message], None],
    ) -> None:
        self._memory, self._engine, self._link, self._log = memory, engine, link, peer_log
        self._handle = handle
        self._ids = itertools.count()
        self._depth = 0  # DMA_READs that wait
        self.behind: deque[Message] = deque()
        """Writes that were answered and wait for those."""
        self._unanswered: set[int] = set()  # DMA_WRITEs
        self._when_answered: list[Callable[[], None]] = []
        self._told = self._looked = self._closed = False
        self._flushing = self._catching_up = False
        memory.carrier = self

    def look_shared(self) -> None:
        """Tell, once, whoever may change that."""
        if not self._told and not self._memory.shared:
            self._told = True
            self._log.warning("vfio-user: %s: %s", UNSHARED, WANTED)

    def look_private(self) -> None:
        """Tell, once, of memory whose files are not what the guest sees (share=off)."""
        if not self._looked:
            self._looked = True
            if self._memory.looks_private:
                self._log.warning("vfio-user: %s: %s", PRIVATE, WANTED)

    # -- reading ---------------------------------------------------------------------------------

    def fetch(self, address: int, length: int) -> bytes | None:
        """DMA_READ, and wait."""
        self.look_shared()
        identity = self._next_id()
        payload = DmaAccess(address, length).pack()
        self._link.send(encode(Command.DMA_READ, payload, identity))
        self._depth += 1
        try:
            while (message := self._link.wait_for(self._is_urgent, DMA_SECONDS)) is not None:
                if not message.is_reply or message.id != identity:
                    self._meanwhile(message)
                    continue
                data: bytes = message.payload[DmaAccess.size :]
                message.close_fds()
                return data if not message.failed and len(data) == length else None
            return None
        finally:
            self._depth -= 1
            if self.behind:
                self._engine.later(self.catch_up)

    def _is_urgent(self, message: Message, first: bool) -> bool:
        if message.is_reply or message.command == Command.DEVICE_SET_IRQS:
            return True
        return (
            first
            and message.command in (Command.REGION_READ, Command.REGION_WRITE)
            and self._depth <= MAX_DEPTH
        )

    def _meanwhile(self, message: Message) -> None:
        """Handle a message within a device's work: a mistake of the peer's must not end there."""
        try:
            if message.command == Command.REGION_WRITE and not message.is_reply:
                if message.wants_reply:
                    self._link.send(reply(message, message.payload[: RegionAccess.size]))
                self.behind.append(message._replace(flags=NO_REPLY))
                return
            if message.command == Command.REGION_READ:
                self.catch_up()
            self._handle(message)
        except (PeerError, OSError) as error:
            self._link.fail(error)

    def catch_up(self) -> None:
        """Do the writes that were put off, before anything that comes after them."""
        if self._catching_up:
            return
        self._catching_up = True
        try:
            while self.behind and not self._closed:
                self._handle(self.behind.popleft())
        except PeerError as error:
            self._link.fail(error)
        finally:
            self._catching_up = False

    # -- writing ---------------------------------------------------------------------------------

    def store(self, address: int, data: bytes) -> None:
        """DMA_WRITE, not waiting."""
        identity = self._next_id()
        self._unanswered.add(identity)
        payload = DmaAccess(address, len(data)).pack() + data
        self._link.send_all(encode(Command.DMA_WRITE, payload, identity), DMA_SECONDS)

    def _next_id(self) -> int:
        return next(self._ids) & 0xFFFF

    def answered(self, message: Message) -> None:
        """The client has written its memory, or could not."""
        if message.id not in self._unanswered:
            raise PeerError(f"a reply to a {message.name} that was not asked")
        self._unanswered.discard(message.id)
        if message.failed:
            self._log.warning("vfio-user: the client does not write its memory: %d", message.error)
        if not self._unanswered:
            waiting, self._when_answered = self._when_answered, []
            for callback in waiting:
                callback()

    def when_written(self, callback: Callable[[], None]) -> None:
        """Call `callback` when all that the device has written is in the client's memory."""
        if self._memory.write_back() or self._unanswered:
            self._when_answered.append(callback)
        else:
            callback()

    def flush(self) -> None:
        """Send what devices have written, and again as long as they may."""
        self._memory.write_back()
        if self._memory.has_copies and not self._flushing:
            self._flushing = True
            self._engine.after(LOOK_AGAIN, self._flush_later)

    def _flush_later(self) -> None:
        self._flushing = False
        if not self._closed:
            self.flush()

    def close(self) -> None:
        """The client is gone, and whoever waits for it."""
        self._closed = True
        self.behind.clear()
        self._when_answered.clear()
        self._memory.carrier = None
