"""Goal: real peers serve their clients over TLS: with certificates of their own, or with given ones that are replaced."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from peer.client import AsyncClient, Client, Invalid, NotFound, Unavailable
from peer.client.trust import UNTRUSTED, fetch_authority, trust
from tests.certificates import TestAuthority, key_pem, new_authority, new_key, put_pair
from tests.cluster_world import ClusterWorld
from tests.dev_world import until_now
from tests.test_cluster_upgrade import earlier_code
from tools.bench.blocking import LargeClient
from tools.bench.bodies import Bodies
from tools.bench.target import find_target
from tools.devlayout import peer_environment

BIG = os.urandom(10_000_000)
SMALL_CLUSTER = ("--partition-power", "8")


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterWorld]:
    with ClusterWorld(tmp_path_factory.mktemp("tls"), options=SMALL_CLUSTER, tls="auto") as world:
        with world.client() as client:
            client.create_bucket("box")
        yield world


def shown_by(world: ClusterWorld, peer: int = 0, port: int | None = None) -> dict[str, Any]:
    """The certificate a peer shows to a new connection."""
    tls = world.trust()
    assert tls is not None
    with (
        socket.create_connection(("127.0.0.1", port or world.place(peer).api_port), 30) as plain,
        tls.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        return dict(connection.getpeercert() or {})


# --- --tls auto


def test_all_peers_are_of_one_authority(secured: ClusterWorld) -> None:
    """Goal: each peer leaves the same DIR/ca.pem, serves both ports with it, under its names, and says https:// of all."""
    files = {(place.directory / "ca.pem").read_bytes() for place in secured.layout.places}
    assert len(files) == 1 and secured.call("GET", "/ca.pem", authorised=False).body in files
    for peer in range(3):
        for port in (secured.place(peer).port, secured.place(peer).api_port):
            names = {name for _, name in shown_by(secured, peer, port)["subjectAltName"]}
            assert {"localhost", "127.0.0.1", f"peer-{peer + 1}"} <= names
        nodes = secured.json_of("/v1/cluster/nodes", peer=peer)["nodes"]
        assert all(node["api_url"].startswith("https://") for node in nodes)
        assert all(node["s3_url"].startswith("https://") and node["flags"] == [] for node in nodes)
        own = secured.json_of("/v1/cluster/nodes/self", peer=peer)["tls"]
        assert own["mode"] == "auto" and own["problem"] == "" and own["expires_in_s"] > 29 * 86_400
        assert own["authority"] != own["fingerprint"] and own["connections"]["handshakes"] > 0
        page = secured.call("GET", "/metrics", peer=peer).body.decode()
        assert 'atoll_tls_connections_total{outcome="handshakes"}' in page
        assert "atoll_tls_certificate_unusable 0.0" in page
    key = secured.place(0).directory / "tls"
    assert not key.exists()  # the keys of certificates are never written


def test_objects_of_every_size(secured: ClusterWorld) -> None:
    """Goal: both clients store and fetch over TLS what they do without, and learn the other peers."""
    with secured.client(0) as client:
        for size in (0, 1, 70_000, 300_000, len(BIG)):
            client.put("box", f"k{size}", BIG[:size])
            assert client.get("box", f"k{size}").read() == BIG[:size]
        with pytest.raises(NotFound, match="does not exist"):
            client.put("no-box", "k", BIG)
        assert {node.api_url for node in client.cluster().nodes} == {secured.api_url(i) for i in range(3)}

    async def play() -> None:
        access, secret = secured.credentials
        async with AsyncClient(
            secured.api_url(1), access_key=access, secret_key=secret, tls=secured.trust()
        ) as client:
            await client.put("box", "async", BIG)
            assert await (await client.get("box", "async")).read() == BIG
            with pytest.raises(NotFound, match="does not exist"):
                await client.put("no-box", "k", b"x")
            async for event in client.events():
                if event.kind == "cluster":
                    assert len(event.data["nodes"]) == 3
                    break

    asyncio.run(play())


