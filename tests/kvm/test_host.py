"""KVM by itself, with firmware of a few bytes: exits, interrupts, resets, and how runs end."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from drivebay.hosts.cpu import CpuError, End
from drivebay.hosts.kvm.abi import CpuidEntry
from drivebay.hosts.kvm.exits import ELSEWHERE
from drivebay.hosts.kvm.host import KvmHost
from drivebay.hosts.kvm.paravirtual import MsrFault, Paravirtual
from drivebay.machines.pc import Pc
from drivebay.platform.engine import Engine
from drivebay.platform.memory import Region
from drivebay.platform.ports import Hold, PortRegion
from tests.emulator.test_x86 import EXIT, PIT, Broken, begin, ticks, vector
from tests.emulator.x86 import Code

pytestmark = pytest.mark.usefixtures("kvm")

STARTS = int(os.environ.get("DRIVEBAY_STARTS", "30"))
DEVICE = 0xF0
READ, WRITE = "E4F0", "E6F0"  # in al, 0F0h; out 0F0h, al
Boot = Callable[..., tuple[Pc, KvmHost]]


def firmware(code: Code) -> bytes:
    return code.assemble().ljust(0xFF0, b"\0") + bytes.fromhex("EA00F000F0").ljust(16, b"\0")


@pytest.fixture
def boot(engine: Engine) -> Iterator[Boot]:
    hosts = []

    def boot(code: Code, cpus: int = 1) -> tuple[Pc, KvmHost]:
        pc = Pc(engine, 1 << 20, firmware=firmware(code), wall_clock=True)
        hosts.append(KvmHost(pc, cpus))
        return pc, hosts[-1]

    yield boot
    for host in hosts:
        host.close()


# -- how runs end ---------------------------------------------------------------------------------


def test_an_exit_status(boot: Boot) -> None:
    pc, host = boot(begin()(f"B02A {EXIT} F4"))
    assert host.run(10) is End.EXITED
    assert pc.exit_status == 42
    assert [(each.kind, each.place, each.exits) for each in host.exits.table()] == [
        ("out", 0xF4, 1)
    ]
    assert host.exits.table()[0].microseconds > 0
    host.exits.clear()
    assert host.exits.total == 0


def test_a_halt_that_nothing_ends(boot: Boot) -> None:
    _, host = boot(begin()("FA F4"))
    assert host.run(10) is End.HALTED
    assert host.run(10) is End.HALTED


def test_it_goes_on_where_it_was(boot: Boot) -> None:
    """`inc dword [600h]` for ever, stopped twice; then what we write has it end."""
    pc, host = boot(
        begin()("66C7060006 00000000").label("loop")(
            f"66FF060006 803E1006 01 75 <loop> B007 {EXIT}"
        )
    )
    counter = pc.memory.view(0x600, 4)
    seen = [0]
    for _ in range(2):
        assert host.run(10, lambda: int.from_bytes(counter, "little") > seen[-1]) is End.STOPPED
        seen.append(int.from_bytes(counter, "little"))
    assert host.run(0.001) is End.TIMEOUT
    pc.memory.view(0x610, 1)[0] = 1
    assert host.run(10) is End.EXITED
    assert pc.exit_status == 7


def test_what_a_device_raises_is_raised(boot: Boot) -> None:
    pc, host = boot(begin()(f"{READ} FA F4"))
    pc.ports.map(DEVICE, Broken())
    with pytest.raises(ZeroDivisionError):
        host.run(10)


def test_a_jump_into_nowhere(boot: Boot) -> None:
    """Past the end of RAM there is no code: one line says where, and what was in the CPU."""
    _, host = boot(begin()("B83412 EA1000FFFF"))  # mov ax, 1234h; jmp FFFF:0010
    with pytest.raises(
        CpuError, match=r"CPU 0 at ffff:00000010: .*\[no code there\] rax=1234 "
    ) as e:
        host.run(10)
    assert "\n" not in str(e.value)
    assert "cr0=" in str(e.value)


def test_a_triple_fault(boot: Boot) -> None:
    """Protected mode without a single gate."""
    code = begin()("66 2E 0F011E {none} 0F20C0 0C01 0F22C0 30DB F6F3")
    code.data("none", bytes(6))
    _, host = boot(code)
    with pytest.raises(CpuError, match=r"CPU 0 at .*: a triple fault"):
        host.run(10)


def test_every_port(boot: Boot) -> None:
    """From the last on, four by four; the first 700h but those that end the run one by one."""
    code = begin()("6631C0 BAFCFF").label("high")("66EF 66ED 6631C0 83EA04 81FAFC06 75 <high>")
    code.label("low")("EC ED 66ED 31C0 EE EF 66EF 6631C0 4A 81FAF400 75 <low>")
    pc, host = boot(code(f"B003 {EXIT}"))
    assert host.run(120) is End.EXITED
    assert pc.exit_status == 3
    assert host.exits.total > 40_000
    assert ELSEWHERE in {each.place for each in host.exits.table()}
    assert len(host.exits.table()) < 5000


def test_memory_that_is_not_there(boot: Boot) -> None:
    """The 64 KiB above 1 MiB, less 16 bytes, in three widths, and over the end of RAM."""
    code = begin()("B8FFFF 8EC0 BF1000 66 26 A1 0E00 66 26 A3 0E00")
    code.label("loop")(
        "26 8A05 26 8805 26 8B05 26 8905 66 26 8B05 66 26 8905 83C740 81FFC0FF 72 <loop>"
    )
    code(f"26 8A05 {EXIT}")
    pc, host = boot(code)
    assert host.run(120) is End.EXITED
    assert pc.exit_status == 0xFF


# -- devices --------------------------------------------------------------------------------------


class Recorder(PortRegion):
    """Keeps what is asked of it."""

    size = 4

    def __init__(self) -> None:
        self.log: list[tuple[object, ...]] = []

    def port_read(self, offset: int, width: int) -> int:
        self.log.append(("in", offset, width))
        return 0x04030201 & (1 << 8 * width) - 1

    def port_write(self, offset: int, width: int, value: int) -> Hold | None:
        self.log.append(("out", offset, width, value))
        return None

    def port_read_string(self, offset: int, width: int, buffer: memoryview) -> None:
        self.log.append(("ins", offset, width, len(buffer)))
        buffer[:] = bytes(range(256)) * (len(buffer) // 256)


def test_widths_of_ports(boot: Boot) -> None:
    pc, host = boot(begin()(f"E4F0 E5F0 66E5F0 E6F1 E7F0 66E7F0 {EXIT}"))
    recorder = Recorder()
    pc.ports.map(DEVICE, recorder)
    assert host.run(10) is End.EXITED
    assert recorder.log == [
        ("in", 0, 1),
        ("in", 0, 2),
        ("in", 0, 4),
        ("out", 1, 1, 1),
        ("out", 0, 2, 0x0201),
        ("out", 0, 4, 0x04030201),
    ]


def test_a_string_is_one_exit(boot: Boot) -> None:
    """REP INSW of a sector."""
    pc, host = boot(begin()(f"BAF000 B90001 BF0008 F36D B001 {EXIT}"))
    recorder = Recorder()
    pc.ports.map(DEVICE, recorder)
    assert host.run(10) is End.EXITED
    assert recorder.log == [("ins", 0, 2, 512)]
    assert bytes(pc.memory.view(0x800, 512)) == bytes(range(256)) * 2
    assert {(each.kind, each.place): each.exits for each in host.exits.table()} == {
        ("in", DEVICE): 1,
        ("out", 0xF4): 1,
    }


class Registers:
    size = 0x100

    def __init__(self) -> None:
        self.log: list[tuple[object, ...]] = []

    def mmio_read(self, offset: int, width: int) -> int:
        self.log.append(("read", offset, width))
        return 0x8877665544332211 >> 8 * (offset & 7) & (1 << 8 * width) - 1

    def mmio_write(self, offset: int, width: int, value: int) -> None:
        self.log.append(("write", offset, width, value))


def test_registers_in_memory(boot: Boot) -> None:
    """FFFF:0010 is 1 MiB, where this machine has no RAM."""
    pc, host = boot(begin()(f"B8FFFF 8EC0 66 26 A1 1000 66 26 A3 1400 26 A0 1300 {EXIT}"))
    registers = Registers()
    pc.mmio.map(0x100000, registers)
    assert host.run(10) is End.EXITED
    assert registers.log == [("read", 0, 4), ("write", 4, 4, 0x44332211), ("read", 3, 1)]
    assert pc.exit_status == 0x44


class Slow(PortRegion):
    """Holds the CPU for as long as a timer takes."""

    size = 1

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.done = False

    def port_read(self, offset: int, width: int) -> int:
        return self.done

    def port_write(self, offset: int, width: int, value: int) -> Hold | None:
        hold = Hold()

        def end() -> None:
            self.done = True
            hold.complete()

        self._engine.after(0.005, end)
        return hold


def test_a_device_holds_the_cpu(boot: Boot, engine: Engine) -> None:
    pc, host = boot(begin()(f"{WRITE} {READ} {EXIT}"))
    pc.ports.map(DEVICE, Slow(engine))
    assert host.run(10) is End.EXITED
    assert pc.exit_status == 1


def test_a_run_ends_while_a_device_holds_the_cpu(boot: Boot) -> None:
    class Stuck(Recorder):
        def port_write(self, offset: int, width: int, value: int) -> Hold | None:
            self.hold = Hold()
            return self.hold

    pc, host = boot(begin()(f"{WRITE} B001 {EXIT}"))
    stuck = Stuck()
    pc.ports.map(DEVICE, stuck)
    assert host.run(10, lambda: hasattr(stuck, "hold")) is End.STOPPED
    assert host.run(0.01) is End.TIMEOUT
    stuck.hold.complete()
    assert host.run(10) is End.EXITED


# -- interrupts and resets ------------------------------------------------------------------------


@pytest.mark.parametrize("wait", ["F4", "90", "E480"], ids=["halted", "busy", "reading a port"])
def test_the_timer_interrupts(boot: Boot, wait: str) -> None:
    pc, host = boot(ticks(wait))
    assert host.run(20) is End.EXITED
    assert pc.exit_status == 5


def test_a_line_of_the_board_interrupts(boot: Boot, engine: Engine) -> None:
    """IRQ 5 comes from a timer of the engine, while the CPU is halted."""
    pic = "B011 E620 B008 E621 B004 E621 B001 E621 B0DF E621"
    code = vector(begin(), 13, "handler")(f"{pic} {WRITE} FB").label("wait")("F4 EB <wait>")
    code.label("handler")(f"B009 {EXIT}")
    pc, host = boot(code)

    class Alarm(Recorder):
        def port_write(self, offset: int, width: int, value: int) -> Hold | None:
            engine.after(0.005, lambda: pc.line(5).set(True))
            return None

    pc.ports.map(DEVICE, Alarm())
    assert host.run(10) is End.EXITED
    assert pc.exit_status == 9


def test_an_interrupt_that_is_let_in_for_two_instructions(boot: Boot, engine: Engine) -> None:
    """IRQ 5, as firmware waits for it: interrupts are off but for STI; NOP; NOP; CLI, and the timer
    comes first. Where code is interpreted, that is hardly ever looked at.
    """
    code = vector(vector(begin(), 8, "tick"), 13, "handler")
    code("B011 E620 B008 E621 B004 E621 B001 E621 B0DE E621")(PIT)(WRITE)
    code.label("wait")(f"FB 9090 FA {'90' * 120} EB <wait>")
    code.label("tick")("50 B020 E620 58 CF")
    code.label("handler")(f"B009 {EXIT}")
    pc, host = boot(code)

    class Alarm(Recorder):
        def port_write(self, offset: int, width: int, value: int) -> Hold | None:
            engine.after(0.1, lambda: pc.line(5).set(True))
            return None

    pc.ports.map(DEVICE, Alarm())
    assert host.run(20) is End.EXITED
    assert pc.exit_status == 9


@pytest.mark.parametrize(
    "reset", ["BAF90C B006 EE", "B0FE E664", "B001 E692", "B0D1 E664 B000 E660"]
)
def test_the_ways_to_reset(boot: Boot, reset: str) -> None:
    """RAM stays: the second time round it exits."""
    code = begin()
    code("FE06 0006 A00006 3C02 74 <again>")(reset).label("wait")("EB <wait>")
    code.label("again")(EXIT)
    pc, host = boot(code)
    assert host.run(10) is End.EXITED
    assert pc.exit_status == 2


UNREAL = "2E 0F0116 {gdt} 0F20C0 0C01 0F22C0 BB0800 8EE3 24FE 0F22C0"
"""FS with a limit of 4 GiB, by a visit to protected mode."""


def flat(code: Code) -> Code:
    code.align(8).data("table", bytes(8) + bytes.fromhex("FFFF00000092CF00"))
    return code.data("gdt", b"\x0f\0")("{table} 0F00")


def test_a_second_cpu(boot: Boot) -> None:
    """INIT and SIPI by the local APIC. It starts at 09000h, and says so from there."""
    code = begin()(UNREAL)
    code("C6060090 EA C7060190 {second} C7060390 00F0")  # at 9000h: jmp F000:second
    code("66 64 67 C70500 03E0FE 00450C00".replace("0500 03E0FE", "05 0003E0FE"))  # INIT, to others
    code("66 64 67 C705 0003E0FE 09460C00")  # SIPI, vector 9
    code.label("wait")(f"803E0006 02 75 <wait> A00006 {EXIT}")
    code.label("second")("31C0 8ED8 C606000602 FA F4")
    pc, host = boot(flat(code), cpus=2)
    assert host.run(20) is End.EXITED
    assert pc.exit_status == 2
    assert len(host.vcpus) == 2


def test_a_message_signalled_interrupt(boot: Boot) -> None:
    code = vector(begin(), 0x40, "handler")(UNREAL)
    code("66 64 67 C705 F000E0FE FF010000")  # the local APIC is on
    code(f"{WRITE} FB").label("wait")("F4 EB <wait>")
    code.label("handler")(f"B00B {EXIT}")
    pc, host = boot(flat(code))

    class Sender(Recorder):
        def port_write(self, offset: int, width: int, value: int) -> Hold | None:
            host.signal_msi(0xFEE00000, 0x40)
            return None

    pc.ports.map(DEVICE, Sender())
    assert host.run(10) is End.EXITED
    assert pc.exit_status == 11


# -- what guests find in their CPU ----------------------------------------------------------------


class Fake:
    """A hypervisor with one leaf, one MSR and one hypercall."""

    def __init__(self) -> None:
        self.value = 0
        self.calls: list[tuple[int, ...]] = []

    def cpuid(self) -> list[CpuidEntry]:
        return [CpuidEntry(0x40000000, eax=0x40000000, ebx=0x12345678)]

    def read_msr(self, vp: int, index: int) -> int:
        if index != 0x40000002:
            raise MsrFault
        return self.value

    def write_msr(self, vp: int, index: int, value: int) -> None:
        if index != 0x40000002:
            raise MsrFault
        self.value = value

    def hypercall(self, vp: int, rcx: int, rdx: int, r8: int) -> int:
        self.calls.append((vp, rcx, rdx, r8))
        return 0x5A

    def reset(self) -> None:
        self.value = 0


def test_a_hypervisor_of_ours(boot: Boot) -> None:
    """CPUID, an MSR that is written and read, and a hypercall."""
    code = begin()("66B8 00000040 0FA2 66891E 0006")  # cpuid; mov [600h], ebx
    code("66B9 02000040 66B8 44332211 66BA 88776655 0F30")  # wrmsr
    code("6631C0 6631D2 0F32 66A3 0406 668916 0806")  # rdmsr; mov [604h], eax; mov [608h], edx
    code(f"66B9 0D000100 66BA EF000000 66E5E4 66A3 0C06 {EXIT}")  # in eax, 0E4h
    pc, host = boot(code)
    fake = host.paravirtual = Fake()
    assert host.run(10) is End.EXITED
    words = pc.memory.view(0x600, 16).cast("I").tolist()
    assert words == [0x12345678, 0x11223344, 0x55667788, 0x5A]
    assert fake.value == 0x5566778811223344
    assert fake.calls == [(0, 0x1000D, 0xEF, 0)]
    assert {each.kind for each in host.exits.table()} == {"wrmsr", "rdmsr", "hypercall", "out"}


@pytest.mark.parametrize("instruction", ["0F32", "0F30"], ids=["read", "write"])
def test_an_msr_that_is_not_there(boot: Boot, instruction: str) -> None:
    """#GP, be there a hypervisor of ours or not."""
    code = vector(begin(), 13, "handler")(f"66B9 05000040 {instruction} B001 {EXIT}")
    code.label("handler")(f"B00D {EXIT}")
    hypervisors: tuple[Paravirtual | None, ...] = (None, Fake())
    for paravirtual in hypervisors:
        pc, host = boot(code)
        host.paravirtual = paravirtual
        assert host.run(10) is End.EXITED
        assert pc.exit_status == 13


