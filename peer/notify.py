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
        self._status = ""
        self._ready = False
        self._stopping = False

    def look_at(self, waits_for: Callable[[], list[str]] | None, serving: str = "") -> None:
        """Whom to tell of from now on: what it waits for (nothing: it is ready), and a word for that. None: nobody lives
        here just now; the process is starting, or comes back as another peer."""
        self._waits_for, self._serving = waits_for, serving

    def stopping(self, drain_s: float) -> None:
        """The end begins."""
        self._stopping = True
        self._tell_status(f"stopping: requests in flight get {drain_s:g} s", STOPPING="1")

    async def follow(self) -> None:
        """Tell what there is to tell, until cancelled."""
        if not self._address:
            return
        every_s = EVERY_S if self.watchdog_s is None else min(EVERY_S, self.watchdog_s / PINGS)
        while True:
            self.look()
            await asyncio.sleep(every_s)

    def look(self) -> None:
        """Tell it now."""
        fields = {} if self.watchdog_s is None else {"WATCHDOG": "1"}
        nobody = [RETURNING if self._ready else STARTING]
        waits = nobody if self._waits_for is None else self._waits_for()
        if not (waits or self._ready or self._stopping):
            self._ready = True
            fields["READY"] = "1"
        self._tell_status(self._status if self._stopping else "; ".join(waits) or self._serving, **fields)

    def _tell_status(self, status: str, **fields: str) -> None:
        """STATUS= if it is news, and whatever else there is to tell."""
        news = {} if status == self._status else {"STATUS": " ".join(status.split())}
        self._status = status
        if fields or news:
            self._send(fields | news)

    def _send(self, fields: Mapping[str, str]) -> None:
        """These assignments as one datagram. Never raises, never waits."""
        if not self._address:
            return
        text = "\n".join(f"{name}={value}" for name, value in fields.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                out.setblocking(False)
                out.sendto(text.encode(), self._address)
        except OSError as error:
            log.debug("the supervisor was not told %s: %s", text, error)


NOBODY = Supervisor({})
