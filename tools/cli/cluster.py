"""`atoll node`, `ring` and `cluster`: what one peer sees of the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from tools.cli import ringchange
from tools.cli.output import Column, emit, emit_one, print_table, seconds_text, size_text
from tools.cli.session import connect, split_target
from tools.cli.settings import connects, current, lists
from tools.cli.told import epoch as epoch_text

Row = Mapping[str, Any]


def share_text(share: Any) -> str:
    return f"{100 * share:.1f} %" if isinstance(share, int | float) else "?"


NODE_COLUMNS = (
    Column("NAME", lambda row: f"{row.get('name', '?')}{' *' if row.get('self') else ''}"),
    Column("STATE", lambda row: str(row.get("state", "?"))),
    Column("RING", lambda row: str(row.get("ring", ""))),
    Column("ZONE", lambda row: str(row.get("zone", ""))),
    Column("API", lambda row: str(row.get("api_url") or "")),
    Column("HEARD", lambda row: "" if row.get("self") else seconds_text(row.get("last_heard_s")), right=True),
    Column("USED", lambda row: size_text(row.get("used_bytes")), right=True),
    Column("CAPACITY", lambda row: size_text(row.get("capacity_bytes")), right=True),
    Column("SHARE", lambda row: share_text(row.get("share")), right=True),
    Column("EPOCH", lambda row: epoch_text(row.get("epoch")), right=True),
    Column("FLAGS", lambda row: " ".join(row.get("flags") or ())),
)


@click.group()
def node() -> None:
    """The peers of the cluster."""


@node.command("list")
@lists
@connects
def node_list() -> None:
    """List the peers; `*` marks the one that answered."""
    with connect() as client:
        rows = [dict(found.raw) for found in client.nodes()]
    emit(rows, NODE_COLUMNS, lambda row: str(row.get("name")))


@node.command("show")
@click.argument("name")
@lists
@connects
def node_show(name: str) -> None:
    """Show one peer, by name or id; `self` is the one that answers."""
    with connect() as client:
        found = client.node(name)
    emit_one(found.raw, found.name, flattened(found.raw))


for change in (ringchange.drain, ringchange.undrain, ringchange.remove, ringchange.set_node):
    node.add_command(change)


@click.group()
def ring() -> None:
    """The ring: which peers own which partition."""


@ring.command("show")
@click.option("--partitions", is_flag=True, help="Every partition with its owners.")
@lists
@connects
def ring_show(partitions: bool) -> None:
    """Show how the ring is shared out."""
    with connect() as client:
        told = client.ring()
    members = [str(member.get("name")) for member in told.get("members", ())]
    owners: list[list[int]] = told.get("owners", [])
    if partitions:
        rows = [{"partition": i, "owners": [members[m] for m in row]} for i, row in enumerate(owners)]
        columns = [
            Column("PARTITION", lambda row: str(row["partition"]), right=True),
            Column("OWNERS", lambda row: " ".join(row["owners"])),
        ]
        emit(rows, columns, lambda row: str(row["partition"]))
        return
    held = [sum(row.count(i) for row in owners) for i in range(len(members))]
    first = [sum(row[:1] == [i] for row in owners) for i in range(len(members))]
    lines = [
        ("epoch", epoch_text(told.get("epoch"))),
        ("partitions", f"{len(owners)} (power {told.get('partition_power')})"),
        ("replicas", str(told.get("replicas"))),
    ]
    if current().output != "table":
        emit_one(told, epoch_text(told.get("epoch")), lines)
        return
    emit_one(told, "", lines)
    total = sum(held) or 1
    print_table(
        [
            Column("MEMBER", str),
            Column("PARTITIONS", str, right=True),
            Column("FIRST", str, right=True),
            Column("SHARE", str, right=True),
        ],
        [[name, str(held[i]), str(first[i]), share_text(held[i] / total)] for i, name in enumerate(members)],
    )


@ring.command("lookup")
@click.argument("target", metavar="BUCKET/KEY")
@lists
@connects
def ring_lookup(target: str) -> None:
    """Show which peers own a key, the first one first."""
    bucket, key = split_target(target)
    with connect() as client:
        told = client.lookup(bucket, key or None)
    if current().output in ("json", "jsonl"):
        emit_one(told, "", [])
        return
    if current().output == "table":
        emit_one(told, "", [("key", target), ("partition", str(told.get("partition")))])
    columns = [
        Column("OWNER", lambda row: str(row.get("name"))),
        Column("STATE", lambda row: str(row.get("state"))),
        Column("API", lambda row: str(row.get("api_url") or "")),
    ]
    emit(told.get("owners", []), columns, lambda row: str(row.get("name")))


@ring.command("history")
@lists
@connects
def ring_history() -> None:
    """Show the rings there have been, the newest last, as the peer that answers has seen them; the last thousand."""
    with connect() as client:
        told = client.epochs()["epochs"]
    before = dict(zip(map(epoch_text, told[1:]), told, strict=False))

    def changed(row: Mapping[str, Any]) -> str:
        last = before.get(epoch_text(row))
        if last is None:
            return ""
        came, went = set(row["members"]) - set(last["members"]), set(last["members"]) - set(row["members"])
        return " ".join([*(f"+{name}" for name in sorted(came)), *(f"-{name}" for name in sorted(went))])

    columns = [
        Column("EPOCH", epoch_text),
        Column("REPLICAS", lambda row: str(row["replicas"]), right=True),
        Column("CHANGED", changed),
        Column("MEMBERS", lambda row: " ".join(row["members"])),
    ]
    emit(told, columns, epoch_text)


ring.add_command(ringchange.set_replicas)
ring.add_command(ringchange.abort)


@click.group()
def cluster() -> None:
    """The cluster as a whole."""


@cluster.command("show")
@lists
@connects
def cluster_show() -> None:
    """Show what the cluster is: identity, epoch, shape, verdict."""
    with connect() as client:
        info = client.cluster()
    shape = {key: value for key, value in info.raw.items() if key not in ("nodes", "reasons")}
    lines = flattened(shape)
    lines += [("reason", str(reason.get("message"))) for reason in info.raw.get("reasons", ())]
    lines.append(("peers", " ".join(found.name for found in info.nodes)))
    emit_one(info.raw, info.cluster_id, lines)


def flattened(row: Row, before: str = "") -> list[tuple[str, str]]:
    """A nested record as named values: {"a": {"b": 1}} is a.b 1; sizes also in units people read."""
    lines: list[tuple[str, str]] = []
    for key, value in row.items():
        name = f"{before}{key}"
        if key == "epoch":
            lines.append((name, epoch_text(value)))
        elif isinstance(value, Mapping):
            lines += flattened(value, f"{name}.")
        elif isinstance(value, bool):
            lines.append((name, "yes" if value else "no"))
        elif isinstance(value, float):
            lines.append((name, f"{value:.4g}" if abs(value) < 1000 else f"{value:.1f}"))
        elif isinstance(value, list):
            lines.append((name, " ".join(map(str, value))))
        elif key.endswith("_bytes") and isinstance(value, int) and value >= 1024:
            lines.append((name, f"{value} ({size_text(value)})"))
        else:
            lines.append((name, "" if value is None else str(value)))
    return lines
