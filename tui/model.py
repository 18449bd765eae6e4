"""From the API's JSON to what is drawn: pure functions, no I/O, no clock.

Input is what `GET /v1/cluster` and `GET /v1/cluster/ring` answer (docs: openapi.json). A field that is missing or
null becomes "unknown" and is shown as a dash, never as zero or as health: an older or half-started peer
must not make the picture look better than it is (P7).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Any

Json = Mapping[str, Any]

DASH = "-"
LABELS = "123456789abcdefghijklmnopqrstuvwxyz"

# One colour a peer, in the order of the table; far from the green, yellow and red that mean states.
PEER_COLOURS = ("#4e9fe5", "#c77dff", "#2ec4b6", "#f28ab2", "#a3b18a", "#f4a259", "#8d99ae", "#b08968")


@dataclass(frozen=True, slots=True)
class Look:
    """How a state is shown: never by colour alone, so that it survives NO_COLOR and a plain terminal."""

    word: str
    glyph: str
    plain: str
    colour: str


LOOKS: Mapping[str, Look] = {
    "alive": Look("alive", "●", "*", "green"),
    "draining": Look("draining", "◒", "~", "yellow"),
    "drained": Look("drained", "◌", "~", "yellow"),
    "leaving": Look("leaving", "◒", "~", "yellow"),
    "suspect": Look("suspect", "◐", "?", "yellow"),
    "dead": Look("dead", "✗", "x", "red"),
    "left": Look("left", "○", "-", "bright_black"),
    "unknown": Look("unknown", "◌", ".", "yellow"),
}
LEAVING = ("draining", "drained", "leaving")
"""What a peer that lives may be on the ring, besides active."""
VERDICTS: Mapping[str, Look] = {
    "healthy": Look("HEALTHY", "●", "*", "green"),
    "degraded": Look("DEGRADED", "◐", "!", "yellow"),
    "unavailable": Look("UNAVAILABLE", "✗", "X", "red"),
    "unknown": Look("UNKNOWN", "◌", "?", "yellow"),
}


@dataclass(frozen=True, slots=True)
class Peer:
    """One row of the peers table. Bytes, seconds and shares (0 to 1) as numbers; None is unknown."""

    id: str
    name: str
    label: str
    colour: str
    is_self: bool
    state: str
    zone: str
    used_bytes: int | None
    capacity_bytes: int | None
    share: float | None
    partitions: int | None
    last_heard_s: float | None
    incarnation: int | None
    version: str
    epoch: tuple[int, int] | None
    behind: bool
    flags: tuple[str, ...]
    api_url: str
    whole: bool | None
    """False: it counts as no copy in the verdict."""
    clock_skew_s: float | None
    raw: Json = field(repr=False, compare=False)
    """All that was told of it."""

    @property
    def used_part(self) -> float | None:
        """Of its capacity, 0 to 1."""
        if self.used_bytes is None or not self.capacity_bytes:
            return None
        return self.used_bytes / self.capacity_bytes

    @property
    def look(self) -> Look:
        return LOOKS.get(self.state, LOOKS["unknown"])


@dataclass(frozen=True, slots=True)
class Reason:
    """Why the verdict is what it is, or a warning: the API's sentence and the code that the manual explains."""

    code: str
    message: str

    @property
    def words(self) -> str:
        if self.message and self.code:
            return f"{self.message} ({self.code})"
        return self.message or self.code or "no reason given"


@dataclass(frozen=True, slots=True)
class Redundancy:
    """Whether every object has all its copies, in a sentence; `whole` None and "" where nobody said."""

    whole: bool | None
    message: str


@dataclass(frozen=True, slots=True)
class Cluster:
    """Everything on the screen but the age of the data and the notices."""

    verdict: str
    reasons: tuple[Reason, ...]
    warnings: tuple[Reason, ...]
    redundancy: Redundancy
    tolerates: int | None
    answering: str
    epoch: tuple[int, int] | None
    epoch_kind: str
    replicas: int | None
    partitions: Mapping[str, int | None]
    peers: tuple[Peer, ...]

    @property
    def look(self) -> Look:
        return VERDICTS.get(self.verdict, VERDICTS["unknown"])

    def count(self, state: str) -> int:
        return sum(peer.state == state for peer in self.peers)


