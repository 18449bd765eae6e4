"""What can be wrong with bytes that came from elsewhere. Our own mistakes are ValueErrors instead."""

from __future__ import annotations


class GossipError(Exception):
    """Bytes from the network that cannot be used. Nothing changed; the sender may or may not mean well."""


class Malformed(GossipError):
    """Opened with our key, or arrived over an authenticated link, but is not what the format says."""


class Stranger(GossipError):
    """Not from this cluster: no key of ours opens it, or it names another cluster."""
