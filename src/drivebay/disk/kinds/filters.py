"""Kinds of disk that change what another does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from drivebay.disk.errors import DiskOpenError
from drivebay.disk.kinds.files import cache_mode
from drivebay.disk.scanner import Kind, Node, Opener, Option, Scanner

if TYPE_CHECKING:
    from drivebay.disk.contract import Disk
    from drivebay.disk.filters.latency import Latency
    from drivebay.disk.filters.throttle import Limits

__all__ = ["KINDS", "latency", "limits"]

UNITS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
LONGEST: Final = 3600.0
FASTEST: Final = 1 << 40

Read = Callable[[Scanner], Any]


def _crypt(scanner: Scanner) -> Opener:
    """``crypt:xts-aes-256:KEYFILE:DISK``."""
    from drivebay.disk.filters.crypt import CIPHERS

    start = scanner.position
    if (cipher := scanner.name()) not in CIPHERS:
        raise scanner.error(f"a cipher: {', '.join(CIPHERS)}", start)
    _colon(scanner, "a key file")
    path = scanner.word("a key file", stops=":;,")
    _colon(scanner)
    below = scanner.disk()

    def make(disk: Disk) -> Disk:
        from drivebay.disk.filters.crypt import Crypt, read_key

        return Crypt(disk, read_key(path, CIPHERS[cipher]), path)

    return _over(below, make)


def _luks(scanner: Scanner) -> Opener:
    """``luks:KEYFILE:DISK``."""
    path = scanner.word("a key file", stops=":;,")
    _colon(scanner)
    below = scanner.disk()

    def make(disk: Disk) -> Disk:
        from drivebay.disk.filters.luks import open_luks, read_passphrase

        return open_luks(disk, read_passphrase(path), below.text)

    opener = _over(below, make)
    return lambda read_only: opener(read_only=True)


def _prwrap(scanner: Scanner) -> Opener:
    """``prwrap:DISK``."""
    return _reserving(scanner.disk(), None)


def _prfile(scanner: Scanner) -> Opener:
    """``prfile:STATE:DISK``."""
    path = scanner.word("a file for the reservations", stops=":;,")
    _colon(scanner)
    return _reserving(scanner.disk(), path)


def _reserving(below: Node, path: str | None) -> Opener:
    def make(disk: Disk) -> Disk:
        from drivebay.disk.filters.prwrap import Prwrap

        return Prwrap(disk, path)

    return _over(below, make)


def _delay(scanner: Scanner) -> Opener:
    """``delay:PROFILE:DISK``."""
    profile = latency(scanner)
    below = scanner.disk()

    def make(disk: Disk) -> Disk:
        from drivebay.disk.filters.delay import Delay

        return Delay(disk, profile(disk))

    return _over(below, make)


TAILS: Final = {
    "sata-ssd": (0.00012, 0.0006),
    "worn-ssd": (0.002, 0.09),
    "cloud-volume": (0.001, 0.006),
}
"""Profiles that have a name, of one request in a hundred: average and p99 in seconds."""


def latency(scanner: Scanner) -> Callable[[Disk], Latency]:
    """Read a profile and the colon after it: what makes it for a disk."""
    start = scanner.position
    if scanner.next.isdigit():
        fixed = _duration(scanner)
        _colon(scanner)
        return _fixed(fixed)
    options = _settings(
        scanner,
        {
            "fixed": _duration,
            "average": _duration,
            "p99": _duration,
            **dict.fromkeys(TAILS),
            "hdd": None,
            "rpm": _number(1, 1_000_000),
            "seek": _duration,
            "seed": _number(0, 1 << 64),
        },
    )
    return _profile(scanner, start, {name: one.value for name, one in options.items()})


def _fixed(seconds: float) -> Callable[[Disk], Latency]:
    from drivebay.disk.filters.latency import Fixed

    return lambda disk: Fixed(seconds)


def _profile(scanner: Scanner, start: int, given: dict[str, Any]) -> Callable[[Disk], Latency]:
    from drivebay.disk.filters.latency import HardDisk, Tail

    names = set(given) - {"seed"}
    [named] = names if len(names) == 1 else [""]
    if named in TAILS:
        average, p99 = TAILS[named]
        return lambda disk: Tail(average, p99, given.get("seed", 0))
    if names == {"fixed"} and len(given) == 1:
        return _fixed(given["fixed"])
    if names == {"average", "p99"}:
        try:
            Tail(**given)
        except ValueError as error:
            raise scanner.error("another average", start, str(error)) from None
        return lambda disk: Tail(**given)
    if "hdd" in given and names <= {"hdd", "rpm", "seek"}:
        settings = {name: value for name, value in given.items() if name != "hdd"}
        return lambda disk: HardDisk(lambda: disk.sector_count, **settings)
    raise scanner.error(
        "one profile",
        start,
        "fixed=, or average= and p99=[,seed=], or hdd[,rpm=][,seek=][,seed=],"
        f" or {', '.join(TAILS)}[,seed=]",
    )


def _throttle(scanner: Scanner) -> Opener:
    """``throttle:LIMITS:DISK``."""
    given = limits(scanner)
    below = scanner.disk()

    def make(disk: Disk) -> Disk:
        from drivebay.disk.filters.throttle import Throttle

        return Throttle(disk, given)

    return _over(below, make)


def limits(scanner: Scanner) -> Limits:
    """Read limits and the colon after them."""
    from drivebay.disk.filters.throttle import Limits

    rate = _number(1, FASTEST)
    start = scanner.position
    options = _settings(
        scanner,
        {
            **dict.fromkeys(("iops", "read-iops", "write-iops"), rate),
            **dict.fromkeys(("bps", "read-bps", "write-bps"), _bytes),
            "burst": _duration,
        },
    )
    if not options.keys() - {"burst"}:
        raise scanner.error("a limit such as iops=500 or bps=20M", start)
    return Limits(**{name.replace("-", "_"): one.value for name, one in options.items()})


def _discard(scanner: Scanner) -> Opener:
    """``discard:BEHAVIOUR:DISK``."""
    from drivebay.disk.contract import Unmap

    known = {each.value: each for each in Unmap}
    start = scanner.position
    behaviour = known.get(scanner.name())
    if behaviour is None:
        raise scanner.error(f"one of {', '.join(known)}", start)
    chosen = behaviour
    _colon(scanner)
    below = scanner.disk()

    def make(disk: Disk) -> Disk:
        from drivebay.disk.filters.discard import Discard

        return Discard(disk, chosen)

    return _over(below, make)


def _striped(scanner: Scanner) -> Opener:
    """``striped:[CHUNK][DISK]...``, these brackets being written."""
    start = scanner.position
    chunk = scanner.size() if scanner.next.isdigit() else None
    if chunk == 0:
        raise scanner.error("a size of a chunk", start)
    below = [scanner.bracketed()]
    while scanner.next == "[":
        below.append(scanner.bracketed())

    def opener(read_only: bool) -> Disk:
        from drivebay.disk.filters.striped import CHUNK, Striped

        disks: list[Disk] = []
        try:
            disks.extend(node.open(read_only) for node in below)
            return Striped(disks, chunk or CHUNK)
        except DiskOpenError:
            for disk in disks:
                disk.close()
            raise

    return opener


def _record(scanner: Scanner) -> Opener:
    """``record:FILE:DISK``."""
    path = scanner.word("a file for the log", stops=":;,")
    _colon(scanner)
    below = scanner.disk()

    def make(disk: Disk) -> Disk:
        from drivebay.disk.filters.record import Record

        return Record(disk, path)

    return _over(below, make)


def _cache(scanner: Scanner) -> Opener:
    """``cache:MODE:DISK``."""
    mode = cache_mode(scanner)
    _colon(scanner)
    below = scanner.disk()

    def make(disk: Disk) -> Disk:
        from drivebay.disk.filters.cache import Cache

        return Cache(disk, mode)

    return _over(below, make)


# -- words -----------------------------------------------------------------------------------------


def _over(below: Node, make: Callable[[Disk], Disk]) -> Opener:
    """Opens `below`, then what `make` makes of it."""

    def opener(read_only: bool) -> Disk:
        disk = below.open(read_only)
        try:
            return make(disk)
        except DiskOpenError:
            disk.close()
            raise

    return opener


def _colon(scanner: Scanner, what: str = "a disk") -> None:
    if not scanner.take(":"):
        raise scanner.error(f"':' and {what}")


def _settings(scanner: Scanner, known: Mapping[str, Read | None]) -> dict[str, Option]:
    """Read ``name`` and ``name=value``, with commas between them, and the colon after them.

    A comma may be written twice: descriptions do that in every text.
    """
    found: dict[str, Option] = {}
    while True:
        start = scanner.position
        name = scanner.name()
        if name not in known or name in found:
            raise scanner.error(
                f"{name} only once" if name in found else f"one of {', '.join(known)}", start
            )
        value: Any = True
        if (read := known[name]) is not None:
            if not scanner.take("="):
                raise scanner.error(f"'=' and a value for {name}")
            value = read(scanner)
        found[name] = Option(name, value, start)
        if scanner.take(":"):
            return found
        if not scanner.take(","):
            raise scanner.error("',' or ':' and a disk")
        scanner.take(",")


def _digits(scanner: Scanner, also: str = "") -> str:
    start = scanner.position
    while scanner.next.isascii() and (scanner.next.isdigit() or scanner.next in tuple(also)):
        scanner.position += 1
    return scanner.text[start : scanner.position]


def _number(least: int, most: int) -> Read:
    def read(scanner: Scanner) -> int:
        start = scanner.position
        digits = _digits(scanner)
        if not digits or len(digits) > 20 or not least <= int(digits) <= most:
            raise scanner.error(f"a whole number from {least} to {most}", start)
        return int(digits)

    return read


def _bytes(scanner: Scanner) -> int:
    start = scanner.position
    if not (size := scanner.size()):
        raise scanner.error("a size of at least a byte", start)
    return size


def _duration(scanner: Scanner) -> float:
    """Read a time, as ``2ms``, ``0.5`` (milliseconds), ``300us`` or ``1s``."""
    start = scanner.position
    digits = _digits(scanner, ".")
    unit = scanner.name() or "ms"
    try:
        seconds = float(digits) * UNITS[unit]
    except (ValueError, KeyError):
        seconds = -1.0
    if not 0 <= seconds <= LONGEST:
        raise scanner.error("a time of up to an hour, such as 2ms, 0.5, 300us or 1s", start)
    return seconds


KINDS: Final[tuple[Kind, ...]] = (
    Kind("crypt", "crypt:xts-aes-256:KEYFILE:DISK", _crypt),
    Kind("luks", "luks:KEYFILE:DISK", _luks),
    Kind("prwrap", "prwrap:DISK", _prwrap),
    Kind("prfile", "prfile:STATE:DISK", _prfile),
    Kind("delay", "delay:PROFILE:DISK", _delay),
    Kind("discard", "discard:BEHAVIOUR:DISK", _discard),
    Kind("throttle", "throttle:LIMITS:DISK", _throttle),
    Kind("striped", "striped:[CHUNK][DISK]...", _striped),
    Kind("record", "record:FILE:DISK", _record),
    Kind("cache", "cache:MODE:DISK", _cache),
)
