"""What can be asked for on the control socket: methods by name, and what each does to a `Bay`."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Literal, TypeVar

import msgspec

from drivebay import __version__
from drivebay.disk.contract import Disk
from drivebay.disk.errors import InvalidInput
from drivebay.disk.filters.delay import Delay
from drivebay.disk.filters.record import Record
from drivebay.disk.filters.throttle import Throttle
from drivebay.disk.kinds.parts import parse_latency, parse_layer, parse_limits
from drivebay.disk.layers import operations
from drivebay.disk.layers.index import find_runs
from drivebay.disk.layers.layered import LayeredDisk
from drivebay.disk.spec import open_disk
from drivebay.disk.tree import describe
from drivebay.hosts.control.bay import Bay, Controller, Faults
from drivebay.hosts.control.messages import (
    PROTOCOL,
    Added,
    Changed,
    ControllerState,
    DiskState,
    LeftOut,
    Parameter,
    Refused,
    Tree,
    Type,
    Version,
)
from drivebay.hosts.control.running import Running, commands
from drivebay.hosts.control.session import Method
from drivebay.hosts.control.slot import Slot
from drivebay.scsi.dvd import Dvd, Locked
from drivebay.suspend import blocking

__all__ = ["methods"]

AnyDisk = TypeVar("AnyDisk", bound=Disk)
Making = Coroutine[Any, Any, Any]


class _Params(msgspec.Struct, forbid_unknown_fields=True):
    """None."""


class _OfDisk(_Params):
    disk: str
    """Its name in the tree."""


class _Snapshot(_OfDisk):
    layer: str
    """``memdiff`` or ``sqldiff:PATH[;create]``."""


class _Resize(_OfDisk):
    size: int
    """Bytes."""


class _Mark(_OfDisk):
    text: str


class _Set(_OfDisk):
    latency: str | None = None
    """As in ``delay:PROFILE:``, or ``off``."""
    limits: str | None = None
    """As in ``throttle:LIMITS:``, or ``off``."""
    protected: bool | None = None
    """Whether all that would change it fails."""


class _Add(_Params):
    controller: str
    disk: str
    """A spec and options, as for the controller's option of ``serve``."""


class _Swap(_OfDisk):
    by: str
    """A spec and options, but for the place."""


class _OfController(_Params):
    controller: str


class _Fault(_OfController):
    rule: str
    """As for ``--fault`` of ``serve``."""


class _File(_OfController):
    path: str
    """Of the server, from the folder it was started in."""


class _Health(_Params):
    of: str
    """A drive, or a controller that has one health."""


class _SetHealth(_Health):
    values: str
    """``NAME=VALUE,...``, or the name of a profile."""


class _Trace(_Params):
    to: str
    """``FILE,OPTION,...`` as for ``--trace`` of ``serve``."""


class _Listen(_Params):
    address: str = ""
    """``ADDRESS:PORT``, or the path of a UNIX socket."""


class _Eject(_OfDisk):
    force: bool = False
    """Though the guest has locked the drive."""


class _Insert(_OfDisk):
    spec: str
    force: bool = False


def nobody() -> None:
    """Does not end the program."""
    raise Refused("this server cannot be ended so")


def methods(
    bay: Bay, quit: Callable[[], None], crash: Callable[[], None] = nobody
) -> Mapping[str, Method]:
    """Everything that can be done to `bay`; `quit` ends the program, `crash` as a bug would."""
    does, running = _Methods(bay), Running(bay)
    known = {
        "version": Method(_Params, does.version),
        "tree": Method(_Params, does.tree),
        "disk.info": Method(_OfDisk, does.info),
        "disk.snapshot": Method(_Snapshot, does.snapshot),
        "disk.commit": Method(_OfDisk, does.commit),
        "disk.resize": Method(_Resize, does.resize),
        "disk.refresh": Method(_OfDisk, does.refresh),
        "disk.set": Method(_Set, does.set),
        "disk.mark": Method(_Mark, does.mark),
        "disk.add": Method(_Add, does.add),
        "disk.remove": Method(_OfDisk, does.remove),
        "disk.swap": Method(_Swap, does.swap),
        "media.eject": Method(_Eject, does.eject),
        "media.insert": Method(_Insert, does.insert),
        "fault.add": Method(_Fault, does.add_fault),
        "fault.list": Method(_OfController, lambda of: dict(does.faults(of).rules())),
        "fault.release": Method(_OfController, lambda of: does.faults(of).release()),
        "fault.clear": Method(_OfController, lambda of: does.faults(of).clear()),
        "controller.stop": Method(_OfController, lambda of: running.stop(of.controller)),
        "controller.cont": Method(_OfController, lambda of: running.cont(of.controller)),
        "controller.save": Method(_File, lambda of: running.save(of.controller, of.path)),
        "controller.restore": Method(_File, lambda of: running.restore(of.controller, of.path)),
        "health.get": Method(_Health, lambda of: running.health(of.of)),
        "health.set": Method(_SetHealth, lambda of: running.set_health(of.of, of.values)),
        "metrics.start": Method(_Listen, lambda of: running.metrics.start(of.address)),
        "metrics.stop": Method(_Params, lambda _: running.metrics.stop()),
        "metrics.text": Method(_Params, lambda _: running.metrics.text()),
        "trace.start": Method(_Trace, lambda of: running.tracing.start(of.to)),
        "trace.stop": Method(_Params, lambda _: running.tracing.stop()),
        "crash": Method(_Params, lambda _: crash()),
        "quit": Method(_Params, lambda _: quit()),
    }
    known["methods"] = Method(_Params, lambda _: {name: _parameters(known[name]) for name in known})
    return known


