"""What virtio drivers shall not do (virtio 1.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

from drivebay.controllers.virtio.transport import RegisterTransport
from drivebay.lab.strict.judge import Judge, Rule, Sins
from drivebay.platform.virtio import DeviceStatus

__all__ = ["VirtioJudge"]

VIRTIO: Final = "virtio 1.2 section"
S = DeviceStatus
WIDE: Final = frozenset({"queue_desc_low", "queue_driver_low", "queue_device_low"})
"""The halves of 64-bit fields, which may be written as one."""
ORDER: Final = (
    (S.DRIVER, S.ACKNOWLEDGE, "driver-before-acknowledge"),
    (S.FEATURES_OK, S.DRIVER, "features-before-driver"),
    (S.DRIVER_OK, S.FEATURES_OK, "driver-ok-before-features"),
)


class VirtioJudge(Judge):
    """Judges who drives `transport` by its registers: of `mmio` or `pci`."""

    RULES: ClassVar[Mapping[str, Rule]] = {
        "access-width": Rule(
            "registers are accessed whole, and aligned", f"{VIRTIO} 4.2.2.2, 4.1.3.1"
        ),
        "no-such-register": Rule("there is no register", f"{VIRTIO} 4.2.2.2"),
        "read-only-register": Rule("the register is read-only", f"{VIRTIO} 4.2.2.2"),
        "write-only-register": Rule("the register is write-only", f"{VIRTIO} 4.2.2.2"),
        "driver-before-acknowledge": Rule("ACKNOWLEDGE is set before DRIVER", f"{VIRTIO} 3.1.1"),
        "features-before-driver": Rule("DRIVER is set before FEATURES_OK", f"{VIRTIO} 3.1.1"),
        "driver-ok-before-features": Rule("FEATURES_OK is set before DRIVER_OK", f"{VIRTIO} 3.1.1"),
        "status-bit-cleared": Rule(
            "bits of the status are cleared by a reset only", f"{VIRTIO} 2.1.1"
        ),
        "features-after-features-ok": Rule(
            "features are chosen before FEATURES_OK", f"{VIRTIO} 3.1.1"
        ),
        "feature-not-offered": Rule(
            "only features that were offered are chosen", f"{VIRTIO} 2.2.1"
        ),
        "queue-changed-while-ready": Rule(
            "a queue is set up while it is not ready", f"{VIRTIO} 4.2.3.2"
        ),
        "queue-size": Rule("a queue is not larger than the device says", f"{VIRTIO} 4.2.2.2"),
        "no-such-queue": Rule("there is no such queue", f"{VIRTIO} 4.2.3.3"),
        "notified-before-driver-ok": Rule(
            "the device is not notified before DRIVER_OK", f"{VIRTIO} 3.1.1"
        ),
    }

    def __init__(self, transport: RegisterTransport, sins: Sins, name: str = "virtio") -> None:
        super().__init__(sins, name)
        self._transport = transport
        self._registers = transport.registers.bind(transport)

    def _register(self, offset: int, width: int, *, write: bool) -> str:
        if offset >= self._transport.config_at:
            return ""
        found = self._transport.registers.at(offset)
        if found is None:
            self.sin("no-such-register", f"{width} bytes at {offset:#x}")
            return ""
        name, at = found
        how = f"{width} bytes at {offset:#x}, {name}"
        access = self._registers[at.offset]
        if write and access.write is None:
            self.sin("read-only-register", how)
        elif not write and access.read is None:
            self.sin("write-only-register", how)
        whole = offset == at.offset and width == at.type.size
        if not whole and not (width == 8 and name in WIDE):
            self.sin("access-width", how)
        return name

    def read(self, offset: int, width: int) -> None:
        """A load."""
        self._register(offset, width, write=False)

    def write(self, offset: int, width: int, value: int) -> None:
        """A store."""
        name = self._register(offset, width, write=True)
        handler = getattr(self, f"_{HANDLERS.get(name, '')}", None)
        if handler is not None:
            handler(name, value)

    # -- registers -------------------------------------------------------------------------------

    def _status(self, _name: str, value: int) -> None:
        before = self._transport.status()
        how = f"status from {before:#x} to {value:#x}"
        if not value:
            return
        if before & ~value & ~S.DEVICE_NEEDS_RESET:
            self.sin("status-bit-cleared", how)
        for bit, needed, rule in ORDER:
            if value & bit and not before & bit and not (before | value) & needed:
                self.sin(rule, how)

    def _features(self, name: str, value: int) -> None:
        if self._transport.status() & S.FEATURES_OK:
            self.sin("features-after-features-ok", f"{value:#x} to {name}")
        foreign = self._transport.not_offered(value)
        if foreign:
            self.sin("feature-not-offered", f"{value:#x} to {name}, {foreign:#x} too many")

    def _queue(self, name: str, value: int) -> None:
        setup = self._transport.selected()
        if setup is None:
            self.sin("no-such-queue", f"{value:#x} to {name}")
        elif setup.ready:
            self.sin("queue-changed-while-ready", f"{value:#x} to {name}")

    def _size(self, name: str, value: int) -> None:
        self._queue(name, value)
        if value > self._transport.largest_size():
            self.sin("queue-size", f"{value:#x} to {name}")

    def _notify(self, _name: str, value: int) -> None:
        if not self._transport.status() & S.DRIVER_OK:
            self.sin("notified-before-driver-ok", f"of queue {value}")
        elif value >= self._transport.queue_count:
            self.sin("no-such-queue", f"a notification of queue {value}")


HANDLERS: Final = {
    **dict.fromkeys(("Status", "device_status"), "status"),
    **dict.fromkeys(("DriverFeatures", "driver_feature"), "features"),
    **dict.fromkeys(("QueueNum", "queue_size"), "size"),
    **dict.fromkeys(("QueueNotify", "queue_notify"), "notify"),
    **dict.fromkeys(
        (
            *("QueueDescLow", "QueueDescHigh", "QueueDriverLow", "QueueDriverHigh"),
            *("QueueDeviceLow", "QueueDeviceHigh", "queue_desc_low", "queue_desc_high"),
            *("queue_driver_low", "queue_driver_high", "queue_device_low", "queue_device_high"),
        ),
        "queue",
    ),
}
