"""What is checked before a peer touches anything: options, ports, the cluster's key."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import socket
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

from peer.config import PEER_FILE, PeerConfig
from peer.errors import StartupError
from peer.replication.chunks.holder import Holder
from peer.replication.chunks.rows import ROWS_A_PAGE, named_extents
from peer.replication.env import Env, RowStore
from peer.replication.healing.adoption import is_adopting
from peer.storage.chunkfiles import ChunkFiles
from peer.storage.datadir import ROOT_FILE, DataDir, read_cluster_key
from peer.storage.records import Extent
from ring.epoch import Epoch

log = logging.getLogger(__name__)

T = TypeVar("T")


def cluster_key(config: PeerConfig, directory: DataDir) -> bytes:
    """The key in the directory; a new peer is given it as a file, a founder makes it.

    A key that a refused start left behind binds nobody: until a ring is entered the given one counts.
    """
    kept = directory.cluster_key()
    given = read_cluster_key(config.cluster_key_file) if config.cluster_key_file is not None else None
    if config.cluster_key_file is not None and given is None:
        raise StartupError(
            f"{config.cluster_key_file} does not exist; copy DIR/cluster.key of a running peer there"
        )
    entered = directory.read_json(PEER_FILE) is not None
    if kept is not None and (entered or given is None):
        if given is not None and given != kept:
            raise StartupError(
                f"{config.cluster_key_file} is another cluster's key than the one in {directory.path}"
            )
        return kept
    key = given
    if key is None:
        if not config.found:
            raise StartupError(
                f"joining needs the cluster's key: give --cluster-key-file F with a copy of DIR/cluster.key of a"
                f" running peer, or put it into {directory.path}"
            )
        key = os.urandom(32)
    directory.write_cluster_key(key)
    return key


def write_files(directory: DataDir, config: PeerConfig, me: str, epoch: Epoch) -> None:
    """What a restart needs, and at the founder the root key, which is shown this once."""
    directory.write_json(PEER_FILE, config.to_json() | {"id": me})
    if directory.read_json(ROOT_FILE) is None and config.found:
        keys = {"access_key": epoch.root_access_key, "secret_key": epoch.root_secret_key}
        directory.write_json(ROOT_FILE, keys)
        print(
            f"founded cluster {epoch.cluster_id}\n  access key  {epoch.root_access_key}\n"
            f"  secret key  {epoch.root_secret_key}\n  kept in     {directory.path / ROOT_FILE}",
            flush=True,
        )


def unsafe_switches() -> frozenset[str]:
    """Safeguards left out on purpose, for the negative controls of tests: ATOLL_UNSAFE_FOR_TESTS=no_row_sync,no_data_sync.

    A peer without them loses acknowledged writes when the power fails. Read here and nowhere else.
    """
    named = frozenset(filter(None, os.environ.get("ATOLL_UNSAFE_FOR_TESTS", "").split(",")))
    unknown = named - {"no_row_sync", "no_data_sync", "no_directory_sync"}
    if unknown:
        raise StartupError(f"ATOLL_UNSAFE_FOR_TESTS names no safeguard: {', '.join(sorted(unknown))}")
    if named:
        log.critical(
            "UNSAFE: started without %s (ATOLL_UNSAFE_FOR_TESTS): this peer WILL LOSE acknowledged writes when the power"
            " fails; it is for tests only",
            ", ".join(sorted(named)),
        )
    return named


def refuse_unbuilt(config: PeerConfig) -> None:
    """Options whose promise this version cannot keep are refused, not ignored."""
    for value, option in (
        (config.encryption_key_file, "--encryption-key-file"),
        (config.domain, "--domain"),
        (config.public_url, "--public-url"),
    ):
        if value:
            raise StartupError(f"{option}: not implemented in this version; leave it out")
    if not (config.insecure or config.serves_tls or _is_loopback(config.host)):
        _resolve(config.host)  # a mistyped address is the nearer problem
        raise StartupError(
            f"the API would listen on {config.host} without TLS, where others can read its credentials;"
            " serve TLS (--tls auto, or --tls-cert and --tls-key), bind to 127.0.0.1, or accept it with --insecure"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def try_ports(config: PeerConfig) -> None:
    """Bind and let go, so that a port in use is reported before anything is written."""
    _resolve(config.host)
    uses = [
        (config.s3_port, "S3", socket.SOCK_STREAM, "--s3-port"),
        (config.api_port, "API", socket.SOCK_STREAM, "--api-port"),
        (config.peer_port, "peers", socket.SOCK_STREAM, "--peer-port"),
        (config.peer_port, "gossip over UDP", socket.SOCK_DGRAM, "--peer-port"),
    ]
    first = config.s3_port
    derived = config.ports == (first, first + 1, first + 2)
    for port, use, kind, option in uses:
        try:
            family, _, _, _, address = socket.getaddrinfo(config.host, port, type=kind)[0]
            with socket.socket(family, kind) as probe:
                if kind == socket.SOCK_STREAM:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
        except OSError as error:
            with contextlib.suppress(OSError):  # a peer started twice has its directory in use, too: say that
                DataDir.refuse_used(config.data)
            remedy = _remedy(error, config.host, port, "--port" if derived else option)
            raise StartupError(
                f"port {port} on {config.host} cannot be used for {use} ({error.strerror or error}): {remedy}"
            ) from error


def _remedy(error: OSError, host: str, port: int, option: str) -> str:
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is no address of this machine; give one that is with --host"
    if error.errno == errno.EACCES:
        return f"ports below 1024 need privileges; choose another with {option}"
    return f"stop the program or peer that has it (`ss -lntup 'sport = :{port}'` names it), or choose another with {option}"


def _resolve(host: str) -> None:
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise StartupError(f"--host {host}: {why}; give an address of this machine") from None


async def open_segments(env: Env, files: ChunkFiles, segments: Path, rows: RowStore, holder: Holder) -> bool:
    """Compare rows with files; rows whose bytes are gone stop counting as copies, before the first answer. Whether bytes
    may lie there that have no rows any more (`adoption`).

    Raises StartupError, or Full if that cannot be kept.
    """
    adopting = is_adopting(rows) or await whole(partial(_other_disk, rows, segments))
    lost: list[tuple[bytes, Extent]] = []
    before: dict[bytes, Extent | None] = {}  # those that were lost at an earlier start

    def named() -> Iterator[tuple[bytes, Extent]]:
        for name, extent in named_extents(
            rows, holder.found_damaged, lambda name: before.update({name: None})
        ):
            if name in before:
                before[name] = extent
            yield name, extent

    def missing(name: bytes, extent: Extent, why: str) -> None:
        if name in before:
            del before[name]
            return
        if len(lost) < 10:
            log.error("the bytes of chunk %s are gone: %s", name.hex(), why)
        lost.append((name, extent))

    report = await whole(partial(files.open, named(), missing, adopting=adopting))
    again = [(name, extent) for name, extent in before.items() if extent is not None]
    log.info(
        "segments: %d, chunks: %d, lost: %d, there again: %d", report.segments, report.named, report.lost, len(again)
    )  # fmt: skip
    for some, keep in ((lost, holder.lost), (again, holder.found_again)):
        for at in range(0, len(some), 1000):
            future = env.future()
            keep(some[at : at + 1000], future.set_result)
            if error := await future:
                raise error
    return adopting


def _other_disk(rows: RowStore, segments: Path) -> bool:
    """Whether most chunks should lie in segments that are not there: then the disk was not there for a while, or is not now,
    and what lies here may be without rows. Looks at a page of rows; they are in the order of hashes, so any will do."""
    found = {int(path.stem) for path in segments.glob("*.*") if path.stem.isdigit()}
    page = [extent for _, extent in islice(named_extents(rows, lost=lambda name: None), ROWS_A_PAGE)]
    return 2 * sum(extent.segment not in found for extent in page) > len(page)


async def whole(work: Callable[[], T]) -> T:
    """The result of a thread that also ends before this does when it is cancelled: what it reads is closed then."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait((task,))
        raise
