"""Whether /dev/kvm is worth using: some machines offer one that interprets kernel code.

Linux takes minutes on such a one, so ask by timing a short loop in a virtual machine.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import mmap
import os
import struct
import subprocess
import sys
import time

FAST_SECONDS = 0.005  # hardware takes a fiftieth of this, an interpreter thirty times as long
PROBE_SECONDS = 5.0

# include/uapi/linux/kvm.h
KVM_CREATE_VM = 0xAE01
KVM_GET_VCPU_MMAP_SIZE = 0xAE04
KVM_CREATE_VCPU = 0xAE41
KVM_SET_USER_MEMORY_REGION = 0x4020AE46
KVM_SET_TSS_ADDR = 0xAE47
KVM_RUN = 0xAE80
KVM_SET_REGS = 0x4090AE82
KVM_GET_SREGS = 0x8138AE83
KVM_SET_SREGS = 0x4138AE84
KVM_EXIT_HLT = 5

SREGS_SIZE = 312
EXIT_REASON = 8  # offset in struct kvm_run
CODE_ADDRESS = 0x1000
TSS_ADDRESS = 0x10000000  # three pages that old Intel processors need for real mode

# mov ecx, 100000; again: dec ecx; jnz again; hlt
_LOOP = bytes.fromhex("66b9a0860100 6649 75fc f4")


@functools.cache
def kvm_works() -> bool:
    """Return whether /dev/kvm runs kernel code at hardware speed; asked once a process.

    Takes some 50 ms, five seconds at worst; whatever goes wrong is a no.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    try:
        # A process of its own can be ended whatever the virtual machine does.
        done = subprocess.run(
            [sys.executable, "-I", __file__],
            check=False,
            capture_output=True,
            timeout=PROBE_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def loop_seconds() -> float:
    """Return the shortest of three times that 100 000 turns take; raises OSError without KVM."""
    kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    machine = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
    fcntl.ioctl(machine, KVM_SET_TSS_ADDR, TSS_ADDRESS)
    memory = mmap.mmap(-1, 0x10000)
    memory[CODE_ADDRESS : CODE_ADDRESS + len(_LOOP)] = _LOOP
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    region = struct.pack("<IIQQQ", 0, 0, 0, len(memory), address)
    fcntl.ioctl(machine, KVM_SET_USER_MEMORY_REGION, region)

    processor = fcntl.ioctl(machine, KVM_CREATE_VCPU, 0)
    shared = mmap.mmap(processor, fcntl.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0))
    segments = bytearray(SREGS_SIZE)
    fcntl.ioctl(processor, KVM_GET_SREGS, segments)
    struct.pack_into("<QIH", segments, 0, 0, 0xFFFF, 0)  # code segment: base, limit, selector
    fcntl.ioctl(processor, KVM_SET_SREGS, segments)
    return min(_run(processor, shared) for _ in range(3))


def _run(processor: int, shared: mmap.mmap) -> float:
    registers = struct.pack("<18Q", *[0] * 16, CODE_ADDRESS, 2)  # ..., rip, rflags
    fcntl.ioctl(processor, KVM_SET_REGS, registers)
    started = time.perf_counter()
    fcntl.ioctl(processor, KVM_RUN, 0)
    elapsed = time.perf_counter() - started
    (reason,) = struct.unpack_from("<I", shared, EXIT_REASON)
    if reason != KVM_EXIT_HLT:
        raise OSError(f"unexpected exit {reason}")
    return elapsed


if __name__ == "__main__":
    sys.exit(0 if loop_seconds() < FAST_SECONDS else 1)
