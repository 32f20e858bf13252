"""Writes to a disk until it is killed. Started once; forks one writer for each line it reads.

A line is a seed and a spec. The writer answers with its process id, then with a line for each flush
that has ended well: how many operations were before it. ``dead`` follows when it was killed.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from typing import NamedTuple

BLOCK = 4096
BLOCKS = 1024


class Operation(NamedTuple):
    name: str
    block: int = 0
    value: int = 0
    """What each 8 bytes of the block are afterwards."""


def operations(seed: int) -> Iterator[Operation]:
    """What a writer does, without end."""
    chance = random.Random(seed)
    number = 0
    while True:
        for _ in range(chance.randint(1, 12)):
            number += 1
            block = chance.randrange(BLOCKS)
            name = chance.choices(["write", "fua", "zero", "unmap"], [8, 1, 1, 1])[0]
            value = seed << 32 | number if name in ("write", "fua") else 0
            yield Operation(name, block, value)
        yield Operation("flush")


def work(seed: int, spec: str) -> None:
    from drivebay.disk.spec import open_disk
    from drivebay.suspend import run

    disk = open_disk(spec)
    shift = disk.sector_size.bit_length() - 1
    count = BLOCK >> shift
    for done, (name, block, value) in enumerate(operations(seed)):
        sector = block * count
        if name == "flush":
            run(disk.flush())
            os.write(1, b"%d\n" % done)
        elif value:
            data = memoryview(value.to_bytes(8, "little") * (BLOCK // 8))
            run(disk.write(sector, [data], name == "fua"))
        else:
            run(disk.write_zeroes(sector, count, unmap=name == "unmap"))


def main() -> None:
    import drivebay.disk.formats.chain
    import drivebay.disk.formats.qcow2
    import drivebay.disk.formats.vhd
    import drivebay.disk.formats.vhdx
    import drivebay.disk.layers.sql
    import drivebay.disk.spec  # noqa: F401

    for line in sys.stdin:
        seed, _, spec = line.strip().partition(" ")
        child = os.fork()
        if not child:
            try:
                os.write(1, b"%d\n" % os.getpid())
                work(int(seed), spec)
            except BaseException as error:
                os.write(1, f"failed {error!r}\n".encode())
            finally:
                os._exit(1)
        os.waitpid(child, 0)
        os.write(1, b"dead\n")


if __name__ == "__main__":
    main()
