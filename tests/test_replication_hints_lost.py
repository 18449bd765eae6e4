"""Hints that cannot be delivered as they were meant: their target has left the ring, or they were not kept."""

from __future__ import annotations

from dataclasses import replace

import pytest

from peer.replication import hints as hints_module
from tests.replication_chunks import BYTES, SMALL, Store, holding, name_of, owners_first, simulate_stores
from tests.replication_world import World, ring_of, until
from tests.test_replication_healing import watch
from tests.test_replication_hints import Healers, keys


@BYTES
def test_bytes_kept_for_an_owner_that_left_go_to_its_successor(data: bytes) -> None:
    """Goal (§8): fallbacks keep a dead owner's chunks, with their bytes, and registers it missed are remembered. It is
    removed for good: who owns its share now has everything by the hints alone, and then nobody keeps anything for it."""

    async def scenario(world: World, *stores: Store) -> None:
        healers = Healers(world, *stores)
        gone, writer, *_ = owners_first(stores, name_of(data))
        healers.lose(gone)
        chunk = await writer.put(data)
        for key in keys(40):
            await writer.peer.put(b"missed", key)
        await until(lambda: holding(stores, data) == 3)
        await until(lambda: any(kept.bytes for one in stores for kept in one.chunks.hints.kept.values()))
        rest = [store for store in stores if store is not gone]
        former = gone.peer.replica.epoch
        epoch = replace(ring_of(*(store.peer.member for store in rest)), number=2)
        for store in rest:
            await store.peer.replica.epochs.installed(epoch)
        owners = [store for store in rest if store.peer.id in rest[0].chunks.owners_of(chunk)]
        await until(lambda: all(store.holds(chunk) for store in owners), 120)
        for key in keys(40):
            partition = key[1] << 8 | key[2]
            if gone.peer.id in former.table.owners(partition):
                successors = set(epoch.table.owners(partition)) - set(former.table.owners(partition))
                (successor,) = [store for store in rest if store.peer.id in successors]
                await until(lambda s=successor, k=key: s.peer.holds(k) == b"missed", 120)  # type: ignore[misc]
        await until(lambda: healers.kept == 0, 120)
        assert not any(store.chunks.hints.kept for store in rest)

    simulate_stores(scenario, peers=5)


def test_dropped_hints_are_counted_and_covered_by_anti_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal (G3): of what an owner missed, registers and chunks, all but a few hints are beyond the bound. It is counted how
    many, and that is remembered; hints bring their few, and comparing brings the rest."""
    monkeypatch.setattr(hints_module, "KEYS_MOST", 5)

    async def scenario(world: World, a: Store, b: Store, c: Store) -> None:
        healers = Healers(world, a, b, c)
        healers.lose(c)
        for key in keys(20):
            await a.peer.put(b"missed", key)
        names = [await a.put(SMALL + b"%d" % number) for number in range(10)]
        hints = a.chunks.hints
        await until(lambda: hints.counts["dropped"] == 25)
        assert hints.total == hints.counts["kept"] == 5 and hints.dropped_at_s is not None
        healers.find()
        await until(lambda: healers.kept == 0)

        def missing() -> int:
            return sum(c.peer.holds(key) != b"missed" for key in keys(20)) + sum(
                not c.holds(n) for n in names
            )

        assert missing() == 25
        _running = [watch(store.peer, {one.peer.id for one in (a, b, c)}) for store in (a, b, c)]
        await until(lambda: missing() == 0, 300)
        assert all(c.references(name) == [b"attempt1"] for name in names)

    simulate_stores(scenario)
