"""`atoll profile`: the clusters this machine knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from peer.client.peers import normal_url
from peer.client.profile import config_path, load_profiles
from peer.errors import Invalid
from tools.cli import profiles
from tools.cli.output import Column, emit
from tools.cli.session import given_keys, note
from tools.cli.settings import connects, current, lists


@click.group()
def profile() -> None:
    """Clusters this machine knows: their endpoints and keys."""


@profile.command("list")
@lists
def list_() -> None:
    """List the profiles; secrets are not shown."""
    known, default = load_profiles()
    rows: list[dict[str, Any]] = [
        {
            "name": item.name,
            "default": item.name == default or len(known) == 1,
            "endpoints": list(item.endpoints),
            "access_key": item.access_key,
        }
        for item in known.values()
    ]
    columns = [
        Column("NAME", lambda row: row["name"]),
        Column("DEFAULT", lambda row: "yes" if row["default"] else ""),
        Column("ENDPOINTS", lambda row: " ".join(row["endpoints"])),
        Column("ACCESS KEY", lambda row: row["access_key"] or ""),
    ]
    if not rows and current().output == "table":
        note(f"no profile in {config_path()}; `atoll dev` makes one, or `atoll profile add`")
        return
    emit(rows, columns, lambda row: str(row["name"]))


@profile.command()
@click.argument("name")
@click.option("--default/--no-default", default=None, help="Make it the default (the first one always is).")
@click.option("--add-endpoint", metavar="URL", multiple=True, help="A further peer of the same cluster.")
@click.option(
    "--ca-fingerprint",
    metavar="SHA256",
    help="Fetch the cluster's own authority from the endpoint, and keep it if it has this fingerprint.",
)
@connects
def add(name: str, default: bool | None, add_endpoint: tuple[str, ...], ca_fingerprint: str | None) -> None:
    """Make or replace a profile: --endpoint URL, and keys from --credentials-file or the like.

    For https with certificates this machine does not trust: --ca-file, or --ca-fingerprint, which a peer with
    --tls auto logs when it starts.
    """
    settings = current()
    if settings.endpoint is None:
        raise Invalid("say where the cluster is: --endpoint http://HOST:7401 (the API port of any peer)")
    access_key, secret_key = given_keys(settings) or (None, None)
    first = not load_profiles()[0]
    endpoints = [normal_url(url) for url in (settings.endpoint, *add_endpoint)]
    ca_file = _authority(profiles.check_name(name), endpoints[0], settings.ca_file, ca_fingerprint)
    profiles.write_profile(
        name, endpoints, access_key, secret_key, first if default is None else default, ca_file=ca_file
    )
    note(f"profile {name} written to {config_path()}")


def _authority(name: str, url: str, file: str | None, fingerprint: str | None) -> str | None:
    """Where the certificates to trust are; fetched ones are kept beside the profiles."""
    from peer.client.trust import fetch_authority, trust

    if fingerprint is not None:
        if file is not None:
            raise click.UsageError("--ca-file and --ca-fingerprint are two ways to say the same; give one")
        file = str(profiles.keep_file(f"{name}.ca.pem", fetch_authority(url, fingerprint)))
    if file is None:
        return None
    trust(file)  # refuses what holds no certificate
    return str(Path(file).absolute())


@profile.command()
@click.argument("name")
def use(name: str) -> None:
    """Make a profile the default."""
    profiles.set_default(name)


@profile.command()
@click.argument("name")
def remove(name: str) -> None:
    """Forget a profile."""
    profiles.remove_profile(name)
