"""What hostile guests do: hostile.md sections 2.5 and 4, by name."""

from __future__ import annotations

import itertools
import random
import struct

import pytest

from drivebay.controllers.nvme import Status
from drivebay.controllers.nvme.opcodes import AdminOpcode, LogId, NvmOpcode
from drivebay.controllers.nvme.registers import AQA, CC, CSTS, DOORBELLS_AT
from drivebay.disk.backends.ram import RamDisk
from drivebay.drivers.nvme import NvmeDriver, NvmeError
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory, Region
from drivebay.testing.memory import FlippingMemory
from tests.ide.support import content, filled, noise

from .conftest import MakeBench
from .raw import put_bytes, send, sent, status
from .support import BAR, RAM_SIZE, Bench

MIB = 1 << 20
READ, WRITE = NvmOpcode.READ, NvmOpcode.WRITE


def usable(bench: Bench) -> None:
    """After a reset everything works."""
    namespace = bench.driver().namespace(1)
    namespace.write(3, noise(4096, 3))
    assert namespace.read(3, 8) == noise(4096, 3)


# -- 2.5 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [BAR, BAR + DOORBELLS_AT, 0xFD000000])
def test_dma_to_its_own_bar(make_bench: MakeBench, where: int) -> None:
    """CVE-2021-3929, 4.4: registers are no memory; the command fails and nothing else happens."""
    bench = make_bench({1: filled(MIB, 1)})
    queue = bench.driver().io[0]
    for opcode in (READ, WRITE):
        assert send(queue, opcode, 1, 0, 0, 0, prp1=where) == Status.DATA_TRANSFER_ERROR
    usable(bench)


@pytest.mark.parametrize("part", ["sq", "cq", "doorbells"])
def test_data_in_its_own_queue(make_bench: MakeBench, part: str) -> None:
    """4.4: data buffer = ring."""
    bench = make_bench({1: filled(MIB, 1)})
    driver = bench.driver()
    driver.use_doorbell_buffers()
    queue = driver.io[0]
    assert queue.dbbuf is not None
    at = {"sq": queue.sq, "cq": queue.cq, "doorbells": queue.dbbuf._words}[part]
    sent(queue, READ, 1, 0, 0, 7, prp1=at)
    queue.ring()
    bench.settle()
    bench.nvme.reset()
    bench.enable()
    usable(bench)


REFUSALS = (
    Status.INVALID_FIELD,
    Status.INVALID_LOG_PAGE,
    Status.PRP_OFFSET_INVALID,
    Status.DATA_TRANSFER_ERROR,
)


def test_log_and_identify_beyond_the_buffer(make_bench: MakeBench) -> None:
    """CVE-2021-3947, CVE-2023-4135: LPO, NUMD, CNS, NSID, UUID sweep."""
    bench = make_bench({1: filled(MIB, 1)})
    driver = bench.driver()
    at = driver.buffer
    for log, offset, count in itertools.product(
        (*range(7), 0x0D, 0x80, 0x81, 0xC0, 0xFF),
        (0, 4, 508, 511, 512, 1 << 32, (1 << 64) - 4),
        (0, 127, 0xFFFF, 0xFFFFFFFF),
    ):
        dwords = (count << 16 & 0xFFFF0000 | log, count >> 16, offset & 0xFFFFFFFF, offset >> 32)
        end = send(driver.admin, AdminOpcode.GET_LOG_PAGE, 0xFFFFFFFF, *dwords, prp1=at, prp2=at)
        assert end == 0 or Status(end) in REFUSALS
    for cns, nsid in itertools.product(range(256), (0, 1, 2, 0xFFFE, 0xFFFFFFFE, 0xFFFFFFFF)):
        end = send(
            driver.admin, AdminOpcode.IDENTIFY, nsid, 0xFFFF0000 | cns, 0, 0, 0, 0x7F, prp1=at
        )
        assert end in (0, Status.INVALID_FIELD, Status.INVALID_NAMESPACE_OR_FORMAT)
    usable(bench)


