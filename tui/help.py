"""What the keys and the drawing mean; any key closes it."""

from __future__ import annotations

from textual import events
from textual.app import ComposeResult
from textual.screen import ModalScreen
from textual.widgets import Static

HELP = """\
[b]Keys[/b]   q quit   p pause, go on   r ask now   ? this help
       arrows, page up and page down scroll the peers

[b]Ring[/b]   The band is what each peer owns, by its number in
       the table: solid answers, chequered is suspected,
       hollow is dead. The thin circle is the ring of
       partitions: solid with every copy there, dotted
       with one missing, open where no majority answers.

[b]Peers[/b]  "<" marks the peer whose view this is; "heard" is
       how long ago it last heard of the other; "inc" is
       the incarnation, raised to refute a suspicion.

A dash is a number nobody knows now. Press any key."""


class HelpScreen(ModalScreen[None]):
    def compose(self) -> ComposeResult:
        yield Static(HELP, id="help")

    def on_key(self, event: events.Key) -> None:
        event.stop()
        self.dismiss()
