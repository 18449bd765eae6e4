"""Every command of `atoll`, loaded when called; options from flags, environment and file; exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import click
from click.core import ParameterSource

from peer.errors import AtollError
from tools.cli import settings as shared
from tools.cli.config_file import check_tables, defaults_for, has_strangers, option_keys, read_config
from tools.cli.exits import INTERRUPTED, OTHER, USAGE, code_of, remedy, sentence

# name -> (module:attribute, what it does); the order is that of `atoll --help`.
COMMANDS: dict[str, tuple[str, str]] = {
    "peer": ("tools.cli.peer_command:peer", "Run one peer in the foreground."),
    "init": ("tools.cli.init_command:init", "Found a cluster once, for containers."),
    "dev": ("tools.dev:dev", "Found and run a local cluster."),
    "status": ("tools.cli.status:status", "The truth about the cluster."),
    "health": ("tools.cli.status:health", "Exit 0 healthy, 10 degraded, 11 unavailable."),
    "events": ("tools.cli.events:events", "What happens, as it happens."),
    "top": ("tools.cli.top:top", "The terminal UI."),
    "mb": ("tools.cli.buckets:mb", "Make a bucket."),
    "rb": ("tools.cli.buckets:rb", "Remove an empty bucket."),
    "ls": ("tools.cli.buckets:ls", "List buckets, or objects."),
    "put": ("tools.cli.put:put", "Store files or a tree."),
    "get": ("tools.cli.get:get", "Fetch an object or a tree."),
    "cat": ("tools.cli.objects:cat", "Write objects to stdout."),
    "stat": ("tools.cli.objects:stat", "Describe an object or a bucket."),
    "rm": ("tools.cli.objects:rm", "Remove objects."),
    "node": ("tools.cli.cluster:node", "The peers."),
    "ring": ("tools.cli.cluster:ring", "The ring and who owns what."),
    "repair": ("tools.cli.repair:repair", "What heals in the background."),
    "cluster": ("tools.cli.cluster:cluster", "The cluster as a whole."),
    "recover": ("tools.cli.recover:recover", "Read stopped peers' disks; override a lost majority."),
    "bench": ("tools.bench:bench", "Generate load and measure."),
    "sim": ("tools.cli.sim:sim", "The deterministic simulator."),
    "chaos": ("tools.chaos.command:chaos", "Fault injection on a local cluster."),
    "profile": ("tools.cli.profile_commands:profile", "Clusters this machine knows."),
    "completion": ("tools.cli.misc:completion", "Completion for your shell."),
    "version": ("tools.cli.misc:version", "The version of this program."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called; the list of them costs no import."""

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]], **options: Any) -> None:
        super().__init__(*args, **options)
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.lazy, *sorted(self.commands)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.lazy:
            return super().get_command(ctx, cmd_name)
        return load(cmd_name, self.lazy[cmd_name][0])

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, says) for name, (_, says) in self.lazy.items()]
        rows += [(name, command.get_short_help_str()) for name, command in sorted(self.commands.items())]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.list_commands(ctx) and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], self.list_commands(ctx), 2)
            hint = f"; did you mean {' or '.join(near)}?" if near else f"; see `{ctx.command_path} --help`"
            ctx.fail(f"there is no command {args[0]!r}{hint}")
        return super().resolve_command(ctx, args)


def load(name: str, target: str) -> click.Command:
    """Import a command and give its options their environment variables and the --config option."""
    module, _, attribute = target.partition(":")
    try:
        command = getattr(import_module(module), attribute)
    except ModuleNotFoundError as problem:
        if problem.name is None or not module.startswith(problem.name):
            raise
        raise click.ClickException(f"this installation lacks the command `{name}` ({module})") from None
    assert isinstance(command, click.Command)
    return adopt(command)


def adopt(command: click.Command) -> click.Command:
    """Every option gets ATOLL_<OPTION>, every command --config; groups pass it on. Idempotent."""
    if not any(param.name == "config" for param in command.params):
        command.params.append(config_option())
    for option in command.params:
        if isinstance(option, click.Option) and option.envvar is None:
            names = [name for name in option.opts if name.startswith("--")]
            option.envvar = "ATOLL_" + names[0][2:].upper().replace("-", "_") if names else None
    if isinstance(command, click.Group):
        for child in command.commands.values():
            adopt(child)
    return command


