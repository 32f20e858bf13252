"""Log pages, and what they tell of: errors, health, changes (NVMe Base 2.0 section 5.16)."""

from __future__ import annotations

import struct
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from drivebay.controllers.nvme.opcodes import (
    ALL_NAMESPACES,
    AdminOpcode,
    EventType,
    LogId,
    NvmOpcode,
    SmartEvent,
)
from drivebay.controllers.nvme.queues import Row, SubmissionQueue
from drivebay.controllers.nvme.status import MORE, Refused, Status
from drivebay.controllers.nvme.structures import (
    ChangedNamespaces,
    Command,
    ErrorEntry,
    FirmwareSlots,
    SmartLog,
)
from drivebay.wire import Bit, Bits, Register8, Register32

if TYPE_CHECKING:
    from drivebay.controllers.nvme.controller import Controller

__all__ = ["ERROR_ENTRIES", "Health", "Logs", "Statistics"]

ERROR_ENTRIES: Final = 64
MOST_CHANGED: Final = 1024
RAE: Final = 1 << 15
"""Retain asynchronous event."""
KELVIN: Final = 273
WARNING_KELVIN: Final = KELVIN + 70
CRITICAL_KELVIN: Final = KELVIN + 80


class CriticalWarning(Register8):
    """The first byte of the health log."""

    ReadOnly = Bit(3)
    Reliability = Bit(2)
    Temperature = Bit(1)
    Spare = Bit(0)


class CommandEffects(Register32):
    """What a command does to others (figure 211)."""

    CSE = Bits(18, 16)  # 1: nothing else in the namespace, 2: nothing else at all meanwhile
    CCC = Bit(4)  # changes what the controller can do
    NIC = Bit(3)  # changes which namespaces there are
    NCC = Bit(2)  # changes what namespaces are
    LBCC = Bit(1)  # changes blocks
    CSUPP = Bit(0)


_LBCC: Final = CommandEffects.of(CSUPP=1, LBCC=1)
_EFFECTS_ADMIN: Final = {
    AdminOpcode.NAMESPACE_MANAGEMENT: CommandEffects.of(CSUPP=1, NIC=1),
    AdminOpcode.NAMESPACE_ATTACHMENT: CommandEffects.of(CSUPP=1, NIC=1),
    AdminOpcode.FIRMWARE_COMMIT: CommandEffects.of(CSUPP=1, CCC=1),
    AdminOpcode.FORMAT_NVM: CommandEffects.of(CSUPP=1, CSE=1, NCC=1, LBCC=1),
    AdminOpcode.SANITIZE: CommandEffects.of(CSUPP=1, CSE=2, LBCC=1),
}
_EFFECTS_NVM: Final = {
    NvmOpcode.WRITE: _LBCC,
    NvmOpcode.WRITE_UNCORRECTABLE: _LBCC,
    NvmOpcode.WRITE_ZEROES: _LBCC,
    NvmOpcode.DATASET_MANAGEMENT: _LBCC,
    NvmOpcode.COPY: _LBCC,
}


class Statistics:
    """What a controller has done since it was made."""

    __slots__ = ("media_errors", "read_bytes", "reads", "write_bytes", "writes")

    def __init__(self) -> None:
        self.reads = self.writes = self.read_bytes = self.write_bytes = self.media_errors = 0

    def save(self) -> dict[str, int]:
        """Every number."""
        return {name: getattr(self, name) for name in self.__slots__}

    def restore(self, state: dict[str, int]) -> None:
        """Take what `save` gave."""
        for name in self.__slots__:
            setattr(self, name, state[name])


class Health:
    """What the SMART log says that a simulation cannot know; whoever holds the drive sets it.

    `temperature` is in kelvin, the others in per cent. `unreliable` and `only_readable` are
    critical warnings. After a change call `changed`.
    """

    FIELDS: Final = (
        "temperature",
        "available_spare",
        "spare_threshold",
        "percentage_used",
        "unreliable",
        "only_readable",
        "power_cycles",
        "power_on_hours",
        "unsafe_shutdowns",
    )

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self.temperature = KELVIN + 38
        self.available_spare, self.spare_threshold, self.percentage_used = 100, 10, 0
        self.unreliable = self.only_readable = False
        self.power_cycles, self.power_on_hours, self.unsafe_shutdowns = 1, 0, 0

    @property
    def warning(self) -> CriticalWarning:
        """The critical warnings that hold now."""
        features = self._controller.features
        return CriticalWarning.of(
            ReadOnly=self.only_readable,
            Reliability=self.unreliable,
            Temperature=not features.coldest < self.temperature < features.hottest,
            Spare=self.available_spare < self.spare_threshold,
        )

    def changed(self) -> None:
        """Tell the host of warnings that it wants to hear of."""
        warning = CriticalWarning(self.warning & self._controller.events.wanted)
        events = self._controller.events
        for holds, info in (
            (warning.Spare, SmartEvent.SPARE),
            (warning.Temperature, SmartEvent.TEMPERATURE),
            (warning.Reliability or warning.ReadOnly, SmartEvent.RELIABILITY),
        ):
            if holds:
                events.tell(EventType.SMART, info, LogId.SMART)

    def save(self) -> dict[str, int]:
        """Every value."""
        return {name: int(getattr(self, name)) for name in self.FIELDS}

    def restore(self, state: dict[str, int]) -> None:
        """Take what `save` gave."""
        for name in self.FIELDS:
            setattr(self, name, state[name])


