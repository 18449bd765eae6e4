"""`atoll put`: files, trees and stdin into objects."""

from __future__ import annotations

import json
import mimetypes
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import click

from peer.client.model import Stored
from peer.client.sync import Client
from tools.cli.localtree import LocalFile, Unmappable, walk
from tools.cli.output import shown, write
from tools.cli.parallel import Tally, run_parallel, terminable
from tools.cli.progress import Transfers
from tools.cli.session import connect, split_target
from tools.cli.settings import connects, current, lists


@dataclass(frozen=True, slots=True)
class Upload:
    """One object to be: where its bytes are (None: stdin) and its key."""

    path: Path | None
    key: str
    size: int | None


@dataclass(frozen=True, slots=True)
class Manner:
    """How the objects of one command are stored."""

    content_type: str | None
    metadata: dict[str, str]
    if_match: str | None
    if_none_match: str | None


@click.command()
@click.argument("names", metavar="PATH... BUCKET[/KEY]", nargs=-1, required=True)
@click.option("-r", "--recursive", is_flag=True, help="PATH is a folder: store its contents under KEY/.")
@click.option("--jobs", type=click.IntRange(1, 256), default=8, show_default=True, help="Files at a time.")
@click.option("--content-type", metavar="TYPE", help="[default: guessed from the file's name]")
@click.option("--meta", metavar="NAME=VALUE", multiple=True, help="User metadata.")
@click.option("--if-match", metavar="ETAG", help="Only over this version.")
@click.option("--if-none-match", metavar="*", help="With `*`: only if the key is free.")
@lists
@connects
def put(
    names: tuple[str, ...],
    recursive: bool,
    jobs: int,
    content_type: str | None,
    meta: tuple[str, ...],
    if_match: str | None,
    if_none_match: str | None,
) -> int:
    """Store files; `-` is stdin. Several files, or a KEY that ends in `/`, keep their names below KEY/.

    What was stored is compared with what was read. Exit code 7 if only part of it could be stored.
    """
    if len(names) < 2:
        raise click.UsageError("give at least one PATH and then BUCKET[/KEY]")
    bucket, key = split_target(names[-1])
    manner = Manner(content_type, _metadata(meta), if_match, if_none_match)
    sources = names[:-1]
    plan = _Plan(sources, key, recursive)
    with terminable(), connect() as client, Transfers("stored") as transfers:
        client.on_trouble(transfers.say)
        tally, report = Tally(jobs, transfers.say), _Report()
        transfers.expect(*plan.totals())

        def store(upload: Upload) -> Stored:
            return _store(client, bucket, upload, manner, transfers)

        uploads = plan.uploads(lambda refused: tally.fail("not stored", refused))
        with closing(run_parallel(uploads, store, workers=jobs, stop=client.close)) as outcomes:
            for outcome in outcomes:
                name = str(outcome.job.path or "-")
                if outcome.result is not None:
                    report.stored(outcome.result)
                if not tally.count(name, outcome.error):
                    break
    report.end()
    transfers.summary(tally.failed)
    return tally.exit_code()


def _metadata(pairs: tuple[str, ...]) -> dict[str, str]:
    metadata = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise click.UsageError(f"--meta {pair!r}: write NAME=VALUE")
        metadata[name] = value
    return metadata


class _Plan:
    """Which files become which keys. Reads the folders twice (totals first) instead of remembering them."""

    def __init__(self, sources: tuple[str, ...], key: str, recursive: bool) -> None:
        self._folder = f"{key}/" if key and not key.endswith("/") else key
        self._key = key
        self._sources = sources
        # One plain file goes to KEY itself; all else keeps its name below it.
        self._into_folder = recursive or len(sources) > 1 or not key or key.endswith("/")
        if sources.count("-") and (len(sources) > 1 or not key or key.endswith("/")):
            raise click.UsageError("stdin (`-`) is stored alone, and needs a whole key: put - BUCKET/KEY")
        if len(sources) > 1 and key and not key.endswith("/") and not recursive:
            raise click.UsageError(f"several files go below a key that ends in `/`: {key}/")
        for source in sources:
            if source != "-" and Path(source).is_dir() and not recursive:
                raise click.UsageError(f"{source} is a folder; to store what it contains, say -r")

    def totals(self) -> tuple[int, int]:
        """Files and bytes, as far as they are known. UsageError if two files would get the same key."""
        files = size = 0
        for number, source in enumerate(self._sources):
            earlier = self._sources[:number]
            for item in self._files(source):
                if isinstance(item, LocalFile):
                    files, size = files + 1, size + item.size
                    self._check_alone(item, earlier)
        return files, size

    def _check_alone(self, item: LocalFile, earlier: tuple[str, ...]) -> None:
        """No earlier source may hold a file of the same key, or the later one would silently replace it."""
        for source in earlier:
            path = Path(source)
            other = path / item.relative if path.is_dir() else path
            if other.is_file() and (path.is_dir() or path.name == item.relative):
                raise click.UsageError(f"{other} and {item.path} would get the same key: {item.relative}")

    def uploads(self, refused: Callable[[Unmappable], None]) -> Iterator[Upload]:
        for source in self._sources:
            if source == "-":
                yield Upload(None, self._key, None)
                continue
            for item in self._files(source):
                if isinstance(item, Unmappable):
                    refused(item)
                else:
                    key = self._folder + item.relative if self._into_folder else self._key
                    yield Upload(item.path, key, item.size)

    def _files(self, source: str) -> Iterator[LocalFile | Unmappable]:
        path = Path(source)
        if source == "-":
            return
        if path.is_dir():
            yield from walk(path)
        else:
            yield LocalFile(path, path.name, path.stat().st_size)


def _store(client: Client, bucket: str, upload: Upload, manner: Manner, transfers: Transfers) -> Stored:
    """Store one file; its progress is shown while it moves."""
    kind = manner.content_type or mimetypes.guess_type(upload.key)[0]
    item = transfers.begin(upload.key, upload.size)
    worked = False
    try:
        stored = client.put(
            bucket,
            upload.key,
            sys.stdin.buffer if upload.path is None else upload.path,
            content_type=kind,
            metadata=manner.metadata,
            if_match=manner.if_match,
            if_none_match=manner.if_none_match,
            progress=item.moved,
        )
        worked = True
        return stored
    finally:
        item.end(worked=worked)


class _Report:
    """Records of what was stored, for scripts that ask for them, written as they come."""

    def __init__(self) -> None:
        self._form = current().output
        self._before = "["

    def stored(self, stored: Stored) -> None:
        if self._form == "name":
            write(shown(stored.key))
        elif self._form == "jsonl":
            write(json.dumps(stored.to_json(), ensure_ascii=False))
        elif self._form == "json":
            write(f"{self._before}\n  {json.dumps(stored.to_json(), ensure_ascii=False)}", end="")
            self._before = ","

    def end(self) -> None:
        """An array is complete, also when part of it could not be stored."""
        if self._form == "json":
            write("[]" if self._before == "[" else "\n]")
