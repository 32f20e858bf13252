"""What a device on the ISA bus knows of the DMA controller: its channel.

The device asks the channel for the memory that comes next, moves the data itself, and says how much
it was. So a whole transfer is moved at once, and a disk reads straight into guest memory.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["DmaChannel"]


class DmaChannel(Protocol):
    """A channel, programmed by the guest."""

    def memory(self, most: int, to_memory: bool) -> list[memoryview]:
        """The next bytes of memory for a transfer to or from it, `most` of them or as many as are
        left until terminal count.

        Empty if the channel does not answer: it is masked, or programmed for the other direction.
        """

    def moved(self, count: int) -> bool:
        """`count` bytes of what `memory` has given last were moved; whether that was the last byte
        (terminal count, TC).
        """
