"""A SAT device made of a drive of ours, and task files by hand."""

from __future__ import annotations

from typing import Any

from drivebay.ata.device import Device, Phase, Reset
from drivebay.ata.disk import AtaDisk
from drivebay.ata.passthrough import PassthroughDrive, Policy, Transport, identify
from drivebay.ata.passthrough.cdb import AtaPassThrough12, AtaPassThrough16
from drivebay.ata.passthrough.sense import AtaReturn
from drivebay.ata.passthrough.transport import Answer, Direction
from drivebay.ata.registers import Status
from drivebay.ata.taskfile import TaskFile
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.buffers import gather, scatter
from drivebay.disk.contract import Buffers, byte_length
from drivebay.platform.engine import Engine
from drivebay.scsi.sense import DescriptorSense, FixedSense, Sense, SenseKey

ATTENTION = Sense(SenseKey.UNIT_ATTENTION, 0x29, 0x00)
EVERYTHING = Policy.of("write", "erase", "firmware", "security", "settings")


def taskfile(
    command: int, *, features: int = 0, count: int = 0, lba: int = 0, device: int = 0xE0
) -> TaskFile:
    """Registers as a host has written them; `lba` with its previous bytes."""
    registers = TaskFile()
    registers.command, registers.device = command, device
    registers.features, registers.count, registers.lba48 = features, count, lba
    return registers


class Hand:
    """The simplest wire there is to a drive."""

    def __init__(self, drive: Device, engine: Engine) -> None:
        self.drive, self.engine = drive, engine
        self.blocks: list[int] = []
        self._pending = ""
        drive.wire = self
        drive.reset(Reset.POWER_ON)
        drive.release()

    def data_block(self, device: Device, interrupt: bool) -> None:
        self._pending = "block"
        self.blocks.append(len(device.block))

    def dma_request(self, device: Device) -> None:
        self._pending = "dma"

    def ended(self, device: Device, interrupt: bool) -> None:
        self._pending = "ended"

    def do(self, registers: TaskFile, data: memoryview, part: int = 1 << 30) -> int:
        """Carry out a command with the data in or for `data`, DMA in parts of at most `part` bytes;
        returns how much was moved.
        """
        drive, at = self.drive, 0
        drive.taskfile.load(registers.save())
        self._pending = ""
        drive.execute()
        while self._pending != "ended":
            pending, self._pending = self._pending, ""
            if pending == "block":
                block = drive.block
                if drive.phase is Phase.DATA_IN:
                    data[at : at + len(block)] = block
                else:
                    block[:] = data[at : at + len(block)]
                at += len(block)
                drive.block_done()
            elif pending == "dma":
                size = min(drive.dma_left, part)
                drive.move([data[at : at + size]])
                at += size
            else:
                self.engine.turn(0)
        return at


