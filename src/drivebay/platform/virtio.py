"""The one small interface between a virtio device and what carries it.

Devices are controllers; what carries them is a register block beside them or a host such as
vhost-user, which never sees a descriptor: it says where a ring is, and the device does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from drivebay.platform.engine import Linger
from drivebay.platform.interrupts import Message
from drivebay.platform.memory import GuestMemory
from drivebay.wire import Bit, Register32

__all__ = [
    "Device",
    "DeviceStatus",
    "PackedDescriptor",
    "PackedTracker",
    "QueueSetup",
    "RingAddresses",
    "RingError",
    "Stopped",
    "Tracker",
    "Transport",
]


class DeviceStatus(Register32):
    """The device status field, virtio 1.2 section 2.1."""

    FAILED = Bit(7)  # the driver has given up
    DEVICE_NEEDS_RESET = Bit(6)  # the device has
    FEATURES_OK = Bit(3)  # the driver has finished choosing features
    DRIVER_OK = Bit(2)  # the driver is set up: go
    DRIVER = Bit(1)  # the guest knows how to drive it
    ACKNOWLEDGE = Bit(0)  # the guest has noticed it


class RingError(Exception):
    """The driver broke a rule of the ring: it can no longer be trusted."""


class RingAddresses(NamedTuple):
    """Where the three parts of a ring are, as guest physical addresses."""

    descriptors: int
    driver: int
    """Split: the available ring. Packed: driver event suppression."""
    device: int
    """Split: the used ring. Packed: device event suppression."""


class Tracker(Protocol):
    """Keeps which chains of a split ring are in flight, so that another process can go on.

    A process may end between any two stores: each call comes right after, or before, what it tells.
    """

    def recover(self, used_index: int) -> list[int]:
        """The heads that were in flight when the last process ended, oldest first."""

    def taken(self, head: int) -> None:
        """A chain was popped."""

    def pushed(self, heads: Sequence[int]) -> None:
        """Chains were given back, and will be visible with the next publish."""

    def published(self, used_index: int) -> None:
        """All that was given back is visible to the driver."""


PackedDescriptor = tuple[int, int, int, int]
"""A descriptor as it stands in a packed ring: address, length, buffer id and flags."""


class PackedTracker(Protocol):
    """The same for a packed ring, where used descriptors overwrite the driver's.

    A used position is told as in `Stopped`: the offset with the wrap counter on top, 16 bits.
    """

    def recover(
        self, used: int, given_back: Callable[[int], bool]
    ) -> tuple[int, list[tuple[int, list[PackedDescriptor]]]]:
        """Where the next used descriptor goes, and the chains that were in flight, oldest first.

        `used` is where it goes if nothing is known; `given_back` tells whether the descriptor at a
        used position is no longer the driver's offer. Raises `RingError`.
        """

    def taken(self, ident: int, descriptors: list[PackedDescriptor]) -> None:
        """A chain was popped."""

    def pushed(self, ident: int) -> None:
        """A chain was given back, and will be visible with the next publish."""

    def publishing(self, used: int) -> None:
        """All that was given back is about to become visible; the next goes to `used`."""

    def published(self) -> None:
        """It is visible to the driver."""


@dataclass(frozen=True)
class QueueSetup:
    """A queue as its driver has set it up; `signal` interrupts the driver for it.

    `linger` may be called before a device asks for kicks and sleeps. It may wait a moment for its
    argument to hold, and returns whether it did.
    """

    memory: GuestMemory
    size: int
    addresses: RingAddresses
    signal: Message
    position: int | None = None
    """Where to go on, as `Stopped` was told it; None at the start of the ring."""
    tracker: Tracker | None = None
    packed_tracker: PackedTracker | None = None
    linger: Linger = lambda _waiting: False


Stopped = Callable[[int], None]
"""Told where the driver's next chain will be, when nothing of a queue is in flight any more. Split:
the available index. Packed: where the next available descriptor is (bits 0-15) and where the next
used one goes (bits 16-31), each with its wrap counter on top."""


class Transport(Protocol):
    """What a device may ask of its transport."""

    def config_changed(self) -> None:
        """The configuration space has new contents: tell the driver."""

    def needs_reset(self) -> None:
        """The driver broke the rules so badly that only a reset helps (section 2.1.2)."""


class Device(Protocol):
    """What a transport may ask of a device.

    A device holds no guest memory before its first `start_queue` and none after the last
    `stop_queue` has ended.
    """

    @property
    def device_id(self) -> int:
        """The kind of device, section 5."""

    @property
    def queue_sizes(self) -> Sequence[int]:
        """The largest size of each queue."""

    @property
    def features(self) -> int:
        """The feature bits on offer, those of the rings included."""

    def attach(self, transport: Transport | None) -> None:
        """This is your transport now."""

    def set_features(self, features: int) -> None:
        """The driver has chosen these, a subset of `features`."""

    @property
    def queue_positions(self) -> Mapping[int, int]:
        """Where to go on with the queues that were started, by number; see `Stopped`."""

    @property
    def at_rest(self) -> bool:
        """Whether no request is under way."""

    def read_config(self) -> bytes:
        """The whole configuration space, as it is now."""

    def write_config(self, offset: int, data: bytes) -> None:
        """The driver writes to the configuration space."""

    def start_queue(self, index: int, setup: QueueSetup) -> None:
        """The driver has set up a queue: serve what is in it already. Raises `RingError`."""

    def kick(self, index: int) -> None:
        """The driver says that there is work in a queue."""

    def stop_queue(self, index: int, stopped: Stopped, *, cancel: bool) -> None:
        """Take no more from a queue that was started; `stopped` is called when it is at rest.

        With `cancel`, what can be given up is dropped and never answered; the rest ends as usual.
        """

    def cancel_queue(self, index: int) -> None:
        """A queue that is being stopped shall not be waited for: drop what can be given up."""

    def remap(self) -> None:
        """Guest memory was laid out anew under the queues."""

    driver_state: int
    """What the driver has switched, as 32 bits to hand to the device of another process that is to
    serve the same driver: setting it switches the same."""
