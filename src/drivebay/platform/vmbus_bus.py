"""The bus: which channels a guest is shown, on which memory it opens them, and how they go.

Bytes of messages in, bytes of messages out; a host carries them (Hyper-V's message ports), hands
`signal` what the guest signals, and interrupts the guest when `interrupt` is called. A guest's
mistake is answered with a status where the message has one, and is else logged and forgotten.
"""

from __future__ import annotations

import logging
import struct
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Final

from drivebay.platform import vmbus_messages as messages
from drivebay.platform.logs import RationedLog
from drivebay.platform.memory import GuestMemory
from drivebay.platform.vmbus import NO_INTERRUPTS, PAGE, Channel, ChannelError, ChannelSetup
from drivebay.platform.vmbus_messages import MessageType

__all__ = ["VmBus"]

log = logging.getLogger(__name__)
guest_log = RationedLog(log)

MOST_GPADLS: Final = 1024
MOST_CHANNELS: Final = 2047
"""Bits of the page of event flags by which a guest learns which channel it is."""
UNSUCCESSFUL: Final = 0xC0000001
CONNECTIONS: Final = 0x10000
"""The first connection id of channels: those below are the hypervisor's."""
ENUMERATE: Final = 1
"""Of an offer: the device is listed by its interface."""


class GuestMistake(Exception):
    """A message that makes no sense here."""


@dataclass(eq=False)
class _Gpadl:
    """Memory that a guest shares by the numbers of its pages."""

    channel_id: int
    length: int
    """Bytes of the list of ranges."""
    ranges: int
    data: bytearray = field(default_factory=bytearray)
    torn: bool = False
    """It goes as soon as the channel that uses it has closed."""

    @property
    def complete(self) -> bool:
        return len(self.data) == self.length

    def pages(self) -> tuple[int, ...]:
        """The pages of its one range. Raises `GuestMistake` if they are no rings."""
        if self.ranges != 1 or self.length < messages.GpaRange.size + 8 or self.length % 8:
            raise GuestMistake(f"a GPADL of {self.ranges} ranges in {self.length} bytes")
        count, offset = messages.GpaRange.unpack_from(self.data)
        pages = (self.length - messages.GpaRange.size) // 8
        if offset or count != pages * PAGE:
            raise GuestMistake(f"a GPADL of {count} bytes from {offset} in {pages} pages")
        return struct.unpack_from(f"<{pages}Q", self.data, messages.GpaRange.size)


@dataclass(eq=False)
class _Offered:
    """A channel as the guest sees it."""

    channel: Channel
    told: bool = False
    opened: messages.OpenChannel | None = None
    closing: bool = False
    revoked: bool = False
    released: bool = False
    target_vp: int = 0
    next_open: messages.OpenChannel | None = None
    """The guest opens it again while it closes."""


