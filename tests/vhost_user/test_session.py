"""Rings that stop, reset and change while requests are held by the disk."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from drivebay.controllers.virtio.registers import BlockType
from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Buffers
from drivebay.disk.filters.base import Filter
from drivebay.hosts.vhost_user.codec import encode
from drivebay.hosts.vhost_user.messages import (
    Header,
    Number,
    ProtocolFeature,
    Request,
    VringState,
)
from drivebay.suspend import blocking, run
from drivebay.testing import FrontEnd, HungUp, PuppetDisk

from .conftest import MakeBay
from .support import Bay, hung_up

BASE_OF_0 = encode(Request.GET_VRING_BASE, VringState(0, 0).pack())


def never_answers(bay: Bay, guest: FrontEnd) -> bool:
    """Whether nothing has come from the server after a few turns."""
    bay.settle()
    try:
        return not guest.socket.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK)
    except BlockingIOError:
        return True


@pytest.fixture
def puppet(make_bay: MakeBay) -> tuple[PuppetDisk, Bay]:
    disk = PuppetDisk(RamDisk(1 << 20))
    return disk, make_bay(disk)


def test_stopping_a_ring_waits_for_the_disk_and_answers_right(
    puppet: tuple[PuppetDisk, Bay], packed: bool
) -> None:
    disk, bay = puppet
    with bay.guest(packed=packed) as guest:
        requests = [guest.submit(BlockType.IN, n, 512) for n in range(5)]
        bay.settle()
        assert len(disk.held) == 5
        guest.send(BASE_OF_0)
        guest.send(encode(Request.GET_STATUS))  # must wait too
        for held in disk.held:
            assert never_answers(bay, guest)
            held.complete()
        answer = VringState.unpack(guest.receive().payload)
        slots = 15 | 1 << 15
        assert answer == VringState(0, slots | slots << 16 if packed else 5)
        assert guest.receive().request == Request.GET_STATUS
        guest.collect()
        assert all(request.written == 513 for request in requests)


def test_a_front_end_that_leaves_while_its_ring_stops_makes_room(
    puppet: tuple[PuppetDisk, Bay],
) -> None:
    disk, bay = puppet
    with bay.guest() as guest:
        guest.submit(BlockType.OUT, 0, data=bytes(512))
        bay.settle()
        guest.send(BASE_OF_0)
        bay.settle()
    bay.settle()
    disk.complete_all()
    disk.holds = lambda *_: False
    bay.still_works()


def test_a_front_end_that_leaves_does_not_wait_for_a_disk_that_never_answers(
    puppet: tuple[PuppetDisk, Bay],
) -> None:
    disk, bay = puppet
    with bay.guest() as guest:
        guest.submit(BlockType.OUT, 0, data=bytes(512))
        bay.settle()
        guest.send(BASE_OF_0)
        bay.settle()
    bay.settle()
    disk.holds = lambda *_: False
    bay.still_works()


def test_a_front_end_that_leaves_as_its_ring_comes_to_rest_makes_room(make_bay: MakeBay) -> None:
    """Another ring of it is in a call that cannot be given up."""
    gate = threading.Event()

    class Slow(Filter):
        async def read(self, sector: int, buffers: Buffers) -> None:
            if sector == 100:
                await blocking(gate.wait)
            await self.below.read(sector, buffers)

    disk = PuppetDisk(Slow(RamDisk(1 << 20)), holds=lambda _, sector, count: sector == 50)
    bay = make_bay(disk, queues=2)
    guest = bay.guest(queues=2)
    guest.submit(BlockType.IN, 50, 512, queue=0)
    guest.submit(BlockType.IN, 100, 512, queue=1)
    bay.settle()
    guest.send(encode(Request.SET_VRING_ENABLE, VringState(0, 0).pack()))
    bay.settle()
    disk.complete_all()
    guest.close()  # before the engine has its next turn
    bay.settle()
    assert bay.server.connected
    gate.set()
    bay.still_works()


@pytest.mark.parametrize("count", [1, 64])
def test_a_front_end_that_leaves_with_requests_held_makes_room_at_once(
    puppet: tuple[PuppetDisk, Bay], packed: bool, count: int
) -> None:
    disk, bay = puppet
    with bay.guest(packed=packed, queue_size=256) as guest:
        for n in range(count):
            guest.submit(BlockType.IN, n, 512)
        bay.settle()
        held = disk.held
        assert len(held) == count
    bay.until_free()
    assert all(operation.cancelled for operation in held)
    disk.holds = lambda *_: False
    bay.still_works()


RESETS = {
    "SET_STATUS 0": encode(Request.SET_STATUS, Number(0).pack(), NEED_REPLY=1),
    "RESET_DEVICE": encode(Request.RESET_DEVICE, NEED_REPLY=1),
}


@pytest.mark.parametrize("reset", RESETS.values(), ids=RESETS.keys())
@pytest.mark.parametrize("count", [1, 64])
def test_a_reset_drops_what_the_disk_holds(
    puppet: tuple[PuppetDisk, Bay], packed: bool, reset: bytes, count: int
) -> None:
    disk, bay = puppet
    with bay.guest(packed=packed, queue_size=256) as guest:
        dropped = [guest.submit(BlockType.IN, n, 512) for n in range(count)]
        bay.settle()
        guest.send(reset)
        assert guest.receive().payload == bytes(8)
        assert all(pending.written is None for pending in dropped)
        disk.complete_all()
        bay.settle()
        guest.collect()
        assert all(pending.written is None for pending in dropped)
        disk.holds = lambda *_: False
        guest.initialise()
        guest.write(3, b"n" * 512)
        assert guest.read(3, 512) == b"n" * 512


@pytest.mark.parametrize("reset", RESETS.values(), ids=RESETS.keys())
def test_a_reset_forgets_what_was_in_flight_for_the_next_server_too(
    puppet: tuple[PuppetDisk, Bay], packed: bool, reset: bytes
) -> None:
    disk, bay = puppet
    with bay.guest(packed=packed) as guest:
        guest.submit(BlockType.IN, 0, 512)
        bay.settle()
        guest.send(reset)
        guest.receive()
        inflight, guest.inflight = guest.inflight, None
        guest.initialise()
        assert guest.inflight is not None
        assert inflight is not None
        os.close(guest.inflight[0])
        guest.inflight = inflight  # a front end that keeps its area over the reset
        guest.reconnect()
        bay.settle()
        assert disk.held == []


def test_a_ring_that_is_disabled_rests_until_it_is_enabled(bay: Bay, packed: bool) -> None:
    with bay.guest(packed=packed) as guest:
        guest.write(0, b"a" * 512)
        guest.tell(Request.SET_VRING_ENABLE, VringState(0, 0).pack())
        pending = guest.submit(BlockType.IN, 0, 512)
        os.eventfd_write(guest.kicks[0], 1)
        bay.settle()
        guest.collect()
        assert pending.written is None
        guest.tell(Request.SET_VRING_ENABLE, VringState(0, 1).pack())
        assert guest.wait(pending) == 0


def test_an_obsolete_reset_of_the_owner_only_disables_rings(bay: Bay) -> None:
    with bay.guest() as guest:
        guest.tell(Request.RESET_OWNER)
        pending = guest.submit(BlockType.IN, 0, 512)
        guest.tell(Request.SET_VRING_ENABLE, VringState(0, 1).pack())
        assert guest.wait(pending) == 0


def test_a_guest_may_stop_and_start_its_rings_for_ever(bay: Bay, packed: bool) -> None:
    with bay.guest(packed=packed) as guest:
        for n in range(40):
            data = bytes([n]) * 512
            guest.write(n, data)
            guest.stop()
            guest.start()
            assert guest.read(n, 512) == data


def test_errors_are_told_where_they_were_before_the_ring_was_stopped(bay: Bay) -> None:
    with bay.guest() as guest:
        guest.stop()
        [err] = guest.errors
        guest.errors[0] = os.eventfd(0, os.EFD_NONBLOCK)
        guest.start()  # with another one
        guest.stop()
        guest.tell(Request.SET_VRING_NUM, VringState(0, 3).pack())  # no power of two
        guest.tell(Request.SET_VRING_KICK, Number(0).pack(), [guest.kicks[0]])
        assert os.eventfd_read(guest.errors[0]) == 1
        os.close(err)


def test_every_queue_is_a_queue(make_bay: MakeBay, packed: bool) -> None:
    bay = make_bay(queues=4)
    with bay.guest(queues=4, packed=packed) as guest:
        for queue in range(4):
            guest.request(BlockType.OUT, queue, data=bytes([queue]) * 512, queue=queue)
        assert [guest.read(n, 512)[0] for n in range(4)] == [0, 1, 2, 3]
        assert len(guest.stop()) == 4


def test_setup_may_not_change_while_a_ring_runs(bay: Bay) -> None:
    ring = VringState(0, 16).pack()
    for request in (Request.SET_VRING_NUM, Request.SET_VRING_BASE):
        with bay.guest() as guest, pytest.raises(HungUp):
            guest.tell(request, ring)
        bay.until_free()
    with bay.guest() as guest, pytest.raises(HungUp):
        guest.share_inflight()
    bay.until_free()
    with bay.guest() as guest, pytest.raises(HungUp):
        guest.tell(Request.SET_FEATURES, Number(1 << 30).pack())
    bay.still_works()


# -- kicks and calls ------------------------------------------------------------------------------


def test_a_kick_that_cannot_be_watched_ends_the_connection(bay: Bay) -> None:
    with open("/proc/self/exe", "rb") as file, bay.guest() as guest, pytest.raises(HungUp):
        guest.tell(Request.SET_VRING_KICK, Number(0).pack(), [file.fileno()])
    bay.still_works()


def test_kicks_and_calls_may_be_pipes(bay: Bay) -> None:
    with bay.guest() as guest:
        kicked, kick = os.pipe()
        called, call = os.pipe()
        guest.tell(Request.SET_VRING_KICK, Number(0).pack(), [kicked])
        guest.tell(Request.SET_VRING_CALL, Number(0).pack(), [call])
        assert os.read(called, 8)  # what may have been missed
        for _ in range(9000):  # more than a pipe has room for, and nobody reads the calls
            pending = guest.submit(BlockType.GET_ID, 0, 20, kick=False)
            os.write(kick, b"12345678")
            assert guest.wait(pending) == 0
            guest.result(pending)
            os.read(kicked, 8)
            guest.ring().want_interrupt()
        for fd in (kicked, kick, called, call):
            os.close(fd)


def test_a_call_that_is_full_or_broken_stops_nothing(bay: Bay) -> None:
    full = os.eventfd(0)  # which may block
    os.eventfd_write(full, (1 << 64) - 2)
    reader, broken = os.pipe()
    os.close(reader)
    with bay.guest() as guest:
        for fd in (full, broken, 1):
            guest.tell(Request.SET_VRING_CALL, Number(0).pack(), [fd])
            guest.write(0, b"c" * 512)
            guest.write(0, b"c" * 512)
    os.close(full)
    os.close(broken)
    bay.still_works()


def test_a_new_kick_or_call_takes_the_place_of_the_old(bay: Bay) -> None:
    with bay.guest() as guest:
        for _ in range(5):
            for fds, request in (
                (guest.kicks, Request.SET_VRING_KICK),
                (guest.calls, Request.SET_VRING_CALL),
            ):
                os.close(fds[0])
                fds[0] = os.eventfd(0, os.EFD_NONBLOCK)
                guest.tell(request, Number(0).pack(), [fds[0]])
            guest.write(0, b"d" * 512)


# -- the channel back -----------------------------------------------------------------------------


def resize(bay: Bay, sectors: int) -> None:
    run(bay.disk.resize(sectors))
    bay.settle()


def test_a_resize_is_told_and_seen(bay: Bay) -> None:
    with bay.guest() as guest:
        assert guest.config_changes() == 0
        resize(bay, 4096)
        assert guest.config_changes() == 1
        assert guest.config.capacity == 4096


def test_a_front_end_that_does_not_listen_does_not_stop_us(bay: Bay) -> None:
    with bay.guest() as guest:
        for n in range(2000):
            resize(bay, 2048 + n % 2)
        assert guest.config_changes() > 0
        guest.write(0, b"e" * 512)
        guest.channel.close()
        resize(bay, 4096)
        guest.write(0, b"f" * 512)
        assert guest.config.capacity == 4096


def test_a_front_end_without_a_channel_is_not_told(bay: Bay) -> None:
    without = ~(1 << ProtocolFeature.BACKEND_REQ)
    with bay.guest(protocol_features=without) as guest:
        resize(bay, 4096)
        assert guest.config.capacity == 4096


def test_without_protocol_features_a_ring_starts_with_its_kick(bay: Bay) -> None:
    with bay.raw() as guest:
        guest.features = guest.get(Request.GET_FEATURES) & 1 << 32
        guest.send(encode(Request.SET_FEATURES, Number(guest.features).pack()))
        guest._rings = [guest.make_ring(16)]
        with pytest.raises(BlockingIOError):
            guest.start()
            guest.socket.recv(Header.size, socket.MSG_DONTWAIT)  # nothing is acknowledged
        guest.write(0, b"g" * 512)
        assert not hung_up(guest.socket)
