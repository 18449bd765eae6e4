"""A long run of whole peers, as they are in use: their own periods of healing, clients that think, faults now and then.

`atoll sim objects --hours 24 --peers 12` is a virtual day of twelve peers. No acknowledged object may be lost.
"""

from __future__ import annotations

from peer.replication.garbage.garbage import GRACE_S, PASS_EVERY_S
from peer.replication.garbage.purge import AGE_S
from peer.replication.healing.scrub import EVERY_S
from ring.eviction import EVICT_AFTER_S
from tools.sim.faults import Climate
from tools.sim.object_world import WEIGHTS, ObjectOptions

PEERS = 12
KEYS = 60
CLIENTS = 6
THINK_S = 12.0
FAULT_EVERY_S = 90.0
FAULTS_LAST = 12.0
"""So many times as long as in a short run."""
ONCE = ("old disk",)
"""Left out: after it no machine may be lost any more, and a day is long."""


def long_options(hours: float, peers: int = PEERS) -> ObjectOptions:
    """Options of a run of so many virtual hours; healing may take as long as a purge of tombstones does."""
    weights = {name: weight for name, weight in WEIGHTS.items() if name not in ONCE}
    return ObjectOptions(
        peers=peers,
        operations=0,
        clients=CLIENTS,
        keys=KEYS,
        think_s=THINK_S,
        evict_after_s=EVICT_AFTER_S,
        grace_s=GRACE_S,
        pass_every_s=PASS_EVERY_S,
        purge_s=AGE_S,
        scrub_s=min(EVERY_S, 3600.0 * hours / 4),
        faulty_s=3600.0 * hours,
        calm_s=4 * AGE_S,
        climate=Climate(every_s=FAULT_EVERY_S, scale=FAULTS_LAST, weights=weights),
    )
