"""Goal: `atoll dev add, freeze, corrupt` do what they say to a running cluster, and nothing when they cannot."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.dev_world import DEADLINE_S, cluster_of, command_of, is_gone, layout_in, until
from tools.dev import dev
from tools.devlayout import Layout, free_port, is_frozen, live_pid, load, take_lock
from tools.rot import flip_bits


def test_dev_add_starts_a_peer_that_the_running_dev_shows_and_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: `add` gives the next name and ports, the running `atoll dev` takes the peer in and stops it in the end."""
    monkeypatch.setattr("tools.devrun.peer_command", command_of({}))
    layout = Layout(tmp_path, 1, free_port(2), 1)
    changes: list[str] = []

    async def run() -> None:
        cluster = cluster_of(layout, changes)
        lock = take_lock(tmp_path)
        try:
            await cluster.start(DEADLINE_S)
            watch = asyncio.create_task(cluster.watch())
            added = await asyncio.to_thread(CliRunner().invoke, dev, ["add", "--data", str(tmp_path)])
            assert added.exit_code == 0 and "peer-2 started" in added.output, added.output
            await until(lambda: "peer-2 ready" in changes)
            watch.cancel()
        finally:
            await cluster.stop()
            os.close(lock)

    asyncio.run(run())
    saved = load(tmp_path)
    assert saved is not None and saved.peers == 2
    assert live_pid(saved.places[1]) is None


def test_dev_add_changes_nothing_when_it_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: without a running dev, or with a peer that does not start, the cluster's shape stays; the reason is told."""
    monkeypatch.setattr("tools.devrun.peer_command", command_of({"peer-2": "broken"}))
    cli = CliRunner()
    Layout(tmp_path, 1, free_port(2), 1).save()
    stopped = cli.invoke(dev, ["add", "--data", str(tmp_path)])
    assert stopped.exit_code == 1 and "no dev cluster is running" in stopped.output
    lock = take_lock(tmp_path)
    try:
        broken = cli.invoke(dev, ["add", "--data", str(tmp_path)])
        assert broken.exit_code == 1 and "no space left for a peer" in broken.output
        assert not (tmp_path / "peer-2").exists()
        (tmp_path / "peer-2").mkdir()
        again = cli.invoke(dev, ["add", "--data", str(tmp_path)])
        assert again.exit_code == 1 and "exists already" in again.output
    finally:
        os.close(lock)
    saved = load(tmp_path)
    assert saved is not None and saved.peers == 1


def test_dev_freeze_and_start(tmp_path: Path) -> None:
    """Goal: `freeze` stops a peer in its tracks, `start` lets it go on, and a frozen peer still ends with the cluster."""
    layout = layout_in(tmp_path, 1)
    cli = CliRunner()

    async def run() -> int:
        cluster = cluster_of(layout, [])
        try:
            await cluster.start(DEADLINE_S)
            pid = live_pid(layout.places[0])
            assert pid is not None
            frozen = cli.invoke(dev, ["freeze", "1", "--data", str(tmp_path)])
            assert frozen.exit_code == 0 and "dev start peer-1" in frozen.output
            await until(lambda: is_frozen(pid))
            twice = cli.invoke(dev, ["freeze", "1", "--data", str(tmp_path)])
            assert twice.exit_code == 1 and "frozen already" in twice.output
            started = cli.invoke(dev, ["start", "1", "--data", str(tmp_path)])
            assert started.exit_code == 0 and "goes on" in started.output
            await until(lambda: not is_frozen(pid))
            os.kill(pid, signal.SIGSTOP)
        finally:
            await cluster.stop()
        assert cluster.peers[0].detail == ""  # it ended by itself
        return pid

    assert is_gone(asyncio.run(run()))


def test_flip_bits_damages_only_what_was_written(tmp_path: Path) -> None:
    """Goal: `dev corrupt` flips as many bits as it says, none of them in a hole, and tells when there is nothing."""
    segments = tmp_path / "peer-1" / "segments"
    assert flip_bits(segments, 5, random.Random(1)) == 0
    segments.mkdir(parents=True)
    Layout(tmp_path, 1, 7400, 1).save()
    empty = CliRunner().invoke(dev, ["corrupt", "1", "--data", str(tmp_path)])
    assert empty.exit_code == 1 and "no chunks" in empty.output
    file = segments / "1"
    with file.open("wb") as out:
        out.truncate(1 << 20)
        out.seek(1 << 16)
        out.write(bytes(1 << 12))
    before = file.stat().st_blocks
    told = CliRunner().invoke(dev, ["corrupt", "1", "--bits", "1", "--data", str(tmp_path)])
    assert told.exit_code == 0 and "1 bit flipped" in told.output
    content = file.read_bytes()
    assert sum(bin(byte).count("1") for byte in content) == 1
    assert not any(content[: 1 << 16]) and file.stat().st_blocks == before
