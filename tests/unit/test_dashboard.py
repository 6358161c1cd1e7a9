"""The dashboard's state and history, from recorders and counters filled by hand."""

import json
import random
import re
from importlib.resources import files
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest

from fraudgate.editions import Edition, Editions
from fraudgate.guardrails.reasons import RuleTexts, mark_texts
from fraudgate.latency.histogram import Distribution, Packed
from fraudgate.latency.recorder import STAGES, Counters, CountersCopy, Increments, Recorder
from fraudgate.limits import MILLISECOND_NS, SECOND_NS
from fraudgate.ops import dashboard
from fraudgate.ops.dashboard import Dashboard, Identity, Recent, recent_decisions, verdict
from fraudgate.ops.history import LONG_SECONDS, SECONDS_KEPT, SHORT_SECONDS, History, Sample, Window
from fraudgate.testing import FakeClock
from fraudgate.transaction import Answers, Decision, Fallback, Mark, decided_rows

TOTAL = STAGES.index("total")
IDENTITY = Identity("0.1", "rules-1", 50 * MILLISECOND_NS, 123, {"queue": 1_000})


def batch(rows: int, sequence: int = 0, total_ns: int = MILLISECOND_NS, **columns: Any) -> Answers:
    """Decided rows that took ``total_ns``, from monotonic 0."""
    decided = decided_rows(rows, 1, 0, 0, 0, total_ns)
    decided["decision"], decided["fallback"], decided["score"] = Decision.APPROVE, Fallback.NONE, 0.25
    decided["sequence"] = np.arange(sequence, sequence + rows)
    for name, value in columns.items():
        decided[name] = value
    return decided


def editions() -> Editions:
    made = Editions()
    texts = RuleTexts("rules-1", (("velocity", "VELOCITY", "Too many payments."),), mark_texts())
    made.add(Edition("run", "small", "1", "digest", "int8", texts))
    return made


class Fed:
    """A history and what feeds it, second by second."""

    def __init__(self) -> None:
        self.recorder, self.counters, self.history, self.now_ns = Recorder(), Counters(), History(), 0
        self.increments = Increments(self.recorder)

    def second(self, *totals_ns: int) -> None:
        """One second, in which decisions with these latencies were made, one a batch."""
        for total_ns in totals_ns:
            decided = batch(1, total_ns=total_ns)
            self.recorder.record_batch(decided)
            self.counters.count_decisions(decided["decision"], decided["fallback"])
            self.counters.count_batch(1)
        self.now_ns += SECOND_NS
        sample = Sample(self.now_ns, self.increments.take(), self.counters.copy())
        self.history.add(sample, self.now_ns)


# -- history -----------------------------------------------------------------------------------------------------------


class SinceStart(NamedTuple):
    """The naive way: everything since the start, sample by sample."""

    at_ns: int
    stages: dict[str, Distribution]
    counters: CountersCopy

    def until(self, later: "SinceStart") -> Window:
        packed = {stage: Packed.of(later.stages[stage].since(self.stages[stage])) for stage in STAGES}
        before, after = Sample(self.at_ns, {}, self.counters), Sample(later.at_ns, packed, later.counters)
        return Window.between(before, after)


def told(window: Window) -> object:
    stages = {name: (window.packed[name].indices.tolist(), window.packed[name].counts.tolist()) for name in STAGES}
    return window._replace(packed={}), stages


