"""``drivebay disk``: look at disks, create, copy, compare, check and change them."""

from __future__ import annotations

import click

from drivebay.cli.arguments import SPEC
from drivebay.cli.ctl import complete_disk, socket_argument
from drivebay.cli.disk_copy import compare, convert, map_
from drivebay.cli.disk_images import check, commit, create, rebase, resize
from drivebay.cli.terminal import print_json
from drivebay.disk.spec import open_disk
from drivebay.disk.tree import describe, draw

__all__ = ["command"]


@click.group(name="disk")
def command() -> None:
    """Look at disks, create, copy, compare, check and change them."""


@command.command()
@click.argument("spec", type=SPEC)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(spec: str, as_json: bool) -> None:
    """Show the stack of disks that SPEC names.

    With their sizes, sector sizes, caches, what an unmap does, and the space they take.
    """
    disk = open_disk(spec, read_only=True)
    try:
        description = describe(disk)
    finally:
        disk.close()
    if as_json:
        print_json(description)
    else:
        click.echo(draw(description))


@command.command()
@socket_argument
@click.argument("disk", shell_complete=complete_disk)
@click.argument("layer")
def snapshot(socket: str, disk: str, layer: str) -> None:
    """Put LAYER on DISK of a running server.

    What is there now never changes again, and what is written goes to the layer. SOCKET is the
    server's control socket. LAYER is sqldiff:PATH;create, or memdiff. Prints the spec that opens
    the disk from now on.

    \b
    drivebay disk snapshot /run/bay.sock vda 'sqldiff:/srv/monday.dbhd;create'
    """
    from drivebay.hosts.control.client import Control

    with Control(socket) as bay:
        spec = bay.snapshot(disk, layer).spec
    if spec is not None:
        click.echo(spec)


for tool in (create, convert, compare, map_, check, resize, commit, rebase):
    command.add_command(tool)
