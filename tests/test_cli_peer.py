"""Goal: `atoll peer` decides its options as docs/operate.md says, and refuses what makes no sense before it starts."""

from __future__ import annotations

import errno
import json
import re
import socket
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import pytest

from gossip.record import Record
from peer.api.context import Limits
from peer.config import LIMITS, PeerConfig, parse_address, parse_size
from peer.errors import Invalid, StartupError
from peer.startup import try_ports
from ring.members import Member
from tests.cli_runner import Atoll, started_peers
from tools.cli import peer_command
from tools.devlayout import free_port


@pytest.fixture
def atoll(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Atoll:
    return Atoll(tmp_path, monkeypatch)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[PeerConfig]:
    """What `atoll peer` would have run."""
    return started_peers(monkeypatch)


def config_of(atoll: Atoll, *arguments: str) -> dict[str, tuple[Any, str]]:
    ran = atoll("peer", "--print-config", "-o", "json", *arguments)
    assert ran.code == 0, ran.err
    return {row["option"]: (row["value"], row["source"]) for row in ran.json}


def test_peer_options(atoll: Atoll, monkeypatch: pytest.MonkeyPatch, started: list[PeerConfig]) -> None:
    """Goal: every option of `atoll peer` reaches the PeerConfig, from flag, environment or file, and says so."""
    data = ("--data", str(atoll.home / "d"))
    file = atoll.home / "peer.toml"
    file.write_text(
        '[peer]\njoin = ["a:1", "[::1]:2"]\ncapacity = "500GB"\nreplicas = 5\nmetrics-public = true\n'
    )
    monkeypatch.setenv("ATOLL_ZONE", "z1")
    monkeypatch.setenv("ATOLL_REPLICAS", "4")
    told = config_of(atoll, *data, "--config", str(file), "--port", "7500", "--api-port", "9", "--name", "n")
    assert told["join"] == (["a:1", "[::1]:2"], f"file {file}")
    assert told["zone"] == ("z1", "environment ATOLL_ZONE")
    assert told["replicas"] == (4, "environment ATOLL_REPLICAS")
    assert told["capacity_bytes"][0] == 500 * 10**9 and told["metrics_public"][0] is True
    assert [told[name][0] for name in ("s3_port", "api_port", "peer_port")] == [7500, 9, 7502]
    assert told["name"] == ("n", "flag") and told["host"] == ("127.0.0.1", "default")
    secret = atoll.home / "secret"
    secret.write_text("hush hush\n")
    monkeypatch.setenv("ATOLL_ROOT_ACCESS_KEY", "ROOT")
    monkeypatch.setenv("ATOLL_ROOT_SECRET_KEY_FILE", str(secret))
    assert "hush" not in atoll("peer", "--print-config", *data).out
    assert atoll("peer", *data, "--found", "--chunk-size", "1MiB").code == 0
    config = started[0]
    assert (config.root_access_key, config.root_secret_key) == ("ROOT", "hush hush")
    assert config.found and config.chunk_bytes == 2**20 and "hush" not in repr(config)
    (atoll.home / "k").write_text("00" * 32)
    key = ("--cluster-key-file", str(atoll.home / "k"))
    assert atoll("peer", *data, "--join", "h1:7402", "h2:7402", "--join", "h3:1,h4:2", *key).code == 0
    assert started[1].join == (("h1", 7402), ("h3", 1), ("h4", 2), ("h2", 7402))
    assert atoll("peer", *data, "--join", "h1:7402", "--replace", "peer-2", *key).code == 0
    assert started[2].replace == "peer-2" and "replace" not in started[2].to_json()


def test_the_limits_of_the_api(
    atoll: Atoll, monkeypatch: pytest.MonkeyPatch, started: list[PeerConfig]
) -> None:
    """Goal: each limit is an option with its unit and bounds, from flag, environment, file directory; the API gets it."""
    data = atoll.home / "d"
    defaults = {name: config_of(atoll, "--data", str(data))[name] for name in LIMITS}
    assert defaults == {name: (value, "default") for name, value in asdict(Limits()).items()}
    file = atoll.home / "peer.toml"
    file.write_text('[peer]\nidle-body = 90.5\njson-limit = "64KiB"\n')
    monkeypatch.setenv("ATOLL_DRAIN", "2m")
    line = (
        "--config",
        str(file),
        "--idle-connection",
        "500ms",
        "--idle-connection",
        "1h",
        "--form-fields",
        "7",
    )
    assert atoll("peer", "--data", str(data), "--found", *line, "--idle-body-pressed", "1500ms").code == 0
    wanted = Limits(90.5, 1.5, 3600.0, 120.0, 65536, 7)
    assert Limits(**started[0].limits) == wanted
    monkeypatch.delenv("ATOLL_DRAIN")
    data.mkdir()
    (data / "peer.json").write_text(json.dumps(started[0].to_json()))
    assert atoll("peer", "--data", str(data), "--idle-body", "2").code == 0
    assert Limits(**started[1].limits) == replace(wanted, idle_body_s=2.0)
    for option, values in {
        "--idle-body": ("0", "0.9s", "2h", "-1", "nan", "inf", "1d", "", "5 s s"),
        "--idle-body-pressed": ("99ms", "3601", "soon"),
        "--idle-connection": ("0", "61m"),
        "--drain": ("601", "1e2", "-0.1s"),
        "--json-limit": ("1023", "17MiB", "-1", "1XB"),
        "--form-fields": ("0", "100001", "1.5", "x"),
    }.items():
        for value in values:
            refused = atoll("peer", "--data", str(data), option, value)
            assert refused.code == 2 and option in refused.err, (option, value, refused.err)
    assert len(started) == 2


def test_help_stands_in_sections(atoll: Atoll) -> None:
    """Goal: the options of `atoll peer` are told in groups, each once."""
    told = atoll("peer", "--help").out
    titles = [
        "Options:",
        "This peer in the ring:",
        "Founding only:",
        "Protection:",
        "Limits of the API",
        "Other options:",
    ]
    places = [told.index(title) for title in titles]
    assert places == sorted(places)
    command = peer_command.peer
    for param in command.params:
        if isinstance(param, click.Option):
            assert len(re.findall(rf"^  (?:-\w, )?{param.opts[-1]}\s", told, re.MULTILINE)) == 1, param.opts


def test_peer_restarts_on_its_directory(atoll: Atoll, started: list[PeerConfig]) -> None:
    """Goal: an empty directory never founds by itself; one that ran before needs no other option."""
    data = atoll.home / "d"
    empty = atoll("peer", "--data", str(data))
    assert empty.code == 2 and "--found" in empty.err and "--join" in empty.err and not started
    assert not data.exists()
    first = PeerConfig(
        data=data, found=True, s3_port=9000, name="n", root_access_key="a", root_secret_key="s"
    )
    data.mkdir()
    (data / "peer.json").write_text(json.dumps(first.to_json() | {"pid": 1, "id": "0" * 16}))
    assert atoll("peer", "--data", str(data), "--zone", "z").code == 0
    assert (started[0].s3_port, started[0].name, started[0].zone, started[0].found) == (9000, "n", "z", False)
    assert "secret" not in (data / "peer.json").read_text()
    told = config_of(atoll, "--data", str(data), "--port", "9100")
    assert told["s3_port"][0] == 9100 and told["name"] == ("n", str(data / "peer.json"))
    damages = ("[" * 20_000, '"text"', "\udcff", '{"s3_port": "x"}', '{"s3_port": true}', '{"host": 7}',
               '{"insecure": 1}', '{"drain_s": "2"}', '{"capacity_bytes": "a"}', '{"tls_cert": []}',
               '{"name": "\\ud800"}', '{"s3_port": 99999}', '{"log_level": "x"}', '{"host": "a b"}',
               '{"capacity_bytes": -3}',
               '{"tls_cert": "/c"}', '{"idle_body_s": 1e999}', '{"s3_port": 7401}')  # fmt: skip
    for damage in damages:
        (data / "peer.json").write_bytes(damage.encode("utf-8", "surrogateescape"))
        refused = atoll("peer", "--data", data)
        assert refused.code == 1 and "peer.json is damaged" in refused.err and "remove it" in refused.err, (
            damage
        )
    (data / "peer.json").write_text("{")
    assert atoll("peer", "--data", str(data)).code == 1


def test_peer_options_that_make_no_sense(atoll: Atoll, started: list[PeerConfig]) -> None:
    """Goal: contradictions exit 2 with a remedy, before anything is touched."""
    for line in (
        "--found --join a:1",
        "--found --host 0.0.0.0",
        "--found --host :: --advertise 0.0.0.0",
        "--found --s3-port 7 --api-port 7",
        "--found --replicas 0",
        "--found --partition-power 20",
        "--found --chunk-size 5MiB",
        "--found --capacity lots",
        "--found --tls-cert x",
        "--found --tls auto --tls-cert x --tls-key y",
        "--found --root-access-key x",
        "--join nowhere",
        "--join ::1:7402",
        "--found a:1",
        "--found --replace peer-2",
        "--found --evict-after never",
        "--found --evict-after -1",
        "--found --port 70000",
    ):
        refused = atoll("peer", "--data", str(atoll.home / "d"), *line.split())
        assert refused.code == 2 and refused.err, line
    assert atoll("peer", "--found").code == 2
    for line in (("peer", "--found"), ("dev", "--plain"), ("dev", "kill", "1")):
        nowhere = atoll(*line, "--data", "")
        assert nowhere.code == 2 and "directory is empty" in nowhere.err, line
    key = ("--cluster-key-file", str(atoll.home / "no.key"))
    for words, says in (
        (("--join", "h:1"), "--cluster-key-file F"),
        (("--join", "h:1", *key), "no.key does not exist"),
        (("--join", ""), "--join is empty"),
        (("--join", "h" * 254 + ":1"), "HOST:PEERPORT"),
        *((("--join", f"h{port}"), "HOST:PEERPORT") for port in ("", ":", ":0", ":70000", ":x", ":-1")),
        (("--found", "--name", ""), "--name is empty"),
        (("--found", "--name", "n" * 65), "--name has 65 bytes"),
        (("--found", "--name", "ü" * 33), "--name has 66 bytes"),
        *((("--found", "--name", name), "printable") for name in ("a\nb", "a\x1b[2J", " ", "a ", "\x7f")),
        (("--found", "--name", "bad\udcff"), "not valid UTF-8"),
        (("--found", "--zone", ""), "--zone is empty"),
        (("--found", "--zone", "z" * 256), "--zone has 256 bytes"),
        (("--found", "--zone", "a\tb"), "printable"),
        (("--found", "--capacity", "9224PB"), "--capacity 9224"),
        (("--found", "--capacity", "9" * 5000), "give bytes"),
        *((("--found", "--capacity", size), "--capacity") for size in ("0", "-1", "-5GB", "0.5", "nan")),
        *((("--found", "--chunk-size", size), "--chunk-size") for size in ("0", "1", "1TiB", "x", "65537")),
        *((("--found", "--replicas", count), "--replicas") for count in ("-1", "17", "x")),
        *((("--found", "--partition-power", power), "--partition-power") for power in ("7", "17", "x")),
        *((("--found", "--host", host), "--host") for host in ("", "a b", "*", "999.1.1.1", "[::1]", "h:1")),
        (("--found", "--host", "::"), "--advertise HOST"),
        (("--found", "--host", "0.0.0.0", "--advertise", ""), "--advertise is empty"),
        *((("--found", "--advertise", host), "--advertise") for host in ("x/y", ":::", "127.0.0.1:99", "::")),
        *((("--found", "--port", port), "65533") for port in ("65534", "65535")),
        *((("--found", "--port", port), "--port") for port in ("0", "-1", "65536", "x")),
    ):
        refused = atoll("peer", "--data", str(atoll.home / "d"), *words)
        assert refused.code == 2 and says in refused.err, (words, refused.err)
    assert not started and not (atoll.home / "d").exists()


def test_the_longest_labels_fit_where_they_travel() -> None:
    """Goal: whatever name, zone, host, capacity and ports are accepted, gossip and the ring can carry."""
    config = PeerConfig(
        data=Path("d"),
        name="ü" * 32,
        zone="z" * 255,
        advertise=".".join(["h" * 49] * 5) + ".abc",
        capacity_bytes=2**63 - 1,
        s3_port=65533,
        api_port=65534,
        peer_port=65535,
    )
    assert len(config.advertise) == 253
    ports = {"peer_port": config.peer_port, "s3_port": config.s3_port, "api_port": config.api_port}
    record = Record(
        "0" * 16, config.name, config.advertise, **ports, boot=1, incarnation=0, version="1", format_level=1
    )
    assert record.name == config.name
    member = Member(
        "0" * 16, config.name, config.advertise, **ports, zone=config.zone, weight=config.capacity_bytes or 0
    )
    assert member.zone == config.zone
    with pytest.raises(Invalid):
        PeerConfig(data=Path("d"), advertise="h" + config.advertise)


def test_sizes_and_addresses() -> None:
    """Goal: sizes and addresses mean what people mean by them."""
    sizes = {"500GB": 5 * 10**11, "4MiB": 2**22, "1.5T": 15 * 10**11, "7": 7, "2 KiB": 2048, 9: 9}
    assert {text: parse_size(text) for text in sizes} == sizes
    for bad in ("", "-1", "1.2.3G", "5 XB", "GB", "1e9", "1I"):
        with pytest.raises(Invalid):
            parse_size(bad)
    assert parse_address("[::1]:7402") == ("::1", 7402) and parse_address("h:1") == ("h", 1)


TAKEN = {"S3": (0, socket.SOCK_STREAM), "API": (1, socket.SOCK_STREAM), "peers": (2, socket.SOCK_STREAM)}
TAKEN |= {"gossip over UDP": (2, socket.SOCK_DGRAM)}


@pytest.mark.parametrize("use", list(TAKEN))
def test_a_port_in_use_is_named_with_the_option_that_changes_it(use: str, tmp_path: Path) -> None:
    """Goal: each of the four, UDP alone included: --port where the ports follow from it, else the one of its own."""
    step, kind = TAKEN[use]
    base = free_port(1)
    option = ("--s3-port", "--api-port", "--peer-port")[step]
    with socket.socket(socket.AF_INET, kind) as holder:
        if kind is socket.SOCK_STREAM:
            holder.setsockopt(
                socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
            )  # as free_port does: TIME_WAIT may linger
        holder.bind(("127.0.0.1", base + step))
        if kind is socket.SOCK_STREAM:
            holder.listen()
        ports = {"s3_port": base, "api_port": base + 1, "peer_port": base + 2}
        said = f"port {base + step} on 127.0.0.1 cannot be used for {use} "
        with pytest.raises(StartupError, match=r"with --port$") as derived:
            try_ports(PeerConfig(data=tmp_path / "d", **ports))
        assert str(derived.value).startswith(said)
        elsewhere = "s3_port" if step else "api_port"
        with pytest.raises(StartupError, match=f"with {option}$"):
            try_ports(PeerConfig(data=tmp_path / "d", **ports | {elsewhere: base + 5}))
    try_ports(PeerConfig(data=tmp_path / "d", **ports))
    assert not (tmp_path / "d").exists()


def test_a_host_that_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a host nobody knows, an address of another machine and a port for root only are told apart."""
    for host, says in (
        ("nobody.invalid", "--host nobody.invalid: "),
        ("192.0.2.1", "no address of this machine"),
    ):
        with pytest.raises(StartupError, match=says):
            try_ports(PeerConfig(data=tmp_path / "d", host=host))

    def refuse(self: socket.socket, address: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("socket.socket.bind", refuse)
    with pytest.raises(StartupError, match="below 1024 need privileges"):
        try_ports(PeerConfig(data=tmp_path / "d", s3_port=80))
