"""`atoll get`: objects into files and trees."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import click

from peer.client.model import ObjectInfo, Prefix
from peer.client.sync import Client
from peer.errors import NotFound
from tools.cli.exits import PARTLY
from tools.cli.localtree import LocalTree, Shadows, Unmappable, parts_of
from tools.cli.parallel import Tally, run_parallel, terminable
from tools.cli.progress import Transfers
from tools.cli.session import connect, need_key, split_target
from tools.cli.settings import connects


@dataclass(frozen=True, slots=True)
class Fetch:
    """One object to fetch; its size if a listing told it."""

    key: str
    parts: list[str]
    size: int | None


@click.command()
@click.argument("source", metavar="BUCKET/KEY")
@click.argument("target", metavar="[PATH]", required=False)
@click.option("-r", "--recursive", is_flag=True, help="Everything below KEY/ into the folder PATH.")
@click.option("--jobs", type=click.IntRange(1, 256), default=8, show_default=True, help="Files at a time.")
@connects
def get(source: str, target: str | None, recursive: bool, jobs: int) -> int:
    """Fetch an object into PATH (by default its name here; `-` is stdout), verified, then renamed into place.

    With -r nothing is ever written outside PATH: keys that cannot be files below it are listed, and
    the exit code is 7.
    """
    with terminable():
        if recursive:
            return _tree(source, target, jobs)
        return _single(source, target)


def _single(source: str, target: str | None) -> int:
    bucket, key = need_key(source)
    if target == "-":
        with connect() as client:
            client.get(bucket, key, prefer_owner=True).write_to(sys.stdout.buffer)
        return 0
    path = _path_for(key, target)
    with connect() as client, LocalTree(path.parent) as tree, Transfers("fetched") as transfers:
        client.on_trouble(transfers.say)
        _fetch(client, bucket, Fetch(key, [path.name], None), tree, transfers)
    transfers.summary()
    return 0


def _path_for(key: str, target: str | None) -> Path:
    """Where a single object goes: PATH, or below it (a folder) or here under the last part of its key."""
    if target is not None and not target.endswith("/") and not Path(target).is_dir():
        return Path(target)
    folder = Path(target or ".")
    try:
        name = parts_of(key)[-1]
    except Unmappable:
        name = key.rpartition("/")[2]
        if name in ("", ".", "..") or "\0" in name:
            raise click.UsageError(f"no file can be called like the end of {key!r}; say a PATH") from None
    return folder / name


def _tree(source: str, target: str | None, jobs: int) -> int:
    bucket, prefix = split_target(source)
    if target is None or target == "-":
        raise click.UsageError("say which folder the tree goes to: get -r BUCKET/KEY DIR")
    if prefix and not prefix.endswith("/"):
        prefix += "/"
    unmapped = 0
    with connect() as client, LocalTree(Path(target)) as tree, Transfers("fetched") as transfers:
        client.on_trouble(transfers.say)
        entries = client.list(bucket, prefix)
        first = list(islice(entries, 1))
        if prefix and not first:
            raise NotFound(f"nothing lies below {bucket}/{prefix}")
        tree.make()
        tally = Tally(jobs, transfers.say)

        def refuse(key: str, why: Unmappable) -> None:
            nonlocal unmapped
            unmapped += 1
            tally.fail(f"{key}: not written", why)

        fetches = _plan(chain(first, entries), prefix, transfers, refuse)

        def fetch(job: Fetch) -> None:
            _fetch(client, bucket, job, tree, transfers)

        with closing(run_parallel(fetches, fetch, workers=jobs, stop=client.close)) as outcomes:
            for outcome in outcomes:
                if isinstance(outcome.error, Unmappable):
                    refuse(outcome.job.key, outcome.error)
                elif not tally.count(outcome.job.key, outcome.error):
                    break
    transfers.summary(tally.failed)
    return PARTLY if unmapped else tally.exit_code()


def _plan(
    entries: Iterable[ObjectInfo | Prefix],
    prefix: str,
    transfers: Transfers,
    refuse: Callable[[str, Unmappable], None],
) -> Iterator[Fetch]:
    """The objects below a prefix, page by page; totals grow as they are found."""
    shadows = Shadows()
    for entry in entries:
        assert isinstance(entry, ObjectInfo)  # without a delimiter there are no prefixes
        try:
            parts = parts_of(entry.key[len(prefix) :])
            shadows.check(entry.key)
        except Unmappable as why:
            refuse(entry.key, why)
            continue
        transfers.expect(1, entry.size)
        yield Fetch(entry.key, parts, entry.size)


def _fetch(client: Client, bucket: str, job: Fetch, tree: LocalTree, transfers: Transfers) -> None:
    """Fetch one object into a temporary file, verify it, rename it into place."""
    single = job.size is None
    known = client.get(bucket, job.key, size_hint=job.size, prefer_owner=True if single else None)
    with known as download:
        if single:
            transfers.expect(1, download.length)
        item = transfers.begin(job.key, download.length)
        download.on_progress(item.moved)
        worked = False
        try:
            part = tree.create(job.parts)
            try:
                download.write_to(part.file)
                part.commit()
                worked = True
            finally:
                part.discard()
        finally:
            item.end(worked=worked)
