"""The x86 CPU by itself, with firmware of a few bytes: interrupts, resets, stops."""

from __future__ import annotations

import itertools

import pytest

from drivebay.hosts.emulator import unicorn_cpu
from drivebay.hosts.emulator.unicorn_cpu import CpuError, End, RiscvCpu, X86Cpu
from drivebay.machines.pc import Pc
from drivebay.platform.board import Board
from drivebay.platform.engine import Engine
from drivebay.platform.memory import GuestMemory, Region
from drivebay.platform.ports import PortRegion
from tests.emulator.x86 import Code

ROM = 0xF000  # the offset of 4 KiB of firmware in segment F000
EXIT = "E6F4"  # out 0F4h, al

# Interrupt controllers: vectors 8 and 70h, only IRQ 0 unmasked. Timer: 100 Hz.
PIC = "B011 E620 E6A0 B008 E621 B070 E6A1 B004 E621 B002 E6A1 B001 E621 E6A1 B0FE E621 B0FF E6A1"
PIT = "B034 E643 B09C E640 B02E E640"


def begin() -> Code:
    """ES = DS = SS = 0, CS = F000."""
    return Code(ROM)("31C0 8ED8 8EC0 8ED0 BC0070 FC")


def machine(engine: Engine, code: Code) -> tuple[Pc, X86Cpu]:
    image = code.assemble().ljust(0xFF0, b"\0") + bytes.fromhex("EA00F000F0").ljust(16, b"\0")
    pc = Pc(engine, 1 << 20, firmware=image)
    return pc, X86Cpu(pc)


def vector(code: Code, number: int, label: str) -> Code:
    """Interrupt `number` goes to `label`."""
    entry = (4 * number).to_bytes(2, "little").hex()
    segment = (4 * number + 2).to_bytes(2, "little").hex()
    return code(f"C706 {entry} {{{label}}} C706 {segment} 00F0")


def ticks(wait: str) -> Code:
    """Exit with the number of timer interrupts when there have been five; `wait` comes between."""
    code = begin()
    vector(code, 8, "tick")(PIC)(PIT)("C606 0006 00 FB")  # mov byte [600h], 0; sti
    code.label("loop")(f"{wait} 803E 0006 05 72 <loop> A00006 {EXIT}")
    code.label("end")("EB <end>")
    return code.label("tick")("50 FE06 0006 B020 E620 58 CF")


@pytest.mark.parametrize("wait", ["F4", "90", "E480"], ids=["halted", "busy", "reading a port"])
def test_the_timer_interrupts(engine: Engine, wait: str) -> None:
    pc, cpu = machine(engine, ticks(wait))
    assert cpu.run(20) is End.EXITED
    assert pc.exit_status == 5
    assert 0.04e9 < pc.clock.now < 0.2e9


def test_runs_are_the_same_each_time(engine: Engine) -> None:
    times = set()
    for _ in range(2):
        pc, cpu = machine(engine, ticks("90"))
        cpu.run(20)
        times.add(pc.clock.now)
    assert len(times) == 1


def test_int_and_iret(engine: Engine) -> None:
    """The handler runs with interrupts off and returns behind the INT, flags as they were."""
    code = begin()
    vector(code, 0x21, "handler")("FB F9 CD21")  # sti; stc; int 21h
    code("9C 58 25 0102 3D 0102 75 <bad>")  # IF and CF are set: pushf; pop ax; and; cmp
    code(f"88D8 {EXIT}").label("bad")(f"B0FF {EXIT}")
    code.label("handler")("9C 58 25 0002 74 <off> B301 CF").label("off")("B32A CF")  # BL: IF
    pc, cpu = machine(engine, code)
    assert cpu.run(10) is End.EXITED
    assert pc.exit_status == 0x2A


def test_an_exception_comes_to_its_handler(engine: Engine) -> None:
    code = begin()
    vector(code, 0, "handler")("30DB F6F3")  # xor bl, bl; div bl
    code.label("handler")(f"B003 {EXIT}")
    pc, cpu = machine(engine, code)
    assert cpu.run(10) is End.EXITED
    assert pc.exit_status == 3


@pytest.mark.parametrize(
    "reset", ["BAF90C B006 EE", "B0FE E664", "B001 E692", "B0D1 E664 B000 E660"]
)
def test_the_ways_to_reset(engine: Engine, reset: str) -> None:
    """RAM stays: the second time round it exits."""
    code = begin()
    code("FE06 0006 A00006 3C02 74 <again>")(reset).label("wait")("EB <wait>")
    code.label("again")(EXIT)
    pc, cpu = machine(engine, code)
    assert cpu.run(10) is End.EXITED
    assert pc.exit_status == 2


