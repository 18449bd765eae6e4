"""Goal: `atoll dev --tls` is a cluster like any other, reached with nothing but its profile; with real peers."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from peer.client import Client
from peer.client.profile import load_profile
from tests.dev_world import DEADLINE_S, until_now
from tools.devlayout import free_port, load, peer_environment

READY = "Ctrl-C stops them"


@contextmanager
def dev(home: Path, *words: str) -> Iterator[str]:
    """A running `atoll dev` in `home`; what it said when it was ready."""
    log = home / "dev.log"
    command = [sys.executable, "-m", "tools.cli", "dev", "--plain", "--data", str(home / "data"), *words]
    environment = peer_environment() | {"ATOLL_CONFIG_HOME": str(home / "config"), "NO_COLOR": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        until_now(lambda: process.poll() is not None or READY in log.read_text())
        assert process.poll() is None, log.read_text()
        yield log.read_text()
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 0, log.read_text()


def atoll(home: Path, *words: str) -> str:
    """What a command says; it must end well."""
    environment = peer_environment() | {"ATOLL_CONFIG_HOME": str(home / "config"), "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tools.cli", *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


def test_everything_goes_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: commands, programs, faults on purpose and one peer more work over TLS, with nothing but the profile; the next
    start remembers it, and --no-tls undoes it with the same data."""
    monkeypatch.setenv("ATOLL_CONFIG_HOME", str(tmp_path / "config"))
    port = free_port(3)
    at = ("--data", str(tmp_path / "data"))
    with dev(tmp_path, "--tls", "--peers", "2", "--replicas", "2", "--port", str(port)) as said:
        assert f"https://127.0.0.1:{port + 1}" in said and "http://" not in said
        atoll(tmp_path, "mb", "box")
        atoll(tmp_path, "put", __file__, "box/file")
        assert atoll(tmp_path, "cat", "box/file") == Path(__file__).read_text()
        atoll(tmp_path, "dev", "kill", "peer-2", *at)
        atoll(tmp_path, "dev", "start", "peer-2", *at)
        assert "https://" in atoll(tmp_path, "dev", "add", *at)
        profile = load_profile()
        assert profile.name == "dev" and profile.ca_file == str(tmp_path / "data" / "peer-1" / "ca.pem")
        with Client.from_profile() as client:
            until_now(lambda: len(client.cluster().nodes) == 3)
            assert all(node.api_url.startswith("https://") for node in client.cluster().nodes)
    with dev(tmp_path) as said:
        assert "https://" in said
        assert atoll(tmp_path, "ls", "box", "-o", "name") == "file\n"
    with dev(tmp_path, "--no-tls") as said:
        assert "https://" not in said
        assert atoll(tmp_path, "cat", "box/file") == Path(__file__).read_text()
    layout = load(tmp_path / "data")
    assert layout is not None and (layout.peers, layout.tls, layout.ca_file) == (3, "off", None)
