"""What is special about SQLite behind `Rows`: groups, the log's size, pressure, a full disk, a dying one."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peer.errors import AtollError, Corrupt, Full, StartupError, Unavailable
from peer.storage.ballast import Plenty
from peer.storage.durable import EXIT_IO_ERROR
from peer.storage.rows import BYTES_TABLES, INT_TABLES
from peer.storage.sqlite import SqliteRows
from peer.storage.sqlite_files import APPLICATION_ID, SqliteOptions, Writer
from tests.storage_waiting import commit_wait


def unexpected(reason: str) -> None:
    raise AssertionError(reason)


def run(path: Path, body: Callable[[SqliteRows], Awaitable[None]], **options: Any) -> None:
    """Run `body` with an open database on a loop of its own."""

    async def main() -> None:
        rows = SqliteRows(path / "atoll.db", asyncio.get_running_loop(), **{"fatal": unexpected, **options})
        try:
            await body(rows)
        finally:
            rows.close()

    asyncio.run(main())


def committed(rows: SqliteRows, writes: list[Any]) -> asyncio.Future[AtollError | None]:
    future: asyncio.Future[AtollError | None] = asyncio.get_running_loop().create_future()
    rows.commit(writes, future.set_result)
    return future


WRITES = st.one_of(
    st.tuples(
        st.sampled_from(BYTES_TABLES),
        st.sampled_from([b"", b"a", b"b", b"\xff"]),
        st.none() | st.binary(max_size=9),
    ),
    st.tuples(st.sampled_from(INT_TABLES), st.integers(0, 3), st.none() | st.binary(max_size=9)),
)


@given(groups=st.lists(st.lists(st.lists(WRITES, max_size=6), max_size=5), max_size=5))
@settings(deadline=None, max_examples=60)
def test_groups_equal_writes_one_by_one(
    tmp_path_factory: pytest.TempPathFactory, groups: list[list[list[Any]]]
) -> None:
    """Folding a group to the last write of each key gives what a dictionary gives, write by write."""
    path = tmp_path_factory.mktemp("rows") / "atoll.db"
    writer = Writer(path, SqliteOptions(synchronous="OFF"))
    model: dict[str, dict[Any, bytes]] = {table: {} for table in (*BYTES_TABLES, *INT_TABLES)}
    for group in groups:
        writer.write(group)
        for table, key, value in (write for batch in group for write in batch):
            if value is None:
                model[table].pop(key, None)
            else:
                model[table][key] = value
    connection = sqlite3.connect(path)
    for table, expected in model.items():
        assert dict(connection.execute(f"select k, v from {table}")) == expected
    assert connection.execute("select sequence from commits").fetchone() == (len(groups),)
    connection.close()
    writer.close()


def test_many_rows_of_one_batch(tmp_path: Path) -> None:
    """Batches larger than one statement are written and deleted whole."""

    async def body(rows: SqliteRows) -> None:
        keys = [b"%05d" % n for n in range(1000)]
        await committed(rows, [("rows", key, key * 2) for key in keys])
        assert rows.scan("rows", b"", b"z", 2000) == [(key, key * 2) for key in keys]
        await committed(rows, [("rows", key, None) for key in keys[:999]])
        assert rows.scan("rows", b"", b"z", 2000) == [(keys[999], keys[999] * 2)]

    run(tmp_path, body)


def test_what_is_queued_shares_a_commit(tmp_path: Path) -> None:
    """Group commit: hundreds of batches queued together take few transactions, one sequence number each."""

    async def body(rows: SqliteRows) -> None:
        await asyncio.gather(*[committed(rows, [("rows", b"%d" % n, b"v")]) for n in range(500)])
        stats = rows.stats
        assert stats["batches"] == 500
        assert stats["groups"] == rows.sequence < 100

    run(tmp_path, body)


def test_the_log_stays_bounded_and_can_be_lost_after_a_close(tmp_path: Path) -> None:
    """Checkpoints beside the writer keep the log near its soft limit under steady writes."""
    options = SqliteOptions(wal_soft_bytes=1 << 20, wal_rest_bytes=128 << 10, wal_hard_bytes=4 << 20)

    async def body(rows: SqliteRows) -> None:
        largest = 0
        for n in range(150):
            writes = [("side", n * 16 + i, bytes(8192)) for i in range(16)]  # 128 KiB: 19 MiB in all
            await committed(rows, [*writes, ("rows", b"%d" % n, b"v")])
            largest = max(largest, (tmp_path / "atoll.db-wal").stat().st_size)
        assert rows.stats["checkpoints"] > 2
        assert largest < 6 << 20

    run(tmp_path, body, options=options)
    assert not (tmp_path / "atoll.db-wal").exists(), "a proper close leaves everything in the database"


def test_pressure_is_visible_and_the_queue_bounded(tmp_path: Path) -> None:
    """P8, R8: beyond the soft limit `congested`, beyond the hard one commits fail: in their turn, and with all that may
    have been computed from them."""
    options = SqliteOptions(queue_soft_batches=5, queue_hard_batches=10)

    async def body(rows: SqliteRows) -> None:
        rows._stalled = True  # the writer takes nothing meanwhile
        futures = [committed(rows, [("rows", b"%d" % n, b"v")]) for n in range(10)]
        assert rows.congested
        assert rows.saturated
        told: list[int] = []
        for n, future in enumerate(futures):
            future.add_done_callback(lambda _, n=n: told.append(n))
        too_many = [committed(rows, [("rows", b"one too many", b"v")]) for _ in range(3)]
        too_many[0].add_done_callback(lambda _: told.append(99))
        with rows._lock:
            rows._stalled = False
            rows._work.notify()
        assert await asyncio.gather(*futures) == [None] * 10
        errors = await asyncio.gather(*too_many)
        assert all(type(error) is Unavailable for error in errors)
        assert told == [*range(10), 99]
        assert not rows.congested and not rows.saturated
        assert rows.get("rows", b"one too many") is None
        assert rows.stats["refused"] == 3
        assert await committed(rows, [("rows", b"later", b"v")]) is None

    run(tmp_path, body, options=options)


def test_wrong_keys_are_refused_in_the_callers_thread(tmp_path: Path) -> None:
    """A defect of a caller must not end the writer: key types and tables are checked on entry."""

    async def body(rows: SqliteRows) -> None:
        for table, key in (("rows", 1), ("rows", "text"), ("side", b"1"), ("side", True)):
            with pytest.raises(TypeError):
                rows.commit([(table, key, b"")], lambda _: None)  # type: ignore[list-item]
        with pytest.raises(KeyError):
            rows.commit([("no such", b"k", b"")], lambda _: None)
        assert await committed(rows, [("rows", b"k", b"v")]) is None

    run(tmp_path, body)


def test_a_failing_callback_stops_no_other(tmp_path: Path) -> None:
    """As in asyncio: an exception in one callback goes to the loop's handler, the rest are called."""

    async def body(rows: SqliteRows) -> None:
        failures: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))

        def fail(_: AtollError | None) -> None:
            raise RuntimeError("defect above")

        rows.commit([("rows", b"a", b"")], fail)
        await committed(rows, [("rows", b"b", b"")])
        assert [str(f["exception"]) for f in failures] == ["defect above"]

    run(tmp_path, body)


