"""A SATA port: registers, link, and the drive that comes and goes (AHCI 1.3.1 section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from drivebay.ata.device import Device, Reset
from drivebay.controllers.ahci.commands import CommandList
from drivebay.controllers.ahci.registers import (
    Communication,
    Detection,
    PortRegisters,
    PowerState,
    PxCMD,
    PxIS,
    PxSCTL,
    PxSERR,
    PxSSTS,
    Speed,
)
from drivebay.controllers.ahci.structures import UNKNOWN_AT
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory

if TYPE_CHECKING:
    from drivebay.controllers.ahci.hba import Hba

__all__ = ["Port"]

ST, SUD, POD, CLO, FRE, FR, CR = (
    int(bit) for bit in (PxCMD.ST, PxCMD.SUD, PxCMD.POD, PxCMD.CLO, PxCMD.FRE, PxCMD.FR, PxCMD.CR)
)
PCS, PRCS, UFS = int(PxIS.PCS), int(PxIS.PRCS), int(PxIS.UFS)
CONNECTED, PHY_READY_CHANGED, UNKNOWN_FIS = int(PxSERR.X), int(PxSERR.N), int(PxSERR.F)
STORED: Final = PxCMD.ASP | PxCMD.ALPE | PxCMD.DLAE | PxCMD.ATAPI | FRE | ST
INTERRUPTS: Final = (
    PxIS.TFES | PxIS.HBFS | PxIS.HBDS | PxIS.IFS | PxIS.INFS | PxIS.OFS | PxIS.IPMS | PRCS
    | PCS | PxIS.DPS | UFS | PxIS.SDBS | PxIS.DSS | PxIS.PSS | PxIS.DHRS
)  # fmt: skip
CONTROL: Final = PxSCTL.IPM | PxSCTL.SPD | PxSCTL.DET
BSY_DRQ: Final = 0x88
NOBODY: Final = 0x7F  # status and signature where no drive is
NO_SIGNATURE: Final = 0xFFFFFFFF
BUSY: Final = 0x80
HELD: Final = (Detection.NO_COMMUNICATION, Detection.OFFLINE)
LEVELS: Final[dict[int, tuple[PowerState, int]]] = {
    Communication.ACTIVE: (PowerState.ACTIVE, 0),
    Communication.PARTIAL: (PowerState.PARTIAL, 1),
    Communication.SLUMBER: (PowerState.SLUMBER, 2),
}
"""What PxCMD.ICC asks for, and the bit of PxSCTL.IPM that forbids it."""
STATE: Final = (
    *("command_list", "received", "interrupts", "enabled", "command", "tfd", "signature"),
    *("control", "serr", "sact", "ci", "power", "link"),
)


class Port:
    """Port `number` of `hba`. Handlers are named after their registers."""

    def __init__(self, hba: Hba, number: int) -> None:
        self._hba = hba
        self.number = number
        self.drive: Device | None = None
        self._pulled: list[Device] = []  # that still reach memory
        self.commands = CommandList(self)
        self.registers = PortRegisters.bind(self)
        self.command_list = 0
        """Where the guest has put it; and the received FISes."""
        self.received = 0
        self._clear()

    def _clear(self) -> None:
        self.interrupts = self.enabled = 0
        self.command = POD | (0 if self._hba.staggered else SUD)
        self.tfd, self.signature = NOBODY, NO_SIGNATURE
        self.control = self.serr = self.sact = self.ci = 0
        self.power = int(PowerState.NONE)
        self.link = int(Detection.NOTHING)

    @property
    def memory(self) -> GuestMemory:
        """What the function may reach of the guest's memory."""
        return self._hba.memory

    @property
    def engine(self) -> Engine:
        """Where it all runs."""
        return self._hba.engine

    # -- plugging --------------------------------------------------------------------------------

    def attach(self, drive: Device) -> None:
        """Plug `drive` in: the link comes up. Raises `ValueError` if one is there."""
        if self.drive is not None:
            raise ValueError(f"AHCI port {self.number} has a drive")
        self.drive = drive
        drive.wire = drive.sata = self.commands
        drive.reset(Reset.POWER_ON)
        self._connect()
        self.update()

    def detach(self) -> Device | None:
        """Pull the drive: what it was doing is given up."""
        drive = self.drive
        if drive is None:
            return None
        self._disconnect(comes_back=False)
        self.drive = None
        drive.reset(Reset.POWER_ON)
        drive.release()
        drive.wire = drive.sata = None
        self._pulled = [each for each in (*self._pulled, drive) if each.reaches_memory]
        self.link = int(Detection.NOTHING)
        self.update()
        return drive

    # -- the link --------------------------------------------------------------------------------

    @property
    def established(self) -> bool:
        """Whether the link is up."""
        return self.link == Detection.ESTABLISHED

    def _connect(self) -> None:
        """Let the drive out of its reset, unless the guest holds it or has not spun it up."""
        drive = self.drive
        if drive is None or not self.command & SUD or self.control & PxSCTL.DET in HELD:
            return
        self.link, self.power = int(Detection.ESTABLISHED), int(PowerState.ACTIVE)
        self.serr |= CONNECTED | PHY_READY_CHANGED
        self.tfd = self.tfd & ~0xFF | BUSY
        self.commands.link_lost(comes_back=True)
        drive.release()

    def _disconnect(self, *, comes_back: bool) -> None:
        """The link goes down."""
        if self.established:
            self.serr |= PHY_READY_CHANGED
        self.power = int(PowerState.NONE)
        self.link = int(Detection.NO_COMMUNICATION if comes_back else Detection.NOTHING)
        self.tfd, self.signature = NOBODY, NO_SIGNATURE
        self.commands.link_lost(comes_back=comes_back)

    def _reset_link(self, reset: Reset) -> None:
        """COMRESET begins, or the link is switched off."""
        if self.drive is not None:
            self._disconnect(comes_back=True)
            self.drive.reset(reset)

    def signed(self, fis: bytes) -> None:
        """The first FIS after a reset."""
        self.signature = int.from_bytes(fis[4:7], "little") << 8 | fis[12]

    def wake(self) -> None:
        """The link is needed."""
        self.power = int(PowerState.ACTIVE)

    # -- what the command list needs -------------------------------------------------------------

    @property
    def started(self) -> bool:
        """Whether the guest wants its commands done."""
        return bool(self.command & ST)

    def receive(self, at: int, fis: bytes, interrupt: int) -> None:
        """A FIS has come for place `at`. Raises `GuestMemoryFault`."""
        if self.command & FRE:
            self.memory.view(self.received + at, len(fis))[:] = fis
            self.interrupts |= interrupt

    def receive_unknown(self, fis: bytes) -> None:
        """A FIS has come that no drive of ours sends; up to 64 bytes. For tests. Raises
        `GuestMemoryFault`.
        """
        self.receive(UNKNOWN_AT, fis[:64], 0)
        self.serr |= UNKNOWN_FIS
        self.update()

    def raise_(self, bits: int) -> None:
        """These bits of PxIS."""
        self.interrupts |= bits

    def completed(self, count: int) -> None:
        """So many commands are done, for coalescing."""
        self._hba.coalescing.completed(self.number, count)

    def update(self) -> None:
        """Tell the adapter whether this port wants to interrupt."""
        self._hba.port_changed(self.number, bool(self.read_PxIS() & self.enabled))

    # -- registers: memory and interrupts --------------------------------------------------------

    def read_PxCLB(self) -> int:
        """Where the command list is, bits 31 to 0."""
        return self.command_list & 0xFFFFFFFF

    def write_PxCLB(self, value: int) -> None:
        """In units of 1 KiB."""
        self.command_list = self.command_list >> 32 << 32 | value & ~0x3FF

    def read_PxCLBU(self) -> int:
        """Bits 63 to 32."""
        return self.command_list >> 32

    def write_PxCLBU(self, value: int) -> None:
        """Set them."""
        self.command_list = value << 32 | self.command_list & 0xFFFFFFFF

    def read_PxFB(self) -> int:
        """Where received FISes go, bits 31 to 0."""
        return self.received & 0xFFFFFFFF

    def write_PxFB(self, value: int) -> None:
        """In units of 256 bytes."""
        self.received = self.received >> 32 << 32 | value & ~0xFF

    def read_PxFBU(self) -> int:
        """Bits 63 to 32."""
        return self.received >> 32

    def write_PxFBU(self, value: int) -> None:
        """Set them."""
        self.received = value << 32 | self.received & 0xFFFFFFFF

    def read_PxIS(self) -> int:
        """What happened; three bits only show what PxSERR says."""
        serr = self.serr
        if not serr:
            return self.interrupts
        return (
            self.interrupts
            | (PCS if serr & CONNECTED else 0)
            | (PRCS if serr & PHY_READY_CHANGED else 0)
            | (UFS if serr & UNKNOWN_FIS else 0)
        )

    def write_PxIS(self, value: int) -> None:
        """Ones clear."""
        self.interrupts &= ~value
        self.update()

    def read_PxIE(self) -> int:
        """What interrupts."""
        return self.enabled

    def write_PxIE(self, value: int) -> None:
        """Choose it."""
        self.enabled = value & INTERRUPTS
        self.update()

    # -- registers: command and status -----------------------------------------------------------

    @property
    def reaches_memory(self) -> bool:
        """Whether a command under way does, be it given up, or of a drive that was pulled."""
        self._pulled = [drive for drive in self._pulled if drive.reaches_memory]
        return bool(self._pulled) or (self.drive is not None and self.drive.reaches_memory)

    def read_PxCMD(self) -> int:
        """CR stays until nothing reaches memory any more: then it may be taken away."""
        command = self.command | self.commands.last << 8
        if command & FRE:
            command |= FR
        if command & ST or self.reaches_memory:
            command |= CR
        return command | PxCMD.HPCP

    def write_PxCMD(self, value: int) -> None:
        """Start and stop, spin up, wake and put to sleep."""
        before = self.command
        stored = STORED | (SUD if self._hba.staggered else 0)
        self.command = before & ~stored | value & stored
        if value & CLO and not before & ST:
            self.tfd &= ~BSY_DRQ
        if before & ST and not value & ST:
            self.ci = self.sact = 0
            self.commands.stop()
        if (before ^ self.command) & SUD:
            if self.command & SUD:
                self._connect()
            else:
                self._reset_link(Reset.HARDWARE)
        self._change_power(value >> 28)
        self.commands.work()

    def _change_power(self, asked: int) -> None:
        """An idle link goes to sleep; ICC reads as idle again (section 3.3.7)."""
        if asked not in LEVELS or not self.established:
            return
        power, forbidden = LEVELS[asked]
        idle = self.commands.slot is None and not self.sact | self.ci
        if power == PowerState.ACTIVE or (idle and not self.control >> 8 & forbidden):
            self.power = int(power)

    def read_PxTFD(self) -> int:
        """Status and error."""
        return self.tfd

    def read_PxSIG(self) -> int:
        """The signature."""
        return self.signature

    def read_PxSACT(self) -> int:
        """Queued commands under way."""
        return self.sact

    def write_PxSACT(self, value: int) -> None:
        """They are about to be issued."""
        if self.started:
            self.sact |= value

    def read_PxCI(self) -> int:
        """Commands that are issued, and not over."""
        return self.ci

    def write_PxCI(self, value: int) -> None:
        """Issue them."""
        if self.started:
            self.ci |= value
            self.commands.work()

    # -- registers: the link ---------------------------------------------------------------------

    def read_PxSSTS(self) -> int:
        """The link as it is."""
        link = self.link
        if self.control & PxSCTL.DET == Detection.OFFLINE:
            link = int(Detection.OFFLINE)
        if link != Detection.ESTABLISHED:
            return link
        limit = (self.control & PxSCTL.SPD) >> 4
        speed = min(limit or Speed.GEN3, Speed.GEN3)
        return PxSSTS.of(IPM=self.power, SPD=speed, DET=link)

    def read_PxSCTL(self) -> int:
        """The link as it shall be."""
        return self.control

    def write_PxSCTL(self, value: int) -> None:
        """Reset it, hold it, let it go."""
        before, self.control = self.control & PxSCTL.DET, value & CONTROL
        now = self.control & PxSCTL.DET
        if now in HELD and before not in HELD:
            self._reset_link(Reset.HARDWARE)
        elif before in HELD and now not in HELD:
            self._connect()
        self.update()

    def read_PxSERR(self) -> int:
        """What happened on the link."""
        return self.serr

    def write_PxSERR(self, value: int) -> None:
        """Ones clear."""
        self.serr &= ~value
        self.update()

    # -- reset and saving ------------------------------------------------------------------------

    def reset(self, *, keep_addresses: bool) -> None:
        """As after power on; with staggered spin-up the drive stays down."""
        self.commands.link_lost(comes_back=False)
        if not keep_addresses:
            self.command_list = self.received = 0
        self._clear()
        self.commands.stop()
        if self.drive is not None:
            self.link = int(Detection.NO_COMMUNICATION)
            self.drive.reset(Reset.HARDWARE if keep_addresses else Reset.POWER_ON)
            self._connect()
        self.update()

    def save(self) -> dict[str, Any]:
        """Registers, commands and the drive."""
        return {
            **{name: getattr(self, name) for name in STATE},
            "commands": self.commands.save(),
            "drive": None if self.drive is None else self.drive.save(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take what `save` gave. Raises `ValueError` if there was another drive, or none."""
        if (self.drive is None) != (state["drive"] is None):
            raise ValueError(f"AHCI port {self.number}: saved with another drive")
        for name in STATE:
            setattr(self, name, state[name])
        if self.drive is not None:
            self.drive.restore(state["drive"])
        self.commands.restore(state["commands"])

    def resume(self) -> None:
        """Go on after `restore`: what the disk was doing is done again."""
        if self.drive is not None:
            self.drive.resume()
        self.commands.work()
