"""The epoch: the record a change of the ring decides (architecture.md §5), its voters and its encoding.

Epochs are ordered by (generation, number): a generation is raised only by an operator who accepts data
loss, and outranks every number of an older one. A change is two decided epochs: `joint` carries the new
table and members and the previous ones, `final` the new ones alone.

Encoding: a msgpack array that starts with its version. Version 1:

    [1, generation, number, joint?, cluster id (16 bytes), [member, ...] by id, replicas, partition power,
     format level, chunk bytes, table, previous or nil, root access key, root secret key]
    previous = [table, [member, ...] by id], or only the table where its members are not known
    member = [id (8 bytes), name, host, peer port, s3 port, api port, zone, weight]  and its state, unless "active"
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal

import msgpack

from ring.hashing import check_partition_power
from ring.members import ACTIVE, Member, by_id
from ring.table import Table, check_replicas

VOTERS = 5
"""Epoch e+1 is decided by a majority of this many members of epoch e, or of all when there are fewer."""

MAX_EPOCH_BYTES = 64 << 20
"""Bound on an encoded epoch: two tables of power 16 and 16 replicas (2 MiB each) and every member."""

MAX_NUMBER = (1 << 63) - 1
MAX_KEY_BYTES = 1024

Kind = Literal["final", "joint"]

_ENCODING = 1
_FIELDS = 14
_CLUSTER_ID = re.compile(r"[0-9a-f]{32}\Z")


@dataclass(frozen=True, slots=True)
class Epoch:
    """One decided state of the ring. Raises ValueError if its parts contradict each other.

    `members` is kept sorted by id. Every member the table names is among them; a previous owner need
    not be: it may be gone for good, and is one of `previous_members`. `chunk_bytes` is the cluster's chunk size.
    """

    generation: int
    number: int
    kind: Kind
    cluster_id: str
    members: tuple[Member, ...]
    replicas: int
    partition_power: int
    format_level: int
    chunk_bytes: int
    table: Table = field(repr=False)
    previous: Table | None = field(repr=False)
    root_access_key: str
    root_secret_key: str = field(repr=False)
    previous_members: tuple[Member, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "members", by_id(self.members))
        object.__setattr__(self, "previous_members", by_id(self.previous_members))
        if not isinstance(self.cluster_id, str) or _CLUSTER_ID.match(self.cluster_id) is None:
            raise ValueError(f"a cluster id is 32 lower-case hex digits, not {self.cluster_id!r}")
        for name, least in (("generation", 0), ("number", 0), ("format_level", 0), ("chunk_bytes", 1)):
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= MAX_NUMBER:
                raise ValueError(f"epoch: {name} must be from {least} to {MAX_NUMBER}, not {value!r}")
        for key in (self.root_access_key, self.root_secret_key):
            if not isinstance(key, str) or len(key.encode()) > MAX_KEY_BYTES:
                raise ValueError(f"epoch: a root key is text of up to {MAX_KEY_BYTES} bytes")
        self._check_tables()

    def _check_tables(self) -> None:
        check_replicas(self.replicas)
        check_partition_power(self.partition_power)
        if self.kind not in ("final", "joint"):
            raise ValueError(f"an epoch is final or joint, not {self.kind!r}")
        if (self.kind == "joint") != (self.previous is not None):
            raise ValueError("a joint epoch carries the previous table, a final one does not")
        if self.previous is None and self.previous_members:
            raise ValueError("a final epoch has no previous members")
        if self.table.replicas != self.replicas:
            raise ValueError(
                f"the epoch asks for {self.replicas} replicas, its table has {self.table.replicas}"
            )
        for table in (self.table, self.previous):
            if table is not None and table.partition_power != self.partition_power:
                raise ValueError(
                    f"the epoch's partition power is {self.partition_power}, not {table.partition_power}"
                )
        _check_named(self.table, self.members)
        if self.previous is not None and self.previous_members:
            _check_named(self.previous, self.previous_members)

    @property
    def order(self) -> tuple[int, int]:
        """(generation, number): the newer of two epochs has the greater order."""
        return self.generation, self.number

    def member(self, member_id: str) -> Member | None:
        """The member of that id, or None."""
        return next((member for member in self.members if member.id == member_id), None)

    @property
    def everybody(self) -> tuple[Member, ...]:
        """The members and, in a joint epoch, those of before, by id: whoever may have to be asked for something."""
        if self.previous is None:
            return self.members
        known = {member.id: member for member in (*self.previous_members, *self.members)}
        return by_id(known.values())

    def voters(self) -> tuple[str, ...]:
        """The members that decide the next epoch, sorted by id: see `choose_voters`."""
        return choose_voters(self.members)

    def encode(self) -> bytes:
        """The epoch as bytes; equal epochs give equal bytes."""
        packed: bytes = msgpack.packb(
            (
                _ENCODING,
                self.generation,
                self.number,
                self.kind == "joint",
                bytes.fromhex(self.cluster_id),
                [_pack_member(member) for member in self.members],
                self.replicas,
                self.partition_power,
                self.format_level,
                self.chunk_bytes,
                self.table.encode(),
                self._pack_previous(),
                self.root_access_key,
                self.root_secret_key,
            )
        )
        return packed

    def _pack_previous(self) -> Any:
        if self.previous is None or not self.previous_members:
            return None if self.previous is None else self.previous.encode()
        return [self.previous.encode(), [_pack_member(member) for member in self.previous_members]]

    @staticmethod
    def decode(data: bytes) -> Epoch:
        """The epoch that `data` encodes. Raises ValueError, saying what is wrong, for anything else."""
        return _decode(data)


# Each arrives several times: from its proposer, from whoever is asked for it, from the disk. A pure function of its
# argument, so the cache cannot be observed.
@lru_cache(maxsize=4)
def _decode(data: bytes) -> Epoch:
    fields = _unpack(data)
    (_, generation, number, joint, cluster_id, members, replicas, power, level, chunk_bytes) = fields[:10]
    table, previous, access_key, secret_key = fields[10:]
    if type(joint) is not bool:
        raise ValueError("malformed epoch: a field has the wrong type")
    if type(previous) is not list:
        previous = [previous, []]
    if len(previous) != 2:
        raise ValueError("malformed epoch: the previous ring is a table and its members")
    return Epoch(
        generation=generation,
        number=number,
        kind="joint" if joint else "final",
        cluster_id=_bytes(cluster_id).hex(),
        members=_unpack_members(members),
        replicas=replicas,
        partition_power=power,
        format_level=level,
        chunk_bytes=chunk_bytes,
        table=Table.decode(_bytes(table)),
        previous=None if previous[0] is None else Table.decode(_bytes(previous[0])),
        previous_members=_unpack_members(previous[1]),
        root_access_key=access_key,
        root_secret_key=secret_key,
    )


def _check_named(table: Table, members: Sequence[Member]) -> None:
    unknown = set(table.member_ids).difference(member.id for member in members)
    if unknown:
        raise ValueError(f"the table names members that the epoch lacks: {', '.join(sorted(unknown))}")


def choose_voters(members: Sequence[Member]) -> tuple[str, ...]:
    """All members up to five; above that five spread over zones as evenly as their sizes permit.

    Zones take turns, in the order of their lowest member id, each giving its lowest id not yet chosen.
    Only ids and zones decide, so a changed name, address or capacity changes no voter, and one join or
    leave replaces at most two. Sorted by id.
    """
    ordered = by_id(members)
    if len(ordered) <= VOTERS:
        return tuple(member.id for member in ordered)
    queues: dict[str, list[str]] = {}  # in the order of each zone's lowest id
    for member in ordered:
        queues.setdefault(member.zone, []).append(member.id)
    turns = ((turn, zone) for turn in range(VOTERS) for zone in queues)
    chosen = (queues[zone][turn] for turn, zone in turns if turn < len(queues[zone]))
    return tuple(sorted(member_id for _, member_id in zip(range(VOTERS), chosen, strict=False)))


def _pack_member(member: Member) -> tuple[Any, ...]:
    return (
        bytes.fromhex(member.id),
        member.name,
        member.host,
        member.peer_port,
        member.s3_port,
        member.api_port,
        member.zone,
        member.weight,
        *(() if member.state == ACTIVE else (member.state,)),
    )


def _unpack_members(packed: Any) -> tuple[Member, ...]:
    if type(packed) is not list:
        raise ValueError("malformed epoch: members are a list")
    members = tuple(_unpack_member(member) for member in packed)
    if any(one.id >= other.id for one, other in pairwise(members)):
        raise ValueError("malformed epoch: members must be distinct and ascending by id")
    return members


def _unpack_member(packed: Any) -> Member:
    if type(packed) is not list or len(packed) not in (8, 9):
        raise ValueError("malformed epoch: a member is a list of eight fields, or nine")
    if len(packed) == 9 and packed[8] == ACTIVE:
        raise ValueError("malformed epoch: that a member is active is not said")
    member_id, *rest = packed
    return Member(_bytes(member_id).hex(), *rest)


def _unpack(data: bytes) -> list[Any]:
    if len(data) > MAX_EPOCH_BYTES:
        raise ValueError(f"an epoch of {len(data)} bytes is larger than {MAX_EPOCH_BYTES}")
    try:
        fields = msgpack.unpackb(data, use_list=True, raw=False, strict_map_key=True)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise ValueError(f"malformed epoch: {error}") from error
    if type(fields) is not list or not fields or type(fields[0]) is not int:
        raise ValueError("malformed epoch: not an array that starts with its version")
    if fields[0] != _ENCODING:
        raise ValueError(f"epoch encoding {fields[0]} is not known here; this software reads {_ENCODING}")
    if len(fields) != _FIELDS:
        raise ValueError(f"malformed epoch: {len(fields)} fields instead of {_FIELDS}")
    return fields


def _bytes(value: Any) -> bytes:
    if type(value) is not bytes:
        raise ValueError(f"malformed epoch: bytes expected, not {type(value).__name__}")
    return value
