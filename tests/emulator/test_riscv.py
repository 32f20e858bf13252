"""A driver on a RISC-V CPU that works the disk register by register as xv6's virtio_disk.c does."""

from __future__ import annotations

from drivebay.disk.backends.ram import RamDisk
from drivebay.hosts.emulator.unicorn_cpu import End, RiscvCpu
from drivebay.machines.xv6 import RAM_BASE, VIRTIO0, Xv6
from drivebay.platform.engine import Engine
from drivebay.testing.recording import RecordingDisk
from tests.emulator.riscv import A0, A1, A2, RA, S0, S1, SSTATUS, STVEC, T0, T1, T2, ZERO, Code

NUM = 8  # descriptors
BSIZE = 1024  # a block of xv6's file system, two sectors

# The registers' offsets and the bits are those of virtio 1.2 section 4.2.2, as virtio.h has them.
MAGIC_VALUE, VERSION, DEVICE_ID, VENDOR_ID = 0x000, 0x004, 0x008, 0x00C
DEVICE_FEATURES, DRIVER_FEATURES = 0x010, 0x020
QUEUE_SEL, QUEUE_NUM_MAX, QUEUE_NUM, QUEUE_READY, QUEUE_NOTIFY = 0x030, 0x034, 0x038, 0x044, 0x050
INTERRUPT_STATUS, INTERRUPT_ACK, STATUS = 0x060, 0x064, 0x070
DESC_LOW, DRIVER_LOW, DEVICE_LOW = 0x080, 0x090, 0x0A0
UNWANTED = (5, 7, 11, 12, 27, 28, 29)  # RO, SCSI, WCE, MQ, ANY_LAYOUT, INDIRECT_DESC, EVENT_IDX

# Where things are, from the start of RAM.
DESC, AVAIL, USED, REQUEST, STATUS_BYTE = 0x2000, 0x3000, 0x4000, 0x5000, 0x5010
BUSY, USED_IDX, FINISHED, PANIC = 0x5020, 0x5028, 0x5030, 0x5034
FIRST, SECOND = 0x6000, 0x6400


def initialise(code: Code) -> None:
    """virtio_disk_init; S1 is the device."""
    for register, wanted in (
        (MAGIC_VALUE, 0x74726976),
        (VERSION, 2),
        (DEVICE_ID, 2),
        (VENDOR_ID, 0x554D4551),
    ):
        code.load(4, T0, S1, register)
        code.li(T1, wanted)
        code.bne(T0, T1, "panic")
    code.store(4, ZERO, S1, STATUS)
    for status in (1, 3):  # ACKNOWLEDGE, DRIVER
        code.li(T0, status)
        code.store(4, T0, S1, STATUS)
    code.load(4, T0, S1, DEVICE_FEATURES)
    code.li(T1, ~sum(1 << bit for bit in UNWANTED))
    code.and_(T0, T0, T1)
    code.store(4, T0, S1, DRIVER_FEATURES)
    code.li(T0, 11)  # FEATURES_OK
    code.store(4, T0, S1, STATUS)
    code.load(4, T1, S1, STATUS)  # is it still set?
    code.andi(T1, T1, 8)
    code.beq(T1, ZERO, "panic")
    code.store(4, ZERO, S1, QUEUE_SEL)
    code.load(4, T0, S1, QUEUE_READY)
    code.bne(T0, ZERO, "panic")
    code.load(4, T0, S1, QUEUE_NUM_MAX)
    code.beq(T0, ZERO, "panic")
    code.li(T0, NUM)
    code.store(4, T0, S1, QUEUE_NUM)
    for register, area in ((DESC_LOW, DESC), (DRIVER_LOW, AVAIL), (DEVICE_LOW, USED)):
        code.la(T0, area)
        code.store(4, T0, S1, register)
        code.srli(T0, T0, 32)
        code.store(4, T0, S1, register + 4)
    code.li(T0, 1)
    code.store(4, T0, S1, QUEUE_READY)
    code.li(T0, 15)  # DRIVER_OK
    code.store(4, T0, S1, STATUS)


