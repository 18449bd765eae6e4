"""What a simulated peer knows of its company: whom gossip would hold for alive, and whether it is a member still."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peer.replication.messages import EPOCH_GET
from peer.replication.node import Replica
from peer.replication.quorum import Round
from ring.epoch import Epoch
from ring.members import LEAVING
from tools.sim.env import SimEnv

if TYPE_CHECKING:
    from tools.sim.cluster import Cluster


def seen(cluster: Cluster, viewer: str, other: str) -> bool:
    """Whether `viewer` believes `other` alive: that one runs, is not paused, and the two reach each other, if only through
    a third. `doubted` members are held for dead all the same."""
    if (viewer, other) in cluster.network.doubted:
        return False
    up = {peer.id for peer in cluster.peers if peer.env is not None and not peer.env.paused}
    cut = cluster.network.cut

    def linked(one: str, two: str) -> bool:
        return (one, two) not in cut and (two, one) not in cut

    thirds = up - {viewer, other}
    return other in up and (
        linked(viewer, other) or any(linked(viewer, third) and linked(third, other) for third in thirds)
    )


def leaving(replica: Replica) -> bool:
    """Whether a peer that has just started had been asked to leave before it went away."""
    epoch = replica.epochs.current
    me = epoch.member(replica.me) if epoch is not None else None
    return me is not None and me.state == LEAVING


async def left_out(env: SimEnv, replica: Replica) -> bool:
    """Whether the ring that the first member to answer knows is without this peer, which has just started."""
    epoch = replica.epochs.current
    for other in epoch.everybody if epoch is not None else ():
        ask = Round(env, replica.send, (EPOCH_GET, 0), 1, 1.0)
        if other.id != replica.me and await ask.start([other.id]):
            newest = Epoch.decode(ask.oks[0][1][1])
            return newest.kind == "final" and newest.member(replica.me) is None
    return False
