"""Messages as a hostile peer sends them: what is refused, and that nothing is left of it."""

from __future__ import annotations

import os
import random
import socket
import struct
from collections.abc import Iterator

import pytest

from drivebay.hosts.vhost_user.codec import encode
from drivebay.hosts.vhost_user.messages import (
    ConfigHeader,
    Inflight,
    MemoryRegion,
    MemoryTable,
    Number,
    Request,
    SingleRegion,
    VringAddress,
    VringState,
)
from drivebay.testing import GuestRam, HungUp

from .support import ALL_FDS, Bay, Desk, hung_up, no_fd_is_left

SETS = sorted(request for request in Request if request.name.startswith(("SET_", "ADD_", "REM_")))


@pytest.fixture
def ram() -> Iterator[GuestRam]:
    ram = GuestRam(1 << 20)
    yield ram
    ram.close()


def memory_table(*regions: MemoryRegion, count: int | None = None) -> bytes:
    head = MemoryTable(len(regions) if count is None else count, 0)
    return head.pack() + b"".join(region.pack() for region in regions)


def plausible(ram: GuestRam) -> dict[Request, bytes]:
    """A payload that makes sense for each request that has one."""
    address = VringAddress(0, 0, 0x7F00_0000_0000, 0x7F00_0000_2000, 0x7F00_0000_1000, 0)
    region = ram.region
    single = SingleRegion(
        0, region.guest_address, region.length, region.user_address, region.mmap_offset
    )
    number, state = Number(0).pack(), VringState(0, 16).pack()
    return dict.fromkeys(Request, b"") | {
        Request.SET_FEATURES: number,
        Request.SET_PROTOCOL_FEATURES: Number(8).pack(),
        Request.SET_MEM_TABLE: memory_table(region),
        Request.SET_VRING_NUM: state,
        Request.SET_VRING_ADDR: address.pack(),
        Request.SET_VRING_BASE: VringState(0, 0).pack(),
        Request.GET_VRING_BASE: VringState(0, 0).pack(),
        Request.SET_VRING_KICK: number,
        Request.SET_VRING_CALL: number,
        Request.SET_VRING_ERR: number,
        Request.SET_VRING_ENABLE: VringState(0, 1).pack(),
        Request.GET_CONFIG: ConfigHeader(0, 60, 0).pack() + bytes(60),
        Request.SET_CONFIG: ConfigHeader(32, 1, 0).pack() + b"\1",
        Request.GET_INFLIGHT_FD: Inflight(0, 0, 1, 64).pack(),
        Request.SET_INFLIGHT_FD: Inflight(65536, 0, 1, 64).pack(),
        Request.ADD_MEM_REG: single.pack(),
        Request.REM_MEM_REG: single.pack(),
        Request.SET_STATUS: Number(15).pack(),
    }


@pytest.mark.parametrize("count", ALL_FDS)
def test_any_number_of_descriptors_with_any_message_is_closed(
    bay: Bay, ram: GuestRam, count: int
) -> None:
    payloads = plausible(ram)
    bay.still_works()
    with no_fd_is_left():
        for request in range(45):
            with bay.raw() as peer:
                payload = payloads[Request(request)] if request in payloads else b""
                peer.send(encode(request, payload), [ram.fd] * count)
                bay.settle()
    bay.still_works()


def test_descriptors_with_every_byte_are_closed(bay: Bay) -> None:
    with no_fd_is_left(), bay.raw() as peer:
        with pytest.raises(HungUp):
            for byte in encode(Request.SET_MEM_TABLE, bytes(4000)):
                peer.send(bytes([byte]), [0])
                bay.engine.turn(0)
        bay.until_free()


@pytest.mark.parametrize("request_", Request, ids=lambda request: request.name)
def test_a_payload_of_any_size_is_taken_or_refused(desk: Desk, request_: Request) -> None:
    rng = random.Random(request_)
    with no_fd_is_left():
        for size in [*range(300), *range(300, 4097, 61), 4096]:
            desk.refuses(request_, bytes(size))
            desk.refuses(request_, rng.randbytes(size), (0,))
        desk.close()