def test_every_opcode_with_every_namespace(make_bench: MakeBench) -> None:
    """CVE-2023-40360: NSID 0, 1, 2, 0xFFFE, 0xFFFFFFFF."""
    bench = make_bench({1: filled(MIB, 1)})
    driver = bench.driver()
    for opcode, nsid in itertools.product(range(256), (0, 1, 2, 0xFFFE, 0xFFFFFFFF)):
        end = send(driver.io[0], opcode, nsid, prp1=driver.buffer)
        if nsid != 1 and opcode in bench.controller.nvm.handlers:
            flush_all = opcode == NvmOpcode.FLUSH and nsid == 0xFFFFFFFF
            assert end == (0 if flush_all else Status.INVALID_NAMESPACE_OR_FORMAT)
        elif opcode not in bench.controller.nvm.handlers:
            assert end == Status.INVALID_OPCODE
    for opcode, nsid in itertools.product(range(256), (0, 1, 2, 0xFFFE, 0xFFFFFFFF)):
        if opcode in (AdminOpcode.ASYNC_EVENT_REQUEST, AdminOpcode.DELETE_IO_SQ):
            continue
        end = send(driver.admin, opcode, nsid, prp1=driver.buffer)
        known = opcode in bench.controller.admin.handlers
        assert known or end == Status.INVALID_OPCODE
    bench.settle(40)
    usable(bench)


def test_abort_of_any_queue(make_bench: MakeBench) -> None:
    """nvme_abort: SQID 0..65535."""
    bench = make_bench({1: filled(MIB, 1)})
    admin = bench.driver().admin
    for first in range(0, 65536, 1024):
        ids = [
            sent(admin, AdminOpcode.ABORT, 0, 7 << 16 | sqid) for sqid in range(first, first + 32)
        ]
        admin.ring()
        assert all(admin.wait(cid).dw0 == 1 for cid in ids)


def sgl(address: int, length: int, kind: int) -> tuple[int, int]:
    """PRP1 and PRP2 that are an SGL descriptor."""
    return address, kind << 60 | length


def descriptor(address: int, length: int, kind: int) -> bytes:
    return struct.pack("<QQ", *sgl(address, length, kind))


def test_sgl_segments_make_progress(make_bench: MakeBench) -> None:
    """ "ensure sgl forward progress": a segment pointing to itself, zero-length segments, 10^6
    descriptors.
    """
    bench = make_bench({1: filled(MIB, 1)})
    driver = bench.driver()
    queue, memory = driver.io[0], bench.memory
    table = driver.arena.take(16 << 20, 4096)

    def read(*first: int, blocks: int = 8) -> int:
        address, rest = sgl(*first)
        return send(queue, READ, 1, 0, 0, blocks - 1, prp1=address, prp2=rest, flags=0x40)

    memory.view(table, 16)[:] = descriptor(table, 16, 2)
    assert read(table, 16, 2) == Status.INVALID_NUMBER_OF_SGL_DESCRIPTORS
    assert read(table, 0, 2) == Status.INVALID_SGL_SEGMENT
    assert read(table, 15, 3) == Status.INVALID_SGL_SEGMENT
    assert read(table, 16 * 1_000_000, 3) == Status.INVALID_NUMBER_OF_SGL_DESCRIPTORS
    memory.view(table, 16)[:] = descriptor(table, 16, 3)
    assert read(table, 16, 3) == Status.INVALID_SGL_SEGMENT  # after the last
    assert read(table, 4096, 1) == Status.SGL_TYPE_INVALID
    assert read(table, 4096, 15) == Status.SGL_TYPE_INVALID
    assert read(table, 4095, 0) == Status.DATA_SGL_LENGTH_INVALID
    assert read(table, 0xFFFFFFFF, 0) == Status.DATA_SGL_LENGTH_INVALID
    assert read((1 << 64) - 8, 4096, 0) == Status.DATA_TRANSFER_ERROR
    assert read(1 << 50, 16, 3) == Status.DATA_TRANSFER_ERROR
    # What is right: odd pieces, empty ones, two segments.
    data = driver.buffer
    pieces = [(data, 1), (data + 1, 0), (data + 1, 511), (data + 512, 2000)]
    last = [(data + 2512, 1584)]
    memory.view(table, 80)[:] = b"".join(
        [*(descriptor(*piece, 0) for piece in pieces), descriptor(table + 256, 16, 3)]
    )
    memory.view(table + 256, 16)[:] = descriptor(*last[0], 0)
    assert read(table, 80, 2) == 0
    assert memory.view(data, 4096) == noise(MIB, 1)[:4096]
    usable(bench)