def read_write(code: Code) -> None:
    """virtio_disk_rw: A0 is 1 to write, A1 the sector, A2 the buffer. Returns when it is done."""
    code.label("rw")
    code.la(T0, REQUEST)
    code.store(4, A0, T0, 0)
    code.store(4, ZERO, T0, 4)
    code.store(8, A1, T0, 8)
    code.la(T1, DESC)

    def descriptor(number: int, length: int, flags: int) -> None:
        """T0 is the address; flags of 0 mean those in T2."""
        code.store(8, T0, T1, 16 * number)
        if flags:
            code.li(T2, flags)
        code.store(2, T2, T1, 16 * number + 12)
        code.li(T2, length)
        code.store(4, T2, T1, 16 * number + 8)
        code.li(T2, (number + 1) % 3)
        code.store(2, T2, T1, 16 * number + 14)

    descriptor(0, 16, 1)  # NEXT
    code.add(T0, A2, ZERO)
    code.li(T2, 1)  # NEXT
    code.bne(A0, ZERO, "device reads")
    code.li(T2, 3)  # NEXT, WRITE
    code.label("device reads")
    descriptor(1, BSIZE, 0)
    code.la(T0, STATUS_BYTE)
    code.li(T2, 0xFF)
    code.store(1, T2, T0)
    descriptor(2, 1, 2)  # WRITE

    code.la(T0, BUSY)
    code.li(T1, 1)
    code.store(4, T1, T0)
    code.la(T0, AVAIL)
    code.load(2, T1, T0, 2)
    code.andi(T2, T1, NUM - 1)
    code.slli(T2, T2, 1)
    code.add(T2, T2, T0)
    code.store(2, ZERO, T2, 4)  # ring[idx % NUM] = 0
    code.fence()
    code.addi(T1, T1, 1)
    code.store(2, T1, T0, 2)
    code.fence()
    code.store(4, ZERO, S1, QUEUE_NOTIFY)
    code.la(T0, BUSY)
    code.label("sleep")
    code.load(4, T1, T0)
    code.beq(T1, ZERO, "awake")
    code.wfi()
    code.jal(ZERO, "sleep")
    code.label("awake")
    code.ret()


def interrupt(code: Code) -> None:
    """virtio_disk_intr, which uses registers that nobody else does."""
    a, b, c, d = 28, 29, 30, 31
    code.label("interrupt")
    code.load(4, a, S1, INTERRUPT_STATUS)
    code.andi(a, a, 3)
    code.store(4, a, S1, INTERRUPT_ACK)
    code.fence()
    code.la(a, USED)
    code.la(b, USED_IDX)
    code.label("more")
    code.load(2, c, b)
    code.load(2, d, a, 2)
    code.beq(c, d, "no more")
    code.fence()
    code.addi(c, c, 1)
    code.store(2, c, b)
    code.la(c, STATUS_BYTE)
    code.load(1, c, c)
    code.bne(c, ZERO, "panic")
    code.la(c, BUSY)
    code.store(4, ZERO, c)
    code.jal(ZERO, "more")
    code.label("no more")
    code.sret()


def program() -> bytes:
    """Write FIRST to block 3, read it back to SECOND."""
    code = Code(RAM_BASE)
    code.label("start")
    code.la(S0, 0)
    code.li(S1, VIRTIO0)
    code.jal(T0, "after the handler")
    interrupt(code)
    code.label("after the handler")
    code.csrw(STVEC, T0)  # the address behind the jump
    code.li(T0, 2)
    code.csrs(SSTATUS, T0)  # SIE
    initialise(code)
    for write, buffer in ((1, FIRST), (0, SECOND)):
        code.li(A0, write)
        code.li(A1, 3 * BSIZE // 512)
        code.la(A2, buffer)
        code.jal(RA, "rw")
    code.la(T0, FINISHED)
    code.label("end")
    code.li(T1, 1)
    code.store(4, T1, T0)
    code.label("halt")
    code.wfi()
    code.jal(ZERO, "halt")
    code.label("panic")
    code.la(T0, PANIC)
    code.jal(ZERO, "end")
    read_write(code)
    return code.assemble()


def test_a_block_is_written_and_read(engine: Engine) -> None:
    disk = RecordingDisk(RamDisk(1 << 20))
    board = Xv6(engine, disk, 16 << 20)
    image = program()
    assert len(image) < DESC
    block = bytes(range(256)) * 4
    board.memory.view(RAM_BASE, len(image))[:] = image
    board.memory.view(RAM_BASE + FIRST, BSIZE)[:] = block
    ended = board.memory.view(RAM_BASE + FINISHED, 8)
    cpu = RiscvCpu(board, RAM_BASE)
    assert cpu.run(lambda: any(ended)) is End.STOPPED
    assert not any(ended[4:]), "the driver panicked"
    assert bytes(board.memory.view(RAM_BASE + SECOND, BSIZE)) == block
    calls = [(call.name, call.sector, call.data) for call in disk.calls]
    assert calls == [("write", 6, block), ("read", 6, block)]


def test_a_run_that_takes_too_long(engine: Engine) -> None:
    board = Xv6(engine, RamDisk(1 << 20), 16 << 20)
    code = Code(RAM_BASE)
    code.label("forever")
    code.jal(ZERO, "forever")
    board.memory.view(RAM_BASE, 4)[:] = code.assemble()
    assert RiscvCpu(board, RAM_BASE).run(lambda: False, timeout=0.2) is End.TIMEOUT
