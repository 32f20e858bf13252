"""What a person does wrong, over all commands: a line, mostly a hint, and exit status 1."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
import pytest

from drivebay.cli.main import cli, main

MISTAKES = {
    "disk info": "Missing argument 'SPEC'",
    "disk info nosuch.img": "nosuch.img: No such file",
    "disk info folder": "folder: is a folder",
    "disk info block:nosuch": "nosuch: No such file",
    "disk info block:disk.img": "is a file",
    "disk info notes.qcow2": "notes.qcow2: not a qcow2 image",
    "disk info notes.vhd": "notes.vhd: vhd: no footer",
    "disk info notes.vhdx": "notes.vhdx: vhdx: the image does not begin",
    "disk info notes.dbhd": "notes.dbhd: is not an SQLite database",
    "disk info @notes.toml": "notes.toml: ",
    "disk info crypt:xts-aes-256:notes.vhd:disk.img": "a key of 64 bytes is wanted",
    "disk info luks:notes.vhd:disk.img": "disk.img: no LUKS volume",
    "disk create disk.img 1M": "there is such a file already",
    "disk create new.img": "how large?",
    "disk create new.img 1MB": "character 3 is 'B'",
    "disk create new.dbhd 1M": "a database of sectors is not made here",
    "disk create nowhere/new.img 1M": "No such file",
    "disk create new.vhd 10T": "no image has",
    "disk create new.qcow2 1M -o cluster_size=3": "clusters of 3 bytes",
    "disk create new.qcow2 1M -f vmdk": "no format is called vmdk",
    "disk convert disk.img disk.img": "there is such a file already",
    "disk convert -n disk.img nosuch.img": "No such file",
    "disk resize disk.img 512": "has 1M, more than 512 bytes",
    "disk resize iso:disk.img 2M": "disk.img: it is only read",
    "disk commit disk.img": "has no layers",
    "disk rebase disk.img disk.img": "no layer that can be moved",
    "nbd serve disk.img": "no place to listen",
    "nbd serve disk.img --port 0 --socket x": "--socket and --port",
    "nbd serve disk.img --port 99999": "99999 is not in the range",
    "nbd serve disk.img --socket nowhere/x": "there is no folder nowhere",
    "nbd serve disk.img --socket disk.img": "not a socket",
    "nbd serve disk.img --port 0 --tls-verify-peer": "--tls-verify-peer without TLS",
    "nbd serve disk.img --port 0 --tls-certificates folder": "no TLS with what is there",
    "boot": "nothing to serve",
    "boot --virtio-blk": "requires an argument",
    "boot --virtio-blk ro,mem:1M": "character 4 is 'm'",
    "boot --virtio-blk mem:1M -m 12X": "character 3 is 'X'",
    "boot --virtio-blk mem:1M -m 1": "--memory 1",
    "boot --virtio-blk mem:1M --cpus 0": "'--cpus'",
    "boot --virtio-blk mem:1M --timeout 0": "'--timeout'",
    "boot --virtio-blk mem:1M --kernel nosuch": "'nosuch' does not exist",
    "boot --virtio-blk mem:1M --kernel disk.img --firmware ovmf": "two ways to boot",
    "boot --host unicorn --nvme mem:1M,socket=nvme.sock": "in this process has none",
    "qtest --qtest nosuch": "nosuch: No such file",
    "qtest --qtest nosuch --machine virt --ide mem:1M": "no place for ide",
    "qtest --qtest nosuch --ide mem:1M --fault read:drop": "controllers on a socket",
    "serve disk.img": "unexpected extra argument",
    "completion": "Missing argument 'SHELL'. Choose from: bash, zsh, fish",
    "completion tcsh": "'tcsh' is not one of",
    "nosuch": "No such command",
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("disk.img").write_bytes(bytes(1 << 20))
    for name in ("notes.qcow2", "notes.vhd", "notes.vhdx", "notes.dbhd", "notes.toml"):
        Path(name).write_text("not what its name says")


@pytest.mark.parametrize(("line", "message"), MISTAKES.items())
def test_a_mistake_is_told_in_a_line(
    line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(shlex.split(line)) == 1
    out, err = capsys.readouterr()
    first, *rest = err.splitlines()
    assert first.startswith("drivebay: error: ")
    assert message in first
    assert len(rest) <= 1
    assert all(line.startswith("hint: ") for line in rest)
    assert out == ""
    assert Path("disk.img").stat().st_size == 1 << 20


def test_where_one_cannot_listen_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nbd", "serve", "disk.img", "--bind", "192.0.2.1", "--port", "10809"]) == 1
    assert main(["nbd", "serve", "disk.img", "--socket", "folder"]) == 1
    assert capsys.readouterr().err == (
        "drivebay: error: 192.0.2.1 port 10809: Cannot assign requested address\n"
        "hint: choose another with --bind and --port\n"
        "drivebay: error: socket folder: there is a file of that name that is not a socket\n"
        "hint: choose another name with --socket PATH\n"
    )


@pytest.mark.parametrize("line", ["", "disk", "nbd"])
def test_a_command_alone_shows_its_commands(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 1
    assert capsys.readouterr().err.startswith(f"Usage: drivebay {line}".rstrip())


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The words of every command that has no others below it."""
    if not isinstance(command, click.Group):
        return [path]
    context = click.Context(command)
    found = []
    for name in command.list_commands(context):
        below = command.get_command(context, name)
        assert below is not None
        found += leaves(below, (*path, name))
    return found


@pytest.mark.parametrize("path", leaves(cli), ids=" ".join)
def test_help_says_what_each_option_is_and_fits(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """Examples are as long as they are; all else is wrapped."""
    assert main([*path, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"Usage: drivebay {' '.join(path)}")
    assert all(len(line) <= 80 or line.startswith("  drivebay ") for line in lines)
    command: click.Command | None = cli
    for name in path:
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), name)
    assert command is not None
    if len(path) > 1:  # its group shows the first sentence, in what 80 columns leave
        assert not command.get_short_help_str(64).endswith("...")
    for parameter in command.params:
        assert isinstance(parameter, click.Argument) or getattr(parameter, "help", None)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("drivebay ", {"boot", "disk", "serve"}),
        ("drivebay disk re", {"rebase", "resize"}),
        ("drivebay boot --v", {"--virtio-blk"}),
        ("drivebay completion ", {"bash", "zsh", "fish"}),
        ("drivebay disk info di", {"di"}),  # the shell itself looks for files
    ],
)
def test_a_shell_completes(
    words: str,
    found: set[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("_DRIVEBAY_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    with pytest.raises(SystemExit):
        main([])
    said = {line.partition(",")[2] for line in capsys.readouterr().out.splitlines()}
    assert found <= said
