"""`atoll recover`: when the cluster cannot help itself any more. Both commands read the disks of stopped peers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TextIO

import click

from peer.errors import AtollError, Conflict, Corrupt
from peer.recovery.export import Export, Found
from peer.recovery.override import Override, plan, write
from tools.cli.exits import NOT_FOUND, PARTLY, UnsafeRefusal
from tools.cli.localtree import LocalTree, Unmappable, parts_of
from tools.cli.output import clean, emit_one, shown, size_text
from tools.cli.session import note
from tools.cli.settings import lists

LIST = "objects.jsonl"
UNNAMED = "_unnamed"
"""No bucket is called that."""
_DATA = click.Path(path_type=Path, file_okay=False, exists=True)
_DISKS = click.option(
    "--data", type=_DATA, multiple=True, required=True, help="A stopped peer's directory; give all."
)
_DISK = click.option(
    "--data", type=_DATA, required=True, help="A stopped survivor: the one with the newest ring."
)
_LOST = click.option(
    "--lost", metavar="PEER", multiple=True, required=True, help="A peer lost for good; give all."
)
_ACCEPT = click.option(
    "--accept-data-loss", is_flag=True, help="Do it; without this only its price is shown."
)


@click.group()
def recover() -> None:
    """What stopped peers' disks hold; the operator's override of a lost majority."""


@recover.command("export")
@click.option(
    "--data",
    "data",
    type=_DATA,
    multiple=True,
    required=True,
    help="A stopped peer's directory; give all there are.",
)
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@lists
def recover_export(data: tuple[Path, ...], out: Path) -> int:
    """Write every object that these disks hold to OUT/BUCKET/KEY, without a cluster.

    OUT must be new or empty. OUT/objects.jsonl lists what was found, with type and metadata; objects whose
    names cannot be a file's are in OUT/_unnamed. Nothing is changed on the disks. Exits 7 if something was
    damaged or missing.
    """
    if out.exists() and any(out.iterdir()):
        raise Conflict(f"{out} is not empty; give a new directory", code="NotEmpty")
    with Export(data) as export, LocalTree(out) as tree:
        tree.make()
        with (out / LIST).open("x", encoding="utf-8") as listing:
            written = _Written(tree, listing)
            for found in export.objects():
                if isinstance(found, str):
                    written.lose(found)
                else:
                    written.object(found, export)
        problems = export.problems
    for problem in problems:
        note(clean(problem))
    told = {
        "objects": written.objects, "bytes": written.bytes, "lost": written.lost, "problems": len(problems),
    }  # fmt: skip
    lines = [
        ("objects", str(written.objects)),
        ("bytes", f"{written.bytes} ({size_text(written.bytes)})"),
        ("not whole", str(written.lost)),
        ("listed in", str(out / LIST)),
    ]
    emit_one(told, str(out), lines)
    if written.lost or problems:
        return PARTLY
    return 0 if written.objects else NOT_FOUND


class _Written:
    """Objects on their way into the tree, and their list."""

    def __init__(self, tree: LocalTree, listing: TextIO) -> None:
        self._tree = tree
        self._listing = listing
        self.objects = self.bytes = self.lost = self._unnamed = 0

    def lose(self, why: str) -> None:
        self.lost += 1
        note(clean(f"lost: {why}"))

    def object(self, found: Found, export: Export) -> None:
        """Write one whole or not at all."""
        key = found.key.decode(errors="surrogateescape")
        try:
            file = self._write(found, [found.bucket, *parts_of(key)], export)
        except Unmappable:
            self._unnamed += 1
            file = self._write(found, [UNNAMED, f"{self._unnamed:08}"], export)
        head = found.head
        record: dict[str, Any] = {
            "bucket": found.bucket, "key": shown(key), "file": file, "size": head.size, "etag": head.etag,
            "modified_us": head.modified_us, "content_type": head.content_type, "metadata": head.metadata or {},
        }  # fmt: skip
        self._listing.write(json.dumps(record, ensure_ascii=False) + "\n")

    def _write(self, found: Found, parts: list[str], export: Export) -> str | None:
        """The path below OUT; None if the object is not whole. Raises Unmappable."""
        part = self._tree.create(parts)
        size = 0
        try:
            for piece in export.data(found):
                part.file.write(piece)
                size += len(piece)
            if size != found.head.size:
                raise Corrupt(f"{size} of its {found.head.size} bytes are there")
            part.commit()
        except AtollError as error:
            part.discard()
            if isinstance(error, Unmappable):
                raise
            self.lose(f"{found.bucket}/{found.key.decode(errors='replace')}: {error}")
            return None
        except BaseException:
            part.discard()
            raise
        self.objects += 1
        self.bytes += size
        return "/".join(parts)


@recover.command("epoch")
@click.option(
    "--data",
    "data",
    type=_DATA,
    required=True,
    help="The directory of one stopped survivor: the one with the newest ring.",
)
@click.option(
    "--lost",
    "lost",
    metavar="PEER",
    multiple=True,
    required=True,
    help="A peer that is lost for good, by name or id; give all.",
)
@click.option("--accept-data-loss", is_flag=True, help="Do it. Without this only its price is shown.")
@lists
def recover_epoch(data: Path, lost: tuple[str, ...], accept_data_loss: bool) -> int:
    """Go on without a majority: a new generation of the ring without the lost peers.

    Use it when so many peers are lost for good that the rest cannot decide anything. Run it once, on one survivor;
    start that one and all other survivors then. They merge what they hold before they answer. What only lost peers
    held is gone; a lost peer that returns is refused, and `atoll recover export` still reads its disk.
    """
    override = plan(data, lost)
    _show(override, accept_data_loss)
    if not accept_data_loss:
        raise UnsafeRefusal(
            "nothing was changed: acknowledged writes may be lost; say --accept-data-loss to accept that"
        )
    write(data, override)
    note(f"done: start the peer on {data}, then the other survivors; `atoll status` shows them merge")
    return 0


def _show(override: Override, done: bool) -> None:
    old, new = override.old, override.new
    survivors, lost = ([member.name for member in members] for members in (new.members, override.lost))
    told: dict[str, Any] = {
        "generation": new.generation, "number": new.number, "survivors": survivors, "lost": lost,
        "partitions": override.total, "in_doubt": override.in_doubt, "gone": override.gone, "done": done,
    }  # fmt: skip
    doubt = "partitions have lost most of their owners: the last writes there may be gone"
    lines = [
        ("ring", f"{old.generation}.{old.number} becomes {new.generation}.{new.number}"),
        ("survivors", " ".join(survivors)),
        ("lost", " ".join(lost)),
        ("in doubt", f"{override.in_doubt} of {override.total} {doubt}"),
        ("gone", f"{override.gone} of {override.total} have lost all owners: everything in them is gone"),
    ]
    emit_one(told, f"{new.generation}.{new.number}", lines)
