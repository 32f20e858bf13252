"""The driver of a controller: enable, admin commands, I/O queues."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final

from drivebay.controllers.nvme.identity import IdentifyController, IdentifyNamespace
from drivebay.controllers.nvme.opcodes import AdminOpcode, Cns, FeatureId
from drivebay.controllers.nvme.registers import (
    AQA,
    CAP,
    CC,
    CSTS,
    DOORBELLS_AT,
    NSSR_MAGIC,
    NvmeRegisters,
    Shutdown,
    ShutdownStatus,
)
from drivebay.controllers.nvme.structures import Command, Completion
from drivebay.drivers.arena import Arena
from drivebay.drivers.nvme.errors import NvmeError, NvmeTimeout
from drivebay.drivers.nvme.namespace import NvmeNamespace
from drivebay.drivers.nvme.queue import DbBuf, QueuePair
from drivebay.drivers.pci import Mmio

__all__ = ["NvmeDriver"]

REGISTERS: Final = NvmeRegisters.registers
PAGE: Final = 4096
ENTRY_SIZES: Final = (6, 4)


class NvmeDriver:
    """A driver of the registers at `base`. It resets and enables the controller, and creates
    `queues` pairs of I/O queues of `depth` entries.

    `poll` is called while something is awaited, at most `patience` times. `raised` says whether the
    interrupt of a vector has come; without it the driver polls its completion queues. `buffer` is
    the size in bytes of the area that data goes through.
    """

    def __init__(
        self,
        mmio: Mmio,
        base: int,
        arena: Arena,
        *,
        poll: Callable[[], None],
        raised: Callable[[int], bool] | None = None,
        queues: int = 1,
        depth: int = 64,
        buffer: int = 2 << 20,
        arbitration: int = 0,
        patience: int = 10_000,
    ) -> None:
        self.mmio, self.base, self.arena, self.memory = mmio, base, arena, arena.memory
        self.poll, self.raised, self.patience = poll, raised, patience
        self.capabilities = CAP(self.get("CAP"))
        self.stride = 4 << self.capabilities.DSTRD
        self.arbitration = arbitration
        self.buffer, self.buffer_size = arena.take(buffer, PAGE), buffer
        self._lists = arena.take(16 * PAGE, PAGE)
        self.admin = QueuePair(self, 0, depth)
        self.io: list[QueuePair] = []
        self.enable()
        self.identity = self.identify_controller()
        self.create_queues(queues, depth)

    # -- registers -------------------------------------------------------------------------------

    def get(self, name: str) -> int:
        """A register."""
        at = REGISTERS[name]
        return self.mmio.read(self.base + at.offset, at.type.size)

    def put(self, name: str, value: int) -> None:
        """Write one."""
        at = REGISTERS[name]
        self.mmio.write(self.base + at.offset, at.type.size, value)

    def doorbell(self, number: int, value: int) -> None:
        """Write doorbell `number`: twice the queue's, and one more for its completions."""
        self.mmio.write(self.base + DOORBELLS_AT + number * self.stride, 4, value)

    def wait(self, condition: Callable[[], object], what: str) -> None:
        """Poll until `condition` holds. Raises `NvmeTimeout`."""
        for _ in range(self.patience):
            if condition():
                return
            self.poll()
        raise NvmeTimeout(what)

    @property
    def status(self) -> CSTS:
        """CSTS."""
        return CSTS(self.get("CSTS"))

    # -- life ------------------------------------------------------------------------------------

    def enable(self) -> None:
        """Reset and enable; the admin queues begin anew. Raises `NvmeError` if it cannot be."""
        self.disable()
        admin = self.admin
        self._clear(admin)
        self.put("AQA", AQA.of(ACQS_z=admin.size - 1, ASQS_z=admin.size - 1))
        self.put("ASQ", admin.sq)
        self.put("ACQ", admin.cq)
        sqes, cqes = ENTRY_SIZES
        self.put("CC", CC.of(EN=1, IOSQES=sqes, IOCQES=cqes, AMS=self.arbitration))
        self.wait(lambda: self.status & (CSTS.RDY | CSTS.CFS), "the controller does not get ready")
        if self.status.CFS:
            raise NvmeError("the controller says CFS")

    def disable(self) -> None:
        """Controller reset."""
        self.put("CC", CC(self.get("CC")).replace(EN=0, SHN=0))
        self.wait(lambda: not self.status.RDY, "the controller stays ready")
        self.io = []

    def _clear(self, queue: QueuePair) -> None:
        queue.tail = queue.head = queue.sq_head = 0
        queue.phase, queue.dbbuf = 1, None
        queue.done.clear()
        self.memory.view(queue.cq, queue.size * 16)[:] = bytes(queue.size * 16)

    def shut_down(self, how: Shutdown = Shutdown.NORMAL) -> None:
        """Tell it of the end, and wait until it is ready for that."""
        self.put("CC", CC(self.get("CC")).replace(SHN=how))
        complete = ShutdownStatus.COMPLETE
        self.wait(lambda: complete == self.status.SHST, "the shutdown does not end")

    def subsystem_reset(self) -> None:
        """NSSR."""
        self.put("NSSR", NSSR_MAGIC)

    # -- commands --------------------------------------------------------------------------------

    def command(
        self,
        opcode: int,
        *,
        nsid: int = 0,
        dwords: Sequence[int] = (),
        data: tuple[int, int] = (0, 0),
        flags: int = 0,
        cid: int | None = None,
        slot: int = 0,
    ) -> Command:
        """A command with CDW10 and following, and `data` at an address, of a length.

        Its PRP list, if it needs one, is in `slot` of 16.
        """
        number = self.admin.next_id() if cid is None else cid
        prp1, prp2 = self.prps(*data, slot) if data[1] else (0, 0)
        words = (*dwords, 0, 0, 0, 0, 0, 0)[:6]
        return Command(opcode, flags, number, nsid, 0, 0, 0, prp1, prp2, *words)

    def prps(self, address: int, length: int, slot: int = 0) -> tuple[int, int]:
        """PRP1 and PRP2 of a buffer, with a list for one of more than two pages."""
        first = PAGE - address % PAGE
        if length <= first:
            return address, 0
        pages = range(address + first, address + length, PAGE)
        if len(pages) == 1:
            return address, pages[0]
        at = self._lists + slot * PAGE
        if len(pages) > PAGE // 8:
            raise NvmeError(f"{length} bytes need more than a page of PRP entries")
        self.memory.view(at, 8 * len(pages))[:] = struct.pack(f"<{len(pages)}Q", *pages)
        return address, at

    def run(
        self,
        opcode: int,
        *,
        nsid: int = 0,
        dwords: Sequence[int] = (),
        room: int = 0,
        data: bytes = b"",
    ) -> tuple[Completion, bytes]:
        """An admin command that takes `data`, or gives up to `room` bytes. Raises `NvmeError`."""
        length = len(data) or room
        if data:
            self.memory.view(self.buffer, length)[:] = data
        command = self.command(opcode, nsid=nsid, dwords=dwords, data=(self.buffer, length))
        name = AdminOpcode(opcode).name if opcode in AdminOpcode._value2member_map_ else ""
        completion = self.admin.execute(command, name)
        return completion, bytes(self.memory.view(self.buffer, room)) if room else b""

    def identify(self, cns: int, nsid: int = 0, *, cntid: int = 0, command_set: int = 0) -> bytes:
        """IDENTIFY."""
        dwords = (cntid << 16 | cns, command_set << 24)
        return self.run(AdminOpcode.IDENTIFY, nsid=nsid, dwords=dwords, room=4096)[1]

    def identify_controller(self) -> IdentifyController:
        """CNS 01h."""
        return IdentifyController.unpack(self.identify(Cns.CONTROLLER))

    def identify_namespace(self, nsid: int) -> IdentifyNamespace:
        """CNS 00h."""
        return IdentifyNamespace.unpack(self.identify(Cns.NAMESPACE, nsid))

    def namespaces(self) -> list[int]:
        """Ids of the active namespaces, up to 1024."""
        found = struct.unpack("<1024I", self.identify(Cns.ACTIVE_NAMESPACES))
        return [nsid for nsid in found if nsid]

    def namespace(self, nsid: int) -> NvmeNamespace:
        """A namespace, through the first pair of I/O queues."""
        return NvmeNamespace(self, nsid)

    def log_page(
        self, log: int, size: int, *, offset: int = 0, retain: bool = False, nsid: int = 0xFFFFFFFF
    ) -> bytes:
        """GET LOG PAGE, of `size` bytes (a multiple of 4)."""
        count = size // 4 - 1
        dwords = (count << 16 & 0xFFFF0000 | retain << 15 | log, count >> 16, offset & 0xFFFFFFFF,
                  offset >> 32)  # fmt: skip
        return self.run(AdminOpcode.GET_LOG_PAGE, nsid=nsid, dwords=dwords, room=size)[1]

    def get_feature(
        self, number: int, *, select: int = 0, cdw11: int = 0, room: int = 0, nsid: int = 0
    ) -> tuple[int, bytes]:
        """GET FEATURES: the value, and data where there is any."""
        completion, data = self.run(
            AdminOpcode.GET_FEATURES, nsid=nsid, dwords=(select << 8 | number, cdw11), room=room
        )
        return completion.dw0, data

    def set_feature(self, number: int, value: int = 0, *, data: bytes = b"", nsid: int = 0) -> int:
        """SET FEATURES."""
        return self.run(AdminOpcode.SET_FEATURES, nsid=nsid, dwords=(number, value), data=data)[
            0
        ].dw0

    # -- queues ----------------------------------------------------------------------------------

    def create_queues(self, count: int, depth: int) -> None:
        """Ask for `count` pairs of I/O queues, and create them."""
        self.set_feature(FeatureId.NUMBER_OF_QUEUES, (count - 1) << 16 | count - 1)
        for _ in range(count):
            self.create_queue(depth)

    def create_queue(
        self, depth: int, *, priority: int = 0, vector: int | None = None
    ) -> QueuePair:
        """Another pair."""
        number = len(self.io) + 1
        queue = QueuePair(self, number, depth, number if vector is None else vector)
        size = (depth - 1) << 16 | number
        create = self.command(
            AdminOpcode.CREATE_IO_CQ,
            dwords=(size, queue.vector << 16 | 3),
            data=(queue.cq, 1),
        )
        self.admin.execute(create, "CREATE_IO_CQ")
        create = self.command(
            AdminOpcode.CREATE_IO_SQ,
            dwords=(size, number << 16 | priority << 1 | 1),
            data=(queue.sq, 1),
        )
        self.admin.execute(create, "CREATE_IO_SQ")
        self.io.append(queue)
        return queue

    def use_doorbell_buffers(self) -> None:
        """DOORBELL BUFFER CONFIG: from now on doorbells are words in memory."""
        words, events = self.arena.take(PAGE, PAGE), self.arena.take(PAGE, PAGE)
        number = self.admin.next_id()
        command = Command(
            AdminOpcode.DOORBELL_BUFFER_CONFIG, 0, number, 0, 0, 0, 0, words, events, *(0,) * 6
        )
        self.admin.execute(command, "DOORBELL_BUFFER_CONFIG")
        for queue in self.io:
            queue.dbbuf = DbBuf(self, words, events)
