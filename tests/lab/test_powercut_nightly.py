"""Many more power cuts than a test run has the time for: ``./do nightly``.

``DRIVEBAY_POWER_CUTS`` says how many images of each are checked.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from drivebay.cli.main import main

IMAGES = os.environ.get("DRIVEBAY_POWER_CUTS")

pytestmark = [
    pytest.mark.guest,
    pytest.mark.skipif(IMAGES is None, reason="for ./do nightly: DRIVEBAY_POWER_CUTS is not set"),
]

MOUNT = "mount /dev/vda /mnt; sync; echo ready; sleep 1; cd /mnt; "
FILES = """
for n in $(seq 40); do
    mkdir d$n; dd if=/dev/urandom of=d$n/f bs=700 count=$n 2>/dev/null
    ln d$n/f l$n; mv d$n e$n; echo more >>e$n/f; sync e$n/f
    [ $((n % 3)) = 0 ] && rm -r e$n && truncate -s 100 l$n
done; true"""

TRANSACTIONS = """
sqlite3 a.db 'create table t(v unique)' && sync
for n in $(seq 60); do
    sqlite3 a.db "pragma synchronous=extra; insert into t values (hex(randomblob(900)))" &&
        echo "committed $n"
done"""

LOOK = """
e2fsck -p "$1" >"$1.log" || [ $? -eq 1 ] || exit 1
for file in a.db a.db-journal; do
    debugfs -R "dump /$file $1.$file" "$1" 2>>"$1.log"
    [ -s "$1.$file" ] || rm -f "$1.$file"
done
said=$(grep -c '^committed' "$2")
[ "$said" = 0 ] && exit 0
[ "$(sqlite3 "$1.a.db" 'pragma integrity_check')" = ok ] || exit 1
[ "$(sqlite3 "$1.a.db" 'select count(*) from t')" -ge "$said" ]"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def powercut(script: str, check: str) -> int:
    options = ["--disk", "mem:16M", "--after", "mark=ready", "--tear", "4096", "-n", str(IMAGES)]
    return main(["lab", "powercut", *options, "--run", script, "--check", check])


def test_ext4_is_clean_once_its_journal_is_replayed() -> None:
    script = "mkfs.ext4 -q /dev/vda; " + MOUNT + FILES
    assert powercut(script, "e2fsck -p {image}; e2fsck -fn {image}") == 0


def test_what_sqlite_said_to_be_committed_is_there() -> None:
    Path("look.sh").write_text(LOOK)
    script = "mkfs.ext4 -q /dev/vda; " + MOUNT + TRANSACTIONS
    assert powercut(script, "sh look.sh {image} {said}") == 0
