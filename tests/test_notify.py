"""A supervisor with a socket of its own hears when a peer is ready, that its loop turns, and that it ends (sd_notify)."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from peer.notify import NOBODY, Supervisor
from tests.cluster_tools import DEADLINE_S, wait_until
from tests.cluster_world import ClusterWorld


class Listener:
    """The supervisor's side."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        self.told: list[dict[str, str]] = []

    def hear(self) -> list[dict[str, str]]:
        """All datagrams so far."""
        while True:
            try:
                datagram = self._socket.recv(65536).decode()
            except BlockingIOError:
                return self.told
            self.told.append(dict(line.split("=", 1) for line in datagram.splitlines()))

    def values(self, name: str) -> list[str]:
        return [one[name] for one in self.hear() if name in one]

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    found = Listener(tmp_path / "notify")
    yield found
    found.close()


def test_ready_when_nothing_is_waited_for(listener: Listener) -> None:
    """Goal: READY comes once, with the first moment in which nothing is waited for; a status only when it is news."""
    waits = ["waiting for the other peers"]
    supervisor = Supervisor({"NOTIFY_SOCKET": str(listener.path)})
    supervisor.look()
    supervisor.look_at(lambda: waits, "serving at 127.0.0.1:7401")
    supervisor.look()
    supervisor.look()
    assert listener.hear() == [{"STATUS": "starting"}, {"STATUS": "waiting for the other peers"}]
    waits.clear()
    supervisor.look()
    waits.append("out of the ring")
    supervisor.look()
    waits.clear()
    supervisor.look()
    assert listener.hear()[2:] == [
        {"READY": "1", "STATUS": "serving at 127.0.0.1:7401"},
        {"STATUS": "out of the ring"},
        {"STATUS": "serving at 127.0.0.1:7401"},
    ]
    supervisor.look_at(None)
    supervisor.look()
    assert listener.hear()[-1] == {"STATUS": "coming back under a new id"}


def test_stopping(listener: Listener) -> None:
    """Goal: who stops before it was ready never says that it is, and its status stays that it stops."""
    supervisor = Supervisor({"NOTIFY_SOCKET": str(listener.path)})
    supervisor.look_at(list, "serving")
    supervisor.stopping(10.0)
    supervisor.look()
    assert listener.hear() == [{"STOPPING": "1", "STATUS": "stopping: requests in flight get 10 s"}]


def test_a_supervisor_with_too_much_to_read(listener: Listener) -> None:
    """Goal: a word that found its queue full is not lost: it is said again when there is room."""
    supervisor = Supervisor({"NOTIFY_SOCKET": str(listener.path), "WATCHDOG_USEC": "1000000"}, pid=1)
    sent = 0
    with pytest.raises(BlockingIOError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        while True:
            other.sendto(b"NOISE=1", str(listener.path))
            sent += 1
    supervisor.look_at(list, "serving")
    supervisor.look()
    assert len(listener.hear()) == sent and not listener.values("READY")
    supervisor.look()
    assert listener.values("READY") == ["1"] and listener.values("STATUS") == ["serving"]


def test_watchdog(listener: Listener) -> None:
    """Goal: asked for a sign of life it gives several in that time, from the loop, also while no peer lives in the process;
    when another process is meant, none."""
    environment = {"NOTIFY_SOCKET": str(listener.path), "WATCHDOG_USEC": "40000", "WATCHDOG_PID": "7"}
    assert Supervisor(environment, pid=8).watchdog_s is None
    supervisor = Supervisor(environment, pid=7)
    assert supervisor.watchdog_s == 0.04

    async def scenario() -> None:
        following = asyncio.create_task(supervisor.follow())
        await asyncio.to_thread(wait_until, lambda: len(listener.values("WATCHDOG")) >= 5, "signs of life")
        following.cancel()

    asyncio.run(scenario())
    assert not listener.values("READY")


def test_nobody_listens(tmp_path: Path) -> None:
    """Goal: without a supervisor, and with one that is gone, telling costs nothing and raises nothing."""
    asyncio.run(asyncio.wait_for(NOBODY.follow(), DEADLINE_S))
    for address in (str(tmp_path / "nowhere"), "not a path", "vsock:2:1"):
        gone = Supervisor({"NOTIFY_SOCKET": address})
        gone.look()
        gone.stopping(1.0)


def test_an_abstract_socket() -> None:
    """Goal: an address that begins with @ is one in the abstract namespace."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as there:
        there.bind(f"\0atoll-test-{os.getpid()}")
        there.settimeout(DEADLINE_S)
        Supervisor({"NOTIFY_SOCKET": f"@atoll-test-{os.getpid()}"}).look()
        assert there.recv(100) == b"STATUS=starting"


def test_a_real_peer(tmp_path: Path) -> None:
    """Goal: a peer of a cluster is ready when it answers, says so once, gives signs of life, and says that it stops. One
    that has no majority after a start is not ready until it has."""
    listener = Listener(tmp_path / "notify")
    told = {"NOTIFY_SOCKET": str(listener.path), "WATCHDOG_USEC": "400000"}

    def under(index: int) -> list[str]:
        return ["/usr/bin/env", *(f"{name}={value}" for name, value in told.items())] if index == 1 else []

    with ClusterWorld(tmp_path / "peers", under=under) as world:
        wait_until(lambda: listener.values("READY") == ["1"], "it is ready")
        wait_until(lambda: len(listener.values("WATCHDOG")) > 4, "it gives signs of life")
        serving = f"serving at 127.0.0.1:{world.place(1).api_port}"
        wait_until(lambda: listener.values("STATUS")[-1] == serving, "nothing is waited for")
        world.signal(1, signal.SIGTERM)
        wait_until(lambda: listener.values("STOPPING") == ["1"], "it says that it stops")
        assert world.stop(1) == 0 and listener.values("READY") == ["1"]
        world.kill_all()
        world.start(1)
        waits = "waiting for the other peers to confirm this peer's identity"
        wait_until(lambda: listener.values("STATUS")[-1] == waits, "it says what it waits for")
        assert listener.values("READY") == ["1"]
        world.start(0)
        wait_until(lambda: listener.values("READY") == ["1", "1"], "with a majority it is ready")
        world.signal(1, signal.SIGKILL)
    listener.close()
