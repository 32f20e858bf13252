"""``drivebay nbd``: disks for programs that speak NBD."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any
from urllib.parse import quote

import click

from drivebay.cli.arguments import SPEC
from drivebay.cli.errors import CliError
from drivebay.cli.terminal import print_json
from drivebay.disk.nbd.messages import PORT

__all__ = ["command"]


@click.group(name="nbd")
def command() -> None:
    """Disks for programs that speak NBD."""


@command.command()
@click.argument("spec", type=SPEC)
@click.option("--socket", "path", metavar="PATH", help="Listen on a UNIX socket.")
@click.option("--port", type=click.IntRange(0, 65535), help=f"Listen on TCP; NBD's own is {PORT}.")
@click.option("--bind", default="localhost", show_default=True, help="Listen on TCP there.")
@click.option("--export-name", "name", default="", help="The name clients ask for, or none.")
@click.option("--read-only", is_flag=True, help="Refuse writes; others may read the disk too.")
@click.option(
    "--shared", default=64, show_default=True, type=click.IntRange(1), help="Clients at once."
)
@click.option("--tls-certificates", "folder", metavar="DIR", help="Serve by TLS only.")
@click.option("--tls-verify-peer", is_flag=True, help="Clients need a certificate, too.")
@click.option("--run", metavar="CMD", help="Serve while a shell command runs, and end as it does.")
@click.option("--json", "as_json", is_flag=True, help="Print the address as a line of JSON.")
def serve(
    spec: str,
    path: str | None,
    port: int | None,
    bind: str,
    name: str,
    read_only: bool,
    shared: int,
    folder: str | None,
    tls_verify_peer: bool,
    run: str | None,
    as_json: bool,
) -> int:
    """Serve the disk that SPEC names to NBD clients.

    They are qemu-img, nbdcopy, fio, Linux's nbd-client and the like. Prints its URI, then runs
    until SIGTERM or Ctrl-C. With --run CMD it ends when CMD does, with its status; CMD may use
    $uri, $unixsocket, $port and $exportname.

    \b
    drivebay nbd serve memdiff:disk.img --socket /tmp/nbd.sock
    drivebay nbd serve disk.img --read-only --run 'nbdinfo --map "$uri"'
    """
    from drivebay.disk.spec import parse
    from drivebay.hosts.listening import listen, listen_tcp

    if path is not None and port is not None:
        raise CliError("--socket and --port", "one server listens in one place")
    if tls_verify_peer and folder is None:
        raise CliError("--tls-verify-peer without TLS", "--tls-certificates DIR has the keys")
    node = parse(spec)
    tls = _tls(folder, tls_verify_peer)
    with ExitStack() as stack:
        if port is None:
            if path is None and run is None:
                raise CliError("no place to listen", "add --socket PATH, --port N or --run CMD")
            path = path or os.path.join(_folder(stack), "nbd.sock")
            listener = listen(path, "--socket PATH")
            stack.callback(_unlink, path)
            address = {"unixsocket": os.path.abspath(path)}
        else:
            listener = listen_tcp(bind, port, "--bind and --port")
            address = {"port": str(listener.getsockname()[1])}
        stack.callback(listener.close)
        address |= {"uri": _uri(address, bind, name, folder), "exportname": name}
        disk = node.open(read_only)
        return _serve(disk, listener, address, as_json, run, name=name, shared=shared, tls=tls)


def _serve(
    disk: Any,
    listener: socket.socket,
    address: dict[str, str],
    as_json: bool,
    run: str | None,
    **how: Any,
) -> int:
    from drivebay.cli.served import finish, refresh
    from drivebay.cli.signals import signals
    from drivebay.hosts.nbd.server import NbdServer
    from drivebay.platform.engine import Engine

    engine = Engine()
    server = NbdServer(disk, engine, listener, **how)
    command: _Command | None = None
    with signals(
        engine,
        {
            signal.SIGTERM: engine.stop,
            signal.SIGINT: engine.stop,
            signal.SIGHUP: lambda: engine.later(lambda: refresh(engine, [disk])),
        },
    ):
        if run is not None:
            command = _Command(run, address, engine.stop)
        elif as_json:
            print_json({"event": "ready", "pid": os.getpid(), **address, "size": disk.byte_count})
        else:
            click.echo(address["uri"])
        engine.run()
    status = command.end() if command is not None else 0
    server.close()
    finish(engine, lambda: not server.connected, [disk])
    return status


class _Command:
    """A shell command with `address` in its variables; `ended` is called, on a thread, when it has
    ended.
    """

    def __init__(self, run: str, address: dict[str, str], ended: Callable[[], None]) -> None:
        words = "".join(f"{name}={shlex.quote(value)}\n" for name, value in address.items())
        self._process = subprocess.Popen(["/bin/sh", "-c", words + run])
        self._ended = ended
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        self._process.wait()
        self._ended()

    def end(self) -> int:
        """End it if it has not; its status, 128 and more for a signal."""
        self._process.terminate()
        status = self._process.wait()
        return status if status >= 0 else 128 - status


def _tls(folder: str | None, verify_peer: bool) -> ssl.SSLContext | None:
    if folder is None:
        return None
    from drivebay.disk.nbd.tls import server_context

    try:
        return server_context(folder, verify_peer)
    except OSError as error:  # an SSLError is one
        raise CliError(
            f"{folder}: no TLS with what is there: {error.strerror or error}",
            "it needs server-cert.pem and server-key.pem; --tls-verify-peer needs ca-cert.pem",
        ) from None


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):  # a server that has ended has done it
        os.unlink(path)


def _folder(stack: ExitStack) -> str:
    return stack.enter_context(tempfile.TemporaryDirectory(prefix="drivebay-"))


def _uri(address: dict[str, str], bind: str, name: str, folder: str | None) -> str:
    """As the NBD URI specification has it."""
    scheme, export = "nbds" if folder else "nbd", quote(name, safe="")
    if "unixsocket" in address:
        return f"{scheme}+unix:///{export}?socket={quote(address['unixsocket'])}"
    host = f"[{bind}]" if ":" in bind else bind
    return f"{scheme}://{host}:{address['port']}/{export}"
