"""LUKS volumes, read: versions 1 and 2, as cryptsetup and qemu-img write them.

Sections are of the LUKS1 On-Disk Format Specification 1.2.3 and, where it says so, of the LUKS2
On-Disk Format Specification. A header is hostile: what it makes us do is bounded before it is done.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import struct
from collections.abc import Iterator
from typing import Annotated, Any, Final, NamedTuple, TypeAlias

from drivebay.disk.contract import Disk
from drivebay.disk.errors import DiskError, DiskOpenError
from drivebay.disk.filters.crypt import Crypt, open_xts
from drivebay.disk.filters.payload import Payload
from drivebay.suspend import run
from drivebay.wire import U16, U32, U64, Struct

__all__ = ["open_luks", "read_passphrase"]

SECTOR: Final = 512
MAGIC: Final = b"LUKS\xba\xbe"
SLOT_ACTIVE: Final = 0x00AC71F3
SLOTS: Final = 8
SECTORS: Final = (512, 1024, 2048, 4096)
CIPHER: Final = "aes-xts-plain64"
KEYS: Final = (32, 64)  # AES-128 and AES-256, each with its tweak key
HASHES: Final = ("sha1", "sha256", "sha512")
LONGEST_PASSPHRASE: Final = 8 << 20  # as cryptsetup has it
MOST_ITERATIONS: Final = 1 << 26
MOST_STRIPES: Final = 4000  # section 2.4 has no other number
MOST_LANES: Final = 16
SHORTEST_SALT: Final = 8
MOST_MEMORY: Final = 1 << 20  # KiB
LONGEST_HEADER: Final = 4 << 20  # LUKS2 section 2.1
BINARY_HEADER: Final = 4096


class LuksHeader(Struct, size=208, byte_order=">"):
    """The beginning of a LUKS1 volume (section 2.3.1); eight key slots follow it."""

    magic: Annotated[bytes, "6s"]
    version: U16
    cipher_name: Annotated[bytes, "32s"]
    cipher_mode: Annotated[bytes, "32s"]
    hash_spec: Annotated[bytes, "32s"]
    payload_offset: U32
    key_bytes: U32
    mk_digest: Annotated[bytes, "20s"]
    mk_digest_salt: Annotated[bytes, "32s"]
    mk_digest_iter: U32
    uuid: Annotated[bytes, "40s"]


class LuksSlot(Struct, size=48, byte_order=">"):
    """A key slot of LUKS1."""

    active: U32
    iterations: U32
    salt: Annotated[bytes, "32s"]
    key_material_offset: U32
    stripes: U32


class Luks2Header(Struct, size=512, byte_order=">"):
    """The binary header of LUKS2 (LUKS2 section 2.1), but for zeroes at its end."""

    magic: Annotated[bytes, "6s"]
    version: U16
    hdr_size: U64
    seqid: U64
    label: Annotated[bytes, "48s"]
    csum_alg: Annotated[bytes, "32s"]
    salt: Annotated[bytes, "64s"]
    uuid: Annotated[bytes, "40s"]
    subsystem: Annotated[bytes, "48s"]
    hdr_offset: U64
    padding: Annotated[bytes, "184s"]
    csum: Annotated[bytes, "64s"]


class _Pbkdf2(NamedTuple):
    hash: str
    iterations: int
    salt: bytes

    def derive(self, secret: bytes, length: int) -> bytes:
        return hashlib.pbkdf2_hmac(self.hash, secret, self.salt, self.iterations, length)


class _Argon2id(NamedTuple):
    time: int
    memory: int
    lanes: int
    salt: bytes

    def derive(self, secret: bytes, length: int) -> bytes:
        try:
            from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
        except ImportError:
            raise _Refused(
                "its keys need argon2id, of the Python package cryptography 44"
            ) from None
        kdf = Argon2id(
            salt=self.salt,
            length=length,
            iterations=self.time,
            lanes=self.lanes,
            memory_cost=self.memory,
        )
        return kdf.derive(secret)


Kdf: TypeAlias = _Pbkdf2 | _Argon2id


class _Slot(NamedTuple):
    """Where a copy of the volume key is, and what opens it."""

    kdf: Kdf
    offset: int
    key_size: int
    """Of the volume key."""
    area_key_size: int
    stripes: int
    hash: str


class _Volume(NamedTuple):
    slots: list[_Slot]
    digest: _Pbkdf2
    expected: bytes
    offset: int
    length: int | None
    """Bytes; None is to the end."""
    sector_size: int


class _Refused(Exception):
    """Why a header cannot be used."""


def read_passphrase(path: str) -> bytes:
    """All of the file `path`, as cryptsetup's ``--key-file`` takes it. Raises `DiskOpenError`."""
    try:
        with open(path, "rb") as file:
            passphrase = file.read(LONGEST_PASSPHRASE + 1)
    except OSError as error:
        raise DiskOpenError(f"{path}: {error.strerror}") from error
    if len(passphrase) > LONGEST_PASSPHRASE:
        raise DiskOpenError(f"{path}: no passphrase is longer than {LONGEST_PASSPHRASE} bytes")
    return passphrase


