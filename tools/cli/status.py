"""`atoll status` and `atoll health`: the truth about the cluster."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import click

from peer.client.model import ClusterInfo
from peer.client.sync import Client
from peer.errors import AtollError, Denied, Unavailable
from tools.cli.cluster import NODE_COLUMNS, epoch_text
from tools.cli.exits import DEGRADED, DOWN, sentence
from tools.cli.output import clean, emit_one, print_table, write
from tools.cli.root import tell
from tools.cli.session import connect, note
from tools.cli.settings import connects, current, lists

_HEALTH = {"healthy": 0, "degraded": DEGRADED}


@click.command()
@click.option("--watch", is_flag=True, help="Look again and again, until interrupted.")
@click.option("--interval", type=click.FloatRange(0.1, 3600), default=1.0, show_default=True, help="Seconds.")
@click.option(
    "--plain", is_flag=True, help="Plain lines: no screen control; with --watch one line per change."
)
@lists
@connects
def status(watch: bool, interval: float, plain: bool) -> None:
    """Show the verdict, how many failures are tolerated now, and the peers."""
    with connect() as client:
        if not watch:
            _show(client.cluster())
        elif plain or not sys.stdout.isatty() or current().output != "table":
            _watch_plainly(client, interval)
        else:
            _watch_screen(client, interval)


def _show(info: ClusterInfo) -> None:
    if current().output != "table":
        emit_one(info.raw, info.verdict, [])
        return
    for line in summary(info):
        write(clean(line))
    write("")
    print_table(NODE_COLUMNS, [[column.text(found.raw) for column in NODE_COLUMNS] for found in info.nodes])


def summary(info: ClusterInfo) -> Iterator[str]:
    """The verdict and its reasons, a line each."""
    failures = {0: "no further failure", 1: "1 failure"}.get(info.tolerates, f"{info.tolerates} failures")
    yield f"{info.verdict}: tolerates {failures} now"
    told = redundancy(info.raw)
    if told:
        yield told
    for reason in (*info.raw.get("reasons", ()), *info.raw.get("warnings", ())):
        yield f"  {reason.get('message')} ({reason.get('code')})"
    parts = info.raw.get("partitions") or {}
    yield (
        f"partitions: {parts.get('full', '?')} of {parts.get('total', '?')} with all copies, "
        f"{parts.get('degraded', '?')} degraded, {parts.get('unavailable', '?')} unavailable"
    )
    asked = info.raw.get("peer") or {}
    yield f"epoch {epoch_text(info.raw.get('epoch'))}, {info.replicas} replicas, seen by {asked.get('name', '?')}"


def redundancy(raw: Mapping[str, Any]) -> str:
    """The line that says whether every object has all its replicas, how many do not, and when they will."""
    return str((raw.get("redundancy") or {}).get("message", ""))


def _watch_plainly(client: Client, interval_s: float) -> None:
    """One line whenever something changed (every time for records): for logs and scripts."""
    last = ""
    while True:
        try:
            info = client.cluster()
        except Unavailable as problem:
            line = f"unavailable: {sentence(problem)}"
        else:
            states = " ".join(f"{found.name}={found.state}" for found in info.nodes)
            line = f"{info.verdict} tolerates={info.tolerates} epoch={epoch_text(info.raw.get('epoch'))} {states}"
            if current().output != "table":
                emit_one(info.raw, info.verdict, [])
                line = last
        if line != last:
            write(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {clean(line)}")
            last = line
        sys.stdout.flush()
        time.sleep(interval_s)


def _watch_screen(client: Client, interval_s: float) -> None:
    while True:
        try:
            info: ClusterInfo | None = client.cluster()
            problem = ""
        except Unavailable as failure:
            info, problem = None, sentence(failure)
        click.clear()
        if info is not None:
            _show(info)
        else:
            write(f"unavailable: {problem}")
        write(f"\nevery {interval_s:g} s, last {time.strftime('%H:%M:%S')}; Ctrl-C ends")
        sys.stdout.flush()
        time.sleep(interval_s)


@click.command()
@lists
@connects
def health() -> int:
    """Print the verdict; exit 0 if healthy, 10 if degraded, 11 if unavailable or out of reach."""
    with connect() as client:
        try:
            verdict, raw, reasons = _ask(client)
        except Unavailable as problem:
            tell(problem)
            verdict, raw, reasons = "unavailable", {"verdict": "unavailable"}, []
    if current().output == "table":
        write(verdict)
    else:
        emit_one(raw, verdict, [])
    for reason in reasons:
        note(f"  {clean(reason)}")
    return _HEALTH.get(verdict, DOWN)


def _ask(client: Client) -> tuple[str, dict[str, object], list[str]]:
    """Verdict, record and reasons; without keys only the verdict, which is open to everybody."""
    try:
        info = client.cluster()
    except Denied:
        verdict = client.health()
        return verdict, {"verdict": verdict}, []
    except Unavailable:
        raise
    except AtollError:  # a peer that cannot give the long answer may still know the short one
        verdict = client.health()
        return verdict, {"verdict": verdict}, []
    reasons = [dict(reason) for reason in info.raw.get("reasons", ())]
    warnings = [dict(warning) for warning in info.raw.get("warnings", ())]
    record: dict[str, object] = {"verdict": info.verdict, "tolerates": info.tolerates, "reasons": reasons}
    record |= {"warnings": warnings, "redundancy": info.raw.get("redundancy")}
    lines = [redundancy(info.raw), *(str(reason.get("message")) for reason in (*reasons, *warnings))]
    return info.verdict, record, [line for line in lines if line]
