"""A pair of queues, from the driver's side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from drivebay.controllers.nvme.structures import CQE_SIZE, SQE_SIZE, Command, Completion
from drivebay.drivers.nvme.errors import NvmeError, NvmeTimeout

if TYPE_CHECKING:
    from drivebay.drivers.nvme.controller import NvmeDriver

__all__ = ["DbBuf", "QueuePair"]

PAGE: Final = 4096


class DbBuf:
    """The driver's half of doorbells in memory: the words, and the event indices."""

    def __init__(self, driver: NvmeDriver, words: int, events: int) -> None:
        self._memory, self._stride = driver.memory, driver.stride
        self._words, self._events = words, events

    def needs_register(self, number: int, value: int) -> bool:
        """Store a doorbell; whether the controller wants its register written, too."""
        at = number * self._stride
        word = self._memory.view(self._words + at, 4).cast("I")
        event = self._memory.view(self._events + at, 4).cast("I")[0]
        old, word[0] = word[0], value
        return (value - event - 1) & 0xFFFF < (value - old) & 0xFFFF


class QueuePair:
    """Submission and completion queue `number`, of `size` entries each."""

    def __init__(self, driver: NvmeDriver, number: int, size: int, vector: int = 0) -> None:
        self.driver, self.number, self.size, self.vector = driver, number, size, vector
        self.memory = driver.memory
        self.sq = driver.arena.take(size * SQE_SIZE, PAGE)
        self.cq = driver.arena.take(size * CQE_SIZE, PAGE)
        self.tail = self.head = self.sq_head = 0
        self.phase = 1
        self.dbbuf: DbBuf | None = None
        self.done: dict[int, Completion] = {}
        """Completions that nobody has asked for yet, by command id."""
        self._ids = 0

    def next_id(self) -> int:
        """A command id that was not used lately."""
        self._ids = (self._ids + 1) % 0xFFFF
        return self._ids

    # -- submitting ------------------------------------------------------------------------------

    def put(self, command: Command) -> int:
        """Write a command into the queue; nobody is told. Returns its id. Raises `NvmeError` if
        the queue is full.
        """
        following = (self.tail + 1) % self.size
        if following == self.sq_head:
            raise NvmeError(f"submission queue {self.number} is full")
        at = self.sq + SQE_SIZE * self.tail
        self.memory.view(at, SQE_SIZE)[:] = command.pack()
        self.tail = following
        return command.cid

    def ring(self) -> None:
        """Tell the controller of what was put."""
        self._ring(2 * self.number, self.tail)

    def _ring(self, number: int, value: int) -> None:
        if self.dbbuf is None or self.dbbuf.needs_register(number, value):
            self.driver.doorbell(number, value)

    # -- completing ------------------------------------------------------------------------------

    def reap(self) -> int:
        """Take completions; how many there were."""
        count = 0
        while True:
            at = self.cq + CQE_SIZE * self.head
            entry = Completion.unpack(self.memory.view(at, CQE_SIZE))
            if entry.status & 1 != self.phase:
                break
            self.sq_head = entry.sqhd
            self.done[entry.cid] = entry
            self.head += 1
            if self.head == self.size:
                self.head, self.phase = 0, self.phase ^ 1
            count += 1
        if count:
            self._ring(2 * self.number + 1, self.head)
        return count

    def wait(self, cid: int) -> Completion:
        """The completion of a command. Raises `NvmeTimeout`."""
        for _ in range(self.driver.patience):
            if self.driver.raised is None or self.driver.raised(self.vector):
                self.reap()
            if cid in self.done:
                return self.done.pop(cid)
            self.driver.poll()
        raise NvmeTimeout(f"command {cid:#x} of queue {self.number} does not end")

    def finish(self, cid: int, what: str) -> Completion:
        """The same; raises `NvmeError` if the command has failed."""
        completion = self.wait(cid)
        if completion.status >> 1:
            raise NvmeError(what, completion)
        return completion

    def execute(self, command: Command, what: str = "") -> Completion:
        """Put, ring and finish. Raises `NvmeError`."""
        self.put(command)
        self.ring()
        return self.finish(command.cid, what or f"opcode {command.opcode:#04x}")
