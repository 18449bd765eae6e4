"""Image, compose files and systemd unit: no container engine and no systemd run here, so what can be held against the rest
of the project is: that they parse, name options that there are, and keep to what they promise."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from peer.config import DEFAULT_PORT, PeerConfig, parse_time
from tests.cluster_tools import wait_until
from tests.cluster_world import free_base
from tests.test_docs import every_option, parse
from tools.cli.exits import USAGE
from tools.cli.root import cli
from tools.devlayout import peer_environment

ROOT = Path(__file__).resolve().parent.parent
UNIT = ROOT / "deploy" / "systemd" / "atoll.service"
PEERS = ("peer-1", "peer-2", "peer-3")
DRAIN_S = PeerConfig(data=Path("anywhere")).drain_s
NO_SYSTEMD = "systemd-analyze is missing; it comes with: make test-deps"


@pytest.fixture(autouse=True)
def _no_options_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in peer_environment() if name.startswith("ATOLL_")]:
        monkeypatch.delenv(name, raising=False)


def compose(name: str = "compose.yaml") -> dict[str, Any]:
    told = yaml.safe_load((ROOT / name).read_text())
    assert isinstance(told, dict)
    return told


def printed_config(environment: dict[str, str], data: Path) -> dict[str, Any]:
    """What a peer would run with in this environment, by its own account."""
    told = {name: str(value) for name, value in environment.items()}
    ran = subprocess.run(
        [sys.executable, "-m", "tools.cli", "peer", "--data", str(data), "--print-config", "-o", "jsonl"],
        env=peer_environment() | told, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    rows = [json.loads(line) for line in ran.stdout.splitlines()]
    return {row["option"]: row["value"] for row in rows}


def is_option(variable: str) -> bool:
    return "--" + variable.removeprefix("ATOLL_").lower().replace("_", "-") in every_option()


# --- compose


def test_variables_are_options() -> None:
    """Goal: every ATOLL_ variable of both files is an option of some command, so that none is a mistake nobody notices."""
    for name in ("compose.yaml", "compose.dev.yaml"):
        for service in compose(name)["services"].values():
            for variable in service.get("environment", {}):
                assert is_option(variable), f"{name}: {variable}"


@pytest.mark.parametrize("name", PEERS)
def test_peers_take_their_options(name: str, tmp_path: Path) -> None:
    """Goal: with its environment, and that of compose.dev.yaml, each peer would join its cluster, under its own name, with
    TLS beyond loopback; and none is told to found."""
    service = compose()["services"][name]
    assert service["command"] == ["peer"] and service["hostname"] == name
    told = printed_config(service["environment"], tmp_path)
    assert (told["found"], told["name"], told["advertise"]) == (False, name, name)
    assert told["join"] == [f"{peer}:{DEFAULT_PORT + 2}" for peer in PEERS]
    assert (told["host"], told["tls"], told["insecure"]) == ("0.0.0.0", "auto", False)
    assert told["cluster_key_file"] == "/secrets/cluster.key"
    debugged = compose("compose.dev.yaml")["services"][name]["environment"]
    assert printed_config(service["environment"] | debugged, tmp_path)["log_level"] == "debug"


def test_only_the_job_founds() -> None:
    """Goal: the job that founds sees all peers' volumes, writes to the founder's and to that of the keys alone; peers read
    the keys, write to their own volume, and wait for the job and for nobody else."""
    told = compose()
    job = told["services"]["init"]
    words = [*job["command"], "--data", "/var/lib/atoll"]
    parse(words)
    assert words[0] == "init" and job["restart"] == "no"
    assert job["volumes"][:2] == ["secrets:/secrets", "peer-1:/var/lib/atoll"]
    others = {one["target"]: one for one in job["volumes"][2:]}
    given = [words[at + 1] for at, word in enumerate(words) if word == "--other"]
    assert given == list(others) and all(one["read_only"] for one in others.values())
    assert {one["source"] for one in others.values()} == set(PEERS[1:])
    assert set(told["volumes"]) == {"secrets", *PEERS} and set(told["services"]) == {"init", *PEERS}
    for name in PEERS:
        peer = told["services"][name]
        assert peer["volumes"] == [f"{name}:/var/lib/atoll", "secrets:/secrets:ro"]
        assert peer["depends_on"] == {"init": {"condition": "service_completed_successfully"}}
        assert peer["restart"] == "on-failure", "who was removed from the ring ends with 0, and stays out"
    founder = told["services"]["peer-1"]["environment"]
    assert job["environment"].items() <= founder.items(), "the founding epoch has the founder's address"


def test_containers_are_checked_and_confined() -> None:
    """Goal: health checks are commands that there are; there is time to stop; nothing is open to the world."""
    ports = []
    for name, service in compose()["services"].items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        if name in PEERS:
            check = service["healthcheck"]["test"]
            assert check[:2] == ["CMD", "atoll"] and "--ready" in check
            parse(check[2:])
            assert parse_time(service["stop_grace_period"]) > DRAIN_S + 10
            ports += service["ports"]
    assert len(set(ports)) == 6 and all(port.startswith("127.0.0.1:") for port in ports)
    assert {int(port.split(":")[2]) for port in ports} == {DEFAULT_PORT, DEFAULT_PORT + 1}


def test_the_override_overrides() -> None:
    """Goal: compose.dev.yaml changes services that compose.yaml has, and not what they are."""
    override = compose("compose.dev.yaml")["services"]
    assert override.keys() == compose()["services"].keys()
    assert all(service.keys() <= {"environment", "restart"} for service in override.values())


# --- image


def instructions() -> list[tuple[str, str]]:
    text = "\n".join(
        line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")
    )
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split()[0], " ".join(line.split()[1:])) for line in lines if line.strip()]


def values(name: str) -> list[str]:
    return [value for instruction, value in instructions() if instruction == name]


def test_the_image_is_built_of_what_is_there() -> None:
    """Goal: each source that is copied exists and reaches the builder, and all that the project installs is among them."""
    sources = {
        word.rstrip("/") for value in values("COPY") if "--from" not in value for word in value.split()[:-1]
    }
    assert all((ROOT / source).exists() for source in sources)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert sources == packages | {"pyproject.toml", project["project"]["readme"]}
    ignore = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] not in ("#", "")]
    assert ignore[0] == "*" and {line[1:] for line in ignore if line.startswith("!")} == sources
    for package in packages:  # data files too
        kept = [path.relative_to(ROOT) for path in (ROOT / package).rglob("*") if path.is_file()]
        dropped = [line for line in ignore[1:] if not line.startswith("!")]
        for path in kept:
            hidden = any(fnmatch.fnmatch(str(path), f"*{line.removeprefix('**')}*") for line in dropped)
            assert not hidden or "__pycache__" in path.parts, path


def test_the_image_runs_a_peer_as_somebody_without_rights() -> None:
    """Goal: commands and variables are the command line's; the user is a number, and not root; images are fixed."""
    assert (values("ENTRYPOINT"), values("CMD")) == (['["atoll"]'], ['["peer"]'])
    check = json.loads(values("HEALTHCHECK")[0].partition("CMD ")[2])
    assert check[:2] == ["atoll", "health"] and "--alive" in check
    parse(check[1:])
    variables = re.findall(r"(ATOLL_\w+)=", values("ENV")[0])
    assert variables and all(is_option(variable) for variable in variables)
    user, _, group = values("USER")[-1].partition(":")
    assert int(user) > 0 and int(group) > 0 and f"--uid {user} " in " ".join(values("RUN"))
    assert all(re.fullmatch(r"python:3\.\d+-slim-\w+( AS build)?", image) for image in values("FROM"))
    assert not values("ADD") and "--no-cache-dir" in " ".join(values("RUN"))
    ports = {int(port.split("/")[0]) for port in values("EXPOSE")[0].split()}
    assert ports == {DEFAULT_PORT, DEFAULT_PORT + 1, DEFAULT_PORT + 2}


