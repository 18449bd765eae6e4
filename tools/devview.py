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
        return "atoll" if _on_every_path(script) else str(script.absolute())
    return f"{sys.executable} -m tools.cli"


def _on_every_path(script: Path) -> bool:
    """Found by name, and not only because this terminal has activated an environment."""
    found = shutil.which("atoll")
    return sys.prefix == sys.base_prefix and found is not None and Path(found).samefile(script)


def try_commands(atoll: str) -> list[str]:
    """Lines to paste that store, list and read something; short ones, as a broken line cannot be pasted."""
    script = Path(atoll)
    named = [] if atoll == "atoll" else [f"alias atoll='{atoll}'"]
    if script.is_absolute() and script.name == "atoll":
        named = [f'export PATH="{script.parent}:$PATH"']
    return [*named, "atoll mb demo && atoll put /etc/hosts demo/hosts && atoll ls demo"]


def start_command(atoll: str, layout: Layout, place: Place) -> str:
    """How to bring one peer back; without --data where the default is meant."""
    elsewhere = "" if layout.data == Path("atoll-data").absolute() else f" --data {layout.data}"
    return f"{atoll} dev start {place.name}{elsewhere}"


def heading_lines(layout: Layout) -> list[tuple[str, str]]:
    """Endpoints, credentials and commands to paste, as (heading, words)."""
    first, *others = try_commands(atoll_command())
    return [
        ("API", "  ".join(place.api_url for place in layout.places)),
        ("S3", "  ".join(place.s3_url for place in layout.places)),
        ("credentials", f"{layout.credentials_file}  (profile dev, the default now)"),
        ("paste this", first),
        *(("", line) for line in others),
    ]


def panel_lines(layout: Layout, peers: list[Peer]) -> list[tuple[str, str]]:
    """The same for the live view, where lines are scarce: first how to bring dead peers back."""
    places = layout.places
    first, *others = try_commands(atoll_command())
    api = " ".join([places[0].api_url, *(f":{place.api_port}" for place in places[1:])])
    dead = [peer for peer in peers if peer.state == "dead"]
    return [
        *((peer.place.name, f"{peer.detail}: {start_command('atoll', layout, peer.place)}") for peer in dead),
        ("API", f"{api}   S3 {' '.join(f':{place.port}' for place in places)}"),
        ("credentials", f"{layout.credentials_file} (profile dev)"),
        ("paste this", first),
        *(("", line) for line in others),
    ]


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
        for heading, words in heading_lines(self.layout):
            click.echo(f"  {heading:<12} {words}")