def test_power_off(engine: Engine) -> None:
    """Soft off by the power management function, where firmware has put its ports."""
    code = begin()
    for register, value in (("400B0080", "01060000"), ("800B0080", "01000000")):
        code(f"BAF80C 66B8 {register} 66EF BAFC0C 66B8 {value} 66EF")
    code("BA0406 B80020 EF").label("end")("F4 EB <end>")
    pc, cpu = machine(engine, code)
    assert cpu.run(10) is End.EXITED
    assert pc.exit_status == 0


def test_interrupts_in_protected_mode(engine: Engine) -> None:
    """INT 30h and the timer, by gates of a flat segment."""
    code = begin()(PIC)(PIT)
    code("66 2E 0F0116 {gdt} 66 2E 0F011E {idt} 0F20C0 0C01 0F22C0")  # lgdt, lidt, PE
    code("66 EA").label("far")("{flat} 0F00 0800")
    code.label("flat")("66B81000 8ED8 8EC0 8ED0 BC00700000 FB CD30")
    code.label("halt")("F4 EB <halt>")
    code.label("int30")("B701 CF")  # mov bh, 1; iret
    code.label("tick")(f"88F8 {EXIT} CF")  # mov al, bh
    code.align(8).data("gdt-table", bytes(8))
    code.data("code", bytes.fromhex("FFFF0000009ACF00")).data(
        "data", bytes.fromhex("FFFF00000092CF00")
    )
    code.label("idt-table")
    labels = {8: "tick", 0x30: "int30"}
    for number in range(0x31):
        if number in labels:
            code(f"{{{labels[number]}}} 0800 008E 0F00")
        else:
            code.data(f"gate {number}", bytes(8))
    code.data("gdt", b"\x17\0")("{gdt-table} 0F00")
    code.data("idt", b"\x87\x01")("{idt-table} 0F00")
    pc, cpu = machine(engine, code)
    assert cpu.run(10) is End.EXITED
    assert pc.exit_status == 1


def test_a_gate_that_is_not_there(engine: Engine) -> None:
    code = begin()("66 2E 0F011E {none} 0F20C0 0C01 0F22C0 CD30")
    code.data("none", bytes(6))
    _, cpu = machine(engine, code)
    with pytest.raises(CpuError, match=r"interrupt 0x30 at f000:0000f0.. in protected mode"):
        cpu.run(10)


def test_a_stack_that_is_not_there(engine: Engine) -> None:
    _, cpu = machine(engine, begin()("B8FFFF 8ED0 BCF0FF CD30"))  # SS = FFFFh
    with pytest.raises(CpuError, match=r"interrupt 0x30 at .* in real mode: no RAM at 0x10ffda"):
        cpu.run(10)


def test_memory_that_cannot_be_mapped(engine: Engine) -> None:
    for view in (memoryview(bytearray(100)), memoryview(bytes(4096))):
        with pytest.raises(CpuError, match="cannot be mapped"):
            RiscvCpu(Board(engine, GuestMemory([Region(0, view)])), 0)


def test_stops_are_between_instructions(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """`inc [600h]` is not executed twice, wherever a slice ends."""
    monkeypatch.setattr(unicorn_cpu, "SLICE", 7)
    code = begin()("66C7060006 00000000 B91027")  # mov dword [600h], 0; mov cx, 10000
    code.label("loop")("66FF060006 E2 <loop> FA F4")
    pc, cpu = machine(engine, code)
    until = itertools.cycle((False, True)).__next__
    while (end := cpu.run(10, until)) is End.STOPPED:
        pass
    assert end is End.HALTED
    assert int.from_bytes(pc.memory.view(0x600, 4), "little") == 10000


def test_a_halt_that_nothing_ends(engine: Engine) -> None:
    _, cpu = machine(engine, begin()("FA F4"))
    assert cpu.run(10) is End.HALTED
    _, cpu = machine(engine, begin()(PIC)("FB F4"))  # nobody has set the timer
    assert cpu.run(10) is End.HALTED


class Broken(PortRegion):
    size = 1

    def port_read(self, offset: int, width: int) -> int:
        raise ZeroDivisionError


def test_what_a_device_raises_is_raised(engine: Engine) -> None:
    pc, cpu = machine(engine, begin()("E4F0 FA F4"))
    pc.ports.map(0xF0, Broken())
    with pytest.raises(ZeroDivisionError):
        cpu.run(10)
