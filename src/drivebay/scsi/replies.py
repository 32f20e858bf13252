"""The tasks that most commands are: an action, an answer, a list of parameters."""

from __future__ import annotations

from collections.abc import Callable

from drivebay.disk.buffers import gather, scatter
from drivebay.disk.contract import Buffers, byte_length
from drivebay.scsi.sense import PARAMETER_LIST_LENGTH_ERROR, CheckCondition
from drivebay.scsi.task import Direction, Task

__all__ = ["Action", "Parameters", "Reply", "nothing"]


def nothing() -> None:
    """Do nothing."""


class Action(Task):
    """A command without data: `act` is called when it finishes."""

    def __init__(self, act: Callable[[], None] = nothing) -> None:
        self._act = act

    async def finish(self) -> None:
        """Do it."""
        self._act()


class Reply(Task):
    """A command that answers with `data`, cut at its allocation length; then `act` is called."""

    direction = Direction.IN

    def __init__(
        self, data: bytes, allocation_length: int, act: Callable[[], None] = nothing
    ) -> None:
        self.data = data[:allocation_length]
        self.length = len(self.data)
        self._act = act

    async def transfer(self, offset: int, buffers: Buffers) -> None:
        """Copy from `offset` on; what is left of the buffers stays as it is."""
        scatter(buffers, memoryview(self.data)[offset : offset + byte_length(buffers)])

    async def finish(self) -> None:
        """The data has gone out."""
        self._act()


class Parameters(Task):
    """A command that takes `length` bytes of parameters, and hands them to `act`.

    PARAMETER LIST LENGTH ERROR if fewer come.
    """

    direction = Direction.OUT

    def __init__(self, length: int, act: Callable[[bytes], None]) -> None:
        self.length = length
        self._data = bytearray(length)
        self._received = 0
        self._act = act

    async def transfer(self, offset: int, buffers: Buffers) -> None:
        """Keep what comes."""
        gather(buffers, memoryview(self._data)[offset:])
        self._received += byte_length(buffers)

    async def finish(self) -> None:
        """Act on it."""
        if self._received < self.length:
            raise CheckCondition(PARAMETER_LIST_LENGTH_ERROR)
        self._act(bytes(self._data))
