"""The codec, on bytes alone."""

from __future__ import annotations

import os
import random
import struct

import pytest

from drivebay.hosts.vhost_user.codec import MAX_FDS, Codec, PeerError, encode, reply
from drivebay.hosts.vhost_user.messages import Flags, Request

from .support import decode, no_fd_is_left


def test_a_message_is_the_same_on_both_sides() -> None:
    [message] = decode(encode(Request.SET_FEATURES, b"12345678", NEED_REPLY=1))
    assert (message.request, message.payload, message.fds) == (2, b"12345678", ())
    assert message.flags.NEED_REPLY
    assert message.name == "SET_FEATURES"
    [answer] = decode(reply(message, b"87654321"))
    assert answer.flags.REPLY
    assert answer.request == 2


def test_a_message_may_come_byte_by_byte() -> None:
    data = encode(Request.SET_VRING_NUM, b"abcdefgh") + encode(Request.SET_OWNER)
    codec, messages = Codec(), []
    for n in range(len(data)):
        messages += codec.receive(data[n : n + 1])
    assert [m.payload for m in messages] == [b"abcdefgh", b""]


def test_it_never_wants_bytes_of_the_next_message() -> None:
    codec = Codec()
    data = encode(Request.SET_VRING_NUM, b"abcdefgh") * 3
    while data:
        wanted = codec.wanted
        assert 0 < wanted <= 12
        codec.receive(data[:wanted])
        data = data[wanted:]
    assert codec.wanted == 12


def test_descriptors_belong_to_the_message_whose_bytes_they_came_with() -> None:
    codec = Codec()
    assert codec.receive(encode(Request.SET_OWNER)[:5], [101]) == []
    [first] = codec.receive(encode(Request.SET_OWNER)[5:], [102])
    [second] = codec.receive(encode(Request.SET_OWNER))
    assert first.fds == (101, 102)
    assert second.fds == ()


def test_no_message_has_more_descriptors_than_a_memory_table() -> None:
    with no_fd_is_left():
        codec = Codec()
        with pytest.raises(PeerError, match="more than 8 descriptors"):
            for byte in encode(Request.SET_OWNER):
                codec.receive(bytes([byte]), [os.dup(0)])
        assert len(codec._fds) == MAX_FDS + 1
        codec.close()


@pytest.mark.parametrize("version", [0, 2, 3])
def test_another_version_is_refused(version: int) -> None:
    with pytest.raises(PeerError, match=f"protocol version {version}"):
        Codec().receive(struct.pack("<III", 1, version, 0))


@pytest.mark.parametrize("length", [4097, 1 << 16, 1 << 31, (1 << 32) - 1])
def test_a_payload_that_is_too_long_is_refused_before_it_comes(length: int) -> None:
    with pytest.raises(PeerError, match=f"a payload of {length} bytes"):
        Codec().receive(struct.pack("<III", 1, 1, length))


def test_unknown_flags_are_kept_and_do_no_harm() -> None:
    [message] = decode(struct.pack("<III", 99, 0xFFFFFFFD, 0))
    assert message.flags == Flags(0xFFFFFFFD)
    assert message.name == "request 99"


def test_random_bytes_are_messages_or_a_peers_mistake() -> None:
    rng = random.Random(1)
    for _ in range(2000):
        codec = Codec()
        try:
            for _ in range(20):
                codec.receive(rng.randbytes(rng.randint(1, codec.wanted)))
        except PeerError:
            continue
