"""``drivebay serve``."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import click

from drivebay.cli import frontends
from drivebay.cli.controllers import (
    Words,
    check_servable,
    controller_options,
    parse_controllers,
)
from drivebay.cli.errors import CliError, told
from drivebay.cli.kind import ControllerConfig
from drivebay.cli.supervisor import CHANGED, READY, VOLATILE, end_with_parent, supervise
from drivebay.cli.terminal import print_json
from drivebay.cli.trace import TraceWish, trace_wish
from drivebay.hosts.vhost_user.server import inherited_sockets, listen

__all__ = ["command", "metrics_option"]


def metrics_option(function: Any) -> Any:
    """The option, which goes to `function` as `metrics`."""
    return click.option(
        "--metrics",
        metavar="ADDRESS:PORT|PATH",
        help="Measure commands, and let Prometheus read that there.",
    )(function)


@click.command(name="serve")
@controller_options
@click.option(
    "--control", metavar="PATH", help="Listen there for `inspect`, `ctl` and `disk snapshot`."
)
@metrics_option
@click.option("--json", "as_json", is_flag=True, help="Print each event as a line of JSON.")
@click.option("--exit-with-parent", is_flag=True, help="End when the parent process ends.")
def command(
    words: Words,
    control: str | None,
    metrics: str | None,
    as_json: bool,
    exit_with_parent: bool,
) -> int:
    """Serve controllers with disks to virtual machines, each on a socket.

    virtio-blk and SCSI go by vhost-user; IDE, AHCI, NVMe, virtio-blk-pci and
    scsi-pci by vfio-user.

    Prints the arguments with which QEMU and cloud-hypervisor attach to them, then runs until
    SIGTERM or Ctrl-C. SIGHUP looks at the sizes of the disks again, and tells the guests.

    \b
    drivebay serve --virtio-blk file:disk.img,socket=/tmp/vda.sock
    drivebay serve --virtio-blk 'memdiff:file:base.img' --virtio-blk mem:1G
    drivebay serve --ahci file:disk.img,socket=/tmp/ahci.sock --ahci iso:cd.iso,dvd
    drivebay serve --nvme file:disk.img --nvme mem:1G,nsid=7
    drivebay serve --scsi file:disk.img --scsi iso:cd.iso,dvd,lun=7
    """
    if exit_with_parent:
        end_with_parent(os.getppid())
    configs = parse_controllers(words)
    check_servable(configs)
    wish = trace_wish(words)
    with ExitStack() as stack:
        listeners = _listeners(configs, stack)
        controlling = None if control is None else _listen(control, stack, "--control PATH")
        telling = None if metrics is None else _telling(metrics, stack)
        watched = controlling, telling, wish
        return supervise(lambda say: _serve(configs, listeners, watched, as_json, say))


def _listeners(configs: Sequence[ControllerConfig], stack: ExitStack) -> list[socket.socket]:
    """A socket for each controller: handed to us, named, or in a folder of its own."""
    inherited = inherited_sockets()
    wanting = [config for config in configs if config.socket is None]
    if len(inherited) > len(wanting):
        raise CliError(
            f"{len(inherited)} sockets were handed over for {len(wanting)} controllers",
            "leave socket=PATH out where a socket comes from LISTEN_FDS",
        )
    folder = ""
    listeners = []
    for config in configs:
        if config.socket is None and inherited:
            listener = inherited.pop(0)
            config.socket = str(listener.getsockname())
        else:
            if config.socket is None:
                folder = folder or _own_folder(stack)
                config.socket = os.path.join(folder, f"{config.id}.sock")
            listener = _listen(config.socket, stack)
        listeners.append(listener)
    return listeners


def _listen(path: str, stack: ExitStack, option: str = "socket=PATH") -> socket.socket:
    listener = listen(path, option)
    stack.callback(_unlink, path)
    return listener


def _telling(address: str, stack: ExitStack) -> socket.socket:
    from drivebay.cli.metrics import listen_metrics

    listener = listen_metrics(address)
    if listener.family == socket.AF_UNIX:
        stack.callback(_unlink, address)
    return listener


def _own_folder(stack: ExitStack) -> str:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    place = runtime if runtime and os.access(runtime, os.W_OK) else None
    folder = tempfile.mkdtemp(prefix="drivebay-", dir=place)
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _unlink(path: str) -> None:
    if os.path.exists(path):
        os.unlink(path)


def _serve(
    configs: Sequence[ControllerConfig],
    listeners: Sequence[socket.socket],
    watched: tuple[socket.socket | None, socket.socket | None, TraceWish | None],
    as_json: bool,
    say: Callable[[bytes], None],
) -> int:
    """The data plane's process. `watched` are the sockets for control and metrics, and a trace."""
    from drivebay.cli.dataplane import DataPlane

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        plane = DataPlane(configs, listeners, *watched, changed=_once(say))
        lines = [_line(config, size) for config, size in zip(configs, plane.sizes, strict=True)]

        def announce() -> None:
            say(READY if plane.persistent else VOLATILE)
            if as_json:
                print_json({"event": "ready", "pid": os.getpid(), "controllers": lines})
            else:
                _print_ready(lines, *watched[:2])

        plane.run(announce)
        if as_json:
            print_json({"event": "end", "controllers": plane.statistics()})
    except BrokenPipeError:  # whoever wanted to be told has gone
        return 1
    except Exception as error:
        known = told(error)
        if known is None:
            traceback.print_exc()
            return 1
        sys.stderr.write(
            f"drivebay: error: {known}\n" + (f"hint: {known.hint}\n" * bool(known.hint))
        )
        return 1
    return 0


