"""A stand-in for `atoll peer`, for tests of what starts and stops peers: files, ports and signals, no storage.

`python -m tests.dev_world peer DIR PORT [MODE]` is one; MODE `stubborn` ignores SIGTERM, `broken` ends at once,
`late` is ready only when DIR/go exists. `python -m tests.dev_world run DATA PORT PEERS` runs a cluster of them
as `atoll dev` would, and prints "ready".
"""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tools.devcluster import Command, DevCluster, Peer
from tools.devlayout import Layout, Place, free_port

DEADLINE_S = 30.0


class Handler(http.server.BaseHTTPRequestHandler):
    directory = Path()
    late = False

    def do_GET(self) -> None:
        waiting = self.late and not (self.directory / "go").exists()
        ready = self.path != "/ready" or not waiting
        reasons = [] if ready else [{"code": "Joining", "message": "joining the ring"}]
        body = json.dumps({"ready": ready, "reasons": reasons}).encode()
        self.send_response(200 if ready else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def be_peer(directory: Path, port: int, mode: str) -> None:
    if mode == "broken":
        sys.exit("atoll: no space left for a peer")
    signal.signal(signal.SIGTERM, signal.SIG_IGN if mode == "stubborn" else lambda *_: os._exit(0))
    directory.mkdir(exist_ok=True)
    Handler.directory, Handler.late = directory, mode == "late"
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port + 1), Handler)
    for name, content in (
        ("peer.json", "{}"),
        ("cluster.key", "00" * 32),
        ("root.json", '{"access_key": "AK", "secret_key": "SK"}'),
        ("peer.pid", f"{os.getpid()}\n"),
    ):
        (directory / name).write_text(content)
    server.serve_forever()


def command_of(modes: dict[str, str]) -> Command:
    """What DevCluster runs for each place; `modes` by name."""

    def command(place: Place, layout: Layout) -> list[str]:
        mode = modes.get(place.name, "good")
        return [sys.executable, "-m", "tests.dev_world", "peer", str(place.directory), str(place.port), mode]

    return command


def layout_in(data: Path, peers: int = 3) -> Layout:
    return Layout(data, peers, free_port(peers), 3)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, at most DEADLINE_S."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def until_now(condition: Callable[[], bool]) -> None:
    """The same without a loop."""
    asyncio.run(until(condition))


def start_by_hand(layout: Layout, place: Place) -> subprocess.Popen[bytes]:
    """A peer that no `dev` started."""
    return subprocess.Popen(command_of({})(place, layout), start_new_session=True)


def is_gone(pid: int) -> bool:
    """No such process, or one that only waits for its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def cluster_of(layout: Layout, changes: list[str], **modes: str) -> DevCluster:
    def changed(peer: Peer) -> None:
        changes.append(f"{peer.place.name} {peer.state}")

    named = {name.replace("_", "-"): mode for name, mode in modes.items()}
    return DevCluster(layout, changed, command_of(named))


async def run(data: Path, port: int, peers: int) -> None:
    cluster = DevCluster(Layout(data, peers, port, 3), command=command_of({}))
    await cluster.start(30)
    print("ready", flush=True)
    await cluster.watch()


if __name__ == "__main__":
    if sys.argv[1] == "peer":
        be_peer(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    else:
        asyncio.run(run(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
