"""Goal: the bench counts right, spreads right, checks bytes, survives bad peers and leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peer.client.trust import trust
from tests.fake_api import ACCESS_KEY, SECRET_KEY, FakeCluster, fake_cluster
from tools.bench.blocking import LargeClient, LargeLoad
from tools.bench.bodies import STAMP, Bodies
from tools.bench.figures import FIGURES, judge
from tools.bench.floor import Floor, group_commit, http_server, segment_append
from tools.bench.load import Load
from tools.bench.report import Report, number
from tools.bench.run import Access, Wish, run
from tools.bench.sources import Delete, Get, Head, Heads, List, Put
from tools.bench.stats import Result, Round, percentile, summarise
from tools.bench.target import BenchError, Target, cpu_of_pid, find_target
from tools.bench.wire import Connection, Endpoint, ask
from tools.bench.workloads import BY_NAME, Plan, forget_files
from tools.cli.root import run as atoll

QUICK = Plan(clients=4, rounds=2, seconds=0.1, warm_up_s=0.02, deadline_s=10.0, keys=25, verify=True)


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    with fake_cluster(3) as fake:
        yield fake


def heads(bucket: str = "bench") -> Heads:
    return Heads(bucket, ACCESS_KEY, SECRET_KEY)


def ends(cluster: FakeCluster) -> list[Endpoint]:
    return [Endpoint.of(url) for url in cluster.urls]


def target(cluster: FakeCluster, bucket: str = "bench") -> Target:
    return asyncio.run(find_target(cluster.urls[:1], ACCESS_KEY, SECRET_KEY, bucket, pinned=False))


# --- numbers


def test_percentile_of_nothing_and_of_one() -> None:
    """Goal: no value is invented."""
    assert percentile([], 0.5) is None
    assert percentile([7.0], 0.99) == 7.0


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60), st.floats(0.01, 1.0))
@settings(max_examples=60, deadline=None)
def test_percentile_law(values: list[float], part: float) -> None:
    """Goal: the smallest value that at least that part does not exceed."""
    found = percentile(values, part)
    assert found in values
    assert sum(value <= found for value in values) >= part * len(values) - 1e-6
    smaller = [value for value in values if value < found]
    assert len(smaller) < part * len(values) + 1e-6


def test_medians_are_over_rounds() -> None:
    """Goal: rates by round, medians over rounds, errors summed, CPU only where known."""
    rounds = [
        Round(array("d", [0.001] * ops), ops * 4096, 0, 1.0, cpu, 0.1)
        for ops, cpu in ((10, 0.5), (20, None), (90, 1.0))
    ]
    rounds[1].errors["status 503"] = 3
    result = summarise("put-4k", 32, 4096, rounds)
    assert (result.ops, result.ops_s, result.p50_ms) == (120, 20.0, 1.0)
    assert result.ops_per_cpu_s == 55.0  # of 20 and 90
    assert result.mb_s == pytest.approx(0.08192) and result.spread == 4.0
    assert result.errors == {"status 503": 3}


def test_nothing_measured_is_none() -> None:
    """Goal: a round without a success yields no rate and no percentile, not zero milliseconds."""
    result = summarise("get-4k", 1, 4096, [Round(elapsed_s=1.0)])
    assert (result.p50_ms, result.ops_per_cpu_s, result.ops_s) == (None, None, 0.0)


def test_figures_are_judged_both_ways() -> None:
    """Goal: higher is better but for times; a figure without bounds is reported, one not measured is missing."""
    rate = next(figure for figure in FIGURES if figure.label == "put 4 KiB")
    assert [judge(rate, value) for value in (2600, 1700, 1699, None)] == ["aim", "enough", "below", "missing"]
    delay = next(figure for figure in FIGURES if figure.unit == "ms")
    assert [judge(delay, value) for value in (1.4, 2.5, 2.6)] == ["aim", "enough", "below"]
    cold = next(figure for figure in FIGURES if figure.at_least is None)
    assert judge(cold, 5) == "reported"
    assert [number(value) for value in (None, 12345.6, 123.4, 12.34, 1.234)] == [
        "-",
        "12,346",
        "123",
        "12.3",
        "1.23",
    ]


def test_report_relates_to_the_floor() -> None:
    """Goal: a figure is shown as a part of the bare measurement it stands on."""
    result = Result("put-4k", 32, 4096, 5, 9, 3000.0, 12.0, 0.0, 5.0, 50.0, 2000.0, 6.0, 0.0, 0.1, 0.2, {})
    report = Report({}, {}, [result], [Floor("bare aiohttp, put 4 KiB", "ops", 9000.0, 8000.0)], figures=True)
    figure = report.document()["figures"][0]
    assert (figure["measured"], figure["verdict"], figure["of_floor"]) == (2000.0, "enough", 0.25)


# --- bodies


@given(st.integers(0, 300_000), st.sampled_from([1 << 20, 64 << 10, 4 << 10]))
@settings(max_examples=25, deadline=None)
def test_bodies_are_checkable_and_never_equal(size: int, chunk_bytes: int) -> None:
    """Goal: the body has its size, is recognised, differs in every chunk, and one wrong byte shows."""
    bodies = Bodies("seed", chunk_bytes)
    body = b"".join(bytes(stamp) + bytes(rest) for stamp, rest in bodies.pieces("name", size))
    assert len(body) == size and bodies.matches("name", size, body)
    chunks = [body[i : i + chunk_bytes] for i in range(0, size, chunk_bytes)]
    assert len(set(chunks)) == len(chunks)
    if size > STAMP:
        assert not bodies.matches("other", size, body)
        wrong = bytearray(body)
        wrong[size // 2] ^= 1
        assert not bodies.matches("name", size, bytes(wrong))
    if size <= bodies.piece:
        assert bodies.small("name", size) == body


# --- the wire


class Answers(asyncio.Transport):
    """A transport that goes nowhere; what comes back is fed to the connection by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.aborted = False

    def write(self, data: object) -> None:
        self.written.append(bytes(data))  # type: ignore[call-overload]

    def abort(self) -> None:
        self.aborted = True


