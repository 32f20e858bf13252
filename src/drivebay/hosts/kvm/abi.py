"""KVM's calls, structures and constants for x86, by the names of ``include/uapi/linux/kvm.h``."""

from __future__ import annotations

import enum
from typing import Annotated

from drivebay.wire import U8, U16, U32, U64, Bit, Bits, Register64, Struct

__all__ = [
    "Capability",
    "CpuidEntry",
    "DescriptorTable",
    "Exit",
    "Ioctl",
    "MpState",
    "Regs",
    "Segment",
    "Sregs",
]

API_VERSION = 12


class Ioctl:
    """The request numbers."""

    GET_API_VERSION = 0xAE00
    CREATE_VM = 0xAE01
    CHECK_EXTENSION = 0xAE03
    GET_VCPU_MMAP_SIZE = 0xAE04
    GET_SUPPORTED_CPUID = 0xC008AE05
    # Of a virtual machine.
    CREATE_VCPU = 0xAE41
    SET_USER_MEMORY_REGION = 0x4020AE46
    SET_TSS_ADDR = 0xAE47
    SET_IDENTITY_MAP_ADDR = 0x4008AE48
    CREATE_IRQCHIP = 0xAE60
    IRQ_LINE = 0x4008AE61
    GET_IRQCHIP = 0xC208AE62
    CREATE_PIT2 = 0x4040AE77
    ENABLE_CAP = 0x4068AEA3
    SIGNAL_MSI = 0x4020AEA5
    X86_SET_MSR_FILTER = 0x4188AEC6
    # Of a vCPU.
    RUN = 0xAE80
    GET_REGS = 0x8090AE81
    SET_REGS = 0x4090AE82
    GET_SREGS = 0x8138AE83
    SET_SREGS = 0x4138AE84
    TRANSLATE = 0xC018AE85
    GET_MSRS = 0xC008AE88
    SET_SIGNAL_MASK = 0x4004AE8B
    SET_CPUID2 = 0x4008AE90
    GET_MP_STATE = 0x8004AE98
    SET_GUEST_DEBUG = 0x4048AE9B
    GET_VCPU_EVENTS = 0x8040AE9F
    SET_VCPU_EVENTS = 0x4040AEA0
    GET_TSC_KHZ = 0xAEA3


class Capability(enum.IntEnum):
    """What CHECK_EXTENSION is asked for."""

    IRQCHIP = 0
    USER_MEMORY = 3
    PIT2 = 33
    MAX_VCPUS = 66
    SIGNAL_MSI = 77
    X86_USER_SPACE_MSR = 188
    X86_MSR_FILTER = 189


class Exit(enum.IntEnum):
    """Why KVM_RUN returned."""

    UNKNOWN = 0
    EXCEPTION = 1
    IO = 2
    DEBUG = 4
    HLT = 5
    MMIO = 6
    SHUTDOWN = 8
    FAIL_ENTRY = 9
    INTR = 10
    INTERNAL_ERROR = 17
    SYSTEM_EVENT = 24
    X86_RDMSR = 29
    X86_WRMSR = 30


class MpState(enum.IntEnum):
    """What a vCPU is doing."""

    RUNNABLE = 0
    UNINITIALIZED = 1  # waits for INIT
    INIT_RECEIVED = 2
    HALTED = 3
    SIPI_RECEIVED = 4


# -- struct kvm_run -------------------------------------------------------------------------------


class RunHead(Struct, size=32):
    """What every exit has."""

    request_interrupt_window: U8
    immediate_exit: U8
    padding1: Annotated[bytes, "6s"]
    exit_reason: U32
    ready_for_interrupt_injection: U8
    if_flag: U8
    flags: U16
    cr8: U64
    apic_base: U64


class IoExit(Struct, size=16):
    """IN and OUT: `count` items of `width` bytes are at `data_offset` of the whole."""

    direction: U8  # 1: OUT
    width: U8  # the header calls it size
    port: U16
    count: U32
    data_offset: U64


class MmioExit(Struct, size=24):
    """Memory that is not there: `data` has room for eight bytes, little end first."""

    phys_addr: U64
    data: U64
    len: U32
    is_write: U8
    padding: Annotated[bytes, "3s"]


class MsrExit(Struct, size=24):
    """RDMSR and WRMSR. `error` is for us to set: the guest gets a #GP."""

    error: U8
    padding: Annotated[bytes, "7s"]
    reason: U32
    index: U32
    data: U64


class InternalError(Struct, size=32):
    """KVM does not know how to go on; an instruction if `insn_size` of `insn_bytes` are there."""

    suberror: U32
    ndata: U32
    flags: U64
    insn_size: U8
    insn_bytes: Annotated[bytes, "15s"]


SUBERROR_EMULATION = 1
HAS_INSTRUCTION = 1  # in flags

# -- calls on virtual machines --------------------------------------------------------------------


class UserMemoryRegion(Struct, size=32):
    """KVM_SET_USER_MEMORY_REGION."""

    slot: U32
    flags: U32
    guest_phys_addr: U64
    memory_size: U64
    userspace_addr: U64


class PitConfig(Struct, size=64):
    """KVM_CREATE_PIT2."""

    flags: U32
    pad: Annotated[bytes, "60s"] = bytes(60)


PIT_SPEAKER_DUMMY = 1
"""KVM has port 61h, too: without it a guest that waits for the third counter waits for ever."""


class IrqLevel(Struct, size=8):
    """KVM_IRQ_LINE."""

    irq: U32
    level: U32