def _refuse_strangers(context: click.Context) -> None:
    """A flag ahead of a command that has no use for it is refused, not ignored: it meant something."""
    command = context.command
    if isinstance(command, click.Group) and not command.invoke_without_command:
        return  # its commands will tell
    strangers = shared.of(context).flagged - _names(command) - _HARMLESS
    if context.parent is not None and strangers:
        flag = "--" + min(strangers).replace("_", "-")
        raise click.UsageError(f"`{context.command_path}` has no use for {flag}; leave it out", context)


_HARMLESS = frozenset({"yes", "no_input"})
"""An answer to a question nobody asks is no contradiction."""


def _names(command: click.Command) -> set[str]:
    """The options of a command and of those below it."""
    names = {str(param.name) for param in command.params}
    if isinstance(command, click.Group):
        names = names.union(*map(_names, command.commands.values()))
    return names


def config_option() -> click.Option:
    return click.Option(
        ["--config"],
        type=click.Path(path_type=Path, dir_okay=False),
        is_eager=True,
        expose_value=False,
        callback=_use_config,
        help="A TOML file with options; flags and ATOLL_* beat it.",
    )


def _use_config(context: click.Context, param: click.Parameter, value: Path | None) -> None:
    """Click callback: let the file's values stand in for options that are not given otherwise.

    Every command has this option, and it is judged first: so strange flags ahead of it are refused here.
    """
    _refuse_strangers(context)
    state = shared.of(context)
    flagged = context.get_parameter_source("config") is ParameterSource.COMMANDLINE
    if value is not None and (flagged or state.config is None):
        state.config = read_config(value)
        check_tables(state.config, context.find_root().command)
    if state.config is None:
        return
    path: list[str] = []
    step: click.Context | None = context
    while step is not None and step.parent is not None:
        path.insert(0, str(step.info_name))
        step = step.parent
    everyone = set(_all_keys(context)) if has_strangers(state.config, context.command) else None
    context.default_map = defaults_for(state.config, path, context.command, everyone)


def _all_keys(context: click.Context) -> Iterator[str]:
    """The options of all commands; slow, as all of them are imported, so only to judge a suspect key."""
    todo: list[click.Command] = [context.find_root().command]
    while todo:
        command = todo.pop()
        yield from option_keys(command)
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                try:
                    child = command.get_command(context, name)
                except (ImportError, click.ClickException):
                    continue  # a command this installation lacks has no say
                if child is not None:
                    todo.append(child)


@click.group(cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@shared.connects
@shared.lists
@shared.confirms
def cli() -> None:
    """Atoll: a leaderless, self-healing object store.

    Start with `atoll dev`. Every option can also be given as ATOLL_<OPTION>, or in the TOML file
    that --config names.
    """


adopt(cli)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The console script. Ends the process with the exit code of docs/operate.md."""
    code = run(arguments)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _silence_stdout()
        code = code or OTHER
    sys.exit(code)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; its exit code. Errors are told on stderr, data goes to stdout."""
    try:
        result = cli.main(arguments, prog_name="atoll", complete_var="_ATOLL_COMPLETE", standalone_mode=False)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.UsageError as problem:
        problem.show()
        return USAGE
    except click.ClickException as problem:
        click.echo(f"atoll: {problem.format_message()}", err=True)
        return problem.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("atoll: interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        _silence_stdout()
        return OTHER
    except (AtollError, OSError) as problem:
        return tell(problem)
    return result if isinstance(result, int) else 0


def tell(problem: BaseException) -> int:
    """Print what went wrong and what to do about it; the exit code."""
    click.echo(f"atoll: {sentence(problem)}", err=True)
    advice = remedy(problem)
    if advice is not None:
        click.echo(f"  {advice}", err=True)
    return code_of(problem)


def _silence_stdout() -> None:
    """Whoever read our output is gone; nothing more can be said to them, at exit either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
