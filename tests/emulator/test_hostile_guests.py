"""Guests that run wild on a PC with every controller: each run ends, and says how."""

from __future__ import annotations

import re

import pytest

from drivebay.ata.disk import AtaDisk
from drivebay.controllers.ahci import Ahci
from drivebay.controllers.floppy import FloppyDrive
from drivebay.controllers.ide import PiixIde
from drivebay.controllers.nvme import Nvme
from drivebay.controllers.virtio.block import BlockDevice
from drivebay.controllers.virtio.pci import VirtioPci
from drivebay.disk.backends.ram import RamDisk
from drivebay.drivers.pci import PciConfig
from drivebay.hosts.emulator.unicorn_cpu import CpuError, End, X86Cpu
from drivebay.machines.pc import Pc
from drivebay.platform.engine import Engine
from tests.emulator.x86 import Code

ROM = 0xF000
FLAT = "66 2E 0F0116 {gdt} 66 2E 0F011E {idt} 0F20C0 0C01 0F22C0 66 EA {flat} 0F00 0800"
"""To protected mode with flat segments and no interrupts: lgdt, lidt, PE, a far jump."""
SECONDS = 30


def machine(engine: Engine, code: Code) -> tuple[Pc, X86Cpu]:
    pc = pc_with_everything(engine, code)
    return pc, X86Cpu(pc)


def pc_with_everything(engine: Engine, code: Code, *, wall_clock: bool = False) -> Pc:
    """A PC with a disk on everything, every BAR where firmware might put it; `code` is firmware."""
    image = code.assemble().ljust(0xFF0, b"\0") + bytes.fromhex("EA00F000F0").ljust(16, b"\0")
    pc = Pc(engine, 4 << 20, firmware=image, wall_clock=wall_clock)
    ide, ahci, nvme = (
        PiixIde(pc.memory, (pc.line(14), pc.line(15))),
        Ahci(pc.memory, engine),
        Nvme(pc.memory, engine, queues=2),
    )
    ide.attach(0, 0, AtaDisk(RamDisk(1 << 20), engine))
    ahci.attach(0, AtaDisk(RamDisk(1 << 20), engine))
    nvme.add(1, RamDisk(1 << 20))
    virtio = VirtioPci(BlockDevice(RamDisk(1 << 20), engine), pc.memory, notify_port=True)
    pc.attach_floppy(0, FloppyDrive(RamDisk(1440 * 1024)))
    pc.bus.plug(1, 1, ide)
    for function in (ahci, nvme, virtio):
        pc.plug(function)
    place_bars(pc)
    return pc


def place_bars(pc: Pc) -> None:
    config = PciConfig(pc.ports)
    for number, at in enumerate(config.functions()):
        config.place(at, 0xC000 + 0x100 * number, 0xFE000000 + 0x100000 * number)


def begin() -> Code:
    return Code(ROM)("31C0 8ED8 8EC0 8ED0 BC0070 FC")


def tables(code: Code) -> Code:
    """What `FLAT` names."""
    code.align(8).data("gdt-table", bytes(8))
    code.data("code", bytes.fromhex("FFFF0000009ACF00"))
    code.data("data", bytes.fromhex("FFFF00000092CF00"))
    code.data("gdt", b"\x17\0")("{gdt-table} 0F00")
    return code.data("idt", bytes(6))


def protected(body: str) -> Code:
    """32-bit code with flat segments, which halts behind `body`."""
    code = begin()(FLAT).label("flat")("66B81000 8ED8 8EC0 8ED0 BC00700000")
    return tables(code(body).label("end")("F4 EB <end>"))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("0F0B", r"the CPU stopped at .* in protected mode: Invalid instruction"),
        ("BC00000080 CD80", r"interrupt 0x80 at .* the guest has no such gate"),
        ("31C0 F7F0", r"interrupt 0x0 at .* the guest has no such gate"),  # div eax
        ("B8000000D0 FFE0", r"interrupt 0x6 at .*d000000|the CPU stopped at .*d000000"),
        ("B8000000FE FFE0", r"protected mode"),  # the registers of a controller as code
        ("66B8FFFF 8ED8", r"protected mode"),  # a segment that there is not
    ],
    ids=["triple fault", "no gate", "division", "nowhere", "registers", "segment"],
)
def test_a_fault_that_nobody_handles(engine: Engine, body: str, said: str) -> None:
    """Three faults in a row: a PC would reset itself, and nobody would know why."""
    _, cpu = machine(engine, protected(body))
    with pytest.raises(CpuError) as caught:
        end = cpu.run(SECONDS)
        raise AssertionError(end)
    assert re.search(said, str(caught.value)), caught.value