def test_sizes_that_multiply(make_bench: MakeBench) -> None:
    """NLB 0xFFFF, 128 copy ranges and more, LBA 2^63, MDTS."""
    bench = make_bench({1: filled(MIB, 1)})
    driver = bench.driver()
    queue, at = driver.io[0], driver.buffer
    over = (0xFFFFFFFF, 0x7FFFFFFF)
    assert send(queue, READ, 1, 0, 0, 0xFFFF, prp1=at) == Status.INVALID_FIELD
    assert send(queue, READ, 1, *over, 0, prp1=at) == Status.LBA_OUT_OF_RANGE
    assert send(queue, WRITE, 1, 0xFFFFFFFF, 0xFFFFFFFF, 0, prp1=at) == Status.LBA_OUT_OF_RANGE
    bench.memory.view(at, 8192)[:] = struct.pack("<QQHxxxxxxIHH", 0, 0, 0xFFFF, 0, 0, 0) * 256
    for count in (128, 129, 256):
        end = send(queue, NvmOpcode.COPY, 1, 0, 0, count - 1, prp1=at, prp2=at + 4096)
        assert end == Status.COMMAND_SIZE_LIMIT_EXCEEDED
    bench.memory.view(at, 4096)[:] = struct.pack("<IIQ", 0, 0xFFFFFFFF, (1 << 64) - 1) * 256
    end = send(queue, NvmOpcode.DATASET_MANAGEMENT, 1, 255, 4, prp1=at)
    assert end == Status.LBA_OUT_OF_RANGE
    usable(bench)


@pytest.mark.parametrize("opcode", [READ, WRITE, NvmOpcode.COMPARE, NvmOpcode.WRITE_ZEROES,
                                    NvmOpcode.VERIFY, NvmOpcode.WRITE_UNCORRECTABLE])  # fmt: skip
def test_ranges(make_bench: MakeBench, opcode: int) -> None:
    """5: in range succeeds, out of range fails and touches nothing."""
    disk = filled(MIB, 1)
    bench = make_bench({1: disk})
    driver = bench.driver()
    n = 2048
    most = (1 << 63) // 512
    beyond = [((1 << 64) - 1, 1), ((1 << 64) - 2, 2), (most, 1), (most - 1, 2), ((1 << 55), 1)]
    beyond += [(n, 1), (n - 1, 2), (0, n + 1), (1 << 32, 1)]
    for slba, count in beyond:
        end = send(
            driver.io[0], opcode, 1, slba & 0xFFFFFFFF, slba >> 32, count - 1, prp1=driver.buffer,
            prp2=driver.buffer + 4096,
        )  # fmt: skip
        assert end in (Status.LBA_OUT_OF_RANGE, Status.INVALID_FIELD), (slba, count)
    assert content(disk) == noise(MIB, 1)
    assert not bench.subsystem.namespaces[1].bad


def test_an_invalid_namespace_storm(make_bench: MakeBench) -> None:
    """OpenVMM 36711face: nothing is counted that was never dispatched."""
    bench = make_bench({1: filled(MIB, 1)})
    queue = bench.driver().io[0]
    for _ in range(200):
        ids = [sent(queue, READ, 9) for _ in range(60)]
        queue.ring()
        assert {status(queue, cid) for cid in ids} == {Status.INVALID_NAMESPACE_OR_FORMAT}
    assert not bench.controller.sqs[1].rows  # type: ignore[union-attr]
    usable(bench)


@pytest.mark.parametrize("how", ["controller", "function", "subsystem"])
def test_no_doorbell_memory_after_a_reset(make_bench: MakeBench, how: str) -> None:
    """OpenVMM 4080: a canary in the old pages stays."""
    bench = make_bench({1: filled(MIB, 1)})
    driver = bench.driver()
    driver.use_doorbell_buffers()
    assert driver.io[0].dbbuf is not None
    pages = (driver.io[0].dbbuf._words, driver.io[0].dbbuf._events)
    driver.namespace(1).read(0, 1)
    if how == "controller":
        driver.enable()
    elif how == "function":
        bench.nvme.reset()
        bench.enable()
    else:
        driver.subsystem_reset()
        assert driver.status.NSSRO
    for page in pages:
        bench.memory.view(page, 4096)[:] = b"\xa5" * 4096
    usable(bench)
    for page in pages:
        assert bench.memory.view(page, 4096) == b"\xa5" * 4096


