"""Recordings of served PCI functions, and functions made again from them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from drivebay.cli.errors import CliError
from drivebay.cli.kind import ControllerConfig, opened_by

if TYPE_CHECKING:
    from drivebay.disk.contract import Disk
    from drivebay.lab.replay import Recorder, Recording
    from drivebay.platform.engine import Engine

__all__ = ["record", "replay"]

ANY_DISK = "mem:1M"
"""Stands in a recording for the disks' own names, which say nothing there: none is opened."""


def record(controller: ControllerConfig, engine: Engine) -> tuple[Recorder, ControllerConfig]:
    """What records a controller, and that with the recorder's disks. Raises `CliError`."""
    from drivebay.lab.replay import Recorder
    from drivebay.lab.trace import TracedDisk

    assert controller.record is not None
    words = list(controller.words)
    for disk in controller.disks:
        if getattr(disk, "passed", None) is not None:
            raise CliError("a drive of the host's cannot be recorded", "record it behind a disk")
        spec = disk.attachment.disk.text
        words = [(name, text.replace(spec, ANY_DISK, 1)) for name, text in words]
    header = {"words": words, "socket": controller.socket}
    recorder = Recorder(Path(controller.record), engine, header)

    def taped(disk: Disk) -> Disk:
        if not isinstance(disk, TracedDisk):
            return recorder.disk(disk)
        disk.below = recorder.disk(disk.below)  # a trace is of what the controller asks
        return disk

    return recorder, controller.wrapped(taped)


def replay(recording: Recording) -> int:
    """Have the function of a recording do it all again; how many entries there are.

    Raises `Divergence`, and `CliError` if no such function can be made.
    """
    from drivebay.cli.controllers import parse_controllers
    from drivebay.cli.functions import FunctionServer
    from drivebay.lab.replay import Player

    header = recording.header
    if not isinstance(header.get("words"), list):
        raise CliError(f"{recording.path} says of no controller", "Player replays it from Python")
    [controller] = parse_controllers([(name, text) for name, text in header["words"]])
    controller.socket = header["socket"]
    player = Player(recording)
    controller.disks = [opened_by(each, lambda _: player.disk()) for each in controller.disks]
    server = controller.kind.serve
    assert isinstance(server, FunctionServer)
    function, _, _ = server.make(controller, player.memory, player.engine)
    return player.play(function)
