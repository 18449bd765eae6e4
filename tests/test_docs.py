"""Goal: what the documents say can be followed: links, commands, options, targets and numbers are real. Nothing is run."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from peer.replication import messages
from tools.cli import exits
from tools.cli.root import cli

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
IDS = [path.name for path in DOCUMENTS]
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
PICTURE_BYTES = 150_000

# Where an absolute path in a document may begin: examples, and paths of the HTTP API.
PATHS = {"secrets", "srv", "opt", "etc", "backup", "v1", "health", "ready", "openapi", "metrics", "dev"}
STRANGERS = ("docker ", "systemctl ")
"""Commands of others, with options of their own."""
REDIRECTIONS = {">", ">>", "<"}
SEPARATORS = {"&&", "||", "|", ";", "&", "(", ")"}

documents = pytest.mark.parametrize("path", DOCUMENTS, ids=IDS)


def fences(path: Path, *languages: str) -> list[str]:
    return [body for language, body in FENCE.findall(path.read_text()) if language in languages]


def prose(path: Path) -> str:
    return FENCE.sub("", path.read_text())


def anchors(path: Path) -> set[str]:
    """The fragments of a document's headings, as a forge's renderer makes them."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE):
        kept = re.sub(r"[^\w\- ]", "", heading.lower())
        found.add(kept.replace(" ", "-"))
    return found


def command_lines(path: Path) -> Iterator[str]:
    for body in fences(path, "sh"):
        yield from body.replace("\\\n", " ").splitlines()
    for body in fences(path, "ini"):
        yield from re.findall(r"^ExecStart=(.+)$", body, re.MULTILINE)


def commands(path: Path) -> Iterator[list[str]]:
    """Every simple command in the blocks of shell, as words."""
    for line in command_lines(path):
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;()<>")
        lexer.whitespace_split = True
        words: list[str] = []
        before = ""
        for word in [*lexer, ";"]:
            redirected, before = before in REDIRECTIONS, word
            if redirected or word in REDIRECTIONS:
                continue
            if word not in SEPARATORS:
                words.append(word)
                continue
            if words:
                yield words
            words = []


def parse(words: list[str]) -> None:
    """Resolve a command line down to its last option without running anything. Raises click.UsageError."""
    command: click.Command = cli
    parent: click.Context | None = None
    name, rest = "atoll", words
    while True:
        context = command.make_context(name, list(rest), parent=parent)
        rest = [*getattr(context, "_protected_args", []), *context.args]
        if not isinstance(command, click.Group) or not rest:
            return
        found, following, rest = command.resolve_command(context, rest)
        assert found is not None and following is not None
        name, command, parent = found, following, context


def every_option() -> set[str]:
    found = {"--help"}
    todo: list[click.Command] = [cli]
    while todo:
        command = todo.pop()
        for param in command.params:
            found.update((*param.opts, *param.secondary_opts))
        if isinstance(command, click.Group):
            context = click.Context(command)
            children = [command.get_command(context, name) for name in command.list_commands(context)]
            todo.extend(child for child in children if child is not None)
    return found


@pytest.fixture(autouse=True)
def _no_options_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("ATOLL_")]:
        monkeypatch.delenv(name)


@documents
def test_links_resolve(path: Path) -> None:
    """Goal: every relative link names a file of the project, and a heading in it."""
    for link in LINK.findall(prose(path)):
        if "://" in link:
            continue
        name, _, fragment = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.is_file() and target.is_relative_to(ROOT), f"{path.name}: {link}"
        if fragment:
            assert fragment in anchors(target), f"{path.name}: {link} names no heading"


@documents
def test_commands_parse(path: Path) -> None:
    """Goal: every `atoll ...` printed in a block is a command with options and arguments that it has."""
    for words in commands(path):
        if Path(words[0]).name != "atoll":
            continue
        try:
            parse(words[1:])
        except click.UsageError as problem:
            pytest.fail(f"{path.name}: {shlex.join(words)}: {problem.format_message()}")


def test_wrong_commands_are_noticed() -> None:
    """Goal: the judge of commands objects to what does not exist."""
    for line in (
        "frobnicate",
        "put",
        "ls --frobnicate",
        "mb one two",
        "ring frob",
        "sim registers --seeds many",
    ):
        with pytest.raises(click.UsageError):
            parse(line.split())


@documents
def test_options_in_the_text_exist(path: Path) -> None:
    """Goal: an option that the text names is one of some command."""
    known = every_option()
    for span in SPAN.findall(prose(path)):
        if span.startswith(STRANGERS):
            continue
        for option in re.findall(r"(?<!\S)--[a-z][a-z0-9-]*", span):
            assert option in known, f"{path.name}: {span}"