def test_a_jump_into_zeroes(engine: Engine) -> None:
    """They are instructions, and in real mode there are ever more of them."""
    _, cpu = machine(engine, begin()("EA 0000 0020"))  # 2000:0000
    assert cpu.run(1) is End.TIMEOUT


def test_a_guest_that_resets_itself_for_ever(engine: Engine) -> None:
    pc, cpu = machine(engine, begin()("B006 BAF90C EE").label("wait")("EB <wait>"))
    resets: list[None] = []
    pc.on_reset(lambda: resets.append(None))
    assert cpu.run(SECONDS, lambda: len(resets) > 100) is End.STOPPED


WIDTHS = {1: "EE", 2: "EF", 4: "66EF"}
"""OUT to DX."""


@pytest.mark.parametrize(
    ("width", "value"), [(1, 0), (1, 0xFFFFFFFF), (2, 0xFFFFFFFF), (4, 0xFFFFFFFF)]
)
def test_a_guest_that_writes_to_every_port(engine: Engine, width: int, value: int) -> None:
    """And reads it back, from the last to the first: it gets as far as the port that ends it, or
    one that resets the machine. What the devices are told to do meanwhile is their guest's affair.
    """
    read = {1: "EC", 2: "ED", 4: "66ED"}[width]
    code = begin()("31D2").label("next")(f"4A 66B8 {value.to_bytes(4, 'little').hex()}")
    code(f"{WIDTHS[width]} {read} 85D2 75 <next>")  # dec dx; out; in; test dx, dx; jnz
    code.label("end")("FA F4 EB <end>")
    pc, cpu = machine(engine, code)
    resets: list[None] = []
    pc.on_reset(lambda: resets.append(None))
    end = cpu.run(SECONDS, lambda: bool(resets))
    assert end in (End.EXITED, End.STOPPED, End.HALTED)
    if end is End.EXITED:
        assert pc.exit_status == value & 0xFF


def every_page(body: str, step: int) -> Code:
    """`body` with EDI in steps through all addresses from the end of RAM."""
    at = (4 << 20).to_bytes(4, "little").hex()
    loop = Code()(f"BF {at}").label("next")(body)
    loop(f"81C7 {step.to_bytes(4, 'little').hex()} 73 <next>")  # add edi, step; jnc
    return protected(loop.assemble().hex())


@pytest.mark.parametrize("value", [0xFFFFFFFF, 0x00100001])
def test_a_guest_that_writes_where_there_is_nothing(engine: Engine, value: int) -> None:
    """Every eighth page of registers and holes, in three widths."""
    body = f"B8 {value.to_bytes(4, 'little').hex()} 8907 66894704 884708"  # mov [edi], eax; ...
    _, cpu = machine(engine, every_page(body, 0x8000))
    assert cpu.run(SECONDS) is End.HALTED


def test_a_guest_that_reads_where_there_is_nothing(engine: Engine) -> None:
    """There it finds ones, and halts in the end."""
    body = "3B07 8B07 668B4704 8A4708"
    _, cpu = machine(engine, every_page(body, 0x8000))
    assert cpu.run(SECONDS) is End.HALTED


def test_a_guest_that_writes_to_every_register_of_every_controller(engine: Engine) -> None:
    """The BARs, dword by dword, with bus mastering on: whatever that begins is nowhere."""
    body = "FC"
    for number in range(12):
        start = (0xFE000000 + 0x100000 * number).to_bytes(4, "little").hex()
        body += f" BF {start} B900080000 B8FFFFFFFF F3AB"  # mov ecx, 800h; ...; rep stosd
    _, cpu = machine(engine, protected(body))
    assert cpu.run(SECONDS) is End.HALTED
