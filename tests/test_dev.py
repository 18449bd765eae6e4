"""Goal: `atoll dev` starts, watches, adopts and stops peers, and leaves none behind; with stand-ins for peers."""

from __future__ import annotations

import asyncio
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.dev_world import command_of
from tools.dev import dev
from tools.devcluster import FULL_DISK, DevCluster, Peer, exit_words
from tools.devlayout import (
    DevError,
    Layout,
    Place,
    check_ports,
    free_port,
    is_running,
    live_pid,
    load,
    open_log,
    peer_command,
    peer_environment,
    settle,
    take_lock,
)
from tools.devview import panel_lines

DEADLINE_S = 30.0


def layout_in(data: Path, peers: int = 3) -> Layout:
    return Layout(data, peers, free_port(peers), 3)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, at most DEADLINE_S."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def until_now(condition: Callable[[], bool]) -> None:
    """The same without a loop."""
    asyncio.run(until(condition))


def start_by_hand(layout: Layout, place: Place) -> subprocess.Popen[bytes]:
    """A peer that no `dev` started."""
    return subprocess.Popen(command_of({})(place, layout), start_new_session=True)


def is_gone(pid: int) -> bool:
    """No such process, or one that only waits for its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def cluster_of(layout: Layout, changes: list[str], **modes: str) -> DevCluster:
    def changed(peer: Peer) -> None:
        changes.append(f"{peer.place.name} {peer.state}")

    named = {name.replace("_", "-"): mode for name, mode in modes.items()}
    return DevCluster(layout, changed, command_of(named))


# --- layout


def test_ports_and_names(tmp_path: Path) -> None:
    """Goal: peer i uses port+10*(i-1) and the two above, in DATA/peer-i."""
    places = Layout(tmp_path, 3, 7400, 3).places
    assert [(p.name, p.port, p.api_port, p.peer_port) for p in places] == [
        ("peer-1", 7400, 7401, 7402),
        ("peer-2", 7410, 7411, 7412),
        ("peer-3", 7420, 7421, 7422),
    ]
    assert places[1].directory == tmp_path / "peer-2" and places[1].api_url == "http://127.0.0.1:7411"


def test_commands_found_join_and_restart(tmp_path: Path) -> None:
    """Goal: the first founds, the others join it with its key, and a used directory needs only --data."""
    layout = Layout(tmp_path, 2, 7400, 3)
    first, second = layout.places
    assert peer_command(first, layout)[1:] == [
        *("-m", "tools.cli", "peer", "--data", str(first.directory), "--host", "127.0.0.1"),
        *("--port", "7400", "--name", "peer-1", "--found", "--replicas", "3"),
    ]
    assert peer_command(second, layout)[-4:] == [
        *("--join", "127.0.0.1:7402", "--cluster-key-file", str(first.directory / "cluster.key")),
    ]
    second.directory.mkdir()
    (second.directory / "peer.json").write_text("{}")
    assert peer_command(second, layout)[-2:] == ["--data", str(second.directory)]
    third = layout.grown()
    assert peer_command(third.places[2], third)[-6:-2] == [
        *("--join", "127.0.0.1:7402", "--join", "127.0.0.1:7412"),
    ]


def test_a_restart_keeps_the_shape(tmp_path: Path) -> None:
    """Goal: the founding options are remembered; contradicting ones are refused, with the remedy."""
    assert load(tmp_path) is None
    founded = settle(tmp_path, 5, 7500, None)
    assert founded == Layout(tmp_path, 5, 7500, 3)
    founded.save()
    assert settle(tmp_path, None, None, None) == founded
    assert settle(tmp_path, 6, 7500, 3).peers == 6
    for asked in ((None, 7400, None), (None, None, 2), (3, None, None)):
        with pytest.raises(DevError, match="another --data"):
            settle(tmp_path, *asked)
    (tmp_path / "dev.json").write_text("{")
    with pytest.raises(DevError, match="cannot read"):
        load(tmp_path)


def test_port_in_use_is_named(tmp_path: Path) -> None:
    """Goal: a taken port, TCP or UDP, is named with its use before anything starts."""
    layout = layout_in(tmp_path, 1)
    check_ports(layout.places)
    for kind, port, words in (
        (socket.SOCK_STREAM, layout.places[0].api_port, "API of peer-1"),
        (socket.SOCK_DGRAM, layout.places[0].peer_port, "gossip, UDP of peer-1"),
    ):
        with socket.socket(socket.AF_INET, kind) as holder:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind(("127.0.0.1", port))
            if kind == socket.SOCK_STREAM:
                holder.listen()
            with pytest.raises(DevError, match=words):
                check_ports(layout.places)
    with pytest.raises(DevError, match="choose a lower --port"):
        check_ports(Layout(tmp_path, 2, 65530, 3).places)


def test_ports_are_given_to_one_process() -> None:
    """Goal: two that ask at the same moment are not given the same free ports; one that asks again is."""
    ours = free_port(3)
    code = "from tools.devlayout import free_port; print(free_port(3))"
    theirs = int(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    )
    assert theirs != ours and free_port(3) == ours


def test_one_dev_a_directory(tmp_path: Path) -> None:
    """Goal: a second `dev` on a directory is refused and told who has it; the lock ends with its holder."""
    assert not is_running(tmp_path)
    lock = take_lock(tmp_path)
    assert is_running(tmp_path)
    with pytest.raises(DevError, match=rf"running in .* already \(pid {os.getpid()}\)"):
        take_lock(tmp_path)
    os.close(lock)
    assert not is_running(tmp_path)


def test_live_pid_is_not_fooled(tmp_path: Path) -> None:
    """Goal: no file, nonsense, a dead pid, a recycled pid: none of them is a running peer."""
    place = Layout(tmp_path, 1, 7400, 3).places[0]
    assert live_pid(place) is None
    place.directory.mkdir()
    path = place.directory / "peer.pid"
    for content in ("", "x", "-1", "4194305"):
        path.write_text(content)
        assert live_pid(place) is None
    path.write_text(f"{os.getpid()}\n")
    assert live_pid(place) == os.getpid()
    os.utime(path, (1_000_000_000, 1_000_000_000))  # written long before this process started
    assert live_pid(place) is None


def test_our_options_are_not_the_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: ATOLL_PORT for `dev` must not give all peers one port; what is meant for peers passes."""
    monkeypatch.setenv("ATOLL_PORT", "7500")
    monkeypatch.setenv("ATOLL_ROOT_ACCESS_KEY", "root")
    environment = peer_environment()
    assert "ATOLL_PORT" not in environment and environment["ATOLL_ROOT_ACCESS_KEY"] == "root"


def test_logs_are_bounded(tmp_path: Path) -> None:
    """Goal: a large log is set aside at the next start, once."""
    place = Layout(tmp_path, 1, 7400, 3).places[0]
    place.log.write_bytes(b"x" * (2 << 20))
    with open_log(place) as log:
        log.write(b"secret key")
    assert place.log.read_bytes() == b"secret key" and place.log.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "peer-1.log.1").stat().st_size == 2 << 20


def test_exit_words() -> None:
    """Goal: how a peer ended is said in words."""
    assert exit_words(2) == "exited with 2"
    assert exit_words(-9) == "killed by SIGKILL"
    assert exit_words(-77) == "killed by signal 77"


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
