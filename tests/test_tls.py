"""Goal: certificates are issued, loaded, refused and replaced as docs/security.md says; no sockets, a virtual clock."""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509

from peer.api import conditions
from peer.config import PeerConfig, merged
from peer.errors import Invalid, StartupError
from peer.startup import refuse_unbuilt
from peer.tls.authority import LIFE, Authority
from peer.tls.certificates import Certificates, Files, Issued, Pair, Unusable, context_of, names_in
from peer.tls.options import RENEWED_AT, check, names_of
from tests.certificates import key_pem, new_authority, new_key, put_pair

KEY = bytes(range(32))
NOW_S = datetime(2030, 6, 1, tzinfo=UTC).timestamp()
DAY_S = 86_400.0


def leaf_of(pair: Pair) -> x509.Certificate:
    return x509.load_pem_x509_certificates(pair.chain)[0]


def meet(server: ssl.SSLContext, authority: bytes, name: str, *, strict: bool = True) -> ssl.SSLObject:
    """The client's side of a handshake in memory. Raises ssl.SSLError as a client would."""
    client = ssl.create_default_context(cadata=authority.decode())
    if strict:
        client.verify_flags |= ssl.VERIFY_X509_STRICT
    client.set_alpn_protocols(["h2", "http/1.1"])
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = client.wrap_bio(to_client, to_server, server_hostname=name)
    other = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(10):
        for side in (one, other):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    one.do_handshake()
    return one


# --- the cluster's own authority


def test_every_peer_makes_the_same_authority() -> None:
    """Goal: key and cluster make the authority's certificate, byte for byte, in every version to come."""
    authority = Authority(KEY, "ab" * 16)
    assert authority.pem == Authority(KEY, "ab" * 16).pem
    assert (
        authority.fingerprint
        == "F0:D6:C0:85:DB:31:38:87:82:E5:98:DA:88:9E:9C:43:98:BE:DE:18:D5:11:8D:13:B2:99:25:5B:69:27:78:54"
    )
    others = {Authority(KEY, "cd" * 16).fingerprint, Authority(bytes(32), "ab" * 16).fingerprint}
    assert len(others | {authority.fingerprint}) == 3


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1", "10.0.0.7", "peer-1", "a.s3.example.org"])
def test_what_it_issues_is_trusted(name: str) -> None:
    """Goal: who trusts the authority trusts each peer under its names, by the strict rules; HTTP/1.1 over TLS 1.3."""
    config = PeerConfig(
        data=Path("x"),
        host="0.0.0.0",
        advertise="10.0.0.7",
        name="peer-1",
        tls="auto",
        domain="s3.example.org",
    )
    authority = Authority(KEY, "ab" * 16)
    pair = authority.issue(names_of(config), datetime.now(UTC).timestamp())
    session = meet(context_of(pair)[0], authority.pem, name)
    assert (session.version(), session.selected_alpn_protocol()) == ("TLSv1.3", "http/1.1")
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        meet(context_of(pair)[0], authority.pem, "peer-2")
    with pytest.raises(
        ssl.SSLCertVerificationError, match=r"unable to get local issuer|self-signed|signature"
    ):
        meet(context_of(pair)[0], Authority(bytes(32), "ab" * 16).pem, name)


def test_names_that_no_certificate_can_have() -> None:
    """Goal: labels for people, wildcard hosts and repetitions are left out; an address is one in every spelling."""
    config = PeerConfig(data=Path("x"), host="::", advertise="fe80::1", name="Büro, 2. Stock", tls="auto")
    found = names_in(leaf_of(Authority(KEY, "c").issue([*names_of(config), "FE80:0::1", ""], NOW_S)))
    assert "fe80::1" in found and len(found) == len(set(found))
    assert not {"::", "", "Büro, 2. Stock"} & set(found)


def test_renewal_long_before_the_end() -> None:
    """Goal: over a year there is at every moment a certificate that will live for a third of its life, whatever the clock
    does; each has a key of its own."""
    clock = [NOW_S]
    authority = Authority(KEY, "c")
    source = Issued(
        partial(authority.issue, ["localhost"]),
        authority.pem,
        RENEWED_AT * LIFE.total_seconds(),
        lambda: clock[0],
    )
    shown = Certificates(source, lambda: clock[0])
    seen = {shown.info()["fingerprint"]}
    for _ in range(365):
        clock[0] += DAY_S
        shown.look()
        assert shown.info()["expires_in_s"] >= (1 - RENEWED_AT) * LIFE.total_seconds() - DAY_S
        assert not conditions.warnings([("peer-1", {"tls": shown.info()}, ())])
        seen.add(shown.info()["fingerprint"])
    assert 365 // 61 <= len(seen) <= 365 // 59 + 2 and shown.counts["reloads"] == len(seen) - 1
    clock[0] -= 3000 * DAY_S  # it had been wrong
    shown.look()
    assert 0 < shown.info()["expires_in_s"] <= LIFE.total_seconds()


# --- given files


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(*put_pair(tmp_path, new_authority().issue("localhost")))


def test_what_cannot_be_shown(tmp_path: Path) -> None:
    """Goal: each kind of bad file is refused with a sentence that says what is wrong; nothing asks for a password."""
    certificate, key = new_authority().issue("localhost")
    for pair, says in (
        (Pair(certificate, key_pem(new_key())), "another certificate"),
        (Pair(certificate, key_pem(new_key(), b"hush")), "encrypted"),
        (Pair(certificate, b""), "no PEM file"),
        (Pair(certificate, certificate), "no PEM file"),
        (Pair(key, key), "no PEM file with a certificate"),
        (Pair(b"\0" * 100, key), "no PEM file with a certificate"),
    ):
        with pytest.raises(Unusable, match=says):
            context_of(pair)
    with pytest.raises(StartupError, match=r"missing\.pem cannot be read: No such file"):
        Certificates(Files(tmp_path / "missing.pem", tmp_path / "key.pem"))
    with pytest.raises(StartupError, match="Is a directory"):
        check(PeerConfig(data=tmp_path, tls_cert=tmp_path, tls_key=tmp_path))
    (tmp_path / "big").write_bytes(bytes(2 << 20))
    with pytest.raises(StartupError, match="too large"):
        Certificates(Files(tmp_path / "big", tmp_path / "big"))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StartupError, match="no regular file"):
        Certificates(Files(tmp_path / "pipe", tmp_path / "pipe"))


