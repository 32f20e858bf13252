"""``drivebay qtest``."""

from __future__ import annotations

import signal
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import click

from drivebay.cli import ide, sata, virtio_blk
from drivebay.cli.controllers import Words, controller_options, drives_on, parse_controllers
from drivebay.cli.drives import open_drive
from drivebay.cli.errors import CliError
from drivebay.cli.floppy import FloppyConfig, floppy_option, parse_floppies
from drivebay.cli.ide import IdeDrive
from drivebay.cli.kind import ControllerConfig
from drivebay.cli.memory import parse_memory
from drivebay.cli.sata import SataDrive
from drivebay.cli.trace import refuse_trace

if TYPE_CHECKING:
    from drivebay.disk.contract import Disk
    from drivebay.hosts.qtest.runstate import RunState
    from drivebay.platform.engine import Engine
    from drivebay.platform.machine import Machine

__all__ = ["command"]
MACHINES: Final = ("pc", "q35", "virt")


@click.command(name="qtest")
@click.option(
    "--machine", type=click.Choice(MACHINES), default="pc", show_default=True, help="QEMU's name."
)
@click.option("--qtest", "qtest_path", required=True, metavar="PATH", help="A listening socket.")
@click.option("--qmp", "qmp_path", metavar="PATH", help="Another one.")
@click.option("-m", "--m", "memory", default="128M", show_default=True, help="The guest's memory.")
@click.option("--legacy", is_flag=True, help="virt: virtio-mmio says that it is version 1.")
@controller_options
@floppy_option
def command(
    machine: str,
    qtest_path: str,
    qmp_path: str | None,
    memory: str,
    legacy: bool,
    words: Words,
    floppies: Sequence[str],
) -> int:
    """Run a machine for device tests that speak QEMU's qtest protocol.

    It connects to two UNIX sockets, as QEMU does, on which the test listens: qtest for registers,
    memory and interrupts, QMP for the rest. It ends, with status 0, when the test hangs up, says
    quit or sends SIGTERM.

    A pc has a floppy drive, as QEMU's: without --floppy it is empty, and its name is floppy0.

    \b
    drivebay qtest --machine pc --qtest /tmp/qtest.sock --qmp /tmp/qmp.sock --ide mem:64M
    """
    from drivebay.cli.signals import signals
    from drivebay.hosts.qtest.runstate import RunState
    from drivebay.hosts.qtest.server import QtestHost
    from drivebay.platform.engine import Engine

    refuse_trace(words, "drivebay serve has them")
    configs = parse_controllers(words, may_be_none=True)
    drives = parse_floppies(floppies)
    _check(machine, configs, legacy)
    if drives and machine != "pc":
        raise CliError(f"--machine {machine} has no floppy controller", "--machine pc has one")
    ram_size = parse_memory("--m", memory)
    with ExitStack() as stack:
        engine = Engine()
        stack.callback(engine.close)
        state = RunState()
        built = _build(machine, engine, ram_size, legacy)
        _plug(built, state, configs, stack)
        if machine == "pc":
            _plug_floppies(built, state, drives, stack)
        handlers = {signal.SIGTERM: engine.stop, signal.SIGINT: engine.stop}
        with signals(engine, handlers):  # before the test can know of us: then it may end us
            qtest = _connect("--qtest", qtest_path)
            qmp = None if qmp_path is None else _connect("--qmp", qmp_path)
            host = QtestHost(built, state, qtest, qmp)
            engine.run()
        host.close()
    return 0


def _check(machine: str, configs: Sequence[ControllerConfig], legacy: bool) -> None:
    """Raise `CliError` for a controller that the machine has no place for."""
    wanted = {"pc": ide.KIND, "q35": sata.KIND, "virt": virtio_blk.KIND}[machine]
    for config in configs:
        if config.kind is not wanted:
            refused = f"--machine {machine} has no place for {config.kind.name}"
            raise CliError(refused, f"it has a place for {wanted.name}")
        if config.faults:
            raise CliError("--fault is for controllers on a socket", "drivebay serve has them")
        if config.record is not None:
            raise CliError("--record is for controllers on a socket", "drivebay serve has them")
        if config.socket is not None:
            raise CliError(f"{config.id}: socket={config.socket}", "there is none for a controller")
    if machine == "virt" and len(configs) > 1:
        raise CliError("--machine virt has one virtio-mmio transport", "leave one --virtio-blk")
    if machine == "q35" and len(configs) > 1:
        raise CliError("--machine q35 has one AHCI controller", "put up to six drives on it")
    if legacy and machine != "virt":
        raise CliError(f"--legacy makes no sense with --machine {machine}", "--machine virt")


def _build(machine: str, engine: Engine, ram_size: int, legacy: bool) -> Machine:
    if machine == "virt":
        from drivebay.machines.virt import Virt

        return Virt(ram_size, engine, version=1 if legacy else 2)
    if machine == "q35":
        from drivebay.machines.q35 import Q35

        return Q35(ram_size, engine)
    from drivebay.machines.ide import PcWithIde

    return PcWithIde(ram_size, engine)


def _plug(
    machine: Machine, state: RunState, configs: Sequence[ControllerConfig], stack: ExitStack
) -> None:
    """Open the disks, and put them into the machine by QEMU's names."""
    from drivebay.platform.machine import MachineError

    def plug(driver: str, name: str, disk: Disk, options: dict[str, object], stop: bool) -> None:
        guarded = state.guard(disk, name, stop=stop)
        stack.callback(guarded.close)
        try:
            machine.plug(driver, name, guarded, options)
        except MachineError as error:
            raise CliError(f"{name}: {error}") from None

    drives: list[IdeDrive | SataDrive] = drives_on(configs, ide.KIND)
    drives += drives_on(configs, sata.KIND)
    for drive in drives:
        driver, stop = "ide-cd" if drive.dvd else "ide-hd", drive.on_error == "stop"
        plug(driver, drive.name, open_drive(drive), _properties(drive), stop)
    for config in configs:
        for attached in config.disks if config.kind is virtio_blk.KIND else ():
            options: dict[str, object] = {
                "serial": attached.serial,
                "num-queues": config.settings.queues,
                "queue-size": config.settings.queue_size,
                "packed": config.settings.packed,
            }
            disk = attached.attachment.disk.open(attached.read_only)
            plug("virtio-blk-device", config.id, disk, options, stop=False)


def _plug_floppies(
    machine: Machine, state: RunState, drives: Sequence[FloppyConfig], stack: ExitStack
) -> None:
    for drive in drives:
        disk = state.guard(drive.open(), drive.name)
        stack.callback(disk.close)
        machine.plug("floppy", drive.name, disk, {"unit": drive.unit})
    if not drives:
        machine.plug("floppy", "floppy0", None, {"unit": 0})


def _properties(drive: IdeDrive | SataDrive) -> dict[str, object]:
    channel, unit = drive.place if isinstance(drive, IdeDrive) else (drive.place, 0)
    named = {"serial": drive.serial, "model": drive.model, "ver": drive.firmware}
    return {"bus": f"ide.{channel}", "unit": unit} | {k: v for k, v in named.items() if v}


def _connect(option: str, path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.connect(path.removeprefix("unix:"))
    except OSError as error:
        connection.close()
        raise CliError(
            f"{option} {path}: {error.strerror or error}",
            "the test must listen there before it starts drivebay",
        ) from None
    return connection
