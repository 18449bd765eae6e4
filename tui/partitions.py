"""The partitions of a ring by how well they are. Pure; the table is read once an epoch, ranks follow the peers' states.

H1  A partition is never ranked better than it is: what nobody told is UNKNOWN, an owner that no peer vouches for is no
    live replica, and in a change of the ring the worse of its two sets of owners counts (architecture §5).
"""

from __future__ import annotations

from array import array
from base64 import b64decode
from binascii import Error
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tui.model import LEAVING, Cluster, Json, Peer, _epoch_number, _items, _mapping

FULL, MOVED, MOVING, DEGRADED, UNAVAILABLE, UNKNOWN = range(6)
"""The classes, the worst last. In those of a change every copy is there: MOVING is what some new owner has still to fetch,
MOVED what waits for the end of the change."""
CLASSES = ("full", "moved", "moving", "degraded", "unavailable", "unknown")
WIDTH_MOST = 31
RANK_UNKNOWN = UNKNOWN << 5 | WIDTH_MOST
Counts = dict[str, int]
SERVING = frozenset({"alive", "suspect", *LEAVING})


def class_of(rank: int) -> int:
    """FULL to UNKNOWN."""
    return rank >> 5


def live_of(rank: int) -> int:
    """Live replicas, in the worse set of owners."""
    return WIDTH_MOST - (rank & 31)


@dataclass(frozen=True, slots=True)
class Owners:
    """One table: `rows` as told, `held` the partitions of each member, `bad` the rows that make no sense."""

    rows: Sequence[object]
    width: int
    held: Mapping[str, array[int]]
    bad: Sequence[int]


@dataclass(frozen=True, slots=True)
class Table:
    """The ring of one epoch. `changed`: partitions whose owners are others than before."""

    epoch: tuple[int, int] | None
    kind: str
    members: tuple[tuple[str, str], ...]
    now: Owners
    before: Owners | None
    changed: frozenset[int] = frozenset()

    @property
    def partitions(self) -> int:
        return len(self.now.rows)

    @property
    def power(self) -> int:
        return max(0, self.partitions - 1).bit_length()

    def owners(self, partition: int, *, before: bool = False) -> list[tuple[str, str]]:
        """(id, name) of the owners in order of preference; [] where they are not known."""
        table = self.before if before else self.now
        if table is None or not 0 <= partition < len(table.rows):
            return []
        row = _items(table.rows[partition])
        return [self.members[index] for index in row if _index(index, len(self.members))]


def table_of(ring: Json, known: Table | None = None) -> Table:
    """The answer of `GET /v1/cluster/ring`; `known` itself, if it is that one, so that no work is done twice."""
    epoch = _mapping(ring.get("epoch"))
    number = _epoch_number([epoch.get("generation"), epoch.get("number")])
    kind = str(epoch.get("kind") or "unknown")
    members = tuple(
        (str(one.get("id") or ""), str(one.get("name") or one.get("id") or "?"))
        for one in map(_mapping, _items(ring.get("members")))
    )
    rows, rows_before = _items(ring.get("owners")), _items(ring.get("before"))
    if known is not None and (known.epoch, known.kind, known.members) == (number, kind, members):
        before = known.before.rows if known.before is not None else ()
        if known.now.rows == rows and before == rows_before:
            return known
    ids = [member for member, _ in members]
    now = _owners(rows, ids)
    if len(rows_before) != len(rows):
        return Table(number, kind, members, now, None)
    pairs = enumerate(zip(rows, rows_before, strict=True))
    changed = frozenset(partition for partition, pair in pairs if _differ(*pair))
    return Table(number, kind, members, now, _owners(rows_before, ids), changed)


def _differ(one: object, other: object) -> bool:
    return one != other and sorted(map(str, _items(one))) != sorted(map(str, _items(other)))


def _owners(rows: Sequence[object], ids: Sequence[str]) -> Owners:
    width = len(_items(rows[0])) if rows else 0
    held = [array("I") for _ in ids]
    bad = []
    known = frozenset(range(len(ids)))
    for partition, row in enumerate(rows):
        try:
            owners = known.intersection(row)  # type: ignore[arg-type]
        except TypeError:
            owners = frozenset()
        if not 0 < len(owners) == len(_items(row)) == width <= WIDTH_MOST:
            bad.append(partition)
            continue
        for index in owners:
            held[int(index)].append(partition)
    return Owners(rows, width, dict(zip(ids, held, strict=True)), bad)


def _index(value: object, count: int) -> bool:
    return isinstance(value, int) and 0 <= value < count