def test_threads_commit_and_read(tmp_path: Path) -> None:
    """Many threads commit at once: each is told after its batch is durable and readable."""

    async def body(rows: SqliteRows) -> None:
        def work(n: int) -> None:
            for i in range(20):
                key = b"%d/%d" % (n, i)
                commit_wait(rows, [("chunks", key, key)])
                assert rows.get("chunks", key) == key

        await asyncio.gather(*[asyncio.to_thread(work, n) for n in range(8)])
        assert len(rows.scan("chunks", b"", b"z", 999)) == 160

    run(tmp_path, body)


def test_a_full_disk_fails_what_is_queued_and_then_goes_on(tmp_path: Path) -> None:
    """SQLITE_FULL rolls back; afterwards small commits go through again."""

    async def body(rows: SqliteRows) -> None:
        await committed(rows, [("rows", b"old", b"v")])
        rows._writer.limit_pages(rows._writer.pages())
        big = [("side", n, bytes(16384)) for n in range(20)]
        with pytest.raises(Full):
            await asyncio.to_thread(commit_wait, rows, big)
        first, second = committed(rows, big), committed(rows, [("rows", b"new", b"v")])
        assert isinstance(await first, Full)
        await second  # Full if it was queued by then, else committed alone
        assert await committed(rows, [("rows", b"old", None)]) is None
        assert rows.get("rows", b"old") is None and rows.get("side", 0) is None
        assert rows.stats["full"] >= 2

    run(tmp_path, body)


def test_ballast_is_given_up_before_anyone_hears_full(tmp_path: Path) -> None:
    """What watches the space may make room: then the group is tried again and nobody notices."""

    async def body(rows: SqliteRows) -> None:
        nonlocal make_room
        make_room = lambda: rows._writer.limit_pages(0)  # noqa: E731
        await committed(rows, [("rows", b"old", b"v")])
        rows._writer.limit_pages(rows._writer.pages())
        assert await committed(rows, [("side", n, bytes(16384)) for n in range(20)]) is None

    make_room: Callable[[], None] = lambda: None  # noqa: E731

    class Held(Plenty):
        def release(self) -> bool:
            make_room()
            return True

    run(tmp_path, body, space=Held())


