"""Network namespaces: each peer on a machine of its own, whose packets can be dropped without a word.

A peer's end of a virtual cable lies in its namespace, the other end on a bridge; taken off the bridge, whatever either side
sends disappears. Neighbours are fixed, so that nobody is told "no route to host". Needs root and `ip`.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress


class NoNetwork(Exception):
    """Namespaces cannot be made here; says why."""


class Network:
    """A bridge with a namespace for each of `peers`. Use as a context manager; leaving removes everything."""

    def __init__(self, peers: int) -> None:
        self._peers = peers
        self._tag = f"{os.getpid() % 100_000:05d}"
        self._third = os.getpid() % 250
        self._bridge = f"atb{self._tag}"

    def address(self, peer: int) -> str:
        return f"10.219.{self._third}.{peer + 1}"

    @property
    def _host(self) -> str:
        return f"10.219.{self._third}.254"

    def _mac(self, number: int) -> str:
        return f"02:a7:{self._third:02x}:00:00:{number:02x}"

    def namespace(self, peer: int) -> str:
        return f"at{self._tag}p{peer}"

    def _cable(self, peer: int) -> str:
        return f"atv{self._tag}p{peer}"

    def words(self, peer: int) -> list[str]:
        """A command in front of the peer's own, which puts it into its namespace."""
        return ["/usr/bin/env", "ip", "netns", "exec", self.namespace(peer)]

    def __enter__(self) -> Network:
        try:
            self._ip("link", "add", self._bridge, "address", self._mac(254), "type", "bridge")
            self._ip("addr", "add", f"{self._host}/24", "dev", self._bridge)
            self._ip("link", "set", self._bridge, "up")
            for peer in range(self._peers):
                self._add(peer)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _add(self, peer: int) -> None:
        space, cable = self.namespace(peer), self._cable(peer)
        self._ip("netns", "add", space)
        inside = ["name", "eth0", "address", self._mac(peer), "netns", space]
        self._ip("link", "add", cable, "type", "veth", "peer", *inside)
        self._ip("link", "set", cable, "master", self._bridge, "up")
        self._ip("-n", space, "link", "set", "lo", "up")
        self._ip("-n", space, "addr", "add", f"{self.address(peer)}/24", "dev", "eth0")
        self._ip("-n", space, "link", "set", "eth0", "up")
        self._know("-n", space, "eth0", self._host, 254)
        self._know("-n", self.namespace(peer), "eth0", self._host, 254)
        self._ip(
            "neigh",
            "replace",
            self.address(peer),
            "lladdr",
            self._mac(peer),
            "dev",
            self._bridge,
            "nud",
            "permanent",
        )
        for other in range(self._peers):
            if other != peer:
                self._know("-n", space, "eth0", self.address(other), other)

    def _know(self, flag: str, space: str, device: str, address: str, number: int) -> None:
        self._ip(
            flag, space, "neigh", "replace", address, "lladdr", self._mac(number), "dev", device, "nud", "permanent"
        )  # fmt: skip

    def drop(self, peer: int) -> None:
        """From now on every packet from and to this peer disappears."""
        self._ip("link", "set", self._cable(peer), "nomaster")

    def restore(self, peer: int) -> None:
        self._ip("link", "set", self._cable(peer), "master", self._bridge)

    def close(self) -> None:
        """Remove namespaces, cables and bridge. Idempotent."""
        for peer in range(self._peers):
            with suppress(NoNetwork):
                self._ip("netns", "del", self.namespace(peer))
            with suppress(NoNetwork):
                self._ip("link", "del", self._cable(peer))
        with suppress(NoNetwork):
            self._ip("link", "del", self._bridge)

    @staticmethod
    def _ip(*words: str) -> None:
        try:
            done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NoNetwork(f"ip: {error}") from error
        if done.returncode != 0:
            raise NoNetwork(f"ip {' '.join(words)}: {done.stderr.strip()}")
