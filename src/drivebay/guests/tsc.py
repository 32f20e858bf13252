"""The rate of this machine's time stamp counter, which an emulated guest sees as its own."""

from __future__ import annotations

import ctypes
import functools
import mmap
import platform
import time

# rdtsc; shl rdx, 32; or rax, rdx; ret
_RDTSC = bytes.fromhex("0f31 48c1e220 4809d0 c3")


@functools.cache
def tsc_khz() -> int | None:
    """Return the counter's rate in kHz, measured over 20 ms; None where that cannot be done."""
    if platform.machine() != "x86_64":
        return None
    try:
        code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError:  # a hardened kernel: the guest then finds out for itself
        return None
    code.write(_RDTSC)
    anchor = ctypes.c_char.from_buffer(code)
    rdtsc = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(anchor))
    first, started = int(rdtsc()), time.monotonic_ns()
    time.sleep(0.02)
    last, ended = int(rdtsc()), time.monotonic_ns()
    return (last - first) * 1_000_000 // (ended - started)
