"""The gossip port: one UDP socket, every datagram sealed, whatever does not open dropped and counted.

Non-blocking and without a transport of asyncio's, because the membership must be able to empty the socket
at a moment of its choosing: before it looks at its timers.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from gossip.codec import DATAGRAM_BYTES, unpack
from gossip.errors import Malformed, Stranger
from gossip.keyring import Keyring
from gossip.messages import Packet
from peer.errors import StartupError

Address = tuple[str, int]

# A name that resolves is believed this long; a container that moved is found again after it.
NAME_TTL_S: Final = 30.0
NAMES_MOST: Final = 16_384
RESOLVING_MOST: Final = 32
# Asked of the kernel, which may give less: room for what arrives while the loop is busy.
SOCKET_BYTES: Final = 2 * 1024 * 1024


class Datagrams:
    """`receive(packet, source)` is called for each datagram of this cluster, by `drain`.

    `counters` counts what is dropped, by reason. Nothing here raises for what the network does.
    """

    def __init__(self, keyring: Keyring, receive: Callable[[Packet, Address], None]) -> None:
        self.keyring = keyring
        self.counters: Counter[str] = Counter()
        self._receive = receive
        self._socket: socket.socket | None = None
        self._names: dict[Address, tuple[Address, float]] = {}
        self._resolving: dict[Address, asyncio.Task[None]] = {}

    async def open(self, host: str, port: int, readable: Callable[[], None]) -> int:
        """Bind, and call `readable` when there is something to drain. Returns the port.

        Raises StartupError if the address cannot be bound.
        """
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(
                host, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
            )
            family, _, _, _, address = found[0]
            bound = socket.socket(family, socket.SOCK_DGRAM)
        except OSError as error:
            raise StartupError(f"cannot listen on {host}: {error}. Check --host.") from error
        try:
            bound.setblocking(False)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BYTES)
            bound.bind(address)
        except OSError as error:
            bound.close()
            raise StartupError(
                f"cannot listen on UDP port {port} of {host}: {error.strerror}. Another peer may be running "
                "there; choose another --peer-port."
            ) from error
        self._socket = bound
        loop.add_reader(bound, readable)
        return int(bound.getsockname()[1])

    async def close(self) -> None:
        """Let go of the socket and of names being resolved."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        tasks = list(self._resolving.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def drain(self, most: int) -> int:
        """Take up to `most` datagrams out of the socket, without waiting. Returns how many there were."""
        for count in range(most):
            if self._socket is None:
                return count
            try:
                data, source = self._socket.recvfrom(DATAGRAM_BYTES + 1)
            except (BlockingIOError, InterruptedError):
                return count
            except OSError:
                self.counters["receive_errors"] += 1
                continue
            self._accept(data, (source[0], source[1]))
        return most

    def _accept(self, data: bytes, source: Address) -> None:
        self.counters["packets_in"] += 1
        self.counters["bytes_in"] += len(data)
        try:
            if len(data) > DATAGRAM_BYTES:
                raise Stranger("longer than any datagram of ours")
            packet = unpack(self.keyring.open(data))
        except Stranger:
            self.counters["strangers"] += 1
        except Malformed:
            self.counters["malformed"] += 1
        else:
            self._receive(packet, source)

    def send(self, address: Address, body: bytes) -> None:
        """Seal and send, or drop and count: a full socket, no route, a name not resolved yet."""
        target = self._resolved(address)
        if target is None or self._socket is None:
            self.counters["send_drops"] += 1
            return
        sealed = self.keyring.seal(body)
        assert len(sealed) <= DATAGRAM_BYTES
        try:
            self._socket.sendto(sealed, target)
        except OSError:
            self.counters["send_drops"] += 1
            return
        self.counters["packets_out"] += 1
        self.counters["bytes_out"] += len(sealed)

    def _resolved(self, address: Address) -> Address | None:
        """The numeric address of a member; a name's last known one while it is looked up anew."""
        known = self._names.get(address)
        if known is not None and (known[1] > time.monotonic() or address in self._resolving):
            return known[0]
        if known is None and self._is_numeric(address[0]):
            self._remember(address, address, float("inf"))
            return address
        if address not in self._resolving and len(self._resolving) < RESOLVING_MOST:
            task = asyncio.get_running_loop().create_task(self._resolve(address), name="resolve a member")
            self._resolving[address] = task
        return known[0] if known is not None else None

    def _is_numeric(self, host: str) -> bool:
        if self._socket is None:
            return False
        try:
            version = ipaddress.ip_address(host).version
        except ValueError:
            return False
        return (version == 6) == (self._socket.family == socket.AF_INET6)

    async def _resolve(self, address: Address) -> None:
        assert self._socket is not None
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                address[0],
                address[1],
                family=self._socket.family,
                type=socket.SOCK_DGRAM,
                flags=socket.AI_V4MAPPED if self._socket.family == socket.AF_INET6 else 0,
            )
            numeric = found[0][4]
            self._remember(address, (str(numeric[0]), int(numeric[1])), time.monotonic() + NAME_TTL_S)
        except (OSError, ValueError):  # ValueError: a name that can be no name
            self.counters["unresolved"] += 1
        finally:
            del self._resolving[address]

    def _remember(self, address: Address, numeric: Address, until: float) -> None:
        if len(self._names) >= NAMES_MOST:
            del self._names[next(iter(self._names))]
        self._names[address] = numeric, until
