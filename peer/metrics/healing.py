"""What a peer does by itself to come back to full health, and what it still lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .families import Families, counter, counters, each, gauge, gauges

if TYPE_CHECKING:
    from peer.process import Peer
    from peer.replication.workers import Status

HINTS = ("kept", "delivered", "dropped")


def families(peer: Peer) -> Families:
    yield from of_workers(peer.healing.workers.statuses())
    yield from _hints(peer)
    yield from _lacking(peer)
    replica, chunks = peer.replica, peer.chunks
    for part, counts in (
        ("register", replica.registers.counts),
        ("scan", replica.scans.counts),
        ("chunk", chunks.counts),
        ("copy", chunks.holder.counts),
    ):
        counted = {name: count for name, count in counts.items() if not name.endswith("_bytes")}
        yield counters(f"atoll_{part}_events", _EVENTS[part], ["event"], each(counted))
    yield counter(
        "atoll_copy_removed_bytes",
        "Bytes of chunks that this peer let go.",
        chunks.holder.counts["removed_bytes"],
    )


_EVENTS = {
    "register": "What this peer did as the coordinator of reads and changes of metadata.",
    "scan": "What this peer did as the coordinator of listings.",
    "chunk": "What this peer did as the coordinator of reads and writes of chunks.",
    "copy": "What happened to the copies of chunks that this peer holds.",
}


def of_workers(statuses: list[Status]) -> Families:
    """The background workers of this peer."""
    label = ["worker"]
    yield gauges(
        "atoll_worker_queue_items", "Items that wait for a worker, as far as they are known.", label,
        (((one.name,), one.queue) for one in statuses),
    )  # fmt: skip
    yield gauges(
        "atoll_worker_oldest_item_age_seconds", "Age of the oldest item that waits; 0 when none does.", label,
        (((one.name,), one.oldest_s or 0.0) for one in statuses),
    )  # fmt: skip
    yield counters(
        "atoll_worker_items",
        "Items a worker has finished.",
        label,
        (((one.name,), one.done) for one in statuses),
    )
    yield counters(
        "atoll_worker_moved_bytes",
        "Bytes a worker has moved.",
        label,
        (((one.name,), one.bytes) for one in statuses),
    )
    for state, text in (
        ("failing", "1 while a worker's last step has failed; it is tried again by itself."),
        ("paused", "1 while an operator has paused a worker."),
    ):
        yield gauges(
            f"atoll_worker_{state}",
            text,
            label,
            (((one.name,), float(one.state == state)) for one in statuses),
        )


def _hints(peer: Peer) -> Families:
    hints = peer.chunks.hints
    owing = hints.owing()
    yield gauge(
        "atoll_hints_waiting", "Changes that missed an owner, and are kept here for it.", sum(owing.values())
    )
    yield gauge("atoll_hints_targets", "Members that such changes are kept for here.", len(owing))
    yield counters(
        "atoll_hints", "Such changes kept, delivered, and dropped for want of room.", ["event"],
        each({name: hints.counts.get(name, 0) for name in HINTS}),
    )  # fmt: skip


def _lacking(peer: Peer) -> Families:
    told = peer.healing.info()
    for name, text in (
        ("behind", "1 while this peer may lack what was written when it was away."),
        (
            "recovering",
            "1 while this peer merges what the survivors of a lost majority hold, and votes on nothing.",
        ),
    ):
        yield gauge(f"atoll_repair_{name}", text, float(told[name]))
    for name, text in (
        ("merging", "Partitions whose registers this peer still has to merge, as their new owner."),
        ("fetching", "Partitions whose chunks this peer still has to fetch."),
    ):
        yield gauge(f"atoll_repair_{name}_partitions", text, told[name])
    yield gauge(
        "atoll_repair_missing_chunks", "Chunks that no owner could give when last asked.", told["missing"]
    )
    yield gauge(
        "atoll_repair_damaged_chunks", "Chunks that lie here only damaged, or are lost.", told["damaged"]
    )
    yield gauge("atoll_repair_damaged_rows", "Rows of metadata that are damaged here.", told["damaged_rows"])
    yield gauge(
        "atoll_objects_held", "Heads of objects held here, of the partitions counted so far.", told["objects"]
    )
    yield gauge(
        "atoll_repair_compared_age_seconds",
        "How old the last comparison with all other owners is; NaN before the first.",
        told["compared_s"] if told["compared_s"] is not None else float("nan"),
    )
