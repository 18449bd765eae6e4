"""`atoll peer`: one peer in the foreground. Decides its options here; peer/run.py runs it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from peer import config
from tools.cli.exits import USAGE
from tools.cli.output import Column, emit
from tools.cli.session import note, read_secret
from tools.cli.settings import Folder, current, lists

F = TypeVar("F", bound=Callable[..., Any])
_FILE = click.Path(path_type=Path, dir_okay=False)
# option name -> field of PeerConfig, where they differ
_FIELD_OF = {"capacity": "capacity_bytes", "chunk_size": "chunk_bytes"} | {
    option.removeprefix("--").replace("-", "_"): name
    for name, (option, *_) in (config.LIMITS | config.HEALING).items()
}
_SIZES = ("capacity", "chunk_size", "json_limit", "scrub_rate")
_TIMES = (
    "idle_body",
    "idle_body_pressed",
    "idle_connection",
    "drain",
    "garbage_after",
    "evict_after",
    "scrub_every",
)
_SECTIONS = {
    "name": "This peer in the ring",
    "replicas": "Founding only",
    "tls_cert": "Protection",
    "idle_body": "Limits of the API (times as in 90s, 500ms, 2m)",
    "garbage_after": "Other options",
}
"""Of --help: the first option of each section, in the order in which they are declared, after plain "Options"."""


def _options(*rows: tuple[str, dict[str, Any]]) -> Callable[[F], F]:
    def add(command: F) -> F:
        for name, attributes in reversed(rows):
            command = click.option(name, **attributes)(command)
        return command

    return add


def _text(metavar: str, says: str, **more: Any) -> dict[str, Any]:
    return {"metavar": metavar, "help": says} | more


_PORT = click.IntRange(1, 65535)


class Sectioned(click.Command):
    """Its many options stand in sections of --help."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        title = "Options"
        for param in self.get_params(ctx):
            title = _SECTIONS.get(str(param.name), title)
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                sections.setdefault(title, []).append(record)
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl(rows)


peer_options = _options(
    ("--data", _text("DIR", "The peer's directory.", type=Folder())),
    ("--found", {"is_flag": True, "default": None, "help": "Found a new cluster here, if DIR is empty."}),
    ("--join", _text("HOST:PEERPORT...", "Join the cluster of any of these peers.", multiple=True)),
    ("--replace", _text("NODE", "Joining, take the place of this dead peer (name or id).")),
    ("--host", _text("HOST", "Listen on this address.  [127.0.0.1]")),
    ("--advertise", _text("HOST", "What others are told; needed with a wildcard host.")),
    ("--port", _text("PORT", "S3 port; the API is one above, peers two.  [7400]", type=_PORT)),
    ("--s3-port", _text("PORT", "The S3 port by itself.", type=_PORT)),
    ("--api-port", _text("PORT", "The API port by itself.", type=_PORT)),
    ("--peer-port", _text("PORT", "The port for other peers by itself.", type=_PORT)),
    ("--cluster-key-file", _text("FILE", "The founder's cluster.key, to join with.", type=_FILE)),
    ("--name", _text("NAME", "A label for people.")),
    ("--zone", _text("ZONE", "The failure domain.  [the host name]")),
    (
        "--capacity",
        _text("SIZE", "Weight on the ring, and most bytes of chunks, as in 500GB.  [the file system]"),
    ),
    ("--replicas", _text("N", "Copies of everything.  [3]", type=int)),
    ("--partition-power", _text("N", "2^N partitions, 8 to 16.  [12]", type=int)),
    ("--chunk-size", _text("SIZE", "Pieces that objects are cut into.  [4MiB]")),
    ("--root-access-key", _text("KEY", "The root's access key, instead of a random one.")),
    ("--root-secret-key-file", _text("FILE", "Holds its secret; `-` is stdin.")),
    ("--tls-cert", _text("FILE", "Serve S3 and API over TLS; with --tls-key.", type=_FILE)),
    ("--tls-key", _text("FILE", "The certificate's key.", type=_FILE)),
    (
        "--tls",
        _text(
            "auto|off", "With certificates of the cluster's own.  [off]", type=click.Choice(["auto", "off"])
        ),
    ),
    ("--domain", _text("DOMAIN", "For virtual-host style S3 requests.")),
    ("--public-url", _text("URL", "How browsers reach this peer.")),
    ("--encryption-key-file", _text("FILE", "Encrypt what is stored.", type=_FILE)),
    ("--insecure/--secure", {"default": None, "help": "Serve beyond loopback without TLS."}),
    ("--metrics-public/--metrics-private", {"default": None, "help": "/metrics without keys.  [private]"}),
    ("--idle-body", _text("TIME", "Cut a body, sent or received, that does not move.  [60s]")),
    ("--idle-body-pressed", _text("TIME", "The same, if it keeps a buffer others wait for.  [5s]")),
    ("--idle-connection", _text("TIME", "Close a connection without a request.  [75s]")),
    ("--drain", _text("TIME", "When stopping, for requests in flight.  [10s]")),
    ("--json-limit", _text("SIZE", "The largest JSON body.  [1MiB]")),
    ("--form-fields", _text("N", "The most fields of an uploaded form.  [1000]", type=int)),
    ("--garbage-after", _text("TIME", "Keep bytes that no object names so long, for reads.  [5m]")),
    ("--evict-after", _text("TIME", "Remove a peer that is dead for so long; 0: never.  [15m]")),
    ("--scrub-every", _text("TIME", "Read and check everything that is stored so often.  [24h]")),
    ("--scrub-rate", _text("SIZE", "Bytes a second, at most, to do that with.  [20MiB]")),
    ("--log-level", {"type": click.Choice(config.LOG_LEVELS), "help": "[info]"}),
    (
        "--log-format",
        {"type": click.Choice(config.LOG_FORMATS), "help": "[auto: text on a terminal, else JSON]"},
    ),
)


