"""Clients that write under conditions and keep book, so that what is there in the end can be held against what was said."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from peer.client import Client
from peer.errors import Conflict, UnknownOutcome
from tests.cluster_tools import DEADLINE_S, listing, wait_until
from tools.background import Background

NUMBER, CLAIMS = "number", "claim/"
PACE_S = 0.02
"""Between two turns: others have work to do as well."""


class Ledger(Background):
    """Adds one to a number if it is unchanged, over and over, beside others that do the same to it; and claims keys that
    the others claim, too. The number must be there as `0`."""

    def __init__(self, client: Client, bucket: str, who: int) -> None:
        super().__init__(f"ledger {who}")
        self._client, self._bucket, self.who = client, bucket, who
        self.failure: Exception | None = None
        self.added = 0
        self.claimed: set[str] = set()
        self.refused = 0
        self.doubts: list[str] = []
        """What was said when an answer was lost: each is an addition or a claim that may or may not have been done."""
        self._turn = 0

    def _run(self) -> None:
        try:
            while not self._stop.wait(PACE_S):
                self._add()
                self._claim(f"{CLAIMS}{self._turn:06d}")
                self._turn += 1
        except Exception as failure:  # noqa: BLE001 - told in the test's own thread
            self.failure = failure

    def _add(self) -> None:
        found = self._client.get(self._bucket, NUMBER)
        number = int(found.read())
        with self._judged():
            self._client.put(self._bucket, NUMBER, b"%d" % (number + 1), if_match=found.info.etag)
            self.added += 1

    def _claim(self, key: str) -> None:
        with self._judged():
            self._client.put(self._bucket, key, b"%d" % self.who, if_none_match="*")
            self.claimed.add(key)

    @contextmanager
    def _judged(self) -> Iterator[None]:
        try:
            yield
        except Conflict:
            self.refused += 1
        except UnknownOutcome as doubt:
            self.doubts.append(str(doubt))

    def wait_for(self, turns: int) -> None:
        """Until so many more additions and claims were tried."""
        goal = self._turn + turns
        wait_until(
            lambda: self.failure is not None or self._turn >= goal,
            f"{turns} more conditional writes",
            2 * DEADLINE_S,
        )


def check_ledgers(client: Client, bucket: str, ledgers: Sequence[Ledger]) -> None:
    """Every acknowledged addition counts once, every claimed key is whose it was said to be, and what nobody was told of may
    only be what somebody was in doubt about."""
    for ledger in ledgers:
        assert ledger.failure is None, f"a conditional write failed: {ledger.failure!r}"
    doubts = sum(len(ledger.doubts) for ledger in ledgers)
    added = sum(ledger.added for ledger in ledgers)
    found = int(client.get(bucket, NUMBER).read())
    owners = {key: ledger.who for ledger in ledgers for key in ledger.claimed}
    assert len(owners) == sum(len(ledger.claimed) for ledger in ledgers), "two were told that a key is theirs"
    keys = {entry.key for entry in listing(client, bucket, CLAIMS)}
    assert owners.keys() <= keys, "a claimed key is gone"
    assert 0 <= (found - added) + (len(keys) - len(owners)) <= doubts, (found, added, doubts)
    assert found >= added
    for key, who in owners.items():
        assert client.get(bucket, key).read() == b"%d" % who, key
