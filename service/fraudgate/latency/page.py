"""A run as one HTML page that needs nothing else: no script, no font, no address."""

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from html import escape

from fraudgate.latency.causes import OTHER_CAUSES
from fraudgate.latency.charts import LEVELS, columns, percentile_curves, stage_bars
from fraudgate.latency.run import Run
from fraudgate.latency.side_file import EventLine, ExemplarLine
from fraudgate.latency.timeline import CAUSES
from fraudgate.limits import MILLISECOND_NS, SECOND_NS
from fraudgate.pages.parts import fact_list, page, section, table, tile_row

BATCHES_SHOWN = 25
_STAGES = ("queue", "features", "inference", "guardrails")
_NO_COUNTERS = "Not in these logs: only a server's own log has a file of counters beside it (<name>.exemplars.json)."


def to_html(run: Run, core_hour_price: float | None = None) -> str:
    """The whole page. ``core_hour_price``: of one CPU core for an hour, in any currency."""
    title = f"{run.decided:,} decisions" if run.decided else "Latency"
    parts = [_head(run, title), tile_row(_tiles(run, core_hour_price)), _latency(run), _stages(run)]
    parts += [
        _batches(run),
        _refusals(run),
        _late(run),
        _disturbances(run),
        _cost(run, core_hour_price),
        _exemplars(run),
    ]
    return page(title, filter(None, parts))


def _ms(ns: float) -> str:
    return f"{ns / MILLISECOND_NS:.3g} ms" if ns < SECOND_NS else f"{ns / SECOND_NS:.3g} s"


def _head(run: Run, title: str) -> str:
    start = datetime.fromtimestamp(run.merged.start_s, UTC)
    when = f"{start:%d %B %Y, %H:%M:%S} UTC, over {run.seconds:,.1f} s, in {run.merged.intervals:,} histograms"
    if not run.decided:
        verdict = ""
    elif run.late:
        share = run.late / run.decided
        verdict = f'<p class="verdict short">{run.late:,} decisions ({share:.2%}) came after the budget was spent.</p>'
    else:
        verdict = '<p class="verdict">Every decision was within the budget.</p>'
    return f"<h1>{escape(title)}</h1>\n<p>{escape(when)}.</p>\n{verdict}"


def _tiles(run: Run, core_hour_price: float | None) -> Iterator[tuple[str, str]]:
    distributions = run.merged.distributions
    for name in ("whole" if "whole" in distributions else "total", "client"):
        if values := distributions.get(name):
            yield _ms(values.percentile(99)), f"p99, {name}; the budget is {_ms(run.budget.total_ns)}"
            yield _ms(values.percentile(99.9)), f"p99.9, {name}"
    if run.decided:
        yield f"{run.goodput:,.0f}/s", "goodput: decisions a second within the budget"
    if run.has_counters:
        yield f"{sum(run.refusals.values()):,}", "refused"
        yield f"{run.cpu_seconds_per_million:,.1f} s", "CPU for a million decisions"
        if core_hour_price is not None:
            yield f"{run.price_per_million(core_hour_price):,.4f}", f"for a million decisions, at {core_hour_price:g}"


def _latency(run: Run) -> str:
    note = (
        "Total ends with the decision, whole with its bytes. Both axes are logarithmic: 99.99 % leaves out one in ten "
        "thousand."
    )
    return section("Latency", note, percentile_curves(run.merged.distributions, run.budget.total_ns))


