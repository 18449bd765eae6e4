"""`atoll node drain, undrain, remove, set` and `atoll ring set-replicas, abort`: changes of the ring.

Whatever moves data shows first what it would move, and asks; to remove a peer its name must be typed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import click

from peer.client.sync import Client
from peer.config import parse_size
from tools.cli.exits import UnsafeRefusal
from tools.cli.output import Column, emit_one, print_table, size_text
from tools.cli.session import confirm, connect, note
from tools.cli.settings import confirms, connects, current, lists

Answer = Mapping[str, Any]
Ask = Callable[[Client, bool], Answer]

plan_option = click.option("--plan", is_flag=True, help="Only show what would move.")


@click.command()
@click.argument("name")
@plan_option
@confirms
@lists
@connects
def drain(name: str, plan: bool) -> None:
    """Move everything off a peer, which goes on serving it meanwhile and stays a member.

    `atoll node list` says "drained" when nothing of it is needed any more: then it may be stopped or removed.
    """
    _change(lambda client, only: client.change_node(name, "drain", plan=only), f"Drain {name}?", plan)


@click.command()
@click.argument("name")
@plan_option
@confirms
@lists
@connects
def undrain(name: str, plan: bool) -> None:
    """Give a draining or leaving peer its share again."""
    _change(lambda client, only: client.change_node(name, "undrain", plan=only), f"Undrain {name}?", plan)


@click.command()
@click.argument("name")
@click.option(
    "--confirm", "typed", metavar="NAME", help="The peer's name once more, where nobody can be asked."
)
@plan_option
@confirms
@lists
@connects
def remove(name: str, typed: str | None, plan: bool) -> None:
    """Have a peer leave the ring for good.

    A living one gives away what it has first, and is out when that is done. A dead one is out at once, and what it held is
    copied from the others.
    """
    _change(
        lambda client, only: client.change_node(name, "remove", plan=only),
        "",
        plan,
        lambda: _type(name, typed),
    )


@click.command("set")
@click.argument("name")
@click.option("--capacity", metavar="SIZE", help="Its weight on the ring, as in 500GB.")
@click.option("--zone", metavar="ZONE", help="Its failure domain.")
@plan_option
@confirms
@lists
@connects
def set_node(name: str, capacity: str | None, zone: str | None, plan: bool) -> None:
    """Change a peer's capacity or zone; data moves to where it then belongs."""
    wanted: dict[str, Any] = {}
    if capacity is not None:
        wanted["capacity_bytes"] = parse_size(capacity, "--capacity")
    if zone is not None:
        wanted["zone"] = zone
    if not wanted:
        raise click.UsageError("say what to set: --capacity SIZE, --zone ZONE, or both")
    _change(lambda client, only: client.change_node(name, "set", wanted, plan=only), f"Change {name}?", plan)


@click.command("set-replicas")
@click.argument("replicas", type=click.IntRange(1, 16))
@plan_option
@confirms
@lists
@connects
def set_replicas(replicas: int, plan: bool) -> None:
    """Keep so many copies of everything."""
    ask: Ask = lambda client, only: client.set_replicas(replicas, plan=only)  # noqa: E731
    _change(ask, f"Keep {replicas} copies of everything?", plan)


@click.command()
@confirms
@lists
@connects
def abort() -> None:
    """Give up the change of the ring that is under way: the ring is as before it."""
    confirm("Give up the change of the ring?")
    with connect() as client:
        _show(client.abort_change())


def _change(ask: Ask, question: str, plan: bool, agree: Callable[[], None] | None = None) -> None:
    """Show the plan, ask, do it."""
    with connect() as client:
        planned = ask(client, True)
        if plan:
            _show(planned)
            return
        note(_sentence(planned))
        agree() if agree is not None else confirm(question)
        _show(ask(client, False))


def _type(name: str, typed: str | None) -> None:
    """Return if the name was typed again; raises UnsafeRefusal otherwise."""
    if typed is None:
        if current().no_input or not sys.stdin.isatty():
            raise UnsafeRefusal(f"nobody can be asked, so nothing was done; say --confirm {name}")
        typed = click.prompt(f"Type {name} to remove it", default="", show_default=False, err=True)
    if typed != name:
        raise UnsafeRefusal(f"{typed!r} is not {name!r}, so nothing was done")


def _sentence(answer: Answer) -> str:
    copies, size = answer.get("copies", 0), size_text(answer.get("bytes"))
    if not copies:
        return f"{answer.get('change')}: nothing has to move"
    return (
        f"{answer.get('change')}: {answer.get('partitions')} partitions get a new owner, about {size} to copy"
    )


def _show(answer: Answer) -> None:
    lines = [("change", str(answer.get("change"))), ("applied", "yes" if answer.get("applied") else "no")]
    lines += [("partitions", str(answer.get("partitions"))), ("to copy", size_text(answer.get("bytes")))]
    emit_one(answer, str(answer.get("change")), lines)
    rows = answer.get("nodes") or ()
    if current().output == "table" and rows:
        columns = [Column("TO", str), Column("COPIES", str, right=True), Column("BYTES", str, right=True)]
        print_table(columns, [[str(r["name"]), str(r["copies"]), size_text(r["bytes"])] for r in rows])
