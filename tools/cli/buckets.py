"""`atoll mb`, `rb` and `ls`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import click

from peer.client.model import ObjectInfo, Prefix, name_of, parse_time
from peer.client.sync import Client
from tools.cli.output import Column, clean, emit, emit_json_array, shown, size_text, time_text, write
from tools.cli.session import connect, note, split_target
from tools.cli.settings import connects, current, lists


@click.command()
@click.argument("bucket")
@click.option("--shards", type=click.IntRange(1, 1024), help="How finely it is spread; fixed for good.  [64]")
@connects
def mb(bucket: str, shards: int | None) -> None:
    """Make a bucket."""
    with connect() as client:
        new = client.create_bucket(bucket, shards=shards)
    note(f"bucket {bucket} made" if new else f"bucket {bucket} is yours already; nothing was changed")


@click.command()
@click.argument("bucket")
@connects
def rb(bucket: str) -> None:
    """Remove an empty bucket."""
    with connect() as client:
        client.delete_bucket(bucket)
    note(f"bucket {bucket} removed")


@click.command()
@click.argument("target", metavar="[BUCKET[/PREFIX]]", required=False)
@click.option("-r", "--recursive", is_flag=True, help="Every key, not folded at `/`.")
@click.option("--limit", type=click.IntRange(min=1), help="Stop after so many.")
@click.option("--after", metavar="KEY", help="Begin behind this key.")
@lists
@connects
def ls(target: str | None, recursive: bool, limit: int | None, after: str | None) -> None:
    """List buckets, or the objects whose keys begin with PREFIX."""
    with connect() as client:
        if not target:
            _buckets(client)
        else:
            bucket, prefix = split_target(target)
            found = _entries(client, bucket, prefix, None if recursive else "/", after, limit)
            _print(found)


def _buckets(client: Client) -> None:
    columns = [
        Column("CREATED", lambda row: time_text(parse_time(row["created"]))),
        Column("SHARDS", lambda row: str(row["shards"]), right=True),
        Column("NAME", lambda row: row["name"]),
    ]
    emit((bucket.to_json() for bucket in client.buckets()), columns, lambda row: str(row["name"]))


def _entries(
    client: Client, bucket: str, prefix: str, delimiter: str | None, after: str | None, limit: int | None
) -> Iterator[ObjectInfo | Prefix]:
    """Up to `limit` entries; a small limit asks for no more than it needs."""
    page_limit = limit if limit is not None and limit < 1000 else None
    left = limit
    for entry in client.list(bucket, prefix, delimiter=delimiter, after=after, page_limit=page_limit):
        yield entry
        if left is not None:
            left -= 1
            if not left:
                return


def _print(entries: Iterable[ObjectInfo | Prefix]) -> None:
    """Line by line as the pages come: a listing may be longer than memory."""
    form = current().output
    if form == "json":
        emit_json_array(entry.to_json() for entry in entries)
    elif form == "jsonl":
        emit((entry.to_json() for entry in entries), [], str)
    else:
        for entry in entries:
            write(shown(name_of(entry)) if form == "name" else _line(entry))


def _line(entry: ObjectInfo | Prefix) -> str:
    if isinstance(entry, Prefix):
        return f"{'':20}  {'':>10}  {clean(entry.prefix)}"
    return f"{time_text(entry.modified):20}  {size_text(entry.size):>10}  {clean(entry.key)}"


def describe_bucket(client: Client, name: str) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """A bucket's record, and the same for people."""
    info = client.bucket(name)
    lines = [("bucket", info.name), ("created", time_text(info.created)), ("shards", str(info.shards))]
    return info.to_json(), lines
