"""The image formats of ``drivebay disk``: how a new image is made, and how one is checked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from drivebay.cli.errors import CliError
from drivebay.disk.scanner import Node, Scanner, SpecError
from drivebay.disk.spec import EXTENSIONS, open_disk, parse

if TYPE_CHECKING:
    from drivebay.disk.contract import Disk
    from drivebay.disk.formats.problem import Problem
    from drivebay.disk.layers.layer import Layer

__all__ = [
    "FORMATS",
    "STORED_AS",
    "Format",
    "Found",
    "check_database",
    "create_image",
    "escaped",
    "format_of",
    "image_in",
    "image_spec",
    "opened_as",
    "parse_size",
]

Read = Callable[[str], Any]


class Found(NamedTuple):
    """What is wrong with an image: how often, and in words."""

    corruptions: int
    leaks: int
    problems: list[str]
    repaired: int = 0


@dataclass(frozen=True)
class Format:
    """What ``create``, ``convert`` and ``check`` know of a format. Its package is imported late."""

    name: str
    options: Mapping[str, Read]
    """What may be said with ``-o NAME=VALUE``, and what reads the value."""
    create: Callable[..., None]
    """``create(disk, size, backing, **options)`` makes the image."""
    check: Callable[[Disk, bool], Found]
    """``check(disk, repair)``; raises `CliError` where it cannot repair."""


class Backing(NamedTuple):
    """What a new image is to stand on: a path as the image will name it, and its format."""

    path: str
    format: str
    image: Layer | None = None
    """It, open, where the new image takes something from it."""


def _qcow2_create(
    disk: Disk, size: int, backing: Backing | None, compat: str = "1.1", **options: Any
) -> None:
    from drivebay.disk.formats.qcow2 import create

    path, format = (backing.path, backing.format) if backing else ("", "")
    version = 2 if compat == "0.10" else 3
    create(disk, size, version=version, backing=path, backing_format=format, **options)


def _qcow2_check(disk: Disk, repair: bool) -> Found:
    from drivebay.disk.formats.qcow2 import check

    found = check(disk, repair=repair)
    return Found(found.corruptions, found.leaks, found.problems, found.repaired)


def _vhd_create(
    disk: Disk, size: int, backing: Backing | None, subformat: str = "dynamic", **options: Any
) -> None:
    from drivebay.disk.formats.vhd import DiskType, create

    if backing:
        kind = DiskType.DIFFERENCING
        create(disk, size, kind=kind, parent=backing.image, parent_path=backing.path, **options)
    else:
        create(disk, size, kind=DiskType[subformat.upper()], **options)


def _vhd_check(disk: Disk, repair: bool) -> Found:
    from drivebay.disk.formats.vhd import check

    return _of_problems("vhd", check(disk), repair)


def _vhdx_create(
    disk: Disk, size: int, backing: Backing | None, subformat: str = "dynamic", **options: Any
) -> None:
    from drivebay.disk.formats.vhdx import create

    if backing and backing.image:
        options.setdefault("sector_size", backing.image.sector_size)
        create(disk, size, parent=backing.image, parent_path=backing.path, **options)
    else:
        create(disk, size, fixed=subformat == "fixed", **options)


def _vhdx_check(disk: Disk, repair: bool) -> Found:
    from drivebay.disk.formats.vhdx import check

    return _of_problems("vhdx", check(disk), repair)


def check_database(path: str, repair: bool) -> Found:
    """What is wrong with the sectors in the SQLite file `path`."""
    from drivebay.disk.layers.sqlite_check import check

    return _of_problems("sql", check(path), repair)


def _of_problems(format: str, problems: list[Problem], repair: bool) -> Found:
    from drivebay.disk.formats.problem import Severity

    if repair and problems:
        raise CliError(f"{format}: cannot be repaired", "leave out --repair")
    leaks = sum(problem.severity is Severity.LEAK for problem in problems)
    return Found(len(problems) - leaks, leaks, [problem.text for problem in problems])


NOT_SUPPORTED: Final = 63
"""What qemu-img check says of a format without checks."""


def _one_of(*values: str) -> Read:
    def read(text: str) -> str:
        if text not in values:
            raise CliError(f"{text}: not one of {', '.join(values)}")
        return text

    return read


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise CliError(f"{text}: not a whole number")
    return int(text)


def parse_size(text: str) -> int:
    """A size as specs have it. Raises `SpecError`."""
    scanner = Scanner(text, Scanner.disk)
    size = scanner.size()
    if scanner.next:
        raise SpecError(text, scanner.position, "the end of the size")
    return size


SUBFORMATS: Final = _one_of("dynamic", "fixed")
FORMATS: Final = {
    found.name: found
    for found in (
        Format(
            "qcow2",
            {
                "cluster_size": parse_size,
                "compat": _one_of("0.10", "1.1"),
                "refcount_bits": _number,
            },
            _qcow2_create,
            _qcow2_check,
        ),
        Format("vhd", {"subformat": SUBFORMATS, "block_size": parse_size}, _vhd_create, _vhd_check),
        Format(
            "vhdx",
            {"subformat": SUBFORMATS, "block_size": parse_size, "sector_size": parse_size},
            _vhdx_create,
            _vhdx_check,
        ),
    )
}
STORED_AS: Final = {"raw": "raw", "qcow2": "qcow2", "vhd": "vpc", "vhdx": "vhdx"}
"""By what name the header of an image, and so `chain.FORMATS`, calls a format."""


def opened_as(path: str) -> str | None:
    """The kind of disk that the bare `path` names by its extension, if that says one."""
    return EXTENSIONS.get(os.path.splitext(path)[1].lower())


def format_of(path: str) -> str:
    """The format of a new image, by its extension: ``raw`` or a name of `FORMATS`."""
    name = opened_as(path)
    return name if name in FORMATS else "raw"


def escaped(path: str) -> str:
    """`path` as it stands in a spec."""
    return path.replace(",", ",,").replace(";", ";;")


def image_spec(format: str, path: str, chain: bool = False) -> str:
    """The spec of the image of `format` in the file `path`; with `chain` over what it names."""
    file = f"file:{escaped(path)}"
    return file if format == "raw" else f"{format}:{'chain:' * chain}{file}"


def create_image(
    format: str,
    path: str,
    size: int | None,
    options: tuple[str, ...],
    *,
    sector: int = 512,
    backing: tuple[str, str] | None = None,
) -> None:
    """Make an image that holds nothing in the file `path`, which must not exist.

    `backing` is the path and the format of what it stands on, a relative path going from the
    folder of the image; without a `size` that has its. What fails leaves no file. Raises `CliError`
    and `DiskOpenError`.
    """
    if os.path.lexists(path):
        raise CliError(f"{path}: there is such a file already", "remove it, or use it as it is")
    if format != "raw" and format not in FORMATS:
        raise CliError(f"no format is called {format}", f"there are raw, {', '.join(FORMATS)}")
    known = FORMATS[format].options if format != "raw" else {}
    values = _options(format, known, options)
    if format == "raw":
        if backing or size is None:
            raise CliError("raw: stands on nothing", "-f qcow2 has backing files")
        open_disk(f"file:{escaped(path)};create={size};sector={sector}").close()
        return
    with _opened(format, path, backing) as below:
        size = below.image.byte_count if size is None and below and below.image else size
        assert size is not None
        disk = open_disk(f"file:{escaped(path)};create=512")
        try:
            FORMATS[format].create(disk, size, below, **values)
        except BaseException:
            os.unlink(path)
            raise
        finally:
            disk.close()


@contextmanager
def _opened(format: str, path: str, backing: tuple[str, str] | None) -> Iterator[Backing | None]:
    """The backing file of a new image, open and looked at."""
    if backing is None:
        yield None
        return
    from drivebay.disk.formats.chain import FORMATS as LAYERS
    from drivebay.disk.formats.chain import open_store

    name, kind = backing
    if kind not in STORED_AS:
        raise CliError(f"-F {kind}: no such format", f"there are {', '.join(STORED_AS)}")
    if format != "qcow2" and kind != format:
        raise CliError(f"{format}: stands on another {format} only", f"-F {format}")
    where = os.path.join(os.path.dirname(path), name)
    store = open_store(parse(f"file:{escaped(where)}"), read_only=True)
    try:
        image = LAYERS[STORED_AS[kind]](store, read_only=True)
    except BaseException:
        store.close()
        raise
    with closing(image):
        yield Backing(name, STORED_AS[kind], image)


def _options(format: str, known: Mapping[str, Read], options: tuple[str, ...]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for option in ",".join(options).split(",") if options else ():
        name, equals, value = option.partition("=")
        if name not in known or not equals:
            shown = ", ".join(f"{name}=" for name in known) or "none"
            raise CliError(f"-o {option}: no option of {format}", f"options: {shown}")
        values[name] = known[name](value)
    return values


def image_in(node: Node) -> tuple[Format, Node]:
    """The format of the image that `node` is, and the disk that holds it."""
    if node.kind not in FORMATS or len(node.inner) != 1:
        raise CliError(
            f"{node.text}: no image that can be checked",
            f"formats: {', '.join(FORMATS)}, sql",
            NOT_SUPPORTED,
        )
    return FORMATS[node.kind], node.inner[0]
