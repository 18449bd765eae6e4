"""`atoll dev`: a cluster of real peers on this machine, shown live, stopped with Ctrl-C; and failures on purpose."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from tools.cli.settings import Folder

if TYPE_CHECKING:
    from tools.devlayout import Layout, Place

DATA = Path("atoll-data")


class Switch(click.types.BoolParamType):
    """Yes or no, also in the words of `atoll peer --tls`, which has the same environment variable."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert("yes" if value == "auto" else value, param, ctx)


data_option = click.option(
    "--data",
    type=Folder(),
    default=None,
    help="Directory of the cluster.  [default: ./atoll-data]",
)


@click.group(invoke_without_command=True)
@data_option
@click.option("--peers", type=click.IntRange(1, 100), help="How many peers.  [default: 3, or as founded]")
@click.option(
    "--port", type=click.IntRange(1, 65533), help="First port; peer i has port+10*(i-1).  [default: 7400]"
)
@click.option(
    "--replicas", type=click.IntRange(1, 16), help="Copies of everything, when founding.  [default: 3]"
)
@click.option(
    "--tls/--no-tls",
    type=Switch(),
    default=None,
    help="HTTPS with certificates of the cluster's own, which the profile trusts.  [as the last time]",
)
@click.option("--plain", is_flag=True, help="Lines instead of the live view.")
@click.pass_context
def dev(
    context: click.Context,
    data: Path | None,
    peers: int | None,
    port: int | None,
    replicas: int | None,
    tls: bool | None,
    plain: bool,
) -> None:
    """Found and run a local cluster of real peer processes.

    Peers are peer-1, peer-2, ... in DATA/peer-1, ...; their data stays when they stop. A peer that dies
    stays dead until `atoll dev start PEER`. Writes the profile "dev", the default while the cluster runs.
    """
    context.meta["atoll.dev.data"] = data
    if context.invoked_subcommand is not None:
        for name in ("peers", "port", "replicas", "tls", "plain"):
            if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
                context.fail(
                    f"--{name} is for `atoll dev` itself; `dev {context.invoked_subcommand}` has no use for it"
                )
    if context.invoked_subcommand is None:
        from tools.devrun import run

        with _told():
            run((data or DATA).absolute(), peers, port, replicas, tls, plain=plain)


@dev.command()
@click.argument("peer")
@data_option
@click.pass_context
def start(context: click.Context, peer: str, data: Path | None) -> None:
    """Start a peer that died, or let a frozen one go on. It belongs to the running `atoll dev`."""
    from tools.devlayout import is_frozen, live_pid

    layout, place = _find(context, data, peer)
    pid = live_pid(place)
    if pid is not None and is_frozen(pid):
        os.kill(pid, signal.SIGCONT)
        click.echo(f"{place.name} goes on, pid {pid}")
        return
    _must_run(layout)
    if pid is not None:
        raise click.ClickException(f"{place.name} is running already, pid {pid}")
    from tools.devrun import start_one

    with _told():
        pid = start_one(layout, place)
    click.echo(f"{place.name} started, pid {pid}, {place.api_url}")


@dev.command()
@data_option
@click.pass_context
def add(context: click.Context, data: Path | None) -> None:
    """Start one peer more; it joins the ring and takes its share of the data over."""
    from tools.devrun import add_one

    layout = _layout(context, data)
    _must_run(layout)
    with _told():
        place, pid = add_one(layout)
    click.echo(f"{place.name} started, pid {pid}, {place.api_url}; `atoll status` says what it takes over")


@dev.command()
@click.argument("peer")
@data_option
@click.pass_context
def freeze(context: click.Context, peer: str, data: Path | None) -> None:
    """Freeze a peer with SIGSTOP: it keeps its connections and says nothing. `atoll dev start` lets it go on."""
    from tools.devlayout import is_frozen
    from tools.devview import atoll_command, start_command

    layout, place, pid = _running(context, data, peer)
    if is_frozen(pid):
        raise click.ClickException(f"{place.name} is frozen already, pid {pid}")
    os.kill(pid, signal.SIGSTOP)
    click.echo(
        f"{place.name} frozen, pid {pid}; let it go on: {start_command(atoll_command(), layout, place)}"
    )


@dev.command()
@click.argument("peer")
@click.option(
    "--bits", type=click.IntRange(1, 10_000), default=40, show_default=True, help="How many to flip."
)
@data_option
@click.pass_context
def corrupt(context: click.Context, peer: str, bits: int, data: Path | None) -> None:
    """Flip bits in the stored bytes of a peer, as a rotting disk would: a read or its scrub finds and heals them."""
    import random

    from tools.rot import flip_bits

    _, place = _find(context, data, peer)
    flipped = flip_bits(place.directory / "segments", bits, random.Random())
    if not flipped:
        raise click.ClickException(
            f"{place.name} holds no chunks to damage: objects above 24 KiB are stored as chunks, smaller ones as rows"
        )
    words = "1 bit" if flipped == 1 else f"{flipped} bits"
    click.echo(f"{place.name}: {words} flipped; `atoll repair start scrub --node {place.name}` looks at once")


@dev.command()
@click.argument("peer")
@data_option
@click.pass_context
def kill(context: click.Context, peer: str, data: Path | None) -> None:
    """Kill a peer with SIGKILL, as a power cut would."""
    from tools.devview import atoll_command, start_command

    layout, place, pid = _running(context, data, peer)
    os.kill(pid, signal.SIGKILL)
    click.echo(
        f"{place.name} killed, pid {pid}; bring it back: {start_command(atoll_command(), layout, place)}"
    )


@contextmanager
def _told() -> Iterator[None]:
    """What cannot be done ends the command with its reason."""
    from tools.devlayout import DevError

    try:
        yield
    except DevError as error:
        raise click.ClickException(str(error)) from None


def _layout(context: click.Context, data: Path | None) -> Layout:
    """The cluster a subcommand is about; `--data` may stand before or after the subcommand."""
    from tools.devlayout import DevError, load

    directory = (data or context.meta.get("atoll.dev.data") or DATA).absolute()
    with _told():
        layout = load(directory)
        if layout is None:
            raise DevError(f"no dev cluster was founded in {directory}: name its directory with --data")
        return layout


def _find(context: click.Context, data: Path | None, peer: str) -> tuple[Layout, Place]:
    """The cluster and the peer a subcommand is about."""
    layout = _layout(context, data)
    with _told():
        return layout, layout.place(peer)


def _running(context: click.Context, data: Path | None, peer: str) -> tuple[Layout, Place, int]:
    """The same with the pid of that peer, which must run."""
    from tools.devlayout import live_pid

    layout, place = _find(context, data, peer)
    pid = live_pid(place)
    if pid is None:
        raise click.ClickException(f"{place.name} is not running in {layout.data}")
    return layout, place, pid


def _must_run(layout: Layout) -> None:
    """An `atoll dev` must be running that shows, and in the end stops, what is started now."""
    from tools.devlayout import is_running

    if not is_running(layout.data):
        raise click.ClickException(
            f"no dev cluster is running in {layout.data}: "
            f"`atoll dev --data {layout.data}` starts it with all its peers"
        )
