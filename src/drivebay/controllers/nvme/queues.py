"""Submission and completion queues, and the doorbells of both (NVMe Base 2.0 section 3.3).

A doorbell is a register, or a pair of words in guest memory: the driver's, and the event index that
says when it shall write the register all the same (DOORBELL BUFFER CONFIG, Base 2.0 appendix B.5).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from drivebay.controllers.nvme.status import Status
from drivebay.controllers.nvme.structures import CQE_SIZE
from drivebay.platform.memory import GuestMemory, GuestMemoryFault
from drivebay.suspend import Resume, Suspension, Workers

if TYPE_CHECKING:
    from drivebay.platform.engine import Task

__all__ = ["CompletionQueue", "Quiet", "Row", "Shadow", "SubmissionQueue", "reachable"]

PHASE: Final = 1 << 48
"""Where the phase tag is in the second half of an entry."""
NEVER: Final = 0xFFFF
"""An event index that a queue's doorbell passes only when it wraps."""

Row = tuple[int, ...]
"""The fields of a `Command`, in its order."""


class Shadow:
    """A doorbell in guest memory: where the driver's word is, and where the event index."""

    def __init__(self, memory: GuestMemory, at: int, event_at: int, value: int) -> None:
        self._memory, self.at, self.event_at = memory, at, event_at
        self.used = False
        """The driver has written it, and what it writes to the register is a kick only."""
        self._first = value
        self.store(at, value)
        self.store(event_at, value)

    def store(self, at: int, value: int) -> None:
        """By one store. What is no memory takes nothing."""
        try:
            self._memory.view(at, 4).cast("I")[0] = value
        except GuestMemoryFault:
            return

    def load(self) -> int | None:
        """What the driver says; None if it has never said anything, or there is no memory."""
        try:
            value = self._memory.view(self.at, 4).cast("I")[0]
        except GuestMemoryFault:
            return None
        if not self.used:
            if value == self._first:
                return None
            self.used = True
        return value

    def want(self, index: int) -> None:
        """The register shall be written when the driver's word passes `index`."""
        self.store(self.event_at, index)

    def save(self) -> list[int]:
        """Where it is."""
        return [self.at, self.event_at, self._first, self.used]

    @classmethod
    def restore(cls, memory: GuestMemory, state: list[int]) -> Shadow:
        """What `save` gave."""
        shadow = cls.__new__(cls)
        shadow._memory = memory
        shadow.at, shadow.event_at, shadow._first, used = state
        shadow.used = bool(used)
        return shadow


class Quiet(Suspension[None]):
    """Waits until nothing of a submission queue is under way."""

    def __init__(self, queue: SubmissionQueue) -> None:
        self._queue = queue

    def begin(self, workers: Workers, resume: Resume) -> None:
        """Called by the engine."""
        self._queue.when_quiet(lambda: resume(None, None))


class SubmissionQueue:
    """Commands of the driver, `size` entries at guest physical `address`."""

    __slots__ = (
        "_when_quiet",
        "address",
        "cq",
        "dead",
        "deleting",
        "fused",
        "head",
        "id",
        "priority",
        "reason",
        "rows",
        "shadow",
        "size",
        "tail",
        "tasks",
    )

    def __init__(
        self, number: int, address: int, size: int, cq: CompletionQueue, priority: int = 0
    ) -> None:
        self.id, self.address, self.size = number, address, size
        self.cq, self.priority = cq, priority
        self.head = self.tail = 0
        self.shadow: Shadow | None = None
        self.rows: dict[int, Row] = {}
        """Commands under way, by id: what was read of the queue."""
        self.tasks: dict[int, Task] = {}
        """Those of them that wait for something."""
        self.fused: Row | None = None
        """The first of a fused pair, until its second comes."""
        self.reason = Status.ABORT_REQUESTED
        """What those are told that are given up."""
        self.deleting = False
        self.dead = False
        """The controller was reset: what ends is told nobody."""
        self._when_quiet: list[Callable[[], None]] = []

    def look(self) -> None:
        """Look at the doorbell in memory. A value that cannot be changes nothing."""
        if self.shadow is not None:
            value = self.shadow.load()
            if value is not None and value < self.size:
                self.tail = value

    @property
    def in_memory(self) -> bool:
        """Whether the driver uses the doorbell in memory: the register is a kick, then."""
        return self.shadow is not None and self.shadow.used

    @property
    def serves(self) -> bool:
        """Whether there is a command that may be taken now."""
        return (
            self.head != self.tail
            and not self.deleting
            and len(self.rows) < self.size
            and self.cq.room > 0
        )

    def kill(self) -> None:
        """Nobody is told of anything any more; what can be given up is."""
        self.dead = True
        for cid in [cid for cid in self.rows if cid not in self.tasks]:
            self.forget(cid)
        self.cancel()

    def cancel(self) -> None:
        """Give up what waits, where it can be given up."""
        for task in tuple(self.tasks.values()):
            task.cancel()

    def forget(self, cid: int) -> None:
        """A command has ended."""
        del self.rows[cid]
        self.tasks.pop(cid, None)
        if self._when_quiet and not self.rows:
            waiting, self._when_quiet = self._when_quiet, []
            for callback in waiting:
                callback()

    def when_quiet(self, callback: Callable[[], None]) -> None:
        """Call back as soon as nothing is under way."""
        if self.rows:
            self._when_quiet.append(callback)
        else:
            callback()

    @property
    def state(self) -> dict[str, int]:
        """For a person."""
        return {
            "size": self.size,
            "head": self.head,
            "tail": self.tail,
            "cq": self.cq.id,
            "under-way": len(self.rows),
        }

    def save(self) -> dict[str, Any]:
        """Everything; commands under way are saved as not begun."""
        return {
            "id": self.id,
            "address": self.address,
            "size": self.size,
            "cq": self.cq.id,
            "priority": self.priority,
            "head": self.head,
            "tail": self.tail,
            "rows": [list(row) for row in self.rows.values()],
            "shadow": None if self.shadow is None else self.shadow.save(),
        }

    @classmethod
    def restore(
        cls, memory: GuestMemory, state: dict[str, Any], cq: CompletionQueue
    ) -> SubmissionQueue:
        """What `save` gave; its commands are the caller's to begin."""
        queue = cls(state["id"], state["address"], state["size"], cq, state["priority"])
        queue.head, queue.tail = state["head"], state["tail"]
        if state["shadow"] is not None:
            queue.shadow = Shadow.restore(memory, state["shadow"])
        return queue


