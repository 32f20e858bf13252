"""``drivebay boot --host unicorn``: a PC in this process, without a virtual machine."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from drivebay.cli import ide
from drivebay.cli.controllers import drives_on
from drivebay.cli.drives import open_drive
from drivebay.cli.errors import CliError
from drivebay.cli.floppy import FloppyConfig
from drivebay.cli.ide import IdeDrive
from drivebay.cli.kind import ControllerConfig
from drivebay.cli.memory import parse_memory
from drivebay.cli.terminal import print_json, progress, stream

if TYPE_CHECKING:
    from drivebay.ata.device import Device
    from drivebay.platform.engine import Engine

__all__ = ["boot", "drives_of", "seabios"]

MOST_FIRMWARE: Final = 16 << 20
SEABIOS: Final = "usr/share/seabios/bios-256k.bin"
SERIAL_CONSOLE: Final = 0x3F8
"""Where SeaBIOS shows what would be on the screen: there is none."""


def drives_of(controllers: Sequence[ControllerConfig]) -> list[IdeDrive]:
    """The drives, each with its place. Raises `CliError` for what this PC does not carry."""
    if any(controller.kind is not ide.KIND for controller in controllers):
        raise CliError(
            "--host unicorn has IDE drives only, and --floppy", "--ide mem:64M, or leave --host out"
        )
    drives: list[IdeDrive] = drives_on(controllers, ide.KIND)
    for drive in drives:
        if drive.on_error == "stop":
            raise CliError(
                f"{drive.attachment.text}: nobody could let the guest go on",
                "on-error=stop works with drivebay qtest",
            )
    return drives


def seabios() -> str:
    """The path of SeaBIOS: the installed one, or Debian's package beside the system (200 KB).

    Raises `GuestError` if it cannot be had.
    """
    from drivebay.guests.debian import PackageSet, tree

    installed = Path("/") / SEABIOS
    if installed.exists():
        return str(installed)
    return str(tree(PackageSet("seabios", ("trixie",), ("seabios",), 10), progress) / SEABIOS)


def boot(
    drives: Sequence[IdeDrive],
    floppies: Sequence[FloppyConfig],
    firmware: str,
    memory: str,
    timeout: float,
    as_json: bool,
) -> int:
    """Run the firmware in the file of that name until the guest ends.

    The serial port is standard output and the debug port standard error; with `as_json` one object
    has both. Returns what the guest wrote to port 0xF4, or 0 when it halts or switches off. Raises
    `CliError` if it resets itself, or does nothing of this in `timeout` seconds.
    """
    try:
        from drivebay.hosts.emulator.unicorn_cpu import CpuError, End, X86Cpu
    except ImportError as error:
        raise CliError(f"--host unicorn: {error}", "pip install 'drivebay[unicorn]'") from error
    from drivebay.controllers.floppy import FloppyDrive
    from drivebay.controllers.ide import PiixIde
    from drivebay.machines.pc import Pc
    from drivebay.platform.engine import Engine

    ram_size = parse_memory("--memory", memory)
    serial, debug = bytearray(), bytearray()
    with ExitStack() as stack:
        engine = Engine(workers=0)
        stack.callback(engine.close)
        pc = Pc(
            engine,
            ram_size,
            firmware=_read(firmware),
            serial=serial.extend if as_json else stream,
            debug=debug.extend if as_json else _warn,
        )
        pc.fw_cfg.add_file("etc/sercon-port", SERIAL_CONSOLE.to_bytes(2, "little"))
        ide = PiixIde(pc.memory, (pc.line(14), pc.line(15)))
        for drive in drives:
            ide.attach(*drive.place, _open(drive, engine, stack))
        pc.bus.plug(1, 1, ide)
        for floppy in floppies:
            image = floppy.open()
            stack.callback(image.close)
            pc.attach_floppy(floppy.unit, FloppyDrive(image))
        began = time.monotonic()
        resets: list[None] = []
        pc.on_reset(lambda: resets.append(None))
        try:
            end = X86Cpu(pc).run(timeout, until=lambda: bool(resets))
        except CpuError as error:
            raise CliError(str(error), "--host qemu has a CPU that can do more") from error
    if as_json:
        outcome = {
            "end": end.value,
            "status": pc.exit_status or 0,
            "seconds": round(time.monotonic() - began, 3),
            "serial": serial.decode(errors="replace"),
            "debug": debug.decode(errors="replace"),
        }
        print_json(outcome)
    if end is End.STOPPED:
        raise CliError("the guest has reset itself", "firmware does so when nothing will boot")
    if end is End.TIMEOUT:
        raise CliError(f"the guest has not ended in {timeout:g} s", "--timeout gives it more")
    return pc.exit_status or 0


def _open(drive: IdeDrive, engine: Engine, stack: ExitStack) -> Device:
    disk = open_drive(drive)
    stack.callback(disk.close)
    return drive.device(disk, engine)


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