TYPES: Final[dict[object, Type]] = {
    str: "string",
    str | None: "string",
    int: "integer",
    bool: "boolean",
    bool | None: "boolean",
}


def _parameters(method: Method) -> dict[str, Parameter]:
    return {
        field.name: Parameter(TYPES[field.type], field.required)
        for field in msgspec.structs.fields(method.params)
    }


class _Methods:
    def __init__(self, bay: Bay) -> None:
        self._bay = bay

    # -- looking ---------------------------------------------------------------------------------

    def version(self, _: _Params) -> Version:
        return Version(PROTOCOL, __version__, os.getpid())

    def tree(self, _: _Params) -> Tree:
        return Tree([_state_of(controller) for controller in self._bay.controllers.values()])

    def info(self, of: _OfDisk) -> dict[str, Any]:
        return describe(self._bay.disk(of.disk))

    # -- layers ----------------------------------------------------------------------------------

    def snapshot(self, of: _Snapshot) -> Making:
        disk = self._layered(of.disk)
        return self._snapshot(of.disk, disk, of.layer)

    async def _snapshot(self, name: str, disk: LayeredDisk, text: str) -> Changed:
        """Whatever refuses the layer, it is closed: nobody else has it."""
        layer_text = parse_layer(text)
        if disk.read_only:
            raise Refused(f"{name} is read-only", "it needs no layer for what is written")
        layer = await blocking(lambda: layer_text.open(disk))
        try:
            if any(held for _, _, held in await find_runs(layer, 0, layer.sector_count)):
                raise Refused(f"{text}: the layer holds something", "a snapshot begins empty")
            if disk.persistent and not layer.persistent:
                raise Refused(
                    f"{text}: would lose what {name} has promised to keep",
                    "sqldiff:PATH;create keeps it",
                )
            if layer.reservations is not disk.reservations:
                raise Refused(
                    f"{name} has reservations", "put prwrap: or prfile: over the layers, not under"
                )
            await operations.snapshot(disk, layer)
        except BaseException:
            layer.close()
            raise
        return Changed(self._layers_changed(name, layer_text.prefix))

    def commit(self, of: _OfDisk) -> Making:
        return self._commit(of.disk, self._layered(of.disk))

    async def _commit(self, name: str, disk: LayeredDisk) -> LeftOut:
        # Not closed: reads under way may still use it. It closes when they let go of it.
        top = await operations.commit(disk)
        return LeftOut(self._layers_changed(name, None), top.kind, dict(top.details))

    def _layers_changed(self, name: str, pushed: str | None) -> str | None:
        """A layer has come, or the last one gone; what opens the disk now. Of one inside another
        nobody keeps that.
        """
        self._bay.changed()
        try:
            slot = self._bay.slot(name)
        except Refused:
            return None
        if pushed is not None:
            slot.pushed.append(pushed)
        elif slot.pushed:
            slot.pushed.pop()
        return slot.spec

    def _layered(self, name: str) -> LayeredDisk:
        disk = self._bay.disk(name)
        if not isinstance(disk, LayeredDisk):
            inside = next((path for path, each in _below(name, disk, LayeredDisk)), None)
            raise Refused(
                f"{name[:80]}: {disk.kind} has no layers",
                f"{inside} has"
                if inside
                else "memdiff: and sqldiff: have, and every disk that "
                "was opened for writing while there was a control socket",
            )
        return disk

    # -- size and behaviour ----------------------------------------------------------------------

    def resize(self, of: _Resize) -> Making:
        disk = self._bay.disk(of.disk)
        count, rest = divmod(of.size, disk.sector_size)
        if of.size < 1 or rest:
            raise InvalidInput(f"a size of {of.size} bytes: sectors have {disk.sector_size}")
        return disk.resize(count)

    def refresh(self, of: _OfDisk) -> Making:
        return self._bay.disk(of.disk).refresh()

    async def set(self, of: _Set) -> None:
        disk = self._bay.disk(of.disk)
        # All that can go wrong first: everything is set, or nothing.
        delay = throttle = None
        if of.latency is not None:
            delay = _only(of.disk, disk, Delay, "delay:0")
            latency = parse_latency(of.latency)(delay.below)
        if of.limits is not None:
            throttle = _only(of.disk, disk, Throttle, "throttle:iops=1000000")
            limits = parse_limits(of.limits)
        if of.protected is not None:
            await self._layered(of.disk).protect(of.protected)
        if delay is not None:
            delay.latency = latency
        if throttle is not None:
            throttle.limits = limits

    def mark(self, of: _Mark) -> Making:
        record = _only(of.disk, self._bay.disk(of.disk), Record, "record:FILE")
        return record.mark(of.text.encode())

    # -- disks that come and go ------------------------------------------------------------------

    def add(self, of: _Add) -> Making:
        controller = self._bay.controller(of.controller)
        if controller.add is None:
            raise Refused(
                f"{controller.id}: no disk can be added to {controller.kind} while it runs"
            )
        return self._add(controller, of.disk)

    async def _add(self, controller: Controller, text: str) -> Added:
        assert controller.add is not None
        place = await controller.add(text)
        self._bay.changed()
        return Added(controller.name(place))

    def remove(self, of: _OfDisk) -> Making:
        return self._bay.pull(of.disk)

    async def swap(self, of: _Swap) -> Changed:
        slot = await self._bay.swap(of.disk, of.by)
        return Changed(slot.spec)

    # -- media -----------------------------------------------------------------------------------

    def eject(self, of: _Eject) -> None:
        _, dvd = self._drive(of.disk)
        with _unlocked():
            dvd.remove(force=of.force, released=Disk.close)
        self._bay.changed()

    def insert(self, of: _Insert) -> Making:
        return self._insert(of, *self._drive(of.disk))

    async def _insert(self, of: _Insert, slot: Slot, dvd: Dvd) -> Changed:
        disk = await blocking(lambda: open_disk(of.spec, read_only=True))
        try:
            with _unlocked():
                dvd.insert(disk, force=of.force, released=Disk.close)
        except BaseException:
            disk.close()
            raise
        slot.text = of.spec
        self._bay.changed()
        return Changed(slot.spec)

    def _drive(self, name: str) -> tuple[Slot, Dvd]:
        slot = self._bay.slot(name)
        if slot.dvd is None:
            raise Refused(f"{name[:80]} is no drive with media", "a DVD drive is one")
        return slot, slot.dvd

    # -- faults ----------------------------------------------------------------------------------

    def add_fault(self, of: _Fault) -> None:
        self.faults(of).add(of.rule)

    def faults(self, of: _OfController) -> Faults:
        controller = self._bay.controller(of.controller)
        if controller.faults is None:
            raise Refused(f"{controller.id}: {controller.kind} has no faults")
        return controller.faults


