"""Goal: what the clients do about TLS by themselves: whom they trust, what they say, what breaking off leaves."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import count
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from peer.client.connections import _shut
from peer.client.profile import Profile, load_profile
from peer.client.trust import UNTRUSTED, Trust, fetch_authority, for_aiohttp, refusal, trust
from peer.errors import Denied, Invalid
from peer.tls.certificates import Certificates, Files, fingerprint_of
from tests.certificates import new_authority, put_pair


@pytest.fixture
def ca_file(tmp_path: Path) -> Path:
    authority = new_authority()
    put_pair(tmp_path, authority.issue("localhost"))
    file = tmp_path / "ca.pem"
    file.write_bytes(authority.pem)
    return file


def test_breaking_off_shows_no_ciphertext(tmp_path: Path, ca_file: Path) -> None:
    """Goal: a connection that is broken off while another thread reads from it gives that one decrypted bytes or an end,
    never the records as they came: they would pass for bytes of an object."""
    shown = Certificates(Files(tmp_path / "cert.pem", tmp_path / "key.pem"))
    ours, theirs = socket.socketpair()
    served = threading.Event()

    def serve() -> None:
        with shown.context.wrap_socket(theirs, server_side=True) as server:
            server.sendall(b"A" * 50_000)
            served.set()
            server.recv(1)  # until the client is gone

    thread = threading.Thread(target=serve)
    thread.start()
    connection = http.client.HTTPSConnection("localhost")
    sock = connection.sock = trust(str(ca_file)).wrap_socket(ours, server_hostname="localhost")
    assert served.wait(30) and sock.recv(10) == b"A" * 10
    _shut(connection)
    read = b""
    try:
        while piece := sock.recv(65536):
            read += piece
    except OSError:
        pass
    assert set(read) <= set(b"A")
    connection.close()
    thread.join(30)


def test_whom_to_trust(ca_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: the variable beats the profile, the profile the machine; a file without certificates is named."""
    monkeypatch.setenv("ATOLL_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("ATOLL_CA_FILE", raising=False)
    (tmp_path / "config.toml").write_text(
        f'[profiles.p]\nendpoints = ["https://h:1"]\nca_file = "{ca_file}"\n[profiles.q]\nendpoints = ["https://h:1"]\n'
    )
    context = load_profile("p").tls_context()
    assert isinstance(context, Trust) and context.source == str(ca_file)
    assert len(context.get_ca_certs()) == 1 and context.check_hostname
    assert load_profile("q").tls_context() is None and for_aiohttp(None) is True
    monkeypatch.setenv("ATOLL_CA_FILE", str(ca_file))
    for context in (load_profile("q").tls_context(), trust(), for_aiohttp(None)):
        assert isinstance(context, Trust) and context.source == str(ca_file)
    (tmp_path / "none.pem").write_text("nothing\n")
    for name, says in (("none.pem", "no certificate in it"), ("missing.pem", "No such file")):
        with pytest.raises(Invalid, match=f"{name} cannot be used: {says}"):
            Profile("p", ("https://h:1",), ca_file=str(tmp_path / name)).tls_context()


@pytest.mark.parametrize(
    ("code", "says"),
    [(18, "--ca-file"), (19, "ATOLL_CA_FILE"), (20, "atoll profile add"), (62, "other names"), (64, "other names"),
     (10, "has expired"), (9, "clock"), (23, "revoked")],
)  # fmt: skip
def test_every_refusal_says_what_helps(code: int, says: str) -> None:
    """Goal: the reason a certificate is refused for, in words, and the remedy."""
    problem = ssl.SSLCertVerificationError()
    problem.verify_code, problem.verify_message = code, "certificate revoked"
    told = refusal(problem, "https://h:7401", None)
    assert told is not None and says in str(told) and "https://h:7401" in str(told)
    wrapped = OSError("as aiohttp has it")
    wrapped.certificate_error = problem  # type: ignore[attr-defined]
    assert str(refusal(wrapped, "https://h:7401", None)) == str(told)
    assert refusal(ConnectionRefusedError(), "https://h:7401", None) is None


@contextmanager
def showing(folder: Path, body: bytes) -> Iterator[str]:
    """The address of a server with TLS that answers everything with `body`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    shown = Certificates(Files(*put_pair(folder, new_authority().issue("localhost"))))
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = shown.context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"https://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(30)


def test_a_fingerprint_vouches_for_one_certificate(tmp_path: Path) -> None:
    """Goal: whoever sits between cannot slip in an authority of their own behind the one whose fingerprint is known.

    Base64 ends at its padding, so Python reads the first certificate of several as if it were alone.
    """
    # Longer and longer names: one without padding shows nothing.
    some = (new_authority("w" * length) for length in count(1))
    wanted = next(one for one in some if len(one.certificate.public_bytes(Encoding.DER)) % 3)
    evil = new_authority("evil")
    fingerprint = fingerprint_of(wanted.certificate)
    with showing(tmp_path, wanted.pem + evil.pem) as url:
        kept = fetch_authority(url, fingerprint)
    assert x509.load_pem_x509_certificates(kept) == [wanted.certificate]
    with showing(tmp_path, evil.pem + wanted.pem) as url, pytest.raises(Denied) as refused:
        fetch_authority(url, fingerprint)
    assert refused.value.code == UNTRUSTED
