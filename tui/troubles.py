"""What nobody foresaw: a worker that ends with an error is told of in the log, so that no screen waits in silence.

Errors that a peer answers with are said where they come from; what arrives here is an answer that makes no sense, or a
fault of this program. Textual tells only the one that began the worker, so whoever begins some takes this up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from textual.dom import DOMNode
from textual.worker import Worker, WorkerState

if TYPE_CHECKING:
    from tui.app import TopApp


class TellsTroubles(DOMNode):
    """Of the workers it began. The last of the bases: styles are inherited from the first."""

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        if event.state is WorkerState.ERROR:
            what = event.worker.name.strip("_") or "what was asked for"
            top = cast("TopApp", self.app)
            top.say(f"{what} failed, for a reason nobody foresaw: {event.worker.error!r}", "error")
