"""Runs the processes of a dev cluster: starts, watches, adopts, stops.

A peer that dies stays dead. One that somebody else starts on its directory (`atoll dev start`,
`atoll peer --data`) is adopted by its pid file: shown, and stopped with the rest.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from peer.client.trust import Trust
from tools.devlayout import (
    DevError,
    Layout,
    Place,
    last_words,
    live_pid,
    load,
    open_log,
    peer_command,
    peer_environment,
)

STARTING_POLL_S = 0.05
WATCH_POLL_S = 0.5
ANSWER_S = 2.0
STOP_S = 15.0
KILL_S = 5.0
LAUNCHER = Path(__file__).with_name("launch.py")


@dataclass(slots=True)
class Peer:
    """One peer as the dev cluster sees it from outside: its process and its `/ready`.

    state: starting, ready, unready (runs, but not ready), dead, stopped.
    """

    place: Place
    state: str = "stopped"
    detail: str = ""
    process: asyncio.subprocess.Process | None = None
    pid: int | None = None

    @property
    def running(self) -> bool:
        return self.pid is not None


OnChange = Callable[[Peer], None]
Command = Callable[[Place, Layout], list[str]]
FULL_DISK = "the disk is below its free-space floor"
"""The one reason of `/ready` with which a peer serves all the same, reads and deletions: no start waits for more."""


class DevCluster:
    """All peers of one layout. Use within one event loop; `stop` in a `finally`.

    Args:
        on_change: called after every change of a peer's state or detail.
        command: what runs as a peer.
    """

    def __init__(
        self, layout: Layout, on_change: OnChange = lambda peer: None, command: Command = peer_command
    ) -> None:
        self.layout = layout
        self._command = command
        self.peers = [Peer(place) for place in layout.places]
        self._on_change = on_change
        self._session: aiohttp.ClientSession | None = None
        self._trust: Trust | None = None
        # Until then a peer may be unready and ready again at every join, which is no news.
        self._started = False
        self._told: set[str] = set()

    async def start(self, deadline_s: float = 60.0) -> None:
        """Start every peer and return when all that live are ready.

        Raises:
            DevError: the founder or every peer died, or not all were ready within the deadline. Peers may be running:
                `stop` ends them.
        """
        self.layout.data.mkdir(parents=True, exist_ok=True)
        self.layout.save()
        try:
            async with asyncio.timeout(deadline_s):
                await self._start_all()
                await self._all_ready()
            self._started = True
        except TimeoutError:
            waiting = [f"{peer.place.name}: {peer.detail}" for peer in self.peers if peer.state != "ready"]
            raise DevError(f"not ready after {deadline_s:g} s: {'; '.join(waiting)}") from None

    async def _start_all(self) -> None:
        first, *others = self.peers
        if not first.place.initialised:
            await self._spawn(first)
            while not await self._answers(first) or not (first.place.directory / "cluster.key").exists():
                self._reap(first)
                if first.state == "dead":
                    raise DevError(f"{first.place.name} could not start: {first.detail}")
                await asyncio.sleep(STARTING_POLL_S)
        else:
            await self._spawn(first)
        await asyncio.gather(*(self._spawn(peer) for peer in others))

    async def _all_ready(self) -> None:
        """Until every peer is ready or dead; one at least must live."""
        while True:
            await asyncio.gather(*(self._look(peer) for peer in self.peers))
            if all(peer.state == "dead" for peer in self.peers):
                raise DevError(
                    "; ".join(f"{peer.place.name} could not start: {peer.detail}" for peer in self.peers)
                )
            if all(peer.state in ("ready", "dead") or peer.detail == FULL_DISK for peer in self.peers):
                return
            await asyncio.sleep(STARTING_POLL_S)

    async def watch(self) -> None:
        """Notice deaths, returns, readiness and peers that `atoll dev add` started, until cancelled."""
        while True:
            await asyncio.sleep(WATCH_POLL_S)
            self._meet_added()
            await asyncio.gather(*(self._look(peer) for peer in self.peers))

    async def stop(self) -> None:
        """SIGTERM to all, `STOP_S` to drain, then SIGKILL. A cancellation kills at once."""
        running = [peer for peer in self.peers if peer.running]
        try:
            for peer in running:
                _signal(peer.pid, signal.SIGTERM)
                _signal(peer.pid, signal.SIGCONT)  # a frozen one could not end
            await self._gone(running, STOP_S)
        finally:
            left = [peer for peer in running if self._is_alive(peer)]
            for peer in left:
                _signal(peer.pid, signal.SIGKILL)
            await self._gone(left, KILL_S)
            if self._session is not None:
                await self._session.close()
                self._session = None
            for peer in running:
                peer.pid = peer.process = None
                self._set(peer, "stopped", "killed: it did not stop in time" if peer in left else "")

    def _meet_added(self) -> None:
        """Take in peers that were added to the saved layout: by another process, which started them."""
        with suppress(DevError):
            saved = load(self.layout.data)
            if saved is not None and saved.peers > self.layout.peers:
                self.layout = saved
                self.peers += [Peer(place) for place in saved.places[len(self.peers) :]]

    # --- one peer

    async def _spawn(self, peer: Peer) -> None:
        """Start `peer`, or adopt the process that runs in its directory already."""
        adopted = live_pid(peer.place)
        if adopted is not None:
            peer.pid = adopted
            self._set(peer, "starting", f"was running already, pid {adopted}")
            return
        peer.place.directory.mkdir(mode=0o700, exist_ok=True)
        launch = [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid())]
        with open_log(peer.place) as log:
            # A session of its own: Ctrl-C is ours to pass on, with a deadline.
            peer.process = await asyncio.create_subprocess_exec(
                *launch,
                *self._command(peer.place, self.layout),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=peer_environment(),
                start_new_session=True,
            )
        peer.pid = peer.process.pid
        self._set(peer, "starting", f"pid {peer.pid}")

    async def _look(self, peer: Peer) -> None:
        """Bring `peer` up to date with its process and its answers."""
        self._reap(peer)
        if peer.pid is None:
            adopted = live_pid(peer.place)
            if adopted is None:
                return
            peer.pid = adopted
            self._set(peer, "starting", f"back, pid {adopted}")
        ready, detail = await self._ready(peer)
        self._reap(peer)
        if peer.pid is None:
            return
        if ready:
            again = not self._started and peer.place.name in self._told
            self._told.add(peer.place.name)
            self._set(peer, "ready", f"pid {peer.pid}", quietly=again)
        elif detail == FULL_DISK or (self._started and peer.state in ("ready", "unready")):
            self._set(peer, "unready", detail)
        else:
            peer.state, peer.detail = "starting", detail

    def _reap(self, peer: Peer) -> None:
        """Notice that the process has ended."""
        if peer.pid is None or self._is_alive(peer):
            return
        how = "ended"
        if peer.process is not None and peer.process.returncode is not None:
            how = exit_words(peer.process.returncode)
            if peer.process.returncode > 0:
                how = ": ".join([how, *last_words(peer.place, 1)])
        peer.pid = peer.process = None
        self._told.discard(peer.place.name)
        self._set(peer, "dead", how)

    @staticmethod
    def _is_alive(peer: Peer) -> bool:
        if peer.process is not None:
            return peer.process.returncode is None
        return peer.pid is not None and live_pid(peer.place) == peer.pid

    async def _gone(self, peers: list[Peer], deadline_s: float) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + deadline_s
        while any(self._is_alive(peer) for peer in peers) and loop.time() < end:  # noqa: ASYNC110
            await asyncio.sleep(STARTING_POLL_S)  # a process we did not start has no event to wait for

    async def _answers(self, peer: Peer) -> bool:
        return (await self._get(peer, "/health"))[0] == 200

    async def _ready(self, peer: Peer) -> tuple[bool, str]:
        status, document = await self._get(peer, "/ready")
        if status == 200:
            return True, ""
        if status == 0:
            return False, "does not answer yet" if peer.state == "starting" else "does not answer"
        given = document.get("reasons")
        reasons = [
            str(reason.get("message") or reason.get("code")) if isinstance(reason, dict) else str(reason)
            for reason in (given if isinstance(given, list) else [])
        ]
        return False, "; ".join(reasons) or f"/ready answers {status}"

    async def _get(self, peer: Peer, path: str) -> tuple[int, dict[str, object]]:
        """Status and JSON, (0, {}) if nothing answers in time."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_S))
        if peer.place.scheme == "https" and self._trust is None:
            self._trust = self.layout.trust()
            if self._trust is None:
                return 0, {}  # the first peer is just starting
        try:
            async with self._session.get(peer.place.api_url + path, ssl=self._trust or True) as answer:
                document = await answer.json(content_type=None)
                return answer.status, document if isinstance(document, dict) else {}
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return 0, {}

    def _set(self, peer: Peer, state: str, detail: str, *, quietly: bool = False) -> None:
        if (peer.state, peer.detail) != (state, detail):
            changed = (peer.state != state or state == "unready") and not quietly
            peer.state, peer.detail = state, detail
            if changed:
                self._on_change(peer)


def exit_words(code: int) -> str:
    """How a process ended: "exited with 2", "killed by SIGKILL"."""
    if code >= 0:
        return f"exited with {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def _signal(pid: int | None, number: signal.Signals) -> None:
    if pid is not None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass
