"""The public client of an Atoll cluster, for Python programs and for the command line.

    from peer.client import Client          # blocking, thread-safe
    from peer.client import AsyncClient     # for asyncio

Both have the same methods (AsyncClient follows events as well), spread requests over the peers they learn
of, go on at another peer when one dies, and verify what they move. Start reading at `Client` (sync.py); what both
decide alike is in core.py, when to try again in attempts.py, whom to ask in peers.py. None of those does I/O.

Imports nothing of `peer/` but errors.py and etag.py. The names below are loaded when first used: the
command line must not wait for aiohttp.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peer.client.aio import AsyncClient
    from peer.client.aio_download import AsyncDownload
    from peer.client.download import Download
    from peer.client.following import Event
    from peer.client.model import (
        BucketInfo,
        ClusterInfo,
        NodeInfo,
        ObjectInfo,
        Page,
        Prefix,
        Stored,
        name_of,
    )
    from peer.client.profile import Profile, load_profile, load_profiles
    from peer.client.sync import Client
    from peer.errors import (
        AtollError,
        Conflict,
        Corrupt,
        Denied,
        Full,
        Invalid,
        NotFound,
        Unavailable,
        UnknownOutcome,
    )

_HOMES = {
    "peer.client.aio": ("AsyncClient",),
    "peer.client.aio_download": ("AsyncDownload",),
    "peer.client.download": ("Download",),
    "peer.client.following": ("Event",),
    "peer.client.model": (
        *("BucketInfo", "ClusterInfo", "NodeInfo", "ObjectInfo", "Page", "Prefix", "Stored", "name_of"),
    ),
    "peer.client.profile": ("Profile", "load_profile", "load_profiles"),
    "peer.client.sync": ("Client",),
    "peer.errors": (
        *("AtollError", "Conflict", "Corrupt", "Denied", "Full", "Invalid", "NotFound", "Unavailable"),
        "UnknownOutcome",
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AsyncClient",
    "AsyncDownload",
    "AtollError",
    "BucketInfo",
    "Client",
    "ClusterInfo",
    "Conflict",
    "Corrupt",
    "Denied",
    "Download",
    "Event",
    "Full",
    "Invalid",
    "NodeInfo",
    "NotFound",
    "ObjectInfo",
    "Page",
    "Prefix",
    "Profile",
    "Stored",
    "Unavailable",
    "UnknownOutcome",
    "load_profile",
    "load_profiles",
    "name_of",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME_OF[name]), name)
