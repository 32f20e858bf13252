"""An ATA hard disk over any `Disk`: what each command means (ACS-3, ATA/ATAPI-6 for the retired).

A method named after its command parses it, without effect, and returns a `Command`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Final, NamedTuple

from drivebay.ata.command import (
    ABRT,
    Aborted,
    Action,
    Command,
    DataIn,
    Parameters,
    Protocol,
)
from drivebay.ata.device import BUFFER_SIZE, Device, Reset
from drivebay.ata.geometry import Geometry, default_geometry
from drivebay.ata.identify import checksummed
from drivebay.ata.identify_disk import MAX_TRIM_BLOCKS, identify_disk
from drivebay.ata.media import Flush, MediaAccess, Read, Span, Trim, Verify, Write
from drivebay.ata.ncq import QUEUED, CommandQueue
from drivebay.ata.registers import (
    DeviceRegister,
    Error,
    Feature,
    Opcode,
    SetMaxFeature,
    SmartFeature,
    name_of,
)
from drivebay.ata.sata import SATA_COMMANDS
from drivebay.ata.settings import Power, Settings, transfer_mode
from drivebay.ata.smart import Smart
from drivebay.ata.taskfile import TaskFile
from drivebay.disk.bad import BadSectors
from drivebay.disk.contract import Disk, Unmap
from drivebay.disk.errors import InvalidInput
from drivebay.platform.engine import Engine
from drivebay.platform.observer import InFlight

__all__ = ["MAX_SECTORS", "AtaDisk"]

MAX_SECTORS: Final = (1 << 48) - 1
LBA28_SECTORS: Final = (1 << 28) - 1
MAX_MULTIPLE: Final = 16
SMART_KEY: Final = 0xC24F
SMART_FAILING: Final = 0x2CF4

LBA = int(DeviceRegister.LBA)
HEAD = int(DeviceRegister.HEAD)
IDNF = int(Error.IDNF)
WRITE_PROTECTED = int(Error.UNC)  # what bit 6 says of a write (ATA/ATAPI-6 section 8.63.6)

PIO_IN, PIO_OUT, DMA_IN, DMA_OUT = (
    Protocol.PIO_IN,
    Protocol.PIO_OUT,
    Protocol.DMA_IN,
    Protocol.DMA_OUT,
)


class _Access(NamedTuple):
    """How a read or write command addresses and moves its sectors."""

    protocol: Protocol
    ext: bool = False
    multiple: bool = False
    fua: bool = False


ACCESSES: Final[dict[int, _Access]] = {
    Opcode.READ_SECTORS: _Access(PIO_IN),
    Opcode.READ_SECTORS_ONCE: _Access(PIO_IN),
    Opcode.READ_SECTORS_EXT: _Access(PIO_IN, ext=True),
    Opcode.READ_DMA_EXT: _Access(DMA_IN, ext=True),
    Opcode.READ_MULTIPLE_EXT: _Access(PIO_IN, ext=True, multiple=True),
    Opcode.WRITE_SECTORS: _Access(PIO_OUT),
    Opcode.WRITE_SECTORS_ONCE: _Access(PIO_OUT),
    Opcode.WRITE_SECTORS_EXT: _Access(PIO_OUT, ext=True),
    Opcode.WRITE_DMA_EXT: _Access(DMA_OUT, ext=True),
    Opcode.WRITE_MULTIPLE_EXT: _Access(PIO_OUT, ext=True, multiple=True),
    Opcode.WRITE_DMA_FUA_EXT: _Access(DMA_OUT, ext=True, fua=True),
    Opcode.READ_MULTIPLE: _Access(PIO_IN, multiple=True),
    Opcode.WRITE_MULTIPLE: _Access(PIO_OUT, multiple=True),
    Opcode.READ_DMA: _Access(DMA_IN),
    Opcode.READ_DMA_ONCE: _Access(DMA_IN),
    Opcode.WRITE_DMA: _Access(DMA_OUT),
    Opcode.WRITE_DMA_ONCE: _Access(DMA_OUT),
    Opcode.WRITE_MULTIPLE_FUA_EXT: _Access(PIO_OUT, ext=True, multiple=True, fua=True),
}

ALIASES: Final = {
    Opcode.READ_VERIFY_SECTORS_ONCE: Opcode.READ_VERIFY_SECTORS,
    Opcode.STANDBY_IMMEDIATE_OLD: Opcode.STANDBY_IMMEDIATE,
    Opcode.IDLE_IMMEDIATE_OLD: Opcode.IDLE_IMMEDIATE,
    Opcode.STANDBY_OLD: Opcode.STANDBY,
    Opcode.IDLE_OLD: Opcode.IDLE,
    Opcode.CHECK_POWER_MODE_OLD: Opcode.CHECK_POWER_MODE,
    Opcode.SLEEP_OLD: Opcode.SLEEP,
    Opcode.FLUSH_CACHE_EXT: Opcode.FLUSH_CACHE,
    Opcode.SET_MAX_ADDRESS_EXT: Opcode.SET_MAX_ADDRESS,
}


class AtaDisk(Device):
    """A disk drive with ATA's manners.

    `serial` is up to 20, `model` 40 and `firmware` 8 ASCII characters. Raises `InvalidInput` if
    `disk` has more sectors than 48 bits can address.
    """

    def __init__(
        self,
        disk: Disk,
        engine: Engine,
        *,
        model: str = "drivebay ATA disk",
        serial: str | None = None,
        firmware: str = "1.0",
    ) -> None:
        if disk.sector_count > MAX_SECTORS:
            raise InvalidInput(f"{disk.sector_count} sectors: ATA addresses 2^48 - 1")
        self.disk = disk
        self.model, self.firmware = model, firmware
        self.serial = serial if serial is not None else (disk.disk_id or b"").hex()[:20].upper()
        self.smart = Smart()
        self.bad = BadSectors()
        self.queue: CommandQueue = CommandQueue(self)
        self.sector_size = disk.sector_size
        self.max_multiple = min(MAX_MULTIPLE, BUFFER_SIZE // disk.sector_size)
        self._read_write_buffer = bytes(512)
        self.settings = self._defaults()
        super().__init__(engine)

    # -- what it is ------------------------------------------------------------------------------

    @property
    def sectors(self) -> int:
        """Sectors the host may reach: all, unless SET MAX ADDRESS hides some."""
        limit = self.settings.max_sectors
        return self.disk.sector_count if limit is None else min(limit, self.disk.sector_count)

    @property
    def write_cache(self) -> bool:
        """Whether writes may end before they are stable."""
        return self.settings.write_cache

    @property
    def native_geometry(self) -> Geometry:
        """The geometry it has after power-on."""
        return default_geometry(self.sectors)

    @property
    def geometry(self) -> Geometry:
        """The geometry INITIALIZE DEVICE PARAMETERS has chosen."""
        heads, sectors = self.settings.heads, self.settings.sectors_per_track
        native = self.native_geometry
        if (heads, sectors) == native[1:]:
            return native
        cylinders = min(self.sectors // (heads * sectors), 65535)
        return Geometry(max(cylinders, 1), heads, sectors)

    def _defaults(self) -> Settings:
        _, heads, sectors = default_geometry(self.disk.sector_count)
        return Settings(self.disk.volatile_cache, heads, sectors)

    def reset_settings(self, reset: Reset) -> None:
        """Section 6.18.1 says what survives: the transfer mode, the cache with 66h, SET MAX."""
        old, new = self.settings, self._defaults()
        if reset < Reset.HARDWARE or not old.max_volatile:
            new.max_sectors, new.max_volatile = old.max_sectors, old.max_volatile
        if reset is Reset.SOFTWARE:
            new.ultra_dma, new.multiword_dma = old.ultra_dma, old.multiword_dma
            if old.keep:
                new = replace(old, power=Power.ACTIVE)
        self.settings = new

    def save_settings(self) -> dict[str, Any]:
        """Settings, SMART and the sector buffer."""
        return {
            "settings": self.settings.save(),
            "smart": self.smart.save(),
            "buffer": self._read_write_buffer,
            "bad": self.bad.save(),
            "queue": self.queue.save(),
        }

    def restore_settings(self, state: dict[str, Any]) -> None:
        """Take what `save_settings` gave."""
        self.settings = Settings.restore(state["settings"])
        self.smart.restore(state["smart"])
        self._read_write_buffer = state["buffer"]
        self.bad.restore(state["bad"])
        self.queue.restore(state["queue"])

    def resume(self) -> None:
        """Go on, with the queue too."""
        super().resume()
        self.queue.resume()

    # -- the queue -------------------------------------------------------------------------------

    @property
    def at_rest(self) -> bool:
        """The queue's commands reach memory, too."""
        return super().at_rest and self.queue.idle

    def in_flight(self) -> Iterator[InFlight]:
        """Commands under way."""
        yield from super().in_flight()
        yield from self.queue.in_flight()

    @property
    def reaches_memory(self) -> bool:
        """The queue's do."""
        return super().reaches_memory or not self.queue.idle

    def abandon(self) -> None:
        """The queue is abandoned with the command under way."""
        super().abandon()
        self.queue.give_up()

    def reset(self, reset: Reset) -> None:
        """The queue is given up with the command under way."""
        super().reset(reset)
        self.queue.reset()

    # -- commands --------------------------------------------------------------------------------

    def execute(self) -> None:
        """Begin a command, unless the drive sleeps."""
        if self.settings.power == Power.SLEEP:
            return
        own = self.sata is None or self.busy or self.held
        if own or not self.queue.takes(self.taskfile):
            super().execute()

    def parse(self, taskfile: TaskFile) -> Command:
        """Find the command's method, or its row in the table of accesses."""
        opcode = taskfile.command
        access = ACCESSES.get(opcode)
        if access is not None:
            return self._access(taskfile, access)
        handler = HANDLERS.get(opcode)
        if handler is None and self.sata is not None:
            handler = SATA_COMMANDS.get(opcode)
        if handler is None:
            raise Aborted(why="not implemented")
        return handler(self, taskfile)

    def describe(self, issued: TaskFile) -> str:
        """Reads and writes by the sectors they name."""
        if issued.command in QUEUED:
            return self.queue.describe(issued)
        access = ACCESSES.get(issued.command)
        if access is None:
            return super().describe(issued)
        lba, count = issued.lba28, issued.count & 0xFF or 0x100
        if access.ext:
            lba, count = issued.lba48, issued.count or 0x10000
        where = f"{lba:#x}" if issued.device & LBA else f"chs {lba:07x}"
        return f"{name_of(issued.command)} {where}+{count:#x}"

    def _access(self, taskfile: TaskFile, access: _Access) -> Command:
        span = self.span(taskfile, access.ext)
        multiple = 1
        if access.multiple:
            multiple = self.settings.multiple
            if not multiple:
                raise Aborted(why="SET MULTIPLE MODE comes first")
        self.settings.power = Power.ACTIVE
        if access.protocol in (PIO_IN, DMA_IN):
            return Read(self, taskfile, span, access.protocol, multiple)
        self.must_be_writable()
        write = Write(self, taskfile, span, access.protocol, multiple)
        write.fua = access.fua
        return write

    @property
    def trims(self) -> bool:
        """Whether TRIM is there."""
        return self.disk.unmap_behaviour is not Unmap.IGNORED and not self.disk.read_only

    def must_be_writable(self) -> None:
        """Raises `Aborted` if the disk is not."""
        if self.disk.read_only:
            raise Aborted(ABRT | WRITE_PROTECTED, "read-only disk")

    def span(self, taskfile: TaskFile, ext: bool) -> Span:
        """The sectors that `taskfile` names. Raises `Aborted` unless the drive has them all."""
        if ext:
            if not taskfile.device & LBA:
                raise Aborted(ABRT | IDNF, "a 48-bit command addresses by LBA")
            span = Span(taskfile.lba48, taskfile.count or 0x10000, True)
        else:
            count = taskfile.count & 0xFF or 0x100
            if taskfile.device & LBA:
                span = Span(taskfile.lba28, count, False)
            else:
                span = Span(self._chs_address(taskfile), count, False)
        if span.lba + span.sectors > self.sectors:
            raise Aborted(ABRT | IDNF, f"{self.sectors} sectors")
        return span

    def _chs_address(self, taskfile: TaskFile) -> int:
        lba = self.geometry.lba(
            taskfile.lba_mid_high, taskfile.device & HEAD, taskfile.lba_low & 0xFF
        )
        if lba is None:
            raise Aborted(ABRT | IDNF, f"not in {self.geometry}")
        return lba

    def tell_address(self, taskfile: TaskFile, lba: int, ext: bool) -> None:
        """Put `lba` into the registers in the form the host addresses by."""
        if ext:
            taskfile.lba48 = lba
        elif taskfile.device & LBA:
            taskfile.lba28 = lba
        else:
            cylinder, head, sector = self.geometry.chs(lba)
            taskfile.lba_low, taskfile.lba_mid_high = sector, cylinder
            taskfile.device = taskfile.device & ~HEAD | head & HEAD

    def do_NOP(self, taskfile: TaskFile) -> Command:
        """Always aborts (section 7.26)."""
        raise Aborted(why="NOP")

    def do_DATA_SET_MANAGEMENT(self, taskfile: TaskFile) -> Command:
        """TRIM, up to 8 blocks of ranges. Old drivers (QEMU's ide-test) write the count register
        once and leave a signature in its upper byte, which no count of ours needs.
        """
        if not taskfile.features & 1:
            raise Aborted(why="only TRIM")
        return self.trim(taskfile, taskfile.count & 0xFF)

    def trim(self, taskfile: TaskFile, blocks: int) -> Trim:
        """TRIM of the ranges in `blocks` blocks. Raises `Aborted` unless the disk takes it."""
        if self.disk.unmap_behaviour is Unmap.IGNORED:
            raise Aborted(why="the disk cannot unmap")
        self.must_be_writable()
        if not 0 < blocks <= MAX_TRIM_BLOCKS:
            raise Aborted(why=f"1 to {MAX_TRIM_BLOCKS} blocks of ranges")
        return Trim(self, taskfile, blocks)

    def do_RECALIBRATE(self, taskfile: TaskFile) -> Command:
        """To cylinder 0, where it always is."""
        return Action()

    def do_SEEK(self, taskfile: TaskFile) -> Command:
        """The address is checked; there is nothing to move."""
        span = self.span(taskfile, False)._replace(sectors=1)
        return MediaAccess(self, taskfile, span)

    def do_READ_VERIFY_SECTORS(self, taskfile: TaskFile) -> Command:
        """Read and throw away."""
        return Verify(self, taskfile, self.span(taskfile, False))

    def do_READ_VERIFY_SECTORS_EXT(self, taskfile: TaskFile) -> Command:
        """The same, 48-bit."""
        return Verify(self, taskfile, self.span(taskfile, True))

    def do_FLUSH_CACHE(self, taskfile: TaskFile) -> Command:
        """Every completed write becomes stable."""
        return Flush(self)

    def do_EXECUTE_DEVICE_DIAGNOSTIC(self, taskfile: TaskFile) -> Command:
        """Both devices get this one; each passes."""
        return Diagnostic(self)

    def do_INITIALIZE_DEVICE_PARAMETERS(self, taskfile: TaskFile) -> Command:
        """Choose heads and sectors for CHS addresses (ATA/ATAPI-5 section 8.16)."""
        heads, sectors = (taskfile.device & HEAD) + 1, taskfile.count & 0xFF
        if not sectors:
            raise Aborted(why="no sectors in a track")

        def choose() -> None:
            self.settings.heads, self.settings.sectors_per_track = heads, sectors

        return Action(choose)

    def do_READ_BUFFER(self, taskfile: TaskFile) -> Command:
        """The 512 bytes that WRITE BUFFER left."""
        return DataIn(self._read_write_buffer)

    def do_WRITE_BUFFER(self, taskfile: TaskFile) -> Command:
        """Keep 512 bytes."""

        def keep(data: bytes) -> None:
            self._read_write_buffer = data

        return Parameters(1, keep)

    def do_SET_MULTIPLE_MODE(self, taskfile: TaskFile) -> Command:
        """Sectors in a block of the MULTIPLE commands; 0 forbids them (section 7.46)."""
        count = taskfile.count & 0xFF
        if count > self.max_multiple or count & (count - 1):
            raise Aborted(why=f"a power of two up to {self.max_multiple}")
        return Action(partial(setattr, self.settings, "multiple", count))

    def do_IDENTIFY_DEVICE(self, taskfile: TaskFile) -> Command:
        """What the drive is, at this moment: a resize shows."""
        return DataIn(checksummed(identify_disk(self)))

    # -- power -----------------------------------------------------------------------------------

    def _enter(self, power: Power) -> Command:
        return Action(partial(setattr, self.settings, "power", power))

    def do_STANDBY_IMMEDIATE(self, taskfile: TaskFile) -> Command:
        """Spin down; the cache is flushed first (section 7.54)."""
        return PowerDown(self, Power.STANDBY)

    def do_STANDBY(self, taskfile: TaskFile) -> Command:
        """Spin down; the timer in the count register has no clock to run on."""
        return PowerDown(self, Power.STANDBY)

    def do_IDLE_IMMEDIATE(self, taskfile: TaskFile) -> Command:
        """Idle."""
        return self._enter(Power.IDLE)

    def do_IDLE(self, taskfile: TaskFile) -> Command:
        """Idle."""
        return self._enter(Power.IDLE)

    def do_SLEEP(self, taskfile: TaskFile) -> Command:
        """Deaf until a reset."""
        return PowerDown(self, Power.SLEEP)

    def do_CHECK_POWER_MODE(self, taskfile: TaskFile) -> Command:
        """The mode, in the count register."""
        return Action(partial(setattr, taskfile, "count", self.settings.power & 0xFF))

    # -- features --------------------------------------------------------------------------------

    def do_SET_FEATURES(self, taskfile: TaskFile) -> Command:
        """Subcommands by the features register (section 7.45)."""
        feature, count = taskfile.features & 0xFF, taskfile.count & 0xFF
        if feature == Feature.DISABLE_WRITE_CACHE:
            return CacheOff(self)
        changes: dict[int, dict[str, Any]] = {
            Feature.ENABLE_LOOK_AHEAD: {"look_ahead": True},
            Feature.DISABLE_LOOK_AHEAD: {"look_ahead": False},
            Feature.KEEP_DEFAULTS: {"keep": True},
            Feature.REVERT_TO_DEFAULTS: {"keep": False},
            Feature.DISABLE_APM: {"apm": 0},
        }
        if feature == Feature.SET_TRANSFER_MODE:
            changes[feature] = transfer_mode(count)
        elif feature == Feature.ENABLE_APM and 1 <= count <= 0xFE:
            changes[feature] = {"apm": count}
        elif feature == Feature.ENABLE_WRITE_CACHE and self.disk.volatile_cache:
            changes[feature] = {"write_cache": True}
        if feature not in changes:
            raise Aborted(why=f"no feature {feature:#04x} with {count:#04x}")
        return Action(partial(vars(self.settings).update, changes[feature]))

    # -- host protected area ---------------------------------------------------------------------

    def _native_max(self, taskfile: TaskFile, ext: bool) -> Command:
        last = max(self.disk.sector_count - 1, 0)
        if not ext:
            last = min(last, LBA28_SECTORS)

        return Action(partial(self.tell_address, taskfile, last, ext))

    def do_READ_NATIVE_MAX_ADDRESS(self, taskfile: TaskFile) -> Command:
        """The last sector there really is (ATA/ATAPI-6 section 8.32)."""
        return self._native_max(taskfile, ext=False)

    def do_READ_NATIVE_MAX_ADDRESS_EXT(self, taskfile: TaskFile) -> Command:
        """The same, 48-bit."""
        return self._native_max(taskfile, ext=True)

    def do_SET_MAX_ADDRESS(self, taskfile: TaskFile) -> Command:
        """SET MAX ADDRESS (EXT), right after READ NATIVE MAX ADDRESS (section 8.47)."""
        ext = taskfile.command == Opcode.SET_MAX_ADDRESS_EXT
        if not ext and taskfile.features & 0xFF != SetMaxFeature.ADDRESS:
            raise Aborted(why="SET MAX passwords are not implemented")
        if self.previous not in (
            Opcode.READ_NATIVE_MAX_ADDRESS,
            Opcode.READ_NATIVE_MAX_ADDRESS_EXT,
        ):
            raise Aborted(why="READ NATIVE MAX ADDRESS comes first")
        if ext:
            last = taskfile.lba48
        elif taskfile.device & LBA:
            last = taskfile.lba28
        else:
            last = self._chs_address(taskfile)
        if last >= self.disk.sector_count:
            raise Aborted(ABRT | IDNF, f"{self.disk.sector_count} sectors")
        native = last + 1 == self.disk.sector_count
        change = {
            "max_sectors": None if native else last + 1,
            "max_volatile": not taskfile.count & 1,
        }
        return Action(partial(vars(self.settings).update, change))

    # -- SMART -----------------------------------------------------------------------------------

    def do_SMART(self, taskfile: TaskFile) -> Command:
        """Subcommands by the features register; LBA mid and high hold the key (ACS-2 7.52)."""
        smart, feature = self.smart, taskfile.features & 0xFF
        if taskfile.lba_mid_high != SMART_KEY:
            raise Aborted(why="not the SMART key")
        if feature == SmartFeature.ENABLE_OPERATIONS:
            return Action(partial(setattr, smart, "enabled", True))
        if not smart.enabled:
            raise Aborted(why="SMART is disabled")
        number, count = taskfile.lba_low & 0xFF, taskfile.count & 0xFF
        if feature == SmartFeature.READ_DATA:
            return DataIn(smart.data())
        if feature == SmartFeature.READ_THRESHOLDS:
            return DataIn(smart.thresholds())
        if feature == SmartFeature.READ_LOG:
            log = smart.read_log(number, count)
            if not log:
                raise Aborted(why=f"no log {number:#04x} of {count} sectors")
            return DataIn(log)
        if feature == SmartFeature.WRITE_LOG and smart.writable(number, count):
            return Parameters(count, partial(smart.write_log, number))
        if feature == SmartFeature.EXECUTE_OFFLINE_IMMEDIATE and smart.knows_test(number):
            return Action(partial(smart.self_test, number))
        actions: dict[int, Callable[[], None]] = {
            SmartFeature.DISABLE_OPERATIONS: partial(setattr, smart, "enabled", False),
            SmartFeature.ATTRIBUTE_AUTOSAVE: partial(setattr, smart, "autosave", count != 0),
            SmartFeature.SAVE_ATTRIBUTES: lambda: None,
            SmartFeature.RETURN_STATUS: partial(
                setattr, taskfile, "lba_mid_high", SMART_FAILING if smart.failing else SMART_KEY
            ),
        }
        if feature not in actions:
            raise Aborted(why=f"no SMART subcommand {feature:#04x}")
        return Action(actions[feature])


