"""The token circle of consistent hashing: every member's virtual tokens, and the clockwise walk.

The source is Karger et al., "Consistent Hashing and Random Trees" (1997), with virtual nodes in
proportion to capacity as in Dynamo (2007, §6.2, strategy 1 for the tokens and 3 for the partitions).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator

from sortedcontainers import SortedDict

from ring.hashing import POSITION_BITS, partition_start, position_of
from ring.members import Member, by_id

TOKENS_PER_MEMBER = 128
"""Tokens of a member of average weight. The share of first places varies by about 1/sqrt(tokens), here
9 %; 300 members cost 38,400 hashes (some 50 ms). Loads do not depend on it: the table balances them."""


class Circle:
    """Tokens of all members on a circle of 2**64 positions. Immutable once built.

    The tokens of a member are the hashes of its id and 0, 1, 2, ...: a changed weight adds or removes
    tokens and leaves the rest of the circle where it was.
    """

    def __init__(self, members: Iterable[Member]) -> None:
        ordered = by_id(members)
        total = sum(member.weight for member in ordered)
        self._tokens: dict[str, list[int]] = {}
        circle: dict[int, str] = {}
        for member in ordered:
            wanted = (2 * member.weight * len(ordered) * TOKENS_PER_MEMBER + total) // (2 * total)
            tokens = _tokens_of(member.id, max(1, wanted))
            self._tokens[member.id] = tokens
            for token in tokens:
                circle.setdefault(token, member.id)  # of two on one position the lower id comes first
        self._circle: SortedDict[int, str] = SortedDict(circle)

    def walk(self, partition: int, partition_power: int) -> Iterator[str]:
        """Every member once, in the order met walking clockwise from the partition's start."""
        start = partition_start(partition, partition_power)
        circle = self._circle
        seen: set[str] = set()
        everyone = len(self._tokens)
        for piece in (circle.irange(start), circle.irange(None, start, (True, False))):
            for token in piece:
                member_id = circle[token]
                if member_id not in seen:
                    seen.add(member_id)
                    yield member_id
                    if len(seen) == everyone:
                        return
        for member_id in sorted(self._tokens.keys() - seen):  # every token of it collided: once in an aeon
            yield member_id

    def distance(self, member_id: str, partition: int, partition_power: int) -> int:
        """How far clockwise from the partition's start a member's next token lies, in positions."""
        start = partition_start(partition, partition_power)
        tokens = self._tokens[member_id]
        at = bisect_left(tokens, start)
        return tokens[at] - start if at < len(tokens) else tokens[0] - start + (1 << POSITION_BITS)

    def order(self, member_ids: Iterable[str], partition: int, partition_power: int) -> list[str]:
        """Some members in the order the walk would meet them: a bisection each instead of a long walk."""
        return sorted(
            member_ids,
            key=lambda member_id: (self.distance(member_id, partition, partition_power), member_id),
        )


def _tokens_of(member_id: str, count: int) -> list[int]:
    """The positions of a member's first `count` tokens, ascending."""
    name = bytes.fromhex(member_id)
    return sorted(position_of(name + number.to_bytes(4, "big")) for number in range(count))
