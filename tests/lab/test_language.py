"""What rules say, and what is said of a rule that makes no sense."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivebay.disk.errors import DiskOpenError
from drivebay.disk.filters.latency import Fixed, Tail
from drivebay.disk.scanner import SpecError
from drivebay.lab import NVME, Match, load_rules, parse_rule, parse_rules
from drivebay.lab.dialects import ata, floppy, nvme, scsi, virtio
from drivebay.lab.language import ERRORS
from drivebay.lab.rules import (
    Action,
    Corrupt,
    Delay,
    Die,
    Direction,
    DiskFault,
    Drop,
    Duplicate,
    Fail,
    Hold,
    Ignore,
    LoseInterrupt,
    Misdirect,
    Patch,
    Remove,
    Rewrite,
    Skip,
    Torn,
    Vocabulary,
)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("any", Match()),
        ("read", Match(frozenset({"READ"}))),
        ("Write_Zeroes+WRITE", Match(frozenset({"WRITE_ZEROES", "WRITE"}))),
        ("admin", Match(frozenset({"ADMIN"}))),
        ("admin-0xC1+io-0x9", Match(frozenset({"ADMIN-0xc1", "IO-0x09"}))),
        ("any,nsid=2,queue=0", Match(nsid=2, queue=0)),
        ("any,lba=7", Match(lba=range(7, 8))),
        ("any,lba=100-199", Match(lba=range(100, 200))),
        ("any,lba=100+8", Match(lba=range(100, 108))),
        ("any,direction=read", Match(direction=Direction.READ)),
        ("any,on=left,nth=3", Match(controller="left", nth=3)),
        ("any,every=10,times=4", Match(every=10, times=4)),
        ("any,p=0.25,seed=9", Match(probability=0.25, seed=9)),
        ("any,after=1.5s", Match(after=1.5)),
        ("any,after=20ms", Match(after=0.02)),
        ("any,cdw10=1/0xff", Match(fields=(("cdw10", 1, 0xFF),))),
    ],
)
def test_conditions(text: str, match: Match) -> None:
    rule = parse_rule(f"{text}:drop", NVME)
    assert rule.match == match
    assert str(rule) == f"{text}:drop"


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("drop", Drop()),
        ("ignore", Ignore()),
        ("hold", Hold()),
        ("duplicate", Duplicate()),
        ("lose-interrupt", LoseInterrupt()),
        ("die", Die()),
        ("status=write-fault", Fail("WRITE_FAULT")),
        ("status=LBA_OUT_OF_RANGE,retry,late", Fail("LBA_OUT_OF_RANGE", True, True)),
        ("corrupt", Corrupt()),
        ("corrupt=3", Corrupt(3)),
        ("rewrite,slba=+8,nsid=2", Rewrite({"nsid": 2}, {"slba": 8})),
        ("rewrite,cdw12=0x40000000,nlb=-1", Rewrite({"cdw12": 1 << 30}, {"nlb": -1})),
        ("patch,at=77,hex=01ff", Patch(77, b"\x01\xff")),
        ("skip", Skip()),
        ("remove", Remove()),
        ("torn", Torn()),
        ("torn=3", Torn(3)),
        ("misdirect=+8", Misdirect(8)),
        ("misdirect=-0x10", Misdirect(-16)),
    ],
)
def test_actions(text: str, action: Action) -> None:
    assert parse_rule(f"any:{text}", NVME).action == action


def test_delays_are_those_of_the_filter() -> None:
    for text, kind in (("5ms", Fixed), ("average=1ms,p99=50ms", Tail)):
        action = parse_rule(f"any:delay={text}", NVME).action
        assert isinstance(action, Delay)
        assert isinstance(action.profile(None), kind)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "it ends there, expected a command", "known: abort"),
        ("raed:drop", "character 1 is 'r', expected a command", "did you mean read?"),
        ("admin-0x100:drop", "character 1", "admin"),
        ("read", "it ends there, expected ',' and a condition, or ':'", ""),
        ("read,quue=3:drop", "character 6 is 'q', expected a condition", "did you mean queue?"),
        ("read,nth=1,nth=2:drop", "character 12 is 'n', expected nth only once", ""),
        ("read,nth:drop", "character 9 is ':', expected '=' and a value for nth", ""),
        ("read,nth=0:drop", "character 10 is '0', expected a number from 1", ""),
        ("read,lba=9-3:drop", "character 10 is '9', expected at least a block", ""),
        ("read,lba=x:drop", "character 10 is 'x', expected blocks, as in", ""),
        ("read,p=2:drop", "character 8 is '2', expected a probability from 0 to 1", ""),
        ("read,after=2h:drop", "character 12 is '2', expected a time", ""),
        ("read,direction=up:drop", "character 16 is 'u', expected one of read, write", ""),
        ("read:", "it ends there, expected what happens", "known: corrupt"),
        ("read:stauts=x", "character 6 is 's', expected what happens", "did you mean status?"),
        ("read:status", "it ends there, expected '=' and a status", ""),
        ("read:status=write-fualt", "character 13 is 'w'", "did you mean write-fault?"),
        ("read:status=success", "character 13 is 's', expected a status", ""),
        ("read:status=write-fault,soon", "character 25 is 's', expected one of retry, late", ""),
        ("read:drop,", "character 10 is ',', expected the end of the rule", ""),
        ("read:delay=1y", "character 12 is '1', expected a time of up to an hour", ""),
        ("read:delay=average=1s,p99=1ms", "expected another average", ""),
        ("read:rewrite", "it ends there, expected ',' and a field", ""),
        ("read:rewrite,cid=1", "character 14 is 'c', expected a field", "known: cdw10"),
        ("read:patch,at=1", "it ends there, expected both", ""),
        ("read:patch,at=1,hex=123", "character 21 is '1', expected bytes in hex", ""),
        (
            "read:error=sad",
            "character 12 is 's', expected an error of a disk",
            "known: illegal-block",
        ),
        ("read:error", "it ends there, expected '=' and an error of a disk", ""),
        ("read:misdirect=8", "character 16 is '8', expected '+' or '-' and a number of blocks", ""),
        ("read:misdirect=+0", "character 17 is '0', expected a number from 1", ""),
        ("read:torn=x", "character 11 is 'x', expected a number from 0", ""),
        ("read,lun=1:drop", "character 6 is 'l', expected a condition", "known: after"),
        ("enable:corrupt", "character 8 is 'c', expected drop, delay=, hold or die", ""),
    ],
)
def test_a_mistake_is_a_line_with_its_place(text: str, message: str, hint: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_rule(text, NVME)
    assert message in str(caught.value)
    assert "\n" not in f"{caught.value}{caught.value.hint}"
    assert hint in caught.value.hint


def test_an_error_of_the_disk() -> None:
    for name, make in ERRORS.items():
        action = parse_rule(f"read:error={name}", NVME).action
        assert isinstance(action, DiskFault)
        assert isinstance(action.make(7, 8), type(make(7, 8)))


@pytest.mark.parametrize(
    ("words", "text", "match"),
    [
        (virtio.VOCABULARY, "in+discard,queue=1", Match(frozenset({"IN", "DISCARD"}), queue=1)),
        (virtio.VOCABULARY, "opcode-0x63", Match(frozenset({"OPCODE-0x63"}))),
        (scsi.VOCABULARY, "read-10,lun=3,cdb1=8/8", Match(
            frozenset({"READ_10"}), queue=3, fields=(("cdb1", 8, 8),))),
        (ata.VOCABULARY, "write-fpdma-queued,port=2", Match(
            frozenset({"WRITE_FPDMA_QUEUED"}), queue=2)),
        (ata.VOCABULARY, "packet+read-10", Match(frozenset({"PACKET", "READ_10"}))),
        (floppy.VOCABULARY, "read,drive=1,cylinder=40", Match(
            frozenset({"READ"}), queue=1, fields=(("cylinder", 40, (1 << 64) - 1),))),
    ],
)  # fmt: skip
def test_each_controller_has_its_words(words: Vocabulary, text: str, match: Match) -> None:
    assert parse_rule(f"{text}:drop", words).match == match


@pytest.mark.parametrize(
    ("words", "text", "message"),
    [
        (virtio.VOCABULARY, "read,nsid=1:drop", "expected a condition"),
        (virtio.VOCABULARY, "read:status=ioerr,retry", "expected one of late"),
        (scsi.VOCABULARY, "admin:drop", "expected a command"),
        (ata.VOCABULARY, "read:duplicate", "expected what there is for ata commands"),
        (ata.VOCABULARY, "read:rewrite,cdb0=1", "expected a field"),
        (floppy.VOCABULARY, "read,lba=1:drop", "expected a condition"),
        (floppy.VOCABULARY, "read:torn", "expected what there is for floppy commands"),
    ],
)
def test_what_a_controller_has_not_is_said(words: Vocabulary, text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_rule(text, words)


@given(st.text(max_size=40) | st.from_regex(r"(read|any)(,[a-z]+=[0-9a-z.+-]+)*:[a-z=,0-9-]*"))
def test_any_text_is_a_rule_or_a_spec_error(text: str) -> None:
    for dialect in (nvme, virtio, scsi, ata, floppy):
        try:
            assert parse_rule(text, dialect.VOCABULARY).text == text
        except SpecError as error:
            assert 0 <= error.position <= len(text)


TOML = """
[[fault]]
command = "read+write"
lba = "0-7"
every = 10
do = "status=write-fault"

[[fault]]
p = 0.5
do = "drop"
"""


def test_a_file_of_rules(tmp_path: Path) -> None:
    path = tmp_path / "faults.toml"
    path.write_text(TOML)
    rules = parse_rules([f"@{path}", "flush:die"], NVME)
    assert [rule.text for rule in rules] == [
        "read+write,lba=0-7,every=10:status=write-fault",
        "any,p=0.5:drop",
        "flush:die",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x = 1", "there is no fault in it"),
        ("[[fault]]\ncommand = 'read'", "fault 1: there is no do"),
        ("[[fault]]\ncommand = 'raed'\ndo = 'drop'", "fault 1: 'raed:drop': character 1"),
        ("[[fault", "Expected ']]'"),
    ],
)
def test_a_mistake_in_a_file_says_where(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "faults.toml"
    path.write_text(content)
    with pytest.raises(DiskOpenError) as caught:
        load_rules(str(path), NVME)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