class Diagnostic(Action):
    """EXECUTE DEVICE DIAGNOSTIC: the Error register says 01h, which is no error."""

    def __init__(self, device: Device) -> None:
        super().__init__(device.diagnose)
        self._device = device

    def ended(self, offset: int, failure: Exception | None) -> int:
        """Passed."""
        return self._device.error


class PowerDown(Flush):
    """Enter a power mode in which the cache would be lost."""

    def __init__(self, drive: AtaDisk, power: Power) -> None:
        super().__init__(drive)
        self._power = power

    async def finish(self) -> None:
        """Flush, then sleep."""
        await super().finish()
        self._drive.settings.power = self._power


class CacheOff(Flush):
    """SET FEATURES 82h: what the cache holds is written first (section 7.45.4)."""

    async def finish(self) -> None:
        """Flush, and write through from now on."""
        await super().finish()
        self._drive.settings.write_cache = False


def _handlers() -> dict[int, Callable[[AtaDisk, TaskFile], Command]]:
    handlers: dict[int, Callable[[AtaDisk, TaskFile], Command]] = {}
    for opcode in Opcode:
        method = getattr(AtaDisk, f"do_{ALIASES.get(opcode, opcode).name}", None)
        if method is not None:
            handlers[opcode] = method
    for first in (Opcode.RECALIBRATE, Opcode.SEEK):
        handlers |= dict.fromkeys(range(first, first + 16), handlers[first])
    return handlers


HANDLERS: Final = _handlers()
