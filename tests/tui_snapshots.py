"""SVG pictures of the screen, held against those in tests/data. `ATOLL_RENEW=1 pytest tests/test_tui_pictures.py` renews
them; look at them in a browser before they are committed.

What is written and where is compared always. Colours and shapes are those of a version of Textual, which the picture
names: with another one only the words must agree, as an update of a library is no change of ours.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from html import unescape
from importlib.metadata import version
from pathlib import Path

from peer.client import Event
from tools.picture import standalone
from tui.app import TopApp
from tui.source import recorded

DATA = Path(__file__).parent / "data"
RENEW = "ATOLL_RENEW"


def told(name: str, until_s: float = 1e9) -> list[Event]:
    """What a recording in tests/data tells within its first so many seconds."""
    return [event for at_s, event in recorded(DATA / f"events-{name}.jsonl") if at_s <= until_s]


def check_picture(app: TopApp, name: str) -> None:
    """Compare the screen with tests/data/NAME.svg; raises AssertionError naming the file with what is there now."""
    path = DATA / f"{name}.svg"
    made_by = f"<!-- textual {version('textual')} -->"
    now = f"{normal(app.export_screenshot(title=name))}\n{made_by}\n"
    if os.environ.get(RENEW):
        path.write_text(now, "utf-8")
        return
    before = path.read_text("utf-8") if path.exists() else ""
    same = now == before if before.rstrip().endswith(made_by) else list(words(now)) == list(words(before))
    if not same:
        other = path.with_suffix(".new.svg")
        other.write_text(now, "utf-8")
        raise AssertionError(f"the screen is not {path}: look at {other}; {RENEW}=1 renews it")


def normal(svg: str) -> str:
    """Without what differs from run to run: ids, and fonts from elsewhere."""
    return re.sub(r"terminal-\d+", "terminal", standalone(svg))


def words(svg: str) -> Iterator[tuple[str, str]]:
    """The texts of a picture with the row each is on."""
    for attributes, text in re.findall(r"<text([^>]*)>([^<]*)</text>", svg):
        row = re.search(r'y="([\d.]+)"', attributes)
        if shown := unescape(text).replace("\xa0", " ").rstrip():
            yield (row[1] if row else "", shown)
