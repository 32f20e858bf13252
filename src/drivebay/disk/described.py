"""Disks described as JSON or TOML: the tree of a spec with its fields by name.

A description is an object: ``kind``, and what the kind's form shows. Words in capitals are fields,
in small letters: ``PATH`` is ``path``. ``[;name]`` and ``[name:]`` are booleans, ``[;name=N]`` and
``[name=N:]`` are values. A disk is an object again, or a spec; ``[DISK]...`` is ``disks``, an
array::

    {"kind": "memdiff", "disk": {"kind": "file", "path": "base.img", "cache": "none"}}

It becomes the text that says the same, which is then read as if somebody had typed it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from typing import Any, Final

import msgspec

from drivebay.disk.errors import DiskOpenError
from drivebay.disk.scanner import DEEPEST, Kind

__all__ = ["Rendered", "load"]

LONGEST: Final = 1 << 20
TOKEN: Final = re.compile(
    r"(?P<disks>\[DISK\]\.\.\.)|\[;(?P<flag>[a-z_-]+)\]|\[;(?P<option>[a-z_-]+)=[^]]*\]"
    r"|\[(?P<word>[a-z]+):\]|\[(?P<named>[a-z]+)=[A-Z]+:\]"
    r"|\[(?P<maybe>[A-Z_]+)\]|(?P<field>[A-Z_]+)|(?P<text>.)"
)

Find = Callable[[str], Kind | None]


class Rendered:
    """The text that says what a description does.

    `find` gives the kind of a name. Raises `DiskOpenError` for a description that has no such text,
    with `source` and the field.
    """

    def __init__(self, source: str, description: Any, find: Find) -> None:
        self.source = source
        self._find = find
        self._parts: list[tuple[str, str]] = []  # text, and the field it comes from
        self._disk(description, "")
        self.text = "".join(text for text, _ in self._parts)

    def field_at(self, position: int) -> str:
        """The field that character `position` of the text comes from, as in ``disk.size``."""
        end = 0
        for text, where in self._parts:
            end += len(text)
            if position < end:
                return where
        return self._parts[-1][1]

    def _disk(self, value: Any, where: str) -> None:
        if isinstance(value, str):
            self._parts.append((value, where))
            return
        if not isinstance(value, dict):
            raise self._error(where, "a disk is an object or the text of a spec")
        if where.count(".") >= 2 * DEEPEST:
            raise self._error(where, f"more than {DEEPEST} disks in each other")
        name = value.get("kind")
        kind = self._find(name) if isinstance(name, str) else None
        if kind is None:
            raise self._error(_join(where, "kind"), f"no kind of disk is {name!r}")
        self._parts.append((f"{name}:", _join(where, "kind")))
        self._fields(kind, {key: field for key, field in value.items() if key != "kind"}, where)

    def _fields(self, kind: Kind, fields: dict[str, Any], where: str) -> None:
        form = kind.form.partition(":")[2]
        for token in TOKEN.finditer(form):
            sort = token.lastgroup
            shown = token[sort or 0]
            name = "disks" if sort == "disks" else shown.lower()
            at = _join(where, name)
            if sort == "text":
                self._parts.append((shown, where))
            elif name not in fields:
                if sort in ("field", "disks"):
                    raise self._error(at, f"is missing: {kind.form}")
            elif sort == "disks":
                self._disks(fields.pop(name), at)
            elif name == "disk":
                self._disk(fields.pop(name), at)
            else:
                stops = ";,:" if ":" in form[token.end() :] else ";,"
                stops = ":" if sort == "named" else stops
                self._value(sort, name, fields.pop(name), at, stops)
        if fields:
            raise self._error(_join(where, min(fields)), f"no such field: {kind.form}")

    def _disks(self, value: Any, at: str) -> None:
        if not isinstance(value, list) or not value:
            raise self._error(at, "is an array of disks")
        for number, disk in enumerate(value):
            self._parts.append(("[", at))
            self._disk(disk, f"{at}.{number}")
            self._parts.append(("]", at))

    def _value(self, sort: str | None, name: str, value: Any, at: str, stops: str) -> None:
        if sort in ("flag", "word"):
            if not isinstance(value, bool):
                raise self._error(at, "is true or false")
            self._parts.append(((f";{name}" if sort == "flag" else f"{name}:") * value, at))
            return
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise self._error(at, "is a text or a whole number")
        text = "".join(character * (1 + (character in stops)) for character in str(value))
        before, after = {"option": (f";{name}=", ""), "named": (f"{name}=", ":")}.get(
            sort or "", ("", "")
        )
        self._parts.append((before + text + after, at))

    def _error(self, where: str, what: str) -> DiskOpenError:
        return DiskOpenError(f"{self.source}: {where or 'the whole'}: {what}")


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def load(path: str) -> Any:
    """What the JSON or TOML file `path` holds. Raises `DiskOpenError`, with the place in it."""
    try:
        with open(path, "rb") as file:
            data = file.read(LONGEST + 1)
    except OSError as error:
        raise DiskOpenError(f"{path}: {error.strerror}") from error
    if len(data) > LONGEST:
        raise DiskOpenError(f"{path}: no description of a disk is longer than {LONGEST} bytes")
    try:
        if path.endswith(".toml"):
            return tomllib.loads(data.decode())
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        message = " ".join(str(error).split())
        raise DiskOpenError(
            f"{path}: {message}", "a file named .toml is TOML, else JSON"
        ) from error
    except RecursionError as error:
        raise DiskOpenError(f"{path}: too deep") from error
