"""Options from a TOML file (`--config`): keys at the top hold for every command, tables for one.

    endpoint = "http://10.0.0.1:7401"

    [peer]
    data = "/srv/atoll"
    join = ["10.0.0.2:7402"]

    [node.list]
    output = "json"

A key is an option's long name, with `-` or `_`. Flags beat the environment, which beats the file. A key
no command knows is an error, as a misspelt option that is silently ignored would be worse.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A read file; `values` as TOML gave them."""

    path: Path
    values: dict[str, Any] = field(default_factory=dict)


def read_config(path: Path) -> ConfigFile:
    """The file, or click.UsageError with its name and what is wrong with it."""
    try:
        return ConfigFile(path, tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as problem:
        raise click.UsageError(f"--config {path}: {problem.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise click.UsageError(f"--config {path} is not valid TOML: {problem}") from None


def option_keys(command: click.Command) -> dict[str, click.Option]:
    """Every key a file may use for this command, in its `_` form."""
    return {
        name.lstrip("-").replace("-", "_"): param
        for param in command.params
        if isinstance(param, click.Option)
        for name in param.opts
        if name.startswith("--")
    }


def defaults_for(
    config: ConfigFile, path: Iterable[str], command: click.Command, all_keys: Iterable[str] | None
) -> dict[str, Any]:
    """What the file says about the options of one command, by parameter name: click's `default_map`.

    `path` is the command's, as in ["node", "list"]. `all_keys` are the options of every command, to
    judge keys at the top; None when they could not all be loaded.
    """
    known = option_keys(command)
    values: dict[str, Any] = {}
    table: Any = config.values
    steps = list(path)
    for depth in range(len(steps) + 1):
        here = {key.replace("-", "_"): value for key, value in table.items() if not isinstance(value, dict)}
        strangers = [key for key in here if key not in known]
        if depth == len(steps) and depth and strangers:
            raise _unknown(config, ".".join(steps), strangers[0], known)
        if depth == 0 and strangers and all_keys is not None:
            nobody = sorted(set(strangers) - set(all_keys))
            if nobody:
                raise _unknown(config, "", nobody[0], all_keys)
        values |= {key: value for key, value in here.items() if key in known}
        table = table.get(steps[depth]) if depth < len(steps) else None
        if not isinstance(table, dict):
            break
    return {str(known[key].name): _shaped(known[key], value) for key, value in values.items()}


def check_tables(config: ConfigFile, root: click.Command) -> None:
    """UsageError for a table at the top that no command is called by; nothing is imported."""
    names = root.list_commands(click.Context(root)) if isinstance(root, click.Group) else []
    for table, value in config.values.items():
        if isinstance(value, dict) and names and table not in names:
            raise _unknown(config, "", table, names, kind="command")


def has_strangers(config: ConfigFile, command: click.Command) -> bool:
    """Whether a key at the top is not an option of this command (it may be one of another's)."""
    known = option_keys(command)
    return any(
        key.replace("-", "_") not in known
        for key, value in config.values.items()
        if not isinstance(value, dict)
    )


def _shaped(option: click.Option, value: Any) -> Any:
    if option.multiple:
        return [str(item) for item in value] if isinstance(value, list) else [str(value)]
    if isinstance(value, bool) or option.is_flag:
        return value
    return str(value)


def _unknown(
    config: ConfigFile, table: str, key: str, known: Iterable[str], kind: str = "option"
) -> click.UsageError:
    import difflib

    near = difflib.get_close_matches(key, list(known), 1)
    where = f"[{table}] " if table else ""
    hint = f"; did you mean {near[0]}?" if near else ""
    return click.UsageError(f"--config {config.path}: {where}{key} is no {kind}{hint}")