def test_doorbells_in_every_state(make_bench: MakeBench) -> None:
    """Propolis 309, bhyve D35453: before enable, to no queue, high 16 bits set, beyond size."""
    bench = make_bench({1: filled(MIB, 1)})
    values = (0, 1, 63, 64, 65535, 65536, 0x10001, 0xFFFFFFFF)

    def ring_all() -> None:
        for number, value in itertools.product(range(132), values):
            bench.mmio.write(BAR + DOORBELLS_AT + 4 * number, 4, value)
        for width, offset in ((1, 0), (2, 2), (8, 8), (4, 2)):
            bench.mmio.write(BAR + DOORBELLS_AT + offset, width, 1)
        bench.settle()

    ring_all()
    driver = bench.driver()
    for number, value in itertools.product(range(4, 132), values):
        bench.mmio.write(BAR + DOORBELLS_AT + 4 * number, 4, value)
    for number in range(4):
        for value in (64, 65535, 65536, 0x10001):
            bench.mmio.write(BAR + DOORBELLS_AT + 4 * number, 4, value)
    assert driver.namespace(1).read(0, 8) == noise(MIB, 1)[:4096]
    ring_all()  # whatever this says, it says to rings of zeroes and of old commands
    bench.settle(100)
    bench.nvme.reset()
    bench.enable()
    usable(bench)