class Logs:
    """The log pages of `controller`."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self.health = Health(controller)
        self._errors: deque[bytes] = deque(maxlen=ERROR_ENTRIES)
        self._error_count = 0
        self._changed: set[int] = set()
        self._pages = {
            LogId.SUPPORTED: self._supported,
            LogId.ERRORS: self._error_log,
            LogId.SMART: self._smart,
            LogId.FIRMWARE_SLOTS: self._firmware,
            LogId.CHANGED_NAMESPACES: self._changed_list,
            LogId.COMMAND_EFFECTS: self._effects,
            LogId.RESERVATIONS: lambda command: self._controller.nvm.reservations.log(
                bool(command.cdw10 & RAE)
            ),
            LogId.SANITIZE: lambda _command: self._controller.admin.sanitize.log(),
        }

    def get(self, _sq: SubmissionQueue, command: Command) -> int:
        """GET LOG PAGE. Raises `Refused`."""
        number = command.cdw10 & 0xFF
        length = 4 * (((command.cdw11 & 0xFFFF) << 16 | command.cdw10 >> 16) + 1)
        offset = command.cdw13 << 32 | command.cdw12
        page = self._pages.get(number)  # type: ignore[call-overload]
        if page is None:
            raise Refused(Status.INVALID_LOG_PAGE, f"log page {number:#04x}")
        data = page(command)
        if offset & 3 or offset >= len(data):
            raise Refused(Status.INVALID_FIELD, f"log page {number:#04x} from {offset:#x}")
        self._controller.send(command, data[offset : offset + length], length)
        if not command.cdw10 & RAE:
            if number == LogId.CHANGED_NAMESPACES:
                self._changed.clear()
            self._controller.events.read(number)
        return 0

    # -- what happens ----------------------------------------------------------------------------

    def failed(self, sqid: int, row: Row, field: int) -> int:
        """Note a command that failed; its status field, saying that there is more in the log."""
        self._error_count += 1
        if field >> 8 & 7 == 2:
            self._controller.statistics.media_errors += 1
        lba = row[10] << 32 | row[9] if sqid else 0
        entry = ErrorEntry(
            count=self._error_count,
            sqid=sqid,
            cid=row[2],
            status=field << 1 & 0xFFFF,
            location=0xFFFF,
            lba=lba,
            nsid=row[3],
            vendor=0,
            transport=0,
        )
        self._errors.appendleft(entry.pack())
        return field | MORE

    def namespace_changed(self, nsid: int) -> None:
        """A namespace has come, gone or changed."""
        self._changed.add(nsid)

    # -- pages -----------------------------------------------------------------------------------

    def _supported(self, _command: Command) -> bytes:
        return b"".join(struct.pack("<I", number in self._pages) for number in range(256))

    def _error_log(self, _command: Command) -> bytes:
        return b"".join(self._errors).ljust(ERROR_ENTRIES * ErrorEntry.size, b"\0")

    def _smart(self, command: Command) -> bytes:
        if command.nsid not in (0, ALL_NAMESPACES):
            raise Refused(Status.INVALID_FIELD, "health is the controller's")
        health, statistics = self.health, self._controller.statistics

        def wide(number: int) -> bytes:
            return number.to_bytes(16, "little")

        def units(count: int) -> bytes:
            return wide(-(-count // 512_000))

        return SmartLog(
            critical_warning=health.warning,
            temperature=health.temperature,
            available_spare=health.available_spare,
            spare_threshold=health.spare_threshold,
            percentage_used=health.percentage_used,
            data_units_read=units(statistics.read_bytes),
            data_units_written=units(statistics.write_bytes),
            host_reads=wide(statistics.reads),
            host_writes=wide(statistics.writes),
            power_cycles=wide(health.power_cycles),
            power_on_hours=wide(health.power_on_hours),
            unsafe_shutdowns=wide(health.unsafe_shutdowns),
            media_errors=wide(statistics.media_errors),
            error_entries=wide(self._error_count),
            sensors=struct.pack("<H", health.temperature),
        ).pack()

    def _firmware(self, _command: Command) -> bytes:
        firmware = self._controller.admin.firmware
        revisions = b"".join(text.encode().ljust(8)[:8] for text in firmware.slots)
        active = firmware.next << 4 | firmware.active
        return FirmwareSlots(active, revisions=revisions).pack()

    def _changed_list(self, _command: Command) -> bytes:
        found = sorted(self._changed)
        if len(found) > MOST_CHANGED:
            found = [ALL_NAMESPACES]
        return ChangedNamespaces(struct.pack(f"<{len(found)}I", *found)).pack()

    def _effects(self, command: Command) -> bytes:
        page = bytearray(4096)
        tables = (
            (0, self._controller.admin.handlers, _EFFECTS_ADMIN),
            (1024, self._controller.nvm.handlers, _EFFECTS_NVM),
        )
        for start, handlers, effects in tables:
            for opcode in handlers:
                effect = effects.get(opcode, CommandEffects.of(CSUPP=1))  # type: ignore[call-overload]
                struct.pack_into("<I", page, start + 4 * opcode, effect)
        return bytes(page)

    # -- saving ----------------------------------------------------------------------------------

    def reset(self) -> None:
        """A controller reset: errors and health stay, what had changed is looked at anyway."""
        self._changed.clear()

    def save(self) -> dict[str, Any]:
        """Everything."""
        return {
            "errors": list(self._errors),
            "error-count": self._error_count,
            "changed": sorted(self._changed),
            "health": self.health.save(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `save` gave."""
        self._errors = deque(state["errors"], maxlen=ERROR_ENTRIES)
        self._error_count = state["error-count"]
        self._changed = set(state["changed"])
        self.health.restore(state["health"])
