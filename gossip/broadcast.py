"""News waiting to be passed on: what was sent least goes first, and of that the newest.

At most one piece of news per member, as a newer one replaces an older; so the queue is bounded by the
number of members and by `most`. Each is handed out a limited number of times and then forgotten.
"""

from __future__ import annotations

# No message is shorter, so less room than this is not worth a search.
_LEAST_BYTES = 24
# So many in a row that do not fit end the search for news short enough for the room left.
_LOOK = 16


class Broadcasts:
    """Encoded messages by the member they are about. `own` is the one whose news always go first.

    A member's defence of itself must not queue behind gossip: in a storm of accusations it is the only
    news that ends one.
    """

    def __init__(self, own: str, most: int) -> None:
        self._own = own
        self._most = most
        self._tiers: list[dict[str, bytes]] = [{}]  # by how often sent; each from oldest to newest
        self._tier_of: dict[str, int] = {}
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._tier_of)

    def __contains__(self, member: str) -> bool:
        return member in self._tier_of

    def put(self, member: str, message: bytes) -> None:
        """Queue news about `member` in place of older news about it."""
        self.discard(member)
        self._tiers[0][member] = message
        self._tier_of[member] = 0
        if len(self._tier_of) > self._most:
            self._drop_one()

    def discard(self, member: str) -> None:
        tier = self._tier_of.pop(member, None)
        if tier is not None:
            del self._tiers[tier][member]

    def take(self, room: int, limit: int) -> list[bytes]:
        """Messages of together at most `room` bytes, each of which then counts as sent once more.

        Those sent `limit` times leave the queue.
        """
        taken: list[bytes] = []
        if not self._tier_of:
            return taken
        moved: list[tuple[int, str]] = []
        own_tier = self._tier_of.get(self._own)
        if own_tier is not None:
            message = self._tiers[own_tier][self._own]
            if len(message) <= room:
                taken.append(message)
                room -= len(message)
                moved.append((own_tier, self._own))
        for number, tier in enumerate(self._tiers):
            too_long = 0
            for member in reversed(tier):
                if room < _LEAST_BYTES or too_long == _LOOK:
                    break
                message = tier[member]
                if len(message) > room:
                    too_long += 1
                elif member != self._own:
                    too_long = 0
                    taken.append(message)
                    room -= len(message)
                    moved.append((number, member))
        for number, member in moved:
            self._move_up(number, member, limit)
        return taken

    def _move_up(self, number: int, member: str, limit: int) -> None:
        message = self._tiers[number].pop(member)
        number += 1
        if number >= limit:
            del self._tier_of[member]
            return
        if number == len(self._tiers):
            self._tiers.append({})
        self._tiers[number][member] = message
        self._tier_of[member] = number

    def _drop_one(self) -> None:
        """Forget the oldest of the news that were sent most often."""
        for tier in reversed(self._tiers):
            for member in tier:
                if member != self._own:
                    self.discard(member)
                    self.dropped += 1
                    return
