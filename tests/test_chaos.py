"""`atoll chaos`: the auditor counts what the disks hold, histories are judged rightly, and a short run is clean."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from peer.errors import NotFound
from peer.recovery.audit import audit
from tests.cluster_tools import content, wait_until
from tests.cluster_world import ClusterWorld
from tests.test_cluster_handoff import command
from tools.chaos.load import DELETED, Operation, State, Worker, availability, body, longest_outage_s
from tools.chaos.network import Network, NoNetwork
from tools.chaos.run import Plan, Run


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterWorld]:
    """Three peers that nobody heals: their workers are paused."""
    with ClusterWorld(tmp_path_factory.mktemp("audited"), options=["--chunk-size", "64KiB"]) as cluster:
        command(cluster, "all/pause")
        assert cluster.call("PUT", "/v1/buckets/audited", b'{"shards": 4}').status == 201
        yield cluster


def directories(world: ClusterWorld) -> list[Path]:
    return [world.place(peer).directory for peer in range(3)]


def put(world: ClusterWorld, key: str, number: int, size: int, peer: int = 0) -> None:
    path = f"/v1/buckets/audited/objects/{key}"
    assert world.call("PUT", path, content(number, size), peer=peer).status == 200


def settle(world: ClusterWorld) -> None:
    """Let the workers bring everything everywhere, and pause them again."""
    command(world, "all/resume")
    command(world, "all/start")
    wait_until(lambda: not audit(directories(world), deep=True).lacking, "everything is everywhere", 120.0)
    command(world, "all/pause")


def test_an_audit_finds_what_an_owner_lacks(world: ClusterWorld) -> None:
    """Goal: all is found whole; then a dead peer's missed head, chunk and deletion are each counted; healed, none."""
    put(world, "small", 1, 500)
    put(world, "large", 2, 200_000)
    put(world, "gone", 3, 300)
    settle(world)
    assert audit(directories(world)).objects == 3
    world.kill(2)
    put(world, "small", 4, 600)
    put(world, "new", 5, 70_000)
    assert world.call("DELETE", "/v1/buckets/audited/objects/gone").status == 204
    found = audit(directories(world))
    assert len({member for member, _ in found.lacking}) == 1
    assert len(found.lacking) == 5, "three registers and two chunks"
    assert 70_000 < found.bytes < 75_000 and found.objects == 3
    world.start(2)
    world.wait_ready(2)
    assert len(audit(directories(world)).lacking) == 5, "its workers are paused"
    settle(world)


def test_a_deep_audit_finds_flipped_bits(world: ClusterWorld) -> None:
    """Goal: a row's word is enough for the quick audit, not for the deep one; a damaged row is no copy in either."""
    put(world, "rot", 6, 65_000)
    settle(world)
    world.kill(1)
    directory = world.place(1).directory
    for segment in (directory / "segments").iterdir():
        data = segment.read_bytes()
        at = data.find(content(6, 65_000))
        if at >= 0:
            with segment.open("r+b") as file:
                file.seek(at + 100)
                file.write(bytes((data[at + 100] ^ 1,)))
    assert not audit(directories(world)).lacking
    assert len(audit(directories(world), deep=True).lacking) == 1
    with closing(sqlite3.connect(directory / "rows" / "atoll.db")) as database, database:
        key, value = database.execute("select k, v from rows where k >= x'03' limit 1").fetchone()
        database.execute("update rows set v = ? where k = ?", (value[:-1] + bytes((value[-1] ^ 1,)), key))
    assert len(audit(directories(world)).lacking) == 1
    world.start(1)
    world.wait_ready(1)


def test_an_audit_of_nothing(tmp_path: Path) -> None:
    """Goal: directories of no cluster are not a cluster in perfect health."""
    with pytest.raises(NotFound):
        audit([tmp_path])


# --- judging


class FakeClient:
    """One key's value."""

    def __init__(self, value: bytes | None) -> None:
        self.value = value

    def get(self, bucket: str, key: str) -> FakeClient:
        if self.value is None:
            raise NotFound("no")
        return self

    def read(self) -> bytes:
        assert self.value is not None
        return self.value


