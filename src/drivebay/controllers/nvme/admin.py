"""Admin commands: queues, aborts, doorbells in memory, keep alive (NVMe Base 2.0 section 5).

IDENTIFY is in `identify`, namespaces are managed in `management`, log pages and features have files
of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from drivebay.controllers.nvme.firmware import Firmware
from drivebay.controllers.nvme.identify import Identify
from drivebay.controllers.nvme.management import Management
from drivebay.controllers.nvme.opcodes import AdminOpcode
from drivebay.controllers.nvme.queues import (
    CompletionQueue,
    Quiet,
    Shadow,
    SubmissionQueue,
    reachable,
)
from drivebay.controllers.nvme.sanitize import Sanitize
from drivebay.controllers.nvme.status import Refused, Status
from drivebay.controllers.nvme.structures import CQE_SIZE, SQE_SIZE, Command
from drivebay.platform.engine import Timer
from drivebay.wire import Bit, Bits, Register32

if TYPE_CHECKING:
    from drivebay.controllers.nvme.controller import Controller
    from drivebay.controllers.nvme.worker import Handler, Outcome

__all__ = ["Admin", "KeepAlive"]

NOT_ABORTED: Final = 1


class QueueSize(Register32):
    """CDW10 of the commands that create queues."""

    QSIZE_z = Bits(31, 16)
    QID = Bits(15, 0)


class CompletionQueueSetup(Register32):
    """CDW11 of CREATE I/O COMPLETION QUEUE."""

    IV = Bits(31, 16)
    IEN = Bit(1)
    PC = Bit(0)


class SubmissionQueueSetup(Register32):
    """CDW11 of CREATE I/O SUBMISSION QUEUE."""

    CQID = Bits(31, 16)
    QPRIO = Bits(2, 1)
    PC = Bit(0)


class AbortTarget(Register32):
    """CDW10 of ABORT."""

    CID = Bits(31, 16)
    SQID = Bits(15, 0)


class KeepAlive:
    """The Keep Alive Timer: a host that says nothing for so long is gone (section 3.9).

    Any command counts, so nobody has to send KEEP ALIVE that has something else to say.
    """

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self.milliseconds = 0
        self._timer: Timer | None = None
        self._heard = False
        self._before = 0

    def set(self, milliseconds: int) -> None:
        """Set the time-out, in whole seconds; 0 for none."""
        self.milliseconds = -(-milliseconds // 1000) * 1000 & 0xFFFFFFFF
        self.start()

    def start(self) -> None:
        """The time begins anew."""
        self.stop()
        if self.milliseconds:
            self._before = self._transfers
            self._timer = self._controller.engine.after(self.milliseconds / 1000, self._expired)

    def stop(self) -> None:
        """No time is taken."""
        self._heard = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def seen(self) -> None:
        """A command came."""
        self._heard = True

    @property
    def _transfers(self) -> int:
        return self._controller.statistics.reads + self._controller.statistics.writes

    def _expired(self) -> None:
        self._timer = None
        if self._heard or self._transfers != self._before:
            self.start()
        elif self._controller.working:
            self._controller.fail("the keep alive timer has expired")


class Admin:
    """The admin commands of `controller`."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self.keep_alive = KeepAlive(controller)
        self.firmware = Firmware(controller)
        self.sanitize = Sanitize(controller)
        self._doorbells: tuple[int, int] | None = None
        identify, management = Identify(controller), Management(controller)
        self.handlers: dict[int, Handler] = {
            AdminOpcode.DELETE_IO_SQ: self._delete_sq,
            AdminOpcode.CREATE_IO_SQ: self._create_sq,
            AdminOpcode.GET_LOG_PAGE: controller.logs.get,
            AdminOpcode.DELETE_IO_CQ: self._delete_cq,
            AdminOpcode.CREATE_IO_CQ: self._create_cq,
            AdminOpcode.IDENTIFY: identify.identify,
            AdminOpcode.ABORT: self._abort,
            AdminOpcode.SET_FEATURES: controller.features.set,
            AdminOpcode.GET_FEATURES: controller.features.get,
            AdminOpcode.ASYNC_EVENT_REQUEST: controller.events.request,
            AdminOpcode.FIRMWARE_COMMIT: self.firmware.commit,
            AdminOpcode.FIRMWARE_DOWNLOAD: self.firmware.download,
            AdminOpcode.KEEP_ALIVE: lambda _sq, _command: 0,
            AdminOpcode.NAMESPACE_MANAGEMENT: management.manage,
            AdminOpcode.NAMESPACE_ATTACHMENT: management.attachment,
            AdminOpcode.FORMAT_NVM: management.format,
            AdminOpcode.SANITIZE: self.sanitize.start,
        }
        if controller.doorbell_buffers:
            self.handlers[AdminOpcode.DOORBELL_BUFFER_CONFIG] = self._doorbell_buffers

    @property
    def has_volatile_cache(self) -> bool:
        """Whether a namespace that the host sees may lose what was not flushed."""
        namespaces = self._controller.subsystem.namespaces
        return any(namespaces[nsid].disk.volatile_cache for nsid in self._controller.attached)

    # -- queues (section 5.4 to 5.7) -------------------------------------------------------------

    def _create_cq(self, _sq: SubmissionQueue, command: Command) -> int:
        controller = self._controller
        where, setup = QueueSize(command.cdw10), CompletionQueueSetup(command.cdw11)
        number, size = where.QID, where.QSIZE_z + 1
        if not 0 < number <= controller.features.most_cqs or controller.cqs[number] is not None:
            raise Refused(Status.INVALID_QUEUE_ID, f"completion queue {number}")
        self._check_place(command, size, CQE_SIZE, contiguous=setup.PC)
        if controller.interrupts.count <= setup.IV:
            raise Refused(Status.INVALID_INTERRUPT_VECTOR, f"interrupt vector {setup.IV}")
        queue = CompletionQueue(
            number, command.prp1, size, vector=setup.IV, interrupts=bool(setup.IEN)
        )
        queue.shadow = self._shadow(2 * number + 1, 0)
        controller.cqs[number] = queue
        controller.queues_changed()
        return 0

    def _create_sq(self, _sq: SubmissionQueue, command: Command) -> int:
        controller = self._controller
        where, setup = QueueSize(command.cdw10), SubmissionQueueSetup(command.cdw11)
        number, size = where.QID, where.QSIZE_z + 1
        if not 0 < number <= controller.features.most_sqs or controller.sqs[number] is not None:
            raise Refused(Status.INVALID_QUEUE_ID, f"submission queue {number}")
        cqs = controller.cqs
        cq = cqs[setup.CQID] if 0 < setup.CQID < len(cqs) else None
        if cq is None:
            beyond = controller.features.most_cqs < setup.CQID or not setup.CQID
            status = Status.INVALID_QUEUE_ID if beyond else Status.COMPLETION_QUEUE_INVALID
            raise Refused(status, f"submission queue {number} to complete at {setup.CQID}")
        self._check_place(command, size, SQE_SIZE, contiguous=setup.PC)
        sq = SubmissionQueue(number, command.prp1, size, cq, setup.QPRIO)
        sq.shadow = self._shadow(2 * number, 0)
        cq.users += 1
        controller.sqs[number] = sq
        controller.queues_changed()
        return 0

    def _check_place(self, command: Command, size: int, entry: int, *, contiguous: bool) -> None:
        controller = self._controller
        if size < 2:
            raise Refused(Status.INVALID_QUEUE_SIZE, "a queue of one entry")
        if not contiguous or command.psdt:
            raise Refused(Status.INVALID_FIELD, "a queue that is not contiguous")
        if command.prp1 & controller.page_size - 1:
            raise Refused(Status.PRP_OFFSET_INVALID, f"a queue at {command.prp1:#x}")
        if not reachable(controller.memory, command.prp1, size * entry):
            raise Refused(Status.DATA_TRANSFER_ERROR, f"no memory for a queue at {command.prp1:#x}")

    def _delete_cq(self, _sq: SubmissionQueue, command: Command) -> int:
        number, cqs = command.cdw10 & 0xFFFF, self._controller.cqs
        cq = cqs[number] if 0 < number < len(cqs) else None
        if cq is None:
            raise Refused(Status.INVALID_QUEUE_ID, f"completion queue {number}")
        if cq.users:
            raise Refused(Status.INVALID_QUEUE_DELETION, f"completion queue {number} is in use")
        cqs[number] = None
        self._controller.queues_changed()
        self._controller.interrupts.drive_pin()
        return 0

    def _delete_sq(self, _sq: SubmissionQueue, command: Command) -> Outcome:
        number, sqs = command.cdw10 & 0xFFFF, self._controller.sqs
        sq = sqs[number] if 0 < number < len(sqs) else None
        if sq is None or sq.deleting:
            raise Refused(Status.INVALID_QUEUE_ID, f"submission queue {number}")
        sq.deleting = True
        return self._wind_up(sq)

    async def _wind_up(self, sq: SubmissionQueue) -> None:
        """Every command of a queue ends, before it does."""
        sq.fused, sq.reason = None, Status.ABORTED_SQ_DELETION
        for cid in [cid for cid in sq.rows if cid not in sq.tasks]:
            self._controller.worker.finish(sq, cid, 0, Status.ABORTED_SQ_DELETION)
        sq.cancel()
        if sq.rows:
            await Quiet(sq)
        if self._controller.sqs[sq.id] is sq:  # and not one of another life
            self._controller.sqs[sq.id] = None
            self._controller.queues_changed()
            sq.cq.users -= 1

    def _abort(self, _sq: SubmissionQueue, command: Command) -> int:
        """What waits and can be given up ends with Abort Requested; the rest goes on."""
        controller, target = self._controller, AbortTarget(command.cdw10)
        sq = controller.sqs[target.SQID] if len(controller.sqs) > target.SQID else None
        if sq is None or target.CID not in sq.rows or (command.cid == target.CID and not sq.id):
            return NOT_ABORTED
        task = sq.tasks.get(target.CID)
        if task is not None:
            return 0 if task.cancel() else NOT_ABORTED
        if sq.fused is not None and sq.fused[2] == target.CID:
            sq.fused = None
        controller.events.abort(target.CID if not sq.id else -1)
        controller.worker.finish(sq, target.CID, 0, Status.ABORT_REQUESTED)
        return 0

    # -- doorbells in memory (section 5.8) -------------------------------------------------------

    def _doorbell_buffers(self, _sq: SubmissionQueue, command: Command) -> int:
        controller, size = self._controller, self._controller.page_size
        for address in (command.prp1, command.prp2):
            if address & size - 1:
                raise Refused(Status.PRP_OFFSET_INVALID, f"doorbells at {address:#x}")
            if not reachable(controller.memory, address, size):
                raise Refused(Status.DATA_TRANSFER_ERROR, f"no memory at {address:#x}")
        self._doorbells = (command.prp1, command.prp2)
        controller.shadows = True
        for sq in controller.sqs[1:]:
            if sq is not None:
                sq.shadow = self._shadow(2 * sq.id, sq.tail)
        for cq in controller.cqs[1:]:
            if cq is not None:
                cq.shadow = self._shadow(2 * cq.id + 1, cq.head)
        return 0

    def _shadow(self, number: int, value: int) -> Shadow | None:
        if self._doorbells is None:
            return None
        words, events = self._doorbells
        at = number * self._controller.doorbell_bytes
        return Shadow(self._controller.memory, words + at, events + at, value)

    # -- reset and saving ------------------------------------------------------------------------

    def reset(self) -> None:
        """The controller was reset: nothing of the host's memory is used any more."""
        self._doorbells = None
        self.keep_alive.milliseconds = 0
        self.keep_alive.stop()
        self.firmware.reset()

    def save(self) -> dict[str, Any]:
        """Everything."""
        return {
            "doorbells": None if self._doorbells is None else list(self._doorbells),
            "keep-alive": self.keep_alive.milliseconds,
            "firmware": self.firmware.save(),
            "sanitize": self.sanitize.save(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `save` gave; times begin anew."""
        doorbells = state["doorbells"]
        self._doorbells = None if doorbells is None else (doorbells[0], doorbells[1])
        self.keep_alive.milliseconds = state["keep-alive"]
        self.keep_alive.start()
        self.firmware.restore(state["firmware"])
        self.sanitize.restore(state["sanitize"])
