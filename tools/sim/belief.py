"""What gossip tells simulated peers: who is dead, who is back, and that there is a newer epoch.

The real protocol has a simulator of its own (`tools/gossip_sim.py`). Here who is out of reach for some seconds is believed
dead, and who is back is told at once; as there, a peer is reached through others where the direct way is cut.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from tools.sim.cluster import Cluster, SimPeer

LOOK_EVERY_S = 0.5
SUSPECT_S = 2.0
DOUBT_S = 4.0


class Belief:
    """Keeps `SimNetwork.given_up`. `told(who, whom, state)` is called when gossip has news for one of another."""

    def __init__(
        self, cluster: Cluster, rng: random.Random, told: Callable[[SimPeer, SimPeer, str], None]
    ) -> None:
        self._cluster = cluster
        self._rng = rng
        self._told = told
        self._silent: dict[tuple[str, str], float] = {}  # pair -> when it is believed dead
        self._starts: dict[str, int] = {}  # member -> the start that was told of

    async def run(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    def look(self) -> None:
        """Compare what is with what is believed."""
        peers = self._cluster.peers
        up = [peer for peer in peers if peer.env is not None and not peer.env.paused and self._listens(peer)]
        quiet = not self._cluster.network.cut and not self._silent and len(up) == len(peers)
        for peer in peers:
            if peer.starts != self._starts.get(peer.id) and peer in up:
                self._starts[peer.id] = peer.starts
                quiet = False
                self._introduce(up, peer)
        if not quiet:
            self._look(up)
        self._spread(up)

    def _spread(self, up: list[SimPeer]) -> None:
        """Records carry the newest epoch a member knows: who is behind fetches it."""
        known = [peer for peer in up if peer.replica is not None and peer.replica.epochs.current is not None]
        if not known:
            return
        ahead = max(known, key=_tag)
        for peer in known:
            if _tag(peer) < _tag(ahead) and self._reaches(peer, ahead, up):
                assert peer.env is not None and peer.replica is not None
                peer.env.spawn(peer.replica.epochs.catch_up(_tag(ahead), ahead.id), "catch up")

    def _look(self, up: list[SimPeer]) -> None:
        now, given_up = self._cluster.loop.time(), self._cluster.network.given_up
        for one in up:
            for other in self._cluster.peers:
                pair = (one.id, other.id)
                if one is other:
                    continue
                if other in up and self._reaches(one, other, up):
                    self._silent.pop(pair, None)
                    if pair in given_up:
                        given_up.discard(pair)
                        self._told(one, other, "alive")
                elif pair not in self._silent:
                    self._silent[pair] = now + SUSPECT_S + DOUBT_S * self._rng.random()
                elif now >= self._silent[pair] and pair not in given_up:
                    given_up.add(pair)
                    self._told(one, other, "dead")
        here = {peer.id for peer in self._cluster.peers}
        for pair in [pair for pair in self._silent if not here.issuperset(pair)]:
            del self._silent[pair]

    def _introduce(self, up: list[SimPeer], new: SimPeer) -> None:
        """A process has started: the others hear of it, and it of them."""
        for other in up:
            if other is not new:
                self._cluster.network.given_up.discard((other.id, new.id))
                self._told(other, new, "alive")
                self._told(new, other, "alive")

    def _listens(self, peer: SimPeer) -> bool:
        return peer.id in self._cluster.network.nodes

    def _reaches(self, one: SimPeer, other: SimPeer, up: list[SimPeer]) -> bool:
        cut = self._cluster.network.cut
        if not cut:
            return True

        def direct(a: SimPeer, b: SimPeer) -> bool:
            return (a.id, b.id) not in cut and (b.id, a.id) not in cut

        return direct(one, other) or any(direct(one, x) and direct(x, other) for x in up)


def _tag(peer: SimPeer) -> int:
    assert peer.replica is not None
    return peer.replica.epochs.tag
