"""The data plane: the process that holds the disks and serves the sockets, on one engine."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from drivebay.cli.kind import ControllerConfig, Served
from drivebay.cli.served import finish, refresh
from drivebay.cli.signals import signals
from drivebay.disk.contract import Disk
from drivebay.platform.engine import Engine

if TYPE_CHECKING:
    from drivebay.cli.metrics import MetricsDesk
    from drivebay.cli.trace import TraceDesk, TraceWish
    from drivebay.hosts.control.bay import Bay
    from drivebay.hosts.control.server import ControlServer

__all__ = ["DataPlane"]


class DataPlane:
    """Opens the disks of `controllers` and serves each on its listener of `listeners`.

    With a listener for `control` it can be looked at and changed; `changed` is called when it has
    been. With one for `metrics` it tells them there; a `trace` is recorded from the start. Raises
    `DiskOpenError` or `CliError` if a disk cannot be opened.
    """

    def __init__(
        self,
        controllers: Sequence[ControllerConfig],
        listeners: Sequence[socket.socket],
        control: socket.socket | None = None,
        metrics: socket.socket | None = None,
        trace: TraceWish | None = None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = Engine()
        if control is not None:
            from drivebay.cli.control import layered

            controllers = [controller.wrapped(layered) for controller in controllers]
        if control is not None or trace is not None:
            from drivebay.cli.trace import traced

            controllers = [controller.wrapped(traced) for controller in controllers]
        self._served: dict[str, Served] = {
            controller.id: controller.kind.serve(controller, self._engine, listener)
            for controller, listener in zip(controllers, listeners, strict=True)
        }
        self._bay: Bay | None = None
        self._control: ControlServer | None = None
        self._metrics: MetricsDesk | None = None
        self._tracing: TraceDesk | None = None
        if control is not None or metrics is not None or trace is not None:
            self._show(controllers, control, metrics, trace, changed)

    def _show(
        self,
        controllers: Sequence[ControllerConfig],
        control: socket.socket | None,
        metrics: socket.socket | None,
        trace: TraceWish | None,
        changed: Callable[[], None],
    ) -> None:
        """Let others look, and change what there is."""
        from drivebay.cli.control import bay_of
        from drivebay.cli.metrics import MetricsDesk
        from drivebay.cli.trace import TraceDesk
        from drivebay.hosts.control.methods import methods
        from drivebay.hosts.control.server import ControlServer

        def has_changed() -> None:
            desk.refresh()
            tracing.refresh()
            changed()

        self._bay = bay_of(controllers, self._served, has_changed)
        dialects = {each.kind.name: each.kind.dialect for each in controllers}
        desk = self._metrics = self._bay.metrics = MetricsDesk(self._bay, self._engine, dialects)
        tracing = self._tracing = TraceDesk(self._bay, self._served, dialects)
        self._bay.tracing = tracing
        if metrics is not None:
            desk.begin(metrics, owned=False)
        if trace is not None:
            tracing.begin(trace)
        if control is not None:
            known = methods(self._bay, self._engine.stop, lambda: self._engine.later(_crash))
            self._control = ControlServer(known, self._engine, control, owned=False)

    @property
    def sizes(self) -> list[int]:
        """Bytes of the disks of each controller."""
        return [
            sum(disk.byte_count for disk in served.places.disks) for served in self._served.values()
        ]

    @property
    def disks(self) -> list[Disk]:
        """All that are open."""
        if self._bay is not None:
            return self._bay.disks
        return [disk for served in self._served.values() for disk in served.places.disks]

    @property
    def persistent(self) -> bool:
        """Whether all that was flushed outlives this process."""
        return all(disk.persistent for disk in self.disks)

    def run(self, ready: Callable[[], None]) -> None:
        """Serve until SIGTERM or SIGINT; SIGHUP looks at the sizes of the disks again.

        `ready` is called when a signal can no longer be missed.
        """
        with signals(
            self._engine,
            {
                signal.SIGTERM: self._engine.stop,
                signal.SIGINT: self._engine.stop,
                signal.SIGHUP: lambda: self._engine.later(
                    lambda: refresh(self._engine, self.disks)
                ),
            },
        ):
            ready()
            self._engine.run()
        self._end()

    def _end(self) -> None:
        """Let requests under way end, and everything be stable."""
        if self._control is not None:
            self._control.close()
        if self._metrics is not None:
            self._metrics.stop()
        for served in self._served.values():
            served.end()
            served.server.close()
        finish(self._engine, self._at_rest, self._left())
        if self._tracing is not None:
            self._tracing.end()

    def _left(self) -> Iterator[Disk]:
        """The disks that are open when somebody looks: one may be closed until then."""
        yield from self.disks

    def _at_rest(self) -> bool:
        if self._control is not None and not self._control.at_rest:
            return False
        if self._bay is not None and not self._bay.at_rest:
            return False
        return not any(
            served.server.connected or not all(device.at_rest for device in served.places.devices)
            for served in self._served.values()
        )

    def statistics(self) -> list[dict[str, Any]]:
        """What each controller has done, of those that count it."""
        return [
            {"id": name, **served.statistics()}
            for name, served in self._served.items()
            if served.statistics is not None
        ]


def _crash() -> None:
    """As a bug would end us, or a front end."""
    os.kill(os.getpid(), signal.SIGKILL)
