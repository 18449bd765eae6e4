"""TLS towards clients: the certificate that is shown, and how connections begin. No samples without TLS."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .families import Families, counters, each, gauges

if TYPE_CHECKING:
    from peer.process import Peer

OUTCOMES = ("handshakes", "failed", "plain", "crowded_out")


def families(peer: Peer) -> Families:
    certificates = peer.tls
    yield gauges(
        "atoll_tls_certificate_expiry_timestamp_seconds", "When the certificate that is shown to clients expires.", [],
        [((), certificates.expires_at_s)] if certificates is not None else [],
    )  # fmt: skip
    yield gauges(
        "atoll_tls_certificate_unusable", "1 while a newer certificate is there that cannot be shown.", [],
        [((), float(bool(certificates.problem)))] if certificates is not None else [],
    )  # fmt: skip
    counts = certificates.counts if certificates is not None else None
    yield counters(
        "atoll_tls_certificate_changes", "Times a new certificate was taken over.", [],
        [((), counts["reloads"])] if counts is not None else [],
    )  # fmt: skip
    yield counters(
        "atoll_tls_connections",
        "Connections to the S3 and the API port by what became of their handshake: done, failed or too late, plain HTTP,"
        " dropped because too many were under way.",
        ["outcome"],
        each({outcome: counts[outcome] for outcome in OUTCOMES}) if counts is not None else [],
    )
