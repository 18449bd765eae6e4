"""The cluster's own certificate authority. Its key is derived from the cluster key, which is made at founding and which
every peer has: so there is nothing to store, to agree on or to hand round, each peer issues its own certificates, and a
cluster that was founded without TLS can turn it on.

Every peer makes the very same authority certificate: the key, the serial number and the dates are fixed, and the signature
is deterministic (RFC 6979). Whoever has the cluster key can read and change everything anyway, so that it can also speak for
the cluster gives nothing away. Another cluster key makes another authority; clients can trust both meanwhile.

ECDSA on P-256 because browsers refuse Ed25519. Forms as in RFC 5280.
"""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from peer.tls.certificates import Pair, fingerprint_of

LABEL = b"atoll: key of the certificate authority, ECDSA P-256, 1"
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Of the base point of P-256 (SP 800-186, 3.2.1.3)."""
SCALAR_BYTES = 48
"""16 more than the order has: what the reduction prefers cannot be told from chance (FIPS 186-5, A.2.1)."""
BEGIN = datetime(2020, 1, 1, tzinfo=UTC)
END = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""No date of expiry that makes sense (RFC 5280, 4.1.2.5): what ends an authority is another cluster key."""
LIFE = timedelta(days=90)
BACKDATED = timedelta(days=1)
"""Clients' clocks may be behind."""
COMMON_NAME_CHARACTERS = 64


class Authority:
    """Of the cluster with this key (32 bytes) and this id."""

    def __init__(self, cluster_key: bytes, cluster_id: str) -> None:
        derived = HKDF(hashes.SHA256(), SCALAR_BYTES, salt=cluster_id.encode(), info=LABEL).derive(
            cluster_key
        )
        self._key = ec.derive_private_key(int.from_bytes(derived) % (ORDER - 1) + 1, ec.SECP256R1())
        self.certificate = self._own_certificate(cluster_id)
        self.pem = self.certificate.public_bytes(serialization.Encoding.PEM)
        self.fingerprint = fingerprint_of(self.certificate)

    def _own_certificate(self, cluster_id: str) -> x509.Certificate:
        public = self._key.public_key()
        subject = x509.SubjectKeyIdentifier.from_public_key(public)
        name = _name(f"Atoll cluster {cluster_id}"[:COMMON_NAME_CHARACTERS])
        builder = (
            x509.CertificateBuilder(
                name, name, public, int.from_bytes(hashlib.sha256(subject.digest).digest()[:16])
            )
            .not_valid_before(BEGIN)
            .not_valid_after(END)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(subject, critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(subject), critical=False
            )
        )
        return builder.sign(self._key, hashes.SHA256(), ecdsa_deterministic=True)

    def issue(self, names: Iterable[str], now_s: float, life: timedelta = LIFE) -> Pair:
        """A certificate for a server with these DNS names and addresses, with a fresh key, valid for `life` from now on.

        `now_s` is the wall clock's. Names that can be no DNS name (of other scripts, with blanks) are left out.
        """
        alternatives = list(dict.fromkeys(filter(None, map(_alternative, names))))
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.fromtimestamp(now_s, UTC)
        mine = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        certificate = (
            x509.CertificateBuilder(self.certificate.subject, _name("Atoll peer"), key.public_key())
            .serial_number(secrets.randbits(127) + 1)
            .not_valid_before(now - BACKDATED)
            .not_valid_after(now + life)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(mine), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        encoded = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Pair(certificate.public_bytes(serialization.Encoding.PEM) + self.pem, encoded)


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Atoll"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates, key_cert_sign=signs_certificates, crl_sign=signs_certificates,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _alternative(name: str) -> x509.GeneralName | None:
    """What goes into a certificate for a name or an address; None for what cannot."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    usable = name.isascii() and name.removesuffix(".") and not set(name) - _DNS
    return x509.DNSName(name.removesuffix(".").lower()) if usable else None


_DNS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._*")
