"""Which certificates a client accepts, and what to say when one is refused.

A profile's `ca_file` (or ATOLL_CA_FILE, or `--ca-file`) names the certificates of the authorities that are trusted, and then
no others are. Without one it is those that this machine trusts.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import ssl
from typing import Final, Literal
from urllib.parse import urlsplit

from peer.errors import AtollError, Denied, Invalid, NotFound, Unavailable

CA_FILE_VARIABLE: Final = "ATOLL_CA_FILE"
MOST_BYTES: Final = 64 * 1024
UNTRUSTED: Final = "CertificateNotTrusted"
_UNKNOWN_ISSUER = (2, 18, 19, 20, 21, 24)
_EXPIRED, _NOT_YET, _OTHER_NAMES = 10, 9, (62, 64)
"""Results of X509_verify_cert(3)."""


class Trust(ssl.SSLContext):
    """For TLS connections to peers; `source` says in words where the authorities come from."""

    source: str = "those that are trusted here"


def trust(ca_file: str | None = None) -> Trust:
    """The certificates in `ca_file`, else those in ATOLL_CA_FILE, else the machine's. Raises Invalid for a file that holds
    none."""
    made = Trust(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_alpn_protocols(["http/1.1"])
    file = ca_file or os.environ.get(CA_FILE_VARIABLE)
    if not file:
        made.load_default_certs()
        return made
    made.source = file
    try:
        made.load_verify_locations(cafile=file)
    except OSError as problem:  # as are TLS's own errors
        why = (
            problem.strerror
            if not isinstance(problem, ssl.SSLError) and problem.strerror
            else "no certificate in it"
        )
        raise Invalid(
            f"the CA file {file} cannot be used: {why}; copy ca.pem from the data directory of any peer",
            code="InvalidProfile",
        ) from None
    return made


def for_aiohttp(tls: ssl.SSLContext | None) -> ssl.SSLContext | Literal[True]:
    """What a connector of aiohttp is given; True: the machine's authorities, looked up only when needed."""
    return tls or (trust() if os.environ.get(CA_FILE_VARIABLE) else True)


def fetch_authority(url: str, fingerprint: str, deadline_s: float = 10.0) -> bytes:
    """The certificate of a cluster's own authority, as PEM, from a peer that is not trusted yet: what comes must have this
    SHA-256 fingerprint (64 hex digits, colons at will). No credentials are sent.

    Raises Invalid for one that is no fingerprint, Denied (CertificateNotTrusted) when another certificate came, Unavailable.
    """
    wanted = fingerprint.lower().removeprefix("sha256:").replace(":", "")
    if len(wanted) != 64 or set(wanted) - set("0123456789abcdef"):
        raise Invalid(f"{fingerprint!r} is no SHA-256 fingerprint: 64 hex digits, with or without colons")
    parts = urlsplit(url)
    if parts.scheme != "https" or parts.hostname is None:
        raise Invalid(f"{url} is not an https:// address, so there is no authority to fetch")
    blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE  # the fingerprint is what counts
    connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=deadline_s, context=blind)
    try:
        connection.request("GET", "/ca.pem", headers={"User-Agent": "atoll"})
        response = connection.getresponse()
        pem = response.read(MOST_BYTES)
    except (OSError, http.client.HTTPException) as problem:
        raise refusal(problem, url, None) or Unavailable(f"{url} does not answer: {problem}") from None
    finally:
        connection.close()
    if response.status != 200:
        raise NotFound(
            f"{url} shows no certificate of its cluster's own authority (HTTP {response.status}); trust the authority that"
            " issued it with --ca-file"
        )
    try:
        certificate = ssl.PEM_cert_to_DER_cert(pem.decode("ascii").strip())
    except ValueError:
        certificate = b""
    came = hashlib.sha256(certificate).hexdigest() if certificate else "no certificate"
    if came != wanted:
        raise Denied(
            f"what {url} calls its authority has the fingerprint {came}, which is not the given one; nothing was changed",
            code=UNTRUSTED,
        )
    # Not what came: behind the certificate that was compared others may stand, which OpenSSL would trust as well.
    return ssl.DER_cert_to_PEM_cert(certificate).encode()


def refusal(problem: BaseException, url: str, tls: ssl.SSLContext | None) -> AtollError | None:
    """What to tell a person whose TLS connection to `url` did not come about; None if it was not for TLS's sake."""
    # aiohttp wraps what it met.
    problem = getattr(problem, "certificate_error", None) or getattr(problem, "os_error", None) or problem
    source = tls.source if isinstance(tls, Trust) else Trust.source
    if isinstance(problem, ssl.SSLCertVerificationError):
        code = problem.verify_code
        if code in _UNKNOWN_ISSUER:
            remedy = (
                f"its authority is not among {source}"
                if source == Trust.source
                else f"{source} does not hold its authority"
            )
            said = (
                f"{remedy}; if it is the cluster's own, give a copy of DIR/ca.pem of any of its peers: --ca-file FILE,"
                f" {CA_FILE_VARIABLE}, or for good `atoll profile add NAME --ca-file FILE`"
            )
        elif code in _OTHER_NAMES:
            said = (
                f"it is for other names ({problem.verify_message}); use one of those, or have that one added"
            )
        elif code == _EXPIRED:
            said = "it has expired; have it renewed there, or set this machine's clock"
        elif code == _NOT_YET:
            said = "it is not valid yet: is this machine's clock right?"
        else:
            said = problem.verify_message
        return Unavailable(f"the certificate of {url} is not trusted: {said}", code=UNTRUSTED)
    if isinstance(problem, ssl.SSLError) and problem.reason in _NO_TLS:
        return Unavailable(f"{url} does not speak TLS; is it http://?", code="NoTls")
    return None


_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")
