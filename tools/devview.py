"""What `atoll dev` says: plain lines, or the panel below the live view."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import click

from tools.devcluster import Peer
from tools.devlayout import Layout, Place


def atoll_command() -> str:
    """How to call this very Atoll from another terminal, whatever its PATH."""
    script = Path(sys.argv[0])
    if script.name == "atoll" and script.exists():
        return "atoll" if _same(shutil.which("atoll"), script) and not _in_venv() else str(script.absolute())
    return f"{sys.executable} -m tools.cli"


def _same(found: str | None, script: Path) -> bool:
    return found is not None and Path(found).exists() and Path(found).samefile(script)


def _in_venv() -> bool:
    """An activated environment is this terminal's own: the next one does not have it."""
    return sys.prefix != sys.base_prefix


def panel_lines(layout: Layout, peers: list[Peer]) -> list[tuple[str, str]]:
    """Endpoints, credentials, commands to paste, and what happened to peers that do not run."""
    atoll = atoll_command()
    lines = [
        ("API", "  ".join(place.api_url for place in layout.places)),
        ("S3", "  ".join(place.s3_url for place in layout.places)),
        ("credentials", f"{layout.credentials_file}  (profile dev, the default now)"),
        ("paste this", try_command(atoll)),
    ]
    lines += [
        (peer.place.name, f"{peer.detail}; bring it back: {start_command(atoll, layout, peer.place)}")
        for peer in peers
        if peer.state == "dead"
    ]
    return lines


def try_command(atoll: str) -> str:
    """One line that stores, lists and reads something."""
    return f"{atoll} mb hello && {atoll} put /etc/hostname hello/name && {atoll} ls hello"


def start_command(atoll: str, layout: Layout, place: Place) -> str:
    """How to bring one peer back; without --data where the default is meant."""
    elsewhere = "" if layout.data == Path("atoll-data").absolute() else f" --data {layout.data}"
    return f"{atoll} dev start {place.name}{elsewhere}"


class PlainView:
    """A line when the cluster answers, then one for every change, on stdout."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.started = time.monotonic()

    def say(self, words: str) -> None:
        click.echo(f"{time.strftime('%H:%M:%S')} {words}")

    def changed(self, peer: Peer) -> None:
        words = f"{peer.place.name} {peer.state}"
        if peer.detail:
            words += f": {peer.detail}"
        if peer.state == "dead":
            words += f" (log {peer.place.log}; bring it back: {start_command(atoll_command(), self.layout, peer.place)})"
        self.say(words)

    def ready(self, peers: list[Peer]) -> None:
        took = time.monotonic() - self.started
        serving = sum(peer.state == "ready" for peer in peers)
        self.say(f"ready: {serving} of {len(peers)} peers after {took:.1f} s; Ctrl-C stops them")
        for heading, words in panel_lines(self.layout, []):
            click.echo(f"  {heading:<12} {words}")
