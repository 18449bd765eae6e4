"""Real `atoll peer` processes on free ports, for tests that need a cluster that can be killed.

    with ClusterWorld(tmp_path, peers=3) as world:
        world.call("PUT", "/v1/buckets/photos")
        world.kill(1)                       # SIGKILL; peers are counted from 0
        world.start(1); world.wait_ready(1)

Peer 0 founds, the others join. `call` sends a path exactly as given. Peers die with the test process, whatever ends it.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from peer.client import Client
from peer.client.trust import Trust, trust
from tools.devcluster import LAUNCHER
from tools.devlayout import DevError, Layout, Place, check_ports, last_words, peer_command, peer_environment

POLL_S = 0.02
READY_S = 60.0
STOP_S = 20.0
PATIENCE_S = 60.0  # of clients: a busy machine must not fail a test
FOUND_TRIES = 5


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP response, read whole. Header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The error code of an error answer."""
        return str(self.json["error"]["code"])

    @property
    def message(self) -> str:
        return str(self.json["error"]["message"])


class ClusterWorld:
    """A cluster of `peers` processes under `directory`; a context manager that always cleans up.

    `options` go to the founding peer (`--chunk-size 64KiB`, `--partition-power 8`), `environment` to all; `under` gives
    the words of a command that each peer runs under, which must become the peer (`strace -D`, `env`). `tls`: "auto" for
    the cluster's own certificates; with `ca_file` the environment names others, of that authority.
    """

    def __init__(
        self,
        directory: Path,
        peers: int = 3,
        *,
        replicas: int = 3,
        options: Iterable[str] = (),
        environment: Mapping[str, str] | None = None,
        under: Callable[[int], list[str]] = lambda index: [],
        code: Path | None = None,
        tls: str = "",
        ca_file: Path | None = None,
    ) -> None:
        self.layout = Layout(directory, peers, free_base(peers), replicas, tls)
        self._ca_file = ca_file
        self._trust: Trust | None = None
        self.plain: set[int] = set()  # peers without TLS, where the others have it
        self._options = list(options)
        self.code = code
        """The tree whose code the peers run that are started from now on, such as an earlier version's; None: this one."""
        self._environment = peer_environment() | dict(environment or {})
        self._under = under
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._idle: dict[int, list[http.client.HTTPConnection]] = {i: [] for i in range(peers)}
        self._credentials: tuple[str, str] | None = None

    def __enter__(self) -> ClusterWorld:
        try:
            self.start_all()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- life

    def start_all(self) -> None:
        """Found, join, wait until all are ready. Ports lost to somebody else meanwhile are chosen anew."""
        for tries in range(FOUND_TRIES):
            self.start(0)
            try:
                self.wait_ready(0)
                break
            except DevError as error:
                if "cannot be used" not in str(error) or tries == FOUND_TRIES - 1:
                    raise
                self.layout = replace(self.layout, port=free_base(self.layout.peers))
        others = range(1, self.layout.peers)
        for index in others:
            self.start(index)
        for index in others:
            self.wait_ready(index)
        self.wait_all_alive()

    def start(self, index: int, *more: str) -> None:
        """Start a peer: found, join, or restart on its directory, with more options. Returns at once; see `wait_ready`."""
        assert not self.running(index), f"peer {index} runs already"
        place = self.place(index)
        place.directory.mkdir(parents=True, mode=0o700, exist_ok=True)
        fresh = not place.initialised
        command = [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid())]
        command += [*self._under(index), *self.command(index), *more]
        if fresh and index == 0:
            command += self._options
        environment = self._environment | ({"PYTHONPATH": str(self.code)} if self.code else {})
        with place.log.open("ab") as log:
            self._processes[index] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
                start_new_session=True,
            )  # fmt: skip

    def command(self, index: int) -> list[str]:
        """The peer that founds, joins or restarts there."""
        return peer_command(self.place(index), self.layout)

    def wait_ready(self, index: int, deadline_s: float = READY_S) -> None:
        """Until /ready answers 200. Raises DevError with the peer's last words if it ends or is late."""

        def ready() -> bool:
            if not self.running(index):
                raise DevError(f"peer {index} ended: " + " / ".join(last_words(self.place(index), 5)))
            return self._ready(index)

        self._wait_until(ready, deadline_s, f"peer {index} is ready", index)

    def wait_all_alive(self) -> None:
        """Until every peer sees every other alive."""
        self._wait_until(self._all_know_all, READY_S, "every peer sees every other alive")

    def kill(self, index: int) -> None:
        """SIGKILL, and wait until it is gone."""
        process = self._processes.pop(index)
        process.kill()
        process.wait(STOP_S)

    def stop(self, index: int) -> int:
        """SIGTERM, and wait; its exit code."""
        process = self._processes.pop(index)
        process.terminate()
        try:
            return process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_S)
            raise AssertionError(f"peer {index} did not stop within {STOP_S:g} s of SIGTERM") from None

    def signal(self, index: int, number: signal.Signals) -> None:
        """Send any signal, such as SIGSTOP and SIGCONT."""
        self._processes[index].send_signal(number)

    def restart(self, index: int) -> None:
        """Stop (if it runs), start, and wait until it is ready."""
        if self.running(index):
            self.stop(index)
        self.start(index)
        self.wait_ready(index)

    def kill_all(self) -> None:
        """SIGKILL every peer that runs, all before any of them is waited for."""
        running = [index for index in self._processes if self.running(index)]
        for index in running:
            self._processes[index].kill()
        for index in running:
            self._processes.pop(index).wait(STOP_S)

    def start_again(self) -> None:
        """Start every peer that does not run, and wait until all are ready."""
        for index in range(self.layout.peers):
            if not self.running(index):
                self.start(index)
        for index in range(self.layout.peers):
            self.wait_ready(index)

    def close(self) -> None:
        """End every process at once. Data stays in the directory."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait(STOP_S)
        self._processes.clear()
        self.forget_connections()

    def forget_connections(self) -> None:
        """Close those that are kept: the next call has one with its own timeout."""
        for connections in self._idle.values():
            while connections:
                connections.pop().close()

    # --- facts

    def place(self, index: int) -> Place:
        return self.layout.places[index]

    def running(self, index: int) -> bool:
        process = self._processes.get(index)
        return process is not None and process.poll() is None

    def pid(self, index: int) -> int:
        return self._processes[index].pid

    def api_url(self, index: int = 0) -> str:
        return f"{'http' if self._speaks_plain(index) else 'https'}://127.0.0.1:{self.place(index).api_port}"

    def _speaks_plain(self, index: int) -> bool:
        return index in self.plain or (self._ca_file is None and self.layout.ca_file is None)

    @property
    def ca_file(self) -> Path | None:
        """The authority that the peers' certificates are of; None if they speak plain HTTP."""
        return self._ca_file or self.layout.ca_file

    def be_secured(self, ca_file: Path, plain: set[int]) -> None:
        """From now on the peers speak TLS, but for those."""
        self._ca_file, self.plain = ca_file, plain
        self.forget_connections()

    def trust(self) -> Trust | None:
        """What trusts these peers; None if they speak plain HTTP. Raises OSError before the first one has started."""
        if self._trust is None and self.ca_file is not None:
            self.ca_file.stat()
            self._trust = trust(str(self.ca_file))
        return self._trust

    def connection(self, index: int, timeout_s: float) -> http.client.HTTPConnection:
        """A new one to a peer's API."""
        port = self.place(index).api_port
        if self._speaks_plain(index):
            return http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
        return http.client.HTTPSConnection("127.0.0.1", port, timeout=timeout_s, context=self.trust())

    @property
    def credentials(self) -> tuple[str, str]:
        """Access key and secret, from the founder's root.json."""
        if self._credentials is None:
            self._credentials = self.layout.credentials()
        return self._credentials

    @property
    def authorization(self) -> str:
        return "Bearer {}:{}".format(*self.credentials)

    # --- requests

    def client(self, *peers: int, pin: bool = False) -> Client:
        """A Python client that begins at these peers (none: all of them)."""
        urls = [self.api_url(index) for index in peers or range(self.layout.peers)]
        access, secret = self.credentials
        return Client(
            urls, access_key=access, secret_key=secret, pin=pin, patience_s=PATIENCE_S, tls=self.trust()
        )

    def atoll(
        self, *arguments: str, peer: int = 0, deadline_s: float = 300.0
    ) -> subprocess.CompletedProcess[str]:
        """Run the command line against one peer, to which it keeps; its exit code is the caller's to check."""
        access, secret = self.credentials
        told = {
            "ATOLL_ENDPOINT": self.api_url(peer), "ATOLL_ACCESS_KEY": access, "ATOLL_SECRET_KEY": secret,
            "ATOLL_CONFIG_HOME": str(self.layout.data), "NO_COLOR": "1",
        }  # fmt: skip
        if self.ca_file is not None:
            told["ATOLL_CA_FILE"] = str(self.ca_file)
        return subprocess.run(
            [sys.executable, "-m", "tools.cli", *arguments],
            env=peer_environment() | told, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=deadline_s,
        )  # fmt: skip

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        peer: int = 0,
        timeout_s: float = 30.0,
        authorised: bool = True,
    ) -> Answer:
        """One request over a kept connection to a peer, the path sent as it is; from any thread.

        `body` may be bytes or an iterable of bytes (sent chunked). Raises OSError when the peer does not answer.
        """
        sent = dict(headers or {})
        if authorised:
            sent.setdefault("Authorization", self.authorization)
        idle = self._idle[peer]
        while idle:
            try:
                return self._exchange(idle.pop(), peer, method, path, body, sent)
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                if not isinstance(body, bytes | None):
                    raise  # else the peer had closed the idle connection: once more on another one
        return self._exchange(self.connection(peer, timeout_s), peer, method, path, body, sent)

    def json_of(self, path: str, *, peer: int = 0) -> Any:
        """What GET answers, whatever its status."""
        return self.call("GET", path, peer=peer).json

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        peer: int,
        method: str,
        path: str,
        body: Any,
        headers: dict[str, str],
    ) -> Answer:
        done = False
        try:
            connection.request(method, path, body=body, headers=headers)
            response = connection.getresponse()
            content = response.read()
            done = not response.will_close
            fields = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, fields, content)
        finally:
            if done:
                self._idle[peer].append(connection)
            else:
                connection.close()

    # --- waiting

    def _ready(self, index: int) -> bool:
        if not (self.place(index).directory / "peer.json").exists():
            return False  # whoever answers on its port is somebody else
        try:
            connection = self.connection(index, 2.0)
            try:
                connection.request("GET", "/ready")
                return connection.getresponse().status == 200
            finally:
                connection.close()
        except (OSError, http.client.HTTPException):
            return False

    def _all_know_all(self) -> bool:
        for index in range(self.layout.peers):
            answer = self.call("GET", "/v1/cluster/nodes", peer=index)
            nodes = answer.json["nodes"] if answer.status == 200 else []
            if len(nodes) < self.layout.peers or any(node["state"] != "alive" for node in nodes):
                return False
        return True

    def _wait_until(self, holds: Callable[[], bool], deadline_s: float, what: str, index: int = 0) -> None:
        end_s = time.monotonic() + deadline_s
        while not holds():
            if time.monotonic() > end_s:
                words = " / ".join(last_words(self.place(index), 5))
                raise DevError(f"not within {deadline_s:g} s: {what}; the log ends with: {words}")
            time.sleep(POLL_S)


def free_base(peers: int) -> int:
    """A port from which on a cluster finds all its ports free: at random, so that parallel runs rarely meet."""
    chance = random.SystemRandom()
    for _ in range(200):
        port = chance.randrange(10_000, 31_000, 100)  # below the range of outgoing connections
        try:
            check_ports(Layout(Path(), peers, port, 3).places)
        except DevError:
            continue
        return port
    raise DevError("no free range of ports on this machine")
