"""Goal: `atoll dev` starts, watches, adopts and stops peers, and leaves none behind; with stand-ins for peers."""

from __future__ import annotations

import asyncio
import os
import pty
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.dev_world import (
    DEADLINE_S,
    cluster_of,
    command_of,
    is_gone,
    layout_in,
    start_by_hand,
    until,
    until_now,
)
from tools.dev import dev
from tools.devcluster import FULL_DISK, DevCluster, Peer
from tools.devlayout import (
    DevError,
    Layout,
    Place,
    free_port,
    live_pid,
    take_lock,
)
from tools.devview import panel_lines

# --- processes


def test_start_death_return_and_stop(tmp_path: Path) -> None:
    """Goal: all become ready; a killed one stays dead until somebody starts it, is adopted, and is stopped too."""
    layout = layout_in(tmp_path)
    changes: list[str] = []

    async def story() -> list[int]:
        cluster = cluster_of(layout, changes)
        watch = None
        try:
            await cluster.start(DEADLINE_S)
            assert [peer.state for peer in cluster.peers] == ["ready"] * 3
            pids = [peer.pid or 0 for peer in cluster.peers]
            watch = asyncio.create_task(cluster.watch())
            os.kill(pids[1], signal.SIGKILL)
            await until(lambda: "peer-2 dead" in changes)
            assert cluster.peers[1].detail == "killed by SIGKILL"
            assert any("dev start peer-2" in words for _, words in panel_lines(layout, cluster.peers))
            stranger = start_by_hand(layout, layout.places[1])
            await until(lambda: changes[-1] == "peer-2 ready")
            assert cluster.peers[1].pid == stranger.pid
        finally:
            if watch is not None:
                watch.cancel()
            await cluster.stop()
        assert stranger.wait(DEADLINE_S) == 0
        return pids

    pids = asyncio.run(story())
    assert all(is_gone(pid) for pid in pids)
    assert changes[-3:] == ["peer-1 stopped", "peer-2 stopped", "peer-3 stopped"]


def test_readiness_is_told_once_while_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a peer that is unready for a moment at every join is announced once; later each change is news."""
    changes: list[str] = []
    cluster = cluster_of(layout_in(tmp_path, 1), changes)
    answers = iter([True, False, True, False, True])

    async def ready(peer: Peer) -> tuple[bool, str]:
        return next(answers), "joining"

    async def story() -> None:
        for _ in range(3):
            await cluster._look(cluster.peers[0])
        assert changes == ["peer-1 ready"]
        cluster._started = True
        for _ in range(2):
            await cluster._look(cluster.peers[0])

    monkeypatch.setattr(cluster, "_ready", ready)
    monkeypatch.setattr(cluster, "_is_alive", lambda peer: True)
    cluster.peers[0].pid = 1
    asyncio.run(story())
    assert changes == ["peer-1 ready", "peer-1 unready", "peer-1 ready"]


def test_a_full_disk_does_not_hold_up_a_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: peers that serve, but have no room for more, are up and told so; the start waited a minute and gave up."""
    changes: list[str] = []
    cluster = cluster_of(layout_in(tmp_path, 2), changes)
    details = {"peer-1": FULL_DISK, "peer-2": ""}

    async def ready(peer: Peer) -> tuple[bool, str]:
        return not details[peer.place.name], details[peer.place.name]

    monkeypatch.setattr(cluster, "_ready", ready)
    monkeypatch.setattr(cluster, "_is_alive", lambda peer: True)
    for peer in cluster.peers:
        peer.pid = 1
    asyncio.run(asyncio.wait_for(cluster._all_ready(), 10))
    assert changes == ["peer-1 unready", "peer-2 ready"]


def test_a_peer_that_cannot_start_is_told(tmp_path: Path) -> None:
    """Goal: a broken joiner is shown dead with its last words, a broken founder ends the start."""

    async def story(**modes: str) -> DevCluster:
        cluster = cluster_of(layout_in(tmp_path / "-".join(modes)), [], **modes)
        try:
            await cluster.start(DEADLINE_S)
            assert cluster.peers[2].state == "dead"
            assert cluster.peers[2].detail == "exited with 1: atoll: no space left for a peer"
            return cluster
        finally:
            await cluster.stop()

    asyncio.run(story(peer_3="broken"))
    with pytest.raises(DevError, match="peer-1 could not start: exited with 1: atoll: no space"):
        asyncio.run(story(peer_1="broken"))


