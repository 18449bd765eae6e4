"""Simulated files for chunk segments: completions come in any order, a crash loses unsynced blocks.

What POSIX and a disk with a volatile cache allow, no more:

B1  A write is visible to readers when it returned. Until a sync covers it, each of its 4 KiB blocks, apart
    from the others, may after a crash hold the old bytes or any of those written since.
B2  A sync covers the writes of its file that returned before it began, and the file's length.
B3  A created file survives a crash for certain only once its directory was synced; so does a removal.
B4  A punched range reads as zeros; to a crash it is a write of zeros.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

BLOCK_BYTES = 4096
ZEROS = bytes(BLOCK_BYTES)
OK = None
Done = Callable[[Exception | None], None]


@dataclass(eq=False)
class _Version:
    """A block's bytes. `order` counts the returned writes of the directory; 0 while it is in flight."""

    data: bytes
    order: int = 0


NEVER_WRITTEN = _Version(ZEROS)


@dataclass
class _File:
    """`durable` and `current` map block numbers to versions, `loose` to those that no sync has covered."""

    durable: dict[int, _Version] = field(default_factory=dict)
    current: dict[int, _Version] = field(default_factory=dict)
    loose: dict[int, list[_Version]] = field(default_factory=dict)
    length: int = 0
    durable_length: int = 0
    named: bool = False  # its directory entry is durable
    removed: bool = False  # removed, and the directory not synced since


class SimFiles:
    """One directory of files. `later(action)` runs an action after a time it draws: the order is its own."""

    def __init__(self, later: Callable[[Callable[[], None]], None]) -> None:
        self._later = later
        self._files: dict[str, _File] = {}
        self.alive = True
        self.writes = 0

    # Operations; `done` is called once, later, with an OSError or None

    def create(self, name: str, length: int, done: Done) -> None:
        """Create and preallocate. The bytes read as zeros."""

        def act() -> None:
            if name in self._files and not self._files[name].removed:
                return done(FileExistsError(name))
            self._files[name] = _File(length=length)
            done(OK)

        self._when_alive(act)

    def write(self, name: str, offset: int, data: bytes, done: Done) -> None:
        """Write whole blocks at a block boundary. In flight, some of it may already be on the disk."""
        assert offset % BLOCK_BYTES == 0 == len(data) % BLOCK_BYTES, "O_DIRECT wants whole blocks"
        file = self._open(name)
        first = offset // BLOCK_BYTES
        count = len(data) // BLOCK_BYTES
        cut = [data[i * BLOCK_BYTES : (i + 1) * BLOCK_BYTES] for i in range(count)]
        versions = {first + i: _Version(bytes(block)) for i, block in enumerate(cut)}
        for number, version in versions.items():
            file.loose.setdefault(number, []).append(version)

        def act() -> None:
            self.writes += 1
            for number, version in versions.items():
                version.order = self.writes
                file.current[number] = version
            file.length = max(file.length, offset + len(data))
            done(OK)

        self._when_alive(act)

    def punch(self, name: str, offset: int, length: int, done: Done) -> None:
        self.write(name, offset, bytes(length), done)

    def sync(self, name: str, done: Done) -> None:
        """fdatasync: covers what returned before this call (B2)."""
        file = self._open(name)
        covered = {number: file.current[number] for number in file.loose if number in file.current}
        length = file.length

        def act() -> None:
            for number, version in covered.items():
                if version.order > file.durable.get(number, NEVER_WRITTEN).order:
                    file.durable[number] = version
                rest = [v for v in file.loose.get(number, []) if not 0 < v.order <= version.order]
                if rest:
                    file.loose[number] = rest
                else:
                    file.loose.pop(number, None)
            file.durable_length = max(file.durable_length, length)
            done(OK)

        self._when_alive(act)

    def sync_directory(self, done: Done) -> None:
        present = [name for name, file in self._files.items() if not file.removed]
        gone = [name for name, file in self._files.items() if file.removed]

        def act() -> None:
            for name in present:
                if name in self._files:
                    self._files[name].named = True
            for name in gone:
                if name in self._files and self._files[name].removed:
                    del self._files[name]
            done(OK)

        self._when_alive(act)

    def remove(self, name: str, done: Done) -> None:
        file = self._open(name)

        def act() -> None:
            file.removed = True
            done(OK)

        self._when_alive(act)

    def truncate(self, name: str, length: int, done: Done) -> None:
        assert length % BLOCK_BYTES == 0
        file = self._open(name)

        def act() -> None:
            self._truncate(file, length)
            done(OK)

        self._when_alive(act)

    @staticmethod
    def _truncate(file: _File, length: int) -> None:
        blocks: dict[int, Any]
        for blocks in (file.current, file.loose, file.durable):
            for number in [n for n in blocks if n * BLOCK_BYTES >= length]:
                del blocks[number]
        file.length = file.durable_length = length

    # Looking

    def read(self, name: str, offset: int, length: int) -> bytes:
        """What a pread returns now; shorter at the end of the file."""
        file = self._open(name)
        length = max(0, min(length, file.length - offset))
        first, last = offset // BLOCK_BYTES, (offset + length + BLOCK_BYTES - 1) // BLOCK_BYTES
        data = b"".join(file.current.get(number, NEVER_WRITTEN).data for number in range(first, last))
        return data[offset - first * BLOCK_BYTES :][:length]

    def names(self) -> list[str]:
        return sorted(name for name, file in self._files.items() if not file.removed)

    def length(self, name: str) -> int:
        return self._open(name).length

    def used(self, name: str) -> int:
        """Bytes of blocks with data in them."""
        return BLOCK_BYTES * sum(1 for version in self._open(name).current.values() if any(version.data))

    def cut(self, name: str, length: int) -> None:
        """Truncate now, durably: what a start does before it serves."""
        self._truncate(self._open(name), length)

    def corrupt(self, name: str, offset: int, rng: random.Random) -> None:
        """Flip a bit behind everyone's back."""
        file = self._open(name)
        number = offset // BLOCK_BYTES
        held = file.current.get(number, NEVER_WRITTEN)
        block = bytearray(held.data)
        block[offset % BLOCK_BYTES] ^= 1 << rng.randrange(8)
        file.current[number] = file.durable[number] = _Version(bytes(block), held.order)

    # The end

    def crash(self, rng: random.Random, later: Callable[[Callable[[], None]], None]) -> SimFiles:
        """Power loss: what the next process finds. Nothing under way here is heard of again."""
        self.alive = False
        after = SimFiles(later)
        after.writes = 1
        for name in sorted(self._files):
            file = self._files[name]
            if (not file.named or file.removed) and rng.random() < 0.5:
                continue
            found = _File(named=True, length=file.durable_length, durable_length=file.durable_length)
            if file.length > file.durable_length and rng.random() < 0.5:
                found.length = found.durable_length = file.length
            for number in sorted({*file.durable, *file.loose}):
                versions = [file.durable.get(number, NEVER_WRITTEN), *file.loose.get(number, [])]
                if number * BLOCK_BYTES < found.length:
                    found.durable[number] = _Version(versions[rng.randrange(len(versions))].data, 1)
            found.current = dict(found.durable)
            after._files[name] = found
        return after

    def _open(self, name: str) -> _File:
        file = self._files.get(name)
        if file is None or file.removed:
            raise FileNotFoundError(name)
        return file

    def _when_alive(self, act: Callable[[], None]) -> None:
        def run() -> None:
            if self.alive:
                act()

        self._later(run)
