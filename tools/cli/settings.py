"""Options that many commands share, accepted before and after the command's name.

A decorator adds them to a command; their values are collected in one Settings, reached by `current()`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from tools.cli.config_file import ConfigFile

F = TypeVar("F", bound=Callable[..., Any])


class Folder(click.Path):
    """A directory's path; an empty one is refused, which is what `--data "$UNSET"` gives, not the current directory."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, file_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("the name of a directory is empty", param, ctx)
        return super().convert(value, param, ctx)


class Seconds(click.FloatRange):
    """A time in seconds within bounds; `nan` is within none, though no comparison says so."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if number != number:
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        return number


@dataclass(slots=True)
class Settings:
    """What was said about the options all commands share."""

    config: ConfigFile | None = None
    endpoint: str | None = None
    profile: str | None = None
    access_key: str | None = None
    secret_key_file: str | None = None
    credentials_file: Path | None = None
    ca_file: str | None = None
    patience: float | None = None
    """Seconds; None: the client's default."""
    output: str = "table"
    yes: bool = False
    no_input: bool = False
    flagged: set[str] = field(default_factory=set)
    """The names that were given as flags, which nothing but another flag overrides."""


def of(context: click.Context) -> Settings:
    """The settings of this invocation."""
    root = context.find_root()
    if not isinstance(root.obj, Settings):
        root.obj = Settings()
    return root.obj


def current() -> Settings:
    """The settings of the running command."""
    return of(click.get_current_context())


def remember(context: click.Context, param: click.Parameter, value: Any) -> Any:
    """Click callback: keep a shared option's value, a flag after the command before one ahead of it."""
    settings, name = of(context), str(param.name)
    if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
        settings.flagged.add(name)
    elif name in settings.flagged:
        return getattr(settings, name)
    if value is not None:
        setattr(settings, name, value)
    return value


def _shared(*names: str, **attributes: Any) -> Callable[[F], F]:
    return click.option(*names, expose_value=False, callback=remember, **attributes)


def connects(command: F) -> F:
    """For commands that talk to a cluster: which one, and with which keys."""
    for option in reversed(
        (
            _shared("--endpoint", metavar="URL", help="Talk to this peer only (its API port)."),
            _shared("--profile", metavar="NAME", help="The cluster to talk to; see `atoll profile list`."),
            _shared("--access-key", metavar="KEY", help="With --secret-key-file, or ATOLL_SECRET_KEY."),
            _shared("--secret-key-file", metavar="FILE", help="Holds the secret key; `-` reads stdin."),
            _shared(
                "--credentials-file",
                metavar="FILE",
                type=click.Path(path_type=Path),
                help="Holds both keys as JSON, like a peer's root.json.",
            ),
            _shared("--ca-file", metavar="FILE", help="The authorities to trust for https, as PEM."),
            _shared(
                "--patience",
                metavar="SECONDS",
                type=Seconds(0, 3600),
                help="How long to go on while peers say 503.  [5]",
            ),
        )
    ):
        command = option(command)
    return command


def lists(command: F) -> F:
    """For commands that print records."""
    forms = click.Choice(["table", "json", "jsonl", "name"])
    return _shared("-o", "--output", type=forms, default=None, help="How to print: table, json, ...")(command)


def confirms(command: F) -> F:
    """For commands that ask before they destroy."""
    command = _shared("--no-input", is_flag=True, default=None, help="Never ask; refuse what needs a yes.")(
        command
    )
    return _shared("--yes", "-y", is_flag=True, default=None, help="Do not ask, do it.")(command)
