"""Traces: every command of every controller as it came and as it ended, register accesses, disk
operations and interrupts; as lines, as a timeline, as packets.

A `Recorder` gives taps and writes what they see as it is. Whoever reads it later decodes it: a
`story` is told to an `Audience`, and each format is one.
"""

from drivebay.lab.trace.boards import watch_board
from drivebay.lab.trace.disks import TracedDisk
from drivebay.lab.trace.formats import convert, format_of
from drivebay.lab.trace.recorder import Recorder, RegisterTap
from drivebay.lab.trace.records import Source, TraceError, read_records
from drivebay.lab.trace.sinks import ConverterSink, FileSink, open_sink
from drivebay.lab.trace.story import Audience, tell

__all__ = [
    "Audience",
    "ConverterSink",
    "FileSink",
    "Recorder",
    "RegisterTap",
    "Source",
    "TraceError",
    "TracedDisk",
    "convert",
    "format_of",
    "open_sink",
    "read_records",
    "tell",
    "watch_board",
]
