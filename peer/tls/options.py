"""From a peer's options to the certificates it shows."""

from __future__ import annotations

import logging
import socket
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from peer.config import PeerConfig, is_wildcard
from peer.storage.datadir import CA_FILE
from peer.storage.durable import write_file
from peer.tls.authority import LIFE, Authority
from peer.tls.certificates import Certificates, Files, Issued

log = logging.getLogger(__name__)

RENEWED_AT = 2 / 3
"""Of a certificate's life, at the latest."""


def check(config: PeerConfig) -> None:
    """Raises StartupError if the files that the options name cannot be used; touches nothing."""
    if config.tls_cert is not None and config.tls_key is not None:
        Certificates(Files(config.tls_cert, config.tls_key))


def certificates(
    config: PeerConfig, cluster_key: bytes, cluster_id: str, directory: Path
) -> Certificates | None:
    """What the options ask for, None if not for TLS. Leaves the authority's certificate in DIR/ca.pem, for people to hand
    to clients. Raises StartupError."""
    if config.tls_cert is not None and config.tls_key is not None:
        return Certificates(Files(config.tls_cert, config.tls_key))
    if not config.tls:
        return None
    authority = Authority(cluster_key, cluster_id)
    issue = partial(authority.issue, names_of(config))
    found = Certificates(Issued(issue, authority.pem, RENEWED_AT * LIFE.total_seconds()))
    path = directory / CA_FILE
    try:
        if not path.exists() or path.read_bytes() != authority.pem:
            write_file(path, authority.pem)
    except OSError as error:  # of a full disk: it serves all the same
        log.warning("%s cannot be written: %s", path, error.strerror)
    log.info("clients trust this cluster with %s, fingerprint SHA-256 %s", path, authority.fingerprint)
    return found


def names_of(config: PeerConfig) -> list[str]:
    """What clients may call this peer."""
    names = ["localhost", "127.0.0.1", "::1", config.advertised_host, config.name, socket.gethostname()]
    if not is_wildcard(config.host):
        names.append(config.host)
    if config.domain:
        names += [config.domain, f"*.{config.domain}"]
    if config.public_url:
        names.append(urlsplit(config.public_url).hostname or "")
    return names
