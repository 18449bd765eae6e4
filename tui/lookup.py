"""Asking a peer where a key lives, again every few seconds while the answer is shown. One question at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from textual.worker import Worker

from peer.errors import AtollError, Invalid, NotFound
from tui.found import Found, found_of

if TYPE_CHECKING:
    from peer.client import AsyncClient
    from tui.ring import Ring

AGAIN_S = 3.0


class Lookup:
    """What was asked and what is known of it. `age_s` seconds have passed since it was told."""

    def __init__(self, page: Ring) -> None:
        self._page = page
        self._at = 0
        self._asked_at = 0.0
        self._told_at = 0.0
        self._worker: Worker[None] | None = None
        self.forget()

    def forget(self) -> None:
        """Ask no more."""
        if self._worker is not None:
            self._worker.cancel()
        self._worker = None
        self.asked, self.problem = "", ""
        self.found: Found | None = None
        self._at = 0

    @property
    def age_s(self) -> float:
        return max(0.0, self._page.top.clock() - self._told_at)

    @property
    def has_further(self) -> bool:
        """Whether there are other chunks than those shown."""
        return self.found is not None and (self.found.next is not None or self._at > 0)

    def ask(self, words: str) -> None:
        """Where is `bucket/key`, or a bucket."""
        self.forget()
        self.asked = words.removeprefix("/")
        self._ask()

    def further(self) -> None:
        """Ask for the next chunks, after the last ones for the first."""
        if self.has_further and self.found is not None:
            self._at = self.found.next or 0
            self._ask()

    def refresh_if_old(self) -> None:
        """Ask again, if it is time to and the last question is answered."""
        busy = self._worker is not None and not self._worker.is_finished
        if self.asked and not busy and self._page.top.clock() - self._asked_at >= AGAIN_S:
            self._ask()

    def _ask(self) -> None:
        self._asked_at = self._page.top.clock()
        self._worker = self._page.run_worker(
            self._answer(), name="lookup", group="lookup", exclusive=True, exit_on_error=False
        )

    async def _answer(self) -> None:
        client = self._page.top.source.client()
        bucket, _, key = self.asked.partition("/")
        first = self.found is None
        if client is None:
            self.problem = "this is a recording: there is nobody to ask"
            self._page.found_anew(first=False)
            return
        try:
            answer = await _asked(client, bucket, key or None, self._at)
        except NotFound as error:
            self.found, self.problem = None, str(error)
        except AtollError as error:
            self.problem = str(error)  # what was told before stands, and gets older
        else:
            self.found, self.problem, self._told_at = found_of(answer), "", self._page.top.clock()
        self._page.found_anew(first=first)


async def _asked(client: AsyncClient, bucket: str, key: str | None, after: int) -> Mapping[str, Any]:
    """With chunks where the peer knows of them. An older one refuses the question; then its owners alone."""
    try:
        return await client.lookup(bucket, key, chunks=True, after=after)
    except NotFound:
        raise
    except Invalid:
        return await client.lookup(bucket, key)
