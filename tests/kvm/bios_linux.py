"""A disk from which a BIOS boots the tiny Linux by INT 13h, as a boot loader does."""

from __future__ import annotations

import struct
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from drivebay.hosts.kvm.abi import Regs, Sregs
from drivebay.hosts.kvm.linux import Linux
from drivebay.machines.pc import Pc
from drivebay.platform.engine import Engine
from tests.emulator.x86 import Code, end

SECTOR: Final = 512
PAGE: Final = 4096
CHUNK: Final = 64
"""Sectors that are read at once, into the buffer."""
BUFFER: Final = 0x10000
STAGING: Final = 0x0400_0000
"""Where all of it is, before it goes to its place: the firmware is needed until then."""
LOADER: Final = 0x67C00
"""Where the loader goes first, out of the way."""
PARTITION: Final = 32768
"""Its first sector."""
BANNER: Final = "loading by INT 13h\n"
CODE_32, CODE_64, DATA = 0x08, 0x10, 0x18
DESCRIPTORS: Final = (0, 0x00CF_9B00_0000_FFFF, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF)


class _Cpu:
    """Takes what `Linux.start` would have a CPU begin with."""

    def __init__(self) -> None:
        self.sregs, self.regs = Sregs.unpack(bytes(Sregs.size)), Regs.unpack(bytes(Regs.size))

    def get_sregs(self) -> Sregs:
        return self.sregs

    def get_regs(self) -> Regs:
        return self.regs

    def set_sregs(self, sregs: Sregs) -> None:
        self.sregs = sregs

    def set_regs(self, regs: Regs) -> None:
        self.regs = regs


def bootable(kernel: Path, root: Path, append: str, ram_size: int) -> bytes:
    """A disk with a boot sector, a kernel and, as its one partition, the file system `root`.

    What is to be in memory when the kernel begins is what a direct start puts there, but for what
    it is the firmware's to tell.
    """
    engine = Engine(workers=0)
    pc, cpu = Pc(engine, ram_size), _Cpu()
    linux: Any = Linux(kernel.read_bytes(), command_line=append)
    linux.start(cpu, pc.memory, rsdp=0)
    blob = _blob(bytes(pc.memory.regions[0].view))
    engine.close()
    chunks = -(-len(blob) // (CHUNK * SECTOR))
    assert chunks * CHUNK < PARTITION
    image = _loader(cpu, chunks) + blob
    return image.ljust(PARTITION * SECTOR, b"\0") + root.read_bytes()


def _blob(ram: bytes) -> bytes:
    """A table of places, address and dwords of each, with a zero behind it; then their content."""
    pages = [at for at in range(0, len(ram), PAGE) if ram[at : at + PAGE].strip(b"\0")]
    runs = [
        [at for _, at in run]
        for _, run in groupby(enumerate(pages), lambda each: each[1] - PAGE * each[0])
    ]
    table = b"".join(struct.pack("<II", run[0], len(run) * PAGE // 4) for run in runs)
    content = b"".join(ram[run[0] : run[-1] + PAGE] for run in runs)
    return (table + bytes(8)).ljust(PAGE, b"\0") + content


def _dword(value: int) -> str:
    return value.to_bytes(4, "little").hex()


def _loader(cpu: _Cpu, chunks: int) -> bytes:
    """The first sector: it reads the blob, puts everything into its place and enters the kernel."""
    above = LOADER - 0x7C00
    code = Code()
    code("31C0 8ED8 8ED0 BC007C FC FB")  # xor ax,ax; ds = ss = ax; sp; cld; sti
    segment = (above >> 4).to_bytes(2, "little").hex()
    code(f"B8{segment} 8EC0 BE007C BF007C B90001 F3A5")  # es = ax; copy 256 words to es:7C00
    code(f"EA {{there}} {segment}").label("there")  # jmp far
    code("0E 1F 8816 {drive}")  # push cs; pop ds; mov [drive], dl
    code("BE {banner} E8 (print)")
    code.label("load")
    code("BE {packet} 8A16 {drive} B442 CD13 0F82 (failed)")  # read a chunk
    code("BE {move}")(f"B9{(CHUNK * SECTOR // 2).to_bytes(2, 'little').hex()}")
    code("B487 CD15 0F82 (failed)")  # move it up: AH=87h, es:si a table of descriptors
    code("6683 06 {lba}")(f"{CHUNK:02x}")  # add dword [lba], CHUNK
    code("6681 06 {target}")(_dword(CHUNK * SECTOR))  # add dword [target], its bytes
    code("FF0E {chunks} 75 <load>")  # dec word [chunks]; jnz
    code("FA 0F0116 {gdtr}")  # cli; lgdt [gdtr]
    code("0F20C0 0C01 0F22C0")  # cr0.PE
    code("66EA {protected}")(f"{above >> 16:02x}00 {CODE_32:02x}00")  # jmp far, 32 bits
    code.label("protected")
    code(f"66B8{DATA:02x}00 8ED8 8EC0 8ED0 8EE0 8EE8")  # mov ax, DATA; all segments
    code(f"BB{_dword(STAGING)} 8D B3{_dword(PAGE)}")  # ebx: the table; esi: the content
    code.label("place")
    code("8B3B 8B4B04 83C308 85C9")  # mov edi,[ebx]; mov ecx,[ebx+4]; add ebx,8; test ecx,ecx
    code("74 <enter> F3A5 EB <place>")  # jz; rep movsd; jmp
    code.label("enter")
    code(f"B8{_dword(cpu.sregs.cr4)} 0F22E0")  # cr4
    code(f"B8{_dword(cpu.sregs.cr3)} 0F22D8")  # cr3
    code("B9800000C0 0F32 0D00010000 0F30")  # EFER.LME
    code(f"BE{_dword(cpu.regs.rsi)}")  # mov esi, zero page
    code("0F20C0 0D00000080 0F22C0")  # cr0.PG
    code(f"EA{_dword(cpu.regs.rip)} {CODE_64:02x}00")  # jmp far
    end(code)
    code.data("banner", BANNER.encode() + b"\0")
    code.align(4).data("packet", bytes((16, 0, CHUNK, 0)) + struct.pack("<HH", 0, BUFFER >> 4))
    code.data("lba", struct.pack("<Q", 1)).data("chunks", struct.pack("<H", chunks))
    code.align(4).data("move", bytes(16) + _flat(BUFFER))
    code.data("limit", b"\xff\xff").data("target", _flat(STAGING)[2:] + bytes(16))
    code.data("gdtr", struct.pack("<H", 8 * len(DESCRIPTORS) - 1))
    code("{gdt}")(f"{above >> 16:02x}00").align(8)
    code.data("gdt", struct.pack("<4Q", *DESCRIPTORS))
    sector = code.assemble()
    assert len(sector) <= 446, len(sector)
    entry = struct.pack("<B3sB3sII", 0x80, b"\xff" * 3, 0x83, b"\xff" * 3, PARTITION, 1 << 16)
    return sector.ljust(446, b"\0") + entry.ljust(64, b"\0") + b"\x55\xaa"


def _flat(base: int) -> bytes:
    """A descriptor of 64 KiB of data, as AH=87h takes it."""
    return struct.pack("<HI", 0xFFFF, base & 0xFFFFFF | 0x93 << 24) + bytes((0, base >> 24))
