"""P8 on real processes: a peer's memory has a bound, whatever clients send at once.

Resident memory as the kernel counts it (VmRSS; VmHWM for the peak), of every peer, in MiB. The bounds are the issue's:
300 MiB under a hundred streams at once, 100 MiB idle, flat over one long stream.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from blake3 import blake3

from tests.cluster_tools import MIB, content, wait_until
from tests.cluster_world import ClusterWorld

Figure = Callable[[str, object], None]

BUSY_MIB, IDLE_MIB = 300, 100
TENANTS = 12
"""Streams send one of so many contents: a hundred different ones of 256 MiB would need 77 GB of disk."""


def memory_mib(world: ClusterWorld, peer: int, field: str = "VmRSS") -> float:
    status = Path(f"/proc/{world.pid(peer)}/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def forget_peaks(world: ClusterWorld) -> None:
    for peer in range(world.layout.peers):
        Path(f"/proc/{world.pid(peer)}/clear_refs").write_text("5")


def of_all(world: ClusterWorld, field: str = "VmRSS") -> list[int]:
    return [round(memory_mib(world, peer, field)) for peer in range(world.layout.peers)]


def blocks(tenant: int, mib: int) -> Iterator[bytes]:
    for number in range(mib):
        yield content(tenant * 1_000_000 + number, MIB)


def digest(tenant: int, mib: int) -> bytes:
    hasher = blake3()
    for block in blocks(tenant, mib):
        hasher.update(block)
    return hasher.digest()


def send(world: ClusterWorld, stream: int, mib: int) -> None:
    path = f"/v1/buckets/streams/objects/{stream}"
    size = {"Content-Length": str(mib * MIB)}
    answer = world.call("PUT", path, blocks(stream % TENANTS, mib), size, timeout_s=900.0)
    assert answer.status == 200, answer.body


def receive(world: ClusterWorld, stream: int, mib: int, expected: bytes) -> None:
    hasher, size = blake3(), 0
    with world.client(0, pin=True) as client, client.get("streams", str(stream)) as download:
        for block in download:
            hasher.update(block)
            size += len(block)
    assert (size, hasher.digest()) == (mib * MIB, expected)


def many_streams(world: ClusterWorld, streams: int, mib: int, figure: Figure) -> tuple[int, int]:
    """All to one peer, then all from it, at once. The highest memory of any peer in either, MiB."""
    total_mb = streams * mib * MIB / 1e6
    peaks = []
    with ThreadPoolExecutor(streams) as pool:
        for what, run in (("puts", send), ("gets", receive)):
            expected = [digest(tenant, mib) for tenant in range(TENANTS)] if what == "gets" else []
            forget_peaks(world)
            begun_s = time.monotonic()
            tasks = [
                pool.submit(send, world, n, mib)
                if run is send
                else pool.submit(receive, world, n, mib, expected[n % TENANTS])
                for n in range(streams)
            ]
            for task in tasks:
                task.result()
            took_s = time.monotonic() - begun_s
            figure(f"{streams} {what} of {mib} MiB at once", f"{took_s:.1f} s, {total_mb / took_s:.0f} MB/s")
            figure(f"peak memory under {streams} {what}, MiB a peer", of_all(world, "VmHWM"))
            peaks.append(max(of_all(world, "VmHWM")))
    return peaks[0], peaks[1]


def one_long_stream(world: ClusterWorld, mib: int, figure: Figure) -> tuple[int, int]:
    """Memory of the peer at its highest in the first quarter of one long put, and in the rest of it."""
    samples: list[tuple[int, float]] = []
    sent = 0
    done = threading.Event()

    def body() -> Iterator[bytes]:
        nonlocal sent
        for block in blocks(TENANTS + 1, mib):
            yield block
            sent += 1
            if sent % 8 == 0:
                samples.append((sent, max(memory_mib(world, peer) for peer in range(world.layout.peers))))
        done.set()

    size = {"Content-Length": str(mib * MIB)}
    answer = world.call("PUT", "/v1/buckets/streams/objects/long", body(), size, timeout_s=900.0)
    assert answer.status == 200 and done.is_set(), answer.body
    receive(world, "long", mib, digest(TENANTS + 1, mib))  # type: ignore[arg-type]
    first = max(value for at, value in samples if at <= mib // 4)
    rest = max(value for at, value in samples if at > mib // 4)
    figure(f"memory over one put of {mib} MiB: first quarter, rest, MiB", (round(first), round(rest)))
    return round(first), round(rest)


def measured(world: ClusterWorld, streams: int, mib: int, long_mib: int, figure: Figure) -> dict[str, int]:
    assert world.call("PUT", "/v1/buckets/streams").status == 201
    figure("idle after the start, MiB a peer", of_all(world))
    idle = max(of_all(world))
    puts, gets = many_streams(world, streams, mib, figure)
    first, rest = one_long_stream(world, long_mib, figure)

    wait_until(lambda: world.call("GET", "/v1/cluster/nodes/self").status == 200, "it answers")
    figure("right after, MiB a peer", of_all(world))
    try:
        wait_until(lambda: max(of_all(world)) < IDLE_MIB, "memory falls", 30.0)
    except AssertionError:
        pass  # whoever called decides what that means
    figure("idle again, MiB a peer", of_all(world))
    return {"idle": idle, "puts": puts, "gets": gets, "growth": rest - first, "after": max(of_all(world))}


def test_memory_in_small(tmp_path: Path, record_property: Figure) -> None:
    """Goal: thirty streams at once and a long one stay within the bounds of a hundred; the figures are printed."""
    with ClusterWorld(tmp_path) as world:
        found = measured(world, 30, 16, 256, record_property)
    assert max(found["idle"], found["after"]) < IDLE_MIB
    assert max(found["puts"], found["gets"]) < BUSY_MIB


@pytest.mark.full
def test_memory(large_path: Path, record_property: Figure) -> None:
    """Goal: a hundred streams of 256 MiB at once, and one of 4 GiB: within the bounds, and back to idle after them."""
    with ClusterWorld(large_path) as world:
        found = measured(world, 100, 256, 4096, record_property)
    assert max(found["puts"], found["gets"]) < BUSY_MIB
    assert found["growth"] < 50
    assert max(found["idle"], found["after"]) < IDLE_MIB