def test_windows_are_the_differences_of_samples() -> None:
    draw, fed, samples = random.Random(3), Fed(), list[SinceStart]()
    for _ in range(95):
        fed.second(*(draw.randrange(1, 80 * MILLISECOND_NS) for _ in range(draw.randrange(4))))
        samples.append(SinceStart(fed.now_ns, fed.recorder.since_start(), fed.counters.copy()))
        short, long = fed.history.short(), fed.history.long()
        assert told(short) == told(samples[-min(len(samples), SHORT_SECONDS + 1)].until(samples[-1]))
        first = max(0, (len(samples) - 1) // SHORT_SECONDS * SHORT_SECONDS - LONG_SECONDS)
        assert told(long) == told(samples[first].until(samples[-1]))


def test_a_second_holds_what_happened_in_it_alone() -> None:
    fed = Fed()
    fed.second(40 * MILLISECOND_NS)  # before the first sample there is nothing to compare with
    fed.second(MILLISECOND_NS, MILLISECOND_NS)
    fed.second()
    first, second = fed.history.seconds
    assert (first.number, first.decisions_rate, second.decisions_rate) == (1, 2.0, 0.0)
    assert first.p99_ns[TOTAL] == pytest.approx(MILLISECOND_NS, rel=1e-3)
    assert second.p99_ns[TOTAL] is None


def test_windows_and_seconds_are_bounded() -> None:
    fed = Fed()
    for _ in range(SECONDS_KEPT + 50):
        fed.second(MILLISECOND_NS)
    assert len(fed.history.seconds) == SECONDS_KEPT
    assert fed.history.seconds[-1].number == SECONDS_KEPT + 49
    short, long = fed.history.short(), fed.history.long()
    assert (short.seconds, short.decided, sum(short.batch_rows)) == (SHORT_SECONDS,) * 3
    assert LONG_SECONDS <= long.seconds < LONG_SECONDS + SHORT_SECONDS
    assert long.decided == long.stage("total").count == long.seconds


def test_the_window_of_one_sample_is_empty() -> None:
    fed = Fed()
    fed.second(MILLISECOND_NS)
    window = fed.history.short()
    assert (window.seconds, window.decided, window.rate(5)) == (0, 0, 0.0)


def test_refusals_and_fallbacks_of_a_window() -> None:
    fed = Fed()
    fed.second()
    fed.counters.count_refusal("budget", 3)
    decided = batch(4, fallback=Fallback.RULES_ONLY)
    fed.counters.count_decisions(decided["decision"], decided["fallback"])
    fed.second()
    window = fed.history.short()
    assert window.refusals == {"budget": 3}
    assert window.fallbacks() == dict.fromkeys(Fallback, 0) | {Fallback.RULES_ONLY: 4}


# -- state -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total_ms", "budget_ms", "word", "over"),
    [(10, 50, "within", 0), (45, 50, "near", 0), (80, 50, "over", 1), (80, 0, "unbounded", 0), (None, 50, "idle", 0)],
)
def test_the_verdict_is_a_word(total_ms: int | None, budget_ms: int, word: str, over: int) -> None:
    recorder = Recorder()
    if total_ms is not None:
        recorder.record_one("total", total_ms * MILLISECOND_NS)
    told = verdict(recorder.since_start()["total"], budget_ms * MILLISECOND_NS)
    assert (told["word"], told["over_budget"]) == (word, over)


def test_recent_decisions_name_reasons_and_nobody() -> None:
    rules_only = batch(1, 40, rules=1 | 1 << Mark.RULES_ONLY, scored=False, decision=Decision.REVIEW)
    shown = recent_decisions([rules_only, batch(2, 38)], editions(), wall_at_zero_ns=5 * SECOND_NS)
    assert [each["id"] for each in shown] == ["run-28", "run-27", "run-26"]
    assert shown[0] == {
        "id": "run-28",
        "decision": "REVIEW",
        "score": None,
        "reasons": ["VELOCITY", "RULES_ONLY"],
        "fallback": "NONE",
        "model": "small@1",
        "latency_ns": MILLISECOND_NS,
        "wall_ms": 5_001,
    }
    assert shown[1]["score"] == 0.25


def test_recent_decisions_are_bounded() -> None:
    recent = Recent()
    for number in range(3 * dashboard.RECENT_ROWS + 7):
        recent.record_batch(batch(2, 2 * number))
    assert len(recent.batches()) == dashboard.RECENT_ROWS
    shown = recent_decisions(recent.batches(), editions(), 0)
    latest = 2 * (3 * dashboard.RECENT_ROWS + 7) - 1
    assert [each["id"] for each in shown] == [f"run-{latest - i:x}" for i in range(dashboard.RECENT_ROWS)]
    assert recent_decisions([], editions(), 0) == []


def make(clock: FakeClock, **parts: Any) -> tuple[Dashboard, Recorder]:
    recorder = Recorder()
    return Dashboard(recorder, Counters(), lambda: True, IDENTITY, clock, lambda: 10**18, **parts), recorder


