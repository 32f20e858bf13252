"""Who may meddle with a floppy controller's commands: see `drivebay.platform.observer`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from drivebay.platform.engine import Engine, Task
from drivebay.platform.observer import Dropped, Escort, Observer

__all__ = ["Company", "FloppyEscort", "FloppyObserver", "Refused"]

FloppyEscort = Escort[bytes, bytes]
"""Sees the bytes of a command, and those of its result. It may end a command on the medium by
raising `Refused` before it acts. No data is shown."""
FloppyObserver = Observer[bytes, bytes]


class Refused(Exception):
    """The command ends with these status bytes."""

    def __init__(self, st1: int, st2: int) -> None:
        super().__init__(f"ST1 {st1:02x} ST2 {st2:02x}")
        self.st1, self.st2 = st1, st2


class Company:
    """Who goes with the command under way, if anybody does."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.observer: FloppyObserver | None = None
        self._escort: FloppyEscort | None = None
        self._task: Task | None = None

    @property
    def quiet(self) -> bool:
        """Whether interrupts are lost."""
        return self._escort is not None and self._escort.quiet

    def begin(
        self, unit: int, command: bytes, act: Callable[[], None], refuse: Callable[[Refused], None]
    ) -> None:
        """A command has come: it acts, perhaps later, or is refused, or nothing ever happens."""
        self._escort = None
        if self.observer is not None:
            self._escort = self.observer.command(unit, 0, command)
        if self._escort is None:
            act()
            return

        def asked(_acts: Any, error: BaseException | None) -> None:
            self._task = None
            if error is None:
                act()
            elif isinstance(error, Refused):
                refuse(error)

        self._task = self._engine.start(self._escort.before(), asked)

    def end(self, result: bytes, show: Callable[[bytes], None]) -> None:
        """A command has ended: its result is shown, unless nobody shall hear of it."""
        if self._escort is None:
            show(result)
            return

        def told(_result: Any, error: BaseException | None) -> None:
            if not isinstance(error, Dropped):
                show(result)

        self._engine.start(self._escort.after(result), told)

    def leave(self) -> None:
        """There is no command any more."""
        self._escort = None
        if self._task is not None:
            self._task.cancel()