@pytest.mark.parametrize("request_", [0, 19, 20, 22, 23, 26, 33, 35, 41, 44, 255, 1 << 31])
def test_a_request_that_is_not_supported_ends_the_connection(bay: Bay, request_: int) -> None:
    with bay.raw() as peer, pytest.raises(HungUp):
        peer.call(request_, bytes(8), NEED_REPLY=1)
    bay.still_works()


@pytest.mark.parametrize("flags", [0, 2, 3, 0x10, 0xFFFFFFFC])
def test_a_header_of_garbage_ends_the_connection(bay: Bay, flags: int) -> None:
    with bay.raw() as peer:
        peer.send(struct.pack("<III", Request.GET_FEATURES, flags, 0))
        with pytest.raises(HungUp):
            peer.receive()
    bay.still_works()


def test_every_set_is_acknowledged_when_that_was_agreed_on(desk: Desk, ram: GuestRam) -> None:
    payloads = plausible(ram)
    assert desk.say(Request.SET_PROTOCOL_FEATURES, Number(0).pack()) == []
    desk.say(Request.SET_PROTOCOL_FEATURES, Number(1 << 3).pack())
    ours, theirs = socket.socketpair()
    fds = {
        Request.SET_MEM_TABLE: ram.fd,
        Request.SET_VRING_CALL: os.eventfd(0),
        Request.SET_VRING_ERR: os.eventfd(0),
        Request.SET_VRING_KICK: os.eventfd(0),
        Request.SET_BACKEND_REQ_FD: theirs.fileno(),
        Request.SET_INFLIGHT_FD: ram.fd,
        Request.ADD_MEM_REG: ram.fd,
    }
    ours.close()
    desk.say(Request.SET_FEATURES, Number(1 << 30).pack())  # the rings wait to be enabled
    order = [Request.REM_MEM_REG, Request.SET_STATUS]
    for request in [r for r in SETS if r not in order] + order:
        if request in (Request.SET_LOG_BASE, Request.SET_LOG_FD, Request.SET_VRING_ENABLE):
            continue
        if request is Request.ADD_MEM_REG:
            desk.say(Request.SET_MEM_TABLE, memory_table(far(ram)), (ram.fd,))
        payload = payloads[request]
        if request is Request.SET_FEATURES:
            payload = Number(1 << 30).pack()
        [answer] = desk.say(request, payload, (fds[request],) if request in fds else ())
        assert (answer.request, answer.payload) == (request, bytes(8))
    for fd in set(fds.values()) - {ram.fd, theirs.fileno()}:
        os.close(fd)
    theirs.close()


def far(ram: GuestRam) -> MemoryRegion:
    """A region of the same file that lies elsewhere."""
    region = ram.region
    return MemoryRegion(1 << 40, 4096, 1 << 41, region.mmap_offset)


def test_requests_that_have_an_answer_get_no_other(desk: Desk, ram: GuestRam) -> None:
    desk.say(Request.SET_PROTOCOL_FEATURES, Number(1 << 3).pack())
    for request in Request:
        if request.name.startswith("GET_"):
            assert len(desk.say(request, plausible(ram)[request])) == 1


@pytest.mark.parametrize("size", [20, 24])
def test_an_inflight_description_may_have_the_padding_of_c(desk: Desk, size: int) -> None:
    [answer] = desk.say(Request.GET_INFLIGHT_FD, Inflight(0, 0, 2, 256).pack().ljust(size, b"\0"))
    assert len(answer.payload) == size
    assert Inflight.unpack(answer.payload).mmap_size >= 2 * (32 + 32 * 256)


# -- rings ----------------------------------------------------------------------------------------

STATES = (
    Request.SET_VRING_NUM,
    Request.SET_VRING_BASE,
    Request.GET_VRING_BASE,
    Request.SET_VRING_ENABLE,
)


@pytest.mark.parametrize("request_", STATES, ids=lambda request: request.name)
def test_a_ring_that_is_not_there_is_refused(desk: Desk, request_: Request) -> None:
    for index in [*range(2, 256), 1 << 16, 1 << 31, (1 << 32) - 1]:
        assert desk.refuses(request_, VringState(index, 1).pack())


