"""A controller: its registers, its life from enable to shutdown, and its queues (Base 2.0 3)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from drivebay.controllers.nvme.admin import Admin
from drivebay.controllers.nvme.arbitration import Turns
from drivebay.controllers.nvme.events import Events
from drivebay.controllers.nvme.features import Features
from drivebay.controllers.nvme.interrupts import Interrupts, Vectors
from drivebay.controllers.nvme.logpages import Logs, Statistics
from drivebay.controllers.nvme.namespace import Namespace
from drivebay.controllers.nvme.nvm import NvmCommands
from drivebay.controllers.nvme.observer import Observer
from drivebay.controllers.nvme.opcodes import ErrorEvent, EventType, LogId, NoticeEvent, Psdt
from drivebay.controllers.nvme.queues import CompletionQueue, SubmissionQueue, reachable
from drivebay.controllers.nvme.registers import (
    AQA,
    CAP,
    CC,
    CSTS,
    DOORBELLS_AT,
    NSSR_MAGIC,
    VERSION,
    Arbitration,
    CommandSet,
    NvmeRegisters,
    ShutdownStatus,
)
from drivebay.controllers.nvme.status import Refused, Status
from drivebay.controllers.nvme.structures import CQE_SIZE, SQE_SIZE, Command
from drivebay.controllers.nvme.subsystem import Subsystem
from drivebay.controllers.nvme.transfer import prp_views, sgl_views
from drivebay.controllers.nvme.worker import Worker, too_long
from drivebay.disk.buffers import gather, scatter
from drivebay.platform.engine import Engine, Linger, Task
from drivebay.platform.interrupts import Line
from drivebay.platform.logs import RationedLog
from drivebay.platform.memory import GuestMemory
from drivebay.platform.observer import Dropped

__all__ = ["MAX_QUEUES", "Controller"]

log = logging.getLogger(__name__)
guest_log = RationedLog(log)

MAX_QUEUES: Final = 1024
PAGE: Final = 4096
MPSMAX: Final = 4
"""Pages of 4 KiB to 64 KiB."""
MDTS: Final = 8
"""Transfers of up to 2^8 pages of 4 KiB: 1 MiB."""
READY_UNITS: Final = 40
"""CAP.TO: twenty seconds, in which a system call under way has surely ended."""
NOWHERE: Final = GuestMemory()
CC_WRITABLE: Final = CC.IOCQES | CC.IOSQES | CC.SHN | CC.AMS | CC.MPS | CC.CSS | CC.EN


class Controller:
    """Controller `cntlid` of `subsystem`, with up to `queues` pairs of I/O queues.

    `messages` and `pin` are where interrupts go. Doorbells are every 2^(2 + `stride`) bytes, and in
    memory, too, for drivers that want it, unless not `doorbell_buffers`.
    `linger` waits a moment for whether something comes, before the controller asks to be told;
    `linger_long` does where the driver has one command at a time, and gathers none meanwhile.
    """

    def __init__(
        self,
        subsystem: Subsystem,
        memory: GuestMemory,
        engine: Engine,
        messages: Vectors,
        pin: Line,
        *,
        queues: int = 64,
        stride: int = 0,
        doorbell_buffers: bool = True,
        cntlid: int | None = None,
        linger: Linger = lambda _came: False,
        linger_long: Linger | None = None,
    ) -> None:
        if not 1 <= queues <= MAX_QUEUES:
            raise ValueError(f"{queues} queues: NVMe has 1 to {MAX_QUEUES} here")
        if not 0 <= stride <= 15:
            raise ValueError(f"a doorbell stride of {stride}: 0 to 15")
        self.subsystem, self.engine, self._memory = subsystem, engine, memory
        self.linger, self.linger_long = linger, linger_long or linger
        self.may_master = True
        self.vendor = self.subsystem_vendor = 0
        """Of PCI, which IDENTIFY says again."""
        self.queues, self.doorbell_bytes = queues, 4 << stride
        # All doorbells must fit into a page (section 5.8).
        fit = 2 * (queues + 1) * self.doorbell_bytes <= PAGE
        self.doorbell_buffers = doorbell_buffers and fit
        self.sqs: list[SubmissionQueue | None] = [None] * (queues + 1)
        self.cqs: list[CompletionQueue | None] = [None] * (queues + 1)
        self.live_sqs: tuple[SubmissionQueue, ...] = ()
        self.live_cqs: tuple[CompletionQueue, ...] = ()
        self.interrupts = Interrupts(engine, messages, pin, lambda: self.live_cqs)
        self.fast: dict[int, Namespace] = {}
        """Namespaces by id that READ and WRITE may use without further questions."""
        self.attached: set[int] = set()
        self.statistics = Statistics()
        self.logs, self.features, self.events = Logs(self), Features(self), Events(self)
        self.admin, self.nvm = Admin(self), NvmCommands(self)
        self.worker = Worker(self)
        self.page_size = PAGE
        self.max_transfer = PAGE << MDTS
        self.mdts = MDTS
        self.shadows = False
        """Doorbells are in guest memory, too."""
        self.cc, self.csts = CC(0), CSTS(0)
        self.aqa = self.asq = self.acq = 0
        self.turns = Turns.of(self.features.arbitration, weighted=False)
        self._working = False
        self._observed = True
        """An observer has let it get ready, or there is none."""
        self._enabling: Task | None = None
        self._leaving: set[SubmissionQueue] = set()
        self._life = 0
        end = DOORBELLS_AT + 2 * (queues + 1) * self.doorbell_bytes
        self.size = 1 << (end - 1).bit_length()
        self._registers = NvmeRegisters.bind(self)
        self.cntlid = _free_number(subsystem) if cntlid is None else cntlid
        subsystem.controllers[self.cntlid] = self
        for nsid in subsystem.namespaces:
            self.attached.add(nsid)
        self.refresh()

    @property
    def memory(self) -> GuestMemory:
        """What it may reach: nothing if it is no bus master, and everything it tries is a fault."""
        return self._memory if self.may_master else NOWHERE

    def master(self, allowed: bool) -> None:
        """Bus mastering goes on or off: without it nothing is taken and nothing is told."""
        self.may_master = allowed
        if allowed:
            self.worker.publish()
            self.worker.kick()

    @property
    def working(self) -> bool:
        """Whether it takes commands: it is ready, well, and may master the bus."""
        return self._working and self.may_master

    def queues_changed(self) -> None:
        """Queues have come or gone."""
        self.live_sqs = tuple(sq for sq in self.sqs if sq is not None)
        self.live_cqs = tuple(cq for cq in self.cqs if cq is not None)

    def arbitration_changed(self) -> None:
        """Take turns as the host says."""
        weighted = self.cc.AMS == Arbitration.WEIGHTED
        self.turns = Turns.of(self.features.arbitration, weighted=weighted)

    @property
    def write_through(self) -> bool:
        """The host has switched the write cache off: every write is stable when it completes."""
        return not self.features.write_cache

    @property
    def observer(self) -> Observer | None:
        """Who sees commands before they act and completions before they are posted."""
        return self.worker.observer

    @observer.setter
    def observer(self, observer: Observer | None) -> None:
        self.worker.observer = observer
        self.refresh()

    # -- namespaces ------------------------------------------------------------------------------

    def attach(self, nsid: int) -> None:
        """Show a namespace."""
        self.attached.add(nsid)
        self.namespace_changed(nsid)

    def detach(self, nsid: int) -> None:
        """Show it no more."""
        if nsid in self.attached:
            self.attached.remove(nsid)
            self.namespace_changed(nsid)

    def namespace_changed(self, nsid: int) -> None:
        """The host shall look at a namespace again, if it has looked already."""
        self.refresh()
        if not self._working:
            return
        self.logs.namespace_changed(nsid)
        self.events.tell(
            EventType.NOTICE, NoticeEvent.NAMESPACE_ATTRIBUTES, LogId.CHANGED_NAMESPACES
        )

    def refresh(self) -> None:
        """What may be done with namespaces has changed."""
        found = {nsid: self.subsystem.namespaces.get(nsid) for nsid in self.attached}
        self.fast = {
            nsid: namespace
            for nsid, namespace in found.items()
            if namespace is not None and namespace.plain and self.worker.observer is None
        }

    # -- data ------------------------------------------------------------------------------------

    def buffers(self, command: Command, length: int) -> list[memoryview]:
        """The memory of a command's data. Raises `Refused`."""
        if length > self.max_transfer:
            raise too_long(length, self.max_transfer)
        if command.psdt == Psdt.PRP:
            return prp_views(self.memory, self.page_size, command.prp1, command.prp2, length)
        if command.psdt not in (Psdt.SGL, Psdt.SGL_METADATA):
            raise Refused(Status.INVALID_FIELD, f"PSDT {command.psdt}")
        return sgl_views(self.memory, command.prp1, command.prp2, length)

    def send(self, command: Command, data: bytes, length: int) -> None:
        """Give the host the first `length` bytes of `data`, with zeroes behind. Raises
        `Refused`.
        """
        if length:
            scatter(self.buffers(command, length), memoryview(data[:length].ljust(length, b"\0")))

    def receive(self, command: Command, length: int) -> bytes:
        """Take `length` bytes of the host's, once. Raises `Refused`."""
        into = bytearray(length)
        gather(self.buffers(command, length), memoryview(into))
        return bytes(into)

    # -- accesses --------------------------------------------------------------------------------

    def mmio_read(self, offset: int, width: int) -> int:
        """Registers can be read in parts; doorbells read zero."""
        value = 0
        for at in range(offset & ~3, min(offset + width, DOORBELLS_AT), 4):
            value |= self._dword(at) << 8 * (at - (offset & ~3))
        return value >> 8 * (offset & 3) & (1 << 8 * width) - 1

    def _dword(self, at: int) -> int:
        access = self._registers.get(at)
        if access is None:  # the high half of eight bytes?
            access = self._registers.get(at - 4)
            if access is None or access.type.size != 8 or access.read is None:
                return 0
            return access.read() >> 32
        return access.read() & 0xFFFFFFFF if access.read is not None else 0

    def mmio_write(self, offset: int, width: int, value: int) -> None:
        """Registers are written by dwords, one or two; less is dropped. So are doorbells, one."""
        if offset >= DOORBELLS_AT:
            self._ring(offset - DOORBELLS_AT, width, value)
            return
        if offset & 3 or width < 4:
            guest_log.warning("nvme: %d bytes at %#x: dropped", width, offset)
            return
        for at in range(0, width, 4):
            self._write_dword(offset + at, value >> 8 * at & 0xFFFFFFFF)

    def _write_dword(self, at: int, value: int) -> None:
        access = self._registers.get(at)
        if access is None:
            access = self._registers.get(at - 4)
            if access is not None and access.type.size == 8 and access.write and access.read:
                access.write(access.read() & 0xFFFFFFFF | value << 32)
        elif access.write is not None:
            if access.type.size == 8 and access.read is not None:
                value |= access.read() >> 32 << 32
            access.write(value)

    # -- doorbells (section 3.1.3, PCIe Transport 3.1.2) -----------------------------------------

    def _ring(self, offset: int, width: int, value: int) -> None:
        number, rest = divmod(offset, self.doorbell_bytes)
        if rest or width != 4 or not self._working:
            return
        queues = self.cqs if number & 1 else self.sqs
        queue = queues[number >> 1] if number >> 1 < len(queues) else None
        if queue is None:
            self.events.tell(EventType.ERROR, ErrorEvent.INVALID_DOORBELL, LogId.ERRORS)
            return
        if value >= queue.size:
            guest_log.warning("nvme: queue %d of %d: doorbell %d", queue.id, queue.size, value)
            self.events.tell(EventType.ERROR, ErrorEvent.INVALID_DOORBELL_VALUE, LogId.ERRORS)
            return
        if isinstance(queue, SubmissionQueue):
            if not queue.in_memory:
                queue.tail = value
            self.worker.kick()  # which looks what memory says
            return
        was_full = queue.room <= 0
        queue.look()
        if not queue.in_memory:
            queue.head = value
        if was_full:
            self.worker.publish_queue(queue)
            self.worker.kick()
        self.interrupts.drive_pin()

    # -- registers -------------------------------------------------------------------------------

    def read_CAP(self) -> int:
        """Capabilities."""
        return CAP.of(
            MPSMAX=MPSMAX,
            CSS=1 << CommandSet.NVM,
            NSSRS=1,
            DSTRD=self.doorbell_bytes.bit_length() - 3,
            TO=READY_UNITS,
            AMS=1,
            CQR=1,
            MQES_z=0xFFFF,
        )

    def read_VS(self) -> int:
        """2.0."""
        return VERSION

    def read_INTMS(self) -> int:
        """Vectors that do not work the pin."""
        return self.interrupts.mask

    def write_INTMS(self, value: int) -> None:
        """Mask some."""
        self.interrupts.mask |= value
        self.interrupts.drive_pin()

    def read_INTMC(self) -> int:
        """The same."""
        return self.interrupts.mask

    def write_INTMC(self, value: int) -> None:
        """Unmask some."""
        self.interrupts.mask &= ~value
        self.interrupts.drive_pin()

    def read_CC(self) -> int:
        """What it shall do."""
        return self.cc

    def write_CC(self, value: int) -> None:
        """Enable, disable, shut down."""
        before, self.cc = self.cc, CC(value & CC_WRITABLE)
        if self.cc.EN and not before.EN:
            if self.csts.RDY:  # the last reset is not done
                self.cc = self.cc.replace(EN=0)
                return
            self._enable()
        elif before.EN and not self.cc.EN:
            self._controller_reset()
        if self.cc.SHN and self.cc.SHN != before.SHN:
            self._shut_down()

    def read_CSTS(self) -> int:
        """What it does."""
        return self.csts

    def write_CSTS(self, value: int) -> None:
        """NSSRO is cleared by a one."""
        if value & CSTS.NSSRO:
            self.csts = self.csts.replace(NSSRO=0)

    def read_NSSR(self) -> int:
        """Nothing."""
        return 0

    def write_NSSR(self, value: int) -> None:
        """Reset the subsystem (section 3.7.1): every controller of it."""
        if value == NSSR_MAGIC:
            for controller in tuple(self.subsystem.controllers.values()):
                controller.reset()
                controller.csts = controller.csts.replace(NSSRO=1)

    def read_AQA(self) -> int:
        """Sizes of the admin queues."""
        return self.aqa

    def write_AQA(self, value: int) -> None:
        """Set them; nobody looks before the controller is enabled."""
        self.aqa = value & (AQA.ACQS_z | AQA.ASQS_z)

    def read_ASQ(self) -> int:
        """Where the admin submission queue is."""
        return self.asq

    def write_ASQ(self, value: int) -> None:
        """Say it."""
        self.asq = value & ~(PAGE - 1)

    def read_ACQ(self) -> int:
        """Where the admin completion queue is."""
        return self.acq

    def write_ACQ(self, value: int) -> None:
        """Say it."""
        self.acq = value & ~(PAGE - 1)

    # -- life ------------------------------------------------------------------------------------

    def _enable(self) -> None:
        """CC.EN was set: become ready, or say that this cannot be (section 3.5.1)."""
        cc, aqa = self.cc, AQA(self.aqa)
        self.csts = CSTS.of(NSSRO=self.csts.NSSRO)
        entries = (cc.IOSQES in (0, 6), cc.IOCQES in (0, 4))
        known = cc.AMS in (Arbitration.ROUND_ROBIN, Arbitration.WEIGHTED)
        if cc.CSS != CommandSet.NVM or cc.MPS > MPSMAX or not known or not all(entries):
            self.fail(f"it cannot be enabled with CC {int(cc):#x}")
            return
        self.page_size = PAGE << cc.MPS
        sizes = aqa.ASQS_z + 1, aqa.ACQS_z + 1
        places = ((self.asq, sizes[0] * SQE_SIZE), (self.acq, sizes[1] * CQE_SIZE))
        for address, length in places:
            aligned = not address & self.page_size - 1
            if min(sizes) < 2 or not aligned or not reachable(self.memory, address, length):
                self.fail(f"an admin queue of {length} bytes at {address:#x}")
                return
        cq = self.cqs[0] = CompletionQueue(0, self.acq, sizes[1])
        self.sqs[0] = SubmissionQueue(0, self.asq, sizes[0], cq)
        cq.users = 1
        self.queues_changed()
        self.arbitration_changed()
        if self.worker.observer is None:
            self._look_ready()
        else:
            self._observed = False
            enabled = partial(self._let, self._life)
            self._enabling = self.engine.start(self.worker.observer.enable(), enabled)

    def _let(self, life: int, _value: Any, error: BaseException | None) -> None:
        """The observer lets it get ready, or does not."""
        if life == self._life:
            self._observed = not isinstance(error, Dropped)
            if self._observed and error is not None:
                log.error("nvme: an observer has failed", exc_info=error)
            self._look_ready()

    def _look_ready(self) -> None:
        """Ready, as soon as nothing of an earlier life is under way and no observer minds."""
        if self.cc.EN and self._observed and not self._leaving and not self.csts.CFS:
            self.csts = self.csts.replace(RDY=1)
            self._working = True
            self.admin.keep_alive.start()

    def fail(self, why: str) -> None:
        """A fatal error (CSTS.CFS): nothing is served until a reset."""
        guest_log.warning("nvme: fatal: %s", why)
        self.csts = self.csts.replace(CFS=1)
        self._working = False

    def _controller_reset(self) -> None:
        """CC.EN was cleared (section 3.7.2): the admin queues' places are kept.

        RDY stays until nothing reaches memory any more.
        """
        self._stop()
        ready = self.csts.RDY and bool(self._leaving)
        self.csts = CSTS.of(NSSRO=self.csts.NSSRO, RDY=ready)

    def _stop(self) -> None:
        """Drop every queue, and all that hosts have set."""
        self._working, self._observed = False, True
        self._life += 1
        if self._enabling is not None:
            self._enabling.cancel()
            self._enabling = None
        for number, sq in enumerate(self.sqs):
            if sq is not None:
                self.sqs[number] = None
                self.retire(sq)
        self.cqs[:] = [None] * len(self.cqs)
        self.queues_changed()
        self.shadows = False
        self.page_size = PAGE
        self.interrupts.reset()
        self.features.reset()
        self.events.reset()
        self.logs.reset()
        self.admin.reset()
        self.nvm.reservations.reset()

    def retire(self, sq: SubmissionQueue) -> None:
        """A queue is gone; what of it cannot be given up ends in silence."""
        sq.kill()
        if sq.rows:
            self._leaving.add(sq)
            sq.when_quiet(partial(self._left, sq))

    def _left(self, sq: SubmissionQueue) -> None:
        self._leaving.discard(sq)
        if not self._leaving:
            if not self.cc.EN:
                self.csts = self.csts.replace(RDY=0)
            elif not self._working:
                self._look_ready()

    @property
    def at_rest(self) -> bool:
        """Whether nothing is under way."""
        return not self._leaving and not any(sq.tasks for sq in self.live_sqs)

    def _shut_down(self) -> None:
        """CC.SHN (section 3.6): make everything stable, then say so."""
        self.csts = self.csts.replace(SHST=ShutdownStatus.OCCURRING)
        found = [self.subsystem.namespaces[nsid] for nsid in sorted(self.attached)]
        waiting = [each for each in found if not each.disk.read_only]
        life = self._life

        def ended(_value: Any, error: BaseException | None) -> None:
            if error is not None:
                guest_log.warning("nvme: a flush at shutdown failed: %s", error)
            waiting.pop()
            if not waiting and self._life == life:
                self.csts = self.csts.replace(SHST=ShutdownStatus.COMPLETE)

        if not waiting:
            self.csts = self.csts.replace(SHST=ShutdownStatus.COMPLETE)
        for namespace in tuple(waiting):
            self.engine.start(namespace.disk.flush(), ended)

    def reset(self) -> None:
        """As after power on."""
        self._stop()
        self.cc, self.csts = CC(0), CSTS(0)
        self.aqa = self.asq = self.acq = 0

    # -- saving ----------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """Everything, in the middle of whatever is going on."""
        return {
            "cc": int(self.cc),
            "csts": int(self.csts),
            "admin-queues": [self.aqa, self.asq, self.acq],
            "queues": self.queues,
            "working": self._working,
            "shadows": self.shadows,
            "attached": sorted(self.attached),
            "sqs": [sq.save() for sq in self.live_sqs],
            "cqs": [cq.save() for cq in self.live_cqs],
            "interrupts": self.interrupts.save(),
            "statistics": self.statistics.save(),
            "logs": self.logs.save(),
            "features": self.features.save(),
            "events": self.events.save(),
            "admin": self.admin.save(),
            "reservations": self.nvm.reservations.save(),
            "subsystem": self.subsystem.save(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take what `save` gave; commands under way begin again. Raises `ValueError` if it is of
        another controller.
        """
        if state["queues"] != self.queues:
            raise ValueError("the saved state is of an NVMe controller with other queues")
        self.subsystem.check(state["subsystem"])
        self._stop()
        self.subsystem.restore(state["subsystem"])
        self.cc, self.csts = CC(state["cc"]), CSTS(state["csts"])
        self.aqa, self.asq, self.acq = state["admin-queues"]
        self._working, self.shadows = state["working"], state["shadows"]
        self.attached = set(state["attached"])
        self.page_size = PAGE << self.cc.MPS if self.cc.EN else PAGE
        for saved in state["cqs"]:
            self.cqs[saved["id"]] = CompletionQueue.restore(self._memory, saved)
        self.statistics.restore(state["statistics"])
        self.logs.restore(state["logs"])
        self.features.restore(state["features"])
        self.events.restore(state["events"])
        self.admin.restore(state["admin"])
        self.nvm.reservations.restore(state["reservations"])
        self.refresh()
        for saved in state["sqs"]:
            cq = self.cqs[saved["cq"]]
            if cq is None:
                raise ValueError("the saved state has a submission queue without completions")
            cq.users += 1
            self.sqs[saved["id"]] = SubmissionQueue.restore(self._memory, saved, cq)
        self.queues_changed()
        self.arbitration_changed()
        self.interrupts.restore(state["interrupts"])
        for saved in state["sqs"]:
            sq = self.sqs[saved["id"]]
            for row in saved["rows"]:
                assert sq is not None
                self.worker.begin(sq, tuple(row))
        if not self.cc.EN:
            self.csts = self.csts.replace(RDY=0)
        elif not self.csts.RDY:  # it was about to get ready
            self._look_ready()
        if self.csts.SHST == ShutdownStatus.OCCURRING:
            self._shut_down()
        self.worker.kick()


def _free_number(subsystem: Subsystem) -> int:
    return next(n for n in range(1 << 16) if n not in subsystem.controllers)