def open_luks(below: Disk, passphrase: bytes, name: str = "luks") -> Crypt:
    """The volume on `below` that `passphrase` opens, read-only. Raises `DiskOpenError`."""
    try:
        if below.sector_size != SECTOR:
            raise _Refused(
                f"its sectors have {below.sector_size} bytes, and only {SECTOR} is known"
            )
        volume = _read_header(below)
        key = _unlock(below, volume, passphrase)
    except (_Refused, DiskError) as error:
        raise DiskOpenError(f"{name}: {error}") from error
    if key is None:
        raise DiskOpenError(
            f"{name}: the passphrase opens no key slot", "the key file is taken whole, newlines too"
        )
    payload = Payload(below, volume.offset, volume.length, volume.sector_size)
    return Crypt(payload, key, name, step=volume.sector_size // SECTOR)


# -- headers ---------------------------------------------------------------------------------------


def _read_header(disk: Disk) -> _Volume:
    begin = _read(disk, 0, BINARY_HEADER)
    version = int.from_bytes(begin[6:8], "big")
    if begin[:6] != MAGIC or version not in (1, 2):
        raise _Refused("no LUKS volume of version 1 or 2")
    volume = _version_1(begin) if version == 1 else _version_2(disk, begin)
    size = disk.byte_count
    end = volume.offset + (volume.length or 0)
    parts = volume.offset % SECTOR or (volume.length or 0) % volume.sector_size
    if parts or min(volume.offset, end) < 0 or not volume.offset < size >= end:
        raise _Refused("its data do not lie on the disk")
    return volume


def _version_1(begin: bytes) -> _Volume:
    header = LuksHeader.unpack(begin, 0)
    cipher = f"{_text(header.cipher_name)}-{_text(header.cipher_mode)}"
    name = _known_hash(_text(header.hash_spec))
    _check_cipher(cipher, header.key_bytes)
    slots = []
    for number in range(SLOTS):
        slot = LuksSlot.unpack(begin, LuksHeader.size + number * LuksSlot.size)
        if slot.active == SLOT_ACTIVE:
            kdf = _pbkdf2(name, slot.iterations, slot.salt)
            at = slot.key_material_offset * SECTOR
            key = header.key_bytes
            slots.append(_Slot(kdf, at, key, key, _stripes(slot.stripes), name))
    digest = _pbkdf2(name, header.mk_digest_iter, header.mk_digest_salt)
    return _Volume(slots, digest, header.mk_digest, header.payload_offset * SECTOR, None, SECTOR)


def _version_2(disk: Disk, begin: bytes) -> _Volume:
    header = Luks2Header.unpack(begin, 0)
    if not BINARY_HEADER < header.hdr_size <= min(LONGEST_HEADER, disk.byte_count):
        raise _Refused(f"a header of {header.hdr_size} bytes")
    text = bytearray(_read(disk, 0, header.hdr_size))
    if _text(header.csum_alg) != "sha256":
        raise _Refused(f"the checksum {_text(header.csum_alg)!r} is not known")
    text[448:512] = bytes(64)
    if hashlib.sha256(text).digest() != header.csum[:32]:
        raise _Refused("the checksum of its header is wrong")
    try:
        return _metadata(json.loads(bytes(text[BINARY_HEADER:]).split(b"\0")[0]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _Refused(f"its header makes no sense: {error!r}") from None


def _metadata(data: Any) -> _Volume:
    """LUKS2 section 3. Raises one of many errors where it makes no sense."""
    [(number, segment)] = data["segments"].items()
    sector_size = int(segment["sector_size"])
    if segment["type"] != "crypt" or sector_size not in SECTORS:
        raise _Refused(f"a segment with sectors of {sector_size} bytes")
    if int(segment["iv_tweak"]) != 0:
        raise _Refused(f"its sectors are counted from {segment['iv_tweak']!r}")
    [digest] = (one for one in data["digests"].values() if number in one["segments"])
    slots = []
    for name in digest["keyslots"]:
        slot = data["keyslots"][name]
        area, splitter = slot["area"], slot["af"]
        if slot["type"] != "luks2" or area["type"] != "raw" or splitter["type"] != "luks1":
            continue
        _check_cipher(segment["encryption"], int(slot["key_size"]))
        _check_cipher(area["encryption"], int(area["key_size"]))
        slots.append(
            _Slot(
                _kdf(slot["kdf"]),
                int(area["offset"]),
                int(slot["key_size"]),
                int(area["key_size"]),
                _stripes(int(splitter["stripes"])),
                _known_hash(splitter["hash"]),
            )
        )
    size = segment["size"]
    return _Volume(
        slots,
        _pbkdf2(_known_hash(digest["hash"]), int(digest["iterations"]), _bytes(digest["salt"])),
        _bytes(digest["digest"]),
        int(segment["offset"]),
        None if size == "dynamic" else int(size),
        sector_size,
    )


def _kdf(kdf: Any) -> Kdf:
    if kdf["type"] == "pbkdf2":
        return _pbkdf2(_known_hash(kdf["hash"]), int(kdf["iterations"]), _bytes(kdf["salt"]))
    if kdf["type"] != "argon2id":
        raise _Refused(
            f"its keys are derived by {kdf['type']!r}, and only pbkdf2 and argon2id are known"
        )
    time, memory, lanes = (int(kdf[name]) for name in ("time", "memory", "cpus"))
    if not (0 < lanes <= MOST_LANES and 8 * lanes <= memory <= MOST_MEMORY and time > 0):
        raise _Refused(f"argon2id with {memory} KiB and {lanes} lanes")
    if time * memory > MOST_ITERATIONS:
        raise _Refused(f"argon2id with {time} passes")
    if len(salt := _bytes(kdf["salt"])) < SHORTEST_SALT:
        raise _Refused(f"argon2id with a salt of {len(salt)} bytes")
    return _Argon2id(time, memory, lanes, salt)


def _pbkdf2(name: str, iterations: int, salt: bytes) -> _Pbkdf2:
    if not 0 < iterations <= MOST_ITERATIONS:
        raise _Refused(f"pbkdf2 with {iterations} iterations")
    return _Pbkdf2(name, iterations, salt)


def _known_hash(name: str) -> str:
    if name not in HASHES:
        raise _Refused(f"the hash {name!r} is not one of {', '.join(HASHES)}")
    return name


def _check_cipher(cipher: str, key_size: int) -> None:
    if cipher != CIPHER or key_size not in KEYS:
        raise _Refused(f"{cipher!r} with {key_size} bytes of key; only {CIPHER} is known")


def _stripes(stripes: int) -> int:
    if not 0 < stripes <= MOST_STRIPES:
        raise _Refused(f"a key in {stripes} stripes")
    return stripes


def _text(field: bytes) -> str:
    return field.split(b"\0")[0].decode("ascii", "replace")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


# -- keys ------------------------------------------------------------------------------------------


def _unlock(disk: Disk, volume: _Volume, passphrase: bytes) -> bytes | None:
    """The volume key, from the first slot that the passphrase opens (section 4.1)."""
    for slot in volume.slots:
        key = slot.kdf.derive(passphrase, slot.area_key_size)
        length = slot.key_size * slot.stripes
        secret = memoryview(_read(disk, slot.offset, -(-length // SECTOR) * SECTOR))
        material = memoryview(bytearray(len(secret)))
        open_xts(key, SECTOR).decrypt(0, secret, material)
        candidate = _merge(bytes(material[:length]), slot.key_size, slot.hash)
        digest = volume.digest.derive(candidate, len(volume.expected))
        if hmac.compare_digest(digest, volume.expected):
            return candidate
    return None


def _merge(material: bytes, size: int, name: str) -> bytes:
    """Join the stripes of a key (section 2.4: AFmerge)."""
    *first, last = (material[at : at + size] for at in range(0, len(material), size))
    mixed = bytes(size)
    for stripe in first:
        mixed = b"".join(_diffused(_xor(mixed, stripe), name))
    return _xor(mixed, last)


def _diffused(block: bytes, name: str) -> Iterator[bytes]:
    step = hashlib.new(name).digest_size
    for number, at in enumerate(range(0, len(block), step)):
        part = block[at : at + step]
        yield hashlib.new(name, struct.pack(">I", number) + part).digest()[: len(part)]


def _xor(one: bytes, other: bytes) -> bytes:
    size = len(one)
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).to_bytes(size, "big")


def _read(disk: Disk, offset: int, length: int) -> bytes:
    if offset % SECTOR or offset + length > disk.byte_count:
        raise _Refused("it is cut off, or its header points past its end")
    data = bytearray(length)
    run(disk.read(offset // SECTOR, [memoryview(data)]))
    return bytes(data)
