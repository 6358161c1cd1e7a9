"""The Prometheus rules and the queries of the dashboard: by promtool, and against ``/metrics`` of a running server."""

import asyncio
import json
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest
import yaml

from tests.integration.server import serve

OPS = Path(__file__).resolve().parents[2] / "ops"
RULES = OPS / "prometheus" / "alerts.yml"
PROMTOOL = shutil.which("promtool")

by_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not on the PATH; make test-ops puts it there")


def promtool(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(PROMTOOL), *map(str, words)], capture_output=True, text=True, check=False)


def queries() -> list[str]:
    """Of the rules and of the dashboard, with Grafana's variables put in."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    panels = json.loads((OPS / "grafana" / "fraudgate.json").read_text())["panels"]
    drawn = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    rules = [rule["expr"] for group in groups for rule in group["rules"]]
    return [query.replace("$__rate_interval", "1m").replace("$job", ".*") for query in (*rules, *drawn)]


@by_promtool
def test_the_rules_are_good() -> None:
    checked = promtool("check", "rules", RULES)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@by_promtool
def test_the_alerts_ring_when_they_should() -> None:
    tested = promtool("test", "rules", OPS / "prometheus" / "alerts_test.yml")
    assert tested.returncode == 0, tested.stdout + tested.stderr


@by_promtool
@pytest.mark.parametrize("changed", [("> 14.4 *", "> 1 *"), ("ratio_rate5m >", "ratio_rate1h >")])
def test_the_tests_of_the_alerts_can_fail(changed: tuple[str, str], tmp_path: Path) -> None:
    text = yaml.safe_dump(yaml.safe_load(RULES.read_text()), width=10_000)  # each expression on one line
    assert changed[0] in text
    (tmp_path / "alerts.yml").write_text(text.replace(*changed))
    shutil.copy(OPS / "prometheus" / "alerts_test.yml", tmp_path)
    tested = promtool("test", "rules", tmp_path / "alerts_test.yml")
    assert tested.returncode == 1
    assert "FAILED" in tested.stdout + tested.stderr


@by_promtool
def test_the_dashboards_queries_are_promql(tmp_path: Path) -> None:
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries())]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    checked = promtool("check", "rules", path)
    assert checked.returncode == 0, checked.stdout + checked.stderr


async def test_every_name_in_a_query_is_exported(models: Path, frontend: str) -> None:
    async with serve(models) as server:
        url = f"http://127.0.0.1:{server.service._ops.port}/metrics"
        with await asyncio.to_thread(urllib.request.urlopen, url, timeout=5) as answer:
            types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", answer.read().decode(), re.MULTILINE))
    exported = {name for name, kind in types.items() if kind != "histogram"}
    histograms = {name for name, kind in types.items() if kind == "histogram"}
    exported |= {f"{name}{suffix}" for name in histograms for suffix in ("_bucket", "_sum", "_count")}
    asked = {
        name for query in queries() for name in re.findall(r"(?<![:\w])(?:fraudgate|grpc_server|process)_\w+", query)
    }
    assert len(asked) > 20
    assert asked <= exported
    assert {"grpc_server_started_total", "grpc_server_handled_total"} <= exported