def test_a_really_full_file_system(tmp_path: Path) -> None:
    """ENOSPC on a small tmpfs: Full, nothing changed, and deleting makes room for the next commit."""
    mount = tmp_path / "small"
    mount.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(mount)], capture_output=True)
    if made.returncode:
        pytest.skip("mounting a small tmpfs needs root")
    filler = mount / "filler"

    async def body(rows: SqliteRows) -> None:
        assert await committed(rows, [("rows", b"old", b"v")]) is None
        error = None
        for n in range(100):
            error = await committed(rows, [("side", 64 * n + i, bytes(4096)) for i in range(64)])
            if error is not None:
                break
        assert isinstance(error, Full)
        assert rows.get("side", 64 * n) is None and rows.get("rows", b"old") == b"v"
        filler.unlink()
        assert await committed(rows, [("rows", b"old", None)]) is None
        assert rows.get("rows", b"old") is None

    try:
        filler.write_bytes(bytes(2 << 20))
        run(mount, body)
        run(mount, lambda rows: check_sequence(rows))
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


async def check_sequence(rows: SqliteRows) -> None:
    assert rows.sequence >= 2 and rows.get("rows", b"old") is None


def test_any_other_error_ends_the_process(tmp_path: Path) -> None:
    """R7: an I/O error in a commit is logged and the process leaves with 70; nothing is acknowledged."""
    program = f"""
import asyncio, resource, signal
from pathlib import Path
from peer.storage.sqlite import SqliteRows
async def main():
    rows = SqliteRows(Path({str(tmp_path / "atoll.db")!r}), asyncio.get_running_loop())
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))  # writes beyond fail with EFBIG
    while True:
        done = asyncio.get_running_loop().create_future()
        rows.commit([("side", rows.sequence, bytes(65536))], done.set_result)
        assert await done is None, "acknowledged with an error instead"
asyncio.run(main())
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert ended.returncode == EXIT_IO_ERROR, ended.stderr
    assert b"ending the process" in ended.stderr


def test_a_dead_writer_is_fatal(tmp_path: Path) -> None:
    """Anything unforeseen in the writer's thread is reported to `fatal`, never swallowed."""
    reasons: list[str] = []
    told = threading.Event()

    def fatal(reason: str) -> None:
        reasons.append(reason)
        told.set()

    async def body(rows: SqliteRows) -> None:
        rows.commit([("side", 1 << 70, b"")], lambda _: None)  # does not fit SQLite's integers
        assert await asyncio.to_thread(told.wait, 30)
        with pytest.raises(Unavailable):
            rows.commit([("side", 1, b"")], lambda _: None)

    run(tmp_path, body, fatal=fatal)
    assert len(reasons) == 1 and "writer" in reasons[0]


def test_files_that_are_no_database(tmp_path: Path) -> None:
    """Garbage is Corrupt (amnesia, not a crash), another program's database too; a directory cannot start."""
    loop = asyncio.new_event_loop()
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"no database " * 1000)
    with pytest.raises(Corrupt):
        SqliteRows(garbage, loop)
    foreign = tmp_path / "foreign.db"
    connection = sqlite3.connect(foreign)
    connection.execute("create table t(x)")
    connection.close()
    with pytest.raises(Corrupt, match="not one of a peer"):
        SqliteRows(foreign, loop)
    newer = tmp_path / "newer.db"
    connection = sqlite3.connect(newer)
    connection.execute(f"pragma application_id = {APPLICATION_ID}")
    for version, age in ((99, "a newer"), (1, "an older")):
        connection.execute(f"pragma user_version = {version}")
        with pytest.raises(
            StartupError, match=rf"{age} version of Atoll \(format {version}, .*empty directory"
        ):
            SqliteRows(newer, loop)
    connection.close()
    with pytest.raises(StartupError, match="cannot open"):
        SqliteRows(tmp_path / "no such directory" / "x.db", loop)
    loop.close()


def test_a_damaged_page_is_corrupt_when_read(tmp_path: Path) -> None:
    """Reading a row from a damaged page raises Corrupt and the store goes on with other rows."""

    async def fill(rows: SqliteRows) -> None:
        await committed(rows, [("side", n, b"%04d" % n * 250) for n in range(400)])

    run(tmp_path, fill)
    path = tmp_path / "atoll.db"
    data = bytearray(path.read_bytes())
    page = data.index(b"0200" * 250) // 4096 * 4096
    data[page : page + 16] = b"\xff" * 16
    path.write_bytes(data)

    told: list[str] = []

    async def body(rows: SqliteRows) -> None:
        with pytest.raises(Corrupt):
            rows.get("side", 200)
        assert rows.get("side", 0) == b"0000" * 250
        assert len(told) == 1 and "is damaged" in told[0] and not rows.dead

    run(tmp_path, body, damaged=told.append)


