"""What this machine gives without us, measured in the same run, so that ratios survive a noisy neighbour.

Three bare things the peers are built on: SQLite's group commit, an O_DIRECT append with its sync, and an
aiohttp server that answers from memory.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import sqlite3
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tools.bench.bodies import Bodies
from tools.bench.figures import APPEND, GROUP_COMMIT, HTTP_GET, HTTP_PUT
from tools.bench.load import Load
from tools.bench.sources import Get, Heads, Put
from tools.bench.target import BenchError, Peer, Target
from tools.bench.wire import Endpoint

GROUP = 64
ROW_BYTES = 4096
APPEND_BYTES = 4 << 20
FILE_BYTES = 1 << 30
SERVER_START_S = 20.0


@dataclass(frozen=True, slots=True)
class Floor:
    """One bare measurement: `amount` of `unit`, by the second and by the CPU second."""

    name: str
    unit: str
    per_s: float
    per_cpu_s: float
    note: str = ""


def group_commit(directory: Path, seconds: float) -> Floor:
    """Rows of 4 KiB committed 64 at a time, WAL, synchronous=FULL. Blocks; leaves no file. Raises OSError."""
    path = directory / "floor.db"
    body = os.urandom(ROW_BYTES)
    rows = 0
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as database:
            for setting in ("page_size=4096", "journal_mode=wal", "synchronous=full", "cache_size=-65536"):
                database.execute(f"pragma {setting}")
            database.execute("create table rows(k blob primary key, v blob) without rowid")
            database.execute("create table side(id integer primary key, v blob)")
            began, cpu = time.perf_counter(), time.thread_time()
            while time.perf_counter() - began < seconds:
                database.execute("begin immediate")
                keys = [os.urandom(8) + b"/v1/floor/%020d" % (rows + i) for i in range(GROUP)]
                database.executemany("insert into rows values(?,?)", [(key, body[:160]) for key in keys])
                database.executemany("insert into side(v) values(?)", [(body,)] * GROUP)
                database.execute("commit")
                rows += GROUP
            took, used = time.perf_counter() - began, time.thread_time() - cpu
    finally:
        for name in ("floor.db", "floor.db-wal", "floor.db-shm"):
            (directory / name).unlink(missing_ok=True)
    return Floor(GROUP_COMMIT, "rows", rows / took, rows / used)


def segment_append(directory: Path, seconds: float) -> Floor:
    """4 MiB appended with O_DIRECT and synced, one at a time. Blocks; leaves no file. Raises OSError."""
    path = directory / "floor.segment"
    flags, note = os.O_CREAT | os.O_RDWR, ""
    try:
        handle = os.open(path, flags | os.O_DIRECT, 0o600)
    except OSError:
        handle, note = os.open(path, flags, 0o600), "no O_DIRECT on this file system"
    try:
        os.posix_fallocate(handle, 0, FILE_BYTES)
        with mmap.mmap(-1, APPEND_BYTES) as block:
            block.write(os.urandom(1 << 20) * (APPEND_BYTES >> 20))
            written = offset = 0
            began, cpu = time.perf_counter(), time.thread_time()
            while time.perf_counter() - began < seconds:
                os.pwrite(handle, block, offset)
                os.fdatasync(handle)
                written += APPEND_BYTES
                offset = (offset + APPEND_BYTES) % FILE_BYTES
            took, used = time.perf_counter() - began, time.thread_time() - cpu
    finally:
        os.close(handle)
        path.unlink(missing_ok=True)
    return Floor(APPEND, "MB", written / took / 1e6, written / used / 1e6, note)


async def http_server(clients: int, seconds: float, deadline_s: float) -> list[Floor]:
    """Put and get of 4 KiB against a bare aiohttp server in a process of its own. Raises BenchError."""
    server = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        str(Path(__file__).with_name("floorserver.py")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert server.stdin is not None and server.stdout is not None
    try:
        async with asyncio.timeout(SERVER_START_S):
            line = await server.stdout.readline()
        if not line.strip().isdigit():
            raise BenchError("the bare HTTP server did not start")
        return await _measure_http(Endpoint("127.0.0.1", int(line)), clients, seconds, deadline_s)
    except TimeoutError:
        raise BenchError(f"the bare HTTP server did not start within {SERVER_START_S:g} s") from None
    finally:
        server.stdin.close()
        if server.returncode is None:
            server.kill()
        await server.wait()


async def _measure_http(endpoint: Endpoint, clients: int, seconds: float, deadline_s: float) -> list[Floor]:
    heads, bodies = Heads("floor", "floor", "floor"), Bodies("floor")
    target = Target([Peer("floor", endpoint, None)], [endpoint], heads, 4 << 20, "")
    floors = []
    for name in ("put", "get"):
        for measured in (False, True):
            sources: list[Put | Get] = [
                Put(heads, bodies, (f"{i}/{n}" for n in range(10**9)), ROW_BYTES)
                if name == "put"
                else Get(heads, bodies, ["x"], ROW_BYTES, verify=False)
                for i in range(clients)
            ]
            before = await target.cpu_s()
            one = await Load(deadline_s).run(
                sources, target.spread(clients), seconds if measured else seconds / 4
            )
            after = await target.cpu_s()
        if not one.ops or before is None or after is None:
            raise BenchError(f"the bare HTTP server did not answer: {dict(one.errors)}")
        floors.append(
            Floor(
                HTTP_PUT if name == "put" else HTTP_GET,
                "ops",
                one.ops / one.elapsed_s,
                one.ops / (after - before),
            )
        )
    return floors


async def measure(directory: Path, clients: int, seconds: float, deadline_s: float) -> list[Floor]:
    """All three, one after the other; files go to `directory` (it should lie on the peers' disk)."""
    disk = [
        await asyncio.to_thread(group_commit, directory, seconds),
        await asyncio.to_thread(segment_append, directory, seconds),
    ]
    return disk + await http_server(clients, seconds, deadline_s)