def _once(say: Callable[[bytes], None]) -> Callable[[], None]:
    """Says that something has changed, once."""
    words = [CHANGED]

    def changed() -> None:
        while words:
            say(words.pop())

    return changed


def _line(config: ControllerConfig, size: int) -> dict[str, Any]:
    assert config.socket is not None
    line = {
        "id": config.id,
        "kind": config.kind.name,
        "disk": " and ".join(attachment.disk.text for attachment in config.attachments),
        "size": size,
        "socket": config.socket,
        "qemu": config.kind.qemu(config, config.socket),
    }
    if config.kind.cloud_hypervisor is not None:
        line["cloud-hypervisor"] = config.kind.cloud_hypervisor(config, config.socket)
    return line


def _print_ready(
    lines: Sequence[dict[str, Any]],
    control: socket.socket | None,
    metrics: socket.socket | None,
) -> None:
    from shlex import join, quote

    from drivebay.disk.tree import size_text

    for line in lines:
        size = f", {size_text(line['size'])}" if line["size"] else ""  # a real drive's is its own
        click.echo(f"{line['id']}: {line['kind']}, {line['disk']}{size}")
        click.echo(f"  socket            {line['socket']}")
        click.echo(f"  QEMU              {join(line['qemu'])}")
        if "cloud-hypervisor" in line:
            click.echo(f"  cloud-hypervisor  {join(line['cloud-hypervisor'])}")
    if control is not None:
        path = control.getsockname()
        click.echo(f"control socket {path}: drivebay inspect {quote(path)} shows all this")
    if metrics is not None:
        from drivebay.cli.metrics import where

        click.echo(f"metrics        {where(metrics)}")
    click.echo(f"process {os.getppid()}: Ctrl-C or SIGTERM ends it, SIGHUP looks at sizes again")
    click.echo(f"QEMU also needs shared memory: {join(frontends.SHARED_MEMORY)}")
    click.echo("                               -machine q35,memory-backend=mem -m 1G")
    if any("reconnect-ms" in " ".join(line["qemu"]) for line in lines):
        click.echo("QEMU before 9.2 says reconnect=1 for reconnect-ms=100.")
    if any("vfio-user" in " ".join(line["qemu"]) for line in lines):
        click.echo("vfio-user-pci needs QEMU 10.1, and is not attached again if we end.")
    sys.stdout.flush()
