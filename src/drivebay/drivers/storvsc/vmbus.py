"""A guest's side of VMBus: contact, offers, shared memory, channels."""

from __future__ import annotations

import itertools
import struct
import uuid
from collections import deque
from collections.abc import Callable
from typing import Final, TypeVar

from drivebay.drivers.storvsc.errors import VmbusError
from drivebay.drivers.storvsc.ring import GuestRing
from drivebay.platform import vmbus_messages as messages
from drivebay.platform.vmbus_messages import MessageType
from drivebay.wire import Struct

__all__ = ["VmbusDriver"]

TURNS: Final = 100_000
NUMBERS: Final = (messages.MESSAGE_SIZE - messages.GpadlHeader.size - messages.GpaRange.size) // 8
MORE_NUMBERS: Final = (messages.MESSAGE_SIZE - messages.GpadlBody.size) // 8

Answer = TypeVar("Answer", bound=Struct)

KINDS: Final[dict[type[Struct], MessageType]] = {
    messages.VersionResponse: MessageType.VERSION_RESPONSE,
    messages.GpadlCreated: MessageType.GPADL_CREATED,
    messages.GpadlTorndown: MessageType.GPADL_TORNDOWN,
    messages.OpenResult: MessageType.OPEN_CHANNEL_RESULT,
    messages.ModifyChannelResponse: MessageType.MODIFY_CHANNEL_RESPONSE,
}


class VmbusDriver:
    """`post` sends a message to the host and `signal` a signal to a connection of its; what the
    host sends comes to `receive`. `poll` lets a moment pass in which that may happen.
    """

    def __init__(
        self,
        post: Callable[[bytes], None],
        signal: Callable[[int], object],
        poll: Callable[[], object],
    ) -> None:
        self.signal, self.poll = signal, poll
        self._post = post
        self._came: deque[bytes] = deque()
        self.offers: dict[int, messages.OfferChannel] = {}
        """What is on offer, by channel id."""
        self.rescinded: set[int] = set()
        self._gpadls = itertools.count(1)

    def receive(self, message: bytes) -> None:
        """The host has sent a message. Any thread may tell."""
        kind = messages.Header.unpack(message).type
        if kind == MessageType.OFFER_CHANNEL:
            offer = messages.OfferChannel.unpack(message)
            self.offers[offer.channel_id] = offer
            self.rescinded.discard(offer.channel_id)
        elif kind == MessageType.RESCIND_CHANNEL_OFFER:
            self.rescinded.add(messages.RescindOffer.unpack(message).channel_id)
        else:
            self._came.append(message)

    def post(self, message: Struct) -> None:
        """Send a message."""
        self._post(message.pack())

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Let time pass until it holds. Raises `VmbusError` if it does not come to that."""
        for _ in range(TURNS):
            if condition():
                return
            self.poll()
        raise VmbusError("no answer")

    def ask(self, message: Struct, answer: type[Answer]) -> Answer:
        """Send a message, and wait for its answer."""
        self.post(message)
        return answer.unpack(self._next(KINDS[answer]))

    def _next(self, kind: MessageType) -> bytes:
        self.wait_until(lambda: bool(self._came))
        message = self._came.popleft()
        if messages.Header.unpack(message).type != kind:
            raise VmbusError(f"{message.hex()} in place of {kind.name}")
        return message

    # -- the bus ---------------------------------------------------------------------------------

    def connect(self, version: int = messages.IRON) -> None:
        """Agree on a version, and learn what there is. Raises `VmbusError`."""
        self.offers.clear()
        self.rescinded.clear()
        self._came.clear()
        answer = self.ask(messages.InitiateContact(version=version), messages.VersionResponse)
        if not answer.supported:
            raise VmbusError(f"the host does not speak {version:#x}")
        self.post(messages.Header(MessageType.REQUEST_OFFERS))
        self._next(MessageType.ALL_OFFERS_DELIVERED)

    def unload(self) -> None:
        """Let go of the bus."""
        self.post(messages.Header(MessageType.UNLOAD))
        self._next(MessageType.UNLOAD_COMPLETE)

    def find(self, interface: uuid.UUID) -> list[messages.OfferChannel]:
        """The devices of a kind that are on offer, each by its first channel."""
        return [
            offer
            for offer in self.offers.values()
            if offer.interface_id == interface.bytes_le and not offer.sub_channel_index
        ]

    def sub_channels(self, of: messages.OfferChannel) -> list[messages.OfferChannel]:
        """The further channels of a device."""
        return [
            offer
            for offer in self.offers.values()
            if offer.instance_id == of.instance_id
            and offer.sub_channel_index
            and offer.channel_id not in self.rescinded
        ]

    # -- channels --------------------------------------------------------------------------------

    def share(self, channel_id: int, pages: list[int]) -> int:
        """Share these pages; returns what they are called. Raises `VmbusError`."""
        gpadl_id = next(self._gpadls)
        size = len(pages) * 4096
        numbers = [struct.pack("<Q", page) for page in pages]
        header = messages.GpadlHeader(
            channel_id=channel_id,
            gpadl_id=gpadl_id,
            length=messages.GpaRange.size + 8 * len(pages),
            range_count=1,
        )
        first = b"".join(numbers[:NUMBERS])
        self._post(header.pack() + messages.GpaRange(size, 0).pack() + first)
        for number, at in enumerate(range(NUMBERS, len(pages), MORE_NUMBERS)):
            body = messages.GpadlBody(number=number, gpadl_id=gpadl_id)
            self._post(body.pack() + b"".join(numbers[at : at + MORE_NUMBERS]))
        answer = messages.GpadlCreated.unpack(self._next(MessageType.GPADL_CREATED))
        if answer.status or answer.gpadl_id != gpadl_id:
            raise VmbusError(f"memory is not shared: {answer}")
        return gpadl_id

    def open(self, channel_id: int, gpadl_id: int, downstream: int, target_vp: int = 0) -> None:
        """Open a channel on rings in shared memory. Raises `VmbusError`."""
        message = messages.OpenChannel(
            channel_id=channel_id,
            open_id=channel_id,
            ring_gpadl_id=gpadl_id,
            target_vp=target_vp,
            downstream_page_offset=downstream,
        )
        if status := self.ask(message, messages.OpenResult).status:
            raise VmbusError(f"channel {channel_id} is not opened: {status:#x}")

    def open_ring(self, channel_id: int, ring: GuestRing) -> int:
        """Open a channel on `ring`; returns what its memory is called."""
        ring.reset()
        gpadl_id = self.share(channel_id, ring.pages)
        self.open(channel_id, gpadl_id, ring.downstream)
        return gpadl_id

    def close(self, channel_id: int, gpadl_id: int) -> None:
        """Close a channel, and have its memory back."""
        self.post(messages.CloseChannel(channel_id=channel_id))
        message = messages.GpadlTeardown(channel_id=channel_id, gpadl_id=gpadl_id)
        self.ask(message, messages.GpadlTorndown)

    def release(self, channel_id: int) -> None:
        """Forget a channel that was rescinded."""
        self.post(messages.RelidReleased(channel_id=channel_id))
        self.offers.pop(channel_id, None)
        self.rescinded.discard(channel_id)