def test_the_state_of_a_server_without_traffic_is_whole() -> None:
    board, _ = make(FakeClock())
    state = json.loads(board.state())
    assert state["verdict"]["word"] == "idle"
    assert state["server"] == {
        "version": "0.1",
        "rules_version": "rules-1",
        "budget_ns": 50 * MILLISECOND_NS,
        "started_ms": 123,
        "allowed_ns": {"queue": 1_000},
        "serving": True,
    }
    assert [stage["stage"] for stage in state["stages"]] == list(STAGES)
    assert (state["spectrum"], state["recent"], state["seconds"], state["drift"]) == ([], [], [], None)


def test_a_sample_is_taken_once_a_second() -> None:
    clock = FakeClock()
    board, recorder = make(clock)
    for _ in range(100):
        board.tick()
        clock.advance(SECOND_NS // 10)
        recorder.record_one("total", MILLISECOND_NS)
    history = msgspec.json.decode(board.history())
    assert history["stages"] == list(STAGES)
    assert [row[2] for row in history["seconds"]] == [0.0] * 10  # decisions are the counters' matter
    assert [row[5][TOTAL] for row in history["seconds"]] == [history["seconds"][0][5][TOTAL]] * 10


def test_the_state_is_made_once_for_all_viewers_and_too_many_are_told() -> None:
    clock = FakeClock()
    board, _ = make(clock)
    route = board.routes()["/dashboard.json"]
    first = route({})
    assert all(route({}) is first for _ in range(dashboard.VIEWS_BURST - 1))
    busy = route({})
    assert busy.status == 503
    assert dict(busy.headers)["Retry-After"] == "2"
    clock.advance(SECOND_NS)
    assert route({}).status == 200


def test_a_thousand_viewers_are_asked_to_poll_less_often() -> None:
    clock = FakeClock()
    board, _ = make(clock)
    route = board.routes()["/dashboard.json"]
    due_ms, polls_by_second = [0] * 1_000, []
    for second in range(60):
        asking = [viewer for viewer, due in enumerate(due_ms) if due <= second * 1_000]
        polls_by_second.append(len(asking))
        for viewer in asking:
            answer = route({})
            wait_ms = json.loads(answer.body)["poll_ms"] if answer.status == 200 else 2_000 + 10 * viewer
            due_ms[viewer] = second * 1_000 + wait_ms
        clock.advance(SECOND_NS)
        board.tick()
    assert sum(polls_by_second[-40:]) <= 40 * 2 * dashboard.POLLS_PER_SECOND_WANTED
    assert min(due_ms) > 0


def test_the_spectrum_tells_only_percentiles_that_there_are_values_for() -> None:
    fed = Fed()
    fed.second()
    fed.second(*range(1, 1_001))
    spectrum = dashboard._spectrum(fed.history.long().stage("total"))
    assert [percent for percent, _ in spectrum][-3:] == [99.75, 99.9, 100.0]
    assert spectrum[-1][1] == 1_000


# -- the page ----------------------------------------------------------------------------------------------------------


def palettes() -> dict[str, dict[str, str]]:
    """The colours by name: of the light scheme, and with what the dark one changes."""
    css = files("fraudgate.ops").joinpath("page", "dashboard.css").read_text("utf-8")
    light, dark = (dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", part)) for part in css.split("@media", 2)[:2])
    return {"light": light, "dark": light | dark}


def luminance(colour: str) -> float:
    """WCAG's relative luminance of #rrggbb."""
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_computed_as_wcag_does() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_colour_can_be_read_on_every_ground(scheme: str) -> None:
    colours = palettes()[scheme]
    grounds = [colours.pop("paper"), colours["card"]]
    banners = [(colours["card"], colours[ground]) for ground in ("bad", "soft")]
    card, line = colours.pop("card"), colours.pop("line")  # lines of the grid are decoration
    assert card != line
    pairs = [(colour, ground) for colour in colours.values() for ground in grounds] + banners
    assert len(pairs) == 22
    assert {pair: contrast(*pair) for pair in pairs if contrast(*pair) < 4.5} == {}
