"""A process that stores and acknowledges, to be killed or watched: `python -m tests.storage_child DIR COUNT ...`.

Each acknowledgement is one line on stdout, written with one write(2) after the store said durable:
`chunk NAME SEGMENT OFFSET LENGTH` or `row KEY VALUE`. The content is derived from a counter, so whoever
reads the lines can check every byte. COUNT 0 means until killed. Options switch a safeguard off, for
negative controls: `--no-row-sync`, `--no-data-sync`, `--no-directory-sync`.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from pathlib import Path

from blake3 import blake3

from peer.buffers import Buffer
from peer.storage.chunkfiles import ChunkFiles
from peer.storage.operations import ChunkOptions, Limits
from peer.storage.records import Extent
from peer.storage.sqlite import SqliteRows
from peer.storage.sqlite_files import SqliteOptions
from tests.storage_waiting import commit_wait

KIB = 1024
LIMITS = Limits(floor=0, smallest=512 * KIB, largest=512 * KIB, least=256 * KIB)


def payload_of(n: int) -> bytes:
    """The n-th chunk's bytes: 20 to 50 KB."""
    return blake3(n.to_bytes(8, "big")).digest(20_000 + n * 7919 % 30_000)


def chunk_rows(rows: SqliteRows) -> list[tuple[bytes, Extent]]:
    """Every (name, extent) that a row names."""
    found = rows.scan("chunks", b"", b"\xff" * 33, 1 << 30)
    return [(bytes(key), Extent.decode(value)) for key, value in found]  # type: ignore[arg-type]


def acknowledge(text: str) -> None:
    os.write(1, text.encode() + b"\n")


def work(rows: SqliteRows, files: ChunkFiles, start: int, step: int, count: int) -> None:
    """Store chunk and row number start, start + step, ... and acknowledge each."""
    buffer = Buffer(64 * KIB)
    n = start
    while not count or n < count:
        data = payload_of(n)
        buffer.payload(len(data))[:] = data
        name = blake3(data).digest()
        extent = files.append(buffer, len(data), name)
        commit_wait(rows, [("chunks", name, extent.encode()), ("side", n + 1, data[:4096])])
        files.named(extent)
        acknowledge(f"chunk {n} {name.hex()} {extent.segment} {extent.offset} {extent.length}")
        commit_wait(rows, [("rows", b"%08d" % n, name)])
        acknowledge(f"row {n} {name.hex()}")
        n += step


def main() -> None:
    directory, count, threads = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    switches = set(sys.argv[4:])
    (directory / "rows").mkdir(parents=True, exist_ok=True)
    loop = asyncio.new_event_loop()
    row_options = SqliteOptions(
        synchronous="OFF" if "--no-row-sync" in switches else "FULL", wal_soft_bytes=256 * KIB
    )
    rows = SqliteRows(directory / "rows" / "atoll.db", loop, options=row_options)
    chunk_options = ChunkOptions(
        limits=LIMITS,
        sync_data="--no-data-sync" not in switches,
        sync_directory="--no-directory-sync" not in switches,
    )
    files = ChunkFiles(directory / "segments", options=chunk_options)
    files.open(chunk_rows(rows), lambda *lost: acknowledge(f"lost {lost}"))
    acknowledge("ready")
    workers = [threading.Thread(target=work, args=(rows, files, n, threads, count)) for n in range(threads)]
    for worker in workers:
        worker.start()
    loop.call_later(0.01, lambda: None)
    ended = threading.Thread(
        target=lambda: [[w.join() for w in workers], loop.call_soon_threadsafe(loop.stop)]
    )
    ended.start()
    loop.run_forever()
    ended.join()
    rows.close()
    files.close()
    loop.close()


if __name__ == "__main__":
    main()
