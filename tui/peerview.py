"""One peer's page: all that it tells of itself, asked for every other second, with its age."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Container, VerticalScroll
from textual.widgets import Static

from peer.errors import AtollError
from tui.model import Json, Peer, age_words
from tui.peerfacts import page_of
from tui.repairing import workers
from tui.state import State
from tui.troubles import TellsTroubles

if TYPE_CHECKING:
    from tui.app import TopApp

ASK_EVERY_S = 2.0


class PeerView(Container, TellsTroubles):
    """`open` says which peer, `show` draws it and asks again when it is time."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._peer_id = ""
        self._told: Json = {}
        self._asked_at: float | None = None
        self._told_at: float | None = None
        self._problem = ""
        self._wordy = False
        self._asking = False
        self._shown = ""

    @property
    def _top(self) -> TopApp:
        return cast("TopApp", self.app)

    @property
    def peer_id(self) -> str:
        """Whose page this is, "" for nobody's."""
        return self._peer_id

    def compose(self) -> ComposeResult:
        yield Static(id="peer-title")
        with VerticalScroll(id="peer-body"):
            yield Static(id="peer-facts")

    def open(self, peer_id: str) -> None:
        """Show this one from now on; "" closes the page."""
        if peer_id != self._peer_id:
            self._peer_id, self._told, self._problem = peer_id, {}, ""
            self._asked_at = self._told_at = None
            self._shown = ""
        self.query_one(VerticalScroll).scroll_home(animate=False)

    def show(self, state: State) -> None:
        """Draw what is known, and ask for more when it is time."""
        now = self._top.clock()
        if not self._asking and (self._asked_at is None or now - self._asked_at >= ASK_EVERY_S):
            self._ask(now)
        peers = state.cluster.peers if state.cluster is not None else ()
        peer = next((peer for peer in peers if peer.id == self._peer_id), None)
        line = self.query_one("#peer-title", Static)
        line.update(self._title(peer, now), layout=bool(self._problem) != self._wordy)
        self._wordy = bool(self._problem)
        told = {**(peer.raw if peer is not None else {}), **self._told}
        if peer is not None:  # told every second
            told |= {"last_heard_s": peer.last_heard_s, "used_bytes": peer.used_bytes}
        name = str(told.get("name") or "")
        lines = page_of(
            told,
            [one for one in workers(state.repair) if _node_id(one) == self._peer_id],
            [entry for entry in state.journal if entry.node == name],
            _load(state.requests, self._peer_id),
            max(20, self.size.width - 3),
        )
        text = Text("\n").join(lines)
        if text.plain != self._shown:
            as_many = text.plain.count("\n") == self._shown.count("\n")
            self._shown = text.plain
            self.query_one("#peer-facts", Static).update(text, layout=not as_many)

    def copied(self) -> str:
        return self._shown

    def _title(self, peer: Peer | None, now: float) -> Text:
        """Who, in which state, and how old what is below is; on a second line why it is not newer."""
        text = Text()
        if peer is None:
            text.append("not a member any more" if self._told else "not known", style="bold yellow")
        else:
            look = peer.look
            glyph = look.glyph if self._top.unicode else look.plain
            text.append(f"{glyph} {peer.name}  {look.word}", style=f"bold {look.colour}")
        if self._told_at is not None:
            text.append(f"  told {age_words(now - self._told_at)} ago", style="bright_black")
        elif self._asking:
            text.append("  asking it ...", style="bright_black")
        if self._problem:
            text.append(f"\n{self._problem}", style="yellow")
        return text

    def _ask(self, now: float) -> None:
        client = self._top.source.client()
        if client is None:
            self._problem = "There is no cluster to ask for more: this is what was recorded."
            return
        self._asked_at, self._asking = now, True
        self.run_worker(self._answer(self._peer_id), group="peer", exclusive=True, exit_on_error=False)

    async def _answer(self, peer_id: str) -> None:
        client = self._top.source.client()
        assert client is not None
        try:
            node = await client.node(peer_id)
        except AtollError as error:
            if peer_id == self._peer_id:
                self._problem = str(error)
        else:
            if peer_id == self._peer_id:
                self._told, self._told_at = node.raw, self._top.clock()
                silent = node.raw.get("process", {}) is None
                self._problem = "It does not answer; this is what the others know of it." if silent else ""
        finally:
            self._asking = False
        if self.is_mounted and self.peer_id:
            self._top.redraw_page()


def _node_id(worker: Json) -> str:
    node = worker.get("node")
    return str(node.get("id")) if isinstance(node, dict) else ""


def _load(requests: Json | None, peer_id: str) -> Json:
    """What this peer's clients ask for, of the event `requests`."""
    nodes = (requests or {}).get("nodes")
    for node in nodes if isinstance(nodes, list) else ():
        if isinstance(node, dict) and node.get("id") == peer_id:
            return node
    return {}
