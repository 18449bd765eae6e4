"""Questions before something is done: `Confirm` (yes or no) and `Ask` (a line of text). Escape is always no.

    if await self.app.push_screen_wait(Confirm("Drain peer-2?", ["It gives its 4,096 partitions to the others."])): ...

`push_screen_wait` needs a worker (`run_worker`). What is asked may be as long as it likes: it scrolls, the buttons stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, TypeVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Static

T = TypeVar("T")
Lines = Sequence[str | Text]
Check = Callable[[str], str]
"""What is wrong with what was typed, "" if nothing."""


class Dialog(ModalScreen[T]):
    """A frame with a title, lines that scroll and the buttons Cancel and yes. Subclasses say what an answer is."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", "cancel"),
        Binding("left", "app.focus_previous", show=False),
        Binding("right", "app.focus_next", show=False),
        *(Binding(key, f"scroll('{key}')", show=False) for key in ("up", "down", "pageup", "pagedown")),
    ]
    AUTO_FOCUS: ClassVar[str | None] = "#dialog-cancel"

    def __init__(self, title: str, lines: Lines, yes: str) -> None:
        super().__init__()
        self._title = title
        self._lines = _joined(lines)
        self._yes = yes

    def compose(self) -> ComposeResult:
        with Vertical(id="dialog"):
            yield Static(Text(self._title, style="bold"), id="dialog-title")
            with VerticalScroll(id="dialog-body", can_focus=False):
                yield Static(self._lines, id="dialog-lines")
            yield from self.asked()
            yield Static(id="dialog-problem")
            with Horizontal(id="dialog-buttons"):
                yield Button("Cancel", id="dialog-cancel", compact=True)
                yield Button(self._yes, id="dialog-yes", compact=True)

    def asked(self) -> ComposeResult:
        """What stands between the lines and the buttons."""
        yield from ()

    def on_mount(self) -> None:
        self.set_class(not getattr(self.app, "unicode", True), "-ascii")

    def action_cancel(self) -> None:
        raise NotImplementedError

    def accept(self) -> None:
        """The button yes, or Enter in the line."""
        raise NotImplementedError

    def action_scroll(self, key: str) -> None:
        body = self.query_one("#dialog-body", VerticalScroll)
        getattr(body, f"scroll_{key.replace('page', 'page_')}")(animate=False)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        event.stop()
        if event.button.id == "dialog-yes":
            self.accept()
        else:
            self.action_cancel()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.accept()

    def say(self, lines: Lines) -> None:
        """Other lines from now on."""
        self.query_one("#dialog-lines", Static).update(_joined(lines))

    def refuse(self, problem: str) -> None:
        """Say why the answer is none; "" takes it back."""
        self.query_one("#dialog-problem", Static).update(Text(problem, style="yellow"))


def _joined(lines: Lines) -> Text:
    return Text("\n").join(Text(line) if isinstance(line, str) else line for line in lines)


class Confirm(Dialog[bool]):
    """True only for a clear yes: the button `yes`, and with `word` only after that was typed exactly. Cancel has the focus.

    Args:
        title: the question.
        lines: what will happen.
        word: what must be typed first, say the name of what goes.
        yes: what the button says.
    """

    def __init__(self, title: str, lines: Lines, word: str | None = None, *, yes: str = "Yes") -> None:
        super().__init__(title, lines, yes)
        self._word = word

    def asked(self) -> ComposeResult:
        if self._word is not None:
            yield Static(Text(f"Type {self._word} to confirm:"), id="dialog-prompt")
            yield Input(id="dialog-input", compact=True)

    def on_mount(self) -> None:
        super().on_mount()
        self.changed()

    def allowed(self) -> bool:
        """Whether a yes counts now."""
        return self._word is None or self.query_one("#dialog-input", Input).value == self._word

    def changed(self) -> None:
        """Let the button say what `allowed` does."""
        self.query_one("#dialog-yes", Button).disabled = not self.allowed()

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        self.refuse("")
        self.changed()

    def action_cancel(self) -> None:
        self.dismiss(False)

    def accept(self) -> None:
        if not self.allowed():
            self.refuse(f"That is not {self._word}: nothing was done.")
        else:
            self.dismiss(True)


class Ask(Dialog[str | None]):
    """A line of text, None when it was cancelled. The line has the focus, as there is nothing to do but to type.

    Args:
        title: what it is for.
        lines: what the answer means.
        default: what stands there at first.
        check: says what is wrong with an answer; it is not taken then.
        yes: what the button says.
    """

    AUTO_FOCUS: ClassVar[str | None] = "#dialog-input"

    def __init__(
        self, title: str, lines: Lines, default: str = "", *, check: Check = lambda _: "", yes: str = "OK"
    ) -> None:
        super().__init__(title, lines, yes)
        self._default = default
        self._check = check

    def asked(self) -> ComposeResult:
        yield Input(self._default, id="dialog-input", compact=True, select_on_focus=False)

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        self.refuse("")

    def action_cancel(self) -> None:
        self.dismiss(None)

    def accept(self) -> None:
        answer = self.query_one("#dialog-input", Input).value
        if problem := self._check(answer):
            self.refuse(problem)
        else:
            self.dismiss(answer)
