"""The metrics page of one peer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder

from peer import __version__
from peer.errors import Unavailable

from . import clients, cluster, disk, healing, network, tls
from .families import Families, gauge, gauges

if TYPE_CHECKING:
    from peer.api.context import Cluster
    from peer.process import Peer
    from peer.storage.datadir import DataDir


class Metrics:
    """What GET /metrics answers with. A registry for each peer: a process may be several, one after the other."""

    def __init__(self, peer: Peer, cluster: Cluster, directory: DataDir) -> None:
        self._cluster = cluster
        self.registry = CollectorRegistry()
        self.registry.register(_Collector(peer, directory))
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)

    async def render(self, accept: str) -> tuple[bytes, str]:
        """The page and its Content-Type: OpenMetrics for who accepts it, else Prometheus' text format 0.0.4."""
        try:
            await self._cluster.looked()
        except Unavailable:
            pass  # this peer is in no ring, and tells what it knows without one
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type


class _Collector:
    """Reads a peer's counters when asked."""

    def __init__(self, peer: Peer, directory: DataDir) -> None:
        self._peer = peer
        self._directory = directory

    def collect(self) -> Families:
        yield from _who(self._peer)
        yield from disk.of_space(self._peer, self._directory)
        for room in (clients, cluster, healing, disk, network, tls):
            yield from room.families(self._peer)


def _who(peer: Peer) -> Families:
    yield gauges(
        "atoll_build_info", "The version of this peer; always 1.", ["version"], [((__version__,), 1.0)]
    )
    epoch = peer.replica.epochs.current
    me = epoch.member(peer.me) if epoch is not None else None
    name, zone = (me.name, me.zone) if me is not None else (peer.config.name, peer.config.zone)
    labels = (peer.me, name, zone, epoch.cluster_id if epoch is not None else "")
    yield gauges(
        "atoll_peer_info", "Who this peer is; always 1.", ["peer", "name", "zone", "cluster"], [(labels, 1.0)]
    )
    yield gauge(
        "atoll_peer_ready", "1 while this peer takes its part: joined, confirmed, writable.",
        float(peer.context.cluster.ready()[0]),
    )  # fmt: skip