def cluster_of(document: Json) -> Cluster:
    """The answer of `GET /v1/cluster` as view data. Unknown keys are ignored, missing ones are unknown."""
    epoch = _mapping(document.get("epoch"))
    number = _epoch_number([epoch.get("generation"), epoch.get("number")])
    partitions = _mapping(document.get("partitions"))
    verdict = str(document.get("verdict") or "unknown")
    redundancy = _mapping(document.get("redundancy"))
    nodes = [node for node in _items(document.get("nodes")) if isinstance(node, Mapping)]
    return Cluster(
        verdict=verdict if verdict in VERDICTS else "unknown",
        reasons=tuple(_reason(item) for item in _items(document.get("reasons"))),
        warnings=tuple(_reason(item) for item in _items(document.get("warnings"))),
        redundancy=Redundancy(_truth(redundancy.get("whole")), one_line(redundancy.get("message"))),
        tolerates=_whole(document.get("tolerates")),
        answering=str(_mapping(document.get("peer")).get("name") or DASH),
        epoch=number,
        epoch_kind=str(epoch.get("kind") or "unknown"),
        replicas=_whole(document.get("replicas")),
        partitions={key: _whole(partitions.get(key)) for key in ("total", "full", "degraded", "unavailable")},
        peers=tuple(_peer(node, index, number) for index, node in enumerate(sorted(nodes, key=_table_order))),
    )


def _peer(node: Json, index: int, newest: tuple[int, int] | None) -> Peer:
    flags = tuple(str(flag) for flag in _items(node.get("flags")))
    state = str(node.get("state") or "unknown")
    if state == "alive" and node.get("ring") in LEAVING:
        state = str(node["ring"])
    epoch = _epoch_number(node.get("epoch"))
    return Peer(
        id=str(node.get("id") or ""),
        name=str(node.get("name") or node.get("id") or DASH),
        label=LABELS[index] if index < len(LABELS) else "+",
        colour=PEER_COLOURS[index % len(PEER_COLOURS)],
        is_self=bool(node.get("self")),
        state=state if state in LOOKS else "unknown",
        zone=str(node.get("zone") or DASH),
        used_bytes=_whole(node.get("used_bytes")),
        capacity_bytes=_whole(node.get("capacity_bytes")),
        share=_number(node.get("share")),
        partitions=_whole(node.get("partitions")),
        last_heard_s=0.0 if node.get("self") else _number(node.get("last_heard_s")),
        incarnation=_whole(node.get("incarnation")),
        version=str(node.get("version") or DASH),
        epoch=epoch,
        behind=epoch is not None and newest is not None and epoch < newest,
        flags=flags,
        api_url=str(node.get("api_url") or ""),
        whole=_truth(node.get("whole")),
        clock_skew_s=_number(node.get("clock_skew_s")),
        raw=node,
    )


def refreshed(cluster: Cluster, requests: Json) -> Cluster:
    """The same with what `requests` told since, every second: who was heard of, and what each uses."""
    told = {str(one.get("id")): one for one in map(_mapping, _items(requests.get("nodes")))}
    if not told:
        return cluster
    peers = []
    for peer in cluster.peers:
        node = told.get(peer.id, {})
        heard = _number(node.get("last_heard_s"))
        if peer.is_self:
            heard = 0.0
        peers.append(
            replace(
                peer,
                last_heard_s=peer.last_heard_s if heard is None else heard,
                used_bytes=_whole(node.get("used_bytes", peer.used_bytes)),
            )
        )
    return replace(cluster, peers=tuple(peers))


