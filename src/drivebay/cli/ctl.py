"""``drivebay ctl``: any method of a control socket."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

from drivebay.cli.disk_formats import parse_size
from drivebay.cli.errors import CliError
from drivebay.hosts.control.client import Control, ControlError
from drivebay.hosts.control.messages import Parameter, Type

__all__ = ["command", "complete_disk", "socket_argument"]


def socket_argument(function: Any) -> Any:
    """The control socket that a command talks to."""
    return click.argument("socket", type=click.Path())(function)


def complete_disk(context: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    """The names of the disks that begin so."""
    try:
        with Control(context.params["socket"], timeout=1) as bay:
            names = [disk.name for one in bay.tree().controllers for disk in one.disks]
    except ControlError:
        return []
    return [CompletionItem(name) for name in names if name.startswith(begun)]


def _complete_word(context: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    """A method, then the names that its next parameter may be."""
    try:
        with Control(context.params["socket"], timeout=1) as bay:
            known = bay.methods()
            names = list(known)
            if (method := context.params.get("method")) is not None:
                given = context.params.get("words") or ()
                names = _names(bay, _next(known.get(method, {}), given))
    except ControlError:
        return []
    return [CompletionItem(name) for name in names if name.startswith(begun)]


def _next(known: Mapping[str, Parameter], words: Sequence[str]) -> str:
    """The parameter that the word after `words` is, but for a disk that is yet to be opened."""
    named = {word.partition("=")[0] for word in words} & known.keys()
    plain = sum(word.partition("=")[0] not in known for word in words)
    found = next(iter([name for name in known if name not in named][plain:]), "")
    return "" if found == "disk" and "controller" in known else found


def _names(bay: Control, parameter: str) -> list[str]:
    tree = bay.tree().controllers
    controllers = [one.id for one in tree]
    disks = [disk.name for one in tree for disk in one.disks]
    return {"controller": controllers, "disk": disks, "of": controllers + disks}.get(parameter, [])


@click.command(name="ctl", context_settings={"ignore_unknown_options": True})
@socket_argument
@click.argument("method", shell_complete=_complete_word)
@click.argument("words", nargs=-1, shell_complete=_complete_word)
def command(socket: str, method: str, words: Sequence[str]) -> None:
    """Ask METHOD of the control socket SOCKET, with WORDS as its parameters.

    WORDS are its parameters in their order, or NAME=VALUE. `methods` lists the methods with their
    parameters. The result is printed as JSON.

    \b
    drivebay ctl /run/bay.sock methods
    drivebay ctl /run/bay.sock disk.add nvme mem:64M,nsid=7
    drivebay ctl /run/bay.sock disk.resize vda 20G
    drivebay ctl /run/bay.sock media.insert ide/s0 spec=iso:cd.iso force=true
    """
    import msgspec

    with Control(socket) as bay:
        known = bay.methods()
        if method not in known:
            raise CliError(f"there is no method {method}", f"methods: {', '.join(known)}")
        result = bay.call(method, **_params(method, known[method], words))
    if result is not None:
        click.echo(msgspec.json.format(msgspec.json.encode(result)).decode())


def _params(method: str, known: Mapping[str, Parameter], words: Sequence[str]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or name not in known:
            name = next((name for name in known if name not in given), "")
            value = word
        if not name or name in given:
            wanted = " ".join(name.upper() for name in known)
            raise CliError(f"{method}: {word} is one too many", f"{method} {wanted}".rstrip())
        given[name] = _value(f"{method}: {name}", known[name].type, value)
    return given


def _value(what: str, kind: Type, text: str) -> Any:
    if kind == "integer":
        return parse_size(text)
    if kind == "boolean":
        if text not in ("true", "false"):
            raise CliError(f"{what}={text}", "true or false")
        return text == "true"
    return text