def exchange(
    answer: bytes, cuts: list[int], **options: bool
) -> tuple[list[tuple[int, int, bytes]], list[str]]:
    """Feed `answer` in pieces; what the connection told."""
    told: list[tuple[int, int, bytes]] = []
    lost: list[str] = []
    connection = Connection(lambda *heard: told.append(heard), lost.append)
    connection.connection_made(Answers())
    connection.request([b"GET / HTTP/1.1\r\n\r\n"], **options)
    places = [0, *sorted(cut % (len(answer) + 1) for cut in cuts), len(answer)]
    for start, end in pairwise(places):
        if start < end:
            connection.data_received(answer[start:end])
    return told, lost


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"


@given(st.lists(st.integers(0, 500), max_size=6))
@settings(max_examples=50, deadline=None)
def test_answers_in_any_pieces(cuts: list[int]) -> None:
    """Goal: however an answer is cut up, status, length and body are the same."""
    plain = b"HTTP/1.1 200 OK\r\ncontent-LENGTH: 11\r\nETag: x\r\n\r\nhello world"
    assert exchange(plain, cuts, keep=True) == ([(200, 11, b"hello world")], [])
    assert exchange(plain, cuts) == ([(200, 11, b"")], [])
    assert exchange(CHUNKED, cuts, keep=True) == ([(200, 11, b"hello world")], [])
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 4096\r\n\r\n"
    assert exchange(head, cuts, head_only=True) == ([(200, 4096, b"")], [])
    assert exchange(b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n", cuts) == ([(204, 0, b"")], [])


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\n\r\nwhat", "without a length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabc", "more bytes"),
        (b"x" * 70_000, "endless"),
        (CHUNKED.replace(b"5;", b"zz;"), "malformed"),
    ],
)
def test_nonsense_loses_the_connection(answer: bytes, words: str) -> None:
    """Goal: what is not an answer ends the connection with its reason, and nothing is counted."""
    told, lost = exchange(answer, [])
    assert told == [] and len(lost) == 1 and words in lost[0]


@pytest.mark.parametrize("url", ["https://127.0.0.1:1", "127.0.0.1:7401", "http://host:1/path"])
def test_endpoints_that_are_none(url: str) -> None:
    """Goal: an address that cannot be measured is refused by name."""
    with pytest.raises(ValueError, match="not an API address"):
        Endpoint.of(url)
    assert Endpoint.of("http://[::1]:7401").header == "[::1]:7401"
    tls = trust()
    assert Endpoint.of("https://h", tls) == Endpoint("h", 443) and Endpoint.of("https://h", tls).tls is tls
    with pytest.raises(ValueError, match="https://host:port"):
        Endpoint.of("http://h:1", tls)


