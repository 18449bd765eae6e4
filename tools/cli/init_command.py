"""`atoll init`: found a cluster unless there is one, and hand its key to the peers. For jobs that run before them."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import click

from tools.cli.output import clean, write
from tools.cli.peer_command import Choice, Sectioned, peer_options
from tools.cli.settings import Folder


@click.command(cls=Sectioned)
@click.option(
    "--secrets", type=Folder(), required=True, metavar="DIR", help="Where the cluster's keys are kept."
)
@click.option(
    "--other",
    "others",
    type=Folder(),
    multiple=True,
    metavar="DIR",
    help="A further peer's directory: when a peer has lived there, nothing is founded.",
)
@peer_options
def init(secrets: Path, others: tuple[Path, ...], **told: Any) -> None:
    """Found a cluster in --data, unless there is one, and end.

    Meant for a job that runs before the peers, each of which then joins: --join, --cluster-key-file SECRETS/cluster.key.
    As none of them ever founds, one that loses its disk founds no second cluster. It may run any number of times.

    The options are those of `atoll peer`, and are kept for the first one.
    """
    told |= {
        "found": True,
        "join": (),
        "replace": None,
        "cluster_key_file": None,
    }  # of the environment, for peers
    decided = Choice(told, ()).config()
    write(clean(import_module("peer.founding").found_once(decided, secrets, others)))
