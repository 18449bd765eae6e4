"""The dashboard, the alerts and the example of a configuration fit what a live peer tells, and the pages they point to."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from peer.api.accounting import OPERATIONS
from peer.metrics.cluster import FLAGS, PARTITIONS, STATES, VERDICTS
from peer.metrics.healing import HINTS
from tests.cluster_world import ClusterWorld
from tests.test_docs import anchors

ROOT = Path(__file__).resolve().parent.parent
DASHBOARD = ROOT / "deploy" / "grafana" / "atoll.json"
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yaml"
EXAMPLE = ROOT / "deploy" / "prometheus" / "prometheus.yaml"

WIDTH = 24
SELECTOR = re.compile(r"\b((?:atoll|process)_[a-z_]+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'([a-z_]+)(=~|!=|!~|=)"([^"]*)"')
OUTSIDE = {"job", "instance"}
"""Labels that Prometheus itself gives."""
VALUES: dict[tuple[str, str], tuple[str, ...]] = {
    ("atoll_gossip_members", "state"): STATES,
    ("atoll_ring_partitions", "state"): PARTITIONS,
    ("atoll_cluster_verdict", "verdict"): VERDICTS,
    ("atoll_peer_flag", "flag"): FLAGS,
    ("atoll_hints_total", "event"): HINTS,
    ("atoll_http_requests_total", "operation"): tuple(OPERATIONS),
    ("atoll_http_request_duration_seconds_bucket", "operation"): tuple(OPERATIONS),
}
"""What labels may be, where an expression that names another value would never hold."""
LABELS = {
    "atoll_cluster_conditions": {"kind", "code"},
    "atoll_http_requests_total": {"api", "operation", "code"},
}
"""Of families that may be without a sample."""


@pytest.fixture(scope="module")
def told(cluster: ClusterWorld) -> dict[str, set[str]]:
    """Every name of a sample that a live peer may tell, and the labels of its samples."""
    answer = cluster.call("GET", "/metrics")
    assert answer.status == 200
    found: dict[str, set[str]] = {name: set(labels) for name, labels in LABELS.items()}
    for family in text_string_to_metric_families(answer.body.decode()):
        names = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        for suffix in names:
            found.setdefault(family.name + suffix, set())
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load(ALERTS.read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return list(json.loads(DASHBOARD.read_text())["panels"])


def expressions() -> Iterator[tuple[str, str]]:
    """(where it stands, expression) of all rules and panels."""
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    dashboard = json.loads(DASHBOARD.read_text())
    for variable in dashboard["templating"]["list"]:
        yield variable["name"], variable["query"]
    for annotation in dashboard["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]


def test_what_they_name_exists(told: dict[str, set[str]]) -> None:
    """Goal: every metric that an alert or a panel reads is told by a live peer, with the labels it is chosen by, and with
    values that these labels have."""
    seen = set()
    for where, expression in expressions():
        for name, matchers in SELECTOR.findall(expression):
            assert name in told, f"{where}: no peer tells {name}"
            seen.add(name)
            for label, operator, value in MATCHER.findall(matchers):
                assert label in told[name] | OUTSIDE, f"{where}: {name} has no label {label}"
                known = VALUES.get((name, label))
                if known is not None:
                    matches = [one for one in known if re.fullmatch(value, one)]
                    assert matches, f"{where}: {label} of {name} is never {operator} {value}"
    assert len(seen) > 40


def test_what_is_added_up_has_the_labels(told: dict[str, set[str]]) -> None:
    """Goal: what samples are grouped by is a label of theirs."""
    for where, expression in expressions():
        labels = set().union(*(told[name] for name, _ in SELECTOR.findall(expression)), OUTSIDE)
        for names in re.findall(r"\b(?:by|on) \(([a-z_, ]*)\)", expression):
            assert set(names.split(", ")) <= labels, f"{where}: {names}"
    for panel in panels():
        for target in panel.get("targets", ()):
            shown = set(re.findall(r"{{([a-z_]+)}}", target["legendFormat"]))
            names = [name for name, _ in SELECTOR.findall(target["expr"])]
            assert shown <= set().union(*(told[name] for name in names), OUTSIDE), panel["title"]


def test_alerts_say_what_to_do() -> None:
    """Goal: each alert has a severity, words for people, and a section of a document that exists."""
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names)) > 20
    for rule in rules():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}, rule
        assert re.fullmatch(r"Atoll[A-Z][A-Za-z]+", rule["alert"])
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert re.fullmatch(r"\d+[smhd]", rule.get("for", "0s"))
        notes = rule["annotations"]
        assert set(notes) == {"summary", "description", "runbook"} and all(notes.values())
        path, _, fragment = notes["runbook"].partition("#")
        assert fragment in anchors(ROOT / path), f"{rule['alert']}: {notes['runbook']}"


def test_alerts_are_documented() -> None:
    """Goal: monitoring.md has each alert in its table, with its severity and its section."""
    text = (ROOT / "docs" / "monitoring.md").read_text()
    told = re.findall(r"^\| `(Atoll\w+)` \| (\w+) \|.*\]\(([a-z.#-]+)\) \|$", text, re.MULTILINE)
    known = [
        (rule["alert"], rule["labels"]["severity"], rule["annotations"]["runbook"].removeprefix("docs/"))
        for rule in rules()
    ]
    assert told == known


def test_the_dashboard_is_sane() -> None:
    """Goal: valid JSON in Grafana's form: ids once, panels within the page and beside each other, each with a source, a unit
    and questions."""
    dashboard = json.loads(DASHBOARD.read_text())
    assert dashboard["uid"] == "atoll" and dashboard["schemaVersion"] >= 36
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert variables == {"datasource", "job", "instance"}
    found = panels()
    assert len({panel["id"] for panel in found}) == len(found)
    taken: set[tuple[int, int]] = set()
    for panel in found:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken and all(0 <= x < WIDTH for x, _ in cells), panel["title"]
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["type"] in ("timeseries", "stat") and panel["targets"] and panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["fieldConfig"]["defaults"]["unit"]
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters)
        for target in panel["targets"]:
            assert set(re.findall(r"\$([a-z_]+)", target["expr"])) <= {*variables, "__rate_interval"}
            assert target["expr"].count("(") == target["expr"].count(")")
    titles = [panel["title"] for panel in found if panel["type"] != "row"]
    assert len(titles) > 30


def test_the_example_fits() -> None:
    """Goal: the example scrapes what is served, with the key as it is taken, and reads the rules beside it."""
    example = yaml.safe_load(EXAMPLE.read_text())
    (job,) = example["scrape_configs"]
    assert job["metrics_path"] == "/metrics" and job["authorization"]["type"] == "Bearer"
    assert all((EXAMPLE.parent / name).is_file() for name in example["rule_files"])
    named = {value for _, expression in expressions() for value in re.findall(r'job="(\w+)"', expression)}
    assert named <= {job["job_name"]}


def test_prometheus_takes_them(tmp_path: Path) -> None:
    """Goal: Prometheus' own checker finds nothing wrong with the rules and the example."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not here; `apt-get install prometheus` brings it")
    for file in (ALERTS, EXAMPLE):
        shutil.copy(file, tmp_path / file.name)
    (tmp_path / "atoll.key").write_text("ACCESS:SECRET\n")
    done = subprocess.run(
        [promtool, "check", "config", EXAMPLE.name], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