# --- load


def test_put_get_head_delete_against_a_cluster(cluster: FakeCluster) -> None:
    """Goal: what is put is what is got, each request once, spread over all peers."""
    aim, bodies = target(cluster), Bodies("seed", 64 << 10)
    names = [f"k/{i}" for i in range(30)]

    async def story() -> list[Round]:
        await aim.make_bucket()
        spread = aim.spread(3)
        shared = iter(names)
        puts = await Load(10).run([Put(aim.heads, bodies, shared, 5000) for _ in range(3)], spread, None)
        gets = await Load(10).run(
            [Get(aim.heads, bodies, names, 5000, verify=True) for _ in range(3)], spread, 0.1
        )
        asked = await Load(10).run([Head(aim.heads, bodies, names, 5000) for _ in range(3)], spread, 0.05)
        keys = iter(names)
        gone = await Load(10).run([Delete(aim.heads, keys) for _ in range(3)], spread, None)
        return [puts, gets, asked, gone]

    puts, gets, asked, gone = asyncio.run(story())
    assert puts.ops == 30 and puts.moved_bytes == 150_000 and not puts.errors
    assert gets.ops > 0 and gets.moved_bytes == gets.ops * 5000 and not gets.errors
    assert asked.ops > 0 and asked.moved_bytes == 0 and not asked.errors
    assert gone.ops == gone.units == 30 and cluster.buckets["bench"] == {}
    for peer in cluster.peers:
        assert any(method == "PUT" and "/objects/k/" in path for method, path in peer.seen)


def test_single_client_visits_every_peer(cluster: FakeCluster) -> None:
    """Goal: one client's latency is that of all peers in turn."""
    aim, bodies = target(cluster), Bodies("seed")

    async def story() -> Round:
        await aim.make_bucket()
        return await Load(10).run(
            [Put(aim.heads, bodies, (str(i) for i in range(9)), 10)], aim.spread(1), None
        )

    assert asyncio.run(story()).ops == 9
    counts = [sum("/objects/" in path for _, path in peer.seen) for peer in cluster.peers]
    assert counts == [3, 3, 3]


def test_wrong_bytes_and_refusals_are_errors(cluster: FakeCluster) -> None:
    """Goal: a flipped byte, a 503 and a cut connection are counted by kind and never as successes."""
    aim, bodies = target(cluster), Bodies("seed")
    cluster.peers[0].plan("flip", "503", "drop")

    async def story() -> Round:
        await aim.make_bucket()  # takes no fault: the faults below are planned afterwards
        await Load(10).run([Put(aim.heads, bodies, iter(["x"]), 100)], [[aim.under_load[1]]], None)
        cluster.peers[0].plan("flip", "503", "drop")
        source = Get(aim.heads, bodies, ["x"], 100, verify=True)
        return await Load(10).run([source], [[aim.under_load[0]]], 0.6)

    cluster.peers[0].faults.clear()
    one = asyncio.run(story())
    assert one.errors["wrong bytes"] == 1 and one.errors["status 503"] == 1
    assert sum(count for what, count in one.errors.items() if what.startswith("connection")) == 1
    assert one.ops > 0


def test_listing_is_walked_and_checked(cluster: FakeCluster) -> None:
    """Goal: pages are followed to the end, keys counted, a wrong total noticed."""
    aim, bodies = target(cluster), Bodies("seed")
    names = [f"list/{i:03d}" for i in range(25)]

    async def story(total: int, verify: bool) -> Round:
        await aim.make_bucket()
        shared = iter(names)
        await Load(10).run([Put(aim.heads, bodies, shared, 1)], aim.spread(1), None)
        return await Load(10).run([List(aim.heads, "list/", 10, total, verify=verify)], aim.spread(1), 0.15)

    for verify in (False, True):
        right = asyncio.run(story(25, verify))
        assert not right.errors and right.ops >= 3 and right.units >= 25
    assert asyncio.run(story(26, False)).errors["wrong number of keys"] > 0


