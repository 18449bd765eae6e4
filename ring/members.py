"""A member of the cluster as the ring sees it: identity, addresses, failure domain, capacity."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

MAX_WEIGHT = (1 << 63) - 1
"""Weights are capacities in bytes; 63 bits keep them one integer in every encoding."""

MAX_MEMBERS = 65_535
"""A table names a member with 16 bits."""

MAX_TEXT_BYTES = 255
"""Bound on a name, a host or a zone, in bytes of UTF-8 (the longest DNS name is 253)."""

_MEMBER_ID = re.compile(r"[0-9a-f]{16}\Z")

ACTIVE, DRAINING, LEAVING = "active", "draining", "leaving"
STATES = (ACTIVE, DRAINING, LEAVING)
"""What the ring wants of a member: to own its share; to own nothing; to own nothing and then be removed."""


@dataclass(frozen=True, slots=True)
class Member:
    """One member. `id` is 16 lower-case hex digits and says who it is; `name` is only a label.

    `zone` is the failure domain (by default the host); replicas of a partition are spread over zones.
    `weight` is the capacity in bytes: any positive integer, only ratios matter. `state` is one of STATES.
    Raises ValueError for a field that could not be encoded or would break placement.
    """

    id: str
    name: str
    host: str
    peer_port: int
    s3_port: int
    api_port: int
    zone: str
    weight: int
    state: str = ACTIVE

    def __post_init__(self) -> None:
        check_member_id(self.id)
        for label in (self.name, self.host, self.zone):
            if not isinstance(label, str) or len(label.encode()) > MAX_TEXT_BYTES:
                raise ValueError(
                    f"member {self.id}: name, host and zone are text of up to {MAX_TEXT_BYTES} bytes"
                )
        for port in (self.peer_port, self.s3_port, self.api_port):
            if type(port) is not int or not 0 <= port <= 65_535:
                raise ValueError(f"member {self.id}: {port!r} is not a port number")
        if type(self.weight) is not int or not 1 <= self.weight <= MAX_WEIGHT:
            raise ValueError(
                f"member {self.id}: the weight must be from 1 to {MAX_WEIGHT}, not {self.weight!r}"
            )
        if self.state not in STATES:
            raise ValueError(f"member {self.id}: the state is one of {', '.join(STATES)}, not {self.state!r}")


def check_member_id(member_id: object) -> None:
    """Raise ValueError unless `member_id` is 16 lower-case hex digits."""
    if not isinstance(member_id, str) or _MEMBER_ID.match(member_id) is None:
        raise ValueError(f"a member id is 16 lower-case hex digits, not {member_id!r}")


def by_id(members: Iterable[Member]) -> tuple[Member, ...]:
    """The members sorted by id: the one order everything in the ring is computed in.

    Raises ValueError if two share an id, or if there are more than a table can name.
    """
    ordered = tuple(sorted(members, key=lambda member: member.id))
    for one, other in pairwise(ordered):
        if one.id == other.id:
            raise ValueError(f"two members share the id {one.id}")
    if len(ordered) > MAX_MEMBERS:
        raise ValueError(f"a ring has at most {MAX_MEMBERS} members, not {len(ordered)}")
    return ordered
