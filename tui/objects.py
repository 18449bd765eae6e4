"""Page 7: buckets, prefixes, objects; details, download, delete. Every request is a worker, so that nothing waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.app import ComposeResult, SystemCommand
from textual.binding import Binding, BindingType
from textual.containers import Container, VerticalScroll
from textual.message import Message
from textual.widgets import Input, Static

from peer.errors import AtollError
from tui.clean import clean, clean_name
from tui.dialog import Confirm
from tui.fetching import Fetching
from tui.listing import BUCKET_COLUMNS, DELIMITER, KEPT, OBJECT_COLUMNS, PAGE, Item, Listing, count_words
from tui.model import age_words, size_words
from tui.objectwords import Line, object_lines, owner_lines
from tui.page import Page
from tui.rows import Rows
from tui.state import State

if TYPE_CHECKING:
    from peer.client import AsyncClient, ObjectInfo

AHEAD = 50
"""So many rows before the end of what is there the next page is asked for."""
TYPING_S = 0.2
"""The next letter, or the next row, may come within that time: what is asked for before it would be in vain."""
ALL_KEPT = 3 * KEPT
MEANING = (
    "Enter goes into a bucket or a prefix, and shows all about an object; Backspace or Escape goes back. The filter is the"
    " beginning of names. A list stands as it was when it was asked for: its age is above it, r asks again. Characters that"
    " cannot be printed are escapes, a backslash is two."
)


class Endless(Rows[Item]):
    """A table that tells when its end comes near, by keys or wheel."""

    class Near(Message):
        """Rows after the present ones will be wanted."""

    @property
    def is_near(self) -> bool:
        return self.scroll_offset.y + self.size.height >= len(self.rows) - AHEAD

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        if self.is_near:
            self.post_message(self.Near())


class Objects(Page):
    """Where one is, what lies there, what is known of the object under the cursor, and the download under way."""

    TITLE: ClassVar[str] = "Objects"
    PROMPT: ClassVar[str] = "names that begin with"
    MEANING: ClassVar[str] = MEANING
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("backspace,escape", "up", "back", key_display="backspace"),
        Binding("r", "reload", "reload"),
        Binding("d", "download", "download"),
        Binding("x", "cancel", "cancel download"),
        Binding("D,delete", "delete", "delete", key_display="D"),
    ]

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self._places = [Listing()]
        self._details: ObjectInfo | None = None
        self._detail_text = Text()
        self._fetching = Fetching(self)

    def compose(self) -> ComposeResult:
        yield Static(id="where")
        with Container(id="browser"):
            yield Endless(BUCKET_COLUMNS, key=lambda item: item.name, id="objects")
            with VerticalScroll(id="details"):
                yield Static(id="details-text")
        yield Static(id="transfer")

    def on_mount(self) -> None:
        self.query_one("#details").display = False
        self._load(self.place)

    @property
    def place(self) -> Listing:
        return self._places[-1]

    @property
    def table(self) -> Endless:
        return self.query_one(Endless)

    @property
    def client(self) -> AsyncClient | None:
        return self.top.source.client()

    # --- drawing

    def show(self, state: State) -> None:
        place = self.place
        where = Text(f"{place.path(unicode=self.unicode)}", style="bold", no_wrap=True, overflow="crop")
        if self.filter and place.bucket is not None:
            where.append(f"{clean_name(self.filter, unicode=self.unicode)}*", style="yellow")
        where.append("\n")
        where.append(
            clean(count_words(place), unicode=self.unicode), style="red" if place.error else "not bold"
        )
        if place.at is not None:
            clock = place.at.astimezone().strftime("%H:%M:%S")
            where.append(
                f"   as of {clock}, {age_words(self.top.clock() - place.at_s)} ago", style="not bold"
            )
        self.query_one("#where", Static).update(where, layout=False)
        transfer = self.query_one("#transfer", Static)
        words = self._fetching.words(self.top.clock())
        transfer.display = bool(words)
        transfer.update(Text(words, style="cyan", no_wrap=True), layout=False)

    def _show_place(self) -> None:
        """Another place, or more of it."""
        table, place = self.table, self.place
        table.replace_columns(BUCKET_COLUMNS if place.bucket is None else OBJECT_COLUMNS)
        table.show(place.visible())
        self.top.redraw_page()

    def redraw(self) -> None:
        """What is under way came to a point."""
        self.refresh_bindings()
        self.top.redraw_page()

    # --- listings

    def _load(self, place: Listing) -> None:
        """Ask for the first page, or the next one."""
        if self.client is None:
            place.error = "there is no cluster to browse here (r asks again)"
            self._show_place()
            return
        place.loading = place.asked = True
        self.run_worker(self._loaded(place), group="listing", exclusive=True, exit_on_error=False)
        self._show_place()

    async def _loaded(self, place: Listing) -> None:
        client = self.client
        assert client is not None
        at, at_s = self.top.state.wall(), self.top.clock()
        try:
            if place.bucket is None:
                place.add_buckets(await client.buckets(), unicode=self.unicode)
            else:
                prefix = place.prefix + place.filter
                page = await client.list_page(
                    place.bucket, prefix, delimiter=DELIMITER, after=place.next, limit=PAGE
                )
                place.add_page(page, unicode=self.unicode)
            if place.at is None:
                place.at, place.at_s = at, at_s
        except Exception as error:  # noqa: BLE001 (the place must say why there is nothing)
            place.error = str(error) or repr(error)
        # Not when it was cancelled: then it is being asked for anew already, or will be (`action_up`).
        place.loading = False
        if place is self.place:
            self._show_place()
            self._more()

    def _more(self) -> None:
        place = self.place
        if self.table.is_near and place.has_more and not place.loading and not place.error:
            self._load(place)

    def on_endless_near(self) -> None:
        self._more()

    def _go(self, place: Listing) -> None:
        """Deeper."""
        self.place.cursor = self.table.current.name if self.table.current is not None else ""
        self._places.append(place)
        total = sum(len(each.items) for each in self._places)
        for each in self._places[:-1]:
            if total > ALL_KEPT:
                total -= len(each.items)
                each.forget()
        self.filter = ""
        self.table.action_end(-1)
        self._load(place)

    def action_reload(self) -> None:
        """Ask anew; the cursor stays where it was if that is on the first page."""
        self.place.forget()
        self._load(self.place)
        if self._details is not None:
            self._open_details(self._details)

    def action_up(self) -> None:
        """Close the details, forget the filter, or go to where one came from; one at a time."""
        if self._details is not None:
            self._close_details()
        elif self.filter:
            self.top.action_escape()
        elif len(self._places) > 1:
            self._places.pop()
            self.workers.cancel_group(self, "listing")
            self.filter = self.place.filter
            self._show_place()
            self.table.choose(self.place.cursor)
            if not self.place.asked or self.place.loading:
                self._load(self.place)

    # --- filter

    def set_filter(self, words: str) -> None:
        """Buckets are there already; of a bucket's names only those that begin so are asked for."""
        if words == self.filter:
            return
        self.filter = words
        self._close_details()
        if self.place.bucket is None:
            self.place.filter = words
            self._show_place()
            return
        self._places[-1] = Listing(self.place.bucket, self.place.prefix, words, loading=True, asked=True)
        self._show_place()
        self.run_worker(self._typed(self.place), group="listing", exclusive=True, exit_on_error=False)

    async def _typed(self, place: Listing) -> None:
        await asyncio.sleep(TYPING_S)
        if place is self.place and self.client is not None:
            await self._loaded(place)

    # --- one object

    def on_rows_chosen(self) -> None:
        item = self.table.current
        if item is None:
            return
        if item.object is not None:
            self._open_details(item.object)
        elif item.kind == "bucket":
            self._go(Listing(item.name))
        else:
            self._go(Listing(self.place.bucket, item.name))

    def on_rows_moved(self) -> None:
        self._more()
        item = self.table.current
        if self._details is not None and item is not None and item.object is not None:
            self._open_details(item.object)

    def _open_details(self, info: ObjectInfo) -> None:
        self._details = info
        self.set_class(True, "-details")
        self.query_one("#details").display = True
        self._write_details([*object_lines(info, unicode=self.unicode), ("asking ...", "bright_black")])
        if self.client is not None:
            self.run_worker(
                self._detailed(self.client, info), group="details", exclusive=True, exit_on_error=False
            )

    async def _detailed(self, client: AsyncClient, info: ObjectInfo) -> None:
        """What the listing does not tell: user metadata, partition, owners."""
        await asyncio.sleep(TYPING_S)
        head, lookup = await asyncio.gather(
            client.stat(info.bucket, info.key),
            client.lookup(info.bucket, info.key, chunks=True),
            return_exceptions=True,
        )
        for answer in (head, lookup):
            if isinstance(answer, BaseException) and not isinstance(answer, AtollError):
                raise answer
        lines: list[Line] = object_lines(info, unicode=self.unicode)
        if not isinstance(head, BaseException):
            self._details = head
            lines = object_lines(head, unicode=self.unicode)
        if not isinstance(lookup, BaseException):
            lines += owner_lines(lookup, unicode=self.unicode)
        errors = [answer for answer in (head, lookup) if isinstance(answer, BaseException)]
        lines += [(clean(str(error), unicode=self.unicode), "red") for error in errors]
        at = self.top.state.wall().astimezone().strftime("%H:%M:%S")
        self._write_details([*lines, (f"as of {at}", "bright_black")])

    def _write_details(self, lines: Iterable[Line]) -> None:
        text = Text(overflow="fold")
        for words, style in lines:
            text.append("\n" if text else "")
            text.append(words, style=style)
        self._detail_text = text
        self.query_one("#details-text", Static).update(text)

    def _close_details(self) -> None:
        if self._details is None:
            return
        self._details = None
        self.workers.cancel_group(self, "details")
        self.set_class(False, "-details")
        self.query_one("#details").display = False
        if not isinstance(self.screen.focused, Input):
            self.table.focus()

    @property
    def chosen(self) -> ObjectInfo | None:
        """The object the keys are for: that of the details, else that under the cursor."""
        item = self.table.current
        return self._details or (item.object if item is not None else None)

    # --- download and delete

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "delete":
            return not self.top.readonly
        return action != "cancel" or self._fetching.under_way

    def commands(self) -> Iterable[SystemCommand]:
        yield SystemCommand("Download", "the object under the cursor (d)", self.action_download)
        if not self.top.readonly:
            yield SystemCommand("Delete", "the object under the cursor (D)", self.action_delete)

    def action_download(self) -> None:
        info, client = self.chosen, self.client
        if info is None or client is None:
            self.top.say("there is no object under the cursor; whole prefixes: atoll get -r", "warning")
        else:
            self._fetching.begin(client, info)

    def action_cancel(self) -> None:
        self._fetching.cancel()

    def action_delete(self) -> None:
        info, client = self.chosen, self.client
        if info is None or client is None:
            self.top.say("there is no object under the cursor; whole prefixes: atoll rm -r", "warning")
        else:
            self.run_worker(self._delete(client, info), group="delete", exit_on_error=False)

    async def _delete(self, client: AsyncClient, info: ObjectInfo) -> None:
        """After a clear yes; only the object that was shown, not one that has taken its place since."""
        name = f"{info.bucket}/{clean_name(info.key, unicode=self.unicode)}"
        shown = Text(name, style="bold", overflow="fold")
        lines: list[str | Text] = [
            shown,
            f"{size_words(info.size)}, every copy of it. This cannot be undone.",
        ]
        if not await self.app.push_screen_wait(Confirm("Delete this object?", lines, yes="Delete it")):
            return
        try:
            await client.delete(info.bucket, info.key, if_match=info.etag or None)
        except AtollError as error:
            self.top.say(str(error), "error")
            return
        self.top.say(f"deleted {name}", "good")
        if self._details is not None and self._details.key == info.key:
            self._close_details()
        for place in self._places:
            if place.bucket == info.bucket:
                place.items = [item for item in place.items if item.object is None or item.name != info.key]
        self._show_place()

    def copied(self) -> str:
        return self._detail_text.plain if self._details is not None else self.table.plain()
