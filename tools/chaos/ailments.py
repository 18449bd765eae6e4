"""Disks that are ill and not dead: one that is slow, one that takes no writes. Both need root, and end without a trace.

A slow disk is a cgroup whose processes may write to a device only so often a second: the kernel makes them wait in their
writes and syncs. A read-only one is a directory whose files the kernel refuses to change (`chattr +i`): it cannot be
remounted, as long as a peer has files open there for writing. All but the database's index are taken, which is mapped into
memory, so that writing to it would be a fatal signal.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
INDEX_SUFFIX = "-shm"


class NoAilment(Exception):
    """This machine cannot be made to have it; says why."""


class SlowDisk:
    """From its making to `end`, a process may write to the file system's device `writes_per_s` times a second."""

    def __init__(self, pid: int, mounted: Path, writes_per_s: int = 1) -> None:
        """Raises NoAilment. `mounted`: of a whole device, such as a loop device."""
        device = os.stat(mounted).st_dev
        self._pid = pid
        self._name = f"{os.major(device)}:{os.minor(device)}"
        old = (CGROUPS / "blkio").is_dir()
        root = CGROUPS / "blkio" if old else CGROUPS
        self._home = root / _cgroup_of(pid, "blkio" if old else "").lstrip("/")
        self._group = root / f"atoll-slow-{pid}"
        try:
            if not old:
                (CGROUPS / "cgroup.subtree_control").write_text("+io")
            self._group.mkdir()
            limit = self._group / ("blkio.throttle.write_iops_device" if old else "io.max")
            limit.write_text(f"{self._name} {writes_per_s if old else f'wiops={writes_per_s}'}")
            (self._group / "cgroup.procs").write_text(str(pid))
        except OSError as error:
            self.end()
            raise NoAilment(f"no limit of a device's writes: {error}") from error

    def end(self) -> None:
        """As before; a process that is gone does not matter."""
        with suppress(OSError):
            (self._home / "cgroup.procs").write_text(str(self._pid))
        with suppress(OSError):
            self._group.rmdir()


def _cgroup_of(pid: int, controller: str) -> str:
    """The path of a process's cgroup in one hierarchy; "" in the unified one. Raises NoAilment."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controller in controllers.split(","):
                return path
    raise NoAilment(f"process {pid} is in no cgroup that limits writes")


def make_read_only(directory: Path) -> None:
    """From now nothing changes in this data directory. Raises NoAilment; nothing is changed then."""
    try:
        _chattr("+i", directory)
    except NoAilment:
        make_writable(directory)
        raise


def make_writable(directory: Path) -> None:
    """The end of `make_read_only`."""
    with suppress(NoAilment):
        _chattr("-i", directory)


def _chattr(flag: str, directory: Path) -> None:
    inside = [path for path in sorted(directory.rglob("*")) if not path.name.endswith(INDEX_SUFFIX)]
    names = [str(path) for path in (directory, *inside) if path.is_file() or path.is_dir()]
    try:
        done = subprocess.run(["chattr", flag, *names], capture_output=True, text=True)
    except OSError as error:
        raise NoAilment(f"chattr: {error.strerror}") from error
    if done.returncode != 0:
        raise NoAilment(done.stderr.strip() or "chattr failed")
