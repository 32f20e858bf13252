"""``--trace FILE``: what is recorded of the controllers that are served."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from drivebay.cli.errors import CliError
from drivebay.disk.scanner import Scanner
from drivebay.disk.spec import parse
from drivebay.hosts.control.messages import Refused, Traced
from drivebay.suspend import blocking

if TYPE_CHECKING:
    from drivebay.cli.kind import Served
    from drivebay.disk.contract import Disk
    from drivebay.hosts.control.bay import Bay
    from drivebay.lab.trace import Recorder, TracedDisk
    from drivebay.platform.observer import Observed

__all__ = [
    "TraceDesk",
    "TraceWish",
    "parse_trace",
    "refuse_trace",
    "trace_wish",
    "traced",
]

FLAGS: Final = ("disk", "registers", "interrupts", "all")
MOST_DATA: Final = 1 << 20
HINT: Final = "FILE[,disk][,registers][,interrupts][,all][,data=SIZE]"


@dataclass(frozen=True)
class TraceWish:
    """Where a trace goes, and what is in it besides commands."""

    path: str
    disk: bool = False
    registers: bool = False
    interrupts: bool = False
    data: int = 0
    """Bytes of each disk operation that are kept."""


def parse_trace(text: str) -> TraceWish:
    """What ``FILE,OPTION,...`` says. Raises `CliError`."""
    from drivebay.lab.trace import TraceError, format_of

    path, *options = text.split(",")
    flags = {option for option in options if option in FLAGS}
    every = "all" in flags
    data = 0
    for option in options:
        if option.startswith("data="):
            data = Scanner(option.removeprefix("data="), lambda _: parse("mem:1M")).size()
            if data > MOST_DATA:
                raise CliError(f"--trace {text}: data of {data} bytes", f"{MOST_DATA} at most")
        elif option not in FLAGS:
            raise CliError(f"--trace {text}: {option!r}", HINT)
    try:
        format_of(path)
    except TraceError as error:
        raise CliError(f"--trace {error}", error.hint) from None
    return TraceWish(
        path,
        disk=every or "disk" in flags or data > 0,
        registers=every or "registers" in flags,
        interrupts=every or "interrupts" in flags,
        data=data,
    )


def trace_wish(words: Iterable[tuple[str, str]]) -> TraceWish | None:
    """The one trace that options wish for, if they do. Raises `CliError`."""
    wishes = [parse_trace(text) for name, text in words if name == "trace"]
    if len(wishes) > 1:
        raise CliError("two traces", "record one.dbtrace, and make more of it: drivebay lab trace")
    return wishes[0] if wishes else None


def refuse_trace(words: Iterable[tuple[str, str]], hint: str) -> None:
    """Raise `CliError` if a trace is wished for where none can be."""
    if trace_wish(words) is not None:
        raise CliError("--trace is for controllers on a socket", hint)


def traced(disk: Disk) -> Disk:
    """The disk, so that what is asked of it can be recorded at any time."""
    from drivebay.lab.trace import TracedDisk

    return TracedDisk(disk)


class TraceDesk:
    """Records what is served in `bay`, from `start` to `stop`."""

    def __init__(
        self, bay: Bay, served: Mapping[str, Served], dialects: Mapping[str, Callable[[], Any]]
    ) -> None:
        self._bay, self._served, self._dialects = bay, served, dialects
        self._wish: TraceWish | None = None
        self._recorder: Recorder | None = None
        self._taps: dict[tuple[str, str], tuple[Observed, Callable[[], None]]] = {}
        self._disks: dict[tuple[str, str], TracedDisk] = {}
        self._adopt()

    def start(self, text: str) -> None:
        """Begin to record what ``FILE,OPTION,...`` says. Raises `Refused`."""
        if self._recorder is not None:
            raise Refused("a trace is being recorded already", "trace.stop ends that")
        try:
            self.begin(parse_trace(text))
        except CliError as error:
            raise Refused(str(error), error.hint) from None

    def begin(self, wish: TraceWish) -> None:
        """The same. Raises `CliError`."""
        from drivebay.lab.trace import Recorder, RegisterTap, Source, TraceError, open_sink

        try:
            sink = open_sink(wish.path)
        except TraceError as error:
            raise CliError(f"--trace {error}", error.hint) from None
        self._adopt()
        self._wish, self._recorder = wish, Recorder(sink)
        for name, place in self._disks:
            self._record_disk(self._recorder, wish, name, place)
        for controller in self._bay.controllers.values():
            if wish.registers or wish.interrupts:
                source = Source(controller.id, controller.kind)
                tap = RegisterTap(
                    self._recorder, source, registers=wish.registers, interrupts=wish.interrupts
                )
                self._served[controller.id].server.watch(tap)
        self._tap(self._recorder)

    def stop(self) -> Any:
        """Record no more. Raises `Refused`."""
        recorder, wish = self._recorder, self._wish
        if recorder is None or wish is None:
            raise Refused("no trace is being recorded", "trace.start begins one")
        self._let_go()

        async def written() -> Traced:
            await blocking(recorder.close)
            return Traced(wish.path, recorder.lost)

        return written()

    def end(self) -> None:
        """The same, and wait until all is written."""
        recorder = self._recorder
        if recorder is not None:
            self._let_go()
            recorder.close()

    def _let_go(self) -> None:
        for _, end in self._taps.values():
            end()
        self._taps.clear()
        for disk in self._disks.values():
            disk.record(None)
        for served in self._served.values():
            served.server.watch(None)
        self._recorder = self._wish = None

    def refresh(self) -> None:
        """Disks may have come or gone."""
        new = self._adopt()
        if self._recorder is not None and self._wish is not None:
            for name, place in new:
                self._record_disk(self._recorder, self._wish, name, place)
            self._tap(self._recorder)

    def _adopt(self) -> list[tuple[str, str]]:
        """Find the disks that can be recorded: those that are new. To all others they are not
        there.
        """
        from drivebay.lab.trace import TracedDisk

        new, known = [], self._disks
        self._disks = {}
        for controller in self._bay.controllers.values():
            for place, slot in controller.slots.items():
                key = controller.id, place
                if isinstance(slot.inside, TracedDisk):
                    self._disks[key] = slot.inside
                    slot.inside = slot.inside.below
                    new.append(key)
                elif key in known and known[key].below is slot.inside:
                    self._disks[key] = known[key]
        return new

    def _record_disk(self, recorder: Recorder, wish: TraceWish, name: str, place: str) -> None:
        """Say how long its blocks are, and record what is asked of it if that is wished."""
        from drivebay.lab.trace import Source
        from drivebay.scsi.dvd.medium import BLOCK

        disk, slot = self._disks[name, place], self._bay.controllers[name].slots[place]
        size = disk.sector_size
        block = BLOCK if slot.dvd is not None else slot.block or size
        source = Source(name, part=place, block=block, sector_size=size)
        number = recorder.source(source)
        if wish.disk:
            disk.record(recorder, number, wish.data)

    def _tap(self, recorder: Recorder) -> None:
        """See the commands of whoever takes some, and no more those of whoever has gone."""
        from drivebay.lab.taps import tap_into
        from drivebay.lab.trace import Source

        found = {
            (controller.id, place): (controller.kind, observed)
            for controller in self._bay.controllers.values()
            for place, observed in controller.parts().items()
        }
        for key, (observed, end) in tuple(self._taps.items()):
            if key not in found or found[key][1] is not observed:
                end()
                del self._taps[key]
        for key, (kind, observed) in found.items():
            if key not in self._taps:
                dialect = self._dialects[kind]().__name__.rpartition(".")[2]
                tap = recorder.tap(Source(key[0], dialect, key[1]))
                self._taps[key] = observed, tap_into(observed, tap)
