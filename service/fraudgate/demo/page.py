"""The demo's result as one HTML page that needs nothing else: no script, no font, no address."""

from html import escape

from fraudgate.demo.charts import decision_bar, metric_dot, over_time, percentile_curves
from fraudgate.demo.judge import BUDGET_MS, METRICS, PERCENTILES, Quality
from fraudgate.demo.summary import CREDIT, WEEK_NOISE, Published, Result
from fraudgate.pages.parts import fact_list, page, section, table, tile_row

PERCENTILE_HEADS = ("p50", "p90", "p99", "p99.9", "max")
METRIC_SPANS = {"auc_roc": (0.75, 0.9), "average_precision": (0.3, 0.75), "card_precision_100": (0.2, 0.32)}
"""The axis of each metric's dots: wide enough for the published table."""


def to_html(result: Result) -> str:
    """The whole page."""
    title = f"{result.transactions:,} card transactions through Score()"
    parts = [_head(result, title), _tiles(result), _latency(result), _time(result), _stages(result)]
    parts += [_quality(result), _decisions(result), _proof(result)]
    return page(title, parts)


def _head(result: Result, title: str) -> str:
    if result.shortfalls:
        sentences = "".join(f"<li>{escape(sentence)}</li>" for sentence in result.shortfalls)
        verdict = f'<div class="verdict short">Falls short:<ul>{sentences}</ul></div>'
    else:
        judged = "" if result.quality else " (quality was not judged: only the first rows were replayed)"
        verdict = f'<p class="verdict">Holds: every floor is met{judged}.</p>'
    what = escape(result.title[0].upper() + result.title[1:])
    model = f"<b>{escape(result.model)}</b> ({escape(result.precision)})"
    how = f"scored one by one over a real gRPC connection by {model}, {escape(result.frontend)} front end"
    return f"<h1>{escape(title)}</h1>\n<p>{what}, {how}.</p>\n{verdict}"


def _tiles(result: Result) -> str:
    tiles = [(f"{result.latency_ms['p99']:.1f} ms", f"p99 at the client; the budget is {BUDGET_MS:.0f} ms")]
    tiles.append((f"{result.rates.reached:,.0f}/s", "decisions a second, " + _load(result)))
    if result.quality:
        tiles.append((f"{result.quality.average_precision:.3f}", "average precision, " + _best_published(result)))
    tiles.append((f"{result.mismatches.values:,}", f"wrong feature values in {result.mismatches.rows_compared:,} rows"))
    tiles.append((f"{result.lost:,}", "transactions lost"))
    return tile_row(tiles)


def _load(result: Result) -> str:
    probe = result.rates.probe
    return f"half of the {probe:,.0f}/s one client in Python can draw" if probe else "the rate that was asked for"


def _best_published(result: Result) -> str:
    if not result.published:
        return "on simulated traffic: there is nothing published to compare with"
    best = max(result.published, key=lambda row: row.average_precision)
    return f"the best published result is {best.average_precision:.3f}"


def _latency(result: Result) -> str:
    return section(
        "Latency",
        "Each transaction counts from the moment it was meant to be sent, so a late send hides nothing. "
        "Both axes are logarithmic: 99.99 % leaves out one transaction in ten thousand.",
        percentile_curves(result.client_ns, result.server_ns),
    )


def _time(result: Result) -> str:
    return section(
        "Latency along the replay",
        "p50 and p99 at the client, in slices of the replay; a stall would stand out here.",
        over_time(result.intended_ns, result.client_ns),
    )


def _stages(result: Result) -> str:
    rows = [
        ("own", "Client, from the intended send", result.latency_ms),
        ("part", "Until sent", result.lateness_ms),
        ("", "Server", result.stages_ms["total"]),
    ]
    rows += [("part", name.capitalize(), values) for name, values in result.stages_ms.items() if name != "total"]
    rows += [("", f"Server, {name.replace('_', ' ')}", values) for name, values in result.server_ms.items()]
    body = [
        (kind, label, [f"{values[name]:.2f}" for name in PERCENTILES if name in values]) for kind, label, values in rows
    ]
    note = (
        "Milliseconds. The four parts sum to the server's total for each transaction. Queue is mostly the gate: "
        "a batch closes 5 ms after its first transaction, or at 32."
    )
    return section("Where the time goes", note, table(["Stage", *PERCENTILE_HEADS], body))


def _quality(result: Result) -> str:
    if result.quality is None:
        return section("Quality", "Not judged: only the first rows of the week were replayed.", "")
    rows: list[tuple[str, str, Quality | Published]] = [("own", "Fraudgate, as served", result.quality)]
    rows += [("", f"{row.model} (chapter {row.chapter})", row) for row in result.published]
    if result.published:
        rows.sort(key=lambda row: -row[2].average_precision)
    body = [
        (
            kind,
            label,
            [_metric_cell(name, getattr(row, name), kind == "own", bool(result.published)) for name in METRICS],
        )
        for kind, label, row in rows
    ]
    floors = ", ".join(f"{METRICS[name]} {floor:.3f}" for name, floor in result.floors.items())
    note = f"{result.quality.rows:,} rows of the protocol, {result.quality.frauds:,} of them frauds. Floors: {floors}."
    credit = f'<p class="soft small">Published results: {escape(CREDIT)}.</p>' if result.published else ""
    return section(
        "Quality",
        note + (f" {WEEK_NOISE}" if result.published else ""),
        table(["Model", *METRICS.values()], body, raw=True) + credit,
    )


def _metric_cell(name: str, value: float, own: bool, dots: bool) -> str:
    text = f"{value:.4f}" if own else f"{value:.3f}"
    return text + (metric_dot(value, *METRIC_SPANS[name], own) if dots else "")


def _decisions(result: Result) -> str:
    keys = "".join(
        f'<dt><span class="key {kind}"></span>{kind.capitalize()}</dt>'
        f"<dd>{count:,} ({count / result.transactions:.2%})</dd>"
        for kind, count in result.decisions.items()
    )
    fallbacks = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in result.fallbacks.items()) or "none"
    keys += f"<dt>Made with a fallback</dt><dd>{escape(fallbacks)}</dd>"
    return section("Decisions", "", decision_bar(result.decisions) + f"<dl>{keys}</dl>")


def _proof(result: Result) -> str:
    wrong, rates = result.mismatches, result.rates
    retried = ", ".join(f"{count:,} {name}" for name, count in result.refusals.items()) or "none"
    facts = {
        "Features": f"{wrong.values:,} wrong values among {wrong.rows_compared:,} rows x 15, compared with "
        + result.compared_with
        + (f"; {wrong.rows_excused} rows excused" if wrong.rows_excused else ""),
        "History": f"{result.history_rows:,} transactions loaded before the first request",
        "Outcomes": f"{result.outcomes:,} frauds of the week before, each acknowledged before the replay reached the "
        f"time it was due; the week's own {result.late_outcomes:,} afterwards",
        "Arrivals": f"open loop, {rates.target:,.0f}/s intended, {rates.reached:,.0f}/s reached",
        "Same customer": f"{result.held:,} transactions held back until that customer's earlier one was answered",
        "Refusals retried": retried,
        "Batches": f"{result.batch_rows_mean:.1f} transactions on average",
    }
    if result.resident_mib is not None:
        facts["Memory"] = f"{result.resident_mib:,.0f} MiB resident in the server after loading the history"
    if result.cpu_us_per_decision is not None:
        facts["CPU"] = f"{result.cpu_us_per_decision:,.0f} us of the server's a decision, the network's share included"
    return section("What was checked", "", fact_list(facts))
