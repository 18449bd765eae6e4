"""What a peer tells of the cluster, as plain sentences: for tables' heads, screen readers and logs. Pure functions.

Whatever an older version does not tell is left out, or said to be unknown; nothing is made up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tools.cli.output import rate_text, seconds_text, size_text

Json = Mapping[str, Any]

NO_FAILURES = "no_failures_tolerated"


def verdict(cluster: Json) -> str:
    """The verdict, and how many more peers may fail now."""
    return f"{cluster.get('verdict', 'unknown')}: tolerates {failures(cluster.get('tolerates'))} now"


def failures(tolerates: object) -> str:
    if not isinstance(tolerates, int):
        return "an unknown number of failures"
    return {0: "no further failure", 1: "1 failure"}.get(tolerates, f"{tolerates} failures")


def redundancy(cluster: Json) -> str:
    """The line that says whether every object has all its replicas, how many do not, and when they will; "" if not told."""
    return str((cluster.get("redundancy") or {}).get("message", ""))


def reasons(cluster: Json) -> list[Json]:
    """Why the verdict is what it is: {"code", "message", maybe "node"}."""
    return [one for one in cluster.get("reasons") or () if isinstance(one, Mapping)]


def warnings(cluster: Json) -> list[Json]:
    """What deserves a look and changes no verdict. That no failure is tolerated is said also for a peer of an earlier
    version, which does not say it itself."""
    found = [one for one in cluster.get("warnings") or () if isinstance(one, Mapping)]
    known = any(one.get("code") == NO_FAILURES for one in found)
    if cluster.get("tolerates") == 0 and cluster.get("verdict") != "unavailable" and not known:
        message = "not one more failure is tolerated: with it some requests would find no majority"
        found.append({"code": NO_FAILURES, "message": message})
    return found


def coded(one: Json) -> str:
    """A reason or a warning with its code, by which docs/operate.md lists what to do."""
    return f"{one.get('message')} ({one.get('code')})"


def partitions(cluster: Json) -> str:
    parts = cluster.get("partitions") or {}
    return (
        f"partitions: {parts.get('full', '?')} of {parts.get('total', '?')} with all copies, "
        f"{parts.get('degraded', '?')} degraded, {parts.get('unavailable', '?')} unavailable"
    )


def epoch(told: object) -> str:
    """An epoch as `generation.number`, with "joint" while a change is under way."""
    if isinstance(told, Mapping):
        kind = "" if told.get("kind") in (None, "final") else f" {told['kind']}"
        return f"{told.get('generation', 0)}.{told.get('number', '?')}{kind}"
    return ".".join(map(str, told)) if isinstance(told, list) else "?"


def summary(cluster: Json) -> Iterator[str]:
    """The verdict and its reasons, a line each."""
    yield verdict(cluster)
    if whole := redundancy(cluster):
        yield whole
    for one in (*reasons(cluster), *warnings(cluster)):
        yield f"  {coded(one)}"
    yield partitions(cluster)
    asked = cluster.get("peer") or {}
    replicas = cluster.get("replicas", "?")
    yield f"epoch {epoch(cluster.get('epoch'))}, {replicas} replicas, seen by {asked.get('name', '?')}"


def everything(cluster: Json) -> Iterator[str]:
    """The whole state, a sentence a line, without tables: each line can be understood by itself."""
    asked = cluster.get("peer") or {}
    yield f"The cluster is {verdict(cluster)}."
    if whole := redundancy(cluster):
        yield whole
    yield from (f"Reason: {coded(one)}" for one in reasons(cluster))
    yield from (f"Warning: {coded(one)}" for one in warnings(cluster))
    yield f"P{partitions(cluster)[1:]}."
    yield f"Epoch {epoch(cluster.get('epoch'))}, {cluster.get('replicas', '?')} replicas."
    yield f"All of this is what {asked.get('name', '?')} sees, version {asked.get('version', '?')}."
    yield from map(node, cluster.get("nodes") or ())


def state(word: object) -> str:
    """A peer's state, or another word about it: `left` is what gossip calls one that said goodbye."""
    return "stopped" if word == "left" else str(word)


def node(told: Json) -> str:
    """One peer in one line."""
    parts = [state(told.get("state", "unknown")), f"{told.get('ring', 'unknown')} in the ring"]
    if told.get("zone"):
        parts.append(f"zone {told['zone']}")
    if told.get("used_bytes") is not None:
        parts.append(f"{size_text(told['used_bytes'])} of {size_text(told.get('capacity_bytes'))} used")
    if isinstance(told.get("share"), int | float):
        parts.append(f"{100 * told['share']:.1f} % of the ring")
    if not told.get("self") and told.get("last_heard_s") is not None:
        parts.append(f"last heard {seconds_text(told['last_heard_s'])} ago")
    if told.get("whole") is False:
        parts.append("counts as no copy now")
    if told.get("flags"):
        parts.append(f"flags {' '.join(map(str, told['flags']))}")
    if told.get("version"):
        parts.append(f"version {told['version']}")
    if told.get("api_url"):
        parts.append(f"API at {told['api_url']}")
    return f"Peer {told.get('name', '?')}: {', '.join(parts)}."


def workers(told: Iterable[Json]) -> Iterator[str]:
    """What heals in the background, of those workers that have something to do, or cannot."""
    busy = [f"Repair: {name(one)}: {text}." for one in told if (text := worker(one))]
    yield from busy or ["Repair: nothing waits, nothing is paused, nothing fails."]


def name(told: Json) -> str:
    """A worker's name and its peer's."""
    return f"{told.get('worker', '?')} on {(told.get('node') or {}).get('name', '?')}"


def worker(told: Json) -> str:
    """What a worker does, "" if there is nothing to tell."""
    parts = ["paused"] if told.get("state") == "paused" else []
    if told.get("queue"):
        parts.append(f"{told['queue']} waiting")
        if told.get("rate"):
            parts.append(f"{rate_text(told['rate'])} a second")
        if told.get("left_s") is not None:
            parts.append(f"{seconds_text(told['left_s'])} left")
    if told.get("last_error"):
        parts.append(f"last error: {told['last_error']}")
    return ", ".join(parts)
