"""Members on real sockets of the loopback interface, with TCP exchanges replaced by calls."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from gossip.config import Config
from gossip.record import Record
from peer.errors import Unavailable
from peer.membership import Membership, MemberView

CLUSTER = "c1" * 16
KEY = bytes(range(32))
# Ten times faster than life, so that a death takes half a second.
FAST = Config(
    probe_interval_s=0.1,
    probe_timeout_s=0.05,
    gossip_interval_s=0.02,
    push_pull_interval_s=1.0,
    push_pull_timeout_s=1.0,
    reconnect_interval_s=0.3,
)
DEADLINE_S = 90.0


def free_port() -> int:
    """A UDP port that nobody has, most likely still so in a moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def until(condition: Callable[[], bool]) -> None:
    """Wait for the condition, for at most DEADLINE_S."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - the conditions are of many kinds
            await asyncio.sleep(0.005)


class Town:
    """Some members in this process, and the exchanges between them."""

    def __init__(self) -> None:
        self.members: dict[tuple[str, int], Membership] = {}
        self.changes: dict[str, list[tuple[str, str]]] = {}
        self.asked: list[tuple[str, int]] = []
        self.cut: set[tuple[str, int]] = set()

    async def exchange(self, address: tuple[str, int], payload: bytes, timeout_s: float) -> bytes:
        self.asked.append(address)
        member = self.members.get(address)
        if member is None or address in self.cut:
            raise Unavailable(f"nobody at {address}")
        return await member.handle_exchange(payload)

    async def add(self, number: int, *, boot: int = 1, port: int = 0, **options: Any) -> Membership:
        """Start a member; `options` replace the usual arguments."""
        port = port or free_port()
        me = Record(f"{number:016x}", f"peer-{number}", "127.0.0.1", port, 7400, 7401, boot, 0, "0.1.0", 1)
        heard = self.changes.setdefault(me.id, [])

        def on_change(view: MemberView) -> None:
            heard.append((view.id, view.state))

        arguments: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": port,
            "keyring": [KEY],
            "cluster_id": CLUSTER,
            "exchange": self.exchange,
            "on_change": on_change,
            "rng": random.Random(number),
            "config": FAST,
        }
        membership = Membership(me, **{**arguments, **options})
        await membership.start()
        self.members["127.0.0.1", port] = membership
        return membership

    async def crash(self, membership: Membership) -> None:
        """Gone without a word."""
        self.members = {address: other for address, other in self.members.items() if other is not membership}
        await membership.stop(leave=False)


def run(story: Callable[[Town], Awaitable[None]]) -> None:
    async def main() -> None:
        town = Town()
        try:
            await story(town)
        finally:
            for membership in town.members.values():
                await membership.stop(leave=False)

    asyncio.run(main())


def address_of(membership: Membership) -> tuple[str, int]:
    me = membership.members()[0]
    return me.host, me.peer_port


def state(membership: Membership, number: int) -> str:
    view = membership.get(f"{number:016x}")
    return "unknown" if view is None else view.state


async def three(town: Town) -> list[Membership]:
    first = await town.add(1)
    others = [await town.add(2), await town.add(3)]
    for other in others:
        assert await other.join([address_of(first)]) == 1
    everyone = [first, *others]
    await until(lambda: all(len(m.members()) == 3 for m in everyone))
    return everyone
