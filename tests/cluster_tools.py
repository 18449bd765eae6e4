"""What the scenario tests on real processes share: trees of files, contents made from numbers, waiting, memory."""

from __future__ import annotations

import filecmp
import os
import shutil
import sysconfig
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from blake3 import blake3

from peer.client import Client, ObjectInfo
from peer.errors import NotFound
from tools.background import Background

MIB = 1 << 20
POLL_S = 0.02
DEADLINE_S = 60.0
"""For conditions that hold within a second on an idle machine: a busy one must not fail a test."""


def wait_until(holds: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Return when `holds()`; AssertionError naming `what` at the deadline."""
    end_s = time.monotonic() + deadline_s
    while not holds():
        assert time.monotonic() < end_s, f"not within {deadline_s:g} s: {what}"
        time.sleep(POLL_S)


def content(number: int, size: int) -> bytes:
    """Bytes that only this number has."""
    return blake3(number.to_bytes(8, "big")).digest(size)


def make_file(path: Path, size: int) -> None:
    """A file of `size` bytes, no two MiB of it equal: nothing is stored once that should be stored twice."""
    with path.open("wb") as file:
        for number in range(0, size, MIB):
            file.write(content(number, min(MIB, size - number)))


def standard_library(target: Path, packages: Iterable[str] | None = None) -> int:
    """Copy Python's own library (or some packages of it) to `target`: a real tree of files. Their number."""
    source = Path(sysconfig.get_path("stdlib"))
    strangers = shutil.ignore_patterns("site-packages", "__pycache__", "config-*", "*.so", "*.a")
    for name in packages or [""]:
        shutil.copytree(source / name, target / name, ignore=strangers, dirs_exist_ok=True)
    return len(files_below(target))


def files_below(root: Path) -> dict[str, int]:
    """Relative path and size of every file."""
    return {
        str((Path(folder) / name).relative_to(root)): (Path(folder) / name).stat().st_size
        for folder, _, names in os.walk(root)
        for name in names
    }


def assert_same_tree(left: Path, right: Path) -> None:
    """The same files with the same bytes."""
    names = files_below(left)
    assert names == files_below(right)
    differing = [name for name in names if not filecmp.cmp(left / name, right / name, shallow=False)]
    assert not differing


def listing(client: Client, bucket: str, prefix: str = "") -> list[ObjectInfo]:
    """Every object, page by page."""
    return [entry for entry in client.list(bucket, prefix) if isinstance(entry, ObjectInfo)]


def exists(client: Client, bucket: str, key: str) -> bool:
    try:
        client.stat(bucket, key)
    except NotFound:
        return False
    return True


class Writer(Background):
    """Puts objects one after the other in a thread until told to stop, and remembers those acknowledged.

    Contents come from numbers, so `check` can verify every byte later. Every third object is written twice
    and every fifth one deleted again: what is read later must be the last of these states.
    """

    def __init__(
        self,
        client: Client,
        bucket: str,
        prefix: str,
        *,
        size: int = 3000,
        most: int = 400,
        pace_s: float = 0.0,
    ) -> None:
        self._pace_s = pace_s  # between two objects
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._size = size
        self._most = most
        super().__init__(f"writer of {prefix}")
        self.failure: Exception | None = None
        self.state: dict[str, int | None] = {}
        """Key -> number whose content it has, None when deleted."""

    def _run(self) -> None:
        number = 0
        try:
            while not self._stop.wait(self._pace_s) and number < self._most:
                self._step(number)
                number += 1
        except Exception as failure:  # noqa: BLE001 - told by `check` in the test's own thread
            self.failure = failure

    def _step(self, number: int) -> None:
        key = f"{self._prefix}{number:06d}"
        versions = [number, number + 1_000_000] if number % 3 == 0 else [number]
        for version in versions:
            self._client.put(self._bucket, key, content(version, self._size))
            self.state[key] = version
        if number % 5 == 0:
            self._client.delete(self._bucket, key)
            self.state[key] = None

    def wait_for(self, acknowledged: int) -> None:
        """Until so many keys more than now are written (or as many as there will ever be)."""
        goal = min(len(self.state) + acknowledged, self._most)
        wait_until(
            lambda: self.failure is not None or len(self.state) >= goal,
            f"{acknowledged} further writes",
            2 * DEADLINE_S,
        )

    def check(self, client: Client) -> int:
        """Read all of it back through `client`, listing included; how many live objects there are."""
        assert self.failure is None, f"a write failed: {self.failure!r}"
        live = {key: version for key, version in self.state.items() if version is not None}
        assert [entry.key for entry in listing(client, self._bucket, self._prefix)] == sorted(live)
        for key, version in self.state.items():
            if version is None:
                assert not exists(client, self._bucket, key), key
            else:
                assert client.get(self._bucket, key).read() == content(version, self._size), key
        return len(live)
