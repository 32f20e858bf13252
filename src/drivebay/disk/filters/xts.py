"""AES-XTS over many sectors at once (IEEE 1619, NIST SP 800-38E).

The `cryptography` package encrypts one data unit a call, and to begin one costs as much as 25 KiB
of it. Sectors of 512 bytes are therefore done together where numpy is there: XTS is ECB between
two XORs with the tweaks, and the tweaks of all sectors are one more ECB and a few shifts.
``docs/filters.md`` has the figures.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final, Protocol

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers import CipherContext

__all__ = ["BatchedXts", "SectorXts", "Xts", "xts"]

BATCH_SECTOR: Final = 512
BLOCKS: Final = BATCH_SECTOR // 16
FEWEST: Final = 16
"""With fewer sectors it is no faster."""
BATCH: Final = 128
"""Sectors done at once: the tweaks of 64 KiB stay in the cache."""


class Xts(Protocol):
    """Encrypts and decrypts sectors; the tweak of each is its number, as in ``plain64``."""

    def encrypt(self, sector: int, data: memoryview, into: memoryview) -> None:
        """Encrypt whole sectors of `data` into `into`, another buffer of the same length."""

    def decrypt(self, sector: int, data: memoryview, into: memoryview) -> None:
        """The reverse."""


def xts(key: bytes, sector_size: int, step: int = 1) -> Xts:
    """The fastest there is for sectors of this size, whose tweaks are `step` apart."""
    if sector_size == BATCH_SECTOR and step == 1:
        try:
            return BatchedXts(key)
        except ImportError:
            pass
    return SectorXts(key, sector_size, step)


class SectorXts:
    """A call of the library for each sector, of any size."""

    def __init__(self, key: bytes, sector_size: int, step: int = 1) -> None:
        self._aes = algorithms.AES(key)
        self._size, self._step = sector_size, step

    def encrypt(self, sector: int, data: memoryview, into: memoryview) -> None:
        """See `Xts`."""
        for start in range(0, len(data), self._size):
            context = self._cipher(sector).encryptor()
            into[start : start + self._size] = context.update(data[start : start + self._size])
            sector += 1

    def decrypt(self, sector: int, data: memoryview, into: memoryview) -> None:
        """See `Xts`."""
        for start in range(0, len(data), self._size):
            context = self._cipher(sector).decryptor()
            into[start : start + self._size] = context.update(data[start : start + self._size])
            sector += 1

    def _cipher(self, sector: int) -> Cipher[modes.XTS]:
        return Cipher(self._aes, modes.XTS((sector * self._step).to_bytes(16, "little")))


class BatchedXts(SectorXts):
    """Sectors of 512 bytes, many a call. Raises `ImportError` without numpy."""

    def __init__(self, key: bytes) -> None:
        import numpy

        super().__init__(key, BATCH_SECTOR)
        self._np = numpy
        half = len(key) // 2
        self._data = Cipher(algorithms.AES(key[:half]), modes.ECB())
        self._tweak = Cipher(algorithms.AES(key[half:]), modes.ECB())
        self._of_thread = threading.local()
        self._powers = numpy.arange(BLOCKS, dtype=numpy.uint64)[:, None]

    def encrypt(self, sector: int, data: memoryview, into: memoryview) -> None:
        """See `Xts`."""
        if len(data) < FEWEST * BATCH_SECTOR:
            super().encrypt(sector, data, into)
        else:
            self._run(self._scratch.encrypt, sector, data, into)

    def decrypt(self, sector: int, data: memoryview, into: memoryview) -> None:
        """See `Xts`."""
        if len(data) < FEWEST * BATCH_SECTOR:
            super().decrypt(sector, data, into)
        else:
            self._run(self._scratch.decrypt, sector, data, into)

    @property
    def _scratch(self) -> _Scratch:
        """Ciphers and memory that only this thread uses."""
        try:
            return self._of_thread.scratch  # type: ignore[no-any-return]
        except AttributeError:
            self._of_thread.scratch = scratch = _Scratch(self._data, self._tweak)
            return scratch

    def _run(self, cipher: CipherContext, sector: int, data: memoryview, into: memoryview) -> None:
        step = BATCH * BATCH_SECTOR
        for start in range(0, len(data), step):
            self._batch(cipher, sector, data[start : start + step], into[start : start + step])
            sector += BATCH

    def _batch(
        self, cipher: CipherContext, sector: int, data: memoryview, into: memoryview
    ) -> None:
        np, scratch, size = self._np, self._scratch, len(data)
        tweaks = self._tweaks(sector, size // BATCH_SECTOR, scratch)
        clear = np.frombuffer(scratch.before, dtype="<u8", count=size // 8)
        np.bitwise_xor(np.frombuffer(data, dtype="<u8"), tweaks, out=clear)
        cipher.update_into(scratch.before[:size], scratch.after)
        done = np.frombuffer(scratch.after, dtype="<u8", count=size // 8)
        np.bitwise_xor(done, tweaks, out=np.frombuffer(into, dtype="<u8"))

    def _tweaks(self, sector: int, count: int, scratch: _Scratch) -> Any:
        """The tweak of every block: that of its sector, times x^j for block j (section 5.2).

        A tweak is a polynomial, its bit 0 first, in two words. What a shift by j moves out at the
        top comes back times x^7 + x^2 + x + 1; of fewer than 57 bits that is one word's work.
        """
        np, j = self._np, self._powers
        numbers = np.zeros((count, 2), dtype="<u8")
        numbers[:, 0] = np.arange(sector, sector + count, dtype="<u8")
        scratch.tweak.update_into(numbers.data.cast("B"), scratch.first)
        low, high = np.frombuffer(scratch.first, dtype="<u8", count=2 * count).reshape(count, 2).T
        one = np.uint64(1)
        out = (high >> one) >> (np.uint64(63) - j)
        first = (low << j) ^ out
        for shift in (1, 1, 5):  # out times x, x^2, x^7
            out <<= np.uint64(shift)
            first ^= out
        second = (high << j) | ((low >> one) >> (np.uint64(63) - j))
        tweaks = np.empty((count, BLOCKS, 2), dtype="<u8")
        tweaks[:, :, 0], tweaks[:, :, 1] = first.T, second.T
        return tweaks.reshape(-1)


class _Scratch:
    """What a batch needs. OpenSSL may want a block more than it writes."""

    def __init__(self, data: Cipher[modes.ECB], tweak: Cipher[modes.ECB]) -> None:
        self.encrypt, self.decrypt = data.encryptor(), data.decryptor()
        self.tweak = tweak.encryptor()
        self.first = bytearray(16 * BATCH + 16)
        self.before = memoryview(bytearray(BATCH * BATCH_SECTOR))
        self.after = bytearray(BATCH * BATCH_SECTOR + 16)
