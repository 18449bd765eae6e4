"""Real processes: SIGKILL loses nothing acknowledged, and no acknowledgement precedes its fsync.

SIGKILL keeps the kernel's page cache, so the second half watches the system calls: `judge` reads a trace
and says which acknowledgement was written while something it depends on was not yet synced.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from blake3 import blake3

from peer.buffers import Buffer
from peer.storage.chunkfiles import ChunkFiles
from peer.storage.operations import ChunkOptions
from peer.storage.records import Extent
from peer.storage.sqlite import SqliteRows
from tests import storage_child as child

ROOT = Path(__file__).parent.parent
NEEDS_STRACE = pytest.mark.skipif(not shutil.which("strace"), reason="strace: install with: make test-deps")


def command(directory: Path, count: int, threads: int, *switches: str) -> list[str]:
    return [sys.executable, "-m", "tests.storage_child", str(directory), str(count), str(threads), *switches]


def run_and_kill(directory: Path, acknowledgements: int) -> list[str]:
    """Start the child, SIGKILL it after so many acknowledgements; all lines it wrote."""
    process = subprocess.Popen(command(directory, 0, 3), stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    lines: list[str] = []
    try:
        for line in process.stdout:
            lines.append(line.decode().rstrip("\n"))
            if len(lines) == acknowledgements:
                process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert process.returncode == -signal.SIGKILL
    return lines


def unexpected(reason: str) -> None:
    raise AssertionError(reason)


def check_everything(directory: Path, acknowledged: set[str]) -> int:
    """Open what is left; every acknowledged chunk and row must be there, every named chunk whole."""
    loop = asyncio.new_event_loop()
    rows = SqliteRows(directory / "rows" / "atoll.db", loop, fatal=unexpected)
    files = ChunkFiles(directory / "segments", options=ChunkOptions(limits=child.LIMITS), fatal=unexpected)
    lost: list[object] = []
    named = child.chunk_rows(rows)
    report = files.open(named, lambda *row: lost.append(row))
    buffer = Buffer(64 * child.KIB)
    try:
        assert lost == [] and report.named == len(named)
        for name, extent in named:
            assert blake3(buffer.payload(files.read(extent, name, buffer))).digest() == name
        held = dict(named)
        for line in acknowledged:
            kind, number, name_hex, *place = line.split()
            data, name = child.payload_of(int(number)), bytes.fromhex(name_hex)
            if kind == "chunk":
                # A restarted child stores the same content again: the row may name a later copy.
                assert held[name] >= Extent(*map(int, place))
                assert bytes(buffer.payload(files.read(held[name], name, buffer))) == data
                assert rows.get("side", int(number) + 1) == data[:4096]
            else:
                assert rows.get("rows", b"%08d" % int(number)) == name
        for segment in files.segments():
            assert {(n, e) for n, e in named if e.segment == segment} <= set(files.scan(segment, buffer))
        return len(named)
    finally:
        files.close()
        rows.close()
        loop.close()


def test_sigkill_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """Killed three times in a row while storing, a process finds every acknowledged chunk and row again."""
    acknowledged: set[str] = set()
    for after in (40, 120, 90):
        lines = run_and_kill(tmp_path, after)
        assert not [line for line in lines if line.startswith("lost")]
        acknowledged |= {line for line in lines if line.startswith(("chunk", "row"))}
        assert check_everything(tmp_path, acknowledged) > 0


# --- watching the system calls ---

CALL = re.compile(r"^(?P<pid>\d+) +(?P<call>\w+)\((?P<args>.*)\) += (?P<result>-?\d+)")
UNFINISHED = re.compile(r"^(?P<pid>\d+) +(?P<call>\w+)\((?P<args>.*) <unfinished \.\.\.>$")
RESUMED = re.compile(r"^(?P<pid>\d+) +<\.\.\. \w+ resumed>(?P<args>.*)\) += (?P<result>-?\d+)")
PATH = re.compile(r"^(?:AT_FDCWD[^,]*, )?(?:\d+)?<?\"?(?P<path>[^>\",]+)")


def judge(trace: Sequence[str]) -> list[str]:
    """Acknowledgements that came too early, as sentences; strace must run with -f -y.

    A file is dirty from the end of a write on; a sync cleans it of what was written before the sync
    began. A directory is dirty when a file is written whose name in it is newer than the directory's
    last sync (one created ahead, and not written yet, holds nothing acknowledged). Both must be clean
    when an acknowledgement is written. (One thread, so that all that was written belongs to the next one.)
    """
    dirty: dict[str, int] = {}  # path -> number of the line that dirtied it last
    named: dict[str, int] = {}  # path -> where its name was created, until its directory is synced
    begun: dict[str, tuple[int, str]] = {}  # pid -> where its unfinished call began, and its text
    early: list[str] = []
    for number, line in enumerate(trace):
        if match := UNFINISHED.match(line):
            begun[match["pid"]] = (number, f"{match['call']}({match['args']}")
            continue
        start = number
        if match := RESUMED.match(line):
            start, text = begun.pop(match["pid"], (number, ""))
            line = f"{match['pid']} {text}{match['args']}) = {match['result']}"
        if not (match := CALL.match(line)) or int(match["result"]) < 0:
            continue
        call, args = match["call"], match["args"]
        found = PATH.match(args)
        path = found["path"] if found else ""
        if call in ("write", "pwrite64") and re.match(r'1<[^>]*>, "(chunk|row) ', args):
            early += [f"{args[:60]}: {name} is not synced" for name in dirty]
            dirty.clear()
        elif call in ("pwrite64", "write", "pwritev") and path.endswith(("-wal", ".open")):
            dirty[path] = number
            if path in named:
                dirty[str(Path(path).parent)] = number
        elif call == "openat" and "O_CREAT" in args and path.endswith(".open"):
            named[path] = number
        elif call in ("fdatasync", "fsync"):
            if dirty.get(path, start) < start:
                del dirty[path]
            named = {n: at for n, at in named.items() if at >= start or str(Path(n).parent) != path}
    return early


def traced(directory: Path, *switches: str) -> list[str]:
    """The child's system calls while it stores 40 chunks and rows in one thread."""
    output = directory / "trace"
    store = directory / "store"
    calls = "trace=write,pwrite64,pwritev,openat,fsync,fdatasync"
    subprocess.run(
        ["strace", "-f", "-y", "-s", "64", "-e", calls, "-o", str(output), *command(store, 40, 1, *switches)],
        check=True,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        timeout=120,
    )
    return output.read_text(errors="replace").splitlines()


@NEEDS_STRACE
def test_no_acknowledgement_precedes_its_sync(tmp_path: Path) -> None:
    """P2: at every acknowledgement log, segment and a new segment's directory entry are synced."""
    trace = traced(tmp_path)
    assert judge(trace) == []
    acknowledged = [line for line in trace if re.search(r'1<[^>]*>, "(chunk|row) ', line)]
    assert len(acknowledged) == 80
    synced = " ".join(line for line in trace if "sync(" in line)
    assert ".open>" in synced and "-wal>" in synced and "/segments>" in synced


@NEEDS_STRACE
@pytest.mark.parametrize(
    ("switch", "culprit"),
    [("--no-row-sync", "-wal"), ("--no-data-sync", ".open"), ("--no-directory-sync", "/segments")],
)
def test_the_judge_sees_a_missing_sync(tmp_path: Path, switch: str, culprit: str) -> None:
    """Negative controls: with one sync left out the same judge names what was acknowledged too early."""
    early = judge(traced(tmp_path, switch))
    assert early
    assert {line.split(": ")[1].split(" is ")[0].endswith(culprit) or culprit in line for line in early} == {
        True
    }
