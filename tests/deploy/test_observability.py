"""The dashboard and the alerts look at metrics that exist, and the alerts fire when they should, and only then."""

import json
import subprocess
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.support.prometheus import OBSERVABILITY, alert_queries, dashboard_queries, metric_names, tool
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc
from tests.conftest import ready, start_server, stop

DASHBOARD = json.loads((OBSERVABILITY / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ALERTS = [
    rule for group in yaml.safe_load((OBSERVABILITY / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
]
QUERIES = [*dashboard_queries("1m"), *alert_queries()]


@pytest.fixture(scope="module")
def served(bundles: Path) -> set[str]:
    """Names of the metrics of a server that has served a text, gone on with it and refused one."""
    flags = ("--max-rows", "1", "--max-waiting", "0", "--metrics-port", "0", "--engines", "1")
    process = start_server(bundles, *flags)
    try:
        with grpc.insecure_channel(ready(process).address) as channel:
            stub = pb_grpc.TextGenerationStub(channel)
            *_, last = stub.Generate(pb.GenerateRequest(prompt="abc", max_chars=20, return_token=True))
            list(stub.Generate(pb.GenerateRequest(resume_token=last.finish.resume_token, max_chars=20)))
            held = stub.Generate(pb.GenerateRequest(max_chars=100_000))
            next(held)
            with pytest.raises(grpc.RpcError, match="max-waiting"):
                list(stub.Generate(pb.GenerateRequest()))
            held.cancel()
        port = process.wait_for(r"metrics on \S+:(\d+)")[1]
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
            text = answer.read().decode()
    finally:
        stop(process)
    return {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}


def test_metrics_are_found_in_queries() -> None:
    query = 'sum by (le, f) (rate(a_bucket{b=~"c"}[5m] offset 1m)) / on (d) group_left () e:f > 1e3 or up'
    assert metric_names(query) == {"a_bucket", "e:f", "up"}


@pytest.mark.parametrize(("where", "query"), QUERIES)
def test_what_is_asked_for_is_there(served: set[str], where: str, query: str) -> None:
    names = metric_names(query)
    assert names or query.isdecimal(), where
    assert names - served - {"up"} == set(), where  # Prometheus makes `up`


def test_panels_say_what_they_show() -> None:
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert [one["type"] for one in DASHBOARD["templating"]["list"] if one["name"] == "datasource"] == ["datasource"]
    for panel in PANELS:
        name = panel["title"]
        assert panel["description"], name
        assert panel["fieldConfig"]["defaults"]["unit"], name
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources), name
        if panel["type"] == "timeseries":
            assert all(target["legendFormat"] for target in panel["targets"]), name


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_each_alert_says_what_it_means() -> None:
    for alert in ALERTS:
        assert alert["labels"]["severity"] in ("warning", "critical")
        assert set(alert["annotations"]) == {"summary", "description", "runbook"}
        assert alert["annotations"]["runbook"] == f"docs/operations.md#{alert['alert'].lower()}"


def test_each_alert_has_its_unit_test() -> None:
    """One time at which it fires, and one at which it is silent."""
    tests = yaml.safe_load((OBSERVABILITY / "alerts_test.yaml").read_text())["tests"]
    checks = [check for test in tests for check in test["alert_rule_test"]]
    for alert in (alert["alert"] for alert in ALERTS):
        fires = {bool(check["exp_alerts"]) for check in checks if check["alertname"] == alert}
        assert fires == {True, False}, alert


def promtool(*arguments: Any) -> None:
    path = tool("promtool")
    if path is None:
        pytest.skip("promtool is neither installed nor in .tools: make prometheus")
    result = subprocess.run([path, *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr


def test_prometheus_takes_the_configuration() -> None:
    promtool("check", "config", OBSERVABILITY / "prometheus.yml")


def test_prometheus_takes_the_rules() -> None:
    promtool("check", "rules", OBSERVABILITY / "alerts.yaml")


def test_alerts_fire_and_are_silent() -> None:
    promtool("test", "rules", OBSERVABILITY / "alerts_test.yaml")


def test_prometheus_takes_the_queries_of_the_dashboard(tmp_path: Path) -> None:
    """Each as a rule, since promtool checks those."""
    rules = [{"record": f"query:{number}", "expr": query} for number, (_, query) in enumerate(dashboard_queries("1m"))]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", tmp_path / "rules.yaml")