class SatDevice:
    """What libata is to a drive: it takes ATA PASS-THROUGH, and gives the registers back.

    `fixed` chooses the format of its sense. `log` has the CDBs that came; what is in `instead` is
    answered (or raised) before anything else, and `residual` is what it claims not to have moved.
    """

    def __init__(self, drive: Device, engine: Engine, *, fixed: bool = False) -> None:
        self.drive, self.fixed = drive, fixed
        self._hand = Hand(drive, engine)
        self.log: list[bytes] = []
        self.instead: list[Answer | OSError] = []
        self.residual = 0

    def execute(self, cdb: bytes, direction: Direction, buffers: Buffers, seconds: float) -> Answer:
        self.log.append(cdb)
        if self.instead:
            answer = self.instead.pop(0)
            if isinstance(answer, OSError):
                raise answer
            return answer
        data = memoryview(bytearray(byte_length(buffers)))
        if direction == "out":
            gather(buffers, data)
        self._hand.do(_registers(cdb), data)
        if direction == "in":
            scatter(buffers, data)
        return 2, self._sense(bool(cdb[1] & 1)), self.residual

    def _sense(self, ext: bool) -> bytes:
        registers = self.drive.taskfile
        _, _, count, low, mid, high, _, _ = registers.registers
        status, error, device = self.drive.status, self.drive.error, registers.device
        failed = bool(status & Status.ERR)
        key = SenseKey.ABORTED_COMMAND if failed else SenseKey.RECOVERED_ERROR
        asc, ascq = (0, 0) if failed else (0x00, 0x1D)
        if self.fixed:
            upper = (count > 0xFF) << 30 | (max(low, mid, high) > 0xFF) << 29
            address = (low & 0xFF) << 16 | (mid & 0xFF) << 8 | high & 0xFF
            return FixedSense(
                sense_key=key,
                information=error << 24 | status << 16 | device << 8 | count & 0xFF,
                command_specific_information=ext << 31 | upper | address,
                additional_sense_code=asc,
                additional_sense_code_qualifier=ascq,
            ).pack()
        found = AtaReturn(
            extend=ext,
            error=error,
            count_high=count >> 8,
            count=count & 0xFF,
            lba_low_high=low >> 8,
            lba_low=low & 0xFF,
            lba_mid_high=mid >> 8,
            lba_mid=mid & 0xFF,
            lba_high_high=high >> 8,
            lba_high=high & 0xFF,
            device=device,
            status=status,
        ).pack()
        return DescriptorSense(0x72, key, asc, ascq, 0, 0, len(found)).pack() + found


def _registers(cdb: bytes) -> TaskFile:
    registers = TaskFile()
    found: Any
    if cdb[0] == 0xA1:
        found = AtaPassThrough12.unpack(cdb)
        registers.features, registers.count = found.features, found.count
        registers.registers[3:6] = found.lba_low, found.lba_mid, found.lba_high
    else:
        found = AtaPassThrough16.unpack(cdb)
        registers.features = found.features_high << 8 | found.features
        registers.count = found.count_high << 8 | found.count
        registers.registers[3:6] = (
            found.lba_low_high << 8 | found.lba_low,
            found.lba_mid_high << 8 | found.lba_mid,
            found.lba_high_high << 8 | found.lba_high,
        )
    registers.device, registers.command = found.device, found.command
    return registers


class Rig:
    """A `PassthroughDrive` over a `SatDevice` over an `AtaDisk` over `disk`, and a hand that gives
    it commands. `sent` has the commands that reached the real drive, by opcode.
    """

    def __init__(
        self,
        engine: Engine,
        disk: RamDisk | None = None,
        policy: Policy | None = EVERYTHING,
        *,
        fixed: bool = False,
        transport: Transport | None = None,
        **options: Any,
    ) -> None:
        self.disk = disk or RamDisk(1 << 20)
        self.real = AtaDisk(self.disk, engine, serial="REAL", model="a real drive")
        self.sat = SatDevice(self.real, engine, fixed=fixed)
        identity = identify(self.sat)
        self.sat.log.clear()
        self.drive = PassthroughDrive(transport or self.sat, engine, identity, policy, **options)
        self.hand = Hand(self.drive, engine)

    @property
    def sent(self) -> list[int]:
        return [cdb[9] if cdb[0] == 0xA1 else cdb[14] for cdb in self.sat.log]

    @property
    def outcome(self) -> tuple[int, int]:
        """Status and Error."""
        return self.drive.status, self.drive.error

    def non_data(self, registers: TaskFile) -> TaskFile:
        """Carry out a command; the registers that it leaves."""
        self.hand.do(registers, memoryview(b""))
        return self.drive.taskfile

    def take(self, registers: TaskFile, size: int, part: int = 1 << 30) -> bytes:
        """Carry out a command that gives `size` bytes; returns those that it gave."""
        data = bytearray(size)
        return bytes(data[: self.hand.do(registers, memoryview(data), part)])

    def give(self, registers: TaskFile, data: bytes, part: int = 1 << 30) -> None:
        """Carry out a command that takes `data`."""
        self.hand.do(registers, memoryview(bytearray(data)), part)
