"""Goal: imports go down only, and the pure packages stay pure (docs/architecture.md, Layers)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("peer", "ring", "gossip", "tui", "tools")

BELOW_REPLICATION = ("ring", "peer.errors", "peer.etag", "peer.buffers", "peer.storage.records")
REPLICATION_BASE = tuple(
    f"peer.replication.{module}"
    for module in (
        "env",
        "messages",
        "ballot",
        "keys",
        "value",
        "meta",
        "owners",
        "quorum",
        "patience",
        "lateness",
        "preference",
        "throttle",
        "workers",
        "hints",
    )
)

ROOMS = ("agreement", "registers", "chunks", "copying", "garbage", "healing")


def replication(*rooms: str) -> tuple[str, ...]:
    """What a room of replication may import: the base of replication, and the rooms named."""
    return (*BELOW_REPLICATION, *REPLICATION_BASE, *(f"peer.replication.{room}" for room in rooms))


# What each room may import of ours. The longest matching prefix counts.
ALLOWED: dict[str, tuple[str, ...]] = {
    "ring": ("ring",),
    "gossip": ("gossip",),
    "peer.errors": (),
    "peer.etag": (),
    "peer.durations": (),
    "peer.requestid": (),
    "peer.logs": ("peer.requestid",),
    "peer.buffers": ("peer.errors",),
    "peer.config": ("peer.errors", "peer.etag"),
    "peer.client": ("peer.client", "peer.errors", "peer.etag"),
    "peer.storage": ("peer.storage", "peer.errors", "peer.buffers", "peer.durations"),
    "peer.rpc": ("peer.rpc", "peer.errors", "peer.buffers", "peer.requestid"),
    "peer.datagrams": ("gossip", "peer.errors"),
    "peer.membership": ("gossip", "peer.errors", "peer.datagrams"),
    "peer.replication": replication(),
    "peer.replication.agreement": replication("agreement"),
    "peer.replication.registers": replication("registers"),
    "peer.replication.chunks": replication("chunks"),
    "peer.replication.copying": replication("copying", "registers"),
    "peer.replication.garbage": replication("garbage", "registers", "chunks"),
    "peer.replication.node": replication("agreement", "registers", "copying", "garbage"),
    "peer.replication.healing": (*BELOW_REPLICATION, "peer.replication"),
    "peer.objects": ("peer.objects", "peer.replication", "peer.errors", "peer.etag", "peer.buffers"),
    "peer.healing": (
        "ring",
        "peer.replication",
        "peer.buffers",
        "peer.errors",
    ),
    "peer.recovery": (
        "peer.recovery",
        "peer.storage",
        "peer.replication",
        "peer.objects",
        "peer.errors",
        "ring",
    ),
    "peer.realenv": ("peer.storage", "peer.errors", "peer.buffers"),
    "peer.tls": ("peer.tls", "peer.errors"),
    "peer.tls.options": ("peer.tls", "peer.config", "peer.storage"),
    "peer.looplag": ("peer.durations",),
    "peer.journal": (),
    "peer.reporter": ("peer.journal", "peer.membership", "ring"),
    "peer.dispatch": ("peer.replication", "peer.logs"),
    "peer.vitals": ("peer.looplag", "peer.storage"),
    "peer.bulkservice": ("peer.replication", "peer.storage", "peer.errors", "peer.buffers"),
    "peer.api": (
        "peer.api",
        "peer.objects",
        "peer.replication",
        "peer.membership",
        "peer.tls",
        "peer.journal",
        "peer.errors",
        "peer.etag",
        "peer.durations",
        "peer.requestid",
        "peer.logs",
        "ring",
    ),
    "peer.metrics": ("peer", "ring"),
    "peer.process": ("peer", "ring", "gossip"),
    "peer.run": ("peer",),
    "peer.founding": ("peer",),
    "tui": ("tui", "peer.client", "peer.errors"),
    "tools.sim": ("tools.sim", "peer", "ring", "gossip"),
    "tools.sim_command": ("tools", "peer", "ring", "gossip"),
    "tools.gossip_sim": ("tools.gossip_world", "gossip"),
    "tools.gossip_world": ("tools.gossip_air", "gossip"),
    "tools.gossip_air": ("gossip",),
    "tools.hours": ("tools.background", "tools.sim"),
    "tools.churn": ("tools.churn", "tools.hours", "tools.gossip_air", "tools.sim", "peer", "ring", "gossip"),
    "tools.ring_table": ("ring",),
    "tools.chaos": ("tools", "peer.client", "peer.recovery", "peer.errors"),
    "tools.cli.recover": ("tools.cli", "peer.recovery", "peer.errors"),
    "tools.cli.peer_command": ("tools", "peer.config", "peer.errors", "peer.run"),
    "tools.cli.init_command": ("tools", "peer.founding"),
    "tools": ("tools", "tui", "peer.client", "peer.errors", "peer.etag", "peer.config"),
}

# Rooms that take clock, chance, network and disk from outside.
PURE = ("ring", "gossip", "peer/replication")
IMPURE_MODULES = {"time", "random", "socket", "threading", "os", "select", "subprocess", "secrets", "uuid"}
LOOPLESS = ("ring", "gossip")
"""Functions and state machines: not even an event loop."""


def modules() -> Iterator[tuple[str, Path]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), path


def imports(path: Path, module: str) -> Iterator[tuple[int, str]]:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *([base] if base else [])])
            yield node.lineno, base
            for alias in node.names:
                if (ROOT / Path(*base.split("."), alias.name + ".py")).exists():
                    yield node.lineno, f"{base}.{alias.name}"


def rule_for(module: str) -> tuple[str, ...] | None:
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        rule = ALLOWED.get(".".join(parts[:length]))
        if rule is not None:
            return rule
    return None


def within(name: str, rooms: tuple[str, ...]) -> bool:
    return any(name == room or name.startswith(room + ".") for room in rooms)


@pytest.mark.parametrize(
    ("module", "path"), list(modules()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_imports_go_down_only(module: str, path: Path) -> None:
    """A module imports only rooms its own room may look into."""
    rule = rule_for(module)
    if rule is None:
        return  # package docstrings
    for line, name in imports(path, module):
        if name.split(".")[0] in PACKAGES and "." in name and not within(name, rule):
            target = ROOT / Path(*name.split("."))
            if (
                target.is_dir()
                and (target / "__init__.py").exists()
                and any(room.startswith(name) for room in rule)
            ):
                continue
            pytest.fail(
                f"{path.relative_to(ROOT)}:{line} imports {name}; allowed for {module}: {', '.join(rule) or 'nothing'}"
            )


@pytest.mark.parametrize("room", PURE)
def test_pure_rooms_touch_no_world(room: str) -> None:
    """ring, gossip and replication import no clock, chance, socket, thread or process; the first two no event loop."""
    banned = IMPURE_MODULES | ({"asyncio"} if room in LOOPLESS else set())
    for path in sorted((ROOT / room).rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for line, name in imports(path, module):
            assert name.split(".")[0] not in banned, f"{path.relative_to(ROOT)}:{line} imports {name}"


def test_nothing_refers_to_the_workplace() -> None:
    """The project stands alone: no machine path, no reference to where it was designed."""
    words = ("../" + "shared", "/wo" + "rk/", "/op" + "t/wheels")
    for path in sorted(ROOT.rglob("*")):
        if path.suffix in {".py", ".md", ".toml", ".sh", ".json", ".tcss"} and not within_ignored(path):
            text = path.read_text("utf-8", "replace")
            assert not any(word in text for word in words), f"{path.relative_to(ROOT)} names the workplace"


def within_ignored(path: Path) -> bool:
    ignored = {
        ".venv",
        ".git",
        ".notes",
        "build",
        "dist",
        ".mypy_cache",
        ".ruff_cache",
        ".hypothesis",
        "atoll-data",
    }
    return bool(ignored.intersection(path.relative_to(ROOT).parts))


@pytest.mark.parametrize(
    "package", ["ring", "gossip", *(f"peer/replication/{room}" for room in ("", *ROOMS))], ids=str
)
def test_a_package_names_its_modules(package: str) -> None:
    """Goal: whoever opens a package finds every module of it named in its docstring."""
    folder = ROOT / package
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    named = set(re.findall(r"[a-z_]+", text))
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert not modules - named, f"{package}/__init__.py does not say what these are for"
