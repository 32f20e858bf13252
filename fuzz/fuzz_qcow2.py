"""Fuzz qcow2 images: numbers in the header and in the tables of good ones are changed.

The input is which image, and which place gets what value. Whatever is in it, the image is refused
or works, and both within 64 MiB and a second.

    python -m fuzz.fuzz_qcow2 -max_total_time=60 [CORPUS]
"""

from __future__ import annotations

import struct
import time
import tracemalloc

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["drivebay.disk.formats.qcow2"]):
    from tests.qcow2.hostile import VALUES, samples, use
    from tests.qcow2.support import of_bytes

    from fuzz.support import Input, fuzz

MEMORY = 64 << 20
SECONDS = 1.0
MOST_CHANGES = 8

GOOD = samples()


def one_input(data: bytes) -> None:
    """One image."""
    source = Input(data)
    sample = GOOD[source.number("B") % len(GOOD)]
    image = bytearray(sample.data)
    for _ in range(MOST_CHANGES):
        if not source.more:
            break
        place = sample.places[source.number("H") % len(sample.places)]
        choice = source.number("B")
        form, mask = (">I", (1 << 32) - 1) if choice & 1 else (">Q", (1 << 64) - 1)
        if choice < 128:
            value = VALUES[choice % len(VALUES)]
        elif choice < 192:
            [before] = struct.unpack_from(form, image, place)
            value = before + source.number("h")
        else:
            value = source.number("Q")
        struct.pack_into(form, image, place, value & mask)
    tracemalloc.start()
    started = time.process_time()
    try:
        use(of_bytes(image))
        taken = time.process_time() - started
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Two openings and two checks, under a tracer that makes all slower.
    assert taken < 10 * SECONDS, f"{taken} s"
    assert peak < MEMORY, f"{peak} bytes"


if __name__ == "__main__":
    fuzz(one_input, "-timeout=30", "-max_len=128", "-len_control=0", "-rss_limit_mb=4096")
