"""Looks after the pulse of an asynchronous client: a timer while requests are under way, and probes as tasks."""

from __future__ import annotations

import asyncio
import ssl

import aiohttp
from yarl import URL

from peer.client.pulse import PROBE, PROBE_S, TICK_S, Pulse
from peer.client.trust import for_aiohttp


class AsyncWatcher:
    """Probes peers and breaks off what waits at silent ones."""

    def __init__(self, pulse: Pulse, tls: ssl.SSLContext | None) -> None:
        self._pulse = pulse
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._probes: set[asyncio.Task[None]] = set()
        self._closed = False

    def wake(self) -> None:
        """Something waits. Called on the client's loop."""
        if self._timer is None and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    async def close(self) -> None:
        """End what is under way. Idempotent."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for probe in self._probes:
            probe.cancel()
        await asyncio.gather(*self._probes, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def _tick(self) -> None:
        self._timer = None
        for url in self._pulse.look():
            probe = asyncio.ensure_future(self._probe(url))
            self._probes.add(probe)
            probe.add_done_callback(self._probes.discard)
        if not self._pulse.idle:
            self.wake()

    async def _probe(self, url: str) -> None:
        alive = False
        try:
            async with asyncio.timeout(PROBE_S):
                async with self._opened().request(
                    PROBE.method, URL(url + PROBE.path), allow_redirects=False
                ) as response:
                    alive = response.status < 500
        except (aiohttp.ClientError, OSError):  # a deadline is an OSError, too
            pass  # which is what was asked
        finally:
            self._pulse.probed(url, alive=alive)

    def _opened(self) -> aiohttp.ClientSession:
        """Connections of its own: a probe must not wait for one behind the very requests that are in doubt."""
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, force_close=True, ssl=for_aiohttp(self._tls))
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        return self._session
