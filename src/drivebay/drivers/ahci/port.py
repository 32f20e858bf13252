"""One port: command slots, and how it is started, stopped and reset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from drivebay.ata.registers import DeviceControl, Status
from drivebay.controllers.ahci.registers import (
    PORT_SIZE,
    PORTS_AT,
    Detection,
    PortRegisters,
    PxCMD,
    PxIS,
    PxSCTL,
    PxSSTS,
    PxTFD,
)
from drivebay.controllers.ahci.structures import (
    ACMD_AT,
    HEADER_SIZE,
    PRDT_AT,
    SLOTS,
    CommandHeader,
    FisFlags,
    FisType,
    HeaderFlags,
    PrdEntry,
    PrdFlags,
    RegisterH2dFis,
)
from drivebay.drivers.ahci.errors import AhciError
from drivebay.drivers.ide.channel import AtaCommand

if TYPE_CHECKING:
    from drivebay.drivers.ahci.controller import AhciDriver

__all__ = ["AhciPort", "Region", "register_fis", "split"]

Region = tuple[int, int]
"""Address and length in bytes."""

AT: Final = {name: at.offset for name, at in PortRegisters.registers.items()}
BSY_DRQ: Final = Status.BSY | Status.DRQ
ERRORS: Final = PxIS.TFES | PxIS.HBFS | PxIS.HBDS | PxIS.IFS | PxIS.OFS | PxIS.IPMS
ALL: Final = 0xFFFFFFFF
MAX_REGION: Final = 1 << 22
COMMAND_SIZE: Final = RegisterH2dFis.size // 4


class AhciPort:
    """Port `number` of `driver`'s adapter. A command's table has room for `max_regions`."""

    max_regions = 512

    def __init__(self, driver: AhciDriver, number: int) -> None:
        self.driver, self.number = driver, number
        self.base = driver.base + PORTS_AT + PORT_SIZE * number
        self.memory = driver.arena.memory
        self.command_list = driver.arena.take(SLOTS * HEADER_SIZE, 1024)
        self.received = driver.arena.take(256, 256)
        self._tables: dict[int, int] = {}
        self._buffers: dict[int, Region] = {}
        self.seen = 0
        """Bits of PxIS that were acknowledged since the last command began."""

    def get(self, name: str) -> int:
        """Register `PxNAME`."""
        return self.driver.mmio.read(self.base + AT[f"Px{name}"], 4)

    def put(self, name: str, value: int) -> None:
        """Write it."""
        self.driver.mmio.write(self.base + AT[f"Px{name}"], 4, value)

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Poll until `condition` holds. Raises `AhciTimeout`."""
        self.driver.wait(condition, f"port {self.number}: {what}")

    # -- up and down -----------------------------------------------------------------------------

    @property
    def present(self) -> bool:
        """Whether the link to a drive is up."""
        return PxSSTS(self.get("SSTS")).DET == Detection.ESTABLISHED

    def bring_up(self) -> None:
        """Spin up, tell where everything is, and start if there is a drive."""
        self.stop()
        for name, address in (("CLB", self.command_list), ("FB", self.received)):
            self.put(name, address & ALL)
            self.put(f"{name}U", address >> 32)
        self.put("CMD", self.get("CMD") | PxCMD.SUD | PxCMD.POD | PxCMD.FRE)
        self.acknowledge()
        self.put("IE", ALL)
        if self.present:
            self.wait(lambda: not self.get("TFD") & BSY_DRQ, "no signature")
            self.start()

    def start(self) -> None:
        """Let commands be done."""
        self.put("CMD", self.get("CMD") | PxCMD.FRE | PxCMD.ST)

    def stop(self) -> None:
        """And no longer."""
        self.put("CMD", self.get("CMD") & ~PxCMD.ST)
        self.wait(lambda: not self.get("CMD") & PxCMD.CR, "the command list does not stop")

    def acknowledge(self) -> None:
        """What happened is known."""
        self.put("SERR", ALL)
        self.put("IS", ALL)
        self.driver.put("IS", 1 << self.number)

    def restart(self) -> None:
        """After an error: stop, clear it, and start (section 6.2.2.2)."""
        self.stop()
        self.acknowledge()
        if self.get("TFD") & BSY_DRQ:
            self.comreset()
        else:
            self.start()

    def comreset(self) -> None:
        """Reset the link, and the drive by it."""
        self.stop()
        self.put("SCTL", PxSCTL.of(DET=Detection.NO_COMMUNICATION))
        self.put("SCTL", 0)
        self.wait(lambda: self.present, "no link")
        self.acknowledge()
        self.wait(lambda: not self.get("TFD") & BSY_DRQ, "no signature")
        self.start()

    def software_reset(self) -> None:
        """The pair of FISes with SRST and without (section 10.4.1)."""
        self.stop()
        if self.get("TFD") & BSY_DRQ:
            self.put("CMD", self.get("CMD") | PxCMD.CLO)
            self.wait(lambda: not self.get("CMD") & PxCMD.CLO, "CLO stays")
        self.start()
        for control, flags in (
            (DeviceControl.SRST, HeaderFlags.of(R=1, C=1, CFL=COMMAND_SIZE)),
            (0, HeaderFlags.of(CFL=COMMAND_SIZE)),
        ):
            fis = RegisterH2dFis(
                FisType.REGISTER_H2D, 0, 0, 0, b"", 0, b"", 0, 0, 0, int(control), 0
            )
            self.fill(0, fis.pack(), flags=flags)
            self.put("CI", 1)
            self.wait(lambda: not self.get("CI") & 1, "SRST is not taken")
        self.wait(lambda: not self.get("TFD") & BSY_DRQ, "no signature")

    # -- commands --------------------------------------------------------------------------------

    def buffer(self, slot: int, size: int) -> int:
        """Guest memory of `size` bytes for a command; another one for the same slot reuses it."""
        at, room = self._buffers.get(slot, (0, 0))
        if room < size:
            at = self.driver.arena.take(size, 512)
            self._buffers[slot] = (at, size)
        return at

    def table(self, slot: int) -> int:
        """Where the command table of `slot` is."""
        if slot not in self._tables:
            size = PRDT_AT + self.max_regions * PrdEntry.size
            self._tables[slot] = self.driver.arena.take(size, 128)
        return self._tables[slot]

    def fill(
        self,
        slot: int,
        fis: bytes,
        regions: Sequence[Region] = (),
        *,
        packet: bytes = b"",
        flags: int = COMMAND_SIZE,
    ) -> None:
        """Put a command into `slot`. Raises `ValueError` if there are too many regions."""
        table = self.table(slot)
        if len(regions) > self.max_regions:
            raise ValueError(f"{len(regions)} regions: {self.max_regions} fit")
        entries = b"".join(
            PrdEntry(at & ALL, at >> 32, 0, PrdFlags.of(DBC_z=size - 1)).pack()
            for at, size in regions
        )
        self.memory.view(table, len(fis))[:] = fis
        self.memory.view(table + ACMD_AT, 16)[:] = packet.ljust(16, b"\0")
        self.memory.view(table + PRDT_AT, len(entries))[:] = entries
        flags |= HeaderFlags.A if packet else 0
        header = CommandHeader(flags, len(regions), 0, table & ALL, table >> 32)
        self.memory.view(self.command_list + HEADER_SIZE * slot, HEADER_SIZE)[:] = header.pack()

    def moved(self, slot: int) -> int:
        """Bytes that were moved, as PRDBC says."""
        view = self.memory.view(self.command_list + HEADER_SIZE * slot, HEADER_SIZE)
        return CommandHeader.unpack(view).prdbc

    def prepare(
        self,
        slot: int,
        command: AtaCommand,
        regions: Sequence[Region] = (),
        *,
        write: bool = False,
        packet: bytes = b"",
        auxiliary: int = 0,
    ) -> None:
        """Put an ATA command into `slot`."""
        flags = HeaderFlags.of(W=write, CFL=COMMAND_SIZE)
        self.fill(slot, register_fis(command, auxiliary), regions, packet=packet, flags=flags)

    def issue(self, slots: int, *, queued: bool = False) -> None:
        """Let the commands in the mask `slots` be done."""
        self.seen = 0
        if queued:
            self.put("SACT", slots)
        self.put("CI", slots)

    def outstanding(self) -> int:
        """Slots whose commands are not over."""
        return self.get("CI") | self.get("SACT")

    def finish(self, slots: int, what: str = "command") -> None:
        """Wait until the commands in `slots` are over. Raises `AhciError` if one has failed."""
        self.wait(lambda: self._look() or not self.outstanding() & slots, what)
        self._look()
        if self.seen & ERRORS:
            tfd = self.get("TFD")
            raise AhciError(what, PxTFD(tfd), self.seen)

    def _look(self) -> bool:
        """Take interrupts; whether there was an error."""
        raised = self.driver.raised
        if raised is None or raised():
            happened = self.get("IS")
            self.put("IS", happened)
            self.driver.put("IS", 1 << self.number)
            self.seen |= happened
        return bool(self.seen & ERRORS)

    def execute(
        self,
        command: AtaCommand,
        regions: Sequence[Region] = (),
        *,
        write: bool = False,
        packet: bytes = b"",
        slot: int = 0,
    ) -> int:
        """Do one command; the bytes that were moved. Raises `AhciError`."""
        self.prepare(slot, command, regions, write=write, packet=packet)
        self.issue(1 << slot)
        self.finish(1 << slot, f"command {command.opcode:#04x}")
        return self.moved(slot)


def register_fis(command: AtaCommand, auxiliary: int = 0) -> bytes:
    """A command as a FIS."""
    lba = command.lba.to_bytes(6, "little")
    return RegisterH2dFis(
        type=FisType.REGISTER_H2D,
        flags=FisFlags.C,
        command=command.opcode,
        features=command.features & 0xFF,
        lba_low=lba[:3],
        device=command.device,
        lba_high=lba[3:],
        features_exp=command.features >> 8,
        count=command.count,
        icc=0,
        control=0,
        auxiliary=auxiliary,
    ).pack()


def split(at: int, size: int, most: int = MAX_REGION) -> list[Region]:
    """A buffer as regions of up to `most` bytes."""
    return [(at + done, min(most, size - done)) for done in range(0, size, most)]
