"""VMBus as a device and its host agree on it: channels, and the rings that are opened on them.

A device offers channels to a `Bus`; a guest opens one on memory of its own, and from then on both
sides write packets to rings and signal each other. `vmbus_bus` is the bus itself: messages of a
guest in, messages to it out, for whichever host carries them.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from drivebay.platform.interrupts import Message
from drivebay.platform.memory import GuestMemory

__all__ = ["NO_INTERRUPTS", "PAGE", "Bus", "Channel", "ChannelError", "ChannelSetup", "Offer"]

PAGE: Final = 4096
NO_INTERRUPTS: Final = 0xFFFFFFFF
"""A target VP: the guest wants no signals."""


class ChannelError(Exception):
    """The guest broke a rule of a channel: it is served no more until it is opened again."""


@dataclass(frozen=True)
class Offer:
    """What a channel is: the kind of device, which one, and which of its channels."""

    interface: uuid.UUID
    instance: uuid.UUID
    sub_channel: int = 0
    user_data: bytes = b""
    """At most 120 bytes, for the guest's driver."""


@dataclass(frozen=True)
class ChannelSetup:
    """A channel as its guest opens it.

    `pages` are the guest page numbers of both rings, one behind the other: the first `downstream`
    of them are the ring to the host.
    """

    memory: GuestMemory
    pages: tuple[int, ...]
    downstream: int
    signal: Message
    target_vp: int = 0


class Channel(Protocol):
    """What a bus may ask of a device's channel.

    It holds no guest memory before `open` and none after `close` has ended.
    """

    offer: Offer

    def open(self, setup: ChannelSetup) -> None:
        """The guest has opened it. Raises `ChannelError` if it cannot be served like this."""

    def signal(self) -> None:
        """The guest says that there is work in its ring, or room in ours."""

    def close(self, closed: Callable[[], None]) -> None:
        """Serve it no more. `closed` is called when nothing of it is under way."""


class Bus(Protocol):
    """What a device may ask of its bus."""

    def offer(self, channel: Channel) -> None:
        """Show the guest a channel. Raises `ValueError` if there is one of that name."""

    def revoke(self, channel: Channel) -> None:
        """Take it away: it is closed, and the guest is told."""