# -- nothing is left ------------------------------------------------------------------------------


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_starts_and_stops_leave_nothing_behind(engine: Engine) -> None:
    """Two CPUs each, and a reset: no descriptor, no thread, no memory."""
    code = begin()("FE06 0006 A00006 3C02 74 <again> B0FE E664").label("wait")("EB <wait>")
    code.label("again")(EXIT)
    image = firmware(code)

    def once() -> None:
        pc = Pc(engine, 1 << 20, firmware=image, wall_clock=True)
        host = KvmHost(pc, 2)
        assert host.run(10) is End.EXITED
        host.close()

    once()
    gc.collect()
    descriptors, threads, memory = (
        len(os.listdir("/proc/self/fd")),
        threading.active_count(),
        resident(),
    )
    for _ in range(STARTS):
        once()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert threading.active_count() == threads
    assert resident() - memory < 16 << 20


def test_machines_that_cannot_be(engine: Engine) -> None:
    """What was made of them is let go."""
    pc = Pc(engine, 1 << 20, firmware=bytes(4096))
    with pytest.raises(CpuError, match=r"1000000 CPUs, and this KVM has up to \d+"):
        KvmHost(pc, 1_000_000)
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    host = KvmHost(pc)
    pc.memory.replace([Region(0, memoryview(bytearray(5000)))])
    for _ in range(2):
        with pytest.raises(CpuError, match=r"the memory at 0x0\+0x1388 cannot be mapped"):
            host.run(1)
    host.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_without_kvm(engine: Engine, tmp_path: Path) -> None:
    pc = Pc(engine, 1 << 20, firmware=bytes(4096))
    with pytest.raises(CpuError, match="No such file"):
        KvmHost(pc, path=str(tmp_path / "kvm"))
    with pytest.raises(CpuError, match="/dev/null is not KVM"):
        KvmHost(pc, path="/dev/null")