def test_clients_go_on_when_a_peer_dies(secured: ClusterWorld) -> None:
    """Goal: failover, pulse and restarts work over TLS; a frozen peer is found out by its silence."""
    secured.signal(2, signal.SIGSTOP)
    try:
        with secured.client(0, 1, 2) as client:
            for number in range(12):
                client.put("box", f"frozen-{number}", b"x" * 100_000)
    finally:
        secured.signal(2, signal.SIGCONT)
    with secured.client(0, 1, 2) as client:
        secured.kill(1)
        for number in range(12):
            client.put("box", f"dead-{number}", b"y")
            assert client.get("box", f"dead-{number}").read() == b"y"
    secured.start(1)
    secured.wait_ready(1)
    secured.wait_all_alive()


def test_stalled_readers_keep_no_buffers(secured: ClusterWorld) -> None:
    """Goal: what is sent over TLS stands in no buffer that others need: many readers that read nothing hinder nobody."""
    stalled = []
    for number in range(40):
        connection = secured.connection(number % 3, 30.0)
        connection.connect()
        headers = {"Authorization": secured.authorization}
        connection.request("GET", f"/v1/buckets/box/objects/k{len(BIG)}", headers=headers)
        assert connection.getresponse().status == 200
        stalled.append(connection)
    with secured.client() as client:
        for _ in range(6):
            assert client.get("box", f"k{len(BIG)}").read() == BIG
    for connection in stalled:
        connection.close()


def test_half_closed_and_cut_requests(secured: ClusterWorld) -> None:
    """Goal: a client that ends TLS, or just goes away, in the middle of a request leaves the peer as it was."""
    tls = secured.trust()
    assert tls is not None
    head = (
        f"PUT /v1/buckets/box/objects/cut HTTP/1.1\r\nHost: x\r\nAuthorization: {secured.authorization}\r\n"
        "Content-Length: 1000\r\n\r\n"
    )
    for orderly in (True, False):
        plain = socket.create_connection(("127.0.0.1", secured.place(0).api_port), 30)
        connection = tls.wrap_socket(plain, server_hostname="127.0.0.1")
        connection.sendall(head.encode() + b"x" * 100)
        if orderly:
            try:
                connection.unwrap()
            except (ssl.SSLError, OSError):
                pass  # the peer may end it first
        connection.close()
    assert secured.call("GET", "/v1/buckets/box/objects/cut").status == 404
    log = secured.place(0).log.read_text()
    assert "Traceback" not in log and "has no effect when using ssl" not in log


def test_who_is_not_trusted(secured: ClusterWorld, tmp_path: Path) -> None:
    """Goal: a wrong authority, a wrong name and the wrong scheme end quickly, with a sentence that says what helps."""
    (tmp_path / "other.pem").write_bytes(new_authority().pem)
    port = secured.place(0).api_port
    for url, ca_file, kind, says in (
        (
            f"https://127.0.0.1:{port}",
            tmp_path / "other.pem",
            Unavailable,
            "does not hold its authority.*ca.pem",
        ),
        (f"https://127.0.0.2:{port}", secured.ca_file, Unavailable, "127.0.0.2|no peer answers"),
        (f"http://127.0.0.1:{port}", secured.ca_file, Invalid, "https://"),
        (f"https://127.0.0.1:{secured.place(0).peer_port}", secured.ca_file, Unavailable, "."),
    ):
        tls = trust(str(ca_file))
        with pytest.raises(kind, match=says), Client(url, pin=True, tls=tls) as client:
            client.cluster()

        async def ask(url: str = url, tls: ssl.SSLContext = tls) -> None:
            async with AsyncClient(url, pin=True, tls=tls) as client:
                await client.cluster()

        with pytest.raises(kind, match=says):
            asyncio.run(ask())
    refused = secured.atoll("ls", "--ca-file", str(tmp_path / "other.pem"))
    assert refused.returncode == 5 and "--ca-file" in refused.stderr and "trying again" not in refused.stderr