def test_an_address_for_a_ring_that_is_not_there_is_refused(desk: Desk) -> None:
    for index in [2, 255, (1 << 32) - 1]:
        address = VringAddress(index, 0, 0, 0, 0, 0)
        assert desk.refuses(Request.SET_VRING_ADDR, address.pack())


@pytest.mark.parametrize(
    "request_",
    [Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR],
    ids=lambda request: request.name,
)
def test_the_index_of_a_descriptor_has_eight_bits_and_the_ninth_means_none(
    desk: Desk, request_: Request
) -> None:
    desk.say(Request.SET_FEATURES, Number(1 << 30).pack())  # the rings wait to be enabled
    kick = os.eventfd(0)
    with no_fd_is_left():
        for index in range(256):
            without = Number(index | 1 << 8).pack()
            polled = request_ == Request.SET_VRING_KICK  # without kicks: not supported
            assert desk.refuses(request_, without) == (index >= 2 or polled)
            assert desk.refuses(request_, without, (kick,))
            assert desk.refuses(request_, Number(index).pack())
            assert desk.refuses(request_, Number(index).pack(), (kick, kick))
            assert desk.refuses(request_, Number(index).pack(), (kick,)) == (index >= 2)
        desk.close()
    os.close(kick)


@pytest.mark.parametrize("size", [0, 32769, 1 << 16, (1 << 32) - 1])
def test_a_ring_of_no_possible_size_is_refused(desk: Desk, size: int) -> None:
    assert desk.refuses(Request.SET_VRING_NUM, VringState(0, size).pack())


def test_a_ring_that_starts_before_it_is_set_up_is_refused(desk: Desk) -> None:
    kick = os.eventfd(0)
    assert desk.refuses(Request.SET_VRING_KICK, Number(0).pack(), (kick,))
    os.close(kick)


def test_messages_in_any_order_do_no_harm(desk: Desk, ram: GuestRam) -> None:
    rng = random.Random(3)
    kick = os.eventfd(0)
    requests = [request for request in Request for _ in range(2)]
    with no_fd_is_left():
        for _ in range(150):
            rng.shuffle(requests)
            payloads = plausible(ram)
            for request in requests:
                fds = rng.choice([(), (kick,), (ram.fd,)])
                desk.refuses(request, payloads[request], fds)
            desk.say(Request.RESET_DEVICE)
        desk.close()
    os.close(kick)


# -- configuration --------------------------------------------------------------------------------


@pytest.mark.parametrize(("offset", "length"), [(0, 257), (256, 1), (1 << 32, 0), (0, 1 << 31)])
def test_configuration_beyond_its_space_is_an_error(desk: Desk, offset: int, length: int) -> None:
    head = struct.pack("<III", offset & 0xFFFFFFFF, length, 0)
    if offset < 1 << 32:
        [answer] = desk.say(Request.GET_CONFIG, head)
        assert answer.payload == b""  # which means an error
        assert desk.refuses(Request.SET_CONFIG, head)


def test_configuration_behind_the_last_field_reads_zero(desk: Desk) -> None:
    [answer] = desk.say(Request.GET_CONFIG, ConfigHeader(200, 56, 0).pack())
    assert answer.payload == ConfigHeader(200, 56, 0).pack() + bytes(56)


def test_configuration_is_read_from_any_place(desk: Desk) -> None:
    [whole] = desk.say(Request.GET_CONFIG, ConfigHeader(0, 60, 0).pack() + bytes(60))
    for offset in range(60):
        [part] = desk.say(Request.GET_CONFIG, ConfigHeader(offset, 60 - offset, 0).pack())
        assert part.payload[12:] == whole.payload[12 + offset :]


# -- answers --------------------------------------------------------------------------------------


def test_a_front_end_that_takes_no_answers_is_let_go(bay: Bay) -> None:
    with bay.raw() as peer:
        peer.socket.setblocking(False)
        request = encode(Request.GET_CONFIG, ConfigHeader(0, 256, 0).pack())
        with pytest.raises((HungUp, BlockingIOError)):
            for _ in range(100_000):
                peer.send(request)
                bay.engine.turn(0)
        assert bay.engine.run_until(lambda: hung_up(peer.socket) or not bay.server.connected, 2)
        bay.still_works()
