"""The 82441FX host bridge, as far as firmware looks: who it is, and registers that remember.

Which memory is shadow RAM (PAM) is stored and has no effect: all of it is RAM.
"""

from __future__ import annotations

from typing import Final

from drivebay.platform.pci import PciFunction, PciIdentity

__all__ = ["I440fx"]

IDENTITY: Final = PciIdentity(
    vendor=0x8086,
    device=0x1237,
    class_code=0x060000,
    revision=2,
    subsystem_vendor=0x1AF4,  # with these two SeaBIOS takes the machine for QEMU's
    subsystem=0x1100,
)
PAM0: Final = 0x59
SMRAM: Final = 0x72


class I440fx(PciFunction):
    """Device 00:00.0."""

    def __init__(self) -> None:
        super().__init__(IDENTITY)
        self.declare(PAM0, 7, writable=(1 << 56) - 1)
        self.declare(SMRAM, 1, 0x02, writable=0x78)
