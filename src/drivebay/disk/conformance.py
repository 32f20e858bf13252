"""The suite that every disk must pass: its sector ranges, exactly, and what its operations promise.

A check is a function of a factory that gives a new disk each time, of 16 to 65 536 sectors and any
sector size. From pytest::

    @pytest.mark.parametrize("check", [c for _, c in checks()], ids=[n for n, _ in checks()])
    def test_my_disk(check, tmp_path):
        check(lambda: MyDisk(tmp_path / "image"))

or without it::

    for name, check in checks():
        check(MyDisk)

A check that fails raises `AssertionError` and says what the disk did. On a read-only disk the
changing operations are checked to refuse everything. `check_filter` looks at a `Filter` besides.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from itertools import pairwise
from typing import Any, Final

from drivebay.disk.contract import Buffers, Disk, Extent, Unmap
from drivebay.disk.errors import DiskError, IllegalBlock, ReadOnly
from drivebay.disk.filters.base import FORWARDED, Filter
from drivebay.suspend import run

__all__ = ["Check", "Factory", "check_filter", "checks"]

Factory = Callable[[], Disk]
Check = Callable[[Factory], None]
Action = Callable[[Disk, int, int], Coroutine[Any, Any, None]]

_PATTERN: Final = bytes(range(1, 252))  # 251 is prime: no two sectors are alike


def checks() -> Iterator[tuple[str, Check]]:
    """Every check, with a name that says what it is about."""
    for operation in _ACTIONS:
        yield f"{operation}-in-range", partial(_in_range, operation)
        yield f"{operation}-out-of-range", partial(_out_of_range, operation)
    for check in (
        geometry,
        reads_back_what_was_written,
        buffers_may_be_cut_anywhere,
        flush_succeeds,
        write_zeroes_reads_zero,
        unmap_does_what_it_says,
        extents_say_what_is_there,
        resize_tells_its_listeners,
    ):
        yield check.__name__.replace("_", "-"), check


# -- ranges --------------------------------------------------------------------------------------


def ranges_in(sectors: int) -> list[tuple[int, int]]:
    """Ranges (first sector, count) that lie on a disk of so many sectors."""
    return [(0, 1), (sectors - 1, 1), (0, sectors), (0, 0), (sectors - 1, 0), (sectors // 2, 3)]


def ranges_out(sectors: int, sector_size: int) -> list[tuple[int, int]]:
    """Ranges that do not, however they are computed: those of 64 bits wrap, or are negative."""
    most = (1 << 63) // sector_size
    representable = [(sectors, 1), (sectors - 1, 2), (0, sectors + 1), (sectors, 0)]
    representable += [(sectors + 1, 0), (most - 1, 1)]
    beyond = [((1 << 64) - 1, 1), ((1 << 64) - 2, 2), (most, 1), (most - 1, 2)]
    return [*representable, *beyond, ((1 << 64) // sector_size, 1), (-1, 1), (-1, 0)]


def _read(disk: Disk, sector: int, count: int) -> Coroutine[Any, Any, None]:
    return disk.read(sector, [memoryview(bytearray(count * disk.sector_size))])


def _write(disk: Disk, sector: int, count: int, fua: bool = False) -> Coroutine[Any, Any, None]:
    return disk.write(sector, [_pattern(disk, sector + 1, count)], fua)


_ACTIONS: Final[dict[str, Action]] = {
    "read": _read,
    "write": _write,
    "write-fua": partial(_write, fua=True),
    "unmap": lambda disk, sector, count: disk.unmap(sector, count),
    "write-zeroes": lambda disk, sector, count: disk.write_zeroes(sector, count),
    "write-zeroes-unmap": lambda disk, sector, count: disk.write_zeroes(
        sector, count, fua=True, unmap=True
    ),
}


def _in_range(operation: str, factory: Factory) -> None:
    with _Open(factory, filled=True) as disk:
        before = _content(disk)
        for sector, count in ranges_in(disk.sector_count):
            action = _ACTIONS[operation](disk, sector, count)
            if operation == "read" or not disk.read_only:
                run(action)
            else:
                _must_raise(action, ReadOnly, f"{operation} {sector}+{count} when read-only")
            after = _content(disk)
            size = disk.sector_size
            start, stop = sector * size, (sector + count) * size
            outside = after[:start] == before[:start] and after[stop:] == before[stop:]
            assert outside, f"{operation} {sector}+{count} touched other sectors"
            before = after


def _out_of_range(operation: str, factory: Factory) -> None:
    with _Open(factory, filled=True) as disk:
        before = _content(disk)
        errors = (IllegalBlock, ReadOnly) if disk.read_only else (IllegalBlock,)
        for sector, count in ranges_out(disk.sector_count, disk.sector_size):
            action = _ACTIONS[operation](disk, sector, count)
            _must_raise(action, errors, f"{operation} {sector}+{count}")
        assert _content(disk) == before, f"{operation} out of range changed the disk"


# -- promises ------------------------------------------------------------------------------------


def geometry(factory: Factory) -> None:
    """The sizes keep the contract, and an id has 16 bytes."""
    with _Open(factory) as disk:
        disk.check_geometry()
        assert disk.sector_count >= 16, "the suite needs a disk of 16 sectors"
        assert disk.optimal_unmap_sectors >= 1, "optimal_unmap_sectors is less than 1"
        assert disk.disk_id is None or len(disk.disk_id) == 16, "disk_id is not 16 bytes long"


def reads_back_what_was_written(factory: Factory) -> None:
    """Written sectors read back, at once and after a flush, in one read and in many."""
    with _Open(factory) as disk:
        if disk.read_only:
            return
        data = _pattern(disk, 0, disk.sector_count)
        run(disk.write(0, [data]))
        assert _content(disk) == data, "the disk reads other than what was written"
        run(disk.flush())
        size = disk.sector_size
        for sector in range(disk.sector_count):
            part = _content(disk, sector, 1)
            assert part == data[sector * size : (sector + 1) * size], f"sector {sector} differs"


def buffers_may_be_cut_anywhere(factory: Factory) -> None:
    """Buffers of odd lengths and of none carry the same data as one."""
    with _Open(factory, filled=True) as disk:
        size = disk.sector_size
        whole = memoryview(bytearray(8 * size))
        cuts = [0, 0, 1, 7, size - 1, size + 3, 2 * size, 5 * size + 1, 8 * size, 8 * size]
        parts = [whole[a:b] for a, b in pairwise(cuts)]
        if not disk.read_only:
            whole[:] = _pattern(disk, 5, 8)
            run(disk.write(3, parts))
            assert _content(disk, 3, 8) == whole, "a write of many buffers wrote something else"
        expected = _content(disk, 3, 8)
        whole[:] = bytes(8 * size)
        run(disk.read(3, parts))
        assert whole == expected, "a read into many buffers read something else"


def flush_succeeds(factory: Factory) -> None:
    """A flush of a disk in order succeeds, read-only or not."""
    with _Open(factory) as disk:
        run(disk.flush())


def write_zeroes_reads_zero(factory: Factory) -> None:
    """Zeroed sectors read zero, however they were zeroed, and no others do."""
    with _Open(factory, filled=True) as disk:
        if disk.read_only:
            return
        before = bytearray(_content(disk))
        size = disk.sector_size
        for sector, fua, unmap in ((1, False, False), (4, True, False), (7, False, True)):
            run(disk.write_zeroes(sector, 2, fua, unmap))
            before[sector * size : (sector + 2) * size] = bytes(2 * size)
        assert _content(disk) == before, "write_zeroes left something else than zeroes"


def unmap_does_what_it_says(factory: Factory) -> None:
    """An unmapped range reads as `unmap_behaviour` says; its neighbours are as they were."""
    with _Open(factory, filled=True) as disk:
        if disk.read_only:
            return
        before = _content(disk, 1, 13)
        run(disk.unmap(2, 11))
        after = _content(disk, 1, 13)
        size = disk.sector_size
        for number in range(13):
            old, new = (text[number * size :][:size] for text in (before, after))
            zeroed = not any(new)
            inside = 1 <= number < 12
            may_be_zero = inside and disk.unmap_behaviour is not Unmap.IGNORED
            must_be_zero = inside and disk.unmap_behaviour is Unmap.ZEROES
            right = zeroed if must_be_zero else new == old or (may_be_zero and zeroed)
            assert right, f"unmap ({disk.unmap_behaviour.value}): sector {number + 1} is wrong"


def extents_say_what_is_there(factory: Factory) -> None:
    """Extents follow each other without a gap; what they call zero reads zero."""
    with _Open(factory, filled=True) as disk:
        if not disk.read_only:
            run(disk.write_zeroes(3, 5, unmap=True))
        assert not run(disk.extents(1, 0)), "extents of no sectors"
        _must_raise(disk.extents(0, disk.sector_count + 1), IllegalBlock, "extents out of range")
        sector = 0
        while sector < disk.sector_count:
            found = run(disk.extents(sector, disk.sector_count - sector))
            assert found, f"no extents from sector {sector} on"
            for extent in found:
                assert extent.sector == sector, f"{extent} should begin at sector {sector}"
                assert 0 < extent.count <= disk.sector_count - sector, f"{extent} is too long"
                data = _content(disk, sector, extent.count)
                assert not (extent.zero and any(data)), f"{extent} reads other than zero"
                sector += extent.count


def resize_tells_its_listeners(factory: Factory) -> None:
    """A disk that can be resized tells who listens, and what was cut off reads zero."""
    with _Open(factory, filled=True) as disk:
        count = disk.sector_count
        heard: list[int] = []
        stop = disk.on_resize(heard.append)
        try:
            run(disk.resize(count // 2))
        except DiskError:
            assert (disk.sector_count, heard) == (count, []), "a refused resize changed something"
            return
        run(disk.resize(count))
        assert heard == [count // 2, count], f"the listener heard {heard}"
        rest = _content(disk, count // 2, count - count // 2)
        assert not any(rest), "what a shrink cut off came back"
        stop()
        run(disk.resize(count // 2))
        assert len(heard) == 2, "a listener that has ended was called"


# -- filters -------------------------------------------------------------------------------------


def check_filter(make: Callable[[Disk], Filter]) -> None:
    """Every public method of the filter that ``make(disk)`` gives reaches the disk below it.

    A method that should not, or not always, says so: its docstring has the words "Not forwarded".
    """
    below = _Witness()
    outer = make(below)
    for name in FORWARDED:
        if "Not forwarded" in (inspect.getdoc(getattr(type(outer), name)) or ""):
            continue
        below.called.clear()
        result = getattr(outer, name)(*_ARGUMENTS[name])
        if inspect.iscoroutine(result):
            run(result)
        assert below.called, f"{type(outer).__name__}.{name} does not reach the disk below"
    below.sector_count += 1
    assert outer.sector_count == below.sector_count, "the size does not follow the disk below"


_BUFFERS: Final = (memoryview(bytearray(512)),)
_ARGUMENTS: Final[dict[str, tuple[Any, ...]]] = {
    "read": (0, _BUFFERS),
    "write": (0, _BUFFERS),
    "flush": (),
    "unmap": (0, 1),
    "write_zeroes": (0, 1),
    "extents": (0, 1),
    "resize": (64,),
    "refresh": (),
    "eject": (),
    "on_resize": (lambda count: None,),
}


class _Witness(Disk):
    """A disk that notes which of its methods are called."""

    kind = "witness"
    unmap_behaviour = Unmap.ZEROES
    sector_count = 64

    def __init__(self) -> None:
        super().__init__()
        self.called: list[str] = []

    async def read(self, sector: int, buffers: Buffers) -> None:
        self.called.append("read")

    async def write(self, sector: int, buffers: Buffers, fua: bool = False) -> None:
        self.called.append("write")

    async def flush(self) -> None:
        self.called.append("flush")

    async def unmap(self, sector: int, count: int) -> None:
        self.called.append("unmap")

    async def write_zeroes(
        self, sector: int, count: int, fua: bool = False, unmap: bool = False
    ) -> None:
        self.called.append("write_zeroes")

    async def extents(self, sector: int, count: int) -> list[Extent]:
        self.called.append("extents")
        return []

    async def resize(self, sector_count: int) -> None:
        self.called.append("resize")

    async def refresh(self) -> None:
        self.called.append("refresh")

    async def eject(self) -> None:
        self.called.append("eject")

    def on_resize(self, listener: Callable[[int], None]) -> Callable[[], None]:
        self.called.append("on_resize")
        return super().on_resize(listener)


# -- tools ---------------------------------------------------------------------------------------


class _Open:
    """A new disk, closed in the end; with `filled` no byte of it is zero, if it is writable."""

    def __init__(self, factory: Factory, filled: bool = False) -> None:
        self._disk = factory()
        if filled and not self._disk.read_only:
            run(self._disk.write(0, [_pattern(self._disk, 0, self._disk.sector_count)]))

    def __enter__(self) -> Disk:
        return self._disk

    def __exit__(self, *exception: object) -> None:
        self._disk.close()


def _pattern(disk: Disk, sector: int, count: int) -> memoryview:
    size = count * disk.sector_size
    shift = sector % len(_PATTERN)
    return memoryview((_PATTERN * (size // len(_PATTERN) + 2))[shift : shift + size])


def _content(disk: Disk, sector: int = 0, count: int | None = None) -> bytearray:
    data = bytearray((disk.sector_count if count is None else count) * disk.sector_size)
    run(disk.read(sector, [memoryview(data)]))
    return data


def _must_raise(
    action: Coroutine[Any, Any, Any],
    errors: type[DiskError] | tuple[type[DiskError], ...],
    what: str,
) -> None:
    try:
        run(action)
    except errors:
        return
    except Exception as error:
        raise AssertionError(f"{what} raised {error!r}") from error
    raise AssertionError(f"{what} succeeded")
