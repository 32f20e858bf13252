"""The bus: offers, shared memory, channels that are opened, closed, rescinded and reset."""

from __future__ import annotations

import logging
import random
import struct
import uuid
from collections.abc import Callable

import pytest

from drivebay.controllers.storvsp.storvsp import SCSI, StorVsp
from drivebay.disk.backends.ram import RamDisk
from drivebay.drivers.storvsc import GuestRing, StorVsc, StorVscChannel, VmbusError
from drivebay.platform import vmbus_messages as messages
from drivebay.platform.vmbus import PAGE
from drivebay.platform.vmbus_messages import MessageType
from drivebay.scsi.cdb import Read10
from drivebay.scsi.opcodes import Opcode
from drivebay.scsi.target import Target
from drivebay.testing import PuppetDisk
from tests.disk.support import fill

from .support import INSTANCE, Bench

READ = Read10(Opcode.READ_10, 0, 0, transfer_length=8).pack()
CANARY = b"\xa5" * 4096


# -- contact -------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", messages.VERSIONS)
def test_every_version(version: int) -> None:
    bench = Bench()
    bench.guest.connect(version)
    assert bench.bus.version == version
    (offer,) = bench.guest.find(SCSI)
    assert offer.instance_id == INSTANCE.bytes_le
    assert (offer.sub_channel_index, offer.is_dedicated) == (0, 1)


@pytest.mark.parametrize("version", [0, 13, 0x10001, 0x60000, 0xFFFFFFFF])
def test_versions_that_are_not_spoken(version: int) -> None:
    bench = Bench()
    with pytest.raises(VmbusError, match="does not speak"):
        bench.guest.connect(version)
    assert bench.offer()


def test_offers_that_come_later_are_told_at_once() -> None:
    bench = Bench()
    bench.guest.connect()
    target = Target(bench.engine)
    other = StorVsp(target, bench.memory, bench.engine, instance=uuid.UUID(int=2))
    other.attach(bench.bus)
    assert len(bench.guest.find(SCSI)) == 2
    other.detach()
    assert bench.guest.rescinded == {2}
    bench.guest.release(2)
    other.attach(bench.bus)
    assert [offer.channel_id for offer in bench.guest.find(SCSI)] == [1, 2]


def test_what_is_taken_away_before_a_guest_asks_is_never_told() -> None:
    bench = Bench()
    bench.device.detach()
    bench.guest.connect()
    assert not bench.guest.offers
    assert not bench.guest.rescinded


def test_another_kernel_finds_the_bus_as_the_first_did() -> None:
    bench = Bench(sub_channels=1)
    for _ in range(3):
        driver = bench.driver(sub_channels=1)
        assert driver.luns() == [0]
    bench.guest.unload()
    assert bench.bus.version == 0
    assert bench.driver().luns() == [0]


def test_modify_channel() -> None:
    bench = Bench()
    driver = bench.driver()
    channel_id = driver.channel.offer.channel_id
    told: list[tuple[int, int]] = []
    bench.bus._interrupt = lambda *signal: told.append(signal)
    message = messages.ModifyChannel(channel_id=channel_id, target_vp=3)
    assert bench.guest.ask(message, messages.ModifyChannelResponse).status == 0
    driver.channel.ring.unmask()
    driver.luns()
    assert told == [(channel_id, 3)]
    driver.channel.close()
    assert bench.guest.ask(message, messages.ModifyChannelResponse).status != 0


# -- memory --------------------------------------------------------------------------------------


def test_a_list_of_pages_in_many_messages() -> None:
    bench = Bench()
    driver = bench.driver(pages=500)
    data = fill(bench.target.unit(0).disk)  # type: ignore[union-attr]
    assert driver.read(0, 64) == data[: 512 * 64]
    driver.channel.close()
    assert not bench.bus._gpadls


@pytest.mark.parametrize(
    ("size", "offset", "ranges"),
    [(2 * PAGE, 0, 1), (4 * PAGE - 1, 0, 1), (4 * PAGE, 1, 1), (4 * PAGE, 0, 2), (0, 0, 0)],
)
def test_shared_memory_that_is_no_rings(size: int, offset: int, ranges: int) -> None:
    bench = Bench()
    offer, ring = bench.offer(), GuestRing(bench.arena, 1)
    header = messages.GpadlHeader(
        channel_id=offer.channel_id, gpadl_id=9, length=40, range_count=ranges
    )
    numbers = struct.pack("<4Q", *ring.pages)
    bench.bus.message(header.pack() + messages.GpaRange(size, offset).pack() + numbers)
    with pytest.raises(VmbusError, match="not opened"):
        bench.guest._came.clear()
        bench.guest.open(offer.channel_id, 9, 2)
    assert StorVscChannel(bench.guest, offer, ring).ask(7)


