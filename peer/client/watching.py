"""Looks after the pulse of a blocking client: one thread while requests are under way, asleep otherwise."""

from __future__ import annotations

import http.client
import ssl
import threading
from urllib.parse import urlsplit

from peer.client.pulse import PROBE, PROBE_S, TICK_S, Pulse
from peer.client.trust import trust

IDLE_S = 10.0


class Watcher:
    """Probes peers and breaks off what waits at silent ones. The thread begins with the first request that it may help, and
    ends when there was none for IDLE_S: a client that is dropped without being closed leaves nothing behind."""

    def __init__(self, pulse: Pulse, tls: ssl.SSLContext | None) -> None:
        self._pulse = pulse
        self._tls = tls
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closed = False

    def wake(self) -> None:
        """Something waits."""
        with self._lock:
            self._wake.set()
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="atoll pulse", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """End the thread. Idempotent."""
        with self._lock:
            self._closed = True
        self._wake.set()

    def _run(self) -> None:
        tick = threading.Event()
        while not self._closed:
            if not self._wake.wait(IDLE_S):
                with self._lock:
                    if not self._wake.is_set():
                        self._thread = None
                        return
            self._wake.clear()
            while not self._closed and not self._pulse.idle:
                for url in self._pulse.look():
                    # A thread each: with two silent peers, the second must not wait for the first.
                    probe = threading.Thread(target=self._probe, args=(url,), name="atoll probe", daemon=True)
                    probe.start()
                tick.wait(TICK_S)

    def _probe(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            if self._tls is None:
                self._tls = trust()
            connection = http.client.HTTPSConnection(
                parts.hostname, parts.port, timeout=PROBE_S, context=self._tls
            )
        else:
            connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=PROBE_S)
        alive = False
        try:
            connection.request(PROBE.method, PROBE.path, headers={"User-Agent": "atoll"})
            alive = connection.getresponse().status < 500
        except (OSError, http.client.HTTPException):
            pass  # which is what was asked
        finally:
            connection.close()
            self._pulse.probed(url, alive=alive)
