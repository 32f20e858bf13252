"""The fault rules of a served controller: those of ``--fault``, and those that come later."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from drivebay.cli.errors import CliError
from drivebay.disk.contract import Disk
from drivebay.disk.errors import DiskOpenError
from drivebay.disk.scanner import SpecError

if TYPE_CHECKING:
    from drivebay.cli.kind import ControllerConfig
    from drivebay.cli.places import Places
    from drivebay.hosts.control.slot import Slot
    from drivebay.lab.rules import Rule, Subject
    from drivebay.lab.torment import CoreFaults
    from drivebay.platform.engine import Engine
    from drivebay.platform.observer import Observed

__all__ = ["FaultDesk", "give_fault"]

log = logging.getLogger(__name__)


class FaultDesk:
    """Has the rules of `controller` work, and others that are added. Who does what they say costs
    something, and is there only while there are rules.

    `parts` are what takes its commands, as `Served.parts` has them. Raises `CliError` for a rule
    that cannot be.
    """

    def __init__(
        self,
        controller: ControllerConfig,
        parts: Callable[[], Mapping[str, Observed]],
        places: Places[Any],
        engine: Engine,
    ) -> None:
        self._controller, self._parts = controller, parts
        self._places, self._engine = places, engine
        self._torment: CoreFaults[Any, Any] | None = None
        places.arrived = self._arrived
        for rule in controller.faults:
            try:
                self._add(rule)
            except ValueError as error:
                raise CliError(f"--fault {error}") from None

    def _add(self, rule: Rule) -> None:
        if self._torment is None:
            self._torment = self._begin()
        self._torment.faults.add(rule)

    def add(self, text: str) -> None:
        """Have another rule work, or those of ``@FILE``. Raises `DiskOpenError`."""
        from drivebay.lab.language import parse_rules

        for rule in parse_rules([text], self._controller.kind.dialect().VOCABULARY):
            try:
                self._add(rule)
            except ValueError as error:
                raise DiskOpenError(str(error)) from None

    def rules(self) -> dict[str, int]:
        """The rules, and how often each has fired."""
        return {} if self._torment is None else self._torment.faults.fired()

    def release(self) -> int:
        """Let go the commands that are held; how many there were."""
        return 0 if self._torment is None else self._torment.faults.release()

    def clear(self) -> None:
        """No rule works any more."""
        if self._torment is not None:
            self._torment.close()
            self._torment = None

    # -- who does it -----------------------------------------------------------------------------

    def _begin(self) -> CoreFaults[Any, Any]:
        """Who does what rules say to such a core."""
        from drivebay.controllers.nvme.worker import Worker
        from drivebay.controllers.virtio.block import BlockDevice
        from drivebay.lab.ata import AtaFaults
        from drivebay.lab.nvme import NvmeFaults
        from drivebay.lab.scsi import ScsiFaults
        from drivebay.lab.virtio import VirtioBlkFaults

        parts, engine, name = self._parts(), self._engine, self._controller.id
        core = parts.get("")
        if isinstance(core, BlockDevice):
            return VirtioBlkFaults(core, engine, name=name)
        if isinstance(core, Worker):
            by_nsid = partial(self._remove, lambda subject: str(subject.nsid))
            return NvmeFaults(core.controller, name=name, remove=by_nsid)
        by_place = partial(self._remove, self._place)
        if core is not None:
            return ScsiFaults(core, engine, name=name, remove=by_place)  # type: ignore[arg-type]
        drives: Any = {port_of(place): drive for place, drive in parts.items()}
        return AtaFaults(drives, engine, name=name, remove=by_place)

    def _arrived(self, place: str, slot: Slot) -> None:
        """Another drive has come."""
        from drivebay.lab.ata import AtaFaults

        if isinstance(self._torment, AtaFaults) and slot.part is not None:
            drive: Any = slot.part
            self._torment.plug(port_of(place), drive)

    def _place(self, subject: Subject) -> str:
        slots = self._places.slots
        return next((place for place in slots if port_of(place) == subject.queue), "")

    def _remove(self, place_of: Callable[[Subject], str], subject: Subject) -> None:
        """As the control socket does that: the disc of a drive that has one, else the disk. What is
        gone already, or cannot go, stays.
        """
        from drivebay.hosts.control.bay import Bay, Controller

        config, slots, place = self._controller, self._places.slots, place_of(subject)
        slot = slots.get(place)
        if slot is not None and slot.dvd is not None and slot.dvd.disk is not None:
            slot.dvd.remove(force=True, released=Disk.close)
            return
        if slot is None or slot.pull is None:
            return
        controller = Controller(
            config.id, config.kind.name, config.socket or "", slots, connected=lambda: True
        )
        pulled = Bay([controller]).pull(controller.name(place))
        self._engine.start(pulled, _removed)


def _removed(_result: Any, error: BaseException | None) -> None:
    if error is not None:
        log.warning("a disk that was taken away: %s", error)


def port_of(place: str) -> int:
    """The number of a place: ``3``; on IDE channels ``p0`` is 0, and ``s1`` is 3."""
    return int(place) if place.isdecimal() else 2 * "ps".index(place[0]) + int(place[1:])


def give_fault(text: str, controllers: Mapping[str, ControllerConfig]) -> None:
    """Rules for the controllers that are meant: those that `text` names, or else all that know its
    words. Raises `CliError` if there is none, and `DiskOpenError`.
    """
    from drivebay.lab.language import parse_rule, spelled

    for where, rule_text in spelled(text):
        mistake: SpecError | None = None  # the one that made sense for longest
        given = False
        for controller in controllers.values():
            try:
                rule = parse_rule(rule_text, controller.kind.dialect().VOCABULARY)
            except SpecError as error:
                if mistake is None or error.position > mistake.position:
                    mistake = error
                continue
            wanted = rule.match.controller
            if wanted is not None and wanted not in controllers:
                known = "|".join(controllers)
                raise CliError(f"--fault {text}: no controller {wanted}", f"on={known}")
            if wanted in (None, controller.id):
                controller.faults.append(rule)
                controller.words.append(("fault", rule_text))
                given = True
        if mistake is not None and not given:
            raise DiskOpenError(f"{where}{mistake}", mistake.hint)
