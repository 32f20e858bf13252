"""`blob:` over HTTP: every server that misbehaves is an error or the right data, never other data
(openvmm.md 5.3, misbehaving_server_never_reports_success).
"""

from __future__ import annotations

import datetime
import errno
import ipaddress
import ssl
from pathlib import Path

import pytest

from drivebay.disk.backends import blob_http
from drivebay.disk.backends.blob import AHEAD, PART
from drivebay.disk.contract import Disk
from drivebay.disk.errors import DiskError, DiskOpenError, IoError
from drivebay.disk.spec import open_disk
from tests.blob.server import FAULTS, PASSING, ObjectServer
from tests.disk.support import get, noise

CONTENT = noise(40 * 512)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blob_http, "PAUSES", (0.0, 0.0))


def open_flat(server: ObjectServer) -> Disk:
    return open_disk(f"blob:flat:{server.url}", read_only=True)


def read_all(disk: Disk) -> bytes:
    return get(disk, 0, disk.sector_count)


def test_it_reads_what_is_there() -> None:
    with ObjectServer(CONTENT) as server:
        disk = open_flat(server)
        assert disk.sector_count == 40
        assert read_all(disk) == CONTENT
        assert disk.details == {"url": server.url, "pinned": "etag"}
        disk.close()
        assert server.ranges[0] == "bytes=0-0"
        assert all(headers.get("If-Match") == '"one"' for _, headers in server.requests[1:])


ALWAYS_SO = {"no-tag", "another-tag", "another-size"}
"""What is no fault where all answers are so."""


@pytest.mark.parametrize("fault", sorted(FAULTS))
@pytest.mark.parametrize("for_ever", [False, True])
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_no_fault_of_any_request_is_taken_for_success(nth: int, for_ever: bool, fault: str) -> None:
    """The nth request fails, once or from then on: an error, or exactly the object's bytes."""

    def failing(number: int) -> str:
        return fault if number == nth or (for_ever and number > nth) else ""

    error = None
    with ObjectServer(CONTENT, fault=failing) as server:
        try:
            disk = open_flat(server)
        except DiskOpenError as refused:
            assert nth == 1
            assert "\n" not in str(refused)
            return
        try:
            assert get(disk, 20, 20) + get(disk, 0, 20) == CONTENT[20 * 512 :] + CONTENT[: 20 * 512]
        except DiskError as failed:
            error = failed
        disk.close()
    if for_ever and not (nth == 1 and fault in ALWAYS_SO):
        assert error is not None
    elif fault in PASSING:
        assert error is None


def test_a_changed_object_is_an_error_and_stays_one() -> None:
    with ObjectServer(CONTENT) as server:
        disk = open_flat(server)
        assert get(disk, 0, 1) == CONTENT[:512]
        server.content, server.tag = bytes(len(CONTENT)), '"two"'
        for _ in range(3):
            with pytest.raises(IoError, match="the object was changed") as caught:
                get(disk, 1, 1)
            assert caught.value.errno == errno.ESTALE
        disk.close()


def test_a_weak_tag_is_compared_but_not_sent() -> None:
    with ObjectServer(CONTENT, tag='W/"one"') as server:
        disk = open_flat(server)
        assert read_all(disk) == CONTENT
        assert not any("If-Match" in headers for _, headers in server.requests)
        server.tag = 'W/"two"'
        with pytest.raises(IoError, match="changed"):
            get(disk, 0, 1)
        disk.close()


def test_a_reader_who_reads_on_gets_whole_parts_ahead() -> None:
    content = noise(8 * PART)
    with ObjectServer(content) as server:
        disk = open_flat(server)
        sectors = PART // 512 // 4
        got = [get(disk, number * sectors, sectors) for number in range(4)]
        assert b"".join(got) == content[:PART]
        disk.close()
        asked = server.ranges[1:]
    quarters = [f"bytes={n * PART // 4}-{(n + 1) * PART // 4 - 1}" for n in range(2)]
    parts = [f"bytes={n * PART}-{(n + 1) * PART - 1}" for n in range(AHEAD + 1)]
    assert asked[:2] == quarters
    assert set(asked[2:]) <= set(parts)
    assert len(asked[2:]) == len(set(asked[2:]))


def test_a_large_read_is_cut_into_parts_and_none_is_left_out() -> None:
    content = noise(3 * PART + 512)
    with ObjectServer(content) as server:
        disk = open_flat(server)
        assert get(disk, 1, disk.sector_count - 1) == content[512:]
        assert len(server.ranges) == 1 + 3
        disk.close()


def test_an_object_that_is_no_disk_is_refused() -> None:
    for content in (bytes(1000), bytes(1)):
        with (
            ObjectServer(content) as server,
            pytest.raises(DiskOpenError, match="no whole number of sectors"),
        ):
            open_flat(server)
    with ObjectServer(b"") as server, pytest.raises(DiskOpenError, match="answered 416"):
        open_flat(server)


def test_redirects_are_followed_five_times_and_errors_do_not_show_secrets() -> None:
    with ObjectServer(CONTENT) as server, ObjectServer(CONTENT) as other:
        other.redirect = server.url + "?signature=secret"
        disk = open_flat(other)
        assert read_all(disk) == CONTENT
        assert len(other.requests) == 1
        assert server.requests[-1][0] == "/object?signature=secret"
        assert "secret" not in str(disk.details)
        server.fault = lambda number: "status-403"  # the signature is too old: back to the start
        with pytest.raises(IoError) as caught:
            get(disk, 0, 1)
        assert len(other.requests) > 1
        assert "secret" not in str(caught.value)
        disk.close()
    with (
        ObjectServer(CONTENT, fault=lambda number: "redirects-for-ever") as server,
        pytest.raises(DiskOpenError, match="more than 5 redirects"),
    ):
        open_flat(server)
    assert len(server.requests) == 6


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A server's context whose certificate is trusted here."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "drivebay test")])
    today = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "cert.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + secret)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    return context


def test_https_is_never_downgraded(tls: ssl.SSLContext) -> None:
    with ObjectServer(CONTENT, context=tls) as secure, ObjectServer(CONTENT) as plain:
        disk = open_flat(secure)
        assert read_all(disk) == CONTENT
        disk.close()
        secure.redirect = plain.url
        with pytest.raises(DiskOpenError, match="from https to http"):
            open_flat(secure)
        assert not plain.requests
        secure.redirect, plain.redirect = "", secure.url
        disk = open_flat(plain)
        assert read_all(disk) == CONTENT
        disk.close()


def test_a_certificate_nobody_vouches_for_is_refused(
    tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with (
        ObjectServer(CONTENT, context=tls) as server,
        pytest.raises(DiskOpenError, match="certificate"),
    ):
        open_flat(server)


def test_nobody_there_is_one_line() -> None:
    with ObjectServer(CONTENT) as server:
        url = server.url
    for bad, what in {
        url: "Connection refused",
        "http:///object": "no URL of a server",
        "http://user:secret@127.0.0.1/object": "user's name",
        "http://127.0.0.1:99999/object": "Port out of range",
    }.items():
        with pytest.raises(DiskOpenError, match=what) as caught:
            open_disk(f"blob:flat:{bad}", read_only=True)
        assert "secret" not in str(caught.value)
