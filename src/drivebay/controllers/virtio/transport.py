"""The one small interface between a virtio device and what carries it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from drivebay.controllers.virtio.ring import Queue

__all__ = ["Device", "Transport"]


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

    device_id: int
    queue_sizes: Sequence[int]
    """The largest size of each queue."""

    @property
    def features(self) -> int:
        """The feature bits on offer, those of the rings included."""

    def attach(self, transport: Transport) -> None:
        """This is your transport."""

    def set_features(self, features: int) -> None:
        """The driver has chosen these, a subset of `features`."""

    def read_config(self) -> bytes:
        """The whole configuration space, as it is now."""

    def write_config(self, offset: int, data: bytes) -> None:
        """The driver writes to the configuration space."""

    def start_queue(self, index: int, queue: Queue) -> None:
        """The driver has set up a queue."""

    def kick(self, index: int) -> None:
        """The driver says that there is work in a queue."""

    def stop_queue(self, index: int, stopped: Callable[[], None], *, cancel: bool) -> None:
        """Take no more from the queue; `stopped` is called when nothing of it is in flight.

        With `cancel`, what can be given up is dropped and never answered; the rest ends as usual.
        """