def _state_of(controller: Controller) -> ControllerState:
    under_way, oldest = commands(controller)
    return ControllerState(
        controller.id,
        controller.kind,
        controller.socket,
        controller.connected(),
        dict(controller.statistics()),
        [
            DiskState(
                controller.name(place),
                slot.spec,
                None if slot.disk is None else describe(slot.disk),
                None if slot.dvd is None else _tray(slot.dvd),
            )
            for place, slot in controller.slots.items()
        ],
        controller.stopped,
        list(controller.queues()),
        under_way,
        oldest,
    )


@contextmanager
def _unlocked() -> Iterator[None]:
    try:
        yield
    except Locked as error:
        raise Refused(str(error), "it was asked to let go; force takes the medium") from None


def _tray(dvd: Dvd) -> Literal["open", "closed", "locked"]:
    return "open" if dvd.tray_open else "locked" if dvd.locked else "closed"


def _only(name: str, disk: Disk, kind: type[AnyDisk], form: str) -> AnyDisk:
    """The first of its kind in a stack. Raises `Refused`."""
    for _, found in _below(name, disk, kind):
        return found
    raise Refused(f"{name[:80]} has no {form.partition(':')[0]}", f"start it with {form}:DISK")


def _below(name: str, disk: Disk, kind: type[AnyDisk]) -> Iterator[tuple[str, AnyDisk]]:
    """The disks of a kind in a stack, by their names."""
    if isinstance(disk, kind):
        yield name, disk
    for number, inner in enumerate(disk.inner):
        yield from _below(f"{name}/{number}", inner, kind)