def _stages(run: Run) -> str:
    stages = {stage.stage: stage for stage in run.report().stages if stage.count}
    rows = []
    for name, stage in stages.items():
        allowed_ns = run.budget.allowed_ns.get(name)
        times = (stage.p50_ns, stage.p99_ns, stage.p999_ns, stage.max_ns)
        cells = [f"{ns / MILLISECOND_NS:.3f}" for ns in times]
        cells += [f"{allowed_ns / MILLISECOND_NS:g}" if allowed_ns else "", _spent(times[:3], allowed_ns)]
        kind = "own" if name in ("total", "whole") else "part" if allowed_ns else ""
        rows.append((kind, name.replace("_", " ").capitalize(), cells))
    heads = ["Stage, in ms", *LEVELS, "max", "allowed", "spent at p99.9"]
    note = "The parts of one bar are percentiles of their own stage: slow ones seldom meet, so they add up to more "
    note += "than the total at that percentile."
    keys = "".join(
        f'<span class="key stage {name}"></span>{name.capitalize()} '
        for name in run.budget.allowed_ns
        if name in stages
    )
    bars = f'<p class="keys">{keys}</p>' + stage_bars(run.merged.distributions, run.budget) if keys else ""
    return section("Where the time goes", note if keys else "", bars + table(heads, rows, raw=True) + _ledger(run))


def _spent(times_ns: tuple[int, ...], allowed_ns: int | None) -> str:
    """The last one's share of the allowance; and the first percentile that is over it, if one is."""
    if not allowed_ns:
        return ""
    over = next((level for level, ns in zip(LEVELS, times_ns, strict=True) if ns > allowed_ns), "")
    share = f"{100 * times_ns[-1] / allowed_ns:,.0f} %"
    return f'<b class="over">{share}, over from {over}</b>' if over else share


def _ledger(run: Run) -> str:
    facts = {}
    if (spent := run.merged.distributions.get("budget_spent")) and spent.count:
        p50, p99, p999 = (spent.percentile(percent) / 10 for percent in LEVELS.values())
        over = spent.count - spent.at_most(1_000)
        facts["Of its own budget"] = (
            f"(to its deadline, where that comes first) a decision took {p50:.1f} % at p50, {p99:.1f} % at p99, "
            f"{p999:.1f} % at p99.9; {over:,} took more than all of it"
        )
    whole = run.merged.distributions.get("whole")
    if run.has_counters and whole and whole.count:
        share = 1 - run.mismatches / whole.count
        facts["The books"] = f"for {share:.3%} of the decisions the stages add up to the whole within 50 us"
    return fact_list(facts) if facts else ""


def _batches(run: Run) -> str:
    counts = run.batch_rows[1:]
    if not any(counts):
        return ""
    rows = sum(size * count for size, count in enumerate(counts, 1))
    words = f"{sum(counts):,} batches, {rows / sum(counts):.1f} transactions on average"
    return section("Batch sizes", f"{words}.", columns(counts, f"Batch sizes: {words}."))


def _refusals(run: Run) -> str:
    if not run.has_counters:
        return section("Refusals", _NO_COUNTERS, "")
    rows = [("", reason.replace("_", " ").capitalize(), [f"{n:,}"]) for reason, n in run.refusals.most_common()]
    asked = run.decided + sum(run.refusals.values())
    note = f"{sum(run.refusals.values()):,} of {asked:,} transactions ended with a status instead of a decision."
    return section("Refusals", note, table(["Reason", "transactions"], rows) if rows else "")


def _late(run: Run) -> str:
    """Decisions over the budget, by cause."""
    if not run.over_budget:
        return ""
    late = sum(run.over_budget.values())
    rows = []
    for cause, n in run.over_budget.most_common():
        what = f'<span class="words">{escape(CAUSES.get(cause, OTHER_CAUSES.get(cause, "")))}</span>'
        rows.append(("", cause.replace("_", " "), [f"{n:,}", f"{n / late:.1%}", what]))
    note = "A cause is named where it covers at least half of what a stage took over its allowance."
    return section("Why decisions were late", note, table(["Cause", "decisions", "share", ""], rows, raw=True))


