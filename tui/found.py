"""Where a key lives: the answer of `GET /v1/cluster/ring/lookup` as rows and as marks on the map. Pure.

What the peer does not tell is not known: whether a copy is held (`holds` null), and, of an older peer, the chunks at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from tui.clean import clean_name
from tui.heatmap import CHUNK, KEY
from tui.model import DASH, LOOKS, Json, Peer, _items, _mapping, _whole, size_words
from tui.rows import Cell, Column


@dataclass(frozen=True, slots=True)
class Holder:
    """A peer that should hold a copy; `holds` None: nobody knows now."""

    id: str
    name: str
    state: str
    holds: bool | None


@dataclass(frozen=True, slots=True)
class Chunk:
    index: int | None
    name: str
    partition: int | None
    size: int | None
    copies: tuple[Holder, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """`tells` False: a peer that does not know of chunks answered. `size` None: there is no such object."""

    bucket: str
    key: str | None
    partition: int | None
    owners: tuple[Holder, ...]
    tells: bool
    size: int | None
    etag: str
    chunks: tuple[Chunk, ...]
    next: int | None

    @property
    def spots(self) -> dict[int, str]:
        """What lights up on the map."""
        chunks = {chunk.partition: CHUNK for chunk in self.chunks if chunk.partition is not None}
        return chunks | ({} if self.partition is None else {self.partition: KEY})


def found_of(answer: Json) -> Found:
    """The answer as view data; unknown keys are ignored, missing ones unknown."""
    found = _mapping(answer.get("object"))
    key = answer.get("key")
    return Found(
        bucket=str(answer.get("bucket") or DASH),
        key=None if key is None else str(key),
        partition=_whole(answer.get("partition")),
        owners=_holders(answer.get("owners")),
        tells="object" in answer,
        size=_whole(found.get("size")),
        etag=str(found.get("etag") or DASH),
        chunks=tuple(
            Chunk(
                _whole(one.get("index")),
                str(one.get("name") or DASH),
                _whole(one.get("partition")),
                _whole(one.get("size")),
                _holders(one.get("copies")),
            )
            for one in map(_mapping, _items(found.get("chunks")))
        ),
        next=_whole(found.get("next")),
    )


def _holders(told: object) -> tuple[Holder, ...]:
    return tuple(
        Holder(
            str(one.get("id") or ""),
            str(one.get("name") or one.get("id") or DASH),
            str(one.get("state") or "unknown"),
            holds if isinstance(holds := one.get("holds"), bool) else None,
        )
        for one in map(_mapping, _items(told))
    )


def summary(found: Found, *, unicode: bool) -> tuple[str, str]:
    """What was found in a sentence, and its colour."""
    bucket = clean_name(found.bucket, unicode=unicode)
    if found.key is None:
        return f"bucket {bucket}: its first rows are in partition {_number(found.partition)}", ""
    where = f"{bucket}/{clean_name(found.key, unicode=unicode)}: partition {_number(found.partition)}"
    if not found.tells:
        return f"{where}; the peer that answered does not tell of chunks (an older version?)", "yellow"
    if found.size is None:
        return f"{where}; there is no such object", "yellow"
    if not found.chunks:
        return f"{where}, {size_words(found.size)} beside its metadata, no chunks", ""
    first, last = found.chunks[0].index, found.chunks[-1].index
    more = ", m shows further ones" if found.next is not None else ""
    return f"{where}, {size_words(found.size)}, chunks {_number(first)} to {_number(last)}{more}", ""


@dataclass(frozen=True, slots=True)
class FoundRow:
    """A line of the table: an owner of the key's partition, or a chunk with its copies."""

    key: str
    what: str
    partition: int | None
    size: int | None
    holders: tuple[Holder, ...]
    unicode: bool
    exists: bool


def rows_of(found: Found, peers: Mapping[str, Peer], *, unicode: bool) -> list[FoundRow]:
    """Owners, then chunks. How a peer is comes from the newest that was told of it."""

    def now(holders: Sequence[Holder]) -> tuple[Holder, ...]:
        return tuple(
            Holder(one.id, one.name, peers[one.id].state if one.id in peers else one.state, one.holds)
            for one in holders
        )

    there = found.size is not None
    owners = (
        FoundRow(f"owner {number}", f"owner {number}", found.partition, None, now([owner]), unicode, there)
        for number, owner in enumerate(found.owners, 1)
    )
    chunks = (
        FoundRow(
            f"chunk {chunk.index} {chunk.name}",
            f"chunk {_number(chunk.index)}",
            chunk.partition,
            chunk.size,
            now(chunk.copies),
            unicode,
            there,
        )
        for chunk in found.chunks
    )
    return list(chain(owners, chunks))


def _copies(row: FoundRow) -> Cell:
    words = "  ".join(_holder(one, row) for one in row.holders) or DASH
    return words, _colour(row.holders) if row.exists else ""


def _holder(one: Holder, row: FoundRow) -> str:
    look = LOOKS.get(one.state, LOOKS["unknown"])
    words = [f"{look.glyph if row.unicode else look.plain} {one.name}"]
    if one.state != "alive":
        words.append(look.word)
    if row.exists:
        words.append({True: "has", False: "lacks", None: "?"}[one.holds])
    return " ".join(words)


def _colour(holders: Sequence[Holder]) -> str:
    """By copies that are surely there: all, some, none."""
    there = [one.holds is True and one.state in ("alive", "draining", "suspect") for one in holders]
    if there and all(there):
        return "green"
    return "yellow" if any(there) or any(one.holds is None for one in holders) else "red"


def _plain(words: Callable[[FoundRow], str]) -> Callable[[FoundRow], Cell]:
    return lambda row: (words(row), "")


def _number(value: int | None) -> str:
    return DASH if value is None else f"{value:,}"


FOUND_COLUMNS: Sequence[Column[FoundRow]] = (
    Column("what", 10, 0, _plain(lambda row: row.what)),
    Column("part", 6, 1, _plain(lambda row: _number(row.partition)), right=True),
    Column("size", 8, 2, _plain(lambda row: size_words(row.size)), right=True),
    Column("who has it", 40, 0, _copies, grows=True),
)
