"""What an operator may do about each health code; docs/operate.md says more. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from tui.model import Cluster

REMEDIES: Mapping[str, str] = {
    "peer_down": "start it again; if it is lost for good, remove it",
    "no_quorum": "start the peers that are down; if they are lost for good: atoll recover epoch",
    "too_few_peers": "add a peer: atoll peer --join",
    "not_ready": "wait, or look through another peer: atoll top --endpoint",
    "silent": "if it lasts, look at its process, its disk and its network",
    "recovering": "start the survivors that are down",
    "chunks_missing": "start the peers that are down: they may hold them",
    "database_damaged": "it comes back by itself; replace its disk if that happens again",
    "disk_full": "free space there, or add a peer",
    "disk_read_only": "look at that disk and its mount; the peer goes on by itself",
    "disk_slow": "look at that disk, and at what else uses it",
    "loop_blocked": "look whether that machine is overloaded, suspended or out of memory",
    "tls_certificate": "have it renewed, or its files put right",
    "clock_skew": "have the clocks set by NTP",
    "no_failures_tolerated": "stop nothing; bring back what is down, or add peers",
}
"""By code. What is not here heals by itself."""

PAUSED = "healing is paused: atoll repair resume"
BY_ITSELF = "it heals by itself"


def remedies(cluster: Cluster, *, paused: bool) -> list[str]:
    """What to do, the most pressing first; empty where nothing is amiss. `paused`: some worker of repair is."""
    codes = dict.fromkeys(reason.code for reason in (*cluster.reasons, *cluster.warnings))
    found = [f"{code}: {REMEDIES[code]}" for code in codes if code in REMEDIES]
    if paused:
        found.append(PAUSED)
    if cluster.reasons and not any(reason.code in REMEDIES for reason in cluster.reasons) and not paused:
        found.insert(0, BY_ITSELF)
    return found
