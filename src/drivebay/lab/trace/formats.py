"""What a trace can be made: by the ending of a file's name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import BinaryIO, Final

from drivebay.lab.trace.capture import Capture
from drivebay.lab.trace.lines import JsonLines, TextLines
from drivebay.lab.trace.records import Record, TraceError
from drivebay.lab.trace.story import Audience, tell
from drivebay.lab.trace.timeline import Timeline

__all__ = ["NATIVE", "convert", "format_of"]

NATIVE: Final = ".dbtrace"
"""What a recorder writes."""

FORMATS: Final[dict[str, Callable[[BinaryIO], Audience]]] = {
    ".txt": TextLines,
    ".jsonl": JsonLines,
    ".json": Timeline,
    ".pcapng": Capture,
}


def format_of(path: str) -> str:
    """The ending of its name that says what goes into it. Raises `TraceError`."""
    if path == "-":
        return ".txt"
    for ending in (NATIVE, *FORMATS):
        if path.endswith(ending):
            return ending
    endings = ", ".join((*FORMATS, NATIVE))
    raise TraceError(f"{path}: its name does not say what goes into it", f"one ends in {endings}")


def convert(records: Iterable[Record], stream: BinaryIO, ending: str) -> None:
    """Write the records in the format of that ending, behind what is there. Raises `TraceError` and
    `OSError`.
    """
    make = FORMATS.get(ending)
    if make is None:
        raise TraceError(f"a trace cannot be made {ending}", f"one of {', '.join(FORMATS)}")
    tell(records, make(stream))