class VmBus:
    """The VMBus of one guest with `memory`.

    `send` takes a message for the guest, `interrupt` the id of a channel and the processor that is
    to be told that its ring is worth a look.
    """

    def __init__(
        self,
        memory: GuestMemory,
        send: Callable[[bytes], None],
        interrupt: Callable[[int, int], None],
    ) -> None:
        self._memory, self._send, self._interrupt = memory, send, interrupt
        self.version = 0
        """As agreed with the guest; 0 without contact."""
        self.target_vp = 0
        """The processor that messages go to, as the guest has said at contact."""
        self._asked = False
        self._offered: dict[int, _Offered] = {}
        self._gpadls: dict[int, _Gpadl] = {}
        self._ended: Callable[[], None] | None = None
        self._handlers: dict[int, Callable[[bytes], None]] = {
            MessageType.REQUEST_OFFERS: self._request_offers,
            MessageType.OPEN_CHANNEL: self._open_channel,
            MessageType.CLOSE_CHANNEL: self._close_channel,
            MessageType.GPADL_HEADER: self._gpadl_header,
            MessageType.GPADL_BODY: self._gpadl_body,
            MessageType.GPADL_TEARDOWN: self._gpadl_teardown,
            MessageType.RELID_RELEASED: self._relid_released,
            MessageType.MODIFY_CHANNEL: self._modify_channel,
        }

    # -- what devices ask ------------------------------------------------------------------------

    def offer(self, channel: Channel) -> None:
        """Show the guest a channel. Raises `ValueError` if there is one of that name."""
        name = _name(channel)
        if any(_name(each.channel) == name and not each.revoked for each in self._all):
            raise ValueError(f"a second channel {channel.offer.sub_channel} of {name[1]}")
        ids = (n for n in range(1, MOST_CHANNELS + 1) if n not in self._offered)
        channel_id = next(ids, None)
        if channel_id is None:
            raise ValueError(f"more than {MOST_CHANNELS} channels")
        self._offered[channel_id] = _Offered(channel)
        if self._asked:
            self._tell(channel_id)

    def revoke(self, channel: Channel) -> None:
        """Take it away: it is closed, and the guest is told."""
        for channel_id, offered in tuple(self._offered.items()):
            if offered.channel is channel and not offered.revoked:
                offered.revoked = True
                offered.next_open = None
                if offered.told:
                    self._send(messages.RescindOffer(channel_id=channel_id).pack())
                else:
                    offered.released = True
                self._close(channel_id, offered)

    # -- what the guest does ---------------------------------------------------------------------

    def message(self, data: bytes) -> None:
        """The guest has sent a message."""
        try:
            if len(data) < messages.Header.size:
                raise GuestMistake(f"a message of {len(data)} bytes")
            kind = messages.Header.unpack(data).type
            if self._ended is not None:
                raise GuestMistake(f"message {kind} while the bus is reset")
            if kind == MessageType.INITIATE_CONTACT:
                self._initiate_contact(data)
            elif kind == MessageType.UNLOAD:
                unloaded = messages.Header(MessageType.UNLOAD_COMPLETE).pack()
                self.reset(lambda: self._send(unloaded))
            elif not self.version or kind not in self._handlers:
                raise GuestMistake(f"message {kind} is not expected")
            else:
                self._handlers[kind](data)
        except (GuestMistake, struct.error) as error:
            guest_log.warning("vmbus: %s", error)

    def signal(self, connection_id: int) -> bool:
        """The guest has signalled a channel. False if none is open there."""
        offered = self._offered.get(connection_id - CONNECTIONS)
        if offered is None or offered.opened is None or offered.closing:
            return False
        offered.channel.signal()
        return True

    def reset(self, ended: Callable[[], None]) -> None:
        """Forget the guest. `ended` is called when nothing touches its memory any more."""
        before = self._ended

        def both() -> None:
            if before is not None:
                before()
            ended()

        self._ended = both
        for channel_id, offered in tuple(self._offered.items()):
            offered.next_open = None
            self._close(channel_id, offered)
        self._look_ended()

    def _look_ended(self) -> None:
        if self._ended is None or any(offered.opened for offered in self._all):
            return
        ended, self._ended = self._ended, None
        self.version, self._asked = 0, False
        self._gpadls.clear()
        self._offered = {n: each for n, each in self._offered.items() if not each.revoked}
        for offered in self._all:
            offered.told = False
        ended()

    @property
    def _all(self) -> list[_Offered]:
        return list(self._offered.values())

    def _initiate_contact(self, data: bytes) -> None:
        """A guest that comes again (another kernel) finds the bus as the first did."""
        asked = messages.InitiateContact.unpack(data)
        supported = asked.version in messages.VERSIONS

        def respond() -> None:
            self.version = asked.version if supported else 0
            self.target_vp = asked.target_vp
            answer = messages.VersionResponse(supported=supported)
            if supported:
                answer.message_connection_id = messages.VersionResponse.CONNECTION_ID
            self._send(answer.pack())

        self.reset(respond)

    # -- channels --------------------------------------------------------------------------------

    def _request_offers(self, data: bytes) -> None:
        if self._asked:
            raise GuestMistake("offers are requested again")
        self._asked = True
        for channel_id in sorted(self._offered):
            self._tell(channel_id)
        self._send(messages.Header(MessageType.ALL_OFFERS_DELIVERED).pack())

    def _tell(self, channel_id: int) -> None:
        offered = self._offered[channel_id]
        offer = offered.channel.offer
        offered.told = True
        self._send(
            messages.OfferChannel(
                interface_id=offer.interface.bytes_le,
                instance_id=offer.instance.bytes_le,
                flags=ENUMERATE,
                user_data=offer.user_data,
                sub_channel_index=offer.sub_channel,
                channel_id=channel_id,
                connection_id=CONNECTIONS + channel_id,
            ).pack()
        )

    def _of(self, channel_id: int) -> _Offered:
        offered = self._offered.get(channel_id)
        if offered is None or not offered.told or offered.released:
            raise GuestMistake(f"there is no channel {channel_id}")
        return offered

    def _open_channel(self, data: bytes) -> None:
        asked = messages.OpenChannel.unpack(data)
        try:
            offered = self._of(asked.channel_id)
            if offered.closing and not offered.revoked:
                offered.next_open = asked
                return
            if offered.opened is not None or offered.revoked:
                raise GuestMistake(f"channel {asked.channel_id} cannot be opened")
            self._open(offered, asked)
            self._send_result(asked, 0)
        except (GuestMistake, ChannelError) as error:
            guest_log.warning("vmbus: channel %d is not opened: %s", asked.channel_id, error)
            self._send_result(asked, UNSUCCESSFUL)

    def _open(self, offered: _Offered, asked: messages.OpenChannel) -> None:
        gpadl = self._gpadls.get(asked.ring_gpadl_id)
        if gpadl is None or gpadl.channel_id != asked.channel_id or not gpadl.complete:
            raise GuestMistake(f"rings in GPADL {asked.ring_gpadl_id}, which it does not have")
        pages = gpadl.pages()
        offered.target_vp = asked.target_vp

        def interrupt() -> None:
            if offered.target_vp != NO_INTERRUPTS:
                self._interrupt(asked.channel_id, offered.target_vp)

        downstream = asked.downstream_page_offset
        setup = ChannelSetup(self._memory, pages, downstream, interrupt, asked.target_vp)
        offered.channel.open(setup)
        offered.opened = asked

    def _send_result(self, asked: messages.OpenChannel, status: int) -> None:
        answer = messages.OpenResult(
            channel_id=asked.channel_id, open_id=asked.open_id, status=status
        )
        self._send(answer.pack())

    def _close_channel(self, data: bytes) -> None:
        channel_id = messages.CloseChannel.unpack(data).channel_id
        offered = self._of(channel_id)
        offered.next_open = None
        if offered.opened is None:
            if offered.revoked:  # it was closed for the guest
                return
            raise GuestMistake(f"channel {channel_id} is not open")
        self._close(channel_id, offered)

    def _close(self, channel_id: int, offered: _Offered) -> None:
        if offered.opened is None:
            self._closed(channel_id, offered)
        elif not offered.closing:
            offered.closing = True
            offered.channel.close(lambda: self._closed(channel_id, offered))

    def _closed(self, channel_id: int, offered: _Offered) -> None:
        opened, offered.opened, offered.closing = offered.opened, None, False
        if opened is not None:
            gpadl = self._gpadls.get(opened.ring_gpadl_id)
            if gpadl is not None and gpadl.torn:
                self._tear_down(opened.ring_gpadl_id)
        if offered.released:  # a guest need not tear down what goes with its channel
            self._offered.pop(channel_id, None)
            for gpadl_id in [
                n for n, each in self._gpadls.items() if each.channel_id == channel_id
            ]:
                del self._gpadls[gpadl_id]
        again, offered.next_open = offered.next_open, None
        if again is not None:
            self._open_channel(again.pack())
        self._look_ended()

    def _relid_released(self, data: bytes) -> None:
        channel_id = messages.RelidReleased.unpack(data).channel_id
        offered = self._of(channel_id)
        if not offered.revoked:
            raise GuestMistake(f"channel {channel_id} was not rescinded")
        offered.released = True
        self._close(channel_id, offered)

    def _modify_channel(self, data: bytes) -> None:
        asked = messages.ModifyChannel.unpack(data)
        offered = self._of(asked.channel_id)
        is_open = offered.opened is not None
        if is_open:
            offered.target_vp = asked.target_vp
        if self.version >= messages.IRON:
            status = 0 if is_open else UNSUCCESSFUL
            answer = messages.ModifyChannelResponse(channel_id=asked.channel_id, status=status)
            self._send(answer.pack())

    # -- memory ----------------------------------------------------------------------------------

    def _gpadl_header(self, data: bytes) -> None:
        asked = messages.GpadlHeader.unpack(data)
        try:
            self._of(asked.channel_id)
            if asked.gpadl_id in self._gpadls or len(self._gpadls) == MOST_GPADLS:
                raise GuestMistake(f"GPADL {asked.gpadl_id} is there, or there are too many")
            gpadl = _Gpadl(asked.channel_id, asked.length, asked.range_count)
            self._extend(gpadl, data[messages.GpadlHeader.size :])
        except GuestMistake as error:
            guest_log.warning("vmbus: %s", error)
            self._send_created(asked.channel_id, asked.gpadl_id, UNSUCCESSFUL)
            return
        self._gpadls[asked.gpadl_id] = gpadl
        self._look_created(asked.gpadl_id, gpadl)

    def _gpadl_body(self, data: bytes) -> None:
        gpadl_id = messages.GpadlBody.unpack(data).gpadl_id
        gpadl = self._gpadls.get(gpadl_id)
        if gpadl is None or gpadl.complete:
            raise GuestMistake(f"more of GPADL {gpadl_id}, which wants none")
        self._extend(gpadl, data[messages.GpadlBody.size :])
        self._look_created(gpadl_id, gpadl)

    @staticmethod
    def _extend(gpadl: _Gpadl, data: bytes) -> None:
        """Messages are padded: what is more than the list is none of it."""
        gpadl.data += data[: gpadl.length - len(gpadl.data)]

    def _look_created(self, gpadl_id: int, gpadl: _Gpadl) -> None:
        if gpadl.complete:
            self._send_created(gpadl.channel_id, gpadl_id, 0)

    def _send_created(self, channel_id: int, gpadl_id: int, status: int) -> None:
        answer = messages.GpadlCreated(channel_id=channel_id, gpadl_id=gpadl_id, status=status)
        self._send(answer.pack())

    def _gpadl_teardown(self, data: bytes) -> None:
        asked = messages.GpadlTeardown.unpack(data)
        gpadl = self._gpadls.get(asked.gpadl_id)
        if gpadl is None or gpadl.channel_id != asked.channel_id:
            raise GuestMistake(f"channel {asked.channel_id} has no GPADL {asked.gpadl_id}")
        offered = self._offered.get(gpadl.channel_id)
        opened = offered.opened if offered is not None else None
        gpadl.torn = True
        if opened is None or opened.ring_gpadl_id != asked.gpadl_id:
            self._tear_down(asked.gpadl_id)

    def _tear_down(self, gpadl_id: int) -> None:
        del self._gpadls[gpadl_id]
        self._send(messages.GpadlTorndown(gpadl_id=gpadl_id).pack())

    # -- save and restore ------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """The state as ints, bools, strings, bytes, lists and dicts, when no channel closes."""
        return {
            "version": self.version,
            "target_vp": self.target_vp,
            "asked": self._asked,
            "channels": [
                {
                    "id": channel_id,
                    "interface": str(_name(each.channel)[0]),
                    "instance": str(_name(each.channel)[1]),
                    "sub_channel": each.channel.offer.sub_channel,
                    "told": each.told,
                    "opened": each.opened.pack() if each.opened is not None else b"",
                    "target_vp": each.target_vp,
                }
                for channel_id, each in self._offered.items()
                if not each.revoked
            ],
            "gpadls": [
                [n, each.channel_id, each.length, each.ranges, bytes(each.data)]
                for n, each in self._gpadls.items()
            ],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """The state of `save` again, when the devices have offered what they had offered.

        Raises `KeyError` or `ValueError` if it is none.
        """
        channels = {_name(each.channel): each.channel for each in self._all}
        self.version, self._asked = state["version"], state["asked"]
        self.target_vp = state["target_vp"]
        self._gpadls = {
            n: _Gpadl(channel_id, length, ranges, bytearray(data))
            for n, channel_id, length, ranges, data in state["gpadls"]
        }
        self._offered = {}
        for saved in state["channels"]:
            name = uuid.UUID(saved["interface"]), uuid.UUID(saved["instance"])
            offered = _Offered(channels.pop((*name, saved["sub_channel"])), saved["told"])
            self._offered[saved["id"]] = offered
        for channel in channels.values():  # what the guest has never seen
            self.offer(channel)
        for saved in filter(itemgetter("opened"), state["channels"]):
            offered = self._offered[saved["id"]]
            try:
                self._open(offered, messages.OpenChannel.unpack(saved["opened"]))
            except (GuestMistake, ChannelError) as error:
                raise ValueError(f"channel {saved['id']}: {error}") from None
            offered.target_vp = saved["target_vp"]


def _name(channel: Channel) -> tuple[uuid.UUID, uuid.UUID, int]:
    offer = channel.offer
    return offer.interface, offer.instance, offer.sub_channel
