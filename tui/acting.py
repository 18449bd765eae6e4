"""From a key or a command to what is done: the dialog of an action, and what pages that act on peers have in common."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from textual.app import SystemCommand
from textual.binding import Binding, BindingType
from textual.widgets import Button

from peer.errors import AtollError
from tui.actions import ACTIONS, Action, ask, impact, outcome, refusal, title
from tui.dialog import Confirm
from tui.model import Json, Peer
from tui.page import Page
from tui.troubles import TellsTroubles

if TYPE_CHECKING:
    from peer.client import AsyncClient
    from tui.app import TopApp

NO_CLUSTER = "there is no cluster to change here: this is a recording, or nobody has founded one yet"
LEFT = "It was asked for. Escape leaves this; it goes on, and the log says what came of it."


class Acting(Confirm, TellsTroubles):
    """Shows what an action would do, as the cluster says, does it after a yes, and goes when it is done.

    What is under way when it is left goes on: it belongs to the app. A refusal is shown as the server put it.
    """

    def __init__(self, top: TopApp, client: AsyncClient, action: Action, peer: Peer | None) -> None:
        word = peer.name if action.typed and peer is not None else None
        super().__init__(
            f"{title(action, peer)}?", ["Asking what that would do ..."], word, yes=action.label.capitalize()
        )
        self._top = top
        self._client = client
        self._action = action
        self._peer = peer
        self._planned = False

    def on_mount(self) -> None:
        self.run_worker(self._plan(), exit_on_error=False)

    def allowed(self) -> bool:
        return self._planned and super().allowed()

    async def _plan(self) -> None:
        plan: Json = {}
        try:
            if self._action.ring:
                plan = await ask(self._client, self._action, self._peer, plan=True)
        except AtollError as error:
            self._refused(error)
            return
        state = self._top.state
        self.say(impact(self._action, self._peer, state.cluster, state.repair, plan))
        self._planned = True
        self.changed()

    def accept(self) -> None:
        if not self.allowed():
            super().accept()  # says what is missing
            return
        self._planned = False
        self.say([LEFT])
        self.changed()
        self._top.run_worker(self._do(), name=title(self._action, self._peer), exit_on_error=False)

    async def _do(self) -> None:
        words = title(self._action, self._peer)
        self._top.say(f"{words}: asked for")
        try:
            answer = await ask(self._client, self._action, self._peer, plan=False)
        except AtollError as error:
            self._refused(error)
            return
        self._top.say(*outcome(self._action, self._peer, answer))
        if self.is_current:
            self.dismiss(True)

    def _refused(self, error: AtollError) -> None:
        """Say why, in the log and here; nothing more can be done here then but to leave."""
        why = refusal(self._action, self._peer, error)
        self._top.say(f"{title(self._action, self._peer)}: {why}", "error")
        if not self.is_current:
            return
        self.say([f"Refused: {why}"])
        for asked in self.query("#dialog-prompt, #dialog-input, #dialog-yes"):
            asked.display = False
        cancel = self.query_one("#dialog-cancel", Button)
        cancel.label = "Close"
        cancel.focus()


def act(top: TopApp, name: str, peer: Peer | None) -> None:
    """Open the dialog of an action, for a peer or for all."""
    client = top.source.client()
    if client is None:
        top.say(NO_CLUSTER, "warning")
    else:
        top.push_screen(Acting(top, client, ACTIONS[name], peer))


class ActsOnPeers(Page):
    """A page with a peer in view, for whom the keys of the actions are meant."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(action.key, f"act('{action.name}')", action.label, show=action.first, tooltip=action.says)
        for action in ACTIONS.values()
    ]

    @property
    def target(self) -> Peer | None:
        """The peer under the cursor, or whose page is open."""
        raise NotImplementedError

    def action_act(self, name: str) -> None:
        if (peer := self.target) is None:
            self.top.say("there is no peer under the cursor", "warning")
        else:
            act(self.top, name, peer)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return not (action == "act" and self.top.readonly)

    def commands(self) -> Iterable[SystemCommand]:
        peer = self.target
        if peer is None or self.top.readonly:
            return
        for action in ACTIONS.values():
            help_text = f"the peer under the cursor ({action.key})"
            yield SystemCommand(title(action, peer), help_text, partial(act, self.top, action.name, peer))
