"""GET /metrics of live peers: who may read it, that it says what happened, and that nobody can make it grow."""

from __future__ import annotations

import math
import re
import socket
from pathlib import Path
from urllib.parse import quote

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from peer.api.accounting import OPERATIONS
from peer.metrics.cluster import FLAGS, PARTITIONS, STATES, VERDICTS
from tests.cluster_world import ClusterWorld

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "monitoring.md"
LIBRARY = ("process_", "python_")
"""What prometheus_client tells of the process by itself."""
STATUS = re.compile(r"[1-5][0-9][0-9]")
MEMBER = re.compile(r"[0-9a-f]{16}")

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def families(cluster: ClusterWorld, peer: int = 0) -> list[Metric]:
    answer = cluster.call("GET", "/metrics", peer=peer)
    assert answer.status == 200, answer.body
    return list(text_string_to_metric_families(answer.body.decode()))


def series(cluster: ClusterWorld, peer: int = 0) -> Series:
    """Every sample by its name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families(cluster, peer)
        for sample in family.samples
    }


def number(found: Series, name: str, **labels: str) -> float:
    return found.get((name, frozenset(labels.items())), 0.0)


def test_metrics_need_the_key(cluster: ClusterWorld) -> None:
    """Goal: without credentials 401, with wrong ones 403, with the root key the page, in both of its formats."""
    assert cluster.call("GET", "/metrics", authorised=False).status == 401
    wrong = {"Authorization": "Bearer nobody:nothing"}
    assert cluster.call("GET", "/metrics", headers=wrong).status == 403
    plain = cluster.call("GET", "/metrics")
    assert plain.status == 200 and plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    modern = cluster.call(
        "GET", "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
    )
    assert modern.headers["content-type"].startswith("application/openmetrics-text")
    assert modern.body.endswith(b"# EOF\n")
    assert cluster.call("POST", "/metrics").status == 405
    assert cluster.call("GET", "/metrics?name=x").code == "InvalidArgument"


def test_metrics_may_be_public(tmp_path: Path) -> None:
    """Goal: with --metrics-public the page needs no credentials, and nothing else is opened by that; a restart keeps it."""
    with ClusterWorld(tmp_path, 1, options=["--metrics-public"]) as world:
        for _ in range(2):
            assert world.call("GET", "/metrics", authorised=False).status == 200
            for path in ("/v1/cluster", "/metrics/", "/metrics/x", "//metrics"):
                assert world.call("GET", path, authorised=False).status == 401
            assert world.stop(0) == 0
            world.forget_connections()
            world.start(0)
            world.wait_ready(0)


def test_names_follow_the_rules(cluster: ClusterWorld) -> None:
    """Goal: a prefix, base units, `_total` for what only grows, a text for each; no histogram or counter by a fraction of
    a unit."""
    for family in families(cluster):
        assert family.documentation, family.name
        if family.name.startswith(LIBRARY):
            continue
        assert re.fullmatch(r"atoll(_[a-z]+)+", family.name), family.name
        assert not re.search(r"_(ms|us|milliseconds|kib|mib|minutes|percent|count|sum)(_|$)", family.name)
        assert family.type in ("counter", "gauge", "histogram"), family.name
        if family.type == "histogram":
            assert family.name.endswith("_seconds")
        if family.type == "counter":
            assert all(sample.name.endswith("_total") for sample in family.samples)


def test_every_metric_is_documented(cluster: ClusterWorld) -> None:
    """Goal: docs/monitoring.md names what a peer tells, all of it, and nothing else."""
    told = set()
    for family in families(cluster):
        if not family.name.startswith(LIBRARY):
            told.add(family.name + ("_total" if family.type == "counter" else ""))
    named = set(re.findall(r"^\| `(atoll_[a-z_]+)", DOCUMENT.read_text(), re.MULTILINE))
    assert told == named


def test_requests_are_told(cluster: ClusterWorld, bucket: str) -> None:
    """Goal: what a client does is counted: by operation and status, with its bytes and its time."""
    path, body = f"/v1/buckets/{bucket}/objects/some", b"x" * 300_000
    before = series(cluster)
    assert cluster.call("PUT", path, body).status == 200
    assert cluster.call("GET", path).body == body
    assert cluster.call("HEAD", path).status == 200
    assert cluster.call("GET", path + "/none").status == 404
    assert cluster.call("DELETE", path).status == 204
    after = series(cluster)

    def grown(name: str, **labels: str) -> float:
        return number(after, name, **labels) - number(before, name, **labels)

    for operation, code in (
        ("put_object", "200"), ("get_object", "200"), ("get_object", "404"), ("head_object", "200"),
        ("delete_object", "204"),
    ):  # fmt: skip
        counted = grown("atoll_http_requests_total", api="api", operation=operation, code=code)
        assert counted == 1, (operation, code)
    assert grown("atoll_http_request_duration_seconds_count", api="api", operation="get_object") == 2
    assert grown("atoll_http_request_duration_seconds_sum", api="api", operation="put_object") > 0
    assert (
        grown("atoll_http_request_duration_seconds_bucket", api="api", operation="put_object", le="+Inf") == 1
    )
    assert len(body) <= grown("atoll_http_request_body_bytes_total", api="api") < len(body) + 100
    assert grown("atoll_http_response_body_bytes_total", api="api") > len(body)
    assert number(after, "atoll_http_requests_in_flight", api="api") >= 1, "the one for this page"
    assert grown("atoll_rows_commits_total") > 0 and grown("atoll_rpc_calls_total", kind="calls") > 0
    commits = grown("atoll_disk_operation_duration_seconds_count", disk="rows", operation="commit")
    assert commits > 0


def test_the_cluster_is_told(cluster: ClusterWorld) -> None:
    """Goal: members, partitions, verdict and workers are those of `status`, of every state, also of those nobody is in."""
    found = series(cluster, peer=1)
    members = {state: number(found, "atoll_gossip_members", state=state) for state in STATES}
    assert members == dict.fromkeys(STATES, 0.0) | {"alive": 3.0}
    partitions = {state: number(found, "atoll_ring_partitions", state=state) for state in PARTITIONS}
    overview = cluster.json_of("/v1/cluster", peer=1)
    assert sum(partitions.values()) == overview["partitions"]["total"]
    verdicts = [number(found, "atoll_cluster_verdict", verdict=verdict) for verdict in VERDICTS]
    assert sorted(verdicts) == [0.0, 0.0, 1.0]
    assert number(found, "atoll_ring_epoch_number") == overview["epoch"]["number"]
    workers = {one["worker"] for one in cluster.json_of("/v1/cluster/workers", peer=1)["workers"]}
    told = {dict(labels)["worker"] for name, labels in found if name == "atoll_worker_queue_items"}
    assert told == workers
    for name in ("process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"):
        assert number(found, name) > 0
    assert number(found, "atoll_disk_total_bytes") >= number(found, "atoll_disk_capacity_bytes") > 0


ODD_METHODS = ("GET", "PUT", "POST", "DELETE", "HEAD", "OPTIONS", "PATCH", "BREW")


def flood(cluster: ClusterWorld, bucket: str, word: str) -> None:
    """Requests of every kind whose paths, queries, methods, keys and headers carry this word."""
    for method in ODD_METHODS:
        for path in (
            f"/{word}", f"/v1/{word}", f"/v1/buckets/{word}-bucket", f"/v1/buckets/{bucket}/{word}",
            f"/v1/buckets/{bucket}/objects/{quote(word * 3)}", f"/v1/buckets/{bucket}/objects?prefix={word}",
            f"/v1/cluster/nodes/{word}", f"/v1/cluster/nodes/{word}/drain?plan=true", f"/v1/cluster/workers/{word}/start",
            f"/v1/cluster?{word}=1", f"/v1/cluster/nodes/self/{word}", f"/health?{word}=1", f"/metrics/{word}",
        ):  # fmt: skip
            cluster.call(method, path, headers={"X-Atoll-Meta-" + word: word, "x-request-id": word})
    place = cluster.place(0)
    for nonsense in (f"{word}\r\n\r\n", f"GET /{word} HTTP/9.9\r\n\r\n", f"GET / HTTP/1.1\r\n{word}\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", place.api_port), timeout=10) as raw:
            raw.sendall(nonsense.encode())
            assert raw.recv(4096).startswith(b"HTTP/1.")


def test_no_flood_adds_series(cluster: ClusterWorld, bucket: str) -> None:
    """Goal: odd paths, methods and keys add no series: after two floods of the same kinds of requests there are as many as
    after one, each label has a value out of a closed set, and no word of a client is anywhere."""
    flood(cluster, bucket, "quokka")
    cluster.call("GET", "/metrics", headers={"Accept": "quokka/1.0"})
    once = series(cluster)
    flood(cluster, bucket, "wombat")
    twice = series(cluster)
    passing = "atoll_cluster_conditions"  # what holds at the moment
    assert {one for one in twice if one[0] != passing} == {one for one in once if one[0] != passing}
    text = cluster.call("GET", "/metrics").body.decode()
    assert "quokka" not in text and "wombat" not in text and bucket not in text
    for name, labels in twice:
        told = dict(labels)
        assert told.get("operation", "other") in {*OPERATIONS, "commit", "fsync", "write"}
        assert STATUS.fullmatch(told.get("code", "200")) or name == passing
        assert told.get("flag", FLAGS[0]) in FLAGS
        if name != "atoll_peer_info":
            assert not any(MEMBER.search(value) for value in told.values()), (name, told)
    assert len(twice) < 1500


def test_numbers_are_numbers(cluster: ClusterWorld) -> None:
    """Goal: nothing is negative, and what is no number is only what has not happened yet."""
    for (name, _), value in series(cluster, peer=2).items():
        assert value >= 0 or (math.isnan(value) and name == "atoll_repair_compared_age_seconds"), name


@pytest.mark.parametrize("peer", [1, 2])
def test_who_it_is(cluster: ClusterWorld, peer: int) -> None:
    """Goal: a page says whose it is, once, so that other series need not."""
    about = [dict(labels) for name, labels in series(cluster, peer) if name == "atoll_peer_info"]
    nodes = cluster.json_of("/v1/cluster/nodes", peer=peer)["nodes"]
    me = next(node for node in nodes if node["self"])
    assert [(one["peer"], one["name"], one["zone"]) for one in about] == [(me["id"], me["name"], me["zone"])]
