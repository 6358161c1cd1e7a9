"""The Prometheus text, read back with the client library's own parser."""

import subprocess
import sys

import numpy as np
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from fraudgate.drift.reference import Reference
from fraudgate.drift.watch import DriftWatch
from fraudgate.latency.recorder import STAGES, TOTALS, Counters, Recorder
from fraudgate.ops.buckets import BOUNDS_NS
from fraudgate.ops.metrics import Metrics
from fraudgate.transaction import Decision, Fallback, decided_rows

MS = 1_000_000


def scrape(recorder: Recorder, counters: Counters, drift: DriftWatch | None = None) -> dict[str, Metric]:
    content_type, body = Metrics(recorder, counters, {"version": '1.0 "quoted"', "model": "m"}, drift).render()
    assert content_type.startswith("text/plain")
    return {family.name: family for family in text_string_to_metric_families(body.decode())}


def samples(family: Metric, name: str, **labels: str) -> list[float]:
    return [s.value for s in family.samples if s.name == name and labels.items() <= s.labels.items()]


def test_an_idle_server_exports_every_name_of_the_contract_at_zero() -> None:
    families = scrape(Recorder(), Counters())
    contract = {
        "fraudgate_decisions": "counter",
        "fraudgate_refusals": "counter",
        "fraudgate_stage_seconds": "histogram",
        "fraudgate_batch_rows": "histogram",
        "fraudgate_loop_stall_seconds": "histogram",
        "fraudgate_build_info": "gauge",
        **{name.removesuffix("_total"): "counter" for name in TOTALS},
    }
    assert {name: families[name].type for name in contract} == contract
    for name, family in families.items():
        assert family.documentation, name
        if name != "fraudgate_build_info" and not name.startswith("process_"):
            assert not any(sample.value for sample in family.samples), name
    assert len(samples(families["fraudgate_decisions"], "fraudgate_decisions_total")) == len(Decision) * len(Fallback)
    [info] = families["fraudgate_build_info"].samples
    assert (info.value, info.labels) == (1, {"version": '1.0 "quoted"', "model": "m"})


def test_counters_keep_their_labels() -> None:
    counters = Counters()
    counters.count_decisions(np.array([1, 1, 3], np.uint8), np.array([1, 1, 5], np.uint8))
    counters.count_refusal("queue_full", 4)
    counters.count("fraudgate_batch_log_dropped_total", 2)
    families = scrape(Recorder(), counters)
    decisions, name = families["fraudgate_decisions"], "fraudgate_decisions_total"
    assert samples(decisions, name, decision="approve", fallback="none") == [2]
    assert samples(decisions, name, decision="decline", fallback="rules_only") == [1]
    assert samples(families["fraudgate_refusals"], "fraudgate_refusals_total", reason="queue_full") == [4]
    dropped = families["fraudgate_batch_log_dropped"]
    assert samples(dropped, "fraudgate_batch_log_dropped_total") == [2]


def test_stage_histograms_are_cumulative_and_agree_with_the_values() -> None:
    recorder = Recorder()
    values = np.array([4_000, 40_000, 400_000, 4 * MS, 40 * MS, 400 * MS, 20_000 * MS, -7], np.int64)
    recorder.record("total", values)
    recorder.record_one("total", 100_000 * MS)
    recorder.record_one("loop_stall", 3 * MS)
    recorder.reset(0)  # /metrics never goes back
    families = scrape(recorder, Counters())
    stages = families["fraudgate_stage_seconds"]
    buckets = samples(stages, "fraudgate_stage_seconds_bucket", stage="total")
    expected = [sum(value <= bound for value in values.tolist()) for bound in BOUNDS_NS]
    assert buckets == [*expected, 9]
    assert samples(stages, "fraudgate_stage_seconds_count", stage="total") == [9]
    [total] = samples(stages, "fraudgate_stage_seconds_sum", stage="total")
    assert total == pytest.approx((values.clip(0).sum() + 2**36) / 1e9, rel=1e-3)
    assert {s.labels["stage"] for s in stages.samples} == set(STAGES) - {"loop_stall"}
    assert samples(stages, "fraudgate_stage_seconds_bucket", stage="total", le="0.05") == [6]
    stalls = families["fraudgate_loop_stall_seconds"]
    assert samples(stalls, "fraudgate_loop_stall_seconds_count") == [1]
    assert samples(stalls, "fraudgate_loop_stall_seconds_bucket", le="0.002") == [0]
    assert samples(stalls, "fraudgate_loop_stall_seconds_bucket", le="0.005") == [1]
    over, below = families["fraudgate_stage_over_range"], families["fraudgate_stage_negative"]
    assert samples(over, "fraudgate_stage_over_range_total", stage="total") == [1]
    assert samples(below, "fraudgate_stage_negative_total", stage="total") == [1]


def test_batch_rows_tell_full_batches_from_the_gates() -> None:
    counters = Counters()
    for rows in (1, 2, 20, 31, 32, 32):
        counters.count_batch(rows)
    family = scrape(Recorder(), counters)["fraudgate_batch_rows"]
    bounds = {s.labels["le"]: s.value for s in family.samples if s.name == "fraudgate_batch_rows_bucket"}
    assert bounds == {
        "1.0": 1, "2.0": 2, "4.0": 2, "8.0": 2, "16.0": 2, "24.0": 3, "31.0": 4, "32.0": 6, "+Inf": 6,
    }  # fmt: skip
    assert samples(family, "fraudgate_batch_rows_sum") == [1 + 2 + 20 + 31 + 64]


def test_drift_is_a_gauge_of_each_feature_once_there_is_a_window() -> None:
    sample = np.linspace(0, 1, 1_000, dtype=np.float32)
    reference = Reference.of(("SAME", "MOVED"), np.stack([sample, sample], axis=1), sample)
    drift = DriftWatch(("SAME", "MOVED"), reference, window_rows=1_000)
    names = ("fraudgate_drift_psi", "fraudgate_drift_ks", "fraudgate_drifted")
    families = scrape(Recorder(), Counters(), drift)
    assert [families[name].samples for name in names] == [[], [], []]
    answers = decided_rows(1_000, 1, 0, 0, 0, 0)
    answers["score"] = sample
    drift.record_batch(np.stack([sample, sample + 0.5], axis=1).astype(np.float64), answers)
    families = scrape(Recorder(), Counters(), drift)
    assert [families[name].type for name in names] == ["gauge"] * 3
    found = {name: {s.labels["feature"]: s.value for s in families[name].samples} for name in names}
    assert found["fraudgate_drifted"] == {"SAME": 0, "MOVED": 1, "score": 0}
    assert found["fraudgate_drift_ks"] == {"SAME": 0, "MOVED": pytest.approx(0.5, abs=0.06), "score": 0}
    assert found["fraudgate_drift_psi"]["MOVED"] == drift.report().features[0].psi > 1
    assert found["fraudgate_drift_psi"]["SAME"] == 0


def test_the_client_library_waits_for_the_first_scrape() -> None:
    code = "import sys, fraudgate.ops.http; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