class IrqChip(Struct, size=520):
    """KVM_GET_IRQCHIP of the first 8259A, as far as it is looked at."""

    chip_id: U32 = 0
    pad: U32 = 0
    last_irr: U8 = 0
    irr: U8 = 0
    imr: U8 = 0
    rest: Annotated[bytes, "509s"] = bytes(509)


class Msi(Struct, size=32):
    """KVM_SIGNAL_MSI."""

    address_lo: U32
    address_hi: U32
    data: U32
    flags: U32 = 0
    pad: Annotated[bytes, "16s"] = bytes(16)


class EnableCap(Struct, size=104):
    """KVM_ENABLE_CAP."""

    cap: U32
    flags: U32
    args0: U64
    rest: Annotated[bytes, "88s"] = bytes(88)


class MsrReason(enum.IntFlag):
    """Which MSRs make an exit (KVM_CAP_X86_USER_SPACE_MSR)."""

    INVAL = 1
    UNKNOWN = 2
    FILTER = 4


class MsrFilter(Struct, size=392):
    """KVM_X86_SET_MSR_FILTER with one range: those whose bit is 0 are denied."""

    flags: U32
    padding: U32
    range_flags: U32
    nmsrs: U32
    base: U32
    padding2: U32
    bitmap: U64
    others: Annotated[bytes, "360s"] = bytes(360)


FILTER_READ_AND_WRITE = 3

# -- calls on vCPUs -------------------------------------------------------------------------------


class Regs(Struct, size=144):
    """KVM_GET_REGS."""

    rax: U64
    rbx: U64
    rcx: U64
    rdx: U64
    rsi: U64
    rdi: U64
    rsp: U64
    rbp: U64
    r8: U64
    r9: U64
    r10: U64
    r11: U64
    r12: U64
    r13: U64
    r14: U64
    r15: U64
    rip: U64
    rflags: U64


class Segment(Struct, size=24):
    """A segment register with what the CPU keeps of its descriptor."""

    base: U64
    limit: U32
    selector: U16
    type: U8
    present: U8
    dpl: U8
    db: U8
    s: U8
    l: U8  # noqa: E741
    g: U8
    avl: U8
    unusable: U8 = 0
    padding: U8 = 0


class DescriptorTable(Struct, size=16):
    """GDTR or IDTR."""

    base: U64
    limit: U16
    padding: Annotated[bytes, "6s"] = bytes(6)


class Sregs(Struct, size=312):
    """KVM_GET_SREGS. Segments are `Segment`s, tables `DescriptorTable`s, as bytes."""

    cs: Annotated[bytes, "24s"]
    ds: Annotated[bytes, "24s"]
    es: Annotated[bytes, "24s"]
    fs: Annotated[bytes, "24s"]
    gs: Annotated[bytes, "24s"]
    ss: Annotated[bytes, "24s"]
    tr: Annotated[bytes, "24s"]
    ldt: Annotated[bytes, "24s"]
    gdt: Annotated[bytes, "16s"]
    idt: Annotated[bytes, "16s"]
    cr0: U64
    cr2: U64
    cr3: U64
    cr4: U64
    cr8: U64
    efer: U64
    apic_base: U64
    interrupt_bitmap: Annotated[bytes, "32s"]


class Translation(Struct, size=24):
    """KVM_TRANSLATE: where in memory a linear address is."""

    linear_address: U64
    physical_address: U64 = 0
    valid: U8 = 0
    writeable: U8 = 0
    usermode: U8 = 0
    pad: Annotated[bytes, "5s"] = bytes(5)


class Msrs(Struct, size=24):
    """KVM_GET_MSRS of one."""

    nmsrs: U32
    pad: U32
    index: U32
    reserved: U32 = 0
    data: U64 = 0


IA32_TSC = 0x10


class SignalMask(Struct, size=12):
    """KVM_SET_SIGNAL_MASK: the signals that wait while the guest runs."""

    len: U32
    sigset: U64


class GuestDebug(Struct, size=72):
    """KVM_SET_GUEST_DEBUG."""

    control: U32
    pad: U32 = 0
    debugreg: Annotated[bytes, "64s"] = bytes(64)


SINGLE_STEP = 3  # in control, with what switches it on


class VcpuEvents(Struct, size=64):
    """KVM_GET_VCPU_EVENTS: exceptions and interrupts under way."""

    exception_injected: U8
    exception_nr: U8
    exception_has_error_code: U8
    exception_pending: U8
    exception_error_code: U32
    interrupts: Annotated[bytes, "8s"]
    sipi_vector: U32
    flags: U32
    rest: Annotated[bytes, "40s"]


class CpuidHead(Struct, size=8):
    """struct kvm_cpuid2, before its entries."""

    nent: U32
    padding: U32 = 0


class CpuidEntry(Struct, size=40):
    """What CPUID answers for one leaf, and one subleaf if `flags` say that there are any."""

    function: U32
    index: U32 = 0
    flags: U32 = 0
    eax: U32 = 0
    ebx: U32 = 0
    ecx: U32 = 0
    edx: U32 = 0
    padding: Annotated[bytes, "12s"] = bytes(12)


class Cr0(Register64):
    """CR0 (Intel SDM volume 3, section 2.5), as far as it is looked at."""

    PG = Bit(31)
    ET = Bit(4)
    PE = Bit(0)


class Efer(Register64):
    """IA32_EFER."""

    LMA = Bit(10)
    LME = Bit(8)


class Rflags(Register64):
    """RFLAGS."""

    IF = Bit(9)
    CF = Bit(0)


class Leaf1Ebx(Register64):
    """CPUID.01H:EBX."""

    InitialApicId = Bits(31, 24)
    LogicalProcessors = Bits(23, 16)