def test_a_restart_goes_on_without_a_broken_peer(tmp_path: Path) -> None:
    """Goal: once founded, the cluster starts without any one peer, the first included."""
    layout = layout_in(tmp_path)
    for place in layout.places:
        place.directory.mkdir()
        (place.directory / "peer.json").write_text("{}")

    async def story() -> list[str]:
        cluster = cluster_of(layout, [], peer_1="broken")
        try:
            await cluster.start(DEADLINE_S)
            return [peer.state for peer in cluster.peers]
        finally:
            await cluster.stop()

    assert asyncio.run(story()) == ["dead", "ready", "ready"]


def test_not_ready_in_time_says_why(tmp_path: Path) -> None:
    """Goal: the deadline of the start names the peer that is missing and its reason."""

    async def story() -> None:
        cluster = cluster_of(layout_in(tmp_path, 2), [], peer_2="late")
        try:
            await cluster.start(3)
        finally:
            await cluster.stop()

    with pytest.raises(DevError, match="not ready after 3 s: peer-2: joining the ring"):
        asyncio.run(story())


def test_a_stubborn_peer_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a peer that ignores SIGTERM is gone after the deadline all the same."""
    monkeypatch.setattr("tools.devcluster.STOP_S", 0.3)
    pids: list[int] = []

    async def story() -> str:
        cluster = cluster_of(layout_in(tmp_path, 1), [], peer_1="stubborn")
        try:
            await cluster.start(DEADLINE_S)
            pids.append(cluster.peers[0].pid or 0)
        finally:
            await cluster.stop()
        return cluster.peers[0].detail

    assert "did not stop in time" in asyncio.run(story())
    assert is_gone(pids[0])


def test_peers_die_with_a_killed_dev(tmp_path: Path) -> None:
    """Goal: SIGKILL of what runs the peers leaves none of them."""
    layout = layout_in(tmp_path, 2)
    command = [sys.executable, "-m", "tests.dev_world", "run", str(tmp_path), str(layout.port), "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as runner:
        assert runner.stdout is not None and runner.stdout.readline() == b"ready\n"
        pids = [live_pid(place) or 0 for place in layout.places]
        assert all(pids)
        runner.kill()
    until_now(lambda: all(is_gone(pid) for pid in pids))


def test_running_peers_are_adopted_at_start(tmp_path: Path) -> None:
    """Goal: a peer left running in its directory is taken over, not started twice."""
    layout = layout_in(tmp_path, 1)
    place = layout.places[0]

    async def story() -> None:
        left = start_by_hand(layout, place)
        await until(lambda: live_pid(place) == left.pid)
        cluster = cluster_of(layout, [])
        try:
            await cluster.start(DEADLINE_S)
            assert cluster.peers[0].pid == left.pid and cluster.peers[0].process is None
        finally:
            await cluster.stop()
        assert left.wait(DEADLINE_S) == 0

    asyncio.run(story())


# --- the command


DEV_OVER_STAND_INS = (
    "import sys, tools.devcluster, tests.dev_world as w;"
    "d = tools.devcluster.DevCluster.__init__;"
    "d.__defaults__ = (d.__defaults__[0], w.command_of({}));"
    "from tools.dev import dev; dev.main(sys.argv[1:], prog_name='atoll dev')"
)


def dev_environment(data: Path) -> dict[str, str]:
    """Profiles go beside the data, not to this user's."""
    return os.environ | {"ATOLL_CONFIG_HOME": str(data.parent / "config"), "PYTHONUNBUFFERED": "1"}


