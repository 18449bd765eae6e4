"""Goal: where a dev cluster lives: its ports, directories, command lines and pid files; nothing is started by mistake."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.dev_world import (
    layout_in,
)
from tools.devcluster import exit_words
from tools.devlayout import (
    DevError,
    Layout,
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


def test_peers_are_ours_wherever_we_are_called(tmp_path: Path) -> None:
    """Goal: a directory with a tools.py, or a ring.py, is as good as any other to start a cluster in."""
    (tmp_path / "tools.py").write_text("raise SystemExit('not ours')")
    command = [sys.executable, "-m", "tools.cli", "version"]
    ran = subprocess.run(
        command, env=peer_environment(), cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr


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


def test_logs_of_dev_peers_are_text() -> None:
    """Goal: what peers of a dev cluster write into their log files is for people, though these are no terminals."""
    assert peer_environment()["ATOLL_LOG_FORMAT"] == "text"
