"""The command palette: what every page can do, and what the one that is up adds, by name."""

from __future__ import annotations

from textual.command import CommandPalette
from textual.theme import ThemeProvider

COMMANDS = "type to find a command"
THEMES = "type to find a theme"


def commands() -> CommandPalette:
    """All commands."""
    return CommandPalette(placeholder=COMMANDS)


def themes() -> CommandPalette:
    """Only the themes."""
    return CommandPalette(providers=[ThemeProvider], placeholder=THEMES)
