"""What ails a peer that answers: it may not vote yet, its database is damaged, its disk is full, read-only or slow, its
event loop stood still, or its certificate is about to expire. A sentence for each.

A damaged database, or a disk that takes no (more) writes, is a **reason** why the cluster is degraded: copies are missing
there. A slow one, or a loop that stood still, is a **warning**: it costs time, which the others keep from clients, and no
copy. So is a certificate, without which clients go to other peers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Told = tuple[str, Mapping[str, Any], Iterable[str]]
"""A peer's name, what it tells of itself ({}: it does not answer just now), and its flags in gossip."""
Sentence = dict[str, str]

LEAST_TOLD_S = 1.0
EXPIRES_SOON_S = 14 * 86_400
"""Certificates that renew themselves have been by then; so somebody has to look."""


def reasons(told: Iterable[Told]) -> list[Sentence]:
    """Of peers that take no writes, lack some of what they hold, or do not vote yet."""
    found = []
    for name, info, flags in told:
        if info.get("healing", {}).get("recovering"):
            message = (
                f"{name} answers for nothing until it has merged what every other survivor holds; start those that are down,"
                " or call them lost, too (`atoll recover epoch`)"
            )
            found.append(_sentence("recovering", name, message))
        if why := info.get("damage"):
            message = (
                f"{name}: its database is damaged ({why}); it serves what that still gives, and comes back under a new id as"
                " soon as the others can do without it"
            )
            found.append(_sentence("database_damaged", name, message))
        if why := info.get("full") or _gossip("full", flags):
            message = f"{name} is short of space: {why}; free some there"
            found.append(_sentence("disk_full", name, message))
        if why := read_only(info, flags):
            message = (
                f"{name}: disk read-only ({why}); it serves reads, and goes on by itself once it can write"
            )
            found.append(_sentence("disk_read_only", name, message))
    return found


def warnings(told: Iterable[Told]) -> list[Sentence]:
    """Of peers that are slow, or that clients will not trust."""
    found = []
    for name, info, flags in told:
        condition = info.get("condition", {})
        if slow := condition.get("slow"):
            took = f"{slow['operation']} {slow['took_s']:g} s"
            which = f"disk of {slow['disk']}" if slow.get("disk") else "disk"
            found.append(_sentence("disk_slow", name, f"{name}: {which} slow ({took})"))
        elif why := _gossip("slow", flags):
            found.append(_sentence("disk_slow", name, f"{name}: disk slow ({why})"))
        if blocked := condition.get("blocked"):
            what = "stopped" if blocked["stopped"] else "event loop blocked"
            when = f", {blocked['ago_s']:.0f} s ago" if blocked["ago_s"] >= LEAST_TOLD_S else ""
            message = f"{name}: {what} for {blocked['lasted_s']:g} s{when}"
            found.append(_sentence("loop_blocked", name, message))
        if why := _certificate(info.get("tls") or {}):
            found.append(_sentence("tls_certificate", name, f"{name}: {why}"))
    return found


def _certificate(told: Mapping[str, Any]) -> str:
    """What is wrong with the certificate a peer shows to clients, or soon will be; "" if nothing is."""
    if not told:
        return ""
    day, left_s = str(told["not_after"])[:10], told["expires_in_s"]
    until = f"its TLS certificate has expired on {day}" if left_s <= 0 else f"the old one expires on {day}"
    if why := told["problem"]:
        return f"its new TLS certificate cannot be shown: {why}; {until}"
    if left_s <= 0:
        return f"{until}, and clients refuse it; replace the files of --tls-cert and --tls-key"
    if left_s < EXPIRES_SOON_S:
        return f"its TLS certificate expires on {day}, in {left_s / 86_400:.1f} days; have it renewed"
    return ""


def read_only(info: Mapping[str, Any], flags: Iterable[str] = ()) -> str:
    """Why a peer's disk takes no writes; "" if it does."""
    return info.get("condition", {}).get("read_only") or _gossip("read-only", flags)


def _gossip(flag: str, flags: Iterable[str]) -> str:
    """What is known of a flag that is up while the peer's own words, which may be a second older, say nothing of it."""
    return "it said so in gossip" if flag in flags else ""


def _sentence(code: str, node: str, message: str) -> Sentence:
    return {"code": code, "node": node, "message": message}