def test_plain_http_and_curl(secured: ClusterWorld) -> None:
    """Goal: plain HTTP is answered in the API's own form; curl needs nothing but the file."""
    plain = http.client.HTTPConnection("127.0.0.1", secured.place(0).api_port, timeout=30)
    plain.request("PUT", "/v1/buckets/box/objects/k", body=b"x" * 200_000)
    answer = plain.getresponse()
    assert answer.status == 400 and answer.headers["x-request-id"]
    assert json.loads(answer.read())["error"]["code"] == "TlsRequired"
    plain.close()
    s3 = http.client.HTTPConnection("127.0.0.1", secured.place(0).port, timeout=30)
    s3.request("GET", "/")
    assert b"https://" in s3.getresponse().read()
    s3.close()
    if shutil.which("curl") is None:
        pytest.skip("curl is missing; make test-deps installs it")
    for host in ("127.0.0.1", "localhost"):
        url = f"https://{host}:{secured.place(0).api_port}/health"
        command = ["curl", "-sS", "--fail", "--cacert", str(secured.ca_file), url]
        assert json.loads(subprocess.run(command, capture_output=True, check=True).stdout) == {"status": "ok"}


def test_profile_by_fingerprint(
    secured: ClusterWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goal: the fingerprint that a peer logs is enough to fetch its authority, and nothing else passes for it; the profile
    then serves command line and programs."""
    monkeypatch.setenv("ATOLL_CONFIG_HOME", str(tmp_path))
    fingerprint = secured.json_of("/v1/cluster/nodes/self")["tls"]["authority"]
    assert fingerprint in secured.place(0).log.read_text()

    def atoll(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tools.cli", *words]
        environment = peer_environment() | {"ATOLL_CONFIG_HOME": str(tmp_path), "NO_COLOR": "1"}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    keys = ("--credentials-file", str(secured.layout.credentials_file), "--endpoint", secured.api_url())
    wrong = ("0" if fingerprint[0] != "0" else "1") + fingerprint[1:]
    refused = atoll("profile", "add", "it", *keys, "--ca-fingerprint", wrong)
    assert refused.returncode == 4 and fingerprint.replace(":", "").lower() in refused.stderr
    assert not (tmp_path / "config.toml").exists()
    assert atoll("profile", "add", "it", *keys, "--ca-fingerprint", "nonsense").returncode == 2
    assert atoll("profile", "add", "it", *keys, "--ca-fingerprint", fingerprint).returncode == 0
    assert atoll("ls", "-o", "name").stdout.split() == ["box"]
    assert atoll("status", "-o", "json").returncode == 0
    with Client.from_profile("it") as client:
        assert [bucket.name for bucket in client.buckets()] == ["box"]
    with pytest.raises(Invalid, match="https"):
        fetch_authority("http://127.0.0.1:1", fingerprint)
    (tmp_path / "empty").write_text("no certificate")
    bad = atoll("profile", "add", "other", *keys, "--ca-file", str(tmp_path / "empty"))
    assert bad.returncode == 2 and "no certificate in it" in bad.stderr
    monkeypatch.setenv("ATOLL_CA_FILE", str(tmp_path / "missing"))
    with pytest.raises(Invalid, match="missing cannot be used: No such file"):
        Client.from_profile("it")


def test_the_bench_measures_tls(secured: ClusterWorld) -> None:
    """Goal: both clients of the load generator, small and large, speak TLS and check what comes back."""

    async def story() -> tuple[int, LargeClient]:
        urls = [secured.api_url(0)]
        target = await find_target(urls, *secured.credentials, "bench-tls", pinned=False, tls=secured.trust())
        await target.make_bucket()
        large = LargeClient(target.peers[1].endpoint, target.heads, Bodies("seed", target.chunk_bytes), 60.0)
        return len(target.peers), large

    peers, large = asyncio.run(story())
    try:
        assert peers == 3
        assert large.put("big", 9_000_000) == "" == large.get("big", 9_000_000, verify=True)
    finally:
        large.close()


# --- some with and some without


def test_a_cluster_turns_tls_on_and_off(tmp_path: Path) -> None:
    """Goal: a cluster founded without TLS turns it on peer by peer while clients work: each says of each how it is met, and
    whoever came over TLS is never sent to one without. Back again works as well."""
    with ClusterWorld(tmp_path, options=SMALL_CLUSTER) as world:
        with world.client() as client:
            client.create_bucket("box")
        world.stop(0)
        world.start(0, "--tls", "auto")
        ca_file = world.place(0).directory / "ca.pem"
        until_now(ca_file.exists)
        world.be_secured(ca_file, {1, 2})
        world.wait_ready(0)
        world.wait_all_alive()
        for peer in range(3):
            urls = {node["api_url"] for node in world.json_of("/v1/cluster/nodes", peer=peer)["nodes"]}
            assert urls == {world.api_url(index) for index in range(3)}
        access, secret = world.credentials
        assert world.call("GET", "/ca.pem", peer=1).status == 404
        with Client(world.api_url(0), access_key=access, secret_key=secret, tls=world.trust()) as client:
            for number in range(6):
                client.put("box", f"k{number}", BIG[:100_000])
            assert client._core.book.urls() == [world.api_url(0)]
        plain = [f"http://127.0.0.1:{world.place(index).api_port}" for index in range(3)]
        with Client(plain, access_key=access, secret_key=secret) as client:  # goes round the first
            for number in range(6):
                assert client.get("box", f"k{number}").read() == BIG[:100_000]
        world.stop(0)
        world.start(0, "--tls", "off")
        world.be_secured(ca_file, {0, 1, 2})
        world.wait_ready(0)
        assert world.call("GET", "/v1/buckets/box/objects/k0").body == BIG[:100_000]
        world.restart(0)  # what it was told last is what it remembers
        assert world.call("GET", "/health").status == 200


def test_among_peers_of_an_earlier_version(tmp_path: Path) -> None:
    """Goal: peers that know nothing of TLS get on with one that has it, and pass on what it says of itself."""
    earlier = earlier_code(tmp_path / "earlier")
    with ClusterWorld(tmp_path / "peers", options=SMALL_CLUSTER, code=earlier) as world:
        with world.client() as client:
            client.create_bucket("box")
        for peer in (0, 1):
            world.stop(peer)
            world.code = None
            world.start(peer, *(("--tls", "auto") if peer == 0 else ()))
            if peer == 0:
                ca_file = world.place(0).directory / "ca.pem"
                until_now(ca_file.exists)
                world.be_secured(ca_file, {1, 2})
            world.wait_ready(peer)
        world.wait_all_alive()
        for peer in range(3):
            path = f"/v1/buckets/box/objects/from-{peer}"
            assert world.call("PUT", path, BIG[:300_000], peer=peer).status == 200
            for reader in range(3):
                assert world.call("GET", path, peer=reader).body == BIG[:300_000]
        nodes = world.json_of("/v1/cluster/nodes", peer=1)["nodes"]
        assert [node["api_url"] for node in nodes] == [world.api_url(index) for index in range(3)]


# --- given certificates


@pytest.fixture
def authority() -> TestAuthority:
    return new_authority()


@pytest.fixture
def given(tmp_path: Path, authority: TestAuthority) -> Iterator[ClusterWorld]:
    """One peer with a certificate in `tmp_path`."""
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    certificate, key = put_pair(tmp_path, authority.issue("127.0.0.1", "localhost"))
    with ClusterWorld(
        tmp_path / "peers", peers=1, replicas=1, options=SMALL_CLUSTER, ca_file=tmp_path / "ca.pem",
        environment={"ATOLL_TLS_CERT": str(certificate), "ATOLL_TLS_KEY": str(key)},
    ) as world:  # fmt: skip
        yield world


def warning_of(world: ClusterWorld) -> str:
    found = world.json_of("/v1/cluster")["warnings"]
    return " ".join(one["message"] for one in found if one["code"] == "tls_certificate")


def test_replaced_while_clients_work(given: ClusterWorld, tmp_path: Path, authority: TestAuthority) -> None:
    """Goal: new files are noticed, at once with SIGHUP; a stream that is under way goes on over them and ends well."""
    with given.client() as client:
        client.create_bucket("box")
        client.put("box", "big", BIG)
    first = shown_by(given)["serialNumber"]
    stream = given.connection(0, 60.0)
    stream.request("GET", "/v1/buckets/box/objects/big", headers={"Authorization": given.authorization})
    answer = stream.getresponse()
    received = answer.read(100_000)
    put_pair(tmp_path, authority.issue("127.0.0.1"))
    until_now(lambda: shown_by(given)["serialNumber"] != first)
    second = shown_by(given)["serialNumber"]
    put_pair(tmp_path, authority.issue("127.0.0.1", days=5))
    given.signal(0, signal.SIGHUP)
    until_now(lambda: shown_by(given)["serialNumber"] != second)
    assert received + answer.read() == BIG
    stream.close()
    assert "expires on" in warning_of(given)
    assert given.json_of("/v1/cluster")["verdict"] == "healthy"
    node = given.json_of("/v1/cluster/nodes/self")
    assert (node["tls"]["mode"], node["tls"]["authority"]) == ("files", None)


def test_bad_files_change_nothing(given: ClusterWorld, tmp_path: Path, authority: TestAuthority) -> None:
    """Goal: a mismatched pair leaves the running peer as it was and is told; a start with it ends with a sentence."""
    first = shown_by(given)["serialNumber"]
    (tmp_path / "key.pem").write_bytes(key_pem(new_key()))
    until_now(lambda: "another certificate" in warning_of(given))
    given.signal(0, signal.SIGHUP)
    assert shown_by(given)["serialNumber"] == first
    assert given.stop(0) == 0
    kept = (given.place(0).directory / "peer.json").read_bytes()
    new = tmp_path / "new"
    environment = peer_environment()
    for words in (
        ["--data", str(given.place(0).directory)],
        ["--data", str(new), "--found", "--port", str(given.place(0).port)],
    ):
        command = [sys.executable, "-m", "tools.cli", "peer", *words]
        command += ["--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem")]
        refused = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert refused.returncode == 1
        assert refused.stderr.strip().splitlines()[-1].startswith("atoll: TLS: the key belongs to another")
    assert not new.exists() and (given.place(0).directory / "peer.json").read_bytes() == kept
    put_pair(tmp_path, authority.issue("127.0.0.1", days=-1, since_days=30))
    given.start(0)  # an expired one is no reason to leave the others alone
    until_now(lambda: "certificate" in given.place(0).log.read_text())
    with pytest.raises(Unavailable, match="has expired") as refused_client:
        until_now(lambda: given.running(0) and _listens(given))
        with given.client() as client:
            client.cluster()
    assert refused_client.value.code == UNTRUSTED


def _listens(world: ClusterWorld) -> bool:
    try:
        socket.create_connection(("127.0.0.1", world.place(0).api_port), 5).close()
    except OSError:
        return False
    return True


def test_names_of_a_given_certificate(given: ClusterWorld, tmp_path: Path, authority: TestAuthority) -> None:
    """Goal: a certificate for another name is refused, with the names in question."""
    put_pair(tmp_path, authority.issue("elsewhere.example.org"))
    before = given.json_of("/v1/cluster/nodes/self")["tls"]["fingerprint"]
    given.signal(0, signal.SIGHUP)

    def replaced() -> bool:
        answer = given.call("GET", "/v1/cluster/nodes/self")  # over a connection that is kept
        return bool(answer.json["tls"]["fingerprint"] != before)

    until_now(replaced)
    with (
        pytest.raises(Unavailable, match="for other names") as refused,
        Client(given.api_url(), pin=True, tls=given.trust()) as client,
    ):
        client.cluster()
    assert refused.value.code == UNTRUSTED
