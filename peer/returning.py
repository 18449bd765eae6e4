"""How a peer that lost its memory comes back: by itself, under a new id, in the place of its former one (architecture §5).

With its database a peer loses its promises, so its former id never votes again. What it still has are its segments, the
cluster's key, its options (`peer.json`), where the others are, and its zone and weight in the ring (`cluster.json`, written
anew whenever the ring changes).
The same way come back: one whose directory is an old copy, one that was removed while it was away or out of reach, and one
that an operator's override left out (a lower generation).

W1  The new id is durable (`return.json`) before anybody is asked to admit it, so that a start after a crash goes on with it.
W2  Nothing is taken away before the ring admits it: that needs a majority, from which its registers are merged. Its former
    database is only put aside then (`rows/lost/`), until the ring is final without the former id. After an override it stays
    there: it may hold what nobody else has, and `atoll recover export` reads it.
W3  A former id that still answers somewhere is not replaced (`entry.admit`): a copied directory makes no second peer of one.
W4  A directory without `peer.json` has lost nothing: a disk that is not mounted yet is no amnesiac.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from peer.config import PEER_FILE, PeerConfig, damaged_message
from peer.entry import join, member_of
from peer.errors import AtollError, StartupError, Unavailable
from peer.replication import meta
from peer.replication.agreement.epochs import writes_of
from peer.rpc.hello import WIRE_LEVEL, Hello
from peer.rpc.peers import Peers
from peer.storage.datadir import CLUSTER_FILE, RETURN_FILE, DataDir
from peer.storage.durable import sync_directory
from peer.storage.sqlite import SqliteRows
from ring.epoch import Epoch

log = logging.getLogger("atoll.peer")

SEEDS_KEPT = 64
MEMBER_KEY = b"member"
_MERGED = b"merged"
NO_MAJORITY = (
    "it goes on asking. If so many peers lost their memory or their disks that the rest has no majority, only an operator"
    " can decide to go on without them: `atoll recover epoch` (docs/operate.md, When most of it is lost)"
)


class Forgot(AtollError):
    """This peer's memory is gone or cannot be trusted: it must not vote under its id again."""

    code = "Amnesia"


@dataclass(frozen=True, slots=True)
class Return:
    """What DIR/return.json holds: under which id a peer comes back, and which one it had. `keep`: the former database
    stays aside."""

    id: str
    former: str
    keep: bool = False


def pending(directory: DataDir) -> Return | None:
    """A return that was begun; None if there is none. Raises StartupError for a damaged file."""
    kept = directory.read_json(RETURN_FILE)
    if kept is None:
        return None
    try:
        return Return(str(kept["id"]), str(kept["former"]), bool(kept["keep"]))
    except (TypeError, KeyError):
        raise StartupError(f"{directory.path / RETURN_FILE} is damaged: remove it") from None


def owner(directory: DataDir) -> str:
    """Id of the peer that entered a ring here; "" if none did (W4). Raises StartupError for a damaged file."""
    kept = directory.read_json(PEER_FILE)
    if kept is None:
        return ""
    if not isinstance(kept, dict) or not isinstance(kept.get("id"), str):
        raise StartupError(damaged_message(directory.path / PEER_FILE))
    return str(kept["id"])


def look(directory: DataDir) -> None:
    """Raises Forgot if a peer lived here, but its metadata database is gone."""
    rows = directory.rows_path
    if owner(directory) and not (rows.exists() and rows.stat().st_size):
        raise Forgot(f"the metadata database {rows} is {'empty' if rows.exists() else 'missing'}")


def check_owner(directory: DataDir, member_id: str) -> None:
    """Raises Forgot if a peer lived here and the database is an empty one (`member_id` ""), StartupError if it is another
    peer's, unless that is the id under which this peer comes back."""
    known, rows = owner(directory), directory.rows_path
    if known and not member_id:
        raise Forgot(f"the metadata database {rows} is empty")
    if known and known != member_id:
        back = pending(directory)
        if back is None or (back.id, back.former) != (member_id, known):
            raise StartupError(
                f"{directory.path} belongs to the peer with id {known}, but its metadata database {rows} to the one with id"
                f" {member_id}: put each into its own directory; if its own is lost, remove this one"
            )


async def come_back(
    config: PeerConfig, directory: DataDir, key: bytes, why: AtollError, *, keep: bool = False
) -> None:
    """Be admitted under a new id, however long it takes, and make the directory that peer's. Run it in a task that can be
    cancelled: nothing is half done then.

    Raises StartupError when refused, or when nothing says where the cluster is.
    """
    back = _begin(directory, keep=keep)
    known = _cluster(directory)
    asked = replace(config, found=False, join=tuple(dict.fromkeys((*config.join, *known.seeds))))
    if not asked.join:
        raise StartupError(
            f"{why}, and nothing in {directory.path} says where the other peers of its cluster are: name one with --join"
            " HOST:PEERPORT. If there is none, what was in it is lost, unless the disk gives it back"
        )
    log.warning(
        "%s. It comes back with the chunks it has, under the new id %s in the place of %s, as soon as the others admit it",
        why, back.id, back.former,
    )  # fmt: skip
    member = member_of(asked, back.id, directory.total_bytes)
    if known.weight:
        member = replace(member, zone=known.zone, weight=known.weight)
    peers = Peers(lambda: Hello(known.cluster_id, "", 0, WIRE_LEVEL, 0), key, _answer_nothing, lambda _: None)
    try:
        epoch = await _admitted(asked, member, peers, back.former)
    finally:
        await peers.close()
    await _exchange(directory, back, epoch)
    log.info("admitted in epoch %d.%d under the id %s", epoch.generation, epoch.number, back.id)


