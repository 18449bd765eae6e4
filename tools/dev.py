"""`atoll dev`: a cluster of real peers on this machine, shown live, stopped with Ctrl-C."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from tools.cli.settings import Folder

if TYPE_CHECKING:
    from tools.devlayout import Layout, Place

DATA = Path("atoll-data")

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
@click.option("--plain", is_flag=True, help="Lines instead of the live view.")
@click.pass_context
def dev(
    context: click.Context,
    data: Path | None,
    peers: int | None,
    port: int | None,
    replicas: int | None,
    plain: bool,
) -> None:
    """Found and run a local cluster of real peer processes.

    Peers are peer-1, peer-2, ... in DATA/peer-1, ...; their data stays when they stop. A peer that dies
    stays dead until `atoll dev start PEER`. Writes the profile "dev", the default while the cluster runs.
    """
    context.meta["atoll.dev.data"] = data
    if context.invoked_subcommand is not None:
        for name in ("peers", "port", "replicas", "plain"):
            if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
                context.fail(
                    f"--{name} is for `atoll dev` itself; `dev {context.invoked_subcommand}` has no use for it"
                )
    if context.invoked_subcommand is None:
        from tools.devlayout import DevError
        from tools.devrun import run

        try:
            run((data or DATA).absolute(), peers, port, replicas, plain=plain)
        except DevError as error:
            raise click.ClickException(str(error)) from None


@dev.command()
@click.argument("peer")
@data_option
@click.pass_context
def start(context: click.Context, peer: str, data: Path | None) -> None:
    """Start a peer that died. It belongs to the running `atoll dev`, which shows and stops it."""
    from tools.devlayout import DevError, is_running, live_pid

    layout, place = _find(context, data, peer)
    if not is_running(layout.data):
        raise click.ClickException(
            f"no dev cluster is running in {layout.data}: "
            f"`atoll dev --data {layout.data}` starts it with all its peers"
        )
    if (pid := live_pid(place)) is not None:
        raise click.ClickException(f"{place.name} is running already, pid {pid}")
    from tools.devrun import start_one

    try:
        pid = start_one(layout, place)
    except DevError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{place.name} started, pid {pid}, {place.api_url}")


@dev.command()
@click.argument("peer")
@data_option
@click.pass_context
def kill(context: click.Context, peer: str, data: Path | None) -> None:
    """Kill a peer with SIGKILL, as a power cut would."""
    from tools.devlayout import live_pid
    from tools.devview import atoll_command, start_command

    layout, place = _find(context, data, peer)
    pid = live_pid(place)
    if pid is None:
        raise click.ClickException(f"{place.name} is not running in {layout.data}")
    os.kill(pid, signal.SIGKILL)
    click.echo(
        f"{place.name} killed, pid {pid}; bring it back: {start_command(atoll_command(), layout, place)}"
    )


def _find(context: click.Context, data: Path | None, peer: str) -> tuple[Layout, Place]:
    """The cluster and the peer a subcommand is about; `--data` may stand before or after the subcommand."""
    from tools.devlayout import DevError, load

    directory = (data or context.meta.get("atoll.dev.data") or DATA).absolute()
    try:
        layout = load(directory)
        if layout is None:
            raise DevError(f"no dev cluster was founded in {directory}: name its directory with --data")
        return layout, layout.place(peer)
    except DevError as error:
        raise click.ClickException(str(error)) from None
