"""Who was slow to answer lately, and is left alone for a while where others can answer.

Gossip takes seconds to declare a silent peer dead. That somebody waited for it in vain is known after a moment, and this
remembers it, so that not every request finds out for itself. When the time is up one request **tries** the peer, for all
others: if nobody complains of it again within TRIAL_S it is as good as any, else it is left alone for twice as long.
"""

from __future__ import annotations

from dataclasses import dataclass

from .env import Env

LATE_FOR_S = 1.0
TRIAL_S = 1.0
LATE_MOST_S = 8.0
MEMBERS_MOST = 4096


@dataclass(slots=True)
class _Late:
    until_s: float
    for_s: float
    trial: bool = False


class Lateness:
    """One peer's memory of others that were late: at first for `for_s` seconds."""

    def __init__(self, env: Env, for_s: float = LATE_FOR_S) -> None:
        self._env = env
        self._for_s = for_s
        self._late: dict[str, _Late] = {}

    def late(self, member: str) -> None:
        """Somebody waited for this member in vain."""
        now = self._env.now()
        known = self._late.get(member)
        if known is None:
            if len(self._late) < MEMBERS_MOST:
                self._late[member] = _Late(now + self._for_s, self._for_s)
        elif known.trial or now >= known.until_s:  # else the wait began before it was left alone
            known.for_s = min(2 * known.for_s, LATE_MOST_S)
            known.until_s, known.trial = now + known.for_s, False

    def prompt(self, member: str) -> None:
        """It answered, and that took nobody's time."""
        self._late.pop(member, None)

    def clear(self) -> None:
        """This peer itself stood still, so whoever seemed late need not have been."""
        self._late.clear()

    def avoided(self, member: str) -> bool:
        """Whether to leave this member alone now. False may mean that the caller tries it, so ask once for each request."""
        if not self._late:
            return False
        known = self._late.get(member)
        if known is None:
            return False
        now = self._env.now()
        if now < known.until_s:
            return True
        if known.trial:
            del self._late[member]  # nobody complained
            return False
        known.until_s, known.trial = now + TRIAL_S, True
        return False
