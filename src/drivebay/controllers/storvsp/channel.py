"""A channel: its rings, how they are served, and what is under way of what came through them.

A packet is taken only when there is room for the largest completion of it and of all that is under
way: a completion never waits, and a guest that does not read its ring gets no more done.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, Protocol

from drivebay.controllers.storvsp.packets import DESCRIPTOR, FOOTER, PacketType
from drivebay.controllers.storvsp.protocol import ScsiPacket
from drivebay.controllers.storvsp.ring import Incoming, Outgoing
from drivebay.platform.engine import Engine
from drivebay.platform.logs import RationedLog
from drivebay.platform.vmbus import ChannelError, ChannelSetup, Offer

__all__ = ["DEPTH", "Held", "StorVspChannel"]

log = logging.getLogger(__name__)
guest_log = RationedLog(log)

DEPTH: Final = 256
"""Packets under way on a channel."""
BATCH: Final = 32
"""Packets that are served before the guest hears of their ends."""
A_TURN: Final = 256
"""Packets after which others run."""
COMPLETION: Final = int(PacketType.COMPLETION)
LARGEST: Final = DESCRIPTOR + ScsiPacket.size + FOOTER
LOOK_AGAIN: Final = 0.001
"""Seconds, of a guest that does not tell when there is room."""


class Held(Protocol):
    """An operation that is under way."""

    packet: bytes

    def cancel(self) -> None:
        """Nobody wants its answer: end, and `drop` it."""


class StorVspChannel:
    """A channel that `serve` is given the packets of, while `may_serve` says so."""

    def __init__(
        self,
        engine: Engine,
        offer: Offer,
        serve: Callable[[StorVspChannel, bytes], None],
        may_serve: Callable[[StorVspChannel], bool],
        depth: int = DEPTH,
    ) -> None:
        self.offer = offer
        self.depth = depth
        self.when_closed: Callable[[], None] = lambda: None
        """Called before whoever closes it is told that it has."""
        self._engine = engine
        self._serve, self._may_serve = serve, may_serve
        self._setup: ChannelSetup | None = None
        self._incoming: Incoming | None = None
        self._outgoing: Outgoing | None = None
        self._held: dict[Held, None] = {}
        self._again: deque[bytes] = deque()
        """Packets that an earlier one had taken and not ended."""
        self._refused = False
        self._notice = b""
        self._closed: Callable[[], None] | None = None
        self._broken = self._draining = self._stalled = False
        self._flushing = self._going_on = self._looking = self._muted = False

    # -- opening and closing ---------------------------------------------------------------------

    def open(self, setup: ChannelSetup) -> None:
        """The guest has opened it. Raises `ChannelError` if the rings cannot be served."""
        pages, split = setup.pages, setup.downstream
        incoming = Incoming(setup.memory, pages[:split])
        self._outgoing = Outgoing(setup.memory, pages[split:])
        self._incoming, self._setup = incoming, setup
        self._broken, self._refused = self._refused, False
        self.drain_later()  # whoever opens it hears that it is open before it hears of us

    def close(self, closed: Callable[[], None]) -> None:
        """Serve it no more. `closed` is called when nothing of it is under way."""
        self._closed = closed
        self._notice = b""
        self._again.clear()
        self._give_up()
        self._look_closed()

    def _give_up(self) -> None:
        for held in tuple(self._held):
            held.cancel()

    def _look_closed(self) -> None:
        if self._closed is not None and not self._held:
            closed, self._closed = self._closed, None
            self._setup = self._incoming = self._outgoing = None
            self.when_closed()
            closed()

    @property
    def _works(self) -> bool:
        return self._setup is not None and self._closed is None and not self._broken

    def mute(self) -> None:
        """What is told in this turn is told by no signal."""
        self._muted = True
        self._engine.later(partial(setattr, self, "_muted", False))

    def fail(self, error: ChannelError) -> None:
        """Serve it no more before it is opened again."""
        guest_log.warning("storvsp: channel %d is closed: %s", self.offer.sub_channel, error)
        self._broken = True
        self._give_up()

    # -- serving ---------------------------------------------------------------------------------

    def signal(self) -> None:
        """The guest says that there is work in its ring, or room in ours."""
        self.drain()

    def drain_later(self) -> None:
        """Serve it in the next turn."""
        if not self._going_on:
            self._going_on = True
            self._engine.later(self._go_on)

    def _go_on(self) -> None:
        self._going_on = False
        self.drain()

    def drain(self) -> None:
        """Serve what the guest has put into its ring; after some of it others run."""
        if self._draining or not self._works:
            return
        self._draining = True
        try:
            self._drain()
        except ChannelError as error:
            self._flush()  # what came before was served
            self.fail(error)
        finally:
            self._draining = False

    def _drain(self) -> None:
        incoming = self._incoming
        assert incoming is not None
        left = A_TURN
        self._stalled = False
        while left > 0:
            incoming.mask()
            room = self._room()
            if not room:
                self._stalled = True
                self._flush()
                return
            packet: bytes | None = b""
            for _ in range(min(room, BATCH)):
                packet = self._again.popleft() if self._again else incoming.take()
                if packet is None:
                    break
                self._serve(self, packet)
                left -= 1
            self._flush()
            if not self._works:  # the signal made the guest close it
                return
            if packet is None and incoming.unmask():
                return
            left -= packet is None  # a ring that shows work and gives none must not keep us
        self.drain_later()

    def _room(self) -> int:
        """How many packets may be taken now."""
        held = len(self._held)
        if self._notice and self._has_room(held + 1):
            self._put_notice()
        if held >= self.depth or not self._may_serve(self):
            return 0
        reserved = held + bool(self._notice)
        if not self._has_room(reserved + 1):
            return 0
        assert self._outgoing is not None
        return min(self._outgoing.free // LARGEST - reserved, self.depth - held)

    def _has_room(self, packets: int) -> bool:
        """Whether as many fit; if not, we hear of it when they do."""
        outgoing = self._outgoing
        assert outgoing is not None
        if outgoing.has_room(packets * LARGEST):
            return True
        if not outgoing.tells_room and not self._looking:
            self._looking = True
            self._engine.after(LOOK_AGAIN, self._look_again)
        return False

    def _look_again(self) -> None:
        self._looking = False
        self.drain()

    def _flush(self) -> None:
        """Show the guest what has ended, and that there is room; one signal for all."""
        assert self._incoming is not None
        assert self._outgoing is not None
        assert self._setup is not None
        freed = self._incoming.release()
        if (self._outgoing.publish() or freed) and not self._muted:
            self._setup.signal()

    # -- ends ------------------------------------------------------------------------------------

    def hold(self, held: Held) -> None:
        """An operation is under way: `complete` and `drop` it when it has ended."""
        self._held[held] = None

    def drop(self, held: Held) -> None:
        """Forget an operation that has ended, if it was held."""
        self._held.pop(held, None)
        if self._closed is not None:
            self._look_closed()

    def complete(self, transaction: int, payload: bytes) -> None:
        """The completion of a packet that was taken."""
        assert self._outgoing is not None
        self._outgoing.put(COMPLETION, 0, transaction, payload)
        if not self._draining:
            self._flush_later()

    def notify(self, payload: bytes) -> None:
        """Send the guest a packet of our own, now or when there is room. It is sent once, however
        often it is asked for until then.
        """
        if self._works:
            self._notice = payload
            self.drain_later()

    def _put_notice(self) -> None:
        assert self._outgoing is not None
        self._outgoing.put(PacketType.IN_BAND, 0, 0, self._notice)
        self._notice = b""

    def _flush_later(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._engine.at_end_of_turn(self._end_turn)

    def _end_turn(self) -> None:
        self._flushing = False
        if self._works:
            self._flush()
            if self._stalled:
                self.drain()

    # -- save and restore ------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """The packets that are under way, and the notice; the guest sees all that has ended."""
        if self._works:
            self._flush()
        packets = [*(held.packet for held in self._held), *self._again]
        return {"packets": packets, "notice": self._notice, "broken": self._broken}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with these once it is open. Raises `KeyError`."""
        self._again, self._notice = deque(state["packets"]), state["notice"]
        self._refused = state["broken"]