def test_a_gpadl_that_is_not_whole_not_there_or_another_channels() -> None:
    bench = Bench(sub_channels=1)
    driver = bench.driver(sub_channels=1)
    first, second = driver.channels
    ring = GuestRing(bench.arena, 1)
    second.close()
    bench.bus.message(
        messages.GpadlHeader(
            channel_id=second.offer.channel_id, gpadl_id=50, length=40, range_count=1
        ).pack()
        + messages.GpaRange(4 * PAGE, 0).pack()
    )
    for gpadl in (50, 51, first.gpadl):
        with pytest.raises(VmbusError, match="not opened"):
            bench.guest.open(second.offer.channel_id, gpadl, 2)
    bench.bus.message(messages.GpadlBody(gpadl_id=50).pack() + struct.pack("<4Q", *ring.pages))
    bench.guest._came.clear()
    bench.guest.open(second.offer.channel_id, 50, 2)


def test_a_guest_cannot_share_without_end() -> None:
    bench = Bench()
    offer = bench.offer()
    refused = 0
    for _ in range(1030):
        try:
            bench.guest.share(offer.channel_id, [1, 2, 3, 4])
        except VmbusError:
            refused += 1
    assert refused == 6


def test_memory_goes_with_a_channel_that_is_released() -> None:
    """Linux tears nothing down of a channel that was rescinded."""
    bench = Bench()
    for _ in range(5):
        bench.driver()
        bench.device.detach()
        bench.guest.release(1)
        assert not bench.bus._gpadls
        bench.device.attach(bench.bus)


# -- messages that make no sense -----------------------------------------------------------------


def test_messages_out_of_place(caplog: pytest.LogCaptureFixture) -> None:
    """Each is logged and forgotten, or has a status; the bus works on."""
    caplog.set_level(logging.WARNING, "drivebay")
    bench = Bench()
    for kind in range(40):
        bench.bus.message(messages.Header(kind).pack())
    bench.bus.message(b"")
    driver = bench.driver()
    strange = [
        messages.OpenChannel(channel_id=99),
        messages.OpenChannel(channel_id=1, ring_gpadl_id=1),
        messages.CloseChannel(channel_id=99),
        messages.GpadlHeader(channel_id=99, gpadl_id=9, length=40, range_count=1),
        messages.GpadlHeader(channel_id=1, gpadl_id=1, length=40, range_count=1),
        messages.GpadlBody(gpadl_id=1),
        messages.GpadlBody(gpadl_id=99),
        messages.GpadlTeardown(channel_id=1, gpadl_id=99),
        messages.GpadlTeardown(channel_id=99, gpadl_id=1),
        messages.RelidReleased(channel_id=1),
        messages.RelidReleased(channel_id=99),
        messages.ModifyChannel(channel_id=99),
        messages.Header(MessageType.REQUEST_OFFERS),
        messages.Header(MessageType.OFFER_CHANNEL),
        messages.Header(0xFFFFFFFF),
    ]
    for message in strange:
        bench.bus.message(message.pack())
        bench.bus.message(message.pack()[:-1])
    bench.bus.signal(0)
    bench.bus.signal(0x10063)
    bench.guest._came.clear()
    assert driver.luns() == [0]
    assert len(caplog.records) <= 12, "they are rationed"


def test_random_messages() -> None:
    bench = Bench(sub_channels=1)
    bench.offer()
    source = random.Random(3)
    for _ in range(5000):
        size = source.randrange(0, 60)
        body = bytes(source.choice([0, 0, 0, 1, 2, 255]) for _ in range(size))
        bench.bus.message(struct.pack("<II", source.randrange(26), 0) + body)
        bench.engine.turn(0) if source.random() < 0.1 else None
    assert bench.driver(sub_channels=1).luns() == [0]


# -- opening, closing, rescinding, resetting at each step ([S] 9a7dbd58e) -----


class Steps:
    """A guest on its way to a channel that works, and out again."""

    def __init__(self) -> None:
        self.puppet = PuppetDisk(RamDisk(1 << 20))
        self.bench = Bench({0: self.puppet}, sub_channels=1)
        self.driver: StorVsc | None = None

    def contact(self) -> None:
        self.bench.guest.ask(
            messages.InitiateContact(version=messages.IRON), messages.VersionResponse
        )

    def offered(self) -> None:
        self.offer = self.bench.offer()

    def sharing(self) -> None:
        header = messages.GpadlHeader(
            channel_id=self.offer.channel_id, gpadl_id=77, length=40, range_count=1
        )
        self.bench.bus.message(header.pack())

    def shared(self) -> None:
        self.ring = GuestRing(self.bench.arena, 1)
        self.gpadl = self.bench.guest.share(self.offer.channel_id, self.ring.pages)

    def opened(self) -> None:
        """The channel is open, and has had no turn yet."""
        self.bench.guest.open(self.offer.channel_id, self.gpadl, self.ring.downstream)

    def closed_and_torn(self) -> None:
        self.bench.guest.close(self.offer.channel_id, self.gpadl)

    def working(self) -> None:
        self.driver = self.bench.driver(sub_channels=1, slots=2)

    def busy(self) -> None:
        """One command can be given up, the other cannot."""
        assert self.driver is not None
        for slot in range(2):
            self.driver.put(CANARY, slot)
            self.driver.start(READ, 4096, slot=slot, channel=slot)
        self.bench.settle()
        self.stuck, _ = self.puppet.held
        self.stuck.cancel = lambda: False  # type: ignore[method-assign]

    def closing(self) -> None:
        assert self.driver is not None
        channel = self.driver.channel
        self.bench.bus.message(messages.CloseChannel(channel_id=channel.offer.channel_id).pack())

    def tearing_down(self) -> None:
        assert self.driver is not None
        channel = self.driver.channel
        message = messages.GpadlTeardown(
            channel_id=channel.offer.channel_id, gpadl_id=channel.gpadl
        )
        self.bench.bus.message(message.pack())
        assert not self.bench.guest._came, "not while data may still come"

    def rescinded(self) -> None:
        self.bench.device.detach()

    def released(self) -> None:
        for channel_id in tuple(self.bench.guest.rescinded):
            self.bench.guest.release(channel_id)


