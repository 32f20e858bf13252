"""Writes side by side, or one that compares first, alone."""

from __future__ import annotations

from drivebay.suspend import Lock, Promise

__all__ = ["Gate"]


class Gate:
    """COMPARE AND WRITE is one step to all other commands (SBC-3 section 5.2): no write may come
    between its two halves, nor be under way when it begins. Others do not wait for each other::

        async with gate:            # a write
        async with gate.alone():    # a comparison, and the write that it allows
    """

    def __init__(self) -> None:
        self._turn = Lock()  # of those that want to be alone, and of writes that wait for them
        self._wanted = 0
        self._inside = 0
        self._empty: Promise[None] | None = None

    @property
    def closed(self) -> bool:
        """Whether somebody is alone, or wants to be."""
        return self._wanted > 0

    async def __aenter__(self) -> None:
        if self._wanted:
            async with self._turn:
                self._inside += 1
        else:
            self._inside += 1

    async def __aexit__(self, *exception: object) -> None:
        self._inside -= 1
        if not self._inside and self._empty is not None:
            self._empty.give(None)

    def alone(self) -> _Alone:
        """For one that wants no other inside."""
        return _Alone(self)


class _Alone:
    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def __aenter__(self) -> None:
        gate = self._gate
        gate._wanted += 1
        try:
            await gate._turn.__aenter__()
        except BaseException:
            gate._wanted -= 1
            raise
        try:
            if gate._inside:
                gate._empty = Promise()
                await gate._empty
        except BaseException:
            await self.__aexit__()
            raise

    async def __aexit__(self, *exception: object) -> None:
        self._gate._empty = None
        self._gate._wanted -= 1
        await self._gate._turn.__aexit__()
