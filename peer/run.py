"""The life of one process: checks before anything is touched, the peer, its return should it lose its memory, the end.

`run_peer` is what `atoll peer` calls. Ports are tried before the directory is touched, and the directory is locked before
anything is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from peer import logs, returning, startup
from peer.config import PeerConfig
from peer.entry import LeftOut
from peer.errors import AtollError, Corrupt, Full, StartupError
from peer.healing import Evicted, Overruled, Removed
from peer.notify import NOBODY, Supervisor
from peer.process import Peer
from peer.replication.agreement.identity import Amnesia
from peer.returning import Forgot
from peer.storage.datadir import DataDir
from peer.storage.rows import UNREADABLE
from peer.tls import options as tls
from peer.tls.certificates import ignore_hangup

log = logging.getLogger("atoll.peer")

Life = Callable[[PeerConfig, DataDir, asyncio.Event, Supervisor], Coroutine[Any, Any, None]]
_COMES_BACK = (Forgot, LeftOut, Evicted, Overruled, Amnesia)
RETURNS_EVERY_S = 60.0
"""At most one return in so long: each is a change of the ring, and a disk that loses everything must not cause one after
another."""


def run_peer(config: PeerConfig) -> int:
    """Run one peer in the foreground until SIGTERM or SIGINT; 0 then. Raises StartupError and other AtollErrors."""
    _run(config, _lives)
    return 0


def found(config: PeerConfig) -> None:
    """Found a cluster as `config` says, and end; its peer can be started from then on. Once more after a founding that was
    cut short completes it. Raises what `run_peer` does."""
    _run(config, _founds)


def _run(config: PeerConfig, life: Life) -> None:
    logs.HERE.name = config.name
    logs.set_up(config.log_level, config.log_format)
    os.umask(0o077)  # whatever a peer writes is its user's alone
    import uvloop

    uvloop.run(_serve(config, life))


async def _serve(config: PeerConfig, life: Life) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # With TLS a hang-up asks for the certificates to be read again, whenever it comes; without, the terminal is gone.
    loop.add_signal_handler(signal.SIGHUP, ignore_hangup if config.serves_tls else stop.set)
    startup.refuse_unbuilt(config)
    tls.check(config)
    startup.try_ports(config)
    directory = DataDir.open(config.data)
    supervisor = Supervisor()
    telling = asyncio.ensure_future(supervisor.follow())
    try:
        for warning in directory.warnings:
            log.warning("%s", warning)
        await life(config, directory, stop, supervisor)
    finally:
        directory.close()
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)


async def _founds(config: PeerConfig, directory: DataDir, stop: asyncio.Event, _: Supervisor) -> None:
    """Until everything that a start leaves in the directory is there."""
    peer = Peer(config, directory, asyncio.get_running_loop())
    try:
        if not await _unless(stop, peer.start()):
            raise StartupError("interrupted: found once more, with the same options")
    finally:
        await peer.stop()


async def _lives(
    config: PeerConfig, directory: DataDir, stop: asyncio.Event, supervisor: Supervisor = NOBODY
) -> None:
    """One peer after the other, each the return of the former, until a signal, or until the operator had it removed: that
    is an end in order, which no supervisor is to undo. Raises what ends it otherwise."""
    loop = asyncio.get_running_loop()
    returns_s = loop.time()
    while not stop.is_set():
        try:
            return await _live(config, directory, stop, supervisor)
        except _COMES_BACK as error:
            why = error.with_traceback(None)  # which would keep the former peer's buffers
        except Removed:  # as it was asked to; its last line in the log says so
            log.warning("started again on this directory it would join again under a new id")
            return
        await _pause(returns_s - loop.time(), stop)
        returns_s = loop.time() + RETURNS_EVERY_S
        if not await _come_back(config, directory, why, stop):
            return


async def _pause(delay_s: float, stop: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), max(delay_s, 0.0))


async def _live(config: PeerConfig, directory: DataDir, stop: asyncio.Event, supervisor: Supervisor) -> None:
    """One peer, from its directory to a signal. Raises what ends it otherwise: one of _COMES_BACK, StartupError, ..."""
    peer = None
    try:
        returning.look(directory)
        peer = Peer(config, directory, asyncio.get_running_loop())
        if await _unless(stop, peer.start()):
            supervisor.look_at(peer.waits_for, f"serving at {config.advertised_host}:{config.api_port}")
            await _first(stop, peer.over)
        if peer.fatal is not None:
            raise peer.fatal
        supervisor.stopping(config.drain_s)
        log.info("stopping: requests in flight get %g s", config.drain_s)
    except Corrupt as error:
        if error.code == UNREADABLE:
            raise StartupError(f"{directory.path}: {error}") from error
        raise Forgot(str(error)) from error
    except Full as error:
        raise StartupError(f"{error}: a start needs a few MiB; free some there and start it again") from error
    finally:
        supervisor.look_at(None)
        if peer is not None:
            await peer.stop()


async def _come_back(config: PeerConfig, directory: DataDir, why: AtollError, stop: asyncio.Event) -> bool:
    """Become another peer with this one's chunks; False if a signal came first. Raises StartupError."""
    if isinstance(why, LeftOut):
        returning.note_cluster(directory, "", why.epoch)
    key = startup.cluster_key(config, directory)
    return await _unless(stop, returning.come_back(config, directory, key, why, keep=_overrules(why)))


def _overrules(why: AtollError) -> bool:
    return isinstance(why, Overruled) or (isinstance(why, LeftOut) and why.overrules)


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do it, and raise what it raises; False if a signal came first, by which it is cancelled."""
    task = asyncio.ensure_future(work)
    signalled = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((task, signalled), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            return False
        task.result()
        return True
    finally:
        for one in (task, signalled):
            one.cancel()
        await asyncio.gather(task, signalled, return_exceptions=True)


async def _first(*events: asyncio.Event) -> None:
    """Return when one of them is set."""
    tasks = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
