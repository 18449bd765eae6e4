"""Goal: what stands between the loop and a real peer's disk threads."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from blake3 import blake3

from peer.buffers import Buffer
from peer.errors import AtollError
from peer.realenv import DiskThreads
from peer.storage.chunkfiles import ChunkFiles, ChunkOptions
from peer.storage.operations import Limits
from peer.storage.records import Extent


def test_one_failing_completion_stops_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Goal: small appends share a sync; a caller of one that raises is logged, and the others hear of theirs."""

    async def story() -> None:
        files = ChunkFiles(tmp_path, options=ChunkOptions(limits=Limits(floor=0)))
        files.open([], lambda *_: None)
        disk = DiskThreads(files, asyncio.get_running_loop())
        heard: list[Extent | AtollError] = []
        all_heard = asyncio.Event()

        def raises(result: Extent | AtollError) -> None:
            raise RuntimeError("this caller is broken")

        def notes(result: Extent | AtollError) -> None:
            heard.append(result)
            if len(heard) == 3:
                all_heard.set()

        for number, done in enumerate((notes, raises, notes, notes)):
            buffer, data = Buffer(), bytes([number]) * 100
            buffer.payload(100)[:] = data
            disk.append(buffer, 100, blake3(data).digest(), done)
        async with asyncio.timeout(20):
            await all_heard.wait()
        assert all(isinstance(result, Extent) for result in heard)
        await asyncio.to_thread(disk.close)
        await asyncio.to_thread(files.close)

    asyncio.run(story())
    assert "completion failed" in caplog.text
