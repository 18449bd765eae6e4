"""Runs a dev cluster from the first check to the last peer's end: what `atoll dev` does."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tools.devcluster import DevCluster, Peer
from tools.devlayout import (
    DevError,
    Layout,
    Place,
    check_ports,
    give_up_lock,
    last_words,
    live_pid,
    open_log,
    peer_command,
    peer_environment,
    settle,
    take_lock,
)
from tools.devview import PlainView, panel_lines

if TYPE_CHECKING:
    from tui.app import TopApp

PROFILE = "dev"
START_DEADLINE_S = 60.0
END_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(
    data: Path, peers: int | None, port: int | None, replicas: int | None, tls: bool | None, *, plain: bool
) -> None:
    """Found or restart the cluster in `data`, run it until a signal, stop it.

    Raises:
        DevError: before anything is started: ports in use, a cluster running there, contradicting options;
            or a peer could not start, after the others have been stopped.
    """
    new = not data.exists()
    lock = take_lock(data)
    try:
        try:
            layout = settle(data, peers, port, replicas, tls)
            check_ports([place for place in layout.places if live_pid(place) is None])
        except DevError:
            if new:
                give_up_lock(data)
            raise
        live = not plain and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        asyncio.run(_live(layout) if live else _plain(layout))
    finally:
        os.close(lock)


async def _plain(layout: Layout) -> None:
    view = PlainView(layout)
    cluster = DevCluster(layout, view.changed)
    ended = asyncio.Event()

    async def serve() -> None:
        await cluster.start(START_DEADLINE_S)
        with _profile(layout, view.say):
            view.ready(cluster.peers)
            await cluster.watch()

    with _signals(ended.set):
        await _until(ended, serve(), cluster)


async def _live(layout: Layout) -> None:
    from tui.app import TopApp
    from tui.source import Live
    from tui.terminal import can_unicode

    ended = asyncio.Event()

    def changed(peer: Peer) -> None:
        if not app.is_running:
            return  # the screen is gone: the peers are being stopped
        app.say(*_notice(peer))
        app.show_panel(panel_lines(cluster.layout, cluster.peers))

    cluster = DevCluster(layout, changed)

    def credentials() -> tuple[str, str] | None:
        there = layout.credentials_file.exists() and (layout.ca_file is None or layout.ca_file.exists())
        return layout.credentials() if there else None

    source = Live([place.api_url for place in layout.places], credentials, tls=layout.trust)
    app = TopApp(source, title="atoll dev", unicode=can_unicode(), panel=panel_lines(layout, []))

    async def serve() -> None:
        await cluster.start(START_DEADLINE_S)
        with _profile(layout, app.say):
            await cluster.watch()

    with _signals(ended.set):
        screen = asyncio.create_task(_show(app, ended), name="screen")
        await app.shown.wait()
        try:
            await _until(ended, serve(), cluster, lambda: _leave(app, screen))
        finally:
            await _leave(app, screen)
            await source.close()


async def _show(app: TopApp, ended: asyncio.Event) -> None:
    """The screen until its user leaves it, which ends the cluster as well."""
    try:
        await app.run_async()
    finally:
        app.shown.set()
        ended.set()


async def _leave(app: TopApp, screen: asyncio.Task[None]) -> None:
    """Give the terminal back before lines are written to it."""
    if not screen.done():
        app.exit()
    await asyncio.wait([screen])


def _notice(peer: Peer) -> tuple[str, str]:
    words = f"{peer.place.name} {peer.state}" + (f": {peer.detail}" if peer.detail else "")
    levels = {"dead": "error", "ready": "good"}
    return words, levels.get(peer.state, "info")


async def _until(
    ended: asyncio.Event,
    serving: Awaitable[None],
    cluster: DevCluster,
    before_stop: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Serve until `ended`, then stop every peer whatever happened. A second signal stops waiting for them."""
    work = asyncio.ensure_future(serving)
    end = asyncio.ensure_future(ended.wait())
    try:
        await asyncio.wait([work, end], return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
    finally:
        for task in (work, end):
            task.cancel()
        await asyncio.gather(work, end, return_exceptions=True)
        if before_stop is not None:
            await before_stop()
        click.echo("stopping every peer; the data stays in " + str(cluster.layout.data), err=True)
        ended.clear()
        await _stop(cluster, ended)


async def _stop(cluster: DevCluster, again: asyncio.Event) -> None:
    stopping = asyncio.ensure_future(cluster.stop())
    hurry = asyncio.ensure_future(again.wait())
    await asyncio.wait([stopping, hurry], return_when=asyncio.FIRST_COMPLETED)
    hurry.cancel()
    if not stopping.done():
        stopping.cancel()  # its finally kills what is left
    await asyncio.gather(stopping, hurry, return_exceptions=True)
    if not stopping.cancelled() and (error := stopping.exception()) is not None:
        raise error


@contextmanager
def _signals(end: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed terminal all mean: stop the peers and exit 0."""
    loop = asyncio.get_running_loop()
    for number in END_SIGNALS:
        loop.add_signal_handler(number, end)
    try:
        yield
    finally:
        for number in END_SIGNALS:
            loop.remove_signal_handler(number)


@contextmanager
def _profile(layout: Layout, say: Callable[[str], None]) -> Iterator[None]:
    """The profile `dev` names this cluster and is the default; what was the default before is again after.

    A profile file that cannot be edited is no reason to be without a cluster: it is only said.
    """
    from peer.client import AtollError
    from tools.cli.profiles import set_default, write_profile

    try:
        endpoints = [place.api_url for place in layout.places]
        ca_file = str(layout.ca_file) if layout.ca_file is not None else None
        before = write_profile(PROFILE, endpoints, *layout.credentials(), make_default=True, ca_file=ca_file)
    except AtollError as error:
        say(f"the profile {PROFILE} was not written: {error}")
        yield
        return
    try:
        yield
    finally:
        try:
            set_default(before if before != PROFILE else None, only_if=PROFILE)
        except AtollError as error:
            say(f"{PROFILE} is still the default profile: {error}")


def start_one(layout: Layout, place: Place, deadline_s: float = 30.0) -> int:
    """Start one peer for the `atoll dev` that runs elsewhere, and return its pid once it has written it.

    It is a daemon: the running `atoll dev` finds it by its pid file, and the next one too.

    Raises:
        DevError: it ended, or wrote no pid file within the deadline (it is killed then).
    """
    with open_log(place) as log:
        process = subprocess.Popen(
            peer_command(place, layout),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=peer_environment(),
            start_new_session=True,
        )
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        if process.poll() is not None:
            said = "\n  ".join(["", *last_words(place)])
            raise DevError(f"{place.name} could not start (exit code {process.returncode}):{said}")
        pid = live_pid(place)
        if pid is not None:
            process.returncode = 0  # no longer ours to wait for: the running `atoll dev` has adopted it
            return pid
        time.sleep(0.05)
    process.kill()
    process.wait()
    raise DevError(f"{place.name} did not start within {deadline_s:g} s: see {place.log}")


def add_one(layout: Layout) -> tuple[Place, int]:
    """Start one peer more for the `atoll dev` that runs elsewhere; its place and pid. It joins the ring by itself.

    Raises:
        DevError: its ports are in use, another is being added, or it did not start; the layout is as before then.
    """
    grown = layout.grown()
    place = grown.places[-1]
    check_ports([place])
    try:
        place.directory.mkdir(mode=0o700)
    except FileExistsError:
        raise DevError(
            f"{place.directory} exists already: another `dev add` is at it, or left it; "
            "remove that directory if nothing runs in it"
        ) from None
    try:
        pid = start_one(grown, place)
        grown.save()
    except BaseException:
        with suppress(OSError):
            place.directory.rmdir()  # only while it is empty: nobody's data
        raise
    return place, pid
