"""What a peer shows to its clients: a certificate with its key, replaced while it serves.

A source says where they come from: files that somebody else renews (`Files`), or the cluster's authority (`Issued`).
`Certificates.watch` looks at it every few seconds, and at once on SIGHUP. What cannot be used (no certificate, another
one's key, expired, not valid yet) changes nothing until it can: the old one stays, the log and `status` say why. New
connections get the new certificate; those that are open go on.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import signal
import ssl
import stat
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, Protocol

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from peer.errors import StartupError

log = logging.getLogger(__name__)

LOOK_S = 2.0
MOST_BYTES = 1 << 20
"""Of a file that is to hold a certificate or a key."""


class Unusable(Exception):
    """A certificate that cannot be shown; `str()` says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate with those of its authorities up to the root's, and its private key; both as PEM."""

    chain: bytes
    key: bytes


class Source(Protocol):
    """Where certificates come from. `stamp` is cheap, and changes when there may be a new one to `load`."""

    mode: str
    authority: bytes | None
    """The authority's own certificate, as PEM, if it is the cluster's."""

    def stamp(self) -> Hashable: ...
    def load(self) -> Pair: ...


class Files:
    """A certificate and its key in two files, which somebody else renews."""

    mode = "files"
    authority: bytes | None = None

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key

    def stamp(self) -> Hashable:
        return tuple(map(_state, (self._certificate, self._key)))

    def load(self) -> Pair:
        """Raises Unusable."""
        return Pair(_read(self._certificate), _read(self._key))