def test_a_silent_peer_meets_the_deadline() -> None:
    """Goal: a peer that accepts and says nothing costs a deadline, not the run."""
    with silent_server() as port:
        end = Endpoint("127.0.0.1", port)
        source = Get(heads(), Bodies("seed"), ["x"], 10, verify=False)
        one = asyncio.run(Load(0.2).run([source], [[end]], 0.1))
        assert one.errors["connection: deadline"] == 1 and one.ops == 0
        with pytest.raises(OSError):
            asyncio.run(ask(end, [b"GET / HTTP/1.1\r\n\r\n"], 0.1))


def test_a_peer_that_is_not_there() -> None:
    """Goal: refused connections are counted and the round still ends."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        end = Endpoint("127.0.0.1", unused.getsockname()[1])
        source = Get(heads(), Bodies("seed"), ["x"], 10, verify=False)
        one = asyncio.run(Load(1).run([source], [[end]], 0.3))
    assert one.ops == 0 and sum(one.errors.values()) >= 1


def test_large_bodies_on_threads(cluster: FakeCluster) -> None:
    """Goal: a body of many pieces is stored and read back whole, and a wrong byte is found."""
    aim, bodies, size = target(cluster), Bodies("seed", 64 << 10), (1 << 20) + 777
    asyncio.run(aim.make_bucket())
    load = LargeLoad([LargeClient(end, aim.heads, bodies, 10) for end in aim.under_load[:2]])
    puts = load.run(lambda client, name: client.put(name, size), [["a"], ["b"]], size)
    assert puts.ops == 2 and puts.moved_bytes == 2 * size and not puts.errors
    assert bodies.matches("a", size, cluster.buckets["bench"]["a"].data)
    gets = load.run(
        lambda client, name: client.get(name, size, verify=True), [["a", "b"], ["b", "missing"]], size
    )
    assert gets.ops == 3 and gets.errors == {"status 404": 1}
    cluster.peers[0].plan("flip", "cut-body")
    bad = load.run(lambda client, name: client.get(name, size, verify=True), [["a", "a"], []], size)
    assert bad.errors["wrong bytes"] == 1 and sum(bad.errors.values()) == 2
    load.stop()


@contextmanager
def silent_server() -> Iterator[int]:
    """Accepts connections and never answers."""
    server = socket.create_server(("127.0.0.1", 0))
    held: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                held.append(server.accept()[0])
            except OSError:
                return

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(10)
        for one in held:
            one.close()


# --- a whole run


def test_whole_run_leaves_nothing(cluster: FakeCluster, tmp_path: Path) -> None:
    """Goal: every small workload succeeds, verified, and the bucket is gone afterwards."""
    names = ["put-4k", "get-4k", "head", "put-above", "get-128k", "list", "put-one"]
    said: list[str] = []
    access = Access(cluster.urls, ACCESS_KEY, SECRET_KEY)
    report = asyncio.run(run(Wish(names, QUICK, tmp_path), access, said.append))
    assert [result.name for result in report.results] == names
    assert all(result.ops > 0 and not result.errors for result in report.results)
    assert cluster.buckets == {} and list(tmp_path.iterdir()) == []
    assert report.cluster["peers"] == ["peer-1", "peer-2", "peer-3"]
    listing = report.results[names.index("list")]
    assert listing.units_s is not None and listing.units_s > 0
    assert any("deleting the bucket" in words for words in said)


def test_large_workloads_and_one_that_cannot_run(
    cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: large bodies go through the threads; a cold figure that would be warm is a note, not a number."""
    small = {name: BY_NAME[name] for name in ("put-64m", "get-64m", "get-64m-cold")}
    for name, workload in small.items():
        monkeypatch.setitem(BY_NAME, name, type(workload)(name, workload.kind, (1 << 20) + 1, 2))
    monkeypatch.setattr("tools.bench.workloads.MAX_PREPARED", 4 << 20)
    monkeypatch.setattr("tools.bench.workloads._open_files", lambda pid: [])
    access = Access(cluster.urls, ACCESS_KEY, SECRET_KEY)
    report = asyncio.run(run(Wish(list(small), QUICK, tmp_path), access, lambda words: None))
    assert [result.name for result in report.results] == ["put-64m", "get-64m"]
    assert all(result.mb_s and not result.errors for result in report.results)
    assert "their cache stays warm" in report.notes[-1]
    assert cluster.buckets == {}