def _begin(directory: DataDir, *, keep: bool) -> Return:
    """The return that is under way, or a new one, durably (W1). Raises StartupError."""
    former = owner(directory)
    back = pending(directory)
    if back is None or back.former != former:
        back = Return(secrets.token_hex(8), former, keep)
    back = replace(back, keep=back.keep or keep)
    directory.write_json(RETURN_FILE, asdict(back))
    return back


async def _admitted(config: PeerConfig, member: Any, peers: Peers, former: str) -> Epoch:
    while True:
        try:
            return await join(config, member, peers, former)
        except Unavailable as error:
            log.warning("%s; %s", error, NO_MAJORITY)


def _answer_nothing(sender: str, message: list[Any], reply: Callable[[Any], None]) -> None:
    reply(Unavailable("this peer waits to be admitted"))


async def _exchange(directory: DataDir, back: Return, epoch: Epoch) -> None:
    """Put the former database aside, and one that knows the new id and the ring into its place (W2); all within `rows/`,
    which may be a disk of its own. A crash leaves the one, the other, or none, which is as good as the one."""
    place = directory.rows_path
    fresh = place.parent / "new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    await _write_fresh(fresh / place.name, back, epoch)
    _put_aside(place, directory.lost_path)
    for file in sorted(fresh.iterdir(), reverse=True):  # a log before its database
        file.rename(place.parent / file.name)
        sync_directory(place.parent)
    fresh.rmdir()


async def _write_fresh(place: Path, back: Return, epoch: Epoch) -> None:
    database = SqliteRows(place, asyncio.get_running_loop())
    try:
        done = asyncio.get_running_loop().create_future()
        merged = meta.write(_MERGED, epoch.generation.to_bytes(8, "big"))
        database.commit(
            [meta.write(MEMBER_KEY, back.id.encode()), merged, *writes_of(epoch)], done.set_result
        )
        if error := await done:
            raise error
    finally:
        database.close()


def _put_aside(place: Path, aside: Path) -> None:
    """Move a database to `aside`/rows. It goes before its logs: without them it would be an old copy of itself, and be
    started as that. What a crash cut short is gone on with, as `aside` appears when all of it is there."""
    rows, moving = place.parent, aside.with_name(f"{aside.name}.new")
    files = sorted(rows.glob(f"{place.name}*"))
    if aside.exists():  # of an earlier loss, and worth more than what came since
        for file in files:
            file.unlink()
            sync_directory(rows)
        shutil.rmtree(moving, ignore_errors=True)
    elif files or moving.exists():
        (moving / "rows").mkdir(mode=0o700, parents=True, exist_ok=True)
        for file in files:
            file.rename(moving / "rows" / file.name)
            sync_directory(moving / "rows")
            sync_directory(rows)
        sync_directory(moving)
        moving.rename(aside)
        sync_directory(rows)


# --- what is kept for it, outside the database


@dataclass(frozen=True, slots=True)
class _Known:
    """What DIR/cluster.json holds: the cluster's id, where other peers are, and the zone and weight this one had when it was
    last in the ring, which `atoll node set` may have given it; "" and 0 if it never was."""

    cluster_id: str
    seeds: tuple[tuple[str, int], ...]
    zone: str = ""
    weight: int = 0


def _cluster(directory: DataDir) -> _Known:
    """Raises StartupError for a damaged file."""
    kept = directory.read_json(CLUSTER_FILE)
    if kept is None:
        return _Known("", ())
    try:
        seeds = tuple((str(host), int(port)) for host, port in kept["peers"])
        return _Known(str(kept["id"]), seeds, str(kept.get("zone", "")), int(kept.get("weight", 0)))
    except (AttributeError, TypeError, KeyError, ValueError):
        raise StartupError(
            f"{directory.path / CLUSTER_FILE} is damaged: remove it, and name a peer with --join"
        ) from None


def note_cluster(directory: DataDir, me: str, epoch: Epoch) -> None:
    """Keep where the others are, and what this peer is in the ring, or was. Raises OSError."""
    peers = [[one.host, one.peer_port] for one in epoch.everybody if one.id != me][:SEEDS_KEPT]
    own = epoch.member(me)
    if own is not None:
        zone, weight = own.zone, own.weight
    else:
        zone, weight = "", 0
        with contextlib.suppress(StartupError):  # damaged: written anew
            before = _cluster(directory)
            zone, weight = before.zone, before.weight
    directory.write_json(
        CLUSTER_FILE, {"id": epoch.cluster_id, "peers": peers, "zone": zone, "weight": weight}
    )


def _finish(directory: DataDir, me: str, epoch: Epoch) -> None:
    """Once the ring is final without the former id: this return is over. Raises OSError."""
    back = pending(directory)
    over = epoch.kind == "final" and epoch.member(me) is not None
    if back is None or back.id != me or not over or epoch.member(back.former) is not None:
        return
    if back.keep:
        log.warning(
            "%s holds the registers this peer had before the override; `atoll recover export` reads what only it had. Remove"
            " it when it is not needed", directory.lost_path,
        )  # fmt: skip
    else:
        shutil.rmtree(directory.lost_path, ignore_errors=True)
    (directory.path / RETURN_FILE).unlink()


async def keep_ring(
    directory: DataDir, me: str, ring: Callable[[], Epoch], changed: asyncio.Event
) -> NoReturn:
    """For ever: note each new ring where a peer without its database finds it, and end a return that is over."""
    while True:
        changed.clear()
        epoch = ring()
        try:
            await asyncio.to_thread(note_cluster, directory, me, epoch)
            await asyncio.to_thread(_finish, directory, me, epoch)
        except OSError as error:  # a full disk; with the next ring again
            log.warning("cannot note the ring in %s: %s", directory.path, error)
        await changed.wait()