@documents
def test_make_targets_exist(path: Path) -> None:
    """Goal: every `make ...` in code names a target of the Makefile."""
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    code = [*fences(path, "sh"), *SPAN.findall(prose(path))]
    named = {
        name for text in code for name in re.findall(r"(?:^|&& )make ([a-z][a-z-]*)", text, re.MULTILINE)
    }
    assert named <= targets


@documents
def test_nothing_outside_the_project_is_named(path: Path) -> None:
    """Goal: no path leads out of the project, and absolute ones are examples that anybody has."""
    text = path.read_text()
    for step in re.findall(r"(?:\.\./)+[\w./-]*", text):
        assert (path.parent / step).resolve().is_relative_to(ROOT), f"{path.name}: {step}"
    for first in re.findall(r"(?<![\w.:/~*>\]}$\"])/(\w+)", text):
        assert first in PATHS, f"{path.name}: /{first}"


def test_python_blocks_are_sound() -> None:
    """Goal: blocks of Python parse, and import names that exist."""
    for path in DOCUMENTS:
        for body in fences(path, "python"):
            for node in ast.walk(ast.parse(body)):
                if isinstance(node, ast.ImportFrom):
                    assert node.module is not None
                    module = importlib.import_module(node.module)
                    for alias in node.names:
                        assert hasattr(module, alias.name), f"{path.name}: {node.module}.{alias.name}"


def test_message_numbers_are_the_codes() -> None:
    """Goal: protocols.md numbers operations and statuses as `peer/replication/messages.py` does, all of them."""
    rows = re.findall(r"^\| (\d+) ([A-Z_]+) \|", (ROOT / "docs" / "protocols.md").read_text(), re.MULTILINE)
    told = {name: int(number) for number, name in rows}
    known = {name: value for name, value in vars(messages).items() if name.isupper() and type(value) is int}
    del known["NO_GATE"]
    assert told == known


def test_exit_codes_are_the_codes() -> None:
    """Goal: operate.md lists every exit code of the command line."""
    section = (ROOT / "docs" / "operate.md").read_text().partition("## Exit codes")[2]
    told = {
        int(code) for row in re.findall(r"^\| ([\d, ]+) \|", section, re.MULTILINE) for code in row.split(",")
    }
    assert told == {value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)}


def test_every_health_code_is_explained() -> None:
    """Goal: operate.md has a row, with something to do, for each code that a reason or a warning of the verdict can have."""
    codes = set()
    for name in ("verdict", "conditions", "redundancy", "standing"):
        for node in ast.walk(ast.parse((ROOT / "peer" / "api" / f"{name}.py").read_text())):
            codes |= set(_codes_in(node))
    assert {"peer_down", "disk_full", "no_failures_tolerated", "ring_changing"} <= codes, "they are found"
    section = (ROOT / "docs" / "operate.md").read_text().partition("### What each code means")[2]
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \|$", section.partition("\n## ")[0], re.MULTILINE)
    assert {code for code, _, _ in rows} == codes
    assert len(rows) == len(codes)


def _codes_in(node: ast.AST) -> Iterator[str]:
    """Codes that this piece of source gives to a sentence: {"code": "x"}, or _sentence("x", ...)."""
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and key.value == "code" and isinstance(value, ast.Constant):
                yield str(value.value)
    elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "_sentence":
        yield from (str(word.value) for word in node.args[:1] if isinstance(word, ast.Constant))


def test_named_tests_exist() -> None:
    """Goal: test files that testing.md names are there."""
    for span in SPAN.findall(prose(ROOT / "docs" / "testing.md")):
        for name in re.findall(r"(?:^|/)(test_[a-z_*]+)", span):
            assert list((ROOT / "tests").glob(f"{name}.py")), span


def test_picture_stands_alone() -> None:
    """Goal: the picture loads nothing from elsewhere and is small."""
    svg = (ROOT / "docs" / "atoll-top.svg").read_text()
    assert len(svg.encode()) < PICTURE_BYTES
    assert not re.search(r"url\((?!['\"]?#)|@import|<image", svg)


@documents
def test_no_half_of_a_merge_is_left(path: Path) -> None:
    """Nobody reads a document before it is committed as closely as an interpreter reads code."""
    assert re.findall(r"^(?:<{7}|>{7}|\|{7}) .*$", path.read_text(), re.MULTILINE) == []


def test_the_table_of_schedules_names_all_their_tests() -> None:
    """Each row names tests that are there and say its number, and no test that says one is missing from its row."""
    text = (ROOT / "docs" / "testing.md").read_text()
    named = {
        (int(number), test)
        for number, row in re.findall(r"^\| (\d+) \| .* \| (`test_.*`) \|$", text, re.MULTILINE)
        for test in SPAN.findall(row)
    }
    told = set()
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                found = re.match(r"Schedule (\d+)\b", ast.get_docstring(node) or "")
                told |= {(int(found[1]), f"{path.name}::{node.name}")} if found else set()
    assert named == told
    assert {number for number, _ in named} >= set(range(1, 16))