@contextmanager
def running_dev(data: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """`atoll dev --plain` over stand-ins, in a process of its own."""
    environment = dev_environment(data)
    command = [sys.executable, "-c", DEV_OVER_STAND_INS, "--plain", "--data", str(data), *options]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        assert process.stdout is not None
        process.stdout.close()
        process.wait()


def line_with(process: subprocess.Popen[str], words: str) -> str:
    """Read lines until one has `words`; the test's own end of output is the deadline."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if words in line:
            return line
    raise AssertionError(f"no line with {words!r} in {''.join(seen)!r}")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_plain_dev_from_start_to_end(tmp_path: Path, how: signal.Signals) -> None:
    """Goal: ready with endpoints and credentials, a line at every change, kill and start, exit 0, profile kept."""
    data = tmp_path / "data"
    port = free_port(2)
    with running_dev(data, "--peers", "2", "--port", str(port)) as process:
        assert "2 of 2 peers" in line_with(process, "Ctrl-C stops them")
        assert f"http://127.0.0.1:{port + 11}" in line_with(process, "API")
        assert str(data / "peer-1" / "root.json") in line_with(process, "credentials")
        assert "alias atoll=" in line_with(process, "paste this")
        assert "atoll put" in line_with(process, "atoll mb demo")
        profile = (tmp_path / "config" / "config.toml").read_text()
        assert 'default = "dev"' in profile and '"SK"' in profile
        cli = CliRunner()
        taken = cli.invoke(dev, ["--plain", "--data", str(data)])
        assert taken.exit_code == 1 and "is running in" in taken.output
        elsewhere = cli.invoke(dev, ["--plain", "--data", str(tmp_path / "other"), "--port", str(port)])
        assert elsewhere.exit_code == 1 and "is in use" in elsewhere.output
        assert not (tmp_path / "other").exists()
        misplaced = cli.invoke(dev, ["--port", "9000", "kill", "2", "--data", str(data)])
        assert misplaced.exit_code == 2 and "--port is for `atoll dev` itself" in misplaced.output
        killed = cli.invoke(dev, ["kill", "2", "--data", str(data)])
        assert killed.exit_code == 0 and "peer-2 killed" in killed.output
        assert "killed by SIGKILL" in line_with(process, "peer-2 dead")
        again = cli.invoke(dev, ["kill", "peer-2", "--data", str(data)])
        assert again.exit_code == 1 and "is not running" in again.output
        pid = live_pid(Place("peer-1", data / "peer-1", port))
        process.send_signal(how)
        assert process.wait(DEADLINE_S) == 0
        assert pid is not None and is_gone(pid)
    assert 'default = "dev"' not in (tmp_path / "config" / "config.toml").read_text()


def test_live_dev_on_a_terminal(tmp_path: Path) -> None:
    """Goal: on a terminal the view comes up with the lines to paste; Ctrl-C gives the terminal back, exit 0."""
    data = tmp_path / "data"
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    environment = dev_environment(data) | {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
    command = [sys.executable, "-c", DEV_OVER_STAND_INS, "--data", str(data), "--peers", "2"]
    command += ["--port", str(free_port(2))]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    seen = bytearray()

    def read_until(words: bytes) -> None:
        while words not in seen:
            ready, _, _ = select.select([ours], [], [], DEADLINE_S)
            assert ready, bytes(seen[-2000:])
            seen.extend(os.read(ours, 65536))

    try:
        read_until(b"peer-2 ready")
        assert b"paste this" in seen and b"credentials" in seen
        os.write(ours, b"\x03")
        read_until(b"stopping every peer")
        read_until(b"data")
        assert process.wait(DEADLINE_S) == 0
        while select.select([ours], [], [], 0)[0]:
            try:
                seen.extend(os.read(ours, 65536))
            except OSError:
                break  # the terminal has no other end any more
        after = bytes(seen).partition(b"stopping every peer")[2]
        assert b"Unclosed" not in after and b"Traceback" not in after
        assert not any(live_pid(place) for place in Layout(data, 2, 1, 3).places)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(ours)


def test_dev_start_needs_a_running_dev(tmp_path: Path) -> None:
    """Goal: without a cluster, or with one that does not run, `start` says what to do."""
    cli = CliRunner()
    nothing = cli.invoke(dev, ["start", "peer-2", "--data", str(tmp_path)])
    assert nothing.exit_code == 1 and "no dev cluster was founded" in nothing.output
    Layout(tmp_path, 3, 7400, 3).save()
    stopped = cli.invoke(dev, ["--data", str(tmp_path), "start", "peer-2"])
    assert stopped.exit_code == 1 and "no dev cluster is running" in stopped.output
    unknown = cli.invoke(dev, ["start", "peer-9", "--data", str(tmp_path)])
    assert unknown.exit_code == 1 and "there are peer-1, peer-2, peer-3" in unknown.output


def test_dev_start_brings_a_peer_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: `start` returns with the pid once the peer has written it, or with the peer's last words."""
    monkeypatch.setattr("tools.devrun.peer_command", command_of({"peer-2": "broken"}))
    layout = layout_in(tmp_path, 2)
    layout.save()
    lock = take_lock(tmp_path)
    cli = CliRunner()
    try:
        layout.places[0].directory.mkdir()
        started = cli.invoke(dev, ["start", "1", "--data", str(tmp_path)])
        assert started.exit_code == 0, started.output
        pid = live_pid(layout.places[0])
        assert pid is not None and f"pid {pid}" in started.output
        twice = cli.invoke(dev, ["start", "1", "--data", str(tmp_path)])
        assert twice.exit_code == 1 and "is running already" in twice.output
        broken = cli.invoke(dev, ["start", "2", "--data", str(tmp_path)])
        assert broken.exit_code == 1 and "no space left for a peer" in broken.output
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    finally:
        os.close(lock)