def test_a_peer_is_a_good_first_process(tmp_path: Path) -> None:
    """Goal: as process 1 of a container, which gets no signal that it does not handle, it ends with 0 at SIGTERM."""
    port = free_base(1)
    name = ["unshare", "--pid", "--fork", "--kill-child"]
    if shutil.which("unshare") is None or subprocess.run([*name, "true"], capture_output=True).returncode:
        pytest.skip("no process namespaces here: that needs root, and unshare of util-linux")
    command = [sys.executable, "-m", "tools.cli", "peer", "--data", str(tmp_path / "data"), "--found"]
    with subprocess.Popen(
        [*name, *command, "--port", str(port), "--replicas", "1"],
        env=peer_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as outside:  # fmt: skip
        try:
            ready = ["health", "--ready", "--endpoint", f"http://127.0.0.1:{port + 1}"]
            ask = [sys.executable, "-m", "tools.cli", *ready]
            wait_until(
                lambda: subprocess.run(ask, env=peer_environment(), capture_output=True).returncode == 0,
                "ready",
            )
            (first,) = Path(f"/proc/{outside.pid}/task/{outside.pid}/children").read_text().split()
            status = Path(f"/proc/{first}/status").read_text()
            assert re.search(r"^NSpid:.*\t1$", status, re.MULTILINE), "it is process 1 there"
            subprocess.run(["kill", f"-{signal.SIGTERM.value}", first], check=True)
            assert outside.wait(60) == 0
        finally:
            outside.kill()


# --- systemd


def settings() -> dict[str, list[str]]:
    """The assignments of the unit, in order."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def test_the_unit_runs_a_peer() -> None:
    """Goal: its command is one that there is; it waits for the peer's word, gives it time to stop, and does not start it
    again where that does harm."""
    told = settings()
    (command,) = told["ExecStart"]
    words = shlex.split(command)
    assert words[0].endswith("/bin/atoll")
    parse(words[1:])
    (data,) = told["ReadWritePaths"]
    assert f"--data {data}" in command and told["RequiresMountsFor"] == [data]
    assert told["Type"] == ["notify"] and int(told["WatchdogSec"][0]) >= 30
    assert int(told["TimeoutStopSec"][0]) > DRAIN_S + 10
    assert told["Restart"] == ["on-failure"], "who was removed from the ring ends with 0, and stays out"
    assert {USAGE, 70} == {int(code) for code in told["RestartPreventExitStatus"][0].split()}


def test_systemd_knows_what_the_unit_says(tmp_path: Path) -> None:
    """Goal: systemd's own judges find nothing to object to, and hardly anything that a peer could do beside its work."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip(NO_SYSTEMD)
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/atoll/bin/atoll", sys.executable))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60
    )
    assert verified.returncode == 0 and not [
        line for line in verified.stderr.splitlines() if unit.name in line
    ]
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(unit)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert judged.returncode == 0, judged.stdout.splitlines()[-1]


def test_the_judge_of_commands_objects() -> None:
    """Goal: what these tests call a command is judged: `peer --frobnicate` is none."""
    with pytest.raises(click.UsageError):
        parse(["peer", "--frobnicate"])
    assert cli.get_command(click.Context(cli), "init") is not None and not is_option("ATOLL_FROBNICATE")