def test_a_commit_that_meets_a_damaged_page_is_told(tmp_path: Path) -> None:
    """Goal: it is no I/O error, after which the process would end: the owner is told, and nothing is committed any more."""

    async def fill(rows: SqliteRows) -> None:
        await committed(rows, [("side", n, b"%04d" % n * 250) for n in range(400)])

    run(tmp_path, fill)
    path = tmp_path / "atoll.db"
    data = bytearray(path.read_bytes())
    page = data.index(b"0200" * 250) // 4096 * 4096
    data[page : page + 16] = b"\xff" * 16
    path.write_bytes(data)
    told = threading.Event()

    async def body(rows: SqliteRows) -> None:
        rows.commit([("side", 200, b"new")], lambda _: None)
        assert await asyncio.to_thread(told.wait, 30)
        assert rows.dead
        with pytest.raises(Unavailable):
            rows.commit([("side", 1, b"")], lambda _: None)

    run(tmp_path, body, damaged=lambda reason: told.set())


def test_values_of_another_type_are_corrupt(tmp_path: Path) -> None:
    """Goal: a flipped bit in a record's header makes a blob a text, a number or nothing: never a TypeError later."""

    async def body(rows: SqliteRows) -> None:
        await committed(rows, [("rows", b"%d" % n, b"\xff value") for n in range(4)] + [("side", 1, b"side")])
        with closing(sqlite3.connect(tmp_path / "atoll.db")) as connection:
            for n, value in enumerate(("cast(v as text)", "17", "1.5")):
                connection.execute(f"update rows set v = {value} where k = ?", (b"%d" % n,))
            connection.execute("update side set v = 9")
            connection.commit()
        assert rows.get("rows", b"0") == b"\xff value", "the same bytes"
        assert rows.scan("rows", b"0", b"1", 9) == [(b"0", b"\xff value")]
        for key in (b"1", b"2"):
            with pytest.raises(Corrupt, match="another type"):
                rows.get("rows", key)
        with pytest.raises(Corrupt, match="another type"):
            rows.scan("rows", b"0", b"9", 9)
        with pytest.raises(Corrupt, match="another type"):
            rows.get("side", 1)
        with closing(sqlite3.connect(tmp_path / "atoll.db")) as connection:
            connection.execute("update rows set k = 5 where k = ?", (b"3",))
            connection.execute("delete from rows where typeof(k) = 'blob'")
            connection.commit()
        with pytest.raises(Corrupt, match="another type"):
            rows.last("rows")

    run(tmp_path, body)


def test_a_reader_that_cannot_open_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: no descriptor or memory left is an error to retry, not SQLite's own; a disk that fails is damage."""

    async def body(rows: SqliteRows) -> None:
        codes = {sqlite3.SQLITE_CANTOPEN: Unavailable, sqlite3.SQLITE_IOERR_READ: Corrupt}
        for code, kind in codes.items():

            def no_reader(path: Path, options: SqliteOptions, code: int = code) -> sqlite3.Connection:
                error = sqlite3.OperationalError("cannot")
                error.sqlite_errorcode = code
                raise error

            rows._readers._spare.clear()
            monkeypatch.setattr("peer.storage.sqlite_files.reader", no_reader)
            with pytest.raises(kind, match="cannot read its metadata in"):
                rows.get("rows", b"k")
            monkeypatch.undo()
        assert rows.get("rows", b"k") is None

    run(tmp_path, body)


def test_a_busy_writer_gathers_and_a_lone_client_never_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only after a group of some size does the writer wait, once, and what comes meanwhile joins the next group."""
    waited: list[float] = []

    async def body(rows: SqliteRows) -> None:
        loop = asyncio.get_running_loop()
        joined: list[asyncio.Future[AtollError | None]] = []

        def meanwhile(delay_s: float) -> None:
            waited.append(delay_s)
            ready = threading.Event()

            def commit() -> None:
                joined.append(committed(rows, [("rows", b"b", b"2")]))
                ready.set()

            loop.call_soon_threadsafe(commit)
            assert ready.wait(30)

        monkeypatch.setattr("peer.storage.sqlite.time.sleep", meanwhile)
        for _ in range(3):
            assert await committed(rows, [("rows", b"a", b"1")]) is None
        assert waited == []
        before = rows.stats["groups"]
        rows._last_group = 5
        assert await committed(rows, [("rows", b"a", b"1")]) is None
        assert len(waited) == 1
        assert await joined[0] is None
        assert rows.stats["groups"] == before + 1
        assert rows.get("rows", b"b") == b"2"

    run(tmp_path, body, options=SqliteOptions(gather_from=2))
