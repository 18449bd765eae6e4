"""Where a dev cluster lives: directories, ports, command lines and pid files. Starts nothing.

`D/peer-1`, `D/peer-2`, ... are ordinary data directories of peers, `D/peer-1.log` what each
printed; `D/dev.json` remembers what the cluster was founded with, `D/dev.lock` is held by the `atoll dev`
that runs it.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from peer.client.trust import Trust

HOST = "127.0.0.1"
PORTS_APART = 10
MAX_PEERS = 100
LOG_KEEP_BYTES = 1 << 20

# Variables that configure *this* command must not configure the peers; these are meant for them.
PASSED_ON = frozenset({"ATOLL_ROOT_ACCESS_KEY", "ATOLL_ROOT_SECRET_KEY_FILE", "ATOLL_LOG_LEVEL"})


class DevError(Exception):
    """A dev cluster cannot start or do what was asked; nothing was started. Says the remedy."""


@dataclass(frozen=True, slots=True)
class Place:
    """One peer's directory and ports (S3; API and peer port are the two above)."""

    name: str
    directory: Path
    port: int
    scheme: str = "http"

    @property
    def api_port(self) -> int:
        return self.port + 1

    @property
    def peer_port(self) -> int:
        return self.port + 2

    @property
    def s3_url(self) -> str:
        return f"{self.scheme}://{HOST}:{self.port}"

    @property
    def api_url(self) -> str:
        return f"{self.scheme}://{HOST}:{self.api_port}"

    @property
    def log(self) -> Path:
        """Beside the directory, not in it: a peer refuses a new directory that holds strangers' files."""
        return self.directory.with_name(f"{self.name}.log")

    @property
    def initialised(self) -> bool:
        """A peer has been founded or has joined here: it restarts with `--data` alone."""
        return (self.directory / "peer.json").exists()


@dataclass(frozen=True, slots=True)
class Layout:
    """A dev cluster's shape; saved when it is founded, so that a restart needs no option."""

    data: Path
    peers: int
    port: int
    replicas: int
    tls: str = ""
    """What every peer is told with --tls: "auto" or "off"; empty: nothing, which is plain HTTP at first."""

    @property
    def places(self) -> tuple[Place, ...]:
        scheme = "https" if self.tls == "auto" else "http"
        return tuple(
            Place(f"peer-{i + 1}", self.data / f"peer-{i + 1}", self.port + PORTS_APART * i, scheme)
            for i in range(self.peers)
        )

    @property
    def ca_file(self) -> Path | None:
        """The cluster's own authority, of which all peers have the same certificate; None without TLS. Made when the first
        peer starts."""
        files = [place.directory / "ca.pem" for place in self.places]
        return next((file for file in files if file.exists()), files[0]) if self.tls == "auto" else None

    def trust(self) -> Trust | None:
        """What trusts the peers' certificates; None if they have none, or the first one has not made them yet."""
        from peer.client.trust import trust

        file = self.ca_file
        return trust(str(file)) if file is not None and file.exists() else None

    @property
    def credentials_file(self) -> Path:
        return self.places[0].directory / "root.json"

    def credentials(self) -> tuple[str, str]:
        """Root access key and secret. Raises DevError while there is none."""
        return root_credentials(self.credentials_file)

    def place(self, name: str) -> Place:
        """The peer called `name`; a bare number will do. Raises DevError."""
        for place in self.places:
            if name in (place.name, place.name.removeprefix("peer-")):
                return place
        raise DevError(f"no peer {name!r} here: there are {', '.join(place.name for place in self.places)}")

    def grown(self) -> Layout:
        """The same with one peer more, which is the last of its places. Raises DevError if there are enough."""
        if self.peers >= MAX_PEERS:
            raise DevError(f"{self.data} has {self.peers} peers; a dev cluster has no more than {MAX_PEERS}")
        return replace(self, peers=self.peers + 1)

    def save(self) -> None:
        shape = asdict(self)
        del shape["data"]
        temporary = self.data / "dev.json.new"
        temporary.write_text(json.dumps(shape) + "\n")
        temporary.replace(self.data / "dev.json")


