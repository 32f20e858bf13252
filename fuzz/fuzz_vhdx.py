"""Fuzz VHDX and VHD images: fields of good ones are changed and their checksums made right again.

The input is which image, and which field gets what value. Whatever is in it, the image is refused
or works, and both within 64 MiB and a second.

    python -m fuzz.fuzz_vhdx -max_total_time=60 [CORPUS]
"""

from __future__ import annotations

import time
import tracemalloc

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(
    include=["drivebay.disk.formats.vhd", "drivebay.disk.formats.vhdx"]
):
    from tests.vhdx.hostile import VALUES, exercise, samples

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
        field = sample.fields[source.number("H") % len(sample.fields)]
        choice = source.number("B")
        if choice < 128:
            field.put(image, VALUES[choice % len(VALUES)])
        elif choice < 192:
            field.put(image, field.get(image) + source.number("h"))
        else:
            field.put(image, source.number("Q"))
    tracemalloc.start()
    started = time.process_time()
    try:
        exercise(sample, image)
        taken = time.process_time() - started
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Three openings, under a tracer that makes all slower.
    assert taken < 10 * SECONDS, f"{taken} s"
    assert peak < MEMORY, f"{peak} bytes"


if __name__ == "__main__":
    fuzz(one_input, "-timeout=30", "-max_len=128", "-len_control=0", "-rss_limit_mb=4096")