def test_interrupted_run_cleans_up(cluster: FakeCluster, tmp_path: Path) -> None:
    """Goal: Ctrl-C in the middle deletes what was stored."""

    async def story() -> None:
        plan = Plan(clients=2, rounds=1000, seconds=0.1, warm_up_s=0.0)
        access = Access(cluster.urls, ACCESS_KEY, SECRET_KEY)
        work = asyncio.create_task(run(Wish(["put-4k"], plan, tmp_path), access, lambda words: None))
        async with asyncio.timeout(30):
            while not any(cluster.buckets.values()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await work

    asyncio.run(story())
    assert cluster.buckets == {}


def test_wrong_credentials_and_nobody_there(cluster: FakeCluster, tmp_path: Path) -> None:
    """Goal: a bench that cannot begin says why and for which peer."""
    wish = Wish(["put-4k"], QUICK, tmp_path)
    with pytest.raises(BenchError, match=r"no peer answers.*status 401"):
        asyncio.run(run(wish, Access(cluster.urls, "who", "knows"), lambda words: None))
    with pytest.raises(BenchError, match="no peer answers"):
        asyncio.run(run(wish, Access(["http://127.0.0.1:1"], ACCESS_KEY, SECRET_KEY), lambda words: None))


def test_command_prints_json(
    cluster: FakeCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: `-o json` gives one document on stdout, `--endpoint` pins the load to one peer."""
    keys = tmp_path / "root.json"
    keys.write_text(json.dumps({"access_key": ACCESS_KEY, "secret_key": SECRET_KEY}))
    monkeypatch.setenv("ATOLL_CONFIG_HOME", str(tmp_path))
    options = ["--rounds", "1", "--seconds", "0.1", "--warm-up", "0", "--clients", "2", "-o", "json"]
    where = ["--endpoint", cluster.urls[1], "--credentials-file", str(keys)]
    assert atoll(["bench", "put-4k", *options, *where]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["workloads"][0]["name"] == "put-4k" and document["workloads"][0]["ops"] > 0
    assert not any(
        "/objects/put" in path for peer in (cluster.peers[0], cluster.peers[2]) for _, path in peer.seen
    )
    assert atoll(["bench", "put-5k", *where]) == 2
    for peer in cluster.peers:
        peer.kill()
    assert atoll(["bench", "put-4k", *where]) == 5


# --- the machine


def test_floor_of_the_disk(tmp_path: Path) -> None:
    """Goal: commits and appends are measured and leave no file."""
    for floor in (group_commit(tmp_path, 0.05), segment_append(tmp_path, 0.05)):
        assert floor.per_s > 0 and floor.per_cpu_s > 0
    assert list(tmp_path.iterdir()) == []


def test_floor_of_http() -> None:
    """Goal: the bare server is measured by the same clients, in a process of its own that ends."""
    floors = asyncio.run(http_server(4, 0.1, 10))
    assert [floor.name for floor in floors] == ["bare aiohttp, put 4 KiB", "bare aiohttp, get 4 KiB"]
    assert all(floor.per_cpu_s > 0 for floor in floors)


def test_cpu_of_a_process() -> None:
    """Goal: the fallback reads the kernel's own count, and knows no process that is not there."""
    used = cpu_of_pid(os.getpid())
    assert used is not None and used > 0
    assert cpu_of_pid(1 << 22) is None


def test_forgetting_needs_files(tmp_path: Path) -> None:
    """Goal: open files of a process of ours can be dropped from the cache; with none there is no "cold"."""
    path = tmp_path / "segments" / "1"
    path.parent.mkdir()
    path.write_bytes(b"x" * 8192)
    with path.open("rb"):
        assert forget_files([os.getpid()]) >= 1
    with pytest.raises(BenchError):
        forget_files([None])


def test_a_deadline_below_a_second_is_one() -> None:
    """Goal: `--deadline 0.2` bounds a large request; rounded to whole seconds it was none at all."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = Endpoint("127.0.0.1", silent.getsockname()[1])
        client = LargeClient(endpoint, Heads("b", "a", "s"), Bodies("seed"), 0.2)
        with pytest.raises(BlockingIOError):
            client.get("x", 1)
