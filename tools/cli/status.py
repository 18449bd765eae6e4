"""`atoll status` and `atoll health`: the truth about the cluster."""

from __future__ import annotations

import sys
import time
from importlib import import_module

import click

from peer.client.model import ClusterInfo
from peer.client.sync import Client
from peer.errors import AtollError, Denied, Unavailable
from tools.cli import told
from tools.cli.cluster import NODE_COLUMNS
from tools.cli.exits import DEGRADED, DOWN, sentence
from tools.cli.output import clean, emit_one, print_table, write
from tools.cli.root import tell
from tools.cli.session import connect, note
from tools.cli.settings import connects, current, lists

_HEALTH = {"healthy": 0, "degraded": DEGRADED}


@click.command()
@click.option("--watch", is_flag=True, help="Go on until interrupted, at another peer if one dies.")
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    help="Seconds between two looks, or at least between two lines about the same progress.",
)
@click.option(
    "--plain",
    is_flag=True,
    help="Sentences and no tables or screen control; with --watch then a line with its time for every change.",
)
@lists
@connects
def status(watch: bool, interval: float, plain: bool) -> None:
    """Show the verdict, how many failures are tolerated now, and the peers.

    With --watch and -o json or jsonl every line is a document: first the state, then each change.
    """
    if watch and (plain or not sys.stdout.isatty() or current().output != "table"):
        import_module("tools.cli.watch").watch(current(), interval)  # only here: aiohttp takes its time
        return
    with connect() as client:
        if watch:
            _watch_screen(client, interval)
        else:
            _show(client, plain)


def _show(client: Client, plain: bool) -> None:
    info = client.cluster()
    if current().output != "table":
        emit_one(info.raw, info.verdict, [])
    elif plain:
        for line in (*told.everything(info.raw), *told.workers(client.workers().get("workers", ()))):
            write(clean(line))
    else:
        _show_table(info)


def _show_table(info: ClusterInfo) -> None:
    for line in told.summary(info.raw):
        write(clean(line))
    write("")
    print_table(NODE_COLUMNS, [[column.text(found.raw) for column in NODE_COLUMNS] for found in info.nodes])


def _watch_screen(client: Client, interval_s: float) -> None:
    while True:
        try:
            info: ClusterInfo | None = client.cluster()
            problem = ""
        except Unavailable as failure:
            info, problem = None, sentence(failure)
        click.clear()
        if info is not None:
            _show_table(info)
        else:
            write(f"unavailable: {problem}")
        write(f"\nevery {interval_s:g} s, last {time.strftime('%H:%M:%S')}; Ctrl-C ends")
        sys.stdout.flush()
        time.sleep(interval_s)


@click.command()
@click.option("--alive", "peer", flag_value="alive", help="Only whether the peer at --endpoint answers.")
@click.option(
    "--ready", "peer", flag_value="ready", help="Only whether the peer at --endpoint takes clients."
)
@lists
@connects
def health(peer: str | None) -> int:
    """Print the verdict; exit 0 if healthy, 10 if degraded, 11 if unavailable or out of reach.

    With --alive or --ready exit 0 or 11: for the health checks of containers. Without keys only the short verdict is told.
    """
    if peer is not None and current().endpoint is None:
        raise click.UsageError(f"--{peer} is about one peer: say which with --endpoint URL")
    with connect() as client:
        if peer is not None:
            return _health_of_a_peer(client, peer)
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


def _health_of_a_peer(client: Client, what: str) -> int:
    try:
        reasons = list(client.ready())  # whoever answers that, whatever it is, is alive
    except Unavailable as problem:
        tell(problem)
        return DOWN
    except AtollError as answer:
        if what != "alive":  # else it is an answer, such as that this port speaks TLS
            raise
        reasons = [sentence(answer)]
    holds = what == "alive" or not reasons
    emit_one({what: holds, "reasons": reasons}, str(holds).lower(), [(what, "yes" if holds else "no")])
    for reason in reasons:
        note(f"  {clean(reason)}")
    return 0 if holds else DOWN


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
    warnings = [dict(warning) for warning in told.warnings(info.raw)]
    record: dict[str, object] = {"verdict": info.verdict, "tolerates": info.tolerates, "reasons": reasons}
    record |= {"warnings": warnings, "redundancy": info.raw.get("redundancy")}
    lines = [told.redundancy(info.raw), *(str(reason.get("message")) for reason in (*reasons, *warnings))]
    return info.verdict, record, [line for line in lines if line]
