"""The budget file: what it may say, and what is said of one that may not."""

import re
from pathlib import Path

import pytest

from fraudgate.errors import ConfigError
from fraudgate.latency.budget import STAGES, Budget
from fraudgate.latency.report import render_budget
from tests.unit.test_report import MS, Recorder

WHOLE = """
[stages]
queue = "20ms"
features = "2.5 ms"
inference_ns = 10000000
guardrails = "500us"
respond = "0.001s"
"""


def test_durations_are_texts_or_nanoseconds() -> None:
    budget = Budget.parse(WHOLE, "b.toml")
    assert budget.total_ns == 50 * MS
    assert list(budget.allowed_ns.items()) == list(zip(STAGES, (20 * MS, 2_500_000, 10 * MS, 500_000, MS), strict=True))


REFUSED = {
    "too much": (WHOLE.replace("20ms", "40ms"), "the stages do not fit: together 54 ms of a budget of 50 ms"),
    "unknown": (WHOLE + 'network = "1ms"', "unknown stage 'network'; there are queue, features"),
    "missing": (WHOLE.replace("guardrails", "# "), "lacks guardrails"),
    "twice": (WHOLE + "queue_ns = 1", "queue is given twice"),
    "no unit": (WHOLE.replace('"20ms"', '"20"'), "queue = '20' is not a duration"),
    "a bare number": (WHOLE.replace('"20ms"', "20"), "queue = 20 is not a duration"),
    "nothing": (WHOLE.replace('"20ms"', '"0ms"'), "queue = '0ms' is not a duration"),
    "negative": (WHOLE.replace("10000000", "-1"), "inference_ns = -1 is not a positive integer"),
    "true": (WHOLE.replace("10000000", "true"), "inference_ns = True is not a positive integer"),
    "another table": (WHOLE + "[more]", "must hold one table, [stages]"),
    "no table": ("stages = 3", "must hold one table, [stages]"),
    "not TOML": ("[stages", "is not TOML"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=list(REFUSED))
def test_what_does_not_fit_is_refused_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "b.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        Budget.load(path)
    assert str(path) in str(error.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape("absent.toml: cannot be read")):
        Budget.load(tmp_path / "absent.toml")


@pytest.mark.parametrize("total_ns", [10 * MS, 49 * MS, 50 * MS, 60_000 * MS])
def test_the_packaged_budget_fits_any_whole(total_ns: int) -> None:
    budget = Budget.default(total_ns)
    assert tuple(budget.allowed_ns) == STAGES
    assert budget.total_ns == total_ns
    assert sum(budget.allowed_ns.values()) == min(total_ns, 50 * MS)


def test_the_table_says_from_which_percentile_on_a_stage_is_over() -> None:
    recorder = Recorder()
    recorder.record_repeated("queue", 10 * MS, 980)
    recorder.record_repeated("queue", 40 * MS, 20)
    recorder.record_repeated("respond", MS, 1_000)
    lines = render_budget(recorder.report(0), Budget.default()).splitlines()
    assert lines[0].split() == ["of", "its", "budget", "ms", "p50", "p99", "p99.9"]
    assert lines[1].split() == ["queue", "25", "40", "%", "160", "%", "160", "%", "over", "at", "p99"]
    assert lines[2].split() == ["respond", "5", "20", "%", "20", "%", "20", "%"]
    assert render_budget(Recorder().report(0), Budget.default()) == ""