WAYS: dict[str, list[Callable[[Steps], None]]] = {
    "opening": [
        Steps.contact, Steps.offered, Steps.sharing, Steps.shared, Steps.opened,
        Steps.closed_and_torn, Steps.shared, Steps.opened,
    ],
    "closing": [Steps.working, Steps.busy, Steps.closing, Steps.tearing_down],
    "rescinded": [Steps.working, Steps.busy, Steps.rescinded, Steps.released],
    "rescinded while it closes": [
        Steps.working, Steps.busy, Steps.closing, Steps.rescinded, Steps.tearing_down,
        Steps.released,
    ],
    "closed when rescinded": [
        Steps.working, Steps.busy, Steps.rescinded, Steps.closing, Steps.tearing_down,
        Steps.released,
    ],
    "never used": [Steps.offered, Steps.rescinded, Steps.released],
}  # fmt: skip
EVERY = [(way, count) for way, steps in WAYS.items() for count in range(len(steps) + 1)]


@pytest.mark.parametrize(("way", "count"), EVERY)
@pytest.mark.parametrize("how", ["reset", "unload", "contact"])
def test_a_reset_at_each_step(way: str, count: int, how: str) -> None:
    """4.6: it ends when the last operation has; nothing reaches the guest's memory later."""
    steps = Steps()
    bench = steps.bench
    for step in WAYS[way][:count]:
        step(steps)
    bench.guest._came.clear()
    ended: list[bool] = []
    if how == "reset":
        bench.bus.reset(lambda: ended.append(True))
    elif how == "unload":
        bench.bus.message(messages.Header(MessageType.UNLOAD).pack())
    else:
        bench.bus.message(messages.InitiateContact(version=messages.IRON).pack())
    bench.settle()
    stuck = steps.puppet.held
    if stuck:
        assert len(stuck) == 1
        assert not ended
        assert not bench.guest._came, "it waits for what may still write to memory"
        steps.stuck.complete()
        bench.settle()
    assert ended or bench.guest._came
    signals = len(bench.signals)
    assert not steps.puppet.held
    if steps.driver is not None and count > 1:
        slot = 1  # what was given up has moved nothing
        assert steps.driver.got(4096, slot) == CANARY
    bench.settle()
    assert len(bench.signals) == signals
    if bench.device._bus is None:
        bench.device.attach(bench.bus)
    steps.puppet.holds = lambda *_: False
    assert bench.driver(sub_channels=1).luns() == [0]


@pytest.mark.parametrize(("way", "count"), EVERY)
def test_each_step_without_a_reset(way: str, count: int) -> None:
    steps = Steps()
    for step in WAYS[way][:count]:
        step(steps)
    steps.puppet.complete_all()
    steps.bench.settle()
    steps.puppet.holds = lambda *_: False
    if steps.bench.device._bus is None:
        steps.bench.device.attach(steps.bench.bus)
    assert steps.bench.driver().luns() == [0]


def test_a_channel_that_is_opened_again_while_it_closes() -> None:
    steps = Steps()
    for step in (Steps.working, Steps.busy, Steps.closing):
        step(steps)
    assert steps.driver is not None
    channel = steps.driver.channel
    channel.ring.reset()
    bench = steps.bench
    opening = messages.OpenChannel(
        channel_id=channel.offer.channel_id,
        open_id=5,
        ring_gpadl_id=channel.gpadl,
        downstream_page_offset=channel.ring.downstream,
    )
    bench.bus.message(opening.pack())
    bench.settle()
    assert not bench.guest._came
    steps.stuck.complete()
    bench.settle()
    (message,) = bench.guest._came
    assert messages.OpenResult.unpack(message) == messages.OpenResult(
        channel_id=channel.offer.channel_id, open_id=5
    )
    bench.guest._came.clear()
    steps.puppet.holds = lambda *_: False
    steps.driver.negotiate()
    assert steps.driver.luns() == [0]
