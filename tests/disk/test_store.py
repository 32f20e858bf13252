"""Byte offsets over sectors, against a bytearray."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.formats.store import Store
from drivebay.suspend import run, together
from tests.disk.support import noise

SIZE = 16 << 10
spans = st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)).map(sorted)


@given(
    sector=st.sampled_from((512, 4096)),
    steps=st.lists(st.tuples(st.sampled_from(("write", "zero", "grow")), spans), max_size=8),
)
def test_a_store_is_a_bytearray(sector: int, steps: list[tuple[str, list[int]]]) -> None:
    store = Store(RamDisk(SIZE, sector_size=sector))
    model = bytearray(SIZE)
    for number, (name, (start, stop)) in enumerate(steps):
        if name == "write":
            data = noise(stop - start, number)
            model[start:stop] = data
            middle = len(data) // 3
            run(store.write(start, [memoryview(data)[:middle], memoryview(data)[middle:]]))
        elif name == "zero":
            model[start:stop] = bytes(stop - start)
            run(store.write_zeroes(start, stop - start, unmap=bool(number & 1)))
        else:
            run(store.grow(start + stop))
            model.extend(bytes(store.size - len(model)))
        assert run(store.read(start, stop - start)) == model[start:stop]
    assert run(store.read(0, store.size)) == model
    store.close()


def test_writes_that_share_a_sector_do_not_undo_each_other() -> None:
    store = Store(RamDisk(4096, sector_size=4096))
    run(together(store.write(n * 64, [memoryview(bytes([n]) * 64)]) for n in range(64)))
    assert run(store.read(0, 4096)) == b"".join(bytes([n]) * 64 for n in range(64))
    store.close()
