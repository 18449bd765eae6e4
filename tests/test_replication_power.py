"""Power cut on all peers at one moment, straight after acknowledgements: what was promised is there (P2)."""

from __future__ import annotations

import asyncio

import pytest

from peer.errors import AtollError
from tests.replication_world import SPACE, Peer, World, simulate, until


@pytest.mark.parametrize("after", [1, 3, 17, 40, 95])
def test_power_cut_on_all_peers_straight_after_acknowledgements(after: int) -> None:
    """Schedule 14: in the very turn in which the nth write is acknowledged every peer loses power, and whatever was not
    synced with it. After the restart each acknowledged write is read, or a later one of the same key."""

    async def scenario(world: World, *peers: Peer) -> None:
        acknowledged: dict[bytes, int] = {}
        dark = asyncio.Event()

        async def client(first: int) -> None:
            """One writer a key, so that values only grow."""
            key = SPACE.row_key(b"key %d" % first)
            for number in range(100):
                try:
                    await peers[(first + number) % 3].put(b"%d" % number, key)
                except AtollError:
                    continue
                if dark.is_set():
                    return
                acknowledged[key] = number
                if sum(last + 1 for last in acknowledged.values()) >= after:
                    dark.set()
                    for peer in peers:
                        peer.crash()

        tasks = [asyncio.ensure_future(client(first)) for first in range(8)]
        await asyncio.wait_for(dark.wait(), 60)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for peer in peers:
            peer.open()
        await asyncio.gather(*(peer.start() for peer in peers))
        await until(lambda: all(peer.replica.identity.confirmed for peer in peers))
        assert acknowledged
        for key, number in acknowledged.items():
            for peer in peers:
                found = await peer.get(key)
                assert found is not None and int(found) >= number

    simulate(scenario)
