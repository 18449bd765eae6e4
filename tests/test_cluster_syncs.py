"""P2 on real peers, watched through their system calls: no answer 200 to a put precedes the syncs that cover it.

SIGKILL keeps the kernel's page cache, so killing peers cannot show this. `early` reads the traces of all live owners of
the cluster (times on one clock: a call's end is when it had returned, an answer's begin is before it was written) and
says which acknowledgement came too early; the same judge must object when a sync is left out.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster_tools import content, wait_until
from tests.cluster_world import ClusterWorld
from tests.test_storage_crash import CALL, PATH, RESUMED, UNFINISHED

pytestmark = pytest.mark.skipif(not shutil.which("strace"), reason="strace: install with: make test-deps")

CALLS = "trace=read,recvfrom,recvmsg,write,writev,sendto,sendmsg,pwrite64,pwritev,openat,fsync,fdatasync"
STAMP = re.compile(r"^(?P<pid>\d+) +(?P<begin>\d+\.\d+) (?P<rest>.*)$")
TOOK = re.compile(r"<(?P<took>\d+\.\d+)>$")
RECEIVES = ("read", "recvfrom", "recvmsg")
SENDS = ("write", "writev", "sendto", "sendmsg")
WRITES = ("write", "pwrite64", "pwritev")
SYNCS = ("fsync", "fdatasync")
SMALL, CHUNKED = 700, 150_000


@dataclass(frozen=True)
class Event:
    """One system call that succeeded, on the file or socket `path`."""

    call: str
    path: str
    args: str
    begin_s: float
    end_s: float


@dataclass(frozen=True)
class Put:
    """A put as its coordinator saw it: the request arrived, the answer left."""

    key: str
    arrived_s: float
    answered_s: float


def strace(output: Path) -> list[str]:
    """The words to run a peer under; -D: the process that is started becomes the peer, not strace."""
    program = shutil.which("strace")
    assert program is not None
    return [
        program,
        "-D",
        "-f",
        "--seccomp-bpf",
        "-y",
        "-ttt",
        "-T",
        "-s",
        "64",
        "-e",
        CALLS,
        "-o",
        str(output),
    ]


def events(trace: Sequence[str]) -> Iterator[Event]:
    """The calls of a trace that returned, each once."""
    begun: dict[str, tuple[float, str]] = {}
    for line in trace:
        stamp = STAMP.match(line)
        if stamp is None:
            continue
        begin_s, text = float(stamp["begin"]), f"{stamp['pid']} {stamp['rest']}"
        if match := UNFINISHED.match(text):
            begun[match["pid"]] = begin_s, f"{match['call']}({match['args']}"
            continue
        if match := RESUMED.match(text):
            begin_s, start = begun.pop(match["pid"], (begin_s, ""))
            text = f"{match['pid']} {start}{text[match.start('args') :]}"
        took = TOOK.search(text)
        if not (match := CALL.match(text)) or took is None or int(match["result"]) < 0:
            continue
        found = PATH.match(match["args"])
        path = found["path"] if found else ""
        yield Event(match["call"], path, match["args"], begin_s, begin_s + float(took["took"]))


def puts(trace: Sequence[Event]) -> list[Put]:
    """Every put of an object that was answered 200."""
    asked: dict[str, tuple[str, float]] = {}
    found: list[Put] = []
    for event in trace:
        if event.call in RECEIVES and (match := re.search(r'"PUT (\S+/objects/\S+) HTTP', event.args)):
            asked[event.path] = match[1], event.begin_s
        elif event.call in SENDS and event.path in asked and '"HTTP/1.1 200' in event.args:
            found.append(Put(*asked.pop(event.path), event.begin_s))
    return found


def early(trace: Sequence[Event], put: Put, chunked: bool) -> list[str]:
    """What this peer had not synced when the put was answered, as sentences."""
    during = [e for e in trace if put.arrived_s <= e.begin_s and e.end_s <= put.answered_s]

    def syncs_after(path: str, moment_s: float) -> list[Event]:
        return [e for e in during if e.call in SYNCS and e.path == path and e.begin_s >= moment_s]

    logged = [e for e in during if e.call in WRITES and e.path.endswith("-wal")]
    row_begin_s = max((e.begin_s for e in logged if syncs_after(e.path, e.end_s)), default=None)
    if row_begin_s is None:
        return [f"{put.key}: no row was synced"]
    if not chunked:
        return []
    written = [e for e in during if e.call in WRITES and e.path.endswith(".open")]
    covers = [[s for s in syncs_after(e.path, e.end_s) if s.end_s <= row_begin_s] for e in written]
    if not covers or not all(covers):
        return [f"{put.key}: no segment was synced before the head's row"]
    synced = [covering[0] for covering in covers]
    made = [
        e for e in trace if e.call == "openat" and "O_CREAT" in e.args and e.args.find(synced[0].path) >= 0
    ]
    folder = str(Path(synced[0].path).parent)
    for creation in made:
        if not any(
            e.call == "fsync" and e.path == folder and creation.end_s <= e.begin_s and e.end_s <= row_begin_s
            for e in trace
        ):
            return [f"{put.key}: the directory of a new segment was not synced"]
    return []


def judge(traces: Mapping[int, Path], coordinator: int) -> tuple[int, list[str]]:
    """(puts seen, complaints): every traced peer must have synced each put before its coordinator answered."""
    seen = {
        index: list(events(path.read_text(errors="replace").splitlines())) for index, path in traces.items()
    }
    stored = puts(seen[coordinator])
    complaints = [
        f"peer {index}: {line}"
        for put in stored
        for index, trace in seen.items()
        for line in early(trace, put, "/chunked-" in put.key)
    ]
    return len(stored), complaints


def traced(directory: Path, peers: int, replicas: int, unsafe: str = "") -> tuple[int, list[str]]:
    """Store objects through peer 0 while as few peers live as make a majority: all of them must sync each put."""
    traces = {index: directory / f"trace-{index}" for index in range(replicas // 2 + 1)}
    world = ClusterWorld(
        directory / "cluster", peers, replicas=replicas, options=["--chunk-size", "64KiB"],
        environment={"ATOLL_UNSAFE_FOR_TESTS": unsafe},
        under=lambda index: strace(traces[index]) if index in traces else [],
    )  # fmt: skip
    with world:
        assert world.call("PUT", "/v1/buckets/watched", b'{"shards": 4}').status == 201
        for index in range(len(traces), peers):
            world.kill(index)
        for number in range(12):
            kind, size = (("small", SMALL), ("chunked", CHUNKED))[number % 2]
            path = f"/v1/buckets/watched/objects/{kind}-{number}"
            assert world.call("PUT", path, content(number, size), timeout_s=60.0).status == 200
            assert world.call("GET", path, timeout_s=60.0).body == content(number, size)
        pids = [world.pid(index) for index in traces]
    # strace outlives its peer by the time it takes to write what it saw.
    wait_until(lambda: all("+++" in last_line(path) for path in traces.values()), f"the traces of {pids} end")
    return judge(traces, 0)


def last_line(path: Path) -> str:
    return path.read_bytes()[-200:].decode(errors="replace").strip().splitlines()[-1]


def test_a_lone_peer_syncs_before_it_answers(tmp_path: Path) -> None:
    """Goal: with one replica the answer waits for the log, for the segment before it, and for the new segment's name."""
    assert traced(tmp_path, 1, 1) == (12, [])


def test_a_majority_syncs_before_the_answer(tmp_path: Path) -> None:
    """Goal: with two of three owners alive both have synced before either's client is answered."""
    assert traced(tmp_path, 3, 3) == (12, [])


@pytest.mark.parametrize(
    ("switch", "complaint"),
    [
        ("no_row_sync", "no row was synced"),
        ("no_data_sync", "no segment was synced"),
        ("no_directory_sync", "the directory of a new segment was not synced"),
    ],
)
def test_the_judge_objects_to_a_missing_sync(tmp_path: Path, switch: str, complaint: str) -> None:
    """Goal: negative controls: SQLite's synchronous=OFF, a segment or a directory unsynced, are each found."""
    seen, complaints = traced(tmp_path, 1, 1, switch)
    assert seen == 12
    assert len(complaints) == (12 if switch == "no_row_sync" else 6)
    assert all(complaint in line for line in complaints)
    assert "UNSAFE" in (tmp_path / "cluster" / "peer-1.log").read_text()