def load(data: Path) -> Layout | None:
    """The layout saved in `data`, None if no dev cluster was founded there. Raises DevError if unreadable."""
    path = data / "dev.json"
    try:
        shape = json.loads(path.read_text())
        numbers = int(shape["peers"]), int(shape["port"]), int(shape["replicas"])
        return Layout(data, *numbers, str(shape.get("tls", "")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DevError(f"cannot read {path} ({error}): move {data} away, or repair that file") from None


def root_credentials(file: Path) -> tuple[str, str]:
    """Root access key and secret from a founder's root.json. Raises DevError while there is none."""
    try:
        document = json.loads(file.read_text())
        return str(document["access_key"]), str(document["secret_key"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DevError(f"no credentials in {file}: {error}") from None


def settle(
    data: Path, peers: int | None, port: int | None, replicas: int | None, tls: bool | None = None
) -> Layout:
    """The layout to run: what was saved, or the given values (None: the default) for a new cluster. TLS may change at any
    start.

    Raises:
        DevError: a given value contradicts a cluster that exists already.
    """
    saved = load(data)
    if saved is None:
        return Layout(data, peers or 3, 7400 if port is None else port, replicas or 3, "auto" if tls else "")
    for what, given, kept in (("port", port, saved.port), ("replicas", replicas, saved.replicas)):
        if given is not None and given != kept:
            raise DevError(
                f"the cluster in {data} was founded with --{what} {kept}: "
                f"leave --{what} out, or choose another --data for a new cluster"
            )
    if peers is not None and peers < saved.peers:
        raise DevError(
            f"the cluster in {data} has {saved.peers} peers: start them all (`atoll dev kill` ends one), "
            "or choose another --data for a smaller cluster"
        )
    chosen = saved.tls if tls is None else "auto" if tls else "off"
    return Layout(data, peers or saved.peers, saved.port, saved.replicas, chosen)


def peer_command(place: Place, layout: Layout) -> list[str]:
    """The `atoll peer` that founds, joins or restarts `place`."""
    command = [sys.executable, "-m", "tools.cli", "peer", "--data", str(place.directory)]
    command += ["--tls", layout.tls] if layout.tls else []
    if place.initialised:
        return command
    command += ["--host", HOST, "--port", str(place.port), "--name", place.name]
    first = layout.places[0]
    if place == first:
        return [*command, "--found", "--replicas", str(layout.replicas)]
    for seed in layout.places:
        if seed == first or (seed.initialised and seed != place):
            command += ["--join", f"{HOST}:{seed.peer_port}"]
    return [*command, "--cluster-key-file", str(first.directory / "cluster.key")]


def peer_environment() -> dict[str, str]:
    """Ours, without the variables that are options of our own command; peers run this very Atoll, whatever modules lie in
    the directory we were called in. Their logs are files that people read."""
    kept = {name: value for name, value in os.environ.items() if name in PASSED_ON or name[:6] != "ATOLL_"}
    ours = str(Path(__file__).resolve().parent.parent)
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, (ours, kept.get("PYTHONPATH"))))
    kept["PYTHONSAFEPATH"] = "1"
    kept["ATOLL_LOG_FORMAT"] = "text"
    return kept


def take_lock(data: Path) -> int:
    """Hold `data` for this process, however it ends. Raises DevError if another holds it."""
    data.mkdir(parents=True, exist_ok=True)
    handle = os.open(data / "dev.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(handle, 20).decode("ascii", "replace").strip() or "unknown"
        os.close(handle)
        raise DevError(
            f"a dev cluster is running in {data} already (pid {holder}): stop it with Ctrl-C there, "
            "or choose another --data and --port"
        ) from None
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    return handle


def give_up_lock(data: Path) -> None:
    """Remove the lock and its directory, which nothing else was put into: a refused start changes nothing."""
    (data / "dev.lock").unlink(missing_ok=True)
    with suppress(OSError):
        data.rmdir()


def is_running(data: Path) -> bool:
    """Whether an `atoll dev` holds `data` now."""
    try:
        handle = os.open(data / "dev.lock", os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def check_ports(places: Sequence[Place]) -> None:
    """Raise DevError naming the first port that somebody else listens on."""
    for place in places:
        uses = (
            (place.port, "S3", socket.SOCK_STREAM),
            (place.api_port, "API", socket.SOCK_STREAM),
            (place.peer_port, "peers", socket.SOCK_STREAM),
            (place.peer_port, "gossip, UDP", socket.SOCK_DGRAM),
        )
        for port, use, kind in uses:
            if not 0 < port < 65536:
                raise DevError(f"port {port} ({use} of {place.name}) does not exist: choose a lower --port")
            if not _is_free(port, kind):
                raise DevError(
                    f"port {port} ({use} of {place.name}) is in use on {HOST}: stop what listens there "
                    f"(`ss -lntup 'sport = :{port}'` names it), or choose other ports with --port "
                    "and another --data"
                )


def _is_free(port: int, kind: socket.SocketKind) -> bool:
    with socket.socket(socket.AF_INET, kind) as probe:
        if kind == socket.SOCK_STREAM:
            # As a peer does: TIME_WAIT is no obstacle.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except PermissionError:
            raise DevError(f"port {port} needs privileges: choose a --port above 1023") from None
        except OSError:
            return False
    return True


_reserved: dict[int, int] = {}  # descriptors of locked files, held until this process ends


def free_port(peers: int) -> int:
    """A port from which on a cluster of `peers` finds all its ports free just now.

    Until this process ends no other that asks is given these ports: what asks at the same moment (tests side by side) would
    find the same ones free.
    """
    for port in range(17400, 60000, PORTS_APART * MAX_PEERS):
        if not _reserve(port):
            continue
        try:
            check_ports(Layout(Path(), peers, port, 3).places)
        except DevError:
            continue
        return port
    raise DevError("no free range of ports on this machine")


def _reserve(port: int) -> bool:
    """Whether the ports from here on are this process's to give away."""
    if port not in _reserved:
        path = Path(tempfile.gettempdir()) / f"atoll-ports-{os.getuid()}-{port}"
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            return False
        _reserved[port] = file
    return True


def live_pid(place: Place) -> int | None:
    """The pid of the peer running in `place`, by its pid file; None if there is none.

    A recycled pid is told apart by time: who wrote the file had started before it was written.
    """
    path = place.directory / "peer.pid"
    try:
        pid = int(path.read_text().split()[0])
        written = path.stat().st_mtime
    except (OSError, ValueError, IndexError):
        return None
    started = _start_time(pid)
    return pid if started is not None and started <= written + 2 else None


def is_frozen(pid: int) -> bool:
    """SIGSTOP holds the process `pid`."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


def _start_time(pid: int) -> float | None:
    """When a process started, seconds since 1970 (to about a second); None for no process or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        booted = next(
            int(line.split()[1])
            for line in Path("/proc/stat").read_text().splitlines()
            if line.startswith("btime")
        )
    except (OSError, StopIteration, ValueError):
        return None
    fields = stat.rpartition(")")[2].split()  # from the state on: the name before may hold anything
    if fields[0] in "ZX":
        return None
    return booted + int(fields[19]) / os.sysconf("SC_CLK_TCK")


def open_log(place: Place) -> BinaryIO:
    """Open a peer's log at its end; one that is too big becomes the one older file that is kept.

    The user's alone: a founder's log holds the root secret.
    """
    if place.log.exists() and place.log.stat().st_size > LOG_KEEP_BYTES:
        place.log.replace(place.log.with_name(f"{place.log.name}.1"))
    log = os.open(place.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.fchmod(log, 0o600)
    return os.fdopen(log, "ab")


def last_words(place: Place, lines: int = 3) -> list[str]:
    """The end of a peer's log, for an error message."""
    try:
        with place.log.open("rb") as log:
            log.seek(max(place.log.stat().st_size - 8192, 0))
            text = log.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-lines:]