def _table_order(node: Json) -> tuple[list[tuple[int, str]], str]:
    """Names in the order people count: peer-2 before peer-10. Stable whoever answers."""
    name, digits = str(node.get("name") or ""), ""
    parts: list[tuple[int, str]] = []
    for char in name + "\0":
        if char.isascii() and char.isdigit():
            digits += char
            continue
        if digits:
            parts.append((int(digits), ""))
            digits = ""
        parts.append((-1, char))
    return parts, str(node.get("id") or "")


def headline(cluster: Cluster) -> str:
    """The verdict in a sentence: what it is and what may still fail."""
    return f"{cluster.look.word}  {tolerance(cluster.tolerates, cluster.verdict)}"


def tolerance(failures: int | None, verdict: str) -> str:
    if failures is None:
        return "how many failures it tolerates is not known"
    if failures > 0:
        return f"tolerates {failures} more failure{'s' if failures != 1 else ''} now"
    if verdict == "unavailable":
        return "part of the data has no quorum"
    return "tolerates no further failure now"


def partition_words(cluster: Cluster) -> list[tuple[str, str]]:
    """(words, colour) for each class of partitions, the troubled ones only if there are any."""
    found = []
    for key, colour in (("full", "green"), ("degraded", "yellow"), ("unavailable", "red")):
        count = cluster.partitions[key]
        if count is None:
            found.append((f"{DASH} {key}", "bright_black"))
        elif count or key == "full":
            found.append((f"{count:,} {key}", colour))
    return found


def shares(peers: Iterable[Peer]) -> list[tuple[Peer, float]]:
    """The arcs of the ring: peers that own something, with their part of all that is owned (sums to 1)."""
    owning = [(peer, peer.share) for peer in peers if peer.share is not None and peer.share > 0]
    total = sum(share for _, share in owning)
    return [(peer, share / total) for peer, share in owning]


# --- words for numbers


def size_words(count: int | None) -> str:
    """Bytes for a narrow column: 0 B, 999 B, 1.5 KiB, 12 GiB."""
    if count is None:
        return DASH
    if count < 1000:
        return f"{count} B"
    scaled = float(count)
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        scaled /= 1024
        if scaled < 999.5 or unit == "PiB":
            break
    return f"{scaled:.0f} {unit}" if scaled >= 9.95 else f"{scaled:.1f} {unit}"


def age_words(seconds: float | None) -> str:
    """A span for a narrow column: 0.4 s, 12 s, 3 min, 5 h, 2 d."""
    if seconds is None:
        return DASH
    seconds = max(seconds, 0.0)
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    for limit, unit, divisor in ((119.5, "s", 1), (7170, "min", 60), (172_000, "h", 3600)):
        if seconds < limit:
            return f"{seconds / divisor:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def share_words(share: float | None) -> str:
    return DASH if share is None else f"{share * 100:.1f} %"


def epoch_words(epoch: tuple[int, int] | None, kind: str = "final") -> str:
    """Generation and number; a joint epoch (owners changing) says so."""
    if epoch is None:
        return DASH
    return f"{epoch[0]}.{epoch[1]}" + ("" if kind in ("final", "unknown") else f" {kind}")


# --- reading JSON that may be wrong


def _mapping(value: object) -> Json:
    return value if isinstance(value, Mapping) else {}


def _items(value: object) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else ()


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _whole(value: object) -> int | None:
    number = _number(value)
    return int(number) if number is not None and isfinite(number) else None


def _epoch_number(value: object) -> tuple[int, int] | None:
    if isinstance(value, (list, tuple)) and len(value) == 2:
        generation, number = _whole(value[0]), _whole(value[1])
        if generation is not None and number is not None:
            return generation, number
    return None


def _truth(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def one_line(value: object) -> str:
    """Words of a peer, without line ends: they must not move what stands below."""
    return " ".join(str(value or "").split())


def _reason(value: object) -> Reason:
    if not isinstance(value, Mapping):
        return Reason("", one_line(value))
    return Reason(one_line(value.get("code")), one_line(value.get("message")))
