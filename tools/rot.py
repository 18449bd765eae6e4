"""What befalls a peer's disk, on purpose and behind its back: bits flip, and somebody else fills it."""

from __future__ import annotations

import os
import random
from pathlib import Path


def flip_bits(segments: Path, count: int, chance: random.Random) -> int:
    """Flip `count` bits of bytes that were written, anywhere in a peer's segments; how many were.

    Holes stay holes. None are flipped where nothing is stored. The peer may run.
    """
    files = [path for path in sorted(segments.iterdir()) if path.stat().st_size] if segments.is_dir() else []
    return sum(_flip(chance.choice(files), chance) for _ in range(count if files else 0))


def fill_disk(filler: Path, leave: int = 0) -> None:
    """Write `filler` until its disk has not a byte left, then give `leave` bytes back."""
    step = 4 << 20
    with filler.open("wb", buffering=0) as file:
        while step:
            try:
                written = file.write(b"f" * step)
            except OSError:
                written = 0
            if written < step:
                step //= 4
        os.fsync(file.fileno())
        file.truncate(max(file.tell() - leave, 0))


def _flip(path: Path, chance: random.Random) -> bool:
    """One bit; False if nothing was written behind the place that chance chose, nor before it."""
    fd = os.open(path, os.O_RDWR)
    try:
        at = chance.randrange(os.fstat(fd).st_size)
        for start in (at, 0):
            try:
                at = os.lseek(fd, start, os.SEEK_DATA)
                break
            except OSError:
                continue  # nothing behind it
        else:
            return False
        byte = os.pread(fd, 1, at)
        os.pwrite(fd, bytes((byte[0] ^ 1 << chance.randrange(8),)), at)
        return True
    finally:
        os.close(fd)
