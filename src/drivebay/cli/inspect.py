"""``drivebay inspect``: what is served, by its control socket."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

import click

from drivebay.cli.ctl import socket_argument
from drivebay.cli.live import Line, Paper, Style, View, plain, view
from drivebay.disk.tree import draw
from drivebay.hosts.control.client import Control
from drivebay.hosts.control.messages import CommandState, ControllerState, DiskState, Tree

__all__ = ["command", "lines"]

Counts = Mapping[str, Mapping[str, int]]

OLD, STUCK = 1.0, 10.0
"""Seconds from which on a command's age is marked."""


@click.command(name="inspect")
@socket_argument
@click.option("--watch", is_flag=True, help="Show it again and again, until q or Ctrl-C.")
@click.option(
    "--interval", default=1.0, show_default=True, type=click.FloatRange(0.1), help="Of --watch, s."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON; with --watch a line each time.")
def command(socket: str, watch: bool, interval: float, as_json: bool) -> None:
    """Show what the server with the control socket SOCKET serves: its controllers, what they have
    done, their queues and the commands under way, and their disks.
    """
    import msgspec

    before: Counts = {}
    seconds = interval
    with Control(socket) as bay, _view(watch and not as_json) as shown:
        while True:
            tree = bay.tree()
            if as_json:
                click.echo(msgspec.json.encode(tree).decode())
            else:
                shown.show(list(lines(tree, before, seconds)))
            if not watch:
                return
            before = {each.id: each.statistics for each in tree.controllers}
            passed = shown.wait(interval)
            if passed is None:
                return
            seconds = passed


def _view(live: bool) -> AbstractContextManager[View]:
    return view() if live and sys.stdout.isatty() else Paper(time.sleep)


def lines(tree: Tree, before: Counts, seconds: float) -> Iterator[Line]:
    """The tree for a person, with rates since what was counted `seconds` ago."""
    for controller in tree.controllers:
        yield from _controller(controller, before.get(controller.id, {}), seconds)


def _controller(
    controller: ControllerState, before: Mapping[str, int], seconds: float
) -> Iterator[Line]:
    guest = "connected" if controller.connected else "no guest"
    line: list[tuple[str, Style]] = [
        (controller.id, Style.NAME),
        (f": {controller.kind}, {guest}, {controller.socket}", Style.PLAIN),
    ]
    if controller.stopped:
        line.append(("  stopped", Style.BAD))
    yield line
    counts = []
    for name, count in controller.statistics.items():
        rate = f" ({(count - before[name]) / seconds:.0f}/s)" if name in before else ""
        counts.append(f"{name} {count}{rate}")
    if counts:
        yield plain(f"  {', '.join(counts)}")
    for queue in controller.queues:
        state = ", ".join(f"{name} {value}" for name, value in queue.state.items())
        yield [(f"  {queue.name}  ", Style.PLAIN), (state, Style.DIM)]
    yield from _commands(controller.commands, controller.under_way)
    for disk in controller.disks:
        yield from _disk(disk)


def _commands(commands: Sequence[CommandState], under_way: int) -> Iterator[Line]:
    if not under_way:
        return
    yield plain(f"  {under_way} under way, the oldest first" if under_way > 1 else "  1 under way")
    ages = [_age(each.age) for each in commands]
    width = max(map(len, ages), default=0)
    for each, age in zip(commands, ages, strict=True):
        style = Style.PLAIN if each.age < OLD else Style.OLD if each.age < STUCK else Style.BAD
        yield [
            (f"    {age:>{width}}  ", style),
            (each.name, Style.NAME),
            (f"  {each.place}  tag {each.tag}", Style.PLAIN),
        ]
    if under_way > len(commands):
        yield plain(f"    and {under_way - len(commands)} more")


def _age(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.1f} ms"
    return f"{seconds:.1f} s"


def _disk(disk: DiskState) -> Iterator[Line]:
    tray = "" if disk.tray is None else f"  tray {disk.tray}"
    yield [(f"  {disk.name}", Style.NAME), (f"  {disk.spec or 'empty'}{tray}", Style.PLAIN)]
    if disk.disk is not None:
        for line in draw(disk.disk).splitlines():
            yield [(f"    {line}", Style.DIM)]
