"""``drivebay inspect``: what is served, by its control socket."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

import click

from drivebay.cli.ctl import socket_argument
from drivebay.disk.tree import draw
from drivebay.hosts.control.client import Control
from drivebay.hosts.control.messages import ControllerState, DiskState, Tree

__all__ = ["command", "text"]

Counts = Mapping[str, Mapping[str, int]]


@click.command(name="inspect")
@socket_argument
@click.option("--watch", is_flag=True, help="Show it again and again, with rates, until Ctrl-C.")
@click.option(
    "--interval", default=1.0, show_default=True, type=click.FloatRange(0.1), help="Of --watch, s."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; with --watch a line each time.")
def command(socket: str, watch: bool, interval: float, as_json: bool) -> None:
    """Show what the server with the control socket SOCKET serves: its controllers, what they have
    done, and their disks.
    """
    import msgspec

    before: Counts = {}
    with Control(socket) as bay:
        while True:
            tree = bay.tree()
            if as_json:
                click.echo(msgspec.json.encode(tree).decode())
            else:
                shown = text(tree, before, interval)
                if watch:
                    click.clear()
                click.echo(shown)
            if not watch:
                return
            before = {each.id: each.statistics for each in tree.controllers}
            time.sleep(interval)


def text(tree: Tree, before: Counts, seconds: float) -> str:
    """The tree for a person, with rates since what was counted `seconds` ago."""
    return "\n".join(
        line
        for controller in tree.controllers
        for line in _lines(controller, before.get(controller.id, {}), seconds)
    )


def _lines(controller: ControllerState, before: Mapping[str, int], seconds: float) -> Iterator[str]:
    guest = "connected" if controller.connected else "no guest"
    yield f"{controller.id}: {controller.kind}, {guest}, {controller.socket}"
    counts = []
    for name, count in controller.statistics.items():
        rate = f" ({(count - before[name]) / seconds:.0f}/s)" if name in before else ""
        counts.append(f"{name} {count}{rate}")
    if counts:
        yield f"  {', '.join(counts)}"
    for disk in controller.disks:
        yield from (f"  {line}" for line in _disk(disk))


def _disk(disk: DiskState) -> Iterator[str]:
    tray = "" if disk.tray is None else f"  tray {disk.tray}"
    yield f"{disk.name}  {disk.spec or 'empty'}{tray}"
    if disk.disk is not None:
        yield from (f"  {line}" for line in draw(disk.disk).splitlines())
