"""The dashboard on the ops port: a page of ours, and the state it shows, made at most once a second for all who watch.

The state names decisions by their ids and reasons; it holds nothing of the transaction, the customer or the card.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import msgspec
import numpy as np

from fraudgate.clock import Clock
from fraudgate.drift.watch import DriftReport, DriftWatch
from fraudgate.editions import Editions, decision_id
from fraudgate.engines.fleet import Fleet
from fraudgate.engines.report import FleetReport
from fraudgate.ladder import Ladder, LadderReport
from fraudgate.latency.histogram import Distribution
from fraudgate.latency.recorder import STAGES, Counters, Increments, Recorder
from fraudgate.latency.spans import Spans
from fraudgate.limits import SECOND_NS
from fraudgate.ops.answers import BUSY, Answer, Query, RateBound, Route, Shared, tagged
from fraudgate.ops.history import History, Sample, Window
from fraudgate.transaction import Answers, Decision, Fallback, joined

PAGES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/dashboard.css": ("dashboard.css", "text/css; charset=utf-8"),
    "/charts.js": ("charts.js", "text/javascript; charset=utf-8"),
    "/dashboard.js": ("dashboard.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
JSON = "application/json"

VIEWS_PER_SECOND_MAX, VIEWS_BURST = 200, 400
"""Answers for viewers; more get 503 and come back later."""
POLLS_PER_SECOND_WANTED = 50
"""With more viewers than this, pages are asked to poll less often, and do."""
VIEWERS_KEPT = 0.9
"""Of the viewers believed in a second ago, when fewer ask: a page that was told to wait still watches."""
POLL_MS, POLL_MS_MAX = 1_000, 30_000

RECENT_ROWS = 50
SECONDS_IN_STATE = 15
"""The page asks for the whole history when it has missed more than these."""
DRIFT_INTERVAL_NS = 10 * SECOND_NS
"""A report takes milliseconds, and a window of 10,000 rows does not change its mind in a second."""
NEAR_BUDGET = 0.8
SPECTRUM_PERCENTS = (0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 97.5, 99.0, 99.5, 99.75, 99.9, 99.95, 99.99, 100.0)


class Identity(NamedTuple):
    """What does not change while the process runs."""

    version: str
    rules_version: str
    budget_ns: int
    started_ms: int
    """Wall clock, milliseconds; tells the page that this is another process."""
    allowed_ns: Mapping[str, int]
    """What each stage may take of the budget, as far as that is said."""


def dashboard_state(
    identity: Identity,
    serving: bool,
    history: History,
    fleet: FleetReport | None,
    ladder: LadderReport | None,
    drift: DriftReport | None,
    recent: Sequence[Mapping[str, Any]],
    wall_ns: int,
) -> dict[str, Any]:
    """All that the page shows, JSON-able; times in nanoseconds, rates a second. A block a line."""
    short, long, latest = history.short(), history.long(), history.latest()
    total = long.stage("total")
    return {
        "wall_ms": wall_ns // 1_000_000,
        "server": {**identity._asdict(), "serving": serving},
        "verdict": verdict(short.stage("total"), identity.budget_ns),
        "verdict_long": verdict(total, identity.budget_ns),
        "rates": {"decisions": short.rate(short.decided), "refusals": short.rate(short.refused)},
        "window_seconds": long.seconds,
        "stages": [_stage(stage, long.stage(stage)) for stage in STAGES],
        "spectrum": _spectrum(total),
        "batches": long.batch_rows[1:],
        "refusals": _refusals(latest.counters.refusals, short),
        "fallbacks": [_fallback(fallback, count) for fallback, count in short.fallbacks().items()],
        "ladder": ladder.as_json() if ladder is not None else None,
        "fleet": fleet.as_json() if fleet is not None else None,
        "drift": drift.as_json() if drift is not None else None,
        "recent": recent,
        "seconds": list(history.seconds)[-SECONDS_IN_STATE:],
    }


def verdict(total: Distribution, budget_ns: int) -> dict[str, Any]:
    """How the p99 stands to the budget: idle, within, near or over; without a budget unbounded."""
    p99_ns = total.percentile(99)
    if not total.count:
        word = "idle"
    elif not budget_ns:
        word = "unbounded"
    elif p99_ns > budget_ns:
        word = "over"
    else:
        word = "near" if p99_ns > NEAR_BUDGET * budget_ns else "within"
    over = total.count - total.at_most(budget_ns) if budget_ns else 0
    return {"word": word, "p99_ns": p99_ns, "count": total.count, "over_budget": over}


def _stage(name: str, values: Distribution) -> dict[str, Any]:
    p50, p99, p999 = (values.percentile(percent) for percent in (50, 99, 99.9))
    return {"stage": name, "count": values.count, "p50": p50, "p99": p99, "p999": p999, "max": values.max_ns}


def _spectrum(total: Distribution) -> list[tuple[float, int]]:
    """(percent, nanoseconds), as far as there are values to tell percentiles apart."""
    told = [percent for percent in SPECTRUM_PERCENTS[:-1] if round(total.count * (100 - percent)) >= 100]
    return [(percent, total.percentile(percent)) for percent in (*told, 100.0)] if total.count else []


def _refusals(since_start: Mapping[str, int], short: Window) -> list[dict[str, Any]]:
    """Most of late first."""
    rows = [
        {"reason": reason, "rate": short.rate(short.refusals.get(reason, 0)), "total": total}
        for reason, total in since_start.items()
    ]
    return sorted(rows, key=lambda row: (-row["rate"], -row["total"], row["reason"]))


def _fallback(fallback: Fallback, count: int) -> dict[str, Any]:
    return {"fallback": fallback.name, "count": count}


def recent_decisions(batches: Sequence[Answers], editions: Editions, wall_at_zero_ns: int) -> list[dict[str, Any]]:
    """The last ``RECENT_ROWS`` decisions, latest first. ``wall_at_zero_ns``: the wall clock at monotonic 0."""
    if not batches:
        return []
    rows = joined(batches)
    rows = rows[np.argsort(rows["sequence"])][: -RECENT_ROWS - 1 : -1]
    return [_decision(row, editions, wall_at_zero_ns) for row in rows]


def _decision(row: Any, editions: Editions, wall_at_zero_ns: int) -> dict[str, Any]:
    edition = editions[int(row["edition"])]
    return {
        "id": decision_id(edition.run_id, int(row["sequence"])),
        "decision": Decision(row["decision"]).name,
        "score": float(row["score"]) if row["scored"] else None,
        "reasons": [code for code, _ in edition.texts.reasons(int(row["rules"])).reasons],
        "fallback": Fallback(row["fallback"]).name,
        "model": f"{edition.model_name}@{edition.model_version}",
        "latency_ns": int(row["answered_ns"] - row["arrival_ns"]),
        "wall_ms": int(row["answered_ns"] + wall_at_zero_ns) // 1_000_000,
    }


class Recent:
    """The latest batches that were decided, as the scoring loop hands them over; nothing is copied."""

    def __init__(self) -> None:
        self._batches: list[Answers] = []
        self._place = 0

    def record_batch(self, decided: Answers, _: Spans | None = None) -> None:
        """Keep ANSWER_DTYPE[n], which nobody may change from here on, in place of the oldest batch."""
        if len(self._batches) < RECENT_ROWS:
            self._batches.append(decided)
            return
        self._batches[self._place] = decided
        self._place = (self._place + 1) % RECENT_ROWS

    def batches(self) -> list[Answers]:
        """Those that are kept, in no order; for any thread."""
        return self._batches.copy()


class Dashboard:
    """The routes of the dashboard and what they show. All of it is called on one thread, ``tick`` often."""

    def __init__(
        self,
        recorder: Recorder,
        counters: Counters,
        ready: Callable[[], bool],
        identity: Identity,
        clock: Clock,
        wall: Clock,
        *,
        drift: DriftWatch | None = None,
        fleet: Fleet | None = None,
        ladder: Ladder | None = None,
        editions: Editions | None = None,
    ) -> None:
        self._increments, self._counters, self._ready, self._identity = Increments(recorder), counters, ready, identity
        self._clock, self._wall = clock, wall
        self._drift, self._fleet, self._ladder, self._editions = drift, fleet, ladder, editions
        self._recent = Recent()
        recorder.watchers.append(self._recent.record_batch)
        self._history, self._due_ns = History(), 0
        self._drift_report: DriftReport | None = None
        self._drift_due_ns = 0
        self._views = RateBound(VIEWS_PER_SECOND_MAX, VIEWS_BURST)
        self._polls, self._viewers = 0, 0.0

    def tick(self) -> None:
        """Take a sample when one is due."""
        now_ns = self._clock()
        if now_ns < self._due_ns:
            return
        self._due_ns = max(self._due_ns + SECOND_NS, now_ns + SECOND_NS // 2)
        sample = Sample(now_ns, self._increments.take(), self._counters.copy())
        self._history.add(sample, self._wall())
        self._viewers = max(self._polls * self._poll_ms() / POLL_MS, self._viewers * VIEWERS_KEPT)
        self._polls = 0

    def routes(self) -> dict[str, Route]:
        folder = files("fraudgate.ops").joinpath("page")
        pages = {path: tagged(kind, folder.joinpath(name).read_bytes()) for path, (name, kind) in PAGES.items()}
        made = {
            "/dashboard.json": Shared(lambda: (JSON, self.state()), self._clock),
            "/history.json": Shared(lambda: (JSON, self.history()), self._clock),
        }
        routes = {path: _fixed(answer) for path, answer in pages.items()} | made
        return {path: self._bounded(route, path == "/dashboard.json") for path, route in routes.items()}

    def _bounded(self, route: Route, is_poll: bool) -> Route:
        def answer(query: Query) -> Answer:
            self._polls += is_poll
            return route(query) if self._views.take(self._clock()) else BUSY

        return answer

    def state(self) -> bytes:
        """``dashboard_state`` as JSON."""
        self.tick()
        now_ns, wall_ns = self._clock(), self._wall()
        recent = self._recent.batches()
        if self._drift is not None and now_ns >= self._drift_due_ns:
            self._drift_report, self._drift_due_ns = self._drift.report(), now_ns + DRIFT_INTERVAL_NS
        state = dashboard_state(
            self._identity,
            self._ready(),
            self._history,
            FleetReport.of(self._fleet) if self._fleet is not None else None,
            LadderReport.of(self._ladder) if self._ladder is not None else None,
            self._drift_report,
            recent_decisions(recent, self._editions, wall_ns - now_ns) if self._editions is not None else [],
            wall_ns,
        )
        return msgspec.json.encode(state | {"poll_ms": self._poll_ms()})

    def history(self) -> bytes:
        """All seconds that are kept, as JSON: the names of the stages, and a row for each second."""
        self.tick()
        return msgspec.json.encode({"stages": STAGES, "seconds": list(self._history.seconds)})

    def _poll_ms(self) -> int:
        """How often a page should poll, so that all viewers together stay near ``POLLS_PER_SECOND_WANTED``."""
        return min(max(POLL_MS, int(POLL_MS * self._viewers / POLLS_PER_SECOND_WANTED)), POLL_MS_MAX)


def _fixed(answer: Answer) -> Route:
    return lambda _query: answer
