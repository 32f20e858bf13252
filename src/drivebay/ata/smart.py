"""SMART: attributes a test can set, thresholds, self-tests and logs (ACS-2 section 7.52)."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Final

from drivebay.wire import U8, U16, Struct

__all__ = ["NAMES", "Attribute", "Smart"]

SECTOR: Final = 512
REVISION: Final = 0x10
MAX_ATTRIBUTES: Final = 30
HOST_LOGS: Final = range(0x80, 0xA0)
HOST_LOG_SECTORS: Final = 16
DIRECTORY, SUMMARY_ERROR_LOG, SELF_TEST_LOG = 0x00, 0x01, 0x06
OFFLINE_COLLECTION, ABORT_SELF_TEST = 0x00, 0x7F
SELF_TESTS: Final = (0x01, 0x02, 0x81, 0x82)  # short and extended, then captive
MAX_SELF_TESTS: Final = 21


@dataclass
class Attribute:
    """One SMART attribute. It fails when `value` falls to `threshold`."""

    number: int
    value: int = 100
    worst: int = 100
    raw: int = 0
    threshold: int = 0
    flags: int = 0x0032  # self-preserving, event count, updated on line


class _Attribute(Struct, size=12):
    number: U8
    flags: U16
    value: U8
    worst: U8
    raw: Annotated[bytes, "6s"]
    reserved: U8 = 0


class _Threshold(Struct, size=12):
    number: U8
    threshold: U8
    reserved: Annotated[bytes, "10s"] = b""


class _Data(Struct, size=512):
    """Device SMART data (ACS-2 table 86)."""

    revision: U16
    attributes: Annotated[bytes, "360s"]
    offline_status: U8 = 0x82  # completed without error, collected by itself
    self_test_status: U8 = 0
    offline_seconds: U16 = 0
    vendor_366: U8 = 0
    offline_capability: U8 = 0x11  # EXECUTE OFFLINE IMMEDIATE, self-tests
    capability: U16 = 0x0003  # saves attributes, by itself too
    error_logging: U8 = 0x01
    vendor_371: U8 = 0
    short_minutes: U8 = 1
    extended_minutes: U8 = 1
    reserved: Annotated[bytes, "137s"] = b""
    checksum: U8 = 0


class _SelfTest(Struct, size=24):
    """A descriptor of the self-test log (ACS-2 table A.12)."""

    number: U8
    status: U8 = 0
    hours: U16 = 0
    checkpoint: U8 = 0
    failing_lba: Annotated[bytes, "4s"] = b""
    vendor: Annotated[bytes, "15s"] = b""


NAMES: Final = {
    "read-error-rate": 0x01,
    "spin-up-time": 0x03,
    "start-stop-count": 0x04,
    "reallocated-sectors": 0x05,
    "power-on-hours": 0x09,
    "power-cycles": 0x0C,
    "airflow-temperature": 0xBE,
    "temperature": 0xC2,
    "pending-sectors": 0xC5,
    "uncorrectable-sectors": 0xC6,
    "crc-errors": 0xC7,
    "ssd-life-left": 0xE7,
}
"""No standard has them: this is what most drives mean by these numbers."""


def _attributes() -> list[Attribute]:
    """What a healthy young drive shows."""
    return [
        Attribute(NAMES["read-error-rate"], threshold=6, flags=0x000F),
        Attribute(NAMES["spin-up-time"], threshold=0, flags=0x0003),
        Attribute(NAMES["start-stop-count"]),
        Attribute(NAMES["reallocated-sectors"], threshold=10, flags=0x0033),
        Attribute(NAMES["power-on-hours"]),
        Attribute(NAMES["power-cycles"]),
        Attribute(
            NAMES["airflow-temperature"], value=69, worst=69, raw=31, threshold=50, flags=0x0022
        ),
        Attribute(NAMES["pending-sectors"], flags=0x0012),
        Attribute(NAMES["uncorrectable-sectors"], flags=0x0010),
    ]


class Smart:
    """A drive's SMART state. What a test changes, the guest sees::

    drive.smart.attribute(0x05).raw = 12      # twelve reallocated sectors
    """

    def __init__(self) -> None:
        self.enabled = True
        self.autosave = True
        self.attributes = _attributes()
        self._self_tests: list[int] = []  # the last ones, latest last
        self._host_logs: dict[int, bytes] = {}

    def attribute(self, number: int) -> Attribute:
        """Attribute `number`. Raises `KeyError`."""
        for attribute in self.attributes:
            if attribute.number == number:
                return attribute
        raise KeyError(number)

    @property
    def failing(self) -> bool:
        """Whether an attribute has reached its threshold."""
        return any(a.threshold and a.value <= a.threshold for a in self.attributes)

    def data(self) -> bytes:
        """SMART READ DATA."""
        entries = b"".join(
            _Attribute(
                a.number,
                a.flags & 0xFFFF,
                a.value & 0xFF,
                a.worst & 0xFF,
                (a.raw & (1 << 48) - 1).to_bytes(6, "little"),
            ).pack()
            for a in self.attributes[:MAX_ATTRIBUTES]
        )
        return _checksummed(_Data(REVISION, entries).pack())

    def thresholds(self) -> bytes:
        """SMART READ THRESHOLDS."""
        entries = b"".join(
            _Threshold(a.number, a.threshold & 0xFF).pack()
            for a in self.attributes[:MAX_ATTRIBUTES]
        )
        return _checksummed(REVISION.to_bytes(2, "little") + entries)

    def knows_test(self, number: int) -> bool:
        """Whether EXECUTE OFFLINE IMMEDIATE has a test `number`."""
        return number in SELF_TESTS or number in (OFFLINE_COLLECTION, ABORT_SELF_TEST)

    def self_test(self, number: int) -> None:
        """Run a test: it passes at once."""
        if number in SELF_TESTS:
            self._self_tests = [*self._self_tests, number][-MAX_SELF_TESTS:]

    def read_log(self, address: int, sectors: int) -> bytes | None:
        """The first `sectors` sectors of log `address`, or None if it has not as many."""
        log = self._log(address)
        return log[: sectors * SECTOR] if log is not None and len(log) >= sectors * SECTOR else None

    def write_log(self, address: int, data: bytes) -> None:
        """Keep `data` in a host log that is `writable`."""
        self._host_logs[address] = data + (self._log(address) or b"")[len(data) :]

    def writable(self, address: int, sectors: int) -> bool:
        """Whether WRITE LOG of so many sectors is possible."""
        return address in HOST_LOGS and 0 < sectors <= HOST_LOG_SECTORS

    def _log(self, address: int) -> bytes | None:
        if address == DIRECTORY:
            sizes = [1] + [self._sectors(number) for number in range(1, 256)]
            return struct.pack("<256H", *sizes)
        if address == SUMMARY_ERROR_LOG:
            return _checksummed(b"\x01")
        if address == SELF_TEST_LOG:
            return self._self_test_log()
        if address in HOST_LOGS:
            return self._host_logs.get(address, bytes(HOST_LOG_SECTORS * SECTOR))
        return None

    def _sectors(self, address: int) -> int:
        if address in HOST_LOGS:
            return HOST_LOG_SECTORS
        return int(address in (SUMMARY_ERROR_LOG, SELF_TEST_LOG))

    def _self_test_log(self) -> bytes:
        tests = b"".join(_SelfTest(number).pack() for number in self._self_tests)
        body = b"\x01\x00" + tests.ljust(MAX_SELF_TESTS * _SelfTest.size, b"\0") + bytes(2)
        return _checksummed(body + bytes([len(self._self_tests)]))

    def save(self) -> dict[str, Any]:
        """Its state."""
        return {
            "enabled": self.enabled,
            "autosave": self.autosave,
            "attributes": [asdict(attribute) for attribute in self.attributes],
            "self_tests": list(self._self_tests),
            "host_logs": [[address, data] for address, data in self._host_logs.items()],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take what `save` gave."""
        self.enabled, self.autosave = state["enabled"], state["autosave"]
        self.attributes = [Attribute(**attribute) for attribute in state["attributes"]]
        self._self_tests = list(state["self_tests"])
        self._host_logs = dict(state["host_logs"])


def _checksummed(data: bytes | Iterable[int]) -> bytes:
    """A sector that begins with `data` and whose bytes sum to zero."""
    sector = bytearray(bytes(data)[: SECTOR - 1].ljust(SECTOR, b"\0"))
    sector[-1] = -sum(sector) & 0xFF
    return bytes(sector)