def test_replaced_in_two_steps(tmp_path: Path, files: Files) -> None:
    """Goal: between the two files of a new pair nothing is told and nothing changes; then new connections get it."""
    shown = Certificates(files)
    before, old_context = shown.info()["fingerprint"], shown.context
    certificate, key = new_authority().issue("localhost")
    (tmp_path / "cert.pem").write_bytes(certificate)
    shown.look()
    assert shown.problem == "" and shown.context is old_context
    (tmp_path / "key.pem").write_bytes(key)
    shown.look()
    assert shown.problem == "" and shown.info()["fingerprint"] != before and shown.context is not old_context
    assert shown.counts["reloads"] == 1
    shown.look()
    assert shown.counts["reloads"] == 1


def test_bad_replacement_is_told_and_not_used(
    tmp_path: Path, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    """Goal: a broken, missing or expired replacement leaves the old certificate, and is told in log and status until it is
    made good; once, and at once when somebody asked (SIGHUP)."""
    shown = Certificates(files)
    before = shown.info()["fingerprint"]
    (tmp_path / "key.pem").write_bytes(key_pem(new_key()))
    for _ in range(5):
        shown.look()
    assert "another certificate" in shown.problem and shown.info()["fingerprint"] == before
    assert caplog.text.count("another certificate") == 1
    (warning,) = conditions.warnings([("peer-1", {"tls": shown.info()}, ())])
    assert warning["code"] == "tls_certificate" and "another certificate" in warning["message"]
    (tmp_path / "key.pem").unlink()
    shown.look(asked=True)
    assert "No such file" in shown.problem
    put_pair(tmp_path, new_authority().issue("localhost", days=-1, since_days=9))
    shown.look(asked=True)
    assert "has expired" in shown.problem and shown.info()["fingerprint"] == before
    put_pair(tmp_path, new_authority().issue("localhost"))
    shown.look()
    assert shown.problem == "" and shown.info()["fingerprint"] != before


def test_begins_in_the_future(tmp_path: Path, files: Files, caplog: pytest.LogCaptureFixture) -> None:
    """Goal: a certificate that clients would refuse today is told once, not shown before its time, and shown then."""
    clock = [datetime.now(UTC).timestamp()]
    shown = Certificates(files, lambda: clock[0])
    before = shown.info()["fingerprint"]
    put_pair(tmp_path, new_authority().issue("localhost", since_days=-10))
    for _ in range(5):
        shown.look()
    assert "not valid before" in shown.problem and shown.info()["fingerprint"] == before
    assert caplog.text.count("not valid before") == 1
    clock[0] += 11 * DAY_S
    shown.look()
    assert shown.problem == "" and shown.info()["fingerprint"] != before


def test_expiry_is_told_ahead(tmp_path: Path) -> None:
    """Goal: 14 days before its end a certificate is a warning, after it another one; a peer starts with it all the same."""
    paths = put_pair(tmp_path, new_authority().issue("localhost", days=20))
    at_s = datetime.now(UTC).timestamp()
    clock = [at_s]
    shown = Certificates(Files(*paths), lambda: clock[0])

    def told() -> str:
        return " ".join(one["message"] for one in conditions.warnings([("p", {"tls": shown.info()}, ())]))

    assert told() == ""
    clock[0] = at_s + 7 * DAY_S
    assert "expires on" in told() and "13.0 days" in told()
    clock[0] = at_s + 21 * DAY_S
    assert "has expired on" in told()
    late = Certificates(Files(*paths), lambda: clock[0])
    assert late.info()["expires_in_s"] < 0
    assert conditions.warnings([("p", {"tls": None}, ()), ("q", {}, ())]) == []


def test_old_protocols_are_refused(files: Files) -> None:
    """Goal: TLS 1.2 is the least; there is no compression and no renegotiation."""
    context = Certificates(files).context
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_RENEGOTIATION and context.options & ssl.OP_NO_COMPRESSION


# --- options


def test_options() -> None:
    """Goal: a choice of TLS replaces the remembered one; beyond loopback it is enough without --insecure."""
    kept = {"tls_cert": "/c", "tls_key": "/k"}
    assert merged({"tls": "auto"}, kept) == {"tls": "auto"}
    assert merged({"tls": "off"}, kept) == {"tls": ""} == merged({"tls": "off"}, {"tls": "auto"})
    assert merged({}, {"tls": "auto"}) == {"tls": "auto"}
    assert merged({"tls_cert": Path("/n"), "tls_key": Path("/m")}, {"tls": "auto"}).get("tls", "") == ""
    with pytest.raises(Invalid, match="excludes"):
        PeerConfig(data=Path("x"), tls="auto", tls_cert=Path("c"), tls_key=Path("k"))
    config = PeerConfig(data=Path("x"), host="0.0.0.0", advertise="10.0.0.1", tls="auto")
    refuse_unbuilt(config)
    assert config.serves_tls and config.to_json()["tls"] == "auto"
    with pytest.raises(StartupError, match="--tls auto"):
        refuse_unbuilt(PeerConfig(data=Path("x"), host="0.0.0.0", advertise="10.0.0.1"))
