"""The three forms of a result: JSON with the contract's keys, a summary, and a page that needs nothing else."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from fraudgate.demo.judge import FLOORS, Mismatches, Quality, percentiles_ms
from fraudgate.demo.page import to_html
from fraudgate.demo.summary import Published, Rates, Result, read_published, to_json, to_text

CONTRACT_KEYS = {
    "transactions",
    "decisions",
    "auc_roc",
    "average_precision",
    "card_precision_100",
    "latency_ms",
    "decisions_per_second",
    "frontend",
    "model",
    "window_mismatches",
    "data",
}
VOID = {"meta", "line", "circle", "rect", "polyline", "br"}


class Balanced(HTMLParser):
    """Checks that every element is closed, in order, and keeps what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.attributes: dict[str, list[str]] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, []).append(value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def example(rows: int = 2_000) -> Result:
    """A plausible result with ``rows`` transactions."""
    rng = np.random.default_rng(5)
    server_ns = (rng.gamma(4.0, 0.9, rows) * 1e6).astype(np.int64)
    client_ns = server_ns + (rng.gamma(3.0, 0.2, rows) * 1e6).astype(np.int64)
    stages = {name: percentiles_ms(server_ns) for name in ("queue", "features", "inference", "guardrails", "total")}
    return Result(
        data="handbook",
        title="the public card-fraud benchmark, 8 - 14 August 2018",
        frontend="aio",
        model="handbook/1",
        precision="int8",
        transactions=rows,
        history_rows=1_236_698,
        decisions={"approve": rows - 30, "review": 20, "decline": 10},
        fallbacks={},
        quality=Quality(0.8825, 0.705, 0.298, 58_264, 385),
        floors=FLOORS,
        published=[Published("3.4", "Random forest", 0.867, 0.658, 0.287)],
        latency_ms=percentiles_ms(client_ns),
        lateness_ms=percentiles_ms(client_ns - server_ns),
        stages_ms=stages,
        server_ms={"loop_stall": stages["queue"]},
        rates=Rates(5_000.0, 2_500.0, 2_498.0),
        batch_rows_mean=12.5,
        mismatches=Mismatches(0, 0, rows - 2, 2, ""),
        compared_with="the published ones",
        lost=0,
        held=12,
        outcome_waits=0,
        outcomes=626,
        late_outcomes=568,
        refusals={},
        resident_mib=300.0,
        cpu_us_per_decision=150.0,
        seconds=60.0,
        shortfalls=[],
        intended_ns=np.cumsum(rng.exponential(400_000.0, rows)).astype(np.int64),
        client_ns=client_ns,
        server_ns=server_ns,
    )


RESULTS = {
    "benchmark": example(),
    "simulated": replace(example(), data="simulated", published=[], resident_mib=None, cpu_us_per_decision=None),
    "first rows": replace(example(), quality=None, rates=Rates(None, 2_500.0, 2_498.0)),
    "short": replace(example(), shortfalls=["p99 is 60.0 ms, over <the budget>"], refusals={"UNAVAILABLE": 3}),
    "one row": example(1),
}
each_result = pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS.keys())


@each_result
def test_json_has_the_keys_of_the_contract(result: Result) -> None:
    form = json.loads(json.dumps(to_json(result)))
    assert form.keys() >= CONTRACT_KEYS
    assert form["latency_ms"].keys() == {"p50", "p90", "p99", "p999", "max"}
    assert sum(form["decisions"].values()) == form["transactions"]


@each_result
def test_the_page_is_whole_and_needs_nothing_else(result: Result) -> None:
    page, parser = to_html(result), Balanced()
    parser.feed(page)
    assert parser.open == []
    assert not {"script", "link", "img", "iframe"} & set(parser.seen)
    assert not re.search(r"https?://|url\(|@import", page)
    assert not {"src", "href"} & parser.attributes.keys()
    assert "nan" not in "".join(parser.attributes.get("points", [])).lower()
    assert not re.search(r"\$\w", page)
    assert len(page) < 100_000


@each_result
def test_pictures_have_words(result: Result) -> None:
    pictures = re.findall(r"<svg [^>]*>", to_html(result))
    assert pictures
    assert all('role="img" aria-label="' in each or 'aria-hidden="true"' in each for each in pictures)


@each_result
def test_the_summary_fits_a_terminal_and_says_how_it_ended(result: Result) -> None:
    text = to_text(result)
    assert max(map(len, text.splitlines())) <= 110
    assert ("FALLS SHORT" in text) == bool(result.shortfalls)
    assert ("HOLDS" in text) != bool(result.shortfalls)


def test_what_the_world_says_is_escaped() -> None:
    page = to_html(replace(example(), model='<b>"x"</b>', shortfalls=["<script>"]))
    assert "<script>" not in page
    assert '<b>"x"' not in page


def test_the_published_table_is_that_of_the_test_week(tmp_path: Path) -> None:
    (tmp_path / "published.csv").write_text(
        "chapter,split,model,auc_roc,average_precision,card_precision_100\n"
        "3.4,test week,XGBoost,0.862,0.639,0.273\n"
        "5.3,4 folds,XGBoost 100/0.1/3,0.871,0.694,0.304\n"
    )
    assert read_published(tmp_path) == [Published("3.4", "XGBoost", 0.862, 0.639, 0.273)]