def pending_in(ring: Json, partitions: int) -> list[int]:
    """The partitions that some new owner has still to fetch (`pending`: partition p is bit p & 7 of byte p >> 3)."""
    told = ring.get("pending")
    try:
        bits = b64decode(told, validate=True) if isinstance(told, str) else b""
    except (Error, ValueError):
        return []
    return [
        partition
        for number, byte in enumerate(bits)
        if byte
        for partition in range(number << 3, min((number + 1) << 3, partitions))
        if byte >> (partition & 7) & 1
    ]


@dataclass(frozen=True, slots=True)
class Standing:
    """Whom the ranks depend on: members that vote, and those of them that count as a copy."""

    voting: frozenset[str] = frozenset()
    whole: frozenset[str] = frozenset()


def standing_of(cluster: Cluster | None) -> Standing:
    """Alive or suspect votes; it counts as a copy unless the peer that answers says that it is not whole."""
    peers: Iterable[Peer] = cluster.peers if cluster is not None else ()
    voting = [peer for peer in peers if peer.state in SERVING]
    return Standing(
        frozenset(peer.id for peer in voting),
        frozenset(peer.id for peer in voting if peer.whole is not False),
    )


def ranks_of(table: Table, standing: Standing) -> bytes:
    """A byte for each partition; the greater, the worse: the class in the upper bits, below how few replicas live."""
    ranks = _ranks(table.now, standing)
    if table.before is not None:
        former = _ranks(table.before, standing)
        for partition in table.changed:
            ranks[partition] = _at_least(MOVED, max(ranks[partition], former[partition]))
    return bytes(ranks)


def with_pending(ranks: bytes, pending: Collection[int]) -> bytes:
    """The same with these partitions on their way."""
    found = bytearray(ranks)
    moving = bytes(_at_least(MOVING, rank) for rank in range(256))
    for partition in pending:
        found[partition] = moving[ranks[partition]]
    return bytes(found)


def _at_least(found: int, rank: int) -> int:
    return max(rank, _rank(found, live_of(rank)))


def _rank(found: int, live: int) -> int:
    return found << 5 | WIDTH_MOST - live


def _ranks(owners: Owners, standing: Standing) -> bytearray:
    live, half = _count(owners, standing.whole), owners.width // 2
    votes = live if standing.voting == standing.whole else _count(owners, standing.voting)
    full, most = owners.width, WIDTH_MOST
    ranks = live.translate(
        bytes(_rank(FULL if count == full else DEGRADED, min(count, most)) for count in range(256))
    )
    for partition, count in enumerate(votes):
        if count <= half:
            ranks[partition] = _rank(UNAVAILABLE, live_of(ranks[partition]))
    for partition in owners.bad:
        ranks[partition] = RANK_UNKNOWN
    return ranks


def _count(owners: Owners, members: Collection[str]) -> bytearray:
    """How many of these own each partition."""
    counts = bytearray(len(owners.rows))
    for member in members:
        for partition in owners.held.get(member, ()):
            counts[partition] += 1
    return counts


def counts_of(ranks: bytes) -> Counts:
    """Partitions in each class; they sum to all of them."""
    classes = ranks.translate(bytes(class_of(rank) & 7 for rank in range(256)))
    return {name: classes.count(number) for number, name in enumerate(CLASSES)}


def agreed(counts: Counts, cluster: Cluster | None) -> tuple[Counts, int]:
    """The counts with the worse of what the map says and what the peer that answers counts, and how many fewer are full
    than drawn. It knows of some trouble that it does not tell partition by partition."""
    told = cluster.partitions if cluster is not None else {}
    total = sum(counts.values())
    if told.get("total") != total:
        return counts, 0
    told_full, told_unavailable = told.get("full"), told.get("unavailable")
    unavailable = max(counts["unavailable"], told_unavailable or 0)
    rest = max(0, total - unavailable - counts["unknown"])
    full = min(counts["full"], rest if told_full is None else told_full, rest)
    moving = min(counts["moving"], rest - full)
    moved = min(counts["moved"], rest - full - moving)
    worse = counts | {
        "full": full,
        "moved": moved,
        "moving": moving,
        "degraded": rest - full - moving - moved,
        "unavailable": unavailable,
    }
    return worse, counts["full"] - full


def hash_range(partition: int, power: int) -> tuple[str, str]:
    """First and last hash of a partition, by their first 32 bits."""
    shift = max(0, 32 - power)
    return f"{partition << shift:08x}", f"{((partition + 1) << shift) - 1:08x}"
