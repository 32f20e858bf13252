"""Fault rules on an NVMe controller."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from drivebay.controllers.nvme import Controller, Namespace, Refused, Status
from drivebay.controllers.nvme.opcodes import AdminOpcode, NvmOpcode
from drivebay.controllers.nvme.structures import Command, Completion
from drivebay.lab.dialects.nvme import EVENTS, VOCABULARY, WIDTHS, describe_command
from drivebay.lab.faults import Live
from drivebay.lab.rules import (
    ENABLE,
    Corrupt,
    Direction,
    Drop,
    Fail,
    Patch,
    Rewrite,
    Rule,
    Subject,
    Tell,
)
from drivebay.lab.torment import CoreFaults, Extent, Torment, flip, patch
from drivebay.platform.observer import Dropped

__all__ = ["NVME", "NvmeFaults"]

IDENTIFY_SIZE: Final = 4096
NVME: Final = VOCABULARY


class NvmeFaults(CoreFaults[Command, Completion]):
    """Has `rules` work on `controller`, called `name` in them, until `close`::

        faults = NvmeFaults(nvme.controller, [parse_rule("read,nth=3:drop", NVME)])

    Asynchronous event requests are no commands here. To change data, a command's PRPs or SGL are
    read a second time. `remove` takes away a namespace; unless said, from its subsystem.
    """

    def __init__(
        self,
        controller: Controller,
        rules: Iterable[Rule] = (),
        name: str = "nvme",
        remove: Callable[[Subject], None] | None = None,
    ) -> None:
        super().__init__(controller.engine, rules, name, remove or self._remove)
        self.controller = controller
        controller.observer = self

    def close(self) -> None:
        """Nothing is done to commands any more."""
        super().close()
        if self.controller.observer is self:
            self.controller.observer = None

    async def enable(self) -> None:
        """CC.EN was set: the controller is ready when this ends."""
        subject = Subject(self.name, ENABLE)
        for live in self.faults.meet(subject):
            await Torment(self, subject, NO_COMMAND, [live]).before()
            if isinstance(live.rule.action, Drop):
                raise Dropped

    def escort(self, subject: Subject, command: Command, found: list[Live]) -> NvmeTorment:
        """Who changes data, too, which no core shows here."""
        return NvmeTorment(self, subject, command, found)

    # -- what all adapters say -------------------------------------------------------------------

    def describe(self, queue: int, command: Command) -> Subject:
        """By the NVMe dialect."""
        return describe_command(queue, command, self.name)

    def extent(self, subject: Subject) -> Extent:
        """In the namespace's disk."""
        namespace = self.namespace(subject.nsid) if subject.queue else None
        if namespace is None:
            return Extent()
        shift = namespace.sector_shift
        sector, sectors = (subject.lba or 0) << shift, subject.count << shift
        return Extent(namespace.disk, sector, sectors, 1 << namespace.lba_shift)

    def refusal(self, subject: Subject, command: Command, action: Fail) -> Exception:
        """A status by its name."""
        return Refused(Status[action.status], "fault rule", retry=action.retry)

    def rewritten(self, command: Command, action: Rewrite) -> Command:
        """Other fields; DW0 is of the completion."""
        for name in {**action.values, **action.steps}:
            if name == "dw0":
                continue
            value = action.values.get(name, getattr(command, name)) + action.steps.get(name, 0)
            value &= (1 << WIDTHS[name]) - 1
            if name == "slba":
                command = replace(command, cdw10=value & 0xFFFFFFFF, cdw11=value >> 32)
            elif name == "nlb":
                command = replace(command, cdw12=command.cdw12 & ~0xFFFF | value - 1 & 0xFFFF)
            else:
                command = replace(command, **{name: value})
        return command

    def misdirected(self, subject: Subject, command: Command, blocks: int) -> Command:
        """Another SLBA."""
        return self.rewritten(command, Rewrite(steps={"slba": blocks}))

    def die(self, subject: Subject, why: str) -> None:
        """CSTS.CFS."""
        self.controller.fail(why)

    def namespace(self, nsid: int) -> Namespace | None:
        """The namespace of that number."""
        return self.controller.subsystem.namespaces.get(nsid)

    def _remove(self, subject: Subject) -> None:
        if self.namespace(subject.nsid) is not None:
            self.controller.subsystem.remove(subject.nsid)


NO_COMMAND: Final = Command(*(0 for _ in range(15)))


class NvmeTorment(Torment[Command, Completion]):
    """One command of NVMe."""

    core: NvmeFaults

    async def before(self) -> bool:
        """A torn write is a shorter one."""
        for live in self.found:
            if isinstance(live.rule.action, Tell):
                self.core.controller.events.tell(*EVENTS[live.rule.action.event])
        acts = await super().before()
        if self.kept is not None and self.kept < self.subject.count:
            self.command = self.core.rewritten(self.command, Rewrite({"nlb": self.kept}))
            return acts and self.kept > 0
        return acts

    async def after(self, outcome: Completion) -> Completion:
        """Patch, corrupt, and other results."""
        for live in self.found:
            action = live.rule.action
            if isinstance(action, Rewrite):
                dw0 = action.values.get("dw0", outcome.dw0) + action.steps.get("dw0", 0)
                outcome = replace(outcome, dw0=dw0 & 0xFFFFFFFF)
            elif isinstance(action, Patch | Corrupt) and not outcome.status:
                await self._change_data(live, action)
        return await super().after(outcome)

    async def _change_data(self, live: Live, action: Patch | Corrupt) -> None:
        length = self._length()
        if not length:
            return
        queue, command = self.subject.queue, self.command
        if isinstance(action, Patch):
            patch(self.core.controller.buffers(command, length), action, self._page_offset())
        elif queue and command.opcode == NvmOpcode.WRITE:
            await self._corrupt_disk(length, action.bits, live.dice)
        elif self.subject.direction is Direction.READ:
            flip(self.core.controller.buffers(command, length), action.bits, live.dice)

    async def _corrupt_disk(self, length: int, bits: int, dice: random.Random) -> None:
        """Only on the disk: the host's buffer is the host's."""
        namespace = self.core.namespace(self.command.nsid)
        if namespace is not None:
            content = memoryview(bytearray(length))
            sector = self.command.slba << namespace.sector_shift
            await namespace.disk.read(sector, [content])
            flip([content], bits, dice)
            await namespace.disk.write(sector, [content])

    def _length(self) -> int:
        """Bytes of its data that may be changed; 0 if it has none."""
        queue, command = self.subject.queue, self.command
        if queue:
            namespace = self.core.namespace(command.nsid)
            if namespace is None or command.opcode not in (NvmOpcode.READ, NvmOpcode.WRITE):
                return 0
            return command.nlb << namespace.lba_shift
        if command.opcode == AdminOpcode.IDENTIFY:
            return IDENTIFY_SIZE
        if command.opcode == AdminOpcode.GET_LOG_PAGE:
            return ((command.cdw11 & 0xFFFF) << 16 | command.cdw10 >> 16) + 1 << 2
        return 0

    def _page_offset(self) -> int:
        """Where in a log page it begins."""
        command = self.command
        if self.subject.queue or command.opcode != AdminOpcode.GET_LOG_PAGE:
            return 0
        return command.cdw13 << 32 | command.cdw12
