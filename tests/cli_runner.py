"""Runs `atoll` command lines in this process and captures what they say."""

from __future__ import annotations

import io
import json
import os
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from peer.config import PeerConfig
from tests.fake_api import ACCESS_KEY, SECRET_KEY, FakeCluster
from tools.cli.profiles import write_profile
from tools.cli.root import run


@dataclass(frozen=True)
class Ran:
    """What one command line did."""

    code: int
    raw: bytes
    err: str

    @property
    def out(self) -> str:
        return self.raw.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.raw)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


class Atoll:
    """`atoll(*arguments)`, in a home of its own."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home = home
        for name in [name for name in os.environ if name.startswith("ATOLL_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("ATOLL_CONFIG_HOME", str(home))
        monkeypatch.chdir(home)

    def use(self, cluster: FakeCluster, name: str = "fake") -> None:
        write_profile(name, cluster.urls, ACCESS_KEY, SECRET_KEY, True)

    def __call__(self, *arguments: str, stdin: bytes = b"") -> Ran:
        with _streams(stdin) as (out, err):
            code = run(list(arguments))
            sys.stdout.flush()
            sys.stderr.flush()
        return Ran(code, out.getvalue(), err.getvalue().decode())


def started_peers(monkeypatch: pytest.MonkeyPatch) -> list[PeerConfig]:
    """What `atoll peer` would have run from now on; nothing is."""
    configs: list[PeerConfig] = []
    fake = types.ModuleType("peer.run")
    fake.run_peer = configs.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "peer.run", fake)
    return configs


@contextmanager
def _streams(stdin: bytes) -> Iterator[tuple[io.BytesIO, io.BytesIO]]:
    """Byte streams in the place of the process's own; none of them is a terminal."""
    before = sys.stdin, sys.stdout, sys.stderr
    out, err = io.BytesIO(), io.BytesIO()
    sys.stdin = io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
    sys.stdout = io.TextIOWrapper(out, encoding="utf-8", write_through=True)
    sys.stderr = io.TextIOWrapper(err, encoding="utf-8", write_through=True)
    try:
        yield out, err
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for stream in (sys.stdout, sys.stderr):
            stream.detach()
        sys.stdin, sys.stdout, sys.stderr = before
