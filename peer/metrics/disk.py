"""The disk of a peer, what lies on it, and the buffers that chunks pass through."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peer.storage.gauge import Gauge

from .cluster import FLAGS
from .families import Families, counter, counters, each, gauge, gauges, histogram

if TYPE_CHECKING:
    from peer.buffers import BufferPool
    from peer.process import Peer
    from peer.storage.datadir import DataDir


def families(peer: Peer) -> Families:
    yield from _behaviour(peer)
    yield from _rows(peer)
    yield from _segments(peer)
    yield from of_buffers([peer.client_pool, peer.replica_pool, peer.serve_pool])


def of_space(peer: Peer, directory: DataDir) -> Families:
    """Room there is, and what it is used for."""
    files = peer.files.stats
    capacity = peer.config.capacity_bytes or directory.total_bytes
    for name, text, value in (
        ("used", "Bytes of live chunks, whole records.", files["live_bytes"]),
        ("capacity", "Bytes this peer may hold (--capacity), or the size of its file system.", capacity),
        (
            "free",
            "Bytes free in the file system of the chunks, when last looked at (every 5 s).",
            files["free_bytes"],
        ),
        ("floor", "Free bytes below which new chunks are refused.", directory.floor_bytes),
        ("total", "Size of the file system of the chunks.", directory.total_bytes),
        ("dying", "Bytes of chunks that nothing names any more, not given back yet.", files["dying_bytes"]),
        ("preallocated", "Bytes held for what is written next.", files["preallocated_bytes"]),
    ):
        yield gauge(f"atoll_disk_{name}_bytes", text, value)


def _behaviour(peer: Peer) -> Families:
    flags = peer.vitals.flags
    yield gauges(
        "atoll_peer_flag",
        "1 while this peer says so of itself: full, slow or read-only disk, blocked event loop.",
        ["flag"],
        each({flag: float(flag in flags) for flag in FLAGS}),
    )
    disks: dict[str, Gauge] = {"rows": peer.vitals.rows}
    if peer.vitals.segments is not peer.vitals.rows:
        disks["segments"] = peer.vitals.segments
    yield histogram(
        "atoll_disk_operation_duration_seconds",
        "Seconds of each commit of the database, sync of a segment, and write to one; `disk` is `rows` for both if they"
        " share one.",
        ["disk", "operation"],
        (((disk, what), took) for disk, one in disks.items() for what, took in one.took.items()),
    )


def _rows(peer: Peer) -> Families:
    rows = peer.rows.stats
    for name, text, key in (
        ("commits", "Commits of the database, each of everything that waited.", "groups"),
        ("batches", "Batches committed; many share a commit.", "batches"),
        ("written", "Rows written.", "rows"),
        ("checkpoints", "Times the database's log was copied into it.", "checkpoints"),
    ):
        yield counter(f"atoll_rows_{name}", text, rows[key])
    yield counters(
        "atoll_rows_refused",
        "Batches or commits refused: the disk is full, is read-only, or too many wait.",
        ["reason"],
        each({"full": rows["full"], "read_only": rows["read_only"], "congested": rows["refused"]}),
    )
    yield gauge("atoll_rows_queued_batches", "Batches that wait to be committed.", rows["queued_batches"])
    yield gauge("atoll_rows_queued_bytes", "Bytes that wait to be committed.", rows["queued_bytes"])
    yield gauge("atoll_rows_log_bytes", "Length of the database's log.", rows["wal_bytes"])


def _segments(peer: Peer) -> Families:
    files = peer.files.stats
    yield gauge("atoll_segments_files", "Files that hold chunks.", files["segments"])
    yield gauge("atoll_segments_chunks", "Chunks held.", files["live_count"])
    for name, text, key in (
        ("appends", "Chunks appended.", "appends"),
        ("appended_bytes", "Bytes of chunks appended.", "append_bytes"),
        ("syncs", "Syncs; appends at once share one.", "syncs"),
        ("reads", "Chunks read.", "reads"),
        ("read_bytes", "Bytes of chunks read.", "read_bytes"),
        ("corrupt_reads", "Reads that found a chunk damaged.", "corrupt"),
        ("punched_bytes", "Bytes given back to the file system.", "punched_bytes"),
    ):
        yield counter(f"atoll_segments_{name}", text, files[key])


def of_buffers(pools: list[BufferPool]) -> Families:
    """The pools of buffers that bound a peer's memory."""
    stats = [pool.stats for pool in pools]
    for name, text in (
        ("bound", "Buffers a pool may lend."),
        ("lent", "Buffers lent now."),
        ("waiting", "Requests that wait for a buffer now."),
    ):
        yield gauges(
            f"atoll_buffers_{name}", text, ["pool"], (((one.name,), getattr(one, name)) for one in stats)
        )
    for name, text in (
        ("waits", "Times somebody had to wait for a buffer."),
        ("timeouts", "Times somebody waited in vain."),
    ):
        yield counters(
            f"atoll_buffers_{name}", text, ["pool"], (((one.name,), getattr(one, name)) for one in stats)
        )
