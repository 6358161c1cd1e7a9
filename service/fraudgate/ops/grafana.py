"""A Grafana dashboard of an SLO, over the names in ``/metrics``."""

import json
from typing import Any, NamedTuple

from fraudgate.ops.alerts import BURNS, recorded
from fraudgate.ops.slo import Slo

Panel = dict[str, Any]
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_COLUMNS, _WIDTH, _HEIGHT = 24, 8, 8
_JOB = 'job=~"$job"'
_RATE = "[$__rate_interval]"


class Graph(NamedTuple):
    """A panel over time. ``queries``: (PromQL, legend)."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    help: str = ""


def dashboard(slo: Slo) -> str:
    """The JSON of a dashboard, as Grafana imports it."""
    panels: list[Panel] = []
    for title, graphs in _rows(slo).items():
        top = sum(_HEIGHT if panel["type"] != "row" else 1 for panel in panels if panel["gridPos"]["x"] == 0)
        panels.append(_row(title, len(panels) + 1, top))
        panels += [_panel(graph, len(panels) + 1 + n, top + 1, n) for n, graph in enumerate(graphs)]
    return json.dumps(_frame(panels), indent=1, ensure_ascii=False) + "\n"


def _rows(slo: Slo) -> dict[str, tuple[Graph, ...]]:
    return {
        "Objectives": (
            _burn(slo.latency.objective, "latency", f"Slower than {slo.latency.within_ms:g} ms: burn rate"),
            _burn(slo.availability.objective, "availability", "Without a decision: burn rate"),
            _percentiles("Decision, arrival to answer", 'stage="total", '),
        ),
        "Traffic": (
            Graph("Decisions", "reqps", ((_rate("fraudgate_decisions_total", "decision"), "{{decision}}"),)),
            Graph("Refusals by reason", "reqps", ((_rate("fraudgate_refusals_total", "reason"), "{{reason}}"),)),
            Graph("Calls by code", "reqps", ((_rate("grpc_server_handled_total", "grpc_code"), "{{grpc_code}}"),)),
            Graph("Batch fill", "none", _batch_queries(), "Rows of a batch, of 32; full batches have 32."),
            Graph("Fallbacks", "percentunit", ((_fallbacks(), "{{fallback}}"),), "Share of all decisions."),
            Graph(
                "Connections",
                "cps",
                tuple(
                    (_rate(f"fraudgate_connections{each}_total"), f"accepted{each}")
                    for each in ("", "_refused", "_broken", "_stalled")
                ),
            ),
        ),
        "Where the time goes": (
            _stages(0.5),
            _stages(0.99),
            _stages(0.999),
            Graph(
                "Loop stalls",
                "s",
                tuple(
                    (_quantile(q, "fraudgate_loop_stall_seconds_bucket", ""), f"p{q * 100:g}")
                    for q in (0.5, 0.99, 0.999)
                ),
                "How late the scoring loop runs; below 1 ms it is the timer's resolution.",
            ),
            _percentiles("Garbage collection", 'stage="gc_pause", '),
            Graph("Process", "percentunit", ((_rate("process_cpu_seconds_total"), "CPU, cores"),)),
        ),
        "Models": (
            Graph("Engines", "none", ((f"fraudgate_model_info{{{_JOB}}}", "{{model}} {{state}}"),)),
            Graph("Drift (PSI)", "none", ((f"fraudgate_drift_psi{{{_JOB}}}", "{{feature}}"),)),
            Graph(
                "Trial",
                "none",
                tuple(
                    (f"fraudgate_trial_{each}{{{_JOB}}}", f"{each} {{{{model}}}}")
                    for each in ("share_percent", "rows", "flips")
                ),
            ),
        ),
    }


def _burn(objective: float, name: str, title: str) -> Graph:
    windows = [window for burn in BURNS for window in (burn.long, burn.short)]
    queries = tuple((f"{recorded(name, window)}{{{_JOB}}} / {1 - objective:.6g}", window) for window in windows)
    pages = " and ".join(f"{burn.factor:g} over {burn.long} and {burn.short}" for burn in BURNS)
    return Graph(title, "none", queries, f"1 uses the budget up exactly; pages at {pages}.")


def _rate(name: str, by: str = "") -> str:
    return f"sum by ({by}) (rate({name}{{{_JOB}}}{_RATE}))" if by else f"sum(rate({name}{{{_JOB}}}{_RATE}))"


def _fallbacks() -> str:
    return f"{_rate('fraudgate_decisions_total', 'fallback')} / scalar({_rate('fraudgate_decisions_total')})"


def _batch_queries() -> tuple[tuple[str, str], ...]:
    mean = f"{_rate('fraudgate_batch_rows_sum')} / {_rate('fraudgate_batch_rows_count')}"
    return (mean, "mean"), (_quantile(0.5, "fraudgate_batch_rows_bucket", ""), "median")


def _quantile(q: float, name: str, labels: str) -> str:
    return f"histogram_quantile({q}, sum by (le) (rate({name}{{{labels}{_JOB}}}{_RATE})))"


def _percentiles(title: str, labels: str) -> Graph:
    name = "fraudgate_stage_seconds_bucket"
    return Graph(title, "s", tuple((_quantile(q, name, labels), f"p{q * 100:g}") for q in (0.5, 0.9, 0.99, 0.999)))


def _stages(q: float) -> Graph:
    rate = f"sum by (le, stage) (rate(fraudgate_stage_seconds_bucket{{{_JOB}}}{_RATE}))"
    return Graph(f"Stages, p{q * 100:g}", "s", ((f"histogram_quantile({q}, {rate})", "{{stage}}"),))


def _row(title: str, number: int, top: int) -> Panel:
    place = {"h": 1, "w": _COLUMNS, "x": 0, "y": top}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}


def _panel(graph: Graph, number: int, top: int, place: int) -> Panel:
    row, column = divmod(place, _COLUMNS // _WIDTH)
    targets = [
        {"refId": chr(ord("A") + n), "datasource": _SOURCE, "editorMode": "code", "expr": expr, "legendFormat": legend}
        for n, (expr, legend) in enumerate(graph.queries)
    ]
    return {
        "id": number,
        "type": "timeseries",
        "title": graph.title,
        "description": graph.help,
        "datasource": _SOURCE,
        "gridPos": {"h": _HEIGHT, "w": _WIDTH, "x": column * _WIDTH, "y": top + row * _HEIGHT},
        "fieldConfig": {"defaults": {"unit": graph.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": targets,
    }


def _frame(panels: list[Panel]) -> dict[str, Any]:
    source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    jobs = "label_values(fraudgate_build_info, job)"
    job = {
        "name": "job",
        "label": "Job",
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": jobs, "refId": "jobs"},
        "definition": jobs,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "refresh": 2,
    }
    return {
        "uid": "fraudgate",
        "title": "Fraudgate",
        "tags": ["fraudgate"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "timezone": "",
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [source, job]},
        "annotations": {"list": []},
        "panels": panels,
    }
