"""Words of others (keys, sentences, names of peers) made safe for a terminal: they are data, and move no cursor.

C1  What cannot be printed (control characters, right-to-left overrides, invisible ones) is written as an escape.
C2  Two names that differ are written differently: in a name a backslash is doubled.
C3  Whatever a page forgets, `NoControls` keeps from the terminal: it sees every line last.
"""

from __future__ import annotations

from rich.cells import cell_len
from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter


def clean(words: str, *, unicode: bool = True) -> str:
    """A sentence with what cannot be printed as escapes (C1); without `unicode` also what is not ASCII."""
    if words.isprintable() and (unicode or words.isascii()):
        return words
    return "".join(
        char
        if char.isprintable() and (unicode or char.isascii())
        else char.encode("unicode_escape", "replace").decode()
        for char in words
    )


def clean_name(name: str, *, unicode: bool = True) -> str:
    """A name, say a key, so that it can be told from every other (C2)."""
    return clean(name.replace("\\", "\\\\"), unicode=unicode)


class NoControls(LineFilter):
    """Blanks for what would speak to the terminal; geometry stays (C3)."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        if all(segment.control or segment.text.isprintable() for segment in segments):
            return segments
        return [segment if segment.control else _blanked(segment) for segment in segments]


def _blanked(segment: Segment) -> Segment:
    text = "".join(char if char.isprintable() else " " * cell_len(char) for char in segment.text)
    return Segment(text, segment.style)
