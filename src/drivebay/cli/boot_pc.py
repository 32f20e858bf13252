"""Guests on a PC of our own, whoever runs its CPU: ``drivebay boot --host unicorn`` and ``kvm``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from drivebay.cli import ide, nvme, sata, scsi, virtio_blk
from drivebay.cli.controllers import check_disks, drives_on
from drivebay.cli.drives import open_drive
from drivebay.cli.errors import CliError
from drivebay.cli.floppy import FLOPPIES, FloppyConfig
from drivebay.cli.functions import judge
from drivebay.cli.ide import IdeDrive
from drivebay.cli.kind import ControllerConfig
from drivebay.cli.memory import parse_memory
from drivebay.cli.terminal import print_json, progress, stream

if TYPE_CHECKING:
    from drivebay.disk.contract import Disk
    from drivebay.hosts.cpu import End
    from drivebay.machines.pc import Pc

__all__ = ["Host", "Wanted", "boot", "check", "seabios"]

MOST_FIRMWARE: Final = 16 << 20
SEABIOS: Final = "usr/share/seabios/bios-256k.bin"
SERIAL_CONSOLE: Final = 0x3F8
"""Where SeaBIOS shows what would be on the screen: there is none."""


FUNCTIONS: Final = {
    sata.KIND.name: sata.build,
    nvme.KIND.name: nvme.build,
    virtio_blk.KIND.name: virtio_blk.build,
    virtio_blk.PCI.name: virtio_blk.build,
    scsi.KIND.name: scsi.build,
    scsi.PCI.name: scsi.build,
}
"""What makes the PCI functions that go into free slots."""

Until = Callable[[], bool]


@dataclass(frozen=True)
class Wanted:
    """What was said of a machine. `firmware` is a path; "" where a kernel is started instead."""

    controllers: Sequence[ControllerConfig]
    floppies: Sequence[FloppyConfig]
    firmware: str
    memory: str
    timeout: float
    as_json: bool
    strict_floppies: bool = False
    """What a driver of the floppy controller may not do is logged."""


class Host(Protocol):
    """Who runs the CPU of a machine."""

    wall_clock: bool
    """Whether time is real there."""
    cpus: int

    def attach(self, pc: Pc, controller: ControllerConfig, stack: ExitStack) -> bool:
        """Put a controller that no PC has into the machine; False if it cannot."""

    def accelerate(self, pc: Pc, drive: IdeDrive, disk: Disk) -> None:
        """Show the guest an IDE drive in another way, too, if it knows one."""

    def run(self, pc: Pc, timeout: float, until: Until) -> End:
        """Run until the guest or its time ends, or `until` holds. Raises `CliError`."""


def check(controllers: Sequence[ControllerConfig]) -> None:
    """Raise `CliError` for what this machine cannot do with its controllers."""
    for controller in controllers:
        if controller.faults:
            raise CliError("--fault is for controllers on a socket", "leave --host out")
        if controller.record is not None:
            raise CliError("--record is for controllers on a socket", "leave --host out")
        if controller.socket is not None:
            raise CliError(
                f"socket={controller.socket}: a controller in this process has none",
                "leave socket= out, or --host",
            )
        check_disks(controller)
        for drive in controller.disks:
            if getattr(drive, "on_error", None) == "stop":
                raise CliError(
                    f"{drive.attachment.text}: nobody could let the guest go on",
                    "on-error=stop works with drivebay qtest",
                )


def seabios() -> str:
    """The path of SeaBIOS: the installed one, or Debian's package beside the system (200 KB).

    Raises `GuestError` if it cannot be had.
    """
    from drivebay.guests.debian import PackageSet, tree

    installed = Path("/") / SEABIOS
    if installed.exists():
        return str(installed)
    return str(tree(PackageSet("seabios", ("trixie",), ("seabios",), 10), progress) / SEABIOS)


def boot(host: Host, wanted: Wanted) -> int:
    """Run the machine until its guest ends.

    The serial port is standard output and the debug port standard error; with `as_json` one object
    has both. Returns what the guest wrote to port 0xF4, or 0 when it halts or switches off. Raises
    `CliError` if firmware resets it, or it does nothing of this in the time it has.
    """
    from drivebay.hosts.cpu import End
    from drivebay.machines.pc import Pc
    from drivebay.platform.engine import Engine

    ram_size = parse_memory("--memory", wanted.memory)
    serial, debug = bytearray(), bytearray()
    with ExitStack() as stack:
        engine = Engine(workers=0)
        stack.callback(engine.close)
        pc = Pc(
            engine,
            ram_size,
            firmware=_read(wanted.firmware) if wanted.firmware else b"",
            serial=serial.extend if wanted.as_json else stream,
            debug=debug.extend if wanted.as_json else _warn,
            wall_clock=host.wall_clock,
            cpus=host.cpus,
        )
        pc.fw_cfg.add_file("etc/sercon-port", SERIAL_CONSOLE.to_bytes(2, "little"))
        _attach(host, pc, wanted, stack)
        began = time.monotonic()
        resets: list[None] = []
        pc.on_reset(lambda: resets.append(None))
        end = host.run(pc, wanted.timeout, until=lambda: bool(resets))
    if wanted.as_json:
        outcome = {
            "end": end.value,
            "status": pc.exit_status or 0,
            "seconds": round(time.monotonic() - began, 3),
            "serial": serial.decode(errors="replace"),
            "debug": debug.decode(errors="replace"),
        }
        print_json(outcome)
    if end is End.STOPPED and wanted.firmware:
        raise CliError("the guest has reset itself", "firmware does so when nothing will boot")
    if end is End.TIMEOUT:
        raise CliError(
            f"the guest has not ended in {wanted.timeout:g} s", "--timeout gives it more"
        )
    return pc.exit_status or 0


def _attach(host: Host, pc: Pc, wanted: Wanted, stack: ExitStack) -> None:
    """The drives: IDE's and floppies at their places of old, functions in the free slots."""
    from drivebay.controllers.floppy import FloppyDrive
    from drivebay.controllers.ide import PiixIde

    piix = PiixIde(pc.memory, (pc.line(14), pc.line(15)))
    drives: list[IdeDrive] = drives_on(wanted.controllers, ide.KIND)
    for drive in drives:
        disk = open_drive(drive)
        stack.callback(disk.close)
        piix.attach(*drive.place, drive.device(disk, pc.engine))
        host.accelerate(pc, drive, disk)
    for controller in wanted.controllers:
        if controller.kind is ide.KIND:
            judge(piix, controller)
    pc.bus.plug(1, 1, piix)
    for controller in wanted.controllers:
        if controller.kind is ide.KIND or host.attach(pc, controller, stack):
            continue
        build = FUNCTIONS[controller.kind.name]
        function, places = build(controller, pc.memory, pc.engine)
        for disk in places.disks:
            stack.callback(disk.close)
        judge(function, controller)
        pc.plug(function)
    for floppy in wanted.floppies:
        image = floppy.open()
        stack.callback(image.close)
        pc.attach_floppy(floppy.unit, FloppyDrive(image))
    if wanted.strict_floppies:
        from drivebay.lab.strict import Sins, be_strict_with_floppies

        be_strict_with_floppies(pc.floppy, pc.ports, Sins(), FLOPPIES)


def _read(path: str) -> bytes:
    try:
        firmware = Path(path).read_bytes()
    except OSError as error:
        raise CliError(f"firmware {path}: {error.strerror}") from error
    if not 0 < len(firmware) <= MOST_FIRMWARE:
        raise CliError(
            f"firmware {path}: {len(firmware)} bytes", "up to 16M, such as bios-256k.bin"
        )
    return firmware


def _warn(output: bytes) -> None:
    """The debug port's output, as it comes."""
    sys.stderr.buffer.write(output)
    sys.stderr.buffer.flush()
