"""One virtual machine of KVM's: memory, interrupt chips, and the calls that are about all of it."""

from __future__ import annotations

import ctypes
import fcntl
import os
from collections.abc import Iterable
from typing import Final

from drivebay.hosts.cpu import CpuError
from drivebay.hosts.kvm.abi import (
    API_VERSION,
    FILTER_READ_AND_WRITE,
    PIT_SPEAKER_DUMMY,
    Capability,
    CpuidEntry,
    CpuidHead,
    EnableCap,
    Ioctl,
    IrqChip,
    IrqLevel,
    Msi,
    MsrFilter,
    MsrReason,
    PitConfig,
    UserMemoryRegion,
)
from drivebay.platform.memory import Region

__all__ = ["Kvm", "Vm"]

NEEDED: Final = {
    Capability.USER_MEMORY: "memory of ours",
    Capability.IRQCHIP: "interrupt controllers",
    Capability.PIT2: "a timer",
    Capability.SIGNAL_MSI: "message-signalled interrupts",
}
IDENTITY_MAP: Final = 0xFEFF_C000
"""A page, and three behind it, that old Intel processors need for real mode: between the interrupt
controllers and the largest firmware."""
TSS: Final = IDENTITY_MAP + 0x1000
MOST_LEAVES: Final = 256
FIRST_MSR, MSRS = 0x4000_0000, 0x100
"""Those of hypervisors."""

TIMER: Final = 1 << 0

_libc = ctypes.CDLL(None, use_errno=True)


class Kvm:
    """/dev/kvm, for machines of `cpus` CPUs. Raises `CpuError` if it cannot be had or lacks
    something.
    """

    def __init__(self, path: str = "/dev/kvm", cpus: int = 1) -> None:
        try:
            self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise CpuError(f"{path}: {error.strerror}") from error
        try:
            self._check(path, cpus)
        except BaseException:
            self.close()
            raise
        self.run_size = fcntl.ioctl(self.fd, Ioctl.GET_VCPU_MMAP_SIZE)
        """Bytes of what is shared with a vCPU."""

    def _check(self, path: str, cpus: int) -> None:
        try:
            version = fcntl.ioctl(self.fd, Ioctl.GET_API_VERSION)
        except OSError as error:
            raise CpuError(f"{path} is not KVM: {error.strerror}") from error
        if version != API_VERSION:
            raise CpuError(f"{path}: KVM's interface is version {version}, we know {API_VERSION}")
        for capability, what in NEEDED.items():
            if not self.has(capability):
                raise CpuError(f"{path}: this KVM does not have {what}")
        if cpus > (most := self.has(Capability.MAX_VCPUS)):
            raise CpuError(f"{path}: {cpus} CPUs, and this KVM has up to {most}")

    def has(self, capability: Capability) -> int:
        """What KVM says of a capability: 0 if it does not have it."""
        return fcntl.ioctl(self.fd, Ioctl.CHECK_EXTENSION, int(capability))

    def supported_cpuid(self) -> list[CpuidEntry]:
        """The leaves that a guest may be shown."""
        size = CpuidEntry.size
        buffer = bytearray(CpuidHead(MOST_LEAVES).pack() + bytes(MOST_LEAVES * size))
        fcntl.ioctl(self.fd, Ioctl.GET_SUPPORTED_CPUID, buffer)
        count = CpuidHead.unpack(buffer).nent
        return [CpuidEntry.unpack(buffer, CpuidHead.size + at * size) for at in range(count)]

    def close(self) -> None:
        """Let go of it; machines live on."""
        os.close(self.fd)


class Vm:
    """A machine with `regions` as its memory. With `user_msrs` MSRs that KVM does not know, and
    those of hypervisors, make exits. Raises `CpuError` for memory that KVM cannot take.
    """

    def __init__(self, kvm: Kvm, regions: Iterable[Region], *, user_msrs: bool) -> None:
        self.fd = fcntl.ioctl(kvm.fd, Ioctl.CREATE_VM, 0)
        try:
            self._put_tss()
            fcntl.ioctl(self.fd, Ioctl.CREATE_IRQCHIP)
            fcntl.ioctl(self.fd, Ioctl.CREATE_PIT2, PitConfig(PIT_SPEAKER_DUMMY).pack())
            for slot, region in enumerate(regions):
                self._put_memory(slot, region)
            if user_msrs:
                self._take_msrs(kvm)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """The end of it, once its vCPUs are closed."""
        os.close(self.fd)

    def _put_tss(self) -> None:
        fcntl.ioctl(self.fd, Ioctl.SET_IDENTITY_MAP_ADDR, IDENTITY_MAP.to_bytes(8, "little"))
        # An address that fcntl takes for a negative number.
        if _libc.ioctl(self.fd, ctypes.c_ulong(Ioctl.SET_TSS_ADDR), ctypes.c_ulong(TSS)):
            raise CpuError(f"KVM_SET_TSS_ADDR: {os.strerror(ctypes.get_errno())}")

    def _put_memory(self, slot: int, region: Region) -> None:
        try:
            address = ctypes.addressof(ctypes.c_char.from_buffer(region.view))
            call = UserMemoryRegion(slot, 0, region.address, len(region.view), address)
            fcntl.ioctl(self.fd, Ioctl.SET_USER_MEMORY_REGION, call.pack())
        except (OSError, TypeError) as error:  # TypeError: it cannot be written
            where = f"{region.address:#x}+{len(region.view):#x}"
            raise CpuError(f"the memory at {where} cannot be mapped: {error}") from error

    def _take_msrs(self, kvm: Kvm) -> None:
        reasons = MsrReason.INVAL | MsrReason.UNKNOWN
        filters = bool(kvm.has(Capability.X86_MSR_FILTER))
        if filters:
            reasons |= MsrReason.FILTER
        cap = EnableCap(Capability.X86_USER_SPACE_MSR, 0, int(reasons))
        try:
            fcntl.ioctl(self.fd, Ioctl.ENABLE_CAP, cap.pack())
        except OSError as error:
            raise CpuError("this KVM does not let us answer for MSRs (Linux 5.10)") from error
        if filters:
            bitmap = ctypes.create_string_buffer(MSRS // 8)  # KVM copies it
            call = MsrFilter(
                *(0, 0, FILTER_READ_AND_WRITE, MSRS, FIRST_MSR, 0), ctypes.addressof(bitmap)
            )
            fcntl.ioctl(self.fd, Ioctl.X86_SET_MSR_FILTER, call.pack())

    # -- interrupts ------------------------------------------------------------------------------

    def set_line(self, number: int, level: bool) -> None:
        """Interrupt `number` of both kinds of controllers goes up or down."""
        fcntl.ioctl(self.fd, Ioctl.IRQ_LINE, IrqLevel.layout.pack(number, level))

    def interrupt_waits(self) -> bool:
        """Whether an interrupt other than the timer's waits for a CPU that lets it in, at the
        controllers that a PC has had from the beginning.
        """
        chip = IrqChip.unpack(fcntl.ioctl(self.fd, Ioctl.GET_IRQCHIP, IrqChip().pack()))
        return bool(chip.irr & ~chip.imr & ~TIMER)

    def signal_msi(self, address: int, data: int) -> None:
        """A message to the local APICs."""
        call = Msi(address & 0xFFFF_FFFF, address >> 32, data)
        fcntl.ioctl(self.fd, Ioctl.SIGNAL_MSI, call.pack())
