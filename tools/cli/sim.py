"""`atoll sim`: the simulators, each written beside what it simulates, in one group."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click
from click.core import ParameterSource

from tools.cli.root import LazyGroup, adopt
from tools.cli.settings import of

_SIMULATORS = {
    "gossip": ("tools.gossip_sim:gossip_sim", "Membership: detection, false deaths, traffic."),
    "ring-churn": (
        "tools.churn.command:ring_churn",
        "Hundreds of members that come and go: gossip and ring.",
    ),
    "ring": ("tools.ring_table:ring_table", "Placement: balance and movement."),
}


class SimGroup(LazyGroup):
    """The three above, and the commands of tools.sim_command, whose own options hold for the group itself."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # `sim ring` has no use for a simulator of replication, but a file may have options for it.
        if not (args and args[0] in self.lazy) or of(ctx).config is not None:
            self._take_options()
        return super().parse_args(ctx, args)

    def _take_options(self) -> None:
        """`atoll sim --seeds 5` means `atoll sim registers --seeds 5`. Idempotent."""
        known = {param.name for param in self.params}
        self.params = [*(param for param in _replication().params if param.name not in known), *self.params]

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *_replication().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self.lazy:
            return super().get_command(ctx, cmd_name)
        return _replication().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = []
        for name in self.list_commands(ctx):
            command = None if name in self.lazy else self.get_command(ctx, name)
            rows.append((name, command.get_short_help_str() if command else self.lazy[name][1]))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _replication() -> click.Group:
    """The simulator of replication, imported when it is needed."""
    group = adopt(import_module("tools.sim_command").sim)
    assert isinstance(group, click.Group)
    return group


@click.group(cls=SimGroup, lazy=_SIMULATORS, invoke_without_command=True)
@click.pass_context
def sim(ctx: click.Context, /, **options: Any) -> None:
    """Run the code under virtual time, seeded: the same seed gives the same run.

    Without a command it is `registers` that runs.
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(_replication().commands["registers"], **options)
        return
    for name in options:
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            flag = "--" + name.replace("_", "-")
            ctx.fail(
                f"{flag} belongs behind the command: {ctx.command_path} {ctx.invoked_subcommand} {flag} ..."
            )