def test_what_a_key_may_hold() -> None:
    """Goal: an acknowledged version alone is right; with an outcome unknown either is; anything else is wrong."""
    worker = Worker(0, lambda: pytest.fail("it connects to nobody"), 1)
    (key,) = worker.keys
    cases: list[tuple[set[int], bytes | None, bool]] = [
        ({DELETED}, None, True),
        ({DELETED}, body(key, 1), False),
        ({1}, body(key, 1), True),
        ({1}, None, False),
        ({1}, body(key, 2), False),
        ({1, 2}, body(key, 2), True),
        ({1, DELETED}, None, True),
        ({2}, body(key, 2)[:-1], False),
    ]
    for may, value, right in cases:
        worker.keys[key] = State(may)
        worker.wrong.clear()
        worker.check(FakeClient(value), key)
        assert (not worker.wrong) is right, (may, right)


def test_availability_and_outage() -> None:
    """Goal: late answers and failures count against it; an outage is the time between two successes."""
    told = [(0.0, 0.1, ""), (1.0, 0.1, ""), (1.2, 6.0, ""), (2.0, 0.1, "Unavailable: no"), (4.0, 0.1, "")]
    operations = [Operation("get", begun_s, took_s, failure) for begun_s, took_s, failure in told]
    assert availability(operations) == 3 / 5
    assert longest_outage_s(operations) == pytest.approx(3.1)
    assert availability([]) == 0.0 and longest_outage_s([]) == 0.0


# --- namespaces


@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
def test_a_dropped_machine_is_silent() -> None:
    """Goal: packets to a machine that was cut off vanish: no refusal, no "no route"; restored, it answers again."""

    def ping(network: Network, by: int, to: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*network.words(by), "python3", "-c", SEND, network.address(to)],
            capture_output=True,
            text=True,
            timeout=30,
        )

    try:
        with Network(2) as network:
            listener = subprocess.Popen(
                [*network.words(1), "python3", "-c", ANSWER, network.address(1)], stdout=subprocess.PIPE
            )
            try:
                assert listener.stdout is not None and listener.stdout.readline() == b"ready\n"
                assert ping(network, 0, 1).stdout == "answered\n"
                network.drop(1)
                assert ping(network, 0, 1).stdout == "silence\n"
                network.restore(1)
                assert ping(network, 0, 1).stdout == "answered\n"
            finally:
                listener.kill()
                listener.communicate()
    except NoNetwork as why:
        pytest.skip(f"no network namespaces here: {why}")


ANSWER = """
import socket, sys
listener = socket.create_server((sys.argv[1], 7000))
print("ready", flush=True)
while True:
    connection, _ = listener.accept()
    connection.sendall(b"hello")
    connection.close()
"""
SEND = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], 7000), timeout=4) as connection:
        print("answered" if connection.recv(5) == b"hello" else "nothing")
except TimeoutError:
    print("silence")
except OSError as error:
    print(error)
"""


# --- whole runs


def chaos(directory: Path, plan: Plan) -> None:
    told: list[str] = []
    with suppress(FileExistsError):
        directory.mkdir()
    outcome = Run(plan, directory, told.append).run()
    assert outcome.problems == [], (outcome.problems, told)
    assert outcome.verified > 0 and outcome.operations > 0 and outcome.audits > 0
    assert {struck.fault for struck in outcome.struck} | set(outcome.skipped) == set(plan.faults)


def test_a_short_run(tmp_path: Path) -> None:
    """Goal: one death and one round of bit rot under load leave nothing lost, and the auditor and `status` agree."""
    chaos(
        tmp_path / "run",
        Plan(
            clients=2, keys=12, seconds=0, hold_s=2.0, port=7790, faults=("kill", "corrupt"), kill_each=False
        ),
    )


@pytest.mark.full
def test_a_run_with_every_fault(large_path: Path) -> None:
    """Goal: every fault this machine allows, for minutes, and any one peer may be killed at the end."""
    chaos(large_path / "run", Plan(seconds=180.0, port=7790))
