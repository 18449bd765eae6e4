"""The command palette: what every page can do, and what the one that is up adds, by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, cast

from textual.command import CommandPalette, Hit, Hits, Provider
from textual.theme import ThemeProvider

from tui.acting import act
from tui.actions import ACTIONS, title

if TYPE_CHECKING:
    from tui.app import TopApp

Found = tuple[str, str, Callable[[], object]]
"""Name, what it does, and the doing of it."""
COMMANDS = "type to find a command"
THEMES = "type to find a theme"


def commands() -> CommandPalette:
    """All commands."""
    return CommandPalette(placeholder=COMMANDS)


def themes() -> CommandPalette:
    """Only the themes."""
    return CommandPalette(providers=[ThemeProvider], placeholder=THEMES)


class PeerCommands(Provider):
    """What may be done to any peer, found by its name: "drain peer-7"."""

    async def search(self, query: str) -> Hits:
        top = cast("TopApp", self.app)
        matcher = self.matcher(query)
        for peer in top.state.cluster.peers if top.state.cluster is not None else ():
            found: list[Found] = [
                (f"Open {peer.name}", "its page", partial(top.call_later, top.open_peer, peer.id))
            ]
            if not top.readonly:
                found += [
                    (title(action, peer), action.says, partial(act, top, action.name, peer))
                    for action in ACTIONS.values()
                ]
            for words, says, does in found:
                if (score := matcher.match(words)) > 0:
                    yield Hit(score, matcher.highlight(words), does, help=says)