class CompletionQueue:
    """How commands ended, `size` entries at `address`; interrupts go to `vector` if `interrupts`.

    What finds no room waits, and no more commands are taken for it.
    """

    __slots__ = (
        "address",
        "head",
        "id",
        "interrupts",
        "phase",
        "shadow",
        "size",
        "tail",
        "users",
        "vector",
        "waiting",
    )

    def __init__(
        self, number: int, address: int, size: int, *, vector: int = 0, interrupts: bool = True
    ) -> None:
        self.id, self.address, self.size = number, address, size
        self.vector, self.interrupts = vector, interrupts
        self.head = self.tail = 0
        self.phase = PHASE
        self.shadow: Shadow | None = None
        self.waiting: list[int] = []
        """Entries to be posted, two numbers each: DW1 and DW0, then DW3 and DW2."""
        self.users = 0
        """Submission queues that complete here."""

    @property
    def room(self) -> int:
        """Entries that are free, less what waits for them."""
        return (self.head - self.tail - 1) % self.size - len(self.waiting) // 2

    @property
    def untaken(self) -> int:
        """Entries that the driver has not said to have seen."""
        return (self.tail - self.head) % self.size

    @property
    def in_memory(self) -> bool:
        """Whether the driver uses the doorbell in memory: the register is a kick, then."""
        return self.shadow is not None and self.shadow.used

    def look(self) -> None:
        """Look at the doorbell in memory. A value that cannot be changes nothing."""
        if self.shadow is not None:
            value = self.shadow.load()
            if value is not None and value < self.size:
                self.head = value

    def post(self, memory: GuestMemory) -> int:
        """Store in `memory` what waits and finds room; how many. Raises `GuestMemoryFault`.

        The half with the phase tag goes last, by one aligned store: the driver polls it.
        """
        waiting, size, tail = self.waiting, self.size, self.tail
        count = min((self.head - tail - 1) % size, len(waiting) // 2)
        if not count:
            return 0
        entries = memory.view(self.address, size * CQE_SIZE).cast("Q")
        phase = self.phase
        for n in range(0, 2 * count, 2):
            at = 2 * tail
            entries[at] = waiting[n]
            entries[at + 1] = waiting[n + 1] | phase
            tail += 1
            if tail == size:
                tail = 0
                phase ^= PHASE
        self.tail, self.phase = tail, phase
        del waiting[: 2 * count]
        return count

    @property
    def state(self) -> dict[str, int]:
        """For a person."""
        return {
            "size": self.size,
            "head": self.head,
            "tail": self.tail,
            "vector": self.vector,
            "waiting": len(self.waiting) // 2,
        }

    def save(self) -> dict[str, Any]:
        """Everything."""
        return {
            "id": self.id,
            "address": self.address,
            "size": self.size,
            "vector": self.vector,
            "interrupts": self.interrupts,
            "head": self.head,
            "tail": self.tail,
            "phase": bool(self.phase),
            "waiting": list(self.waiting),
            "shadow": None if self.shadow is None else self.shadow.save(),
        }

    @classmethod
    def restore(cls, memory: GuestMemory, state: dict[str, Any]) -> CompletionQueue:
        """What `save` gave."""
        queue = cls(
            state["id"],
            state["address"],
            state["size"],
            vector=state["vector"],
            interrupts=state["interrupts"],
        )
        queue.head, queue.tail = state["head"], state["tail"]
        queue.phase = PHASE if state["phase"] else 0
        queue.waiting[:] = state["waiting"]
        if state["shadow"] is not None:
            queue.shadow = Shadow.restore(memory, state["shadow"])
        return queue


def reachable(memory: GuestMemory, address: int, length: int) -> bool:
    """Whether a queue may be there: it is RAM, all in one region."""
    try:
        memory.view(address, length)
    except GuestMemoryFault:
        return False
    return True
