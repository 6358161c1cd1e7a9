"""Prometheus rules of an SLO: the share of errors over several windows, alerts on how fast they burn its budget, and a
few on what an operator must look at whatever the budget says.

A burn rate of 1 uses the budget up exactly at the end of the window. 14.4 over an hour uses 2 % of that of 30 days, 6
over six hours 5 %: each pages when the long window says that it matters and the short one that it goes on.
"""

from typing import Any, NamedTuple

import yaml

from fraudgate.ops.slo import Slo

Rule = dict[str, Any]


class Burn(NamedTuple):
    """A rate of burning that pages, and the windows that must both say so."""

    factor: float
    long: str
    short: str


BURNS = (Burn(14.4, "1h", "5m"), Burn(6, "6h", "30m"))
_HEADER = "# Made by 'make ops' from the SLO file: change that, not this.\n"


def alert_rules(slo: Slo) -> str:
    """The YAML of a rule file."""
    groups = [
        {"name": "fraudgate_slo", "rules": [*_recordings(slo), *_burn_alerts(slo)]},
        {"name": "fraudgate_operations", "rules": [_operation(*each) for each in _OPERATIONS]},
    ]
    return _HEADER + yaml.safe_dump({"groups": groups}, sort_keys=False, width=118, allow_unicode=True)


def error_share(slo: Slo, objective: str, window: str) -> str:
    """PromQL: the share of errors of an objective over a window, by job."""
    if objective == "latency":
        good = f'sum by (job) (rate(fraudgate_stage_seconds_bucket{{stage="total", le="{slo.latency.le}"}}[{window}]))'
        return f'1 - {good} / sum by (job) (rate(fraudgate_stage_seconds_count{{stage="total"}}[{window}]))'
    excused = "|".join(slo.availability.callers_fault)
    refused = f'sum by (job) (rate(fraudgate_refusals_total{{reason!~"{excused}"}}[{window}]))'
    return f"{refused} / ({refused} + sum by (job) (rate(fraudgate_decisions_total[{window}])))"


def recorded(objective: str, window: str) -> str:
    """The name under which ``error_share`` is recorded."""
    return f"job:fraudgate_{objective}_errors:ratio_rate{window}"


def _objectives(slo: Slo) -> dict[str, tuple[float, str]]:
    """By name: the objective, and what breaks it."""
    return {
        "latency": (slo.latency.objective, f"decisions took longer than {slo.latency.within_ms:g} ms"),
        "availability": (slo.availability.objective, "transactions ended without a decision"),
    }


def _recordings(slo: Slo) -> list[Rule]:
    windows = [window for burn in BURNS for window in (burn.short, burn.long)]
    return [
        {"record": recorded(objective, window), "expr": error_share(slo, objective, window)}
        for objective in _objectives(slo)
        for window in windows
    ]


def _burn_alerts(slo: Slo) -> list[Rule]:
    return [
        _burn_alert(slo, objective, promised, what, burn)
        for objective, (promised, what) in _objectives(slo).items()
        for burn in BURNS
    ]


def _burn_alert(slo: Slo, objective: str, promised: float, what: str, burn: Burn) -> Rule:
    over = f"> {burn.factor:g} * {1 - promised:.6g}"
    return {
        "alert": f"Fraudgate{objective.capitalize()}Burn",
        "expr": f"{recorded(objective, burn.long)} {over} and {recorded(objective, burn.short)} {over}",
        "labels": {"severity": "page", "burn": f"{burn.factor:g}x", "window": burn.long},
        "annotations": {
            "summary": f"{{{{ $value | humanizePercentage }}}} of the {what} over {burn.long}",
            "description": f"The objective is {promised:.2%} over {slo.window_days} days. At {burn.factor:g} times the "
            f"rate that this allows, its error budget is used up in {slo.window_days * 24 / burn.factor:.0f} hours.",
        },
    }


_OPERATIONS = (
    ("Down", "absent(fraudgate_build_info)", "2m", "page", "No fraudgate is scraped"),
    (
        "Degraded",
        'sum by (job) (rate(fraudgate_decisions_total{fallback=~"small_model|rules_only"}[10m])) '
        "/ sum by (job) (rate(fraudgate_decisions_total[10m])) > 0.01",
        "5m",
        "page",
        "{{ $value | humanizePercentage }} of the decisions are made without the model that should make them",
    ),
    ("ModelDropped", 'fraudgate_model_info{state="dropped"} == 1', "1m", "ticket", "{{ $labels.model }} was dropped"),
    ("ModelRolledBack", "increase(fraudgate_model_rollbacks_total[1h]) > 0", "0m", "ticket", "A model went"),
    ("ModelDrifted", "fraudgate_drifted == 1", "15m", "ticket", "{{ $labels.feature }} has drifted"),
    ("EngineFailing", "increase(fraudgate_engine_failures_total[10m]) > 0", "0m", "ticket", "The engine fails"),
    (
        "StoreFailing",
        "increase(fraudgate_store_failures_total[10m]) > 0",
        "0m",
        "page",
        "The feature store refuses batches",
    ),
    ("RulesFailing", "increase(fraudgate_rule_errors_total[10m]) > 0", "0m", "ticket", "Rules fail: rows go to REVIEW"),
    ("NativePanic", "increase(fraudgate_native_panics_total[10m]) > 0", "0m", "ticket", "Native code panicked"),
    (
        "LogDropping",
        "increase(fraudgate_batch_log_dropped_total[10m]) > 0",
        "0m",
        "ticket",
        "The batch log drops batches: they cannot be replayed",
    ),
    (
        "ConnectionsRefused",
        "increase(fraudgate_connections_refused_total[10m]) > 0",
        "0m",
        "ticket",
        "ingress.connections_max are open, further ones are closed",
    ),
    (
        "LoopStalling",
        "histogram_quantile(0.99, sum by (job, le) (rate(fraudgate_loop_stall_seconds_bucket[5m]))) > 0.01",
        "10m",
        "ticket",
        "The scoring loop runs {{ $value | humanizeDuration }} late at p99",
    ),
)
"""Name, condition, for how long, severity, summary."""


def _operation(name: str, expr: str, lasting: str, severity: str, summary: str) -> Rule:
    return {
        "alert": f"Fraudgate{name}",
        "expr": expr,
        "for": lasting,
        "labels": {"severity": severity},
        "annotations": {"summary": summary},
    }