@click.command(cls=Sectioned)
@peer_options
@click.option("--print-config", is_flag=True, help="Show every value and where it came from; run nothing.")
@click.argument("more_seeds", nargs=-1, metavar="")
@lists
def peer(print_config: bool, more_seeds: tuple[str, ...], **told: Any) -> int | None:
    """Run one peer in the foreground, until SIGTERM or Ctrl-C.

    \b
    The first peer of a new cluster:   atoll peer --data DIR --found
    One more peer of a running one:    atoll peer --data DIR --join HOST:PEERPORT --cluster-key-file F
    Started again:                     atoll peer --data DIR
    """
    choice = Choice(told, more_seeds)
    if print_config:
        choice.show()
        return 0
    data = choice.values["data"]
    if not (choice.values["found"] or choice.values["join"] or config.is_initialised(data)):
        note(f"atoll: {config.uninitialised_message(data)}")
        return USAGE
    decided = choice.config()
    _need_key(decided)
    # Looked up when needed: only this command pays for importing a peer.
    result = import_module("peer.run").run_peer(decided)
    return result if isinstance(result, int) else 0


def _need_key(decided: config.PeerConfig) -> None:
    """A peer that is to join without the cluster's key is refused before it makes its directory."""
    file = decided.cluster_key_file
    if not decided.join or config.is_initialised(decided.data):
        return
    if file is not None and not file.is_file():
        raise click.UsageError(f"{file} does not exist; copy DIR/cluster.key of a running peer there")
    if file is None and not (decided.data / "cluster.key").exists():
        raise click.UsageError(
            "joining needs the cluster's key: give --cluster-key-file F with a copy of DIR/cluster.key of a running peer"
        )


class Choice:
    """Every option decided: flag, environment, file, then what the directory remembers, then the default."""

    def __init__(self, told: dict[str, Any], more_seeds: tuple[str, ...]) -> None:
        if told["data"] is None:
            raise click.UsageError("say where the peer's data lives: --data DIR")
        self.sources: dict[str, str] = {}
        given = self._given(told, more_seeds)
        kept = config.remembered(given["data"])
        merged = config.merged(given, kept)
        for item in fields(config.PeerConfig):
            if item.name not in given:
                kept_here = item.name in merged
                self.sources[item.name] = str(given["data"] / config.PEER_FILE) if kept_here else "default"
        self._arguments = merged
        self.values: dict[str, Any] = {
            item.name: merged.get(item.name, item.default) for item in fields(config.PeerConfig)
        }

    def config(self) -> config.PeerConfig:
        """Invalid names an option that makes no sense."""
        return config.PeerConfig(**self._arguments)

    def _given(self, told: dict[str, Any], more_seeds: tuple[str, ...]) -> dict[str, Any]:
        """What was said, by field, and who said it."""
        given: dict[str, Any] = {}
        base = told.pop("port")
        if base is not None:
            for step, name in enumerate(("s3_port", "api_port", "peer_port")):
                given[name] = base + step
                self.sources[name] = f"{_source('port')} (--port {base})"
        secret_file = told.pop("root_secret_key_file")
        seeds = (*told.pop("join"), *more_seeds)
        if more_seeds and _source("join") == "default":
            raise click.UsageError(f"what is {more_seeds[0]!r} for? Seeds follow --join")
        if seeds:
            addresses = [part for seed in seeds for part in seed.replace(",", " ").split()]
            if not addresses:
                raise click.UsageError("--join is empty; give HOST:PEERPORT of a running peer")
            given["join"] = tuple(config.parse_address(address) for address in addresses)
            self.sources["join"] = _source("join")
        for name, value in told.items():
            if value is None:
                continue
            field = _FIELD_OF.get(name, name)
            flag = "--" + name.replace("_", "-")
            if value == "":
                raise click.UsageError(f"{flag} is empty; give a value, or leave it out")
            if name in _SIZES:
                value = config.parse_size(value, flag)
            elif name in _TIMES:
                value = config.parse_time(value, flag)
            given[field] = value
            self.sources[field] = _source(name)
        secret = read_secret(secret_file) if secret_file else os.environ.get("ATOLL_ROOT_SECRET_KEY")
        if secret:
            given["root_secret_key"] = secret
            named = "environment ATOLL_ROOT_SECRET_KEY"
            self.sources["root_secret_key"] = _source("root_secret_key_file") if secret_file else named
        return given

    def show(self) -> None:
        """Print every value and where it came from; secrets are hidden. Then complain, if there is reason."""
        rows = [
            {"option": name, "value": self._shown(name), "source": self.sources[name]} for name in self.values
        ]
        columns = [
            Column("OPTION", lambda row: row["option"]),
            Column("VALUE", lambda row: _plain(row["value"])),
            Column("SOURCE", lambda row: row["source"]),
        ]
        emit(rows, columns, lambda row: f"{row['option']}={_plain(row['value'])}")
        self.config()

    def _shown(self, name: str) -> Any:
        value = self.values[name]
        if name == "root_secret_key":
            return "(hidden)" if value else ""
        if name == "join":
            return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in value]
        return str(value) if isinstance(value, Path) else value


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(value)
    return value if isinstance(value, str) else json.dumps(value)


def _source(name: str) -> str:
    """Where click found an option's value."""
    source = click.get_current_context().get_parameter_source(name)
    if source is ParameterSource.COMMANDLINE:
        return "flag"
    if source is ParameterSource.ENVIRONMENT:
        return "environment ATOLL_" + name.upper()
    if source is ParameterSource.DEFAULT_MAP:
        file = current().config
        return f"file {file.path}" if file is not None else "file"
    return "default"
