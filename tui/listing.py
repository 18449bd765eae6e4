"""What the object browser shows of a place: buckets, or what lies below a prefix, page by page. No I/O.

B1  A listing is never loaded whole: a page at a time as the end comes near, and at most `KEPT` entries in all.
B2  What a key says is data: it is shown clean (tui/clean.py), relative to where one is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from tui.clean import clean_name
from tui.model import size_words
from tui.rows import Cell, Column

if TYPE_CHECKING:
    from peer.client import BucketInfo, ObjectInfo, Page

PAGE = 200
KEPT = 10_000
DELIMITER = "/"
ITSELF = "(this very name)"
"""Stands for the key that is the same as the prefix one is in."""


@dataclass(frozen=True, slots=True)
class Item:
    """A row: `name` is the bucket, the prefix or the key in full; `shown` how it is written."""

    kind: str
    name: str
    shown: str
    unicode: bool
    object: ObjectInfo | None = None
    bucket: BucketInfo | None = None


@dataclass(slots=True)
class Listing:
    """One place. `next` is where the following page begins, None at the end; `at` and `at_s` when it was first asked for."""

    bucket: str | None = None
    prefix: str = ""
    filter: str = ""
    items: list[Item] = field(default_factory=list)
    next: str | None = None
    asked: bool = False
    loading: bool = False
    error: str = ""
    at: datetime | None = None
    at_s: float = 0.0
    cursor: str = ""

    @property
    def has_more(self) -> bool:
        return self.next is not None and len(self.items) < KEPT

    def forget(self) -> None:
        """To be asked for again when it is shown again."""
        self.items, self.next, self.asked, self.error, self.at = [], None, False, "", None

    def add_buckets(self, buckets: Iterable[BucketInfo], *, unicode: bool) -> None:
        for bucket in buckets:
            shown = clean_name(bucket.name, unicode=unicode)
            self.items.append(Item("bucket", bucket.name, shown, unicode, bucket=bucket))

    def add_page(self, page: Page, *, unicode: bool) -> None:
        from peer.client import ObjectInfo

        for entry in page.entries():
            if isinstance(entry, ObjectInfo):
                self.items.append(Item("object", entry.key, self._shown(entry.key, unicode), unicode, entry))
            else:
                self.items.append(Item("prefix", entry.prefix, self._shown(entry.prefix, unicode), unicode))
        self.next = page.next

    def _shown(self, name: str, unicode: bool) -> str:
        return clean_name(name[len(self.prefix) :], unicode=unicode) or ITSELF

    def visible(self) -> Sequence[Item]:
        """The items; of buckets, which come whole, those that begin as the filter says."""
        if self.bucket is None and self.filter:
            return [item for item in self.items if item.name.startswith(self.filter)]
        return self.items

    def path(self, *, unicode: bool) -> str:
        """Where one is, in words."""
        if self.bucket is None:
            return "all buckets"
        return f"{self.bucket}/{clean_name(self.prefix, unicode=unicode)}"


def count_words(listing: Listing) -> str:
    """How much of the place is there."""
    if listing.error:
        return listing.error
    if not listing.asked or (listing.loading and not listing.items):
        return "asking ..."
    count = f"{len(listing.visible()):,}"
    if listing.loading:
        return f"{count}, asking for more ..."
    if listing.next is None:
        return f"{count}, all there is"
    return f"{count}, more below" if listing.has_more else f"the first {count}: / narrows it down"


# --- columns


def _name(item: Item) -> Cell:
    if item.kind == "object":
        return f"  {item.shown}", ""
    return f"{'▸' if item.unicode else '>'} {item.shown}", "bold"


def _of_object(words: Callable[[ObjectInfo], str]) -> Callable[[Item], Cell]:
    return lambda item: ("" if item.object is None else words(item.object), "")


def _of_bucket(words: Callable[[BucketInfo], str]) -> Callable[[Item], Cell]:
    return lambda item: ("" if item.bucket is None else words(item.bucket), "")


def local_words(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


BUCKET_COLUMNS: Sequence[Column[Item]] = (
    Column("bucket", 20, 0, _name, grows=True),
    Column("created", 19, 1, _of_bucket(lambda bucket: local_words(bucket.created))),
    Column("shards", 6, 2, _of_bucket(lambda bucket: str(bucket.shards)), right=True),
)
OBJECT_COLUMNS: Sequence[Column[Item]] = (
    Column("name", 24, 0, _name, grows=True),
    Column("size", 8, 1, _of_object(lambda entry: size_words(entry.size)), right=True),
    Column("modified", 19, 2, _of_object(lambda entry: local_words(entry.modified))),
    Column("etag", 34, 3, _of_object(lambda entry: entry.etag)),
)
