"""Fault rules on an NVMe controller: an observer that does what they say."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from drivebay.controllers.nvme import Controller, Namespace, Refused, Status
from drivebay.controllers.nvme.opcodes import AdminOpcode, NvmOpcode
from drivebay.controllers.nvme.structures import Command, Completion
from drivebay.disk.buffers import cut, scatter
from drivebay.lab.dialects.nvme import VOCABULARY, WIDTHS, describe_command
from drivebay.lab.faults import Faults, Live
from drivebay.lab.rules import (
    ENABLE,
    Corrupt,
    Delay,
    Die,
    Direction,
    Drop,
    Duplicate,
    Fail,
    Hold,
    Ignore,
    LoseInterrupt,
    Patch,
    Rewrite,
    Rule,
    Subject,
)
from drivebay.platform.observer import Dropped
from drivebay.suspend import sleep

__all__ = ["NVME", "NvmeFaults"]

IDENTIFY_SIZE: Final = 4096
NVME: Final = VOCABULARY


class NvmeFaults:
    """Has `rules` work on `controller`, called `name` in them, until `close`::

        faults = NvmeFaults(nvme.controller, [parse_rule("read,nth=3:drop", NVME)])

    `faults.faults` adds and removes rules, and lets go what they hold. Asynchronous event requests
    are no commands here. To change data, a command's PRPs or SGL are read a second time.
    """

    def __init__(
        self, controller: Controller, rules: Iterable[Rule] = (), name: str = "nvme"
    ) -> None:
        self._controller, self._engine, self.name = controller, controller.engine, name
        self.faults = Faults(lambda: controller.engine.now, rules)
        self._after: dict[tuple[int, int], list[Live]] = {}
        """What else is to be done to commands under way, by queue and command id."""
        controller.observer = self

    def close(self) -> None:
        """Nothing is done to commands any more."""
        self.faults.clear()
        if self._controller.observer is self:
            self._controller.observer = None

    # -- the observer ----------------------------------------------------------------------------

    async def enable(self) -> None:
        """CC.EN was set: the controller is ready when this ends."""
        for live in self.faults.meet(Subject(self.name, ENABLE)):
            await self._before(live, None, 0, 0)
            if isinstance(live.rule.action, Drop):
                raise Dropped

    async def command(self, sqid: int, command: Command) -> Command:
        """Before it acts."""
        namespace = self._namespace(command) if sqid else None
        subject = describe_command(sqid, command, self.name)
        found = self.faults.meet(subject)
        key = sqid, command.cid
        self._after.pop(key, None)  # one that was dropped had the same id
        if found:
            self._after[key] = found
        for live in found:
            action = live.rule.action
            if isinstance(action, Rewrite):
                command = _rewritten(command, action)
            elif isinstance(action, Fail) and not action.late:
                raise Refused(Status[action.status], f"rule {live.rule}", retry=action.retry)
            else:
                await self._before(live, namespace, subject.lba or 0, subject.count)
        return command

    async def completion(self, sqid: int, command: Command, completion: Completion) -> Completion:
        """When it has acted."""
        for live in self._after.pop((sqid, command.cid), ()):
            action = live.rule.action
            if isinstance(action, Fail):
                completion = replace(completion, status=_status(action))
            elif isinstance(action, Rewrite):
                dw0 = action.values.get("dw0", completion.dw0) + action.steps.get("dw0", 0)
                completion = replace(completion, dw0=dw0 & 0xFFFFFFFF)
            elif isinstance(action, Drop):
                raise Dropped
            elif isinstance(action, Duplicate | LoseInterrupt):
                self._tell(sqid, command, completion, action)
            elif not completion.status:
                await self._change_data(sqid, command, live)
        return completion

    # -- what rules say --------------------------------------------------------------------------

    async def _before(self, live: Live, namespace: Namespace | None, lba: int, count: int) -> None:
        """What can become of anything before it happens."""
        action = live.rule.action
        if isinstance(action, Delay):
            shift = namespace.sector_shift if namespace else 0
            disk, nsid = (namespace.disk, namespace.nsid) if namespace else (None, 0)
            seconds = live.seconds(nsid, disk, lba << shift, count << shift if namespace else 0)
            if seconds > 0:
                await sleep(seconds)
        elif isinstance(action, Hold):
            await live.released()
        elif isinstance(action, Ignore):
            raise Dropped
        elif isinstance(action, Die):
            self._controller.fail(f"rule {live.rule}")
            raise Dropped

    def _tell(
        self, sqid: int, command: Command, completion: Completion, action: Duplicate | LoseInterrupt
    ) -> None:
        """Change how the host is told."""
        sq = self._controller.sqs[sqid]
        if sq is None:  # it was deleted meanwhile, and nobody is told
            return
        if isinstance(action, Duplicate):
            status = completion.status >> 1
            self._controller.worker.complete(sq, command.cid, completion.dw0, status)
        elif sq.cq.interrupts:
            cq = sq.cq
            cq.interrupts = False

            def restore() -> None:
                cq.interrupts = True

            self._engine.later(restore)  # the turn ends first, and with it the batch

    async def _change_data(self, sqid: int, command: Command, live: Live) -> None:
        """Patch or corrupt what was read or written."""
        action = live.rule.action
        length = self._length(sqid, command)
        if not length:
            return
        if isinstance(action, Patch):
            start = action.at - _page_offset(sqid, command)
            first, last = max(start, 0), min(start + len(action.data), length)
            if first < last:
                part = cut(self._controller.buffers(command, length), first, last)
                scatter(part, memoryview(action.data)[first - start : last - start])
        elif isinstance(action, Corrupt):
            if sqid and command.opcode == NvmOpcode.WRITE:
                await self._corrupt_disk(command, length, action.bits, live.dice)
            elif describe_command(sqid, command).direction is Direction.READ:
                _flip(self._controller.buffers(command, length), length, action.bits, live.dice)

    async def _corrupt_disk(
        self, command: Command, length: int, bits: int, dice: random.Random
    ) -> None:
        """Only on the disk: the host's buffer is the host's."""
        namespace = self._namespace(command)
        if namespace is not None:
            content = memoryview(bytearray(length))
            sector = command.slba << namespace.sector_shift
            await namespace.disk.read(sector, [content])
            _flip([content], length, bits, dice)
            await namespace.disk.write(sector, [content])

    # -- commands --------------------------------------------------------------------------------

    def _namespace(self, command: Command) -> Namespace | None:
        return self._controller.subsystem.namespaces.get(command.nsid)

    def _length(self, sqid: int, command: Command) -> int:
        """Bytes of its data that may be changed; 0 if it has none."""
        if sqid:
            namespace = self._namespace(command)
            if namespace is None or command.opcode not in (NvmOpcode.READ, NvmOpcode.WRITE):
                return 0
            return command.nlb << namespace.lba_shift
        if command.opcode == AdminOpcode.IDENTIFY:
            return IDENTIFY_SIZE
        if command.opcode == AdminOpcode.GET_LOG_PAGE:
            return ((command.cdw11 & 0xFFFF) << 16 | command.cdw10 >> 16) + 1 << 2
        return 0


def _page_offset(sqid: int, command: Command) -> int:
    """Where in a log page a command begins."""
    if sqid or command.opcode != AdminOpcode.GET_LOG_PAGE:
        return 0
    return command.cdw13 << 32 | command.cdw12


def _status(action: Fail) -> int:
    """The status field with room for the phase tag."""
    return Refused(Status[action.status], "", retry=action.retry).field << 1


def _rewritten(command: Command, action: Rewrite) -> Command:
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


def _flip(buffers: list[memoryview], length: int, bits: int, dice: random.Random) -> None:
    """Make `bits` different bits wrong."""
    for bit in dice.sample(range(8 * length), min(bits, 8 * length)):
        part = cut(buffers, bit >> 3, (bit >> 3) + 1)[0]
        part[0] ^= 1 << (bit & 7)