def test_prp_lists_around_every_boundary(make_bench: MakeBench) -> None:
    """bhyve EN-21:25: exactly 512 entries; address 0; offsets; a list that goes on."""
    disk = filled(4 * MIB, 1)
    bench = make_bench({1: disk})
    driver = bench.driver()
    queue, memory, data = driver.io[0], bench.memory, driver.buffer
    lists = driver.arena.take(5 * 4096, 4096)
    content_ = noise(4 * MIB, 1)
    for offset, start, pages in itertools.product(
        (0, 4, 512, 4092), (0, 8, 4096 - 8, 4096 - 16, 4096 - 24), (1, 2, 3, 4, 5, 63, 255)
    ):
        length = pages * 4096
        entries = [data + 4096 * (n + 1) for n in range(pages)]
        spots = [lists + start]
        rest = list(entries)
        while rest:
            at = spots[-1]
            room = (4096 - at % 4096) // 8
            here, rest = rest[:room], rest[room:]
            if rest:
                rest = [here.pop(), *rest]
                spots.append(lists + 4096 * len(spots))
                here.append(spots[-1])
            memory.view(at, 8 * len(here))[:] = struct.pack(f"<{len(here)}Q", *here)
        second = entries[0] if -(-(offset + length) // 4096) <= 2 else lists + start
        dwords = (0, 0, 8 * pages - 1)
        assert send(queue, READ, 1, *dwords, prp1=data + offset, prp2=second) == 0
        assert memory.view(data + offset, length) == content_[:length]
    assert send(queue, READ, 1, 0, 0, 7, prp1=0) == 0  # address 0 is memory as any other
    assert memory.view(0, 4096) == content_[:4096]
    for bad in (1, 2, 3):
        assert send(queue, READ, 1, 0, 0, 0, prp1=data + bad) == Status.PRP_OFFSET_INVALID
    assert send(queue, READ, 1, 0, 0, 15, prp1=data, prp2=8) == Status.PRP_OFFSET_INVALID
    assert send(queue, READ, 1, 0, 0, 23, prp1=data, prp2=lists + 4) == Status.PRP_OFFSET_INVALID
    memory.view(lists, 16)[:] = struct.pack("<2Q", data, data + 8)
    assert send(queue, READ, 1, 0, 0, 23, prp1=data, prp2=lists) == Status.PRP_OFFSET_INVALID
    itself = lists + 4096 - 8
    memory.view(itself, 8)[:] = struct.pack("<Q", itself)
    assert send(queue, READ, 1, 0, 0, 63, prp1=data, prp2=itself) == Status.PRP_OFFSET_INVALID


@pytest.mark.parametrize("page", [0x1_0000_0000 - 4096, 1 << 52, (1 << 64) - 4096])
def test_prps_at_the_edges(make_bench: MakeBench, page: int) -> None:
    """4.2: in a hole, at the 2^32, 2^52, 2^64 edge."""
    bench = make_bench({1: filled(MIB, 1)})
    driver = bench.driver()
    for count, prp1, prp2 in ((8, page, 0), (16, driver.buffer, page), (24, driver.buffer, page)):
        end = send(driver.io[0], READ, 1, 0, 0, count - 1, prp1=prp1, prp2=prp2)
        assert end == Status.DATA_TRANSFER_ERROR


def test_buffers_that_straddle_regions(engine: Engine) -> None:
    """4.2: a page, a list and an SGL may lie in two regions that adjoin."""
    half = RAM_SIZE // 2
    regions = [Region(at, memoryview(bytearray(half))) for at in (0, half)]
    bench = Bench(engine, {1: filled(MIB, 1)}, GuestMemory(regions))
    bench.enable()
    driver = bench.driver()
    at = half - 2048
    prp1, prp2 = sgl(at, 4096, 0)
    assert send(driver.io[0], READ, 1, 0, 0, 7, prp1=prp1, prp2=prp2, flags=0x40) == 0
    assert b"".join(bench.memory.views(at, 4096)) == noise(MIB, 1)[:4096]
    assert send(driver.io[0], READ, 1, 0, 0, 15, prp1=half - 4096, prp2=half) == 0
    assert b"".join(bench.memory.views(half - 4096, 8192)) == noise(MIB, 1)[:8192]


# -- 4.1 registers -------------------------------------------------------------------------------


def test_registers_at_every_offset_and_width(make_bench: MakeBench) -> None:
    """4.1: any offset, widths 1 to 8, unaligned, zero, all ones, random."""
    bench = make_bench({1: filled(MIB, 1)})
    chance = random.Random(1)
    size = bench.controller.size
    for _ in range(20_000):
        width = chance.choice((1, 2, 4, 8))
        high = chance.choice((0x60, 0x1100, size))
        offset = min(chance.randrange(high), size - width)
        value = chance.choice((0, (1 << 64) - 1, chance.getrandbits(64)))
        if chance.random() < 0.5:
            bench.mmio.read(BAR + offset, width)
        else:
            bench.mmio.write(BAR + offset, width, value & (1 << 8 * width) - 1)
        if chance.random() < 0.01:
            bench.engine.turn(0)
    bench.nvme.reset()
    bench.enable()
    usable(bench)


@pytest.mark.parametrize(
    "cc",
    [
        CC.of(EN=1, MPS=5),
        CC.of(EN=1, MPS=15),
        CC.of(EN=1, CSS=1),
        CC.of(EN=1, CSS=6),
        CC.of(EN=1, AMS=2),
        CC.of(EN=1, AMS=7),
        CC.of(EN=1, IOSQES=7),
        CC.of(EN=1, IOCQES=3),
    ],
)
def test_what_cannot_be_enabled_is_fatal(make_bench: MakeBench, cc: CC) -> None:
    bench = make_bench({1: filled(MIB, 1)})
    bench.mmio.write(BAR + 0x24, 4, AQA.of(ACQS_z=7, ASQS_z=7))
    bench.mmio.write(BAR + 0x28, 8, 0x10000)
    bench.mmio.write(BAR + 0x30, 8, 0x20000)
    bench.mmio.write(BAR + 0x14, 4, cc)
    found = CSTS(bench.mmio.read(BAR + 0x1C, 4))
    assert (found.RDY, found.CFS) == (False, True)
    bench.mmio.write(BAR + 0x14, 4, 0)
    assert bench.mmio.read(BAR + 0x1C, 4) == 0
    usable(bench)


@pytest.mark.parametrize("register", [0x28, 0x30])
@pytest.mark.parametrize("place", [0x2FFF000 + 0x1000, 1 << 52, (1 << 64) - 4096])
def test_admin_queues_that_are_no_memory(make_bench: MakeBench, register: int, place: int) -> None:
    bench = make_bench({1: filled(MIB, 1)})
    bench.mmio.write(BAR + 0x24, 4, AQA.of(ACQS_z=4095, ASQS_z=4095))
    bench.mmio.write(BAR + 0x28, 8, 0x10000)
    bench.mmio.write(BAR + 0x30, 8, 0x100000)
    bench.mmio.write(BAR + register, 8, place)
    bench.mmio.write(BAR + 0x14, 4, CC.of(EN=1))
    assert CSTS(bench.mmio.read(BAR + 0x1C, 4)).CFS
    usable(bench)


def test_every_page_size(make_bench: MakeBench) -> None:
    """MPS max: pages of 4 to 64 KiB."""
    bench = make_bench({1: filled(MIB, 1)})
    for mps in range(5):
        page = 4096 << mps
        bench.mmio.write(BAR + 0x14, 4, 0)
        bench.mmio.write(BAR + 0x24, 4, AQA.of(ACQS_z=7, ASQS_z=7))
        bench.mmio.write(BAR + 0x28, 8, 0x10000)
        bench.mmio.write(BAR + 0x30, 8, 0x20000)
        bench.mmio.write(BAR + 0x14, 4, CC.of(EN=1, MPS=mps))
        assert CSTS(bench.mmio.read(BAR + 0x1C, 4)).RDY
        bench.memory.view(0x20000, 128)[:] = bytes(128)
        row = struct.pack("<BBHIQQQQIIIIII", 6, 0, 5, 0, 0, 0, 0x100000 + page - 2048,
                          0x200000, 1, 0, 0, 0, 0, 0)  # fmt: skip
        bench.memory.view(0x10000, 64)[:] = row
        bench.mmio.write(BAR + DOORBELLS_AT, 4, 1)
        bench.settle()
        assert struct.unpack("<HH", bench.memory.view(0x2000C, 4)) == (5, 1)
        assert bench.memory.view(0x100000 + page - 2048 + 4, 9) == b"DRIVEBAY "[:9]


def test_without_bus_mastering_nothing_is_touched(make_bench: MakeBench) -> None:
    """4.1: bus master off."""
    bench = make_bench({1: filled(MIB, 1)})
    driver = bench.driver()
    namespace = driver.namespace(1)
    bench.nvme.config_write(4, 2, 2)
    before = bytes(bench.memory.view(0, RAM_SIZE))
    at = namespace.queue.sq + 64 * namespace.queue.tail
    cid = namespace.prepare_read(0, 0, 8)
    put = bytes(bench.memory.view(at, 64))
    namespace.queue.ring()
    bench.settle()
    bench.memory.view(at, 64)[:] = before[at : at + 64]
    assert bench.memory.view(0, RAM_SIZE) == before
    bench.memory.view(at, 64)[:] = put
    bench.nvme.config_write(4, 2, 6)
    namespace.finish([cid])
    assert namespace.taken(0, 4096) == noise(MIB, 1)[:4096]


# -- 4.3 changing memory -------------------------------------------------------------------------


def test_commands_and_lists_are_read_once(engine: Engine) -> None:
    """4.3: nothing is read twice, and what happens is what one look has shown."""
    memory = FlippingMemory.of_size(RAM_SIZE)
    memory.armed = False
    disk = filled(MIB, 1)
    bench = Bench(engine, {1: disk}, memory)
    bench.enable()
    driver = bench.driver()
    queue, data = driver.io[0], driver.buffer
    lists = driver.arena.take(4096, 4096)
    memory.view(lists, 16)[:] = struct.pack("<2Q", data + 4096, data + 8192)
    slot = queue.sq + 64 * queue.tail
    cid = sent(queue, READ, 1, 0, 0, 23, prp1=data, prp2=lists)
    row = bytes(memory.view(slot, 64))
    other = row[:40] + struct.pack("<I", 8) + row[44:]  # from block 8
    entries = bytes(memory.view(lists, 16))
    moved = struct.pack("<2Q", data + 16384, data + 20480)
    watched = [memory.watch(slot, [row, other]), memory.watch(lists, [entries, moved])]
    memory.armed = True
    queue.ring()
    bench.settle()
    memory.armed = False
    assert [watch.views for watch in watched] == [1, 1]
    assert status(queue, cid) == 0
    first = bytes(memory.view(data, 4096))
    assert first in (noise(MIB, 1)[:4096], noise(MIB, 1)[4096:8192])


# -- 4.5 rings -----------------------------------------------------------------------------------


def test_the_same_id_twice(make_bench: MakeBench) -> None:
    from drivebay.testing.puppet import PuppetDisk

    puppet = PuppetDisk(filled(MIB, 1))
    bench = make_bench({1: puppet})
    driver = bench.driver()
    queue = driver.io[0]
    for _ in range(2):
        sent(queue, READ, 1, 0, 0, 0, prp1=driver.buffer, cid=77)
    queue.ring()
    assert status(queue, 77) == Status.COMMAND_ID_CONFLICT
    puppet.complete_all()
    assert status(queue, 77) == 0


def test_a_full_completion_queue_holds_commands_back(make_bench: MakeBench) -> None:
    """SPDK 5cd558f383, 4.5: a CQ smaller than its SQ; nothing is lost, nothing overwritten."""
    bench = make_bench({1: filled(MIB, 1)})
    driver = bench.driver()
    small, at = driver.arena.take(4096, 4096), driver.buffer
    run = driver.run
    run(AdminOpcode.DELETE_IO_SQ, dwords=(1,))
    run(AdminOpcode.DELETE_IO_CQ, dwords=(1,))
    queue = driver.io[0]
    queue.tail = queue.sq_head = 0
    assert send(driver.admin, AdminOpcode.CREATE_IO_CQ, 0, 3 << 16 | 1, 3, prp1=small) == 0
    assert send(driver.admin, AdminOpcode.CREATE_IO_SQ, 0, 63 << 16 | 1, 1 << 16 | 1,
                prp1=queue.sq) == 0  # fmt: skip
    ids = [sent(queue, READ, 1, n, 0, 0, prp1=at) for n in range(40)]
    queue.ring()
    found: list[int] = []
    phase, head = 1, 0
    while len(found) < 40:
        bench.settle()
        entries = [
            struct.unpack("<IIHHHH", bench.memory.view(small + 16 * n, 16)) for n in range(4)
        ]
        ready = [n for n in range(4) if entries[n][5] & 1 == (phase ^ (n < head))]
        assert len(ready) == 3 or len(found) + len(ready) == 40
        for _ in ready:
            found.append(entries[head][4])
            head += 1
            if head == 4:
                head, phase = 0, phase ^ 1
        driver.doorbell(3, head)
    assert found == ids


def test_queues_overrun_and_rewound(make_bench: MakeBench) -> None:
    """4.5: doorbell backward: old commands again, bounded, and none that is under way."""
    bench = make_bench({1: filled(MIB, 1)})
    driver = bench.driver()
    namespace = driver.namespace(1)
    for _ in range(100):
        namespace.read(0, 1)
    driver.doorbell(2, (namespace.queue.tail - 5) % 64)
    bench.settle(20)
    bench.nvme.reset()
    bench.enable()
    usable(bench)


def test_any_bytes_as_commands(make_bench: MakeBench) -> None:
    chance = random.Random(2)
    bench = make_bench({1: filled(MIB, 1), 2: RamDisk(MIB, sector_size=4096)})
    driver = bench.driver()
    for _ in range(60):
        for queue in (driver.admin, driver.io[0]):
            for _ in range(16):
                data = bytearray(chance.randbytes(64))
                if chance.random() < 0.8:
                    known = bench.controller.nvm if queue.number else bench.controller.admin
                    data[0] = chance.choice(list(known.handlers))
                    data[1] = chance.choice((0, 0, 0, 0x40, 1, 2))
                    data[4:8] = struct.pack("<I", chance.choice((0, 1, 1, 2, 0xFFFFFFFF)))
                put_bytes(driver, queue, bytes(data))
            queue.ring()
            bench.settle()
            queue.reap()
        queue.done.clear()
        if driver.status.CFS or not bench.controller.sqs[1]:
            bench.nvme.reset()
            bench.enable()
            driver = bench.driver()
    bench.settle(200)
    bench.nvme.reset()
    bench.enable()
    namespace = bench.driver().namespace(1)
    namespace.write(0, noise(namespace.block, 1))
    assert namespace.read(0, 1) == noise(namespace.block, 1)


def test_logs_are_rationed(make_bench: MakeBench, caplog: pytest.LogCaptureFixture) -> None:
    """4.11: a guest must not fill the disk with messages."""
    bench = make_bench({1: filled(MIB, 1)})
    queue = bench.driver().io[0]
    for _ in range(500):
        send(queue, READ, 9)
    assert len(caplog.records) < 60
    assert bench.driver().log_page(LogId.ERRORS, 64)


def test_a_status_names_itself(make_bench: MakeBench) -> None:
    driver: NvmeDriver = make_bench({1: filled(MIB, 1)}).driver()
    with pytest.raises(NvmeError, match="READ: LBA_OUT_OF_RANGE"):
        driver.namespace(1).read(2048, 1)
