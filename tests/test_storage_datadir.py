"""A data directory is locked by a live peer, checked with remedies, and written atomically."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from peer.errors import StartupError
from peer.storage import datadir, durable
from peer.storage.ballast import Ballast
from peer.storage.datadir import DataDir, floor_bytes
from peer.storage.syscalls import FileSystem, file_system

MIB = 1 << 20


def test_layout_and_modes(tmp_path: Path) -> None:
    """A new directory is 0700 with its rooms; peer.pid is there while it is open; secrets are 0600."""
    path = tmp_path / "deep" / "peer"
    directory = DataDir.open(path)
    assert path.stat().st_mode & 0o777 == 0o700
    assert sorted(p.name for p in path.iterdir()) == ["peer.pid", "rows", "segments"]
    assert (path / "peer.pid").read_text() == f"{os.getpid()}\n"
    directory.write_json("root.json", {"access_key": "A", "secret_key": "S"})
    directory.write_cluster_key(bytes(range(32)))
    for name in ("root.json", "cluster.key"):
        assert (path / name).stat().st_mode & 0o777 == 0o600
    assert directory.read_json("root.json") == {"access_key": "A", "secret_key": "S"}
    assert directory.cluster_key() == bytes(range(32))
    assert directory.read_json("peer.json") is None
    directory.close()
    directory.close()
    assert not (path / "peer.pid").exists()


def test_in_use_by_a_live_peer(tmp_path: Path) -> None:
    """A second peer is refused with the first one's pid; after SIGKILL the directory is free at once."""
    program = (
        "import sys, time; from pathlib import Path; from peer.storage.datadir import DataDir\n"
        f"d = DataDir.open(Path({str(tmp_path)!r})); print('open', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdin is not None
    try:
        assert process.stdout.readline() == "open\n"
        with pytest.raises(StartupError, match=f"in use by a running peer \\(pid {process.pid}\\)"):
            DataDir.open(tmp_path)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stdin.close()
    DataDir.open(tmp_path).close()


def test_files_of_somebody_else(tmp_path: Path) -> None:
    """A directory of other things is refused and left as it was, mode included; one with only a key is not."""
    (tmp_path / "thesis.tex").touch()
    tmp_path.chmod(0o755)
    with pytest.raises(StartupError, match=r"thesis\.tex"):
        DataDir.open(tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == 0o755
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    (tmp_path / "thesis.tex").rename(tmp_path / "cluster.key")
    DataDir.open(tmp_path).close()


def test_a_file_instead_of_a_directory(tmp_path: Path) -> None:
    """An impossible path is an error that names it."""
    (tmp_path / "file").touch()
    with pytest.raises(StartupError, match="cannot be used"):
        DataDir.open(tmp_path / "file")


def test_file_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Network file systems are refused by name; memory is warned of."""
    assert file_system(tmp_path).kind in ("local", "memory")
    monkeypatch.setattr(datadir, "file_system", lambda _: FileSystem("NFS", "network"))
    with pytest.raises(StartupError, match="NFS, a network file system"):
        DataDir.open(tmp_path)
    monkeypatch.setattr(datadir, "file_system", lambda _: FileSystem("tmpfs", "memory"))
    directory = DataDir.open(tmp_path)
    assert any("tmpfs" in warning for warning in directory.warnings)
    directory.close()


def test_space_and_inodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room a new directory is refused, also one that holds only what an operator or a refused start left; a
    peer's starts with a warning, to serve and to delete."""
    real = os.statvfs(tmp_path)
    scarce = {"f_bavail": 10 * MIB // real.f_frsize, "f_favail": 5, "f_files": 1000}

    class Scarce:
        def __getattr__(self, name: str) -> int:
            return scarce[name] if name in scarce else getattr(real, name)

    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", lambda _: Scarce())
        with pytest.raises(StartupError, match=r"10 MiB free.*5 inodes"):
            DataDir.open(tmp_path / "new")
    (tmp_path / "refused").mkdir()
    (tmp_path / "refused" / "cluster.key").write_text("00" * 32)
    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", lambda _: Scarce())
        with pytest.raises(StartupError, match="a new peer needs 192"):
            DataDir.open(tmp_path / "refused")
    DataDir.open(tmp_path / "old").close()
    (tmp_path / "old" / "peer.json").write_text("{}")
    monkeypatch.setattr(os, "statvfs", lambda _: Scarce())
    directory = DataDir.open(tmp_path / "old")
    assert len(directory.warnings) == 2
    directory.close()


def test_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The soft limit is raised as far as allowed; a hopeless one is refused with the remedy."""
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    DataDir.open(tmp_path).close()
    assert asked == [(4096, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 100))
    with pytest.raises(StartupError, match="ulimit -n"):
        DataDir.open(tmp_path)


def test_damaged_small_files(tmp_path: Path) -> None:
    """A damaged peer.json or cluster.key stops the start with its name; it is never taken for absent."""
    directory = DataDir.open(tmp_path)
    (tmp_path / "peer.json").write_text("{half")
    with pytest.raises(StartupError, match=r"peer\.json"):
        directory.read_json("peer.json")
    for content in ("xyz", "00" * 31):
        (tmp_path / "cluster.key").write_text(content)
        with pytest.raises(StartupError, match="key"):
            directory.cluster_key()
    directory.close()


def test_a_failed_write_keeps_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Atomic: when syncing the new content fails the old one stays and nothing is left lying about."""
    path = tmp_path / "peer.json"
    durable.write_file(path, b"old")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        durable.write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["peer.json"]


def test_ballast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is taken when there is plenty, given up once, and taken again when space is back."""
    ballast = Ballast(tmp_path / "ballast", MIB)
    free_mib = 1

    def space(_: object) -> Any:
        return SimpleNamespace(f_bavail=free_mib * 256, f_frsize=4096)

    monkeypatch.setattr(os, "statvfs", space)
    assert not ballast.take() and not ballast.release() and not ballast.roomy
    free_mib = 2
    assert ballast.take() and ballast.roomy
    assert (tmp_path / "ballast").stat().st_blocks * 512 >= MIB
    assert Ballast(tmp_path / "ballast", MIB).held, "a restart finds it"
    assert ballast.release() and not ballast.release()
    assert not (tmp_path / "ballast").exists()
    free_mib = 1  # what it gave up is free now, and nothing else: for deletions only
    ballast.measure()
    assert not ballast.roomy and not ballast.take()
    free_mib = 30
    assert ballast.take() and ballast.roomy
    free_mib = 0
    ballast.measure()
    assert not ballast.roomy, "what is kept free beside the ballast is used up"


@pytest.mark.parametrize(("total_gib", "floor_mib"), [(1, 64), (10, 204), (100, 2048), (10_000, 4096)])
def test_floor(total_gib: int, floor_mib: int) -> None:
    """2 % of the file system, between 64 MiB and 4 GiB."""
    assert floor_bytes(total_gib << 30) // MIB == floor_mib


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.ENOSPC, "free some space"), (errno.EROFS, "writable"), (errno.ELOOP, "--data")],
)
def test_an_unusable_directory_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
) -> None:
    """Goal: whatever the system says of the directory, the message has a remedy."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(datadir, "write_file", refuse)
    with pytest.raises(StartupError, match=f"{os.strerror(number)}; .*{remedy}"):
        DataDir.open(tmp_path / "new")


def test_a_disk_for_each(tmp_path: Path) -> None:
    """Goal: rows on a disk of their own have their ballast there, where a full one needs it; the floor of chunks is that of
    the disk they lie on."""
    if not os.path.ismount("/dev/shm"):
        pytest.skip("there is no second file system here")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        (tmp_path / "rows").symlink_to(other)
        directory = DataDir.open(tmp_path)
        space = os.statvfs(tmp_path)
        assert directory.floor_bytes == floor_bytes(space.f_blocks * space.f_frsize)
        memory = os.statvfs(other)
        assert directory.ballast.measure() // MIB == memory.f_bavail * memory.f_frsize // MIB
        assert any("is on tmpfs" in warning for warning in directory.warnings), "each disk is looked at"
        directory.ballast.size = MIB
        assert directory.ballast.take()
        assert [file.name for file in Path(other).iterdir()] == ["ballast"]
        directory.close()
