"""Gossip, ring and verdict, as this peer sees them: what `atoll status` says, in numbers."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from peer.errors import Unavailable
from peer.vitals import BLOCKED, FULL, READ_ONLY, SLOW

from .families import Families, counters, each, gauge, gauges, one_of

if TYPE_CHECKING:
    from peer.process import Peer

STATES = ("alive", "suspect", "dead", "left", "unknown")
FLAGS = (FULL, SLOW, READ_ONLY, BLOCKED)
VERDICTS = ("healthy", "degraded", "unavailable")
PARTITIONS = ("full", "degraded", "unavailable")
CHECKS = ("probes", "probes_failed", "accusations", "refutations", "deaths", "pauses")


def families(peer: Peer) -> Families:
    """Without what this peer does not know: one that has not entered a ring yet, or has left it, has no verdict."""
    yield from _gossip(peer)
    try:
        verdict = peer.context.cluster.verdict()
    except Unavailable:
        return
    yield from _ring(peer)
    yield from _verdict(verdict)


def _gossip(peer: Peer) -> Families:
    epoch = peer.replica.epochs.current
    views = peer.membership.members() if peer.membership is not None else []
    heard = {view.id: view.state for view in views} | {peer.me: "alive"}
    members = epoch.members if epoch is not None else ()
    states = Counter(heard.get(member.id, "unknown") for member in members)
    yield gauges(
        "atoll_gossip_members",
        "Members of the ring by what this peer believes of them; it counts itself.",
        ["state"],
        each({state: states[state] for state in STATES}),
    )
    flags = Counter(flag for view in views for flag in view.flags)
    yield gauges(
        "atoll_gossip_flagged_members",
        "Members that say of themselves that they are full, slow, read-only or blocked.",
        ["flag"],
        each({flag: flags[flag] for flag in FLAGS}),
    )
    if peer.membership is not None:
        told = peer.membership.stats()
        yield gauge(
            "atoll_gossip_health_score",
            "How little this peer trusts its own probes: 0 when it answers in time itself, up to 8.",
            told["health"],
        )
        yield counters(
            "atoll_gossip_events",
            "What the failure detector of this peer did: probes, those that failed, accusations, refutations, deaths it"
            " declared, pauses of its own that it noticed.",
            ["event"],
            each({name: told[name] for name in CHECKS}),
        )


def _ring(peer: Peer) -> Families:
    epoch = peer.replica.epoch
    yield gauge(
        "atoll_ring_epoch_number",
        "Number of the epoch in force: it grows with every change of the ring.",
        epoch.number,
    )
    yield gauge(
        "atoll_ring_epoch_generation",
        "Generation of the ring: it grows with an operator's override.",
        epoch.generation,
    )
    yield gauge(
        "atoll_ring_joint",
        "1 while old and new owners share the ring, as data moves.",
        float(epoch.kind == "joint"),
    )
    yield gauge("atoll_ring_members", "Peers in the ring.", len(epoch.members))
    yield gauge("atoll_ring_replicas", "Copies the ring keeps of everything.", epoch.replicas)
    yield gauge(
        "atoll_ring_owned_partitions",
        "Partitions of which this peer is an owner.",
        epoch.table.partitions_of(peer.me),
    )


def _verdict(verdict: dict[str, Any]) -> Families:
    yield gauges(
        "atoll_ring_partitions",
        "Partitions by their copies: all of them are there (full), a majority is (degraded), or less (unavailable).",
        ["state"],
        each({state: verdict["partitions"][state] for state in PARTITIONS}),
    )
    yield gauge(
        "atoll_ring_tolerated_failures",
        "How many more peers may fail before some partition loses its majority.",
        verdict["tolerates"],
    )
    yield gauges(
        "atoll_cluster_verdict", "1 for the verdict of this peer, 0 for the others.", ["verdict"],
        one_of(VERDICTS, verdict["verdict"]),
    )  # fmt: skip
    told = [("reason", one["code"]) for one in verdict["reasons"]] + [
        ("warning", one["code"]) for one in verdict["warnings"]
    ]
    yield gauges(
        "atoll_cluster_conditions",
        "Reasons of the verdict, and warnings, by their code; those that do not hold are not there.",
        ["kind", "code"],
        Counter(told).items(),
    )
