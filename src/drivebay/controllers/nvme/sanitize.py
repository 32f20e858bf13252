"""SANITIZE by block erase: nothing of what was written is left (NVMe Base 2.0 section 8.21)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from drivebay.controllers.nvme.management import erase
from drivebay.controllers.nvme.opcodes import EventType, LogId
from drivebay.controllers.nvme.pause import Pause
from drivebay.controllers.nvme.queues import SubmissionQueue
from drivebay.controllers.nvme.status import Refused, Status
from drivebay.controllers.nvme.structures import Command, SanitizeStatus
from drivebay.wire import Bit, Bits, Register32

if TYPE_CHECKING:
    from drivebay.controllers.nvme.controller import Controller

__all__ = ["Sanitize"]

log = logging.getLogger(__name__)

EXIT_FAILURE, BLOCK_ERASE = 1, 2
NEVER, DONE, UNDER_WAY, FAILED = range(4)
ALL_OF_IT: Final = 0xFFFF
SANITIZE_COMPLETED: Final = 1


class SanitizeSetup(Register32):
    """CDW10."""

    NODAS = Bit(9)  # do not deallocate
    OIPBP = Bit(8)
    OWPASS = Bits(7, 4)
    AUSE = Bit(3)  # after a failure any command may try again
    SANACT = Bits(2, 0)


class Sanitize:
    """The sanitize operation of the subsystem, as `controller` shows it."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._state, self._progress, self._setup = NEVER, ALL_OF_IT, 0

    def start(self, _sq: SubmissionQueue, command: Command) -> int:
        """SANITIZE: it begins, and the command is done. Raises `Refused`."""
        setup, controller = SanitizeSetup(command.cdw10), self._controller
        namespaces = list(controller.subsystem.namespaces.values())
        if self._state == UNDER_WAY:
            raise Refused(Status.SANITIZE_IN_PROGRESS, "a sanitize operation", retry=True)
        if setup.SANACT == EXIT_FAILURE:
            if self._state == FAILED:
                self._state = NEVER
                self._free()
            return 0
        if setup.SANACT != BLOCK_ERASE:
            raise Refused(Status.INVALID_FIELD, f"sanitize action {setup.SANACT}")
        for namespace in namespaces:
            if namespace.disk.read_only:
                raise Refused(Status.NAMESPACE_WRITE_PROTECTED, f"namespace {namespace.nsid}")
            if namespace.busy != Status.SANITIZE_FAILED:
                namespace.must_be_free()
        self._setup = int(setup)
        self._begin()
        return 0

    def _begin(self) -> None:
        self._state, self._progress = UNDER_WAY, 0
        for namespace in self._controller.subsystem.namespaces.values():
            namespace.busy = Status.SANITIZE_IN_PROGRESS
        self._controller.subsystem.refresh()
        self._controller.engine.start(self._erase(), self._ended)

    async def _erase(self) -> None:
        subsystem = self._controller.subsystem
        namespaces = list(subsystem.namespaces.values())
        for n, namespace in enumerate(namespaces):
            while subsystem.in_use(namespace.nsid):
                await Pause(self._controller.engine)
            self._progress = ALL_OF_IT * n // len(namespaces)
            await erase(self._controller, namespace)
            await namespace.disk.flush()
            namespace.bad.restore([])

    def _ended(self, _value: Any, error: BaseException | None) -> None:
        self._progress = ALL_OF_IT
        self._state = DONE if error is None else FAILED
        if error is None:
            self._free()
        else:
            log.error("nvme: a sanitize operation failed: %s", error)
            for namespace in self._controller.subsystem.namespaces.values():
                namespace.busy = Status.SANITIZE_FAILED
        self._controller.events.tell(EventType.COMMAND_SET, SANITIZE_COMPLETED, LogId.SANITIZE)

    def _free(self) -> None:
        for namespace in self._controller.subsystem.namespaces.values():
            namespace.busy = None
        self._controller.subsystem.refresh()

    def log(self) -> bytes:
        """The log page."""
        erased = self._state == DONE
        return SanitizeStatus(self._progress, self._state | erased << 8, self._setup).pack()

    def save(self) -> list[int]:
        """Everything; what is under way begins again where it is restored."""
        return [self._state, self._progress, self._setup]

    def restore(self, state: list[int]) -> None:
        """Take what `save` gave."""
        self._state, self._progress, self._setup = state
        if self._state == UNDER_WAY:
            self._begin()
