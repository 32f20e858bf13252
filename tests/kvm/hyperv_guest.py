"""A guest of Hyper-V in Python: what its kernel does with MSRs, hypercalls and pages."""

from __future__ import annotations

import struct
from typing import Final

from drivebay.controllers.storvsp import StorVsp
from drivebay.controllers.storvsp.storvsp import SCSI
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Disk
from drivebay.drivers.arena import Arena
from drivebay.drivers.storvsc import StorVsc, VmbusDriver
from drivebay.hosts.kvm.hyperv import Hyperv
from drivebay.hosts.kvm.hyperv_registers import (
    CallCode,
    HvStatus,
    HypercallInput,
    Message,
    Msr,
    PostMessage,
)
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory
from drivebay.scsi.disk import ScsiDisk
from drivebay.scsi.target import Target
from tests.storvsp.support import INSTANCE, quiet

RAM_SIZE: Final = 16 << 20
ARENA: Final = 0x100000
PAGE: Final = 4096
VECTOR: Final = 0xF3
SINT2: Final = Msr.SINT0 + 2
OS_ID: Final = 0x8100_0000_0006_01C0
TSC_HZ: Final = 2_500_000_000
POST: Final = int(CallCode.POST_MESSAGE)
SIGNAL: Final = int(CallCode.SIGNAL_EVENT | HypercallInput.FAST)


class Counter:
    """A time stamp counter that is where it is put."""

    hz = TSC_HZ
    count = 0

    def now(self, _vp: int) -> int:
        return self.count


class Processor:
    """One of the guest's: its pages, and what it was interrupted for."""

    def __init__(self, guest: Guest, vp: int) -> None:
        self.guest, self.vp = guest, vp
        self.message_page = guest.arena.take(PAGE, PAGE)
        self.event_page = guest.arena.take(PAGE, PAGE)
        self.slot = guest.memory.view(self.message_page + 2 * 256, 256)
        self.flags = guest.memory.view(self.event_page + 2 * 256, 256)
        self.input = guest.arena.take(PAGE, PAGE)
        self.interrupts = 0
        self.frees_its_slot = True

    def read(self, index: int) -> int:
        return self.guest.hyperv.read_msr(self.vp, index)

    def write(self, index: int, value: int) -> None:
        self.guest.hyperv.write_msr(self.vp, index, value)

    def enable(self) -> None:
        """As hv_synic_enable_regs of Linux does it."""
        self.write(Msr.SIMP, self.read(Msr.SIMP) | self.message_page | 1)
        self.write(Msr.SIEFP, self.read(Msr.SIEFP) | self.event_page | 1)
        self.write(SINT2, VECTOR)
        self.write(Msr.SCONTROL, self.read(Msr.SCONTROL) | 1)

    def post(self, payload: bytes, connection: int = 1, kind: int = Message.VMBUS) -> int:
        """HvCallPostMessage; its status."""
        data = PostMessage(connection, 0, kind, len(payload), payload).pack()
        self.guest.memory.view(self.input, len(data))[:] = data
        return self.call(POST, self.input)

    def call(self, rcx: int, rdx: int) -> int:
        return self.guest.hyperv.hypercall(self.vp, rcx, rdx, 0)

    def serve_interrupt(self) -> None:
        """Take the events, and the message, and make room for the next."""
        if not self.interrupts:
            return
        self.interrupts = 0
        for at, byte in enumerate(self.flags):
            for bit in range(8):
                if byte >> bit & 1:
                    self.guest.events.append((self.vp, at * 8 + bit))
            self.flags[at] = 0
        if self.frees_its_slot:
            self.take_message()

    def take_message(self) -> None:
        message = Message.unpack(self.slot)
        if not message.message_type:
            return
        assert message.message_type == Message.VMBUS
        self.guest.came.append((self.vp, message.payload[: message.payload_size]))
        self.guest.bus.receive(message.payload[: message.payload_size])
        self.slot[:4] = bytes(4)
        if self.slot[5] & Message.PENDING:
            self.write(Msr.EOM, 0)


class Guest:
    """A machine of `processors` with a StorVSP controller, and its kernel, which has found Hyper-V.

    `came` lists messages and `events` channels, each with the processor that was told.
    """

    def __init__(
        self, processors: int = 1, disk: Disk | None = None, *, sub_channels: int = 0
    ) -> None:
        self.memory = GuestMemory.of_size(RAM_SIZE)
        self.engine = Engine(workers=0)
        self.arena = Arena(self.memory, ARENA, RAM_SIZE - ARENA)
        self.came: list[tuple[int, bytes]] = []
        self.events: list[tuple[int, int]] = []
        self.stray: list[tuple[int, int]] = []
        """Interrupts that nobody has asked for."""
        self.tsc = Counter()
        self.hyperv = Hyperv(self.memory, self._interrupted, processors=processors, tsc=self.tsc)
        target = Target(self.engine)
        target.add(0, ScsiDisk(disk or RamDisk(1 << 20)))
        quiet(target.unit(0))
        self.device = StorVsp(
            target, self.memory, self.engine, instance=INSTANCE, sub_channels=sub_channels
        )
        self.device.attach(self.hyperv.bus)
        self.processors = [Processor(self, vp) for vp in range(processors)]
        self.bus = VmbusDriver(self._post, self._signal, self.poll)

    def _interrupted(self, address: int, data: int) -> None:
        vp = address >> 12 & 0xFF
        if address & ~0xFF000 != 0xFEE00000 or data != VECTOR or vp >= len(self.processors):
            self.stray.append((address, data))
        else:
            self.processors[vp].interrupts += 1

    def start(self) -> None:
        """Hypercalls and interrupts, for all processors."""
        boot = self.processors[0]
        boot.write(Msr.GUEST_OS_ID, OS_ID)
        boot.write(Msr.HYPERCALL, self.arena.take(PAGE, PAGE) | 1)
        for processor in self.processors:
            processor.enable()

    def poll(self) -> None:
        self.engine.turn(0)
        for processor in self.processors:
            processor.serve_interrupt()

    def _post(self, message: bytes) -> None:
        (kind,) = struct.unpack_from("<I", message)
        status = self.processors[0].post(message, 4 if kind == 14 else 1)
        assert status == HvStatus.SUCCESS, status

    def _signal(self, connection: int) -> None:
        status = self.processors[-1].call(SIGNAL, connection)
        assert status == HvStatus.SUCCESS, status

    def driver(self, sub_channels: int = 0, slots: int = 1) -> StorVsc:
        """The guest has found its controller and works it."""
        self.bus.connect()
        (offer,) = self.bus.find(SCSI)
        return StorVsc(self.bus, offer, self.arena, sub_channels=sub_channels, slots=slots)
