"""`atoll version` and `atoll completion`."""

from __future__ import annotations

import json
import platform

import click

from peer import __version__
from tools.cli.output import write
from tools.cli.settings import current, lists


@click.command()
@lists
def version() -> None:
    """Print the version of this program."""
    told = {"version": __version__, "python": platform.python_version()}
    form = current().output
    if form in ("json", "jsonl"):
        write(json.dumps(told))
    else:
        write(__version__ if form == "name" else f"atoll {__version__} (Python {told['python']})")


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash: eval "$(atoll completion bash)"     in ~/.bashrc
    zsh:  eval "$(atoll completion zsh)"      in ~/.zshrc
    fish: atoll completion fish | source      in ~/.config/fish/config.fish
    """
    from click.shell_completion import ShellComplete, get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    root = click.get_current_context().find_root().command
    # The base class's source(): bash's own starts a bash to learn its version.
    write(ShellComplete.source(kind(root, {}, "atoll", "_ATOLL_COMPLETE")))
