"""Which cluster, with whose keys: flag before environment before profile."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from pathlib import Path

from peer.client import Invalid, load_profile


@dataclass(frozen=True, slots=True)
class Access:
    """`pinned`: these endpoints and no others."""

    endpoints: tuple[str, ...]
    access_key: str
    secret_key: str
    pinned: bool
    tls: ssl.SSLContext | None = None


def access_to(endpoint: str | None, profile: str | None) -> Access:
    """`endpoint` pins; its keys come from ATOLL_ACCESS_KEY and ATOLL_SECRET_KEY[_FILE], else from the profile.

    Raises:
        Invalid, NotFound: no such profile, or half a pair of keys; the message says the remedy.
    """
    keys = _keys_of_environment()
    if endpoint is not None and keys is not None:
        return Access((endpoint,), *keys, pinned=True)
    found = load_profile(profile)
    access_key, secret_key = keys or (found.access_key or "", found.secret_key or "")
    endpoints = found.endpoints if endpoint is None else (endpoint,)
    return Access(endpoints, access_key, secret_key, endpoint is not None, found.tls_context())


def _keys_of_environment() -> tuple[str, str] | None:
    access_key, secret_key = os.environ.get("ATOLL_ACCESS_KEY"), os.environ.get("ATOLL_SECRET_KEY")
    if secret_key is None and (path := os.environ.get("ATOLL_SECRET_KEY_FILE")):
        try:
            secret_key = Path(path).read_text().strip()
        except OSError as error:
            raise Invalid(f"ATOLL_SECRET_KEY_FILE cannot be read: {error}") from None
    if bool(access_key) != bool(secret_key):
        raise Invalid("ATOLL_ACCESS_KEY and ATOLL_SECRET_KEY (or _FILE) belong together; set both or neither")
    return (access_key, secret_key) if access_key and secret_key else None
