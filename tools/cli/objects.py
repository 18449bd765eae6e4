"""`atoll cat`, `stat` and `rm`."""

from __future__ import annotations

import sys

import click

from peer.client.model import ObjectInfo
from peer.client.sync import Client
from peer.errors import AtollError, NotFound
from tools.cli.buckets import describe_bucket
from tools.cli.exits import PARTLY
from tools.cli.output import emit_one, size_text, time_text
from tools.cli.root import tell
from tools.cli.session import connect, need_key, split_target
from tools.cli.settings import confirms, connects, lists


@click.command()
@click.argument("targets", metavar="BUCKET/KEY...", nargs=-1, required=True)
@connects
def cat(targets: tuple[str, ...]) -> None:
    """Write objects to stdout, one after the other; verified as they pass."""
    names = [need_key(target) for target in targets]
    with connect() as client:
        for bucket, key in names:
            sys.stdout.flush()
            client.get(bucket, key, prefer_owner=True).write_to(sys.stdout.buffer)
            sys.stdout.buffer.flush()


@click.command()
@click.argument("target", metavar="BUCKET[/KEY]")
@lists
@connects
def stat(target: str) -> None:
    """Describe an object, or a bucket."""
    bucket, key = split_target(target)
    with connect() as client:
        if not key:
            row, lines = describe_bucket(client, bucket)
            emit_one(row, bucket, lines)
            return
        info = _described(client, bucket, key)
    emit_one({"bucket": bucket} | info.to_json(), key, _lines(info))


def _described(client: Client, bucket: str, key: str) -> ObjectInfo:
    """The object's record. A HEAD's "not found" does not say what is missing, so ask for the bucket then."""
    try:
        return client.stat(bucket, key)
    except NotFound:
        client.bucket(bucket)
        raise NotFound(f"bucket {bucket!r} has no object {key!r}", code="NoSuchKey") from None


def _lines(info: ObjectInfo) -> list[tuple[str, str]]:
    return [
        ("bucket", info.bucket),
        ("key", info.key),
        ("size", f"{info.size} ({size_text(info.size)})" if info.size >= 1024 else f"{info.size} B"),
        ("etag", info.etag),
        ("modified", time_text(info.modified)),
        ("type", info.content_type),
        *((f"meta {name}", value) for name, value in sorted(info.metadata.items())),
    ]


@click.command()
@click.argument("targets", metavar="BUCKET/KEY...", nargs=-1, required=True)
@click.option("-r", "--recursive", is_flag=True, help="Everything below KEY/, or the whole bucket's content.")
@click.option("-f", "--force", is_flag=True, help="A key that is not there is no error.")
@click.option("--jobs", type=click.IntRange(1, 256), default=8, show_default=True, help="At a time.")
@confirms
@connects
def rm(targets: tuple[str, ...], recursive: bool, force: bool, jobs: int) -> int:
    """Remove objects."""
    if recursive:
        from tools.cli.remove_tree import remove_tree

        return remove_tree(targets, jobs, force)
    names = [need_key(target) for target in targets]
    done, code = 0, 0
    with connect() as client:
        for bucket, key in names:
            try:
                if not force:
                    _described(client, bucket, key)  # a delete of what is not there succeeds, so ask first
                client.delete(bucket, key)
                done += 1
            except AtollError as problem:
                code = tell(problem)
    return code and (PARTLY if done else code)
