"""`atoll top`: the cluster in a terminal, live."""

from __future__ import annotations

import click


@click.command()
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    help="Seconds between two looks.",
)
@click.option("--ascii", "plain", is_flag=True, help="Draw without Unicode (also chosen by the locale).")
@click.pass_context
def top(context: click.Context, interval: float, plain: bool) -> None:
    """Show the cluster live: verdict, ring and peers.

    Moves to another peer when the one it asks dies. Keys: q quit, p pause, r ask now, ? help.
    """
    from tui.terminal import run_top

    run_top(context, interval_s=interval, plain=plain)