def _disturbances(run: Run) -> str:
    """Stalls, collections and whatever else stands in the timeline, by cause."""
    if not run.has_counters:
        return ""
    by_cause: defaultdict[str, list[EventLine]] = defaultdict(list)
    for event in run.events:
        by_cause[event.cause].append(event)
    rows = []
    for cause, events in sorted(by_cause.items(), key=lambda item: -sum(event.duration_ns for event in item[1])):
        longest = max(events, key=lambda event: event.duration_ns)
        what = escape(CAUSES.get(cause, "") + (f" The longest: {longest.detail}." if longest.detail else ""))
        sums = [f"{len(events):,}", _ms(sum(event.duration_ns for event in events)), _ms(longest.duration_ns)]
        rows.append(("", cause.replace("_", " "), [*sums, f'<span class="words">{what}</span>']))
    note = "Long enough to matter: stalls from 2 ms, collections from 0.1 ms, writes from 1 ms; runs over their budget."
    heads = ["Cause", "times", "together", "longest", ""]
    return section("What disturbed the process", note, table(heads, rows, raw=True) if rows else "<p>Nothing.</p>")


def _cost(run: Run, core_hour_price: float | None) -> str:
    if not run.has_counters or not run.decided:
        return ""
    facts = {
        "CPU": f"{run.cpu_seconds:,.2f} s in {run.seconds:,.1f} s, {run.cpu_seconds_per_million:,.1f} s per million"
        f" decisions ({run.cpu_seconds_per_million:,.1f} us each), the network's share included"
    }
    if core_hour_price is not None:
        price = run.price_per_million(core_hour_price)
        facts["Price"] = f"{price:,.4f} per million decisions, at {core_hour_price:g} for a core and hour"
    return section("Cost", "", fact_list(facts))


def _exemplars(run: Run) -> str:
    if not run.exemplars:
        return ""
    of_batch: defaultdict[tuple[str, int], list[ExemplarLine]] = defaultdict(list)
    for one in run.exemplars:
        of_batch[one.decision_id.rpartition("-")[0], one.batch].append(one)
    heads = ["Decision", "at", "total ms", *_STAGES, "batch", "slow", "late by", "meanwhile", "engine"]
    rows = [("", ones[0].decision_id, _exemplar(ones)) for ones in list(of_batch.values())[:BATCHES_SHOWN]]
    note = f"Of the {len(run.exemplars)} slowest, which were kept whole: the slowest of each batch, in ms, how many of "
    note += "its batch are among them, and what overlapped them."
    return section("The slowest decisions", note, table(heads, rows, raw=True))


def _exemplar(ones: list[ExemplarLine]) -> list[str]:
    """The cells of the slowest of a batch, which is the first of ``ones``."""
    one = ones[0]
    at = datetime.fromtimestamp(one.arrival_s, UTC)
    slowest = max(_STAGES, key=lambda stage: one.stages_ns.get(stage, 0))
    stages = []
    for stage in _STAGES:
        text = f"{one.stages_ns.get(stage, 0) / MILLISECOND_NS:.2f}"
        stages.append(f"<b>{text}</b>" if stage == slowest else text)
    fallback = "" if one.fallback == "none" else f" ({one.fallback.replace('_', ' ')})"
    total = f"<b>{one.stages_ns.get('total', 0) / MILLISECOND_NS:.2f}</b>"
    among = f"{len(ones)} of {one.batch_rows}"
    head = [f"{at:%H:%M:%S}.{at.microsecond // 1_000:03}", total, *stages, f"{one.batch:,}", among]
    head.append(escape(one.cause.replace("_", " ")))
    return [*head, f'<span class="words">{_meanwhile(one.events)}</span>', escape(one.engine + fallback)]


def _meanwhile(events: list[EventLine]) -> str:
    by_cause: defaultdict[str, list[int]] = defaultdict(list)
    for event in events:
        by_cause[event.cause].append(event.duration_ns)
    return escape(
        ", ".join(
            f"{cause.replace('_', ' ')} {_ms(max(durations_ns))}"
            + (f" and {len(durations_ns) - 1} more" if len(durations_ns) > 1 else "")
            for cause, durations_ns in by_cause.items()
        )
    )
