"""A Linux kernel started without firmware, at the 64-bit entry of its ELF image or bzImage.

Facts are of the kernel's ``Documentation/arch/x86/boot.rst`` (64-bit boot protocol) and
``zero-page.rst``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Annotated, Final

from drivebay.hosts.cpu import CpuError
from drivebay.hosts.kvm.abi import Cr0, DescriptorTable, Efer, Segment
from drivebay.hosts.kvm.vcpu import Vcpu
from drivebay.platform.memory import GuestMemory, GuestMemoryFault
from drivebay.wire import U8, U16, U32, U64, Struct

__all__ = ["Linux"]

# Where things are, below the tables of a PC's firmware.
GDT: Final = 0x500
ZERO_PAGE: Final = 0x7000
PAGE_TABLES: Final = 0x9000
COMMAND_LINE: Final = 0x20000
LOWEST: Final = 0x10_0000
"""A kernel begins above this."""

PAGE: Final = 4096
LARGE_PAGE: Final = 2 << 20
GIB: Final = 1 << 30
MAPPED_GIB: Final = 4
PRESENT, WRITABLE, LARGE = 1 << 0, 1 << 1, 1 << 7
PAE: Final = 1 << 5  # CR4
MOST_COMMAND_LINE: Final = 2047

BASE_MEMORY_END: Final = 0x9FC00
FIRMWARE: Final = 0xE0000
RAM, RESERVED = 1, 2


class ElfHeader(Struct, size=64):
    """Of a 64-bit little-endian image."""

    ident: Annotated[bytes, "16s"]
    type: U16
    machine: U16
    version: U32
    entry: U64
    phoff: U64
    shoff: U64
    flags: U32
    ehsize: U16
    phentsize: U16
    phnum: U16
    shentsize: U16
    shnum: U16
    shstrndx: U16


class ProgramHeader(Struct, size=56):
    """A part of it."""

    type: U32
    flags: U32
    offset: U64
    vaddr: U64
    paddr: U64
    filesz: U64
    memsz: U64
    align: U64


MAGIC: Final = b"\x7fELF\x02\x01"
X86_64: Final = 62
PT_LOAD: Final = 1


class SetupHeader(Struct, size=123):
    """The setup header, from 0x1F1 on. An ELF image has none, and is told this one."""

    setup_sects: U8 = 0
    root_flags: U16 = 0
    syssize: U32 = 0
    ram_size: U16 = 0
    vid_mode: U16 = 0xFFFF
    root_dev: U16 = 0
    boot_flag: U16 = 0xAA55
    jump: U16 = 0
    header: Annotated[bytes, "4s"] = b"HdrS"
    version: U16 = 0x20C
    realmode_swtch: U32 = 0
    start_sys_seg: U16 = 0
    kernel_version: U16 = 0
    type_of_loader: U8 = 0xFF
    loadflags: U8 = 1  # loaded high
    setup_move_size: U16 = 0
    code32_start: U32 = 0
    ramdisk_image: U32 = 0
    ramdisk_size: U32 = 0
    bootsect_kludge: U32 = 0
    heap_end_ptr: U16 = 0
    ext_loader_ver: U8 = 0
    ext_loader_type: U8 = 0
    cmd_line_ptr: U32 = 0
    initrd_addr_max: U32 = 0x7FFF_FFFF
    kernel_alignment: U32 = LARGE_PAGE
    relocatable_kernel: U8 = 0
    min_alignment: U8 = 0
    xloadflags: U16 = 0
    cmdline_size: U32 = MOST_COMMAND_LINE
    hardware_subarch: U32 = 0
    hardware_subarch_data: U64 = 0
    payload_offset: U32 = 0
    payload_length: U32 = 0
    setup_data: U64 = 0
    pref_address: U64 = 0
    init_size: U32 = 0
    handover_offset: U32 = 0
    kernel_info_offset: U32 = 0


HEADER_MAGIC: Final = b"HdrS"
KERNEL_64: Final = 1 << 0
"""In xloadflags: it has a 64-bit entry."""
ENTRY_64: Final = 0x200
SECTOR: Final = 512
UNSAID_SECTORS: Final = 4
"""What setup_sects means that is 0."""

ACPI_RSDP_ADDR, E820_ENTRIES, SETUP_HEADER, E820_TABLE = 0x70, 0x1E8, 0x1F1, 0x2D0


class E820Entry(Struct, size=20):
    """A range of memory."""

    addr: U64
    size_: U64
    type: U32


CODE: Final = Segment(
    base=0, limit=0xFFFF_FFFF, selector=0x10, type=0xB, present=1, dpl=0, db=0, s=1, l=1, g=1, avl=0
)
DATA: Final = Segment(
    base=0, limit=0xFFFF_FFFF, selector=0x18, type=0x3, present=1, dpl=0, db=1, s=1, l=0, g=1, avl=0
)
DESCRIPTORS: Final = (0, 0, 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF)
"""The same two as descriptors, where their selectors say."""


@dataclass(frozen=True)
class Linux:
    """A kernel (``vmlinux`` or bzImage), its initial file system and its command line.

    A bzImage unpacks itself, which takes long where KVM interprets it.
    """

    kernel: bytes
    initrd: bytes = b""
    command_line: str = ""

    def start(self, vcpu: Vcpu, memory: GuestMemory, rsdp: int) -> None:
        """Load it, and have `vcpu` begin there; `rsdp` is where the ACPI tables begin.

        Raises `CpuError` for something that is no kernel or does not fit into memory.
        """
        try:
            entry, header = self._load(memory)
            self._tell(memory, rsdp, header)
            _map(memory)
        except GuestMemoryFault as fault:
            raise CpuError(f"the kernel does not fit into memory: {fault}") from fault
        _enter(vcpu, entry)

    def _load(self, memory: GuestMemory) -> tuple[int, SetupHeader]:
        """Where to enter it, and its header."""
        image = memoryview(self.kernel)
        try:
            if not self.kernel.startswith(MAGIC):
                return self._load_bzimage(memory, image)
            elf = ElfHeader.unpack(image)
            if elf.machine != X86_64:
                raise CpuError("the kernel is no ELF image for x86-64 (vmlinux)")
            parts = [
                ProgramHeader.unpack(image, elf.phoff + number * elf.phentsize)
                for number in range(elf.phnum)
            ]
        except struct.error as error:
            raise CpuError(f"the kernel is cut off: {error}") from error
        for part in parts:
            if part.type == PT_LOAD:
                self._load_part(memory, image, part)
        return elf.entry, SetupHeader()

    def _load_bzimage(self, memory: GuestMemory, image: memoryview) -> tuple[int, SetupHeader]:
        header = SetupHeader.unpack(image, SETUP_HEADER)
        if header.header != HEADER_MAGIC or not header.xloadflags & KERNEL_64:
            raise CpuError("the kernel is no bzImage for x86-64, and no ELF image")
        code = image[((header.setup_sects or UNSAID_SECTORS) + 1) * SECTOR :]
        size = max(header.init_size, len(code))
        if len(code) <= ENTRY_64 or header.pref_address < LOWEST:
            raise CpuError("the kernel is cut off, or wants to be below 1 MiB")
        memory.view(header.pref_address, size)[: len(code)] = code
        header.type_of_loader, header.loadflags = 0xFF, 1
        return header.pref_address + ENTRY_64, header

    def _load_part(self, memory: GuestMemory, image: memoryview, part: ProgramHeader) -> None:
        data = image[part.offset : part.offset + part.filesz]
        if len(data) != part.filesz or part.memsz < part.filesz:
            raise CpuError("the kernel is cut off")
        if part.paddr < LOWEST:
            raise CpuError(f"the kernel has a part at {part.paddr:#x}, below 1 MiB")
        place = memory.view(part.paddr, part.memsz)
        place[: len(data)] = data
        place[len(data) :] = bytes(len(place) - len(data))

    def _tell(self, memory: GuestMemory, rsdp: int, header: SetupHeader) -> None:
        """The zero page, and what it points to."""
        command_line = self.command_line.encode()
        if len(command_line) > MOST_COMMAND_LINE:
            raise CpuError(f"the kernel's command line has {len(command_line)} bytes, up to 2047")
        memory.view(COMMAND_LINE, len(command_line) + 1)[:] = command_line + b"\0"
        ram_end = memory.regions[0].address + len(memory.regions[0].view)
        header.cmd_line_ptr = COMMAND_LINE
        if self.initrd:
            header.ramdisk_image = ram_end - len(self.initrd) & ~(PAGE - 1)
            header.ramdisk_size = len(self.initrd)
            memory.view(header.ramdisk_image, len(self.initrd))[:] = self.initrd
        page = bytearray(PAGE)
        page[ACPI_RSDP_ADDR : ACPI_RSDP_ADDR + 8] = rsdp.to_bytes(8, "little")
        page[SETUP_HEADER : SETUP_HEADER + SetupHeader.size] = header.pack()
        ranges = (
            E820Entry(0, BASE_MEMORY_END, RAM),
            E820Entry(FIRMWARE, LOWEST - FIRMWARE, RESERVED),
            E820Entry(LOWEST, ram_end - LOWEST, RAM),
        )
        page[E820_ENTRIES] = len(ranges)
        table = b"".join(each.pack() for each in ranges)
        page[E820_TABLE : E820_TABLE + len(table)] = table
        memory.view(ZERO_PAGE, PAGE)[:] = page


def _map(memory: GuestMemory) -> None:
    """The first addresses as they are, in pages of 2 MiB; and the descriptors."""
    flags = PRESENT | WRITABLE
    directories = [PAGE_TABLES + (2 + number) * PAGE for number in range(MAPPED_GIB)]
    entries = [PAGE_TABLES + PAGE | flags] + [0] * 511
    entries += [directory | flags for directory in directories] + [0] * (512 - MAPPED_GIB)
    entries += [at | flags | LARGE for at in range(0, MAPPED_GIB * GIB, LARGE_PAGE)]
    packed = struct.pack(f"<{len(entries)}Q", *entries)
    memory.view(PAGE_TABLES, len(packed))[:] = packed
    memory.view(GDT, 8 * len(DESCRIPTORS))[:] = struct.pack("<4Q", *DESCRIPTORS)


def _enter(vcpu: Vcpu, entry: int) -> None:
    sregs = vcpu.get_sregs()
    sregs.cs = CODE.pack()
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = DATA.pack()
    sregs.gdt = DescriptorTable(GDT, 8 * len(DESCRIPTORS) - 1).pack()
    sregs.cr0 = Cr0.of(PG=1, ET=1, PE=1)
    sregs.cr3, sregs.cr4 = PAGE_TABLES, PAE
    sregs.efer = Efer.of(LMA=1, LME=1)
    vcpu.set_sregs(sregs)
    regs = vcpu.get_regs()
    regs.rip, regs.rsi, regs.rflags = entry, ZERO_PAGE, 2
    vcpu.set_regs(regs)
