"""Goal: options, profiles, cluster views, exit codes and start-up of the command line hold to docs/operate.md."""

from __future__ import annotations

import importlib.metadata
import json
import os
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peer import __version__
from peer.errors import Invalid, NotFound
from tests.cli_runner import Atoll, started_peers
from tests.fake_api import ACCESS_KEY, SECRET_KEY, FakeCluster, fake_cluster
from tools.cli import profiles, root
from tools.cli.localtree import Shadows, Unmappable, parts_of


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    with fake_cluster() as running:
        running.buckets["box"], running.shards["box"] = {}, 64
        yield running


@pytest.fixture
def atoll(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Atoll:
    return Atoll(tmp_path, monkeypatch)


def test_start_up_imports_little() -> None:
    """Goal: `version` and `ls` stay fast, as they load neither asyncio, aiohttp, textual nor other commands."""
    heavy = [
        "importlib.metadata",
        "aiohttp",
        "asyncio",
        "textual",
        "rich.progress",
        "tools.dev",
        "tools.bench",
        "tools.cli.put",
    ]
    script = (
        "import sys; from tools.cli.root import run; code = run(sys.argv[1:])\n"
        f"assert code == 0; print([name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    )
    for command in (["version"], ["version", "--help"], ["ls", "--help"]):
        ran = subprocess.run(
            [sys.executable, "-c", script, *command], capture_output=True, text=True, timeout=60
        )
        assert ran.stderr.strip() == "[]", ran.stderr


def test_one_version() -> None:
    """Goal: the version is written once: the package, its metadata and `atoll version` say the same."""
    told = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
    assert "version" in told["project"]["dynamic"] and "version" not in told["project"]
    assert told["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "peer.__version__"}
    assert importlib.metadata.version("atoll") == __version__, "install it again: pip install -e ."


def test_help_needs_no_import_and_every_own_command_loads() -> None:
    """Goal: the list of commands is complete, and each has a help text, ATOLL_ variables and --config."""
    context = click.Context(root.cli, info_name="atoll")
    promised = {
        "peer",
        "dev",
        "status",
        "health",
        "mb",
        "rb",
        "ls",
        "put",
        "get",
        "cat",
        "stat",
        "rm",
        "node",
    }
    promised |= {"ring", "cluster", "bench", "sim", "top", "completion", "version"}
    assert promised <= set(root.cli.list_commands(context))
    for name, (target, _) in root.COMMANDS.items():
        if not target.startswith("tools.cli."):
            continue
        command = root.cli.get_command(context, name)
        assert command is not None and (command.help or "").strip()
        for param in command.params:
            if isinstance(param, click.Option):
                long = next(option for option in param.opts if option.startswith("--"))
                assert param.envvar == "ATOLL_" + long[2:].upper().replace("-", "_")
        assert any(param.name == "config" for param in command.params)


def test_a_missing_command_is_named(atoll: Atoll, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a command this installation lacks says so; an unknown one suggests; usage errors exit 2."""
    monkeypatch.setitem(root.COMMANDS, "bench", ("tools.no_such_module:bench", "x"))
    lacking = atoll("bench")
    assert lacking.code == 1 and "lacks the command `bench`" in lacking.err
    unknown = atoll("statsu")
    assert unknown.code == 2 and "status" in unknown.err
    assert atoll("ls", "--frobnicate").code == 2
    assert atoll("ls", "-o", "xml").code == 2
    assert atoll("--help").code == 0 and "Commands:" in atoll("-h").out
    assert (
        atoll("version", "-o", "json").json["version"]
        == atoll("version", "-o", "name").out.strip()
        == __version__
    )
    for shell in ("bash", "zsh", "fish"):
        assert "_ATOLL_COMPLETE" in atoll("completion", shell).out


def test_the_simulator_with_and_without_its_name(atoll: Atoll) -> None:
    """Goal: `atoll sim` takes the options of `sim registers`; for a command behind it they are refused, not lost."""
    short = ("--seeds", "1", "--jobs", "1")
    plain = atoll("sim", *short)
    assert plain.code == 0 and "1 seeds, " in plain.out and "every promise held" in plain.out
    named = atoll("sim", "registers", *short)
    assert named.lines[:-2] == plain.lines[:-2]  # but for the time it took
    assert atoll("sim", "--seeds", "0").code == 2
    misplaced = atoll("sim", "--seeds", "1", "registers")
    assert misplaced.code == 2 and "atoll sim registers --seeds" in misplaced.err
    file = atoll.home / "sim.toml"
    file.write_text("[sim]\nseeds = 1\njobs = 1\n")
    assert atoll("--config", str(file), "sim").lines[:-2] == plain.lines[:-2]
    for line in ("sim ring --help", "sim --help"):
        assert atoll("--config", str(file), *line.split()).code == 0


def test_no_profile(atoll: Atoll) -> None:
    """Goal: without any cluster to talk to the command exits 2 and says how to get one."""
    lost = atoll("ls")
    assert lost.code == 2 and "atoll dev" in lost.err and "atoll profile add" in lost.err
    assert atoll("ls", "--profile", "nix").code == 2
    nobody = atoll("ls", "--endpoint", "http://127.0.0.1:9")
    assert nobody.code == 5 and "start a peer or give the endpoint" in nobody.err
    down = atoll("health", "--endpoint", "http://127.0.0.1:9")
    assert (down.code, down.out) == (11, "unavailable\n")
    assert "no peer answers at http://127.0.0.1:9" in down.err and "atoll profile list" in down.err
    assert atoll("ls", "--endpoint", "gopher://x").code == 2


def test_profiles(atoll: Atoll, cluster: FakeCluster) -> None:
    """Goal: profiles are made, chosen, listed without secrets, and forgotten."""
    keys = atoll.home / "root.json"
    keys.write_text(json.dumps({"access_key": ACCESS_KEY, "secret_key": SECRET_KEY}))
    added = atoll("profile", "add", "one", "--endpoint", cluster.urls[0], "--credentials-file", str(keys))
    assert added.code == 0 and atoll("ls", "-o", "name").out == "box\n"
    atoll("profile", "add", "two", "--endpoint", "http://127.0.0.1:9")
    assert atoll("profile", "list", "-o", "name").lines == ["one", "two"]
    assert SECRET_KEY not in atoll("profile", "list").out
    assert atoll("ls", "--profile", "two").code == 5
    assert atoll("profile", "use", "two").code == 0 and atoll("ls").code == 5
    assert atoll("profile", "use", "nix").code == 2
    assert atoll("profile", "remove", "two").code == 0 and atoll("ls").code == 0
    assert stat.S_IMODE((atoll.home / "config.toml").stat().st_mode) == 0o600


def test_credentials(atoll: Atoll, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: keys come from files, environment or stdin; those of one cluster never go to another's address."""
    endpoint = ("--endpoint", cluster.urls[0])
    denied = atoll("ls", *endpoint)
    assert denied.code == 4 and "--credentials-file" in denied.err
    assert atoll("health", *endpoint).code == 0
    secret = atoll.home / "secret"
    secret.write_text(SECRET_KEY + "\n")
    key = ("--access-key", ACCESS_KEY)
    assert atoll("ls", *endpoint, *key, "--secret-key-file", str(secret)).code == 0
    assert atoll("ls", *endpoint, *key, "--secret-key-file", "-", stdin=SECRET_KEY.encode()).code == 0
    assert atoll("ls", *endpoint, *key).code == 2
    assert atoll("ls", *endpoint, *key, "--secret-key-file", str(secret) + "x").code == 2
    profiles.write_profile("other", ["http://10.0.0.9:7401"], ACCESS_KEY, SECRET_KEY, True)
    assert atoll("ls", *endpoint).code == 4
    assert atoll("ls", *endpoint, "--profile", "other").code == 0
    profiles.write_profile("same", cluster.urls[1:2], ACCESS_KEY, SECRET_KEY)
    assert atoll("ls", *endpoint).code == 0
    monkeypatch.setenv("ATOLL_ACCESS_KEY", ACCESS_KEY)
    monkeypatch.setenv("ATOLL_SECRET_KEY", "wrong")
    assert atoll("ls", *endpoint).code == 4


def test_precedence(atoll: Atoll, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: flag beats environment beats file; a file's key nobody knows is an error with a hint."""
    atoll.use(cluster)
    file = atoll.home / "options.toml"
    file.write_text('output = "name"\n[ls]\noutput = "jsonl"\n[node.list]\noutput = "json"\n')
    config = ("--config", str(file))
    assert atoll("ls", *config).json["name"] == "box"
    assert atoll(*config, "ls").json["name"] == "box"
    assert len(atoll("node", "list", *config).json) == 3
    assert atoll("stat", "box", *config).out == "box\n"
    monkeypatch.setenv("ATOLL_OUTPUT", "name")
    assert atoll("ls", *config).out == "box\n"
    assert atoll("-o", "jsonl", "ls", *config).json["name"] == "box"
    assert atoll("-o", "jsonl", "ls", "-o", "name", *config).out == "box\n"
    monkeypatch.setenv("ATOLL_CONFIG", str(file))
    file.write_text("[ls]\nrecursiv = true\n")
    wrong = atoll("ls")
    assert wrong.code == 2 and "did you mean recursive" in wrong.err
    file.write_text("endpiont = 'x'\n")
    assert atoll("ls").code == 2
    file.write_text("[lss]\nrecursive = true\n")
    wrong = atoll("ls")
    assert wrong.code == 2 and "lss is no command; did you mean ls?" in wrong.err
    file.write_text("watch = true\nreplicas = 3\n")  # options of other commands
    assert atoll("ls").code == 0
    for text in ("not toml", "output = 'xml'"):
        file.write_text(text)
        assert atoll("ls", "--config", str(file)).code in (0, 2)
    assert atoll("ls", "--config", "missing.toml").code == 2


def test_options_ahead_of_the_command(
    atoll: Atoll, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: what every command shares works ahead of its name and behind it, or is refused; never ignored."""
    monkeypatch.setattr("peer.client.attempts.QUIET_PATIENCE_S", 0.0)
    started = started_peers(monkeypatch)
    atoll.use(cluster)
    nobody = ("--endpoint", "http://127.0.0.1:9")
    lines = "ls, status, health, node list, node show self, ring show, ring lookup box/k, cluster show"
    lines += ", mb abc, rb box, stat box/k, cat box/k, get box/k -, put - box/k, rm box/k, rm -r box/k"
    for line in lines.split(", "):
        words = line.split()
        wanted = 11 if words == ["health"] else 5
        assert atoll(*nobody, *words).code == atoll(*words, *nobody).code == wanted, line
        assert atoll("--profile", "nix", *words).code == atoll(*words, "--profile", "nix").code == 2, line
    peer = f"peer --found --data {atoll.home}/d"
    for line in (
        *["version", "completion bash", "profile list", "dev", "dev kill 1", "sim", "sim ring"],
        peer,
    ):
        ahead, behind = atoll(*nobody, *line.split()), atoll(*line.split(), *nobody)
        assert ahead.code == behind.code == 2, line
        assert "has no use for --endpoint" in ahead.err and "No such option" in behind.err, line
    for line in ("mb abc", "cat box/k", "completion bash"):
        assert "has no use for --output" in atoll("-o", "json", *line.split()).err
    assert atoll("--yes", "--no-input", "version").code == 0
    assert not started and not (atoll.home / "d").exists() and set(cluster.buckets) == {"box"}


def test_patience(atoll: Atoll, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: how long 503s are put up with can be said by flag and environment; what is no time is a usage error."""
    atoll.use(cluster)
    for peer in cluster.peers:
        peer.plan("busy-forever")

    def requests() -> list[tuple[str, str]]:
        return [seen for seen in cluster.seen if "/box/" in seen[1]]

    before = len(requests())
    assert atoll("--patience", "0", "ls", "box").code == 5
    once = len(requests()) - before
    assert once <= len(cluster.peers)
    assert atoll("ls", "box", "--patience", "0.5").code == 5
    assert len(requests()) - before > 2 * once
    monkeypatch.setenv("ATOLL_PATIENCE", "0")
    before = len(requests())
    assert atoll("ls", "box").code == 5
    assert len(requests()) - before <= len(cluster.peers)
    for text in ("-1", "3601", "long", "nan"):
        assert atoll("ls", "box", "--patience", text).code == 2, text


def test_cluster_views(atoll: Atoll, cluster: FakeCluster) -> None:
    """Goal: status, health, node, ring and cluster show what a peer says, in every form of -o."""
    atoll.use(cluster)
    assert "healthy: tolerates 1 failure now" in atoll("status").out
    assert atoll("status", "-o", "json").json["replicas"] == 3
    assert (atoll("health").code, atoll("health").out) == (0, "healthy\n")
    cluster.verdict = "degraded"
    degraded = atoll("health")
    assert degraded.code == 10 and degraded.out == "degraded\n" and "peer-2 is dead" in degraded.err
    assert "About 12 of 60 objects lack a copy." in degraded.err and "About 12 of 60" in atoll("status").out
    assert atoll("health", "-o", "json").json["redundancy"]["lacking"] == 12
    cluster.verdict = "unavailable"
    assert atoll("health", "-o", "json").code == 11
    assert atoll("node", "list", "-o", "name").lines == ["peer-1", "peer-2", "peer-3"]
    assert len(atoll("node", "list").lines) == 4
    assert "process.pid" in atoll("node", "show", "peer-2").out
    nobody = atoll("node", "show", "nobody")
    assert nobody.code == 3 and "atoll node list" in nobody.err
    told = atoll("node", "show", "peer-2").lines
    assert any(line.split() == ["share", "0.3333"] for line in told)
    assert any(line.split() == ["self", "no"] or line.split() == ["self", "yes"] for line in told)
    shown = atoll("ring", "show").out
    assert "peer-3" in shown and "33.3 %" in shown
    assert len(atoll("ring", "show", "--partitions", "-o", "jsonl").lines) == 8
    assert len(atoll("ring", "lookup", "box/k", "-o", "name").lines) == 3
    assert atoll("ring", "lookup", "box/k", "-o", "json").json["partition"] == 5
    history = atoll("ring", "history")
    assert history.lines[-1].split() == ["0.3", "3", "peer-1", "peer-2", "peer-3"]
    assert atoll("ring", "history", "-o", "name").lines == ["0.3"]
    assert "cluster_id" in atoll("cluster", "show").out
    assert len(atoll("cluster", "show", "-o", "json").json["nodes"]) == 3


def test_repair(atoll: Atoll, cluster: FakeCluster) -> None:
    """Goal: workers of all peers are shown and told; a peer that did not hear is named, and the exit code says so."""
    atoll.use(cluster)
    shown = atoll("repair", "status")
    assert shown.code == 0 and shown.lines[0] == "Every object has its 3 copies."
    assert sum("anti-entropy" in line for line in shown.lines) == 3 and "2.0 KiB" in shown.out
    assert atoll("repair", "status", "-o", "name").lines[0] == "peer-1/anti-entropy"
    paused = atoll("repair", "pause", "anti-entropy", "--node", "peer-2", "-o", "jsonl")
    assert (paused.code, len(paused.lines)) == (0, 1) and '"paused"' in paused.out
    assert atoll("repair", "resume").out.count("idle") == 3
    assert atoll("repair", "throttle", "anti-entropy", "50").out.count(" 50 ") == 3
    assert atoll("repair", "throttle", "anti-entropy", "-1").code == 2
    assert atoll("repair", "start", "nothing").code == 3
    cluster.peers[2].kill()
    partly = atoll("repair", "pause")
    assert partly.code == 7 and "peer-3: it did not answer" in partly.err


def test_profile_file_keeps_what_is_not_ours(atoll: Atoll) -> None:
    """Goal: comments, other profiles and unknown keys survive; what cannot be edited safely is left alone."""
    path = atoll.home / "config.toml"
    path.write_text(
        '# mine\nother = 1\n\n[profiles.keep]\nendpoints = ["http://k:1"] # why\n\n# of last\n[last]\nx = 1\n'
    )
    assert profiles.write_profile("dev", ["http://127.0.0.1:7401"], "a", 's"\\ü\x7f', True) is None
    assert profiles.write_profile("dev", ["http://127.0.0.1:7411"], "a", "s", True) == "dev"
    text = path.read_text()
    assert text.count("[profiles.dev]") == 1 and "# mine" in text and "# why" in text and "# of last" in text
    assert tomllib.loads(text)["default"] == "dev" and tomllib.loads(text)["last"] == {"x": 1}
    assert profiles.set_default("keep") and not profiles.set_default("dev", only_if="dev")
    assert profiles.set_default(None, only_if="keep")
    profiles.remove_profile("dev")
    assert set(tomllib.loads(path.read_text())["profiles"]) == {"keep"}
    with pytest.raises(NotFound):
        profiles.remove_profile("dev")
    path.write_text('profiles = {dev = {endpoints = ["http://x:1"]}}\n')
    with pytest.raises(Invalid, match="by hand"):
        profiles.write_profile("dev", ["http://127.0.0.1:7401"], "a", "s")
    assert "http://x:1" in path.read_text()
    with pytest.raises(Invalid):
        profiles.write_profile("a b", ["http://h:1"], None, None)
    assert not [name for name in os.listdir(atoll.home) if name.startswith(".config-")]


_NAMES = st.text("ab./\0-", min_size=1, max_size=8)


@settings(deadline=None, max_examples=150)
@given(st.lists(_NAMES, max_size=12, unique=True))
def test_keys_become_paths_or_are_refused(keys: list[str]) -> None:
    """Goal: a key is mapped to exactly the path of its parts or refused; no two mapped keys collide."""
    shadows, files = Shadows(), set()
    for key in sorted(keys, key=str.encode):
        try:
            parts = parts_of(key)
            shadows.check(key)
        except Unmappable:
            continue
        assert os.path.normpath(key) == "/".join(parts) and not key.startswith(("/", "../"))
        files.add(key)
    folders = {key[:i] for key in files for i, char in enumerate(key) if char == "/"}
    assert not files & folders
