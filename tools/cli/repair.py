"""`atoll repair`: the background workers of all peers."""

from __future__ import annotations

from typing import Any

import click

from tools.cli.exits import PARTLY
from tools.cli.output import Column, clean, emit, rate_text, seconds_text, size_text, write
from tools.cli.session import connect, note
from tools.cli.settings import connects, current, lists
from tools.cli.told import redundancy

COLUMNS = (
    Column("PEER", lambda row: str(row["node"].get("name", "?"))),
    Column("WORKER", lambda row: str(row.get("worker"))),
    Column("STATE", lambda row: str(row.get("state"))),
    Column("QUEUE", lambda row: str(row.get("queue")), right=True),
    Column("OLDEST", lambda row: seconds_text(row.get("oldest_s")), right=True),
    Column("DONE", lambda row: str(row.get("done")), right=True),
    Column("RATE/S", lambda row: rate_text(row.get("rate") or 0), right=True),
    Column(
        "MOST/S", lambda row: "" if row.get("per_second") is None else f"{row['per_second']:g}", right=True
    ),
    Column("MOVED", lambda row: size_text(row.get("bytes")), right=True),
    Column("LEFT", lambda row: seconds_text(row.get("left_s")), right=True),
    Column("LAST ERROR", lambda row: clean(str(row.get("last_error") or ""))),
)
_WORKER = click.argument("worker", default="all")
_NODE = click.option("--node", metavar="PEER", help="Only on this peer, by name or id.")


@click.group()
def repair() -> None:
    """What heals in the background: hints, comparisons, copies."""


@repair.command("status")
@lists
@connects
def repair_status() -> int:
    """Show every peer's workers: queue, rate, what is left, the last error."""
    with connect() as client:
        told = client.workers()
        whole = redundancy(client.cluster().raw) if current().output == "table" else ""
    if whole:
        write(clean(whole))
        write("")
    return _show(told)


def _show(told: dict[str, Any]) -> int:
    """Print workers; the exit code says whether every peer answered."""
    emit(told.get("workers", []), COLUMNS, lambda row: f"{row['node'].get('name')}/{row.get('worker')}")
    failed = told.get("failed", [])
    for one in failed:
        note(f"{clean(str(one.get('node')))}: {clean(str(one.get('message')))}")
    return PARTLY if failed else 0


@repair.command("start")
@_WORKER
@_NODE
@lists
@connects
def repair_start(worker: str, node: str | None) -> int:
    """Have a worker, or all, begin now what it would begin by itself in a while."""
    return _command("start", worker, node)


@repair.command("pause")
@_WORKER
@_NODE
@lists
@connects
def repair_pause(worker: str, node: str | None) -> int:
    """Stop a worker, or all, until resumed, also over restarts. Nothing heals meanwhile."""
    return _command("pause", worker, node)


@repair.command("resume")
@_WORKER
@_NODE
@lists
@connects
def repair_resume(worker: str, node: str | None) -> int:
    """Let a paused worker, or all, go on."""
    return _command("resume", worker, node)


@repair.command("throttle")
@click.argument("worker")
@click.argument("per_second", type=click.FloatRange(min=0, max=1e9))
@_NODE
@lists
@connects
def repair_throttle(worker: str, per_second: float, node: str | None) -> int:
    """Let a worker do so many items a second at most, also after restarts; 0: as many as it can."""
    return _command("throttle", worker, node, per_second)


def _command(verb: str, worker: str, node: str | None, per_second: float | None = None) -> int:
    with connect() as client:
        return _show(client.command_workers(verb, worker, node=node, per_second=per_second))
