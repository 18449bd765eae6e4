"""The pages by their keys. All but the first are loaded when they are opened: the first picture does not wait for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import cast

from tui.overview import Overview
from tui.page import Page


@dataclass(frozen=True, slots=True)
class Door:
    """What the header says of a page, and how to come by it."""

    title: str
    load: Callable[[], type[Page]]


def _behind(title: str, module: str, name: str = "") -> Door:
    def load() -> type[Page]:
        return cast("type[Page]", getattr(import_module(module), name or title))

    return Door(title, load)


PAGES: dict[int, Door] = {
    1: Door(Overview.TITLE, lambda: Overview),
    2: _behind("Peers", "tui.peers"),
    3: _behind("Ring", "tui.ring"),
    4: _behind("Views", "tui.views"),
    5: _behind("Repair", "tui.repair", "RepairPage"),
    6: _behind("Log", "tui.log"),
    7: _behind("Objects", "tui.objects"),
}
