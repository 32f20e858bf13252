"""LUKS volumes: those of cryptsetup and qemu-img, and hostile ones made here."""

from __future__ import annotations

import base64
import copy
import errno
import hashlib
import json
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drivebay.disk.backends.ram import RamDisk
from drivebay.disk.contract import Disk
from drivebay.disk.errors import DiskError, DiskOpenError, IoError, ReadOnly
from drivebay.disk.filters.crypt import Crypt
from drivebay.disk.filters.luks import open_luks
from drivebay.disk.filters.xts import SectorXts
from drivebay.disk.spec import SpecError, open_disk, parse
from drivebay.suspend import run
from tests.disk.support import get, noise, put
from tests.filters.test_faults import Failing, Fault

SIZE = 1 << 18
DATA = noise(SIZE, 5)
PASSPHRASE = b"correct horse"


def tool(*arguments: object) -> None:
    if shutil.which(str(arguments[0])) is None:
        pytest.skip(f"{arguments[0]} is not installed")
    subprocess.run(list(map(str, arguments)), check=True, capture_output=True, timeout=60)


def read_back(image: Path, key: Path) -> bytes:
    disk = open_disk(f"luks:{key}:{image}")
    try:
        assert disk.read_only
        assert disk.details == {"cipher": "aes-xts-plain64"}
        return get(disk, 0, SIZE // disk.sector_size)
    finally:
        disk.close()


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_bytes(PASSPHRASE)
    return path


@pytest.mark.parametrize(("cipher", "hashed"), [("aes-128", "sha512")])
def test_what_qemu_img_has_encrypted(cipher: str, hashed: str, key: Path, tmp_path: Path) -> None:
    raw, image = tmp_path / "raw", tmp_path / "image"
    raw.write_bytes(DATA)
    secret = ("--object", f"secret,id=s,file={key}")
    options = f"key-secret=s,iter-time=10,cipher-alg={cipher},hash-alg={hashed}"
    tool("qemu-img", "create", "-q", *secret, "-f", "luks", "-o", options, image, SIZE)
    target = f"driver=luks,file.filename={image},key-secret=s"
    tool("qemu-img", "convert", "-n", *secret, "-f", "raw", "--target-image-opts", raw, target)
    assert read_back(image, key) == DATA


FAST = ("--pbkdf-force-iterations", 1000)
CHEAP = ("--pbkdf-memory", 64, "--pbkdf-force-iterations", 4)


@pytest.mark.parametrize(
    "options",
    [
        ("--sector-size", 512, "--pbkdf", "pbkdf2", *FAST),
        ("--sector-size", 4096, "--pbkdf", "pbkdf2", *FAST, "--hash", "sha512"),
        (*("--sector-size", 4096, "--pbkdf", "argon2id"), *CHEAP),
    ],
)
def test_what_cryptsetup_has_encrypted(
    options: tuple[object, ...], key: Path, tmp_path: Path
) -> None:
    image = tmp_path / "image"
    image.write_bytes(DATA + bytes(32 << 20))
    tool(
        *("cryptsetup", "-q", "reencrypt", "--encrypt", "--reduce-device-size", "32M"),
        *("--type", "luks2", "--cipher", "aes-xts-plain64", "--key-size", 512, "--key-file", key),
        *options,
        image,
    )
    assert read_back(image, key) == DATA


def test_cryptsetup_and_its_second_passphrase(key: Path, tmp_path: Path) -> None:
    image, second = tmp_path / "image", tmp_path / "second"
    second.write_bytes(b"other\n")
    with image.open("wb") as file:
        file.truncate(4 << 20)
    options = ("--pbkdf", "pbkdf2", *FAST, "--key-file", key)
    tool("cryptsetup", "-q", "luksFormat", "--type", "luks1", *options, image)
    tool("cryptsetup", "-q", "luksAddKey", *options, image, second)
    assert read_back(image, key) == read_back(image, second)
    second.write_bytes(b"other")
    with pytest.raises(DiskOpenError, match="the passphrase opens no key slot") as caught:
        open_disk(f"luks:{second}:{image}")
    assert "newlines" in caught.value.hint


# -- made here -------------------------------------------------------------------------------------

KEY = bytes(range(1, 65))
OFFSET = 64 << 10
MATERIAL = 32 << 10


def merged(first: bytes) -> bytes:
    """What the second of two stripes is mixed with (AFsplit, in sha256)."""
    blocks = (struct.pack(">I", n) + first[at : at + 32] for n, at in enumerate((0, 32)))
    return b"".join(hashlib.sha256(block).digest() for block in blocks)


def material(secret: bytes) -> bytes:
    first = noise(64, 1)
    second = bytes(a ^ b for a, b in zip(KEY, merged(first), strict=True))
    clear = memoryview((first + second).ljust(512, b"\0"))
    into = memoryview(bytearray(512))
    SectorXts(secret, 512).encrypt(0, clear, into)
    return bytes(into)


def volume(header: bytes, sector_size: int = 512) -> RamDisk:
    disk = RamDisk(OFFSET + SIZE)
    put(disk, 0, header.ljust(MATERIAL, b"\0")[:MATERIAL])
    slot_key = hashlib.pbkdf2_hmac("sha256", PASSPHRASE, b"s" * 32, 7, 64)
    put(disk, MATERIAL // 512, material(slot_key))
    plain = RamDisk(SIZE, sector_size=sector_size)
    put(Crypt(plain, KEY, step=sector_size // 512), 0, DATA)
    put(disk, OFFSET // 512, get(plain, 0, SIZE // sector_size))
    return disk


def luks1(**change: Any) -> bytes:
    field: dict[str, Any] = {
        "magic": b"LUKS\xba\xbe",
        "version": 1,
        "cipher": b"aes",
        "mode": b"xts-plain64",
        "hash": b"sha256",
        "offset": OFFSET // 512,
        "key_bytes": 64,
        "iterations": 9,
        "slot_iterations": 7,
        "at": MATERIAL // 512,
        "stripes": 2,
    } | change
    digest = hashlib.pbkdf2_hmac("sha256", KEY, b"d" * 32, 9, 20)
    header = struct.pack(
        ">6sH32s32s32sII20s32sI40s",
        *(field[name] for name in ("magic", "version", "cipher", "mode", "hash", "offset")),
        *(field["key_bytes"], digest, b"d" * 32, field["iterations"], b"uuid"),
    )
    slot = (field["slot_iterations"], b"s" * 32, field["at"], field["stripes"])
    empty = struct.pack(">II32sII", 0xDEAD, 0, b"", 0, 0)
    return header + empty + struct.pack(">II32sII", 0x00AC71F3, *slot) + empty * 6


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


METADATA: dict[str, Any] = {
    "keyslots": {
        "0": {
            "type": "luks2",
            "key_size": 64,
            "af": {"type": "luks1", "stripes": 2, "hash": "sha256"},
            "area": {
                "type": "raw",
                "offset": str(MATERIAL),
                "encryption": "aes-xts-plain64",
                "key_size": 64,
            },
            "kdf": {"type": "pbkdf2", "hash": "sha256", "iterations": 7, "salt": text(b"s" * 32)},
        }
    },
    "segments": {
        "0": {
            "type": "crypt",
            "offset": str(OFFSET),
            "size": "dynamic",
            "iv_tweak": "0",
            "encryption": "aes-xts-plain64",
            "sector_size": 512,
        }
    },
    "digests": {
        "0": {
            "type": "pbkdf2",
            "keyslots": ["0"],
            "segments": ["0"],
            "hash": "sha256",
            "iterations": 9,
            "salt": text(b"d" * 32),
            "digest": text(hashlib.pbkdf2_hmac("sha256", KEY, b"d" * 32, 9, 32)),
        }
    },
}


def luks2(
    change: Callable[[Any], object] = lambda data: None, json_text: bytes = b"", **fields: Any
) -> bytes:
    metadata = copy.deepcopy(METADATA)
    change(metadata)
    body = json_text or json.dumps(metadata).encode()
    size = fields.get("hdr_size", 16 << 10)
    header = (
        struct.pack(
            ">6sHQQ48s32s64s40s48sQ184s",
            *(
                b"LUKS\xba\xbe",
                2,
                size,
                3,
                b"",
                fields.get("csum_alg", b"sha256"),
                b"salt",
                b"uuid",
            ),
            *(b"", 0, b""),
        ).ljust(4096, b"\0")
        + body
    )
    whole = header.ljust(min(size, 1 << 20), b"\0")
    digest = fields.get("csum") or hashlib.sha256(whole).digest()
    return whole[:448] + digest.ljust(64, b"\0") + whole[512:]


def test_a_volume_made_here_opens() -> None:
    for header in (luks1(), luks2()):
        disk = open_luks(volume(header), PASSPHRASE)
        assert get(disk, 0, SIZE // 512) == DATA
        for operation in (disk.write_zeroes(0, 1), disk.unmap(0, 1)):
            with pytest.raises(ReadOnly):
                run(operation)
        with pytest.raises(DiskOpenError, match="no key slot"):
            open_luks(volume(header), b"wrong")


def test_a_volume_of_some_length_and_of_large_sectors() -> None:
    def change(data: Any) -> None:
        data["segments"]["0"] |= {"sector_size": 4096, "size": str(SIZE // 2)}

    disk = open_luks(volume(luks2(change), sector_size=4096), PASSPHRASE)
    assert (disk.sector_size, disk.byte_count) == (4096, SIZE // 2)
    assert get(disk, 0, SIZE // 8192) == DATA[: SIZE // 2]


HUGE = 0xFFFF_FFFF


@pytest.mark.parametrize(
    "change",
    [
        {"magic": b"LUKS\xba\xbf"},
        {"version": 3},
        {"version": 0},
        {"cipher": b"serpent"},
        {"mode": b"cbc-essiv:sha256"},
        {"mode": b"\xff" * 32},
        {"hash": b"md5"},
        {"key_bytes": 0},
        {"key_bytes": HUGE},
        {"offset": HUGE},
        {"offset": (OFFSET + SIZE) // 512},
        {"iterations": 0},
        {"iterations": HUGE},
        {"slot_iterations": HUGE},
        {"at": HUGE},
        {"stripes": 0},
        {"stripes": HUGE},
    ],
    ids=str,
)
def test_a_hostile_version_1_is_refused_at_once(change: dict[str, Any]) -> None:
    with pytest.raises(DiskOpenError):
        open_luks(volume(luks1(**change)), PASSPHRASE)


def at(path: str, value: object) -> Callable[[Any], None]:
    def change(data: Any) -> None:
        *way, last = path.split(".")
        for name in way:
            data = data[name]
        data[last] = value

    return change


SLOT, SEGMENT, DIGEST = "keyslots.0", "segments.0", "digests.0"
ARGON = {"type": "argon2id", "time": 1, "memory": 64, "cpus": 1, "salt": text(b"s" * 32)}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("segments", {}),
        ("segments", {"0": METADATA["segments"]["0"], "1": METADATA["segments"]["0"]}),
        ("segments", []),
        (f"{SEGMENT}.type", "linear"),
        (f"{SEGMENT}.sector_size", 65536),
        (f"{SEGMENT}.sector_size", None),
        (f"{SEGMENT}.iv_tweak", "8"),
        (f"{SEGMENT}.offset", str(1 << 62)),
        (f"{SEGMENT}.offset", "-512"),
        (f"{SEGMENT}.offset", "513"),
        (f"{SEGMENT}.size", str(1 << 62)),
        (f"{SEGMENT}.size", "100"),
        (f"{SEGMENT}.encryption", "null"),
        ("digests", {}),
        (f"{DIGEST}.iterations", 1 << 40),
        (f"{DIGEST}.hash", "md5"),
        (f"{DIGEST}.salt", "not base64!"),
        (f"{DIGEST}.keyslots", ["7"]),
        (f"{SLOT}.key_size", 1 << 30),
        (f"{SLOT}.af.stripes", 1 << 30),
        (f"{SLOT}.af.hash", "x"),
        (f"{SLOT}.area.offset", str(1 << 60)),
        (f"{SLOT}.area.offset", "-1"),
        (f"{SLOT}.area.encryption", "aes-cbc-plain"),
        (f"{SLOT}.kdf.iterations", 1 << 40),
        (f"{SLOT}.kdf.iterations", -1),
        (f"{SLOT}.kdf.type", "argon2i"),
        (f"{SLOT}.kdf", ARGON | {"memory": 1 << 40}),
        (f"{SLOT}.kdf", ARGON | {"memory": 1}),
        (f"{SLOT}.kdf", ARGON | {"cpus": 1 << 20}),
        (f"{SLOT}.kdf", ARGON | {"time": 1 << 40}),
        (f"{SLOT}.kdf", ARGON | {"time": 0}),
        (f"{SLOT}.kdf", ARGON | {"salt": ""}),
        (f"{SLOT}.type", "reencrypt"),
    ],
    ids=str,
)
def test_a_hostile_version_2_is_refused_at_once(path: str, value: object) -> None:
    with pytest.raises(DiskOpenError):
        open_luks(volume(luks2(at(path, value))), PASSPHRASE)


@pytest.mark.parametrize(
    "header",
    [
        luks2(hdr_size=0),
        luks2(hdr_size=4096),
        luks2(hdr_size=(1 << 64) - 1),
        luks2(hdr_size=(1 << 20) + 512),
        luks2(csum_alg=b"crc32"),
        luks2(csum=b"x" * 32),
        luks2(json_text=b"{"),
        luks2(json_text=b"[" * 9000),
        luks2(json_text=b"null"),
        luks2(json_text=b"\xff"),
        b"LUKS",
        b"",
    ],
    ids=range(12),
)
def test_a_header_that_makes_no_sense(header: bytes) -> None:
    with pytest.raises(DiskOpenError):
        open_luks(volume(header), PASSPHRASE)


def test_an_image_that_is_cut_off() -> None:
    whole = get(volume(luks1()), 0, 128)
    for sectors in (1, 8, 64, 65):
        disk: Disk = RamDisk(sectors * 512)
        put(disk, 0, whole[: sectors * 512])
        with pytest.raises(DiskOpenError):
            open_luks(disk, PASSPHRASE)


def test_large_sectors_below_are_not_known() -> None:
    with pytest.raises(DiskOpenError, match="4096"):
        open_luks(RamDisk(SIZE, sector_size=4096), PASSPHRASE)


def test_the_grammar_and_the_key_file(tmp_path: Path) -> None:
    with pytest.raises(DiskOpenError, match="none: No such file"):
        open_disk(f"luks:{tmp_path}/none:mem:1M")
    (tmp_path / "key").write_bytes(bytes((8 << 20) + 1))
    with pytest.raises(DiskOpenError, match="no passphrase is longer"):
        open_disk(f"luks:{tmp_path}/key:mem:1M")
    (tmp_path / "key").write_bytes(PASSPHRASE)
    with pytest.raises(DiskOpenError) as caught:
        open_disk(f"luks:{tmp_path}/key:mem:1M")
    assert str(caught.value) == "mem:1M: no LUKS volume of version 1 or 2"
    with pytest.raises(SpecError, match="':' and a disk"):
        parse("luks:key")


@pytest.mark.parametrize("header", [luks1(), luks2()], ids=["luks1", "luks2"])
def test_the_nth_failure_below_surfaces(header: bytes) -> None:
    """Hostile 4.8: whichever read fails, of the header, of a key slot, of the data."""
    at = 0
    while _strikes(header, at + 1):
        at += 1
    assert at > 2


def _strikes(header: bytes, at: int) -> bool:
    fault = Fault(IoError(errno.EIO, "below"))
    below = volume(header)
    fault.at = at
    try:
        disk = open_luks(Failing(below, fault), PASSPHRASE)
        found = get(disk, 3, 8)
    except (DiskError, DiskOpenError) as error:
        assert "below" in str(error)
        assert fault.met == at
        return True
    assert found == DATA[3 * 512 : 11 * 512]
    assert fault.met < at
    return False
