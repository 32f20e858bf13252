"""What can be done to controllers while they run: stop, save, restore; how their drives are."""

from __future__ import annotations

import logging
import time
from typing import Any, Final

from drivebay.hosts.control import state as states
from drivebay.hosts.control.bay import Bay, Controller, Metrics, Saved, Tracing
from drivebay.hosts.control.messages import CommandState, FileState, Refused, Stopped
from drivebay.platform.observer import InFlight
from drivebay.suspend import blocking, sleep

__all__ = ["Running", "commands"]

log = logging.getLogger(__name__)

PATIENCE: Final = 10.0
"""Seconds that a save waits for commands under way."""
LOOK_AGAIN: Final = 0.005
MOST_COMMANDS: Final = 64
"""Of those under way, so many are told of."""

Found = tuple[dict[str, Any], FileState]


def commands(controller: Controller) -> tuple[int, list[CommandState]]:
    """How many commands are under way, and the oldest of them."""
    flying = [
        (part, each)
        for part, observed in controller.parts().items()
        for each in observed.in_flight()
    ]
    flying.sort(key=lambda one: one[1].since)
    now = time.monotonic()
    oldest = flying[:MOST_COMMANDS]
    return len(flying), [_told(controller, part, each, now) for part, each in oldest]


def _told(controller: Controller, part: str, flying: InFlight, now: float) -> CommandState:
    name, place = controller.describe(flying.queue, flying.command)
    if part:
        place = f"{controller.name(part)} {place}"
    age = max(now - flying.since, 0.0)
    return CommandState(name, place, flying.queue, flying.tag, round(age, 6))


class Running:
    """Does it to the controllers of `bay`."""

    def __init__(self, bay: Bay) -> None:
        self._bay = bay

    # -- stop and go on --------------------------------------------------------------------------

    def stop(self, name: str) -> Stopped:
        """Take no commands any more. Raises `Refused`."""
        self._hold(name, True)
        return Stopped(commands(self._bay.controller(name))[0])

    def cont(self, name: str) -> None:
        """Take what has come, and go on. Raises `Refused`."""
        self._hold(name, False)

    def _hold(self, name: str, held: bool) -> None:
        controller = self._bay.controller(name)
        if controller.hold is None:
            raise Refused(f"{controller.id}: {controller.kind} cannot be stopped")
        controller.stopped = held
        controller.hold(held)

    # -- the whole state -------------------------------------------------------------------------

    async def save(self, name: str, path: str) -> FileState:
        """Write the state of a controller that is stopped, when nothing of it is under way. Raises
        `Refused`.
        """
        controller, saved = self._stopped(name)
        await self._rest(controller)
        state = saved.save()
        file: FileState = await blocking(lambda: states.write(path, controller.kind, state))
        return file

    async def restore(self, name: str, path: str) -> FileState:
        """Become what was saved. Raises `Refused`: then it is what it was."""
        controller, saved = self._stopped(name)
        if not controller.connected():
            raise Refused(f"{name}: no guest is attached", "the state is of no use without memory")
        found: Found = await blocking(lambda: states.read(path, controller.kind))
        state, file = found
        self._stopped(name)
        await self._rest(controller)
        before = saved.save()
        try:
            saved.restore(state)
        except Exception as error:  # it may be anything: somebody has written it
            log.debug("%s: a state that does not fit", name, exc_info=error)
            saved.restore(before)
            why = error if isinstance(error, ValueError) else repr(error)
            raise Refused(f"{path}: not of this {controller.kind}: {why!s:.200}") from None
        return file

    async def _rest(self, controller: Controller) -> None:
        """Wait until nothing of a stopped one is under way. Raises `Refused`."""
        end = time.monotonic() + PATIENCE
        while not controller.at_rest():
            if time.monotonic() > end:
                count, oldest = commands(controller)
                what = f"{oldest[0].name} {oldest[0].place}" if oldest else "a command"
                raise Refused(
                    f"{controller.id}: {count} commands do not end", f"the oldest is {what}"
                )
            await sleep(LOOK_AGAIN)
            self._stopped(controller.id)

    def _stopped(self, name: str) -> tuple[Controller, Saved]:
        controller = self._bay.controller(name)
        if controller.saved is None:
            raise Refused(
                f"{name}: {controller.kind} keeps no state",
                "a vhost-user front end keeps what a server started anew needs",
            )
        if not controller.stopped:
            raise Refused(f"{name} is running", "controller.stop first")
        return controller, controller.saved

    # -- health ----------------------------------------------------------------------------------

    def health(self, name: str) -> dict[str, int]:
        """How a drive says that it is. Raises `Refused`."""
        return dict(self._bay.health(name).values())

    def set_health(self, name: str, text: str) -> dict[str, int]:
        """Have it say something else. Raises `Refused`."""
        self._bay.health(name).set(text)
        return self.health(name)

    # -- traces ----------------------------------------------------------------------------------

    @property
    def tracing(self) -> Tracing:
        """Raises `Refused` where nothing can be traced."""
        if self._bay.tracing is None:
            raise Refused("nothing can be traced here")
        return self._bay.tracing

    # -- metrics ---------------------------------------------------------------------------------

    @property
    def metrics(self) -> Metrics:
        """Raises `Refused` where there are none."""
        if self._bay.metrics is None:
            raise Refused("there are no metrics here")
        return self._bay.metrics