class Issued:
    """Certificates of the cluster's own authority: a new one whenever `every_s` of the wall clock are over.

    `issue` makes one for the present. What it makes must be valid for longer than `every_s`.
    """

    mode = "auto"

    def __init__(
        self,
        issue: Callable[[float], Pair],
        authority: bytes,
        every_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.authority: bytes | None = authority
        self._issue = issue
        self._every_s = every_s
        self._clock = clock

    def stamp(self) -> Hashable:
        return int(self._clock() // self._every_s)  # also when the clock is put back

    def load(self) -> Pair:
        return self._issue(self._clock())


class Certificates:
    """The certificate that is shown, and the next one. All methods but `look` belong to the loop's thread."""

    def __init__(self, source: Source, clock: Callable[[], float] = time.time) -> None:
        """Raises StartupError if the source has nothing usable. An expired one is: the others need this peer, whatever
        its clients say."""
        self._source = source
        self._clock = clock
        self._stamp = source.stamp()
        try:
            pair = source.load()
            self._context, self._leaf = context_of(pair)
        except Unusable as error:
            raise StartupError(f"TLS: {error}") from None
        self._failed: Hashable = None
        self.problem = ""
        """Why the newest one cannot be shown; "" when it is."""
        self.counts = {"handshakes": 0, "failed": 0, "plain": 0, "crowded_out": 0, "reloads": 0}
        """Of connections: `peer.tls.gate`."""
        self._again = asyncio.Event()

    @property
    def context(self) -> ssl.SSLContext:
        """For the next connection."""
        return self._context

    @property
    def authority(self) -> bytes | None:
        """The certificate of the cluster's own authority, as PEM; None where other authorities are used."""
        return self._source.authority

    @property
    def expires_at_s(self) -> float:
        """When the one that is shown does, seconds since 1970."""
        return self._leaf.not_valid_after_utc.timestamp()

    def info(self) -> dict[str, Any]:
        """For the view of the cluster. `expires_in_s` is by this peer's clock."""
        authority = self._source.authority
        return {
            "mode": self._source.mode,
            "names": names_in(self._leaf),
            "not_after": self._leaf.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "expires_in_s": round(_left_s(self._leaf, self._clock())),
            "fingerprint": fingerprint_of(self._leaf),
            "authority": fingerprint_of(x509.load_pem_x509_certificate(authority)) if authority else None,
            "problem": self.problem,
            "connections": dict(self.counts),
        }

    async def watch(self) -> NoReturn:
        """Look now and then, for ever; SIGHUP means now."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._again.set)
        try:
            while True:
                try:
                    async with asyncio.timeout(LOOK_S):
                        await self._again.wait()
                except TimeoutError:
                    pass
                asked = self._again.is_set()
                self._again.clear()
                await asyncio.to_thread(self.look, asked=asked)  # files may lie on a disk that hangs
        finally:
            loop.add_signal_handler(
                signal.SIGHUP, ignore_hangup
            )  # by default it would end the process, undrained

    def look(self, *, asked: bool = False) -> None:
        """Take a new certificate over if there is one, or if one was `asked` for. In any thread, one at a time.

        One that cannot be shown is tried again each time: a changed mode of a file changes no stamp, and the time comes
        for a certificate that begins in the future.
        """
        stamp = self._source.stamp()
        if stamp == self._stamp and not asked and not self.problem:
            return
        try:
            context, leaf = context_of(self._source.load())
            self._refuse_worse(leaf)
        except Unusable as error:
            # Two files are not replaced in one moment: what cannot be used may be half of what can.
            if not asked and stamp not in (self._failed, self._stamp):
                self._failed = stamp
                return
            if asked or str(error) != self.problem:
                log.error(
                    "%s; the certificate that expires on %s goes on being shown", error, _day(self._leaf)
                )
            self._stamp, self._failed, self.problem = stamp, None, str(error)
            return
        self._stamp, self._failed, self.problem = stamp, None, ""
        self._context, self._leaf = context, leaf
        self.counts["reloads"] += 1
        log.info("new connections get the certificate %s, until %s", fingerprint_of(leaf), _day(leaf))

    def _refuse_worse(self, leaf: x509.Certificate) -> None:
        """Raises Unusable if clients refuse this one now, and not the one that is shown."""
        now_s = self._clock()
        if not (_begun_s(self._leaf, now_s) >= 0 and _left_s(self._leaf, now_s) > 0):
            return
        if _left_s(leaf, now_s) <= 0:
            raise Unusable(f"the new certificate has expired on {_day(leaf)}")
        if _begun_s(leaf, now_s) < 0:
            raise Unusable(
                f"the new certificate is not valid before {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
            )


def context_of(pair: Pair) -> tuple[ssl.SSLContext, x509.Certificate]:
    """What serves with this certificate, and the certificate. Raises Unusable."""
    try:
        leaf = x509.load_pem_x509_certificates(pair.chain)[0]
    except ValueError:
        raise Unusable("the certificate is no PEM file with a certificate, its own one first") from None
    try:
        key = serialization.load_pem_private_key(pair.key, None)
    except TypeError:
        raise Unusable(
            "the key is encrypted; a peer starts without anybody to ask, so give it unencrypted"
        ) from None
    except ValueError:
        raise Unusable("the key is no PEM file with an unencrypted private key") from None
    if key.public_key() != leaf.public_key():
        raise Unusable("the key belongs to another certificate; give the two that were made together")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    # OpenSSL reads from files alone. What was checked is what is loaded, and the key never comes to lie on a disk.
    handle = os.memfd_create("tls", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(handle), "wb") as file:
            file.write(pair.key.rstrip() + b"\n" + pair.chain)
        context.load_cert_chain(f"/proc/self/fd/{handle}")
    except ssl.SSLError as error:
        raise Unusable(f"the certificate cannot be shown: {error.reason or error}") from None
    finally:
        os.close(handle)
    return context, leaf


def fingerprint_of(certificate: x509.Certificate) -> str:
    """SHA-256 over the certificate, as `openssl x509 -fingerprint -sha256` writes it."""
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).digest().hex(":").upper()


def names_in(certificate: x509.Certificate) -> list[str]:
    """The names and addresses it is for."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    return [str(name.value) for name in found if isinstance(name, x509.DNSName | x509.IPAddress)]


def _left_s(certificate: x509.Certificate, now_s: float) -> float:
    return (certificate.not_valid_after_utc - datetime.fromtimestamp(now_s, UTC)).total_seconds()


def _begun_s(certificate: x509.Certificate, now_s: float) -> float:
    return (datetime.fromtimestamp(now_s, UTC) - certificate.not_valid_before_utc).total_seconds()


def _day(certificate: x509.Certificate) -> str:
    return certificate.not_valid_after_utc.strftime("%Y-%m-%d")


def _state(path: Path) -> Hashable:
    try:
        found = path.stat()
    except OSError as error:
        return error.errno
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _read(path: Path) -> bytes:
    """Raises Unusable."""
    try:
        # A pipe without a writer would keep this thread for ever, and with it the end of the process.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Unusable(f"{path} is no regular file")
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise Unusable(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > MOST_BYTES:
        raise Unusable(f"{path} is too large to be a certificate or a key")
    return content


def ignore_hangup() -> None:
    """Nobody serves with certificates now: those that begin read them anyway."""
