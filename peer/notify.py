"""What a peer tells the supervisor that started it: datagrams to NOTIFY_SOCKET (sd_notify(3), Type=notify).

READY=1 once, when the peer is a member, and votes and answers; a full or read-only disk is no reason not to be. STATUS=
what it waits for, or where it serves. WATCHDOG=1 from the event loop, four times in WATCHDOG_USEC: when the loop does not
turn any more the supervisor starts the peer anew, which costs nothing that was acknowledged. STOPPING=1 at the end. Without
a supervisor that asks for it nothing is sent, and one that is gone is no error.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)

EVERY_S = 0.5
PINGS = 4
STARTING, RETURNING = "starting", "coming back under a new id"


class Supervisor:
    """The one that started this process, if it wants to hear of it."""

    def __init__(self, environment: Mapping[str, str] = os.environ, pid: int | None = None) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        if not self._address.startswith(("/", "\0")):
            self._address = ""
        mine = environment.get("WATCHDOG_PID") in (None, str(os.getpid() if pid is None else pid))
        micros = environment.get("WATCHDOG_USEC", "")
        self.watchdog_s = int(micros) / 1e6 if mine and micros.isdigit() and int(micros) else None
        self._waits_for: Callable[[], list[str]] | None = None
        self._serving = ""
        self._stopping = ""
        # What it knows of us.
        self._status = ""
        self._ready = False
        self._told_stopping = False

    def look_at(self, waits_for: Callable[[], list[str]] | None, serving: str = "") -> None:
        """Whom to tell of from now on: what it waits for (nothing: it is ready), and a word for that. None: nobody lives
        here just now; the process is starting, or comes back as another peer."""
        self._waits_for, self._serving = waits_for, serving

    def stopping(self, drain_s: float) -> None:
        """The end begins."""
        self._stopping = f"stopping: requests in flight get {drain_s:g} s"
        self.look()

    async def follow(self) -> None:
        """Tell what there is to tell, until cancelled."""
        if not self._address:
            return
        every_s = EVERY_S if self.watchdog_s is None else min(EVERY_S, self.watchdog_s / PINGS)
        while True:
            self.look()
            await asyncio.sleep(every_s)

    def look(self) -> None:
        """Tell what is news. What could not be sent, as the supervisor has too much to read, is news still the next time."""
        nobody = [RETURNING if self._ready else STARTING]
        waits = nobody if self._waits_for is None else self._waits_for()
        status = self._stopping or "; ".join(waits) or self._serving
        ready = not (waits or self._stopping)
        news = {} if self.watchdog_s is None else {"WATCHDOG": "1"}
        if ready and not self._ready:
            news["READY"] = "1"
        if self._stopping and not self._told_stopping:
            news["STOPPING"] = "1"
        if status != self._status:
            news["STATUS"] = " ".join(status.split())
        if news and self._sent(news):
            self._status, self._told_stopping = status, bool(self._stopping)
            self._ready = self._ready or ready

    def _sent(self, fields: Mapping[str, str]) -> bool:
        """Send these assignments as one datagram; whether it was taken. Never raises, never waits."""
        if not self._address:
            return False
        text = "\n".join(f"{name}={value}" for name, value in fields.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                out.setblocking(False)
                out.sendto(text.encode(), self._address)
        except OSError as error:
            log.debug("the supervisor was not told %s: %s", text, error)
            return False
        return True


NOBODY = Supervisor({})
