"""The cluster under test: real `atoll peer` processes, on machines of their own as far as this one can make them."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from peer.client.sync import Client
from tools.chaos.ailments import SlowDisk, make_writable
from tools.chaos.network import Network
from tools.devcluster import LAUNCHER
from tools.devlayout import (
    HOST,
    DevError,
    Layout,
    Place,
    check_ports,
    last_words,
    peer_environment,
    root_credentials,
)

READY_S = 90.0
STOP_S = 20.0
POLL_S = 0.05
DISK_BYTES = 640 << 20
GARBAGE_AFTER_S = 20.0
"""Or what was overwritten in a few minutes would fill the small disk; and so a run collects garbage, too."""


class Machines:
    """`peers` processes under `directory`. Those in `small` have a small disk of their own."""

    def __init__(
        self, directory: Path, peers: int, port: int, network: Network | None, small: dict[int, Path], chunk_bytes: int
    ) -> None:  # fmt: skip
        self.network = network
        self.layout = Layout(directory, peers, port, min(3, peers))
        self.small = small
        self.slowed: dict[int, SlowDisk] = {}
        self._chunk_bytes = chunk_bytes
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        if network is None:
            check_ports(self.layout.places)

    @property
    def peers(self) -> range:
        return range(self.layout.peers)

    def place(self, peer: int) -> Place:
        return self.layout.places[peer]

    def directory(self, peer: int) -> Path:
        return self.small[peer] / "data" if peer in self.small else self.place(peer).directory

    @property
    def directories(self) -> list[Path]:
        return [self.directory(peer) for peer in self.peers]

    def host(self, peer: int) -> str:
        return self.network.address(peer) if self.network is not None else HOST

    def url(self, peer: int) -> str:
        return f"http://{self.host(peer)}:{self.place(peer).api_port}"

    def client(self, *peers: int, patience_s: float = 20.0) -> Client:
        """A client of these peers; of all, if none is named."""
        access, secret = self.credentials()
        urls = [self.url(peer) for peer in peers or self.peers]
        return Client(urls, access_key=access, secret_key=secret, pin=len(peers) == 1, patience_s=patience_s)

    def credentials(self) -> tuple[str, str]:
        return root_credentials(self.directory(0) / "root.json")

    # --- life

    def start_all(self) -> None:
        """Found, join, and wait until all serve. Raises DevError."""
        for peer in self.peers:
            self.start(peer)
            self.wait_ready(peer)

    def start(self, peer: int) -> None:
        """Start a peer, or start it again; see `wait_ready`."""
        place, directory = self.place(peer), self.directory(peer)
        directory.mkdir(parents=True, mode=0o700, exist_ok=True)
        command = [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid())]
        command += self.network.words(peer) if self.network is not None else []
        command += [sys.executable, "-m", "tools.cli", "peer", "--data", str(directory)]
        if not (directory / "peer.json").exists():
            command += self._first_words(peer)
        with place.log.open("ab") as log:
            self._processes[peer] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=peer_environment(),
                start_new_session=True,
            )  # fmt: skip

    def _first_words(self, peer: int) -> list[str]:
        place = self.place(peer)
        words = [
            "--host",
            self.host(peer),
            "--port",
            str(place.port),
            "--name",
            place.name,
            "--zone",
            place.name,
        ]
        words += ["--garbage-after", f"{GARBAGE_AFTER_S:g}"]
        words += ["--insecure"] if self.network is not None else []
        if self.small:  # else it would own next to nothing beside the others, and miss nothing
            words += ["--capacity", str(DISK_BYTES)]
        if peer == 0:
            replicas, chunk_size = str(self.layout.replicas), str(self._chunk_bytes)
            return [*words, "--found", "--replicas", replicas, "--chunk-size", chunk_size]
        seed = f"{self.host(0)}:{self.place(0).peer_port}"
        return [*words, "--join", seed, "--cluster-key-file", str(self.directory(0) / "cluster.key")]

    def running(self, peer: int) -> bool:
        process = self._processes.get(peer)
        return process is not None and process.poll() is None

    def pid(self, peer: int) -> int:
        return self._processes[peer].pid

    def wait_ready(self, peer: int) -> None:
        """Until it serves. Raises DevError with its last words."""
        end_s = time.monotonic() + READY_S
        while not self._ready(peer):
            if not self.running(peer) or time.monotonic() > end_s:
                raise DevError(
                    f"{self.place(peer).name} is not ready: " + " / ".join(last_words(self.place(peer), 5))
                )
            time.sleep(POLL_S)

    def _ready(self, peer: int) -> bool:
        with suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection(self.host(peer), self.place(peer).api_port, timeout=2.0)
            try:
                connection.request("GET", "/ready")
                return connection.getresponse().status == 200
            finally:
                connection.close()
        return False

    def kill(self, peer: int) -> None:
        """SIGKILL; returns when it is gone."""
        process = self._processes.pop(peer)
        process.kill()
        process.wait(STOP_S)

    def freeze(self, peer: int) -> None:
        self._processes[peer].send_signal(signal.SIGSTOP)

    def thaw(self, peer: int) -> None:
        self._processes[peer].send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End every process at once, and what was done to their disks."""
        for slow in self.slowed.values():
            slow.end()
        for mounted in self.small.values():
            make_writable(mounted / "data")
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait(STOP_S)
        self._processes.clear()


class NoDisk(Exception):
    """A small file system cannot be made here; says why."""


@contextmanager
def small_disk(directory: Path, size: int = DISK_BYTES) -> Iterator[Path]:
    """An ext4 of `size` bytes in a file, mounted. Raises NoDisk."""
    image, mounted = directory / "small.img", directory / "small"
    mounted.mkdir(parents=True)
    with image.open("wb") as file:
        file.truncate(size)
    for command in (
        ["mkfs.ext4", "-q", "-m", "0", str(image)],
        ["mount", "-o", "loop", str(image), str(mounted)],
    ):
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except OSError as error:
            raise NoDisk(f"{command[0]}: {error.strerror}") from error
        if done.returncode != 0:
            raise NoDisk(f"{command[0]}: {done.stderr.strip()}")
    try:
        yield mounted
    finally:
        subprocess.run(["umount", "-l", str(mounted)], check=False)
        image.unlink(missing_ok=True)
