"""What NVMe drivers shall not do (NVMe Base 2.0, PCIe Transport 1.0)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

from drivebay.controllers.nvme import Controller
from drivebay.controllers.nvme.queues import CompletionQueue
from drivebay.controllers.nvme.registers import AQA, CC, DOORBELLS_AT, NvmeRegisters
from drivebay.lab.strict.judge import Judge, Rule, Sins

__all__ = ["NvmeJudge"]

BASE, PCIE = "NVMe Base 2.0 section", "NVMe PCIe Transport 1.0 section"
READ_ONLY: Final = frozenset({"CAP", "VS", "CMBLOC", "CMBSZ", "BPINFO"})
ADMIN: Final = frozenset({"AQA", "ASQ", "ACQ"})
FIXED: Final = (CC.IOCQES, CC.IOSQES)
SETTLED: Final = (CC.AMS, CC.MPS, CC.CSS)


class NvmeJudge(Judge):
    """Judges who drives `controller` by BAR0."""

    RULES: ClassVar[Mapping[str, Rule]] = {
        "access-width": Rule(
            "registers are accessed in their own width, or in aligned dwords", f"{BASE} 3.1.3"
        ),
        "read-only-register": Rule("the register is read-only", f"{BASE} 3.1.3"),
        "admin-queue-while-enabled": Rule(
            "AQA, ASQ and ACQ are set while CC.EN is 0", f"{BASE} 3.1.3.8"
        ),
        "configured-while-enabled": Rule(
            "AMS, MPS and CSS are changed only while CC.EN is 0", f"{BASE} 3.1.3.5"
        ),
        "enabled-before-reset-done": Rule(
            "CC.EN is not set before CSTS.RDY is 0", f"{BASE} 3.1.3.5"
        ),
        "disabled-before-ready": Rule(
            "CC.EN is not cleared before CSTS.RDY is 1", f"{BASE} 3.1.3.5"
        ),
        "enabled-without-admin-queues": Rule(
            "AQA, ASQ and ACQ are set before CC.EN is", f"{BASE} 3.5.1"
        ),
        "mask-with-messages": Rule(
            "INTMS and INTMC are not accessed while MSI-X is enabled", f"{BASE} 3.1.3.3"
        ),
        "doorbell-read": Rule("doorbells are not read", f"{PCIE} 3.1.2"),
        "doorbell-before-ready": Rule("doorbells are rung when CSTS.RDY is 1", f"{BASE} 3.5.1"),
        "doorbell-of-no-queue": Rule("there is no such queue", f"{PCIE} 3.1.2"),
        "doorbell-value": Rule("the value is not beyond the queue's end", f"{PCIE} 3.1.2"),
        "doorbell-unchanged": Rule(
            "a doorbell is written with another value than before", f"{BASE} 5.2 (Invalid Doorbell)"
        ),
        "completions-not-posted": Rule("the head does not pass what was posted", f"{PCIE} 3.1.2.2"),
    }

    def __init__(self, controller: Controller, sins: Sins, name: str = "nvme") -> None:
        super().__init__(sins, name)
        self._controller = controller

    def _register(self, offset: int, width: int) -> str:
        """Its name, if it is accessed as it should be."""
        found = NvmeRegisters.at(offset)
        if found is None:
            return ""
        name, at = found
        whole = offset == at.offset and width == at.type.size
        if not whole and (width != 4 or offset & 3):
            self.sin("access-width", f"{width} bytes at {offset:#x}, {name}")
        if name in ("INTMS", "INTMC") and self._controller.interrupts.by_message:
            self.sin("mask-with-messages", name)
        return name

    def read(self, offset: int, width: int) -> None:
        """A load."""
        if offset >= DOORBELLS_AT:
            self.sin("doorbell-read", f"a read of {offset:#x}")
        else:
            self._register(offset, width)

    def write(self, offset: int, width: int, value: int) -> None:
        """A store."""
        if offset >= DOORBELLS_AT:
            self._ring(offset - DOORBELLS_AT, width, value)
            return
        name = self._register(offset, width)
        if name in READ_ONLY:
            self.sin("read-only-register", f"a write of {value:#x} to {name}")
        elif name in ADMIN and self._controller.cc.EN:
            self.sin("admin-queue-while-enabled", f"a write of {value:#x} to {name}")
        elif name == "CC":
            self._configure(CC(value))

    def _configure(self, cc: CC) -> None:
        controller = self._controller
        before, ready = controller.cc, controller.csts.RDY
        if cc.EN and before.EN and any((cc ^ before) & field for field in SETTLED):
            self.sin("configured-while-enabled", f"CC from {before:#x} to {cc:#x}")
        if cc.EN and not before.EN:
            if ready:
                self.sin("enabled-before-reset-done", "CC.EN set, CSTS.RDY is 1")
            aqa = AQA(controller.aqa)
            if not (aqa.ASQS_z and aqa.ACQS_z and controller.asq and controller.acq):
                self.sin("enabled-without-admin-queues", f"AQA is {aqa:#x}")
        if before.EN and not cc.EN and not ready and not controller.csts.CFS:
            self.sin("disabled-before-ready", "CC.EN cleared, CSTS.RDY is 0")

    def _ring(self, offset: int, width: int, value: int) -> None:
        controller = self._controller
        number, rest = divmod(offset, controller.doorbell_bytes)
        how = f"{value:#x} to doorbell {number}"
        if rest or width != 4:
            self.sin("access-width", f"{width} bytes at doorbell {number}+{rest}")
            return
        if not controller.csts.RDY:
            self.sin("doorbell-before-ready", how)
            return
        queues = controller.cqs if number & 1 else controller.sqs
        queue = queues[number >> 1] if number >> 1 < len(queues) else None
        if queue is None:
            self.sin("doorbell-of-no-queue", how)
        elif value >= queue.size:
            self.sin("doorbell-value", f"{how}, the queue has {queue.size} entries")
        elif queue.shadow is None:
            was = queue.head if isinstance(queue, CompletionQueue) else queue.tail
            if value == was:
                self.sin("doorbell-unchanged", how)
            if isinstance(queue, CompletionQueue):
                posted = (queue.tail - queue.head) % queue.size
                if (value - queue.head) % queue.size > posted:
                    self.sin("completions-not-posted", f"{how}, {posted} were posted")
