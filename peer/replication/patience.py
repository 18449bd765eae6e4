"""When to give up on owners that say nothing, so that an honest 503 comes within 5 s (architecture.md §1).

A deadline for each transfer of a chunk would have to be short for the promise and long for slow disks. So what counts is
silence: an owner is given up when for PATIENCE_S it has ended none of this peer's transfers, and not a byte of any has
moved. One that is slow, or behind a slow link, but works through what it was sent, gets the transfer's whole deadline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .env import Cancellable, Env

PATIENCE_S = 4.5
LOOK_AGAIN_S = 0.5


class Heard:
    """When each owner last ended a transfer well, or bytes of one moved. One entry a member."""

    def __init__(self, env: Env) -> None:
        self.env = env
        self._last_s: dict[str, float] = {}

    def note(self, owner: str) -> None:
        self._last_s[owner] = self.env.now()

    def quiet_s(self, owner: str, since_s: float) -> float:
        """For how long nothing was heard of the owner; a transfer that began at `since_s` had no more time than that."""
        return self.env.now() - max(since_s, self._last_s.get(owner, since_s))


class Watch:
    """Watches one operation: `given_up()` is called once, when fewer than `needed()` of the owners that are `pending()`
    have been heard of within PATIENCE_S; none needed: what is waited for just now is not theirs, or all is there and the
    operation is about to end. `end` when it has."""

    def __init__(
        self, heard: Heard, pending: Callable[[], Iterable[str]], needed: Callable[[], int], given_up: Callable[[], None]
    ) -> None:  # fmt: skip
        self._heard = heard
        self._pending = pending
        self._needed = needed
        self._given_up = given_up
        self._since_s = heard.env.now()
        self._timer: Cancellable | None = heard.env.call_later(PATIENCE_S, self._look)

    def _look(self) -> None:
        quiet = [self._heard.quiet_s(owner, self._since_s) for owner in self._pending()]
        left = sorted(PATIENCE_S - quiet_s for quiet_s in quiet if quiet_s < PATIENCE_S - 0.001)
        needed = self._needed()
        if len(left) < needed:
            self._timer = None
            self._given_up()
        else:  # the owners that matter are those heard of last
            again_s = left[-needed] if needed > 0 else LOOK_AGAIN_S
            self._timer = self._heard.env.call_later(again_s, self._look)

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
