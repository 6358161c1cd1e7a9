"""The histogram log of a process and its side file: intervals, failures, and a run read back from them."""

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from fraudgate.commands import report as command
from fraudgate.errors import ConfigError, SnapshotError
from fraudgate.latency.budget import Budget
from fraudgate.latency.exemplars import Exemplars
from fraudgate.latency.interval_log import IntervalLog, IntervalTask
from fraudgate.latency.page import to_html
from fraudgate.latency.recorder import Counters, Recorder
from fraudgate.latency.report import merge_hlogs, read_hlog, write_hlog
from fraudgate.latency.run import Run
from fraudgate.latency.side_file import EventLine, IntervalLine, beside, read
from fraudgate.latency.timeline import Timeline
from fraudgate.transaction import Decision
from tests.property.test_exemplars_oracle import batch, cells, editions
from tests.unit.test_demo_page import Balanced
from tests.unit.test_report import parse

MS, S = 1_000_000, 1_000_000_000
WALL_NS = 1_533_686_400 * S


class Process:
    """What one process records, and its log; its monotonic clock begins at 5 s."""

    def __init__(self, directory: Path, wall_ns: int = WALL_NS, budget: Budget | None = None) -> None:
        self.recorder, self.counters, self.timeline = Recorder(), Counters(), Timeline()
        self.exemplars = Exemplars(self.timeline, editions())
        self.recorder.watchers.append(self.exemplars.record_batch)
        self.cpu_s, self.sequence = 2.0, 0
        recorded = (self.recorder, self.counters, self.exemplars, self.timeline, budget or Budget.default())
        self.log = IntervalLog(directory, *recorded, wall_ns, 5 * S, lambda: self.cpu_s)

    def decide(self, totals_ms: list[int], at_ns: int) -> None:
        rows = batch(self.sequence, [ms * MS for ms in totals_ms], at_ns)
        self.sequence += len(rows)
        rows["decision"] = Decision.APPROVE
        self.recorder.record_batch(rows)
        self.recorder.record("whole", rows["answered_ns"] - rows["arrival_ns"] + MS)
        self.counters.count_decisions(rows["decision"], rows["fallback"])
        self.counters.count_batch(len(rows))
        self.cpu_s += len(rows) * 1e-5


def test_each_interval_holds_what_was_new_in_it(tmp_path: Path) -> None:
    process = Process(tmp_path)
    process.decide([10, 60], 6 * S)
    process.counters.count_refusal("budget", 3)
    process.timeline.note("gc", 6 * S - 5 * MS, 6 * S - 4 * MS, "generation 2")
    path = process.log.write(7 * S)
    process.timeline.note("swap", 8 * S, 8 * S, "m/2: live")
    process.decide([20], 8 * S)
    process.log.write(9 * S)
    process.log.write(10 * S)
    totals = [interval for interval in read_hlog(path) if interval.stage == "total"]
    assert [(one.start_s, one.end_s, one.distribution.count) for one in totals] == [
        (WALL_NS / S, WALL_NS / S + 2, 2),
        (WALL_NS / S + 2, WALL_NS / S + 4, 1),
    ], "an interval in which nothing was recorded has no line"
    lines = read(beside(path))
    first, second, third = (line for line in lines if isinstance(line, IntervalLine))
    assert (first.decisions, first.refusals, first.batch_rows[:4]) == ({"approve none": 2}, {"budget": 3}, [0, 0, 1, 0])
    assert (second.decisions, second.refusals, second.batch_rows[:4]) == ({"approve none": 1}, {}, [0, 1, 0, 0])
    assert (third.decisions, third.totals) == ({}, {})
    assert [one.cpu_seconds for one in (first, second, third)] == pytest.approx([2e-5, 1e-5, 0])
    events = [line for line in lines if isinstance(line, EventLine)]
    assert [(event.cause, event.start_s - WALL_NS / S, event.duration_ns) for event in events] == [
        ("gc", pytest.approx(0.995, abs=1e-6), MS),
        ("swap", 3.0, 0),
    ]
    slow = Run.load([path]).exemplars
    assert [(one.decision_id, one.stages_ns["total"], [event.cause for event in one.events]) for one in slow] == [
        ("run-1", 60 * MS, ["gc"]),
        ("run-2", 20 * MS, ["swap"]),
        ("run-0", 10 * MS, ["gc"]),
    ]


def test_the_wall_clock_may_go_back_and_the_log_does_not(tmp_path: Path) -> None:
    """It is read once; what comes later is counted by the monotonic clock."""
    process = Process(tmp_path)
    for now_ns in (6 * S, 7 * S, 8 * S):
        process.decide([1], now_ns)
        path = process.log.write(now_ns)
    assert [one.end_s - WALL_NS / S for one in read_hlog(path) if one.stage == "total"] == [1, 2, 3]


def test_a_log_whose_clock_went_back_is_refused_with_its_line(tmp_path: Path) -> None:
    recorder, path, other = Recorder(), tmp_path / "a.hlog", tmp_path / "b.hlog"
    recorder.record_one("total", MS)
    write_hlog(path, recorder.since_start(), WALL_NS, WALL_NS + 10 * S)
    write_hlog(other, recorder.since_start(), WALL_NS + 9 * S, WALL_NS + 20 * S)
    lines = path.read_text() + other.read_text()
    path.write_text(lines)
    with pytest.raises(SnapshotError, match=r"a.hlog:8: .*total begins 1.000 s before .* the clock went back"):
        merge_hlogs([path])
    with pytest.raises(SnapshotError, match=r"b.hlog: given twice"):
        merge_hlogs([other, tmp_path / "." / "b.hlog"])


def test_what_could_not_be_written_stands_in_the_next_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process, whole = Process(tmp_path), Recorder()
    process.decide([10], 6 * S)
    process.log.write(6 * S)
    process.decide([30], 7 * S)
    for failing in (1, 2):  # the side file's write, then the log's
        calls = iter([None] * (failing - 1))

        def sync(_descriptor: int, calls: object = calls) -> None:
            if next(calls, "full") == "full":  # type: ignore[call-overload]
                raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", sync)
            with pytest.raises(OSError, match="No space"):
                process.log.write(7 * S)
    process.decide([20], 8 * S)
    run = Run.load([process.log.write(8 * S)])
    whole.record("total", np.array([10, 30, 20]) * MS)
    assert cells(run.merged.distributions["total"]) == cells(whole.since_start()["total"])
    assert run.decisions == {"approve none": 3}
    assert [one.decision_id for one in run.exemplars] == ["run-1", "run-2", "run-0"]


def test_a_directory_that_cannot_be_had_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"latency.hlog_dir .*file.*: cannot be made"):
        Process(tmp_path / "file")


async def test_the_task_writes_now_and_then_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    process = Process(tmp_path)
    now_ns = iter(range(6 * S, 10**6 * S, S))
    process.decide([1], 5 * S + 1)
    task = IntervalTask(process.log, 0.01, lambda: next(now_ns))
    while not process.log.path.exists():
        await asyncio.sleep(0.005)
    process.decide([2], 5 * S + 2)
    assert await task.stop() == f"latency written to {process.log.path}"
    assert merge_hlogs([process.log.path]).distributions["total"].count == 2
    task = IntervalTask(process.log, 1_000, lambda: next(now_ns))
    monkeypatch.setattr(process.log, "write", broken)
    assert await task.stop() == "the last latencies are lost"
    assert "not written" in caplog.text


def broken(_now_ns: int) -> Path:
    raise OSError(5, "Input/output error")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"nothing", ":1: not a line of a side file: JSON is malformed"),
        (b'{"kind": "gossip"}', ":1: not a line of a side file: Invalid value 'gossip'"),
        (b'{"kind": "event", "cause": "gc"}', ":1: not a line of a side file: Object missing required field"),
        (b"\xff\xfe", ":1: not a line of a side file"),
    ],
)
def test_a_damaged_side_file_is_refused_with_its_line(tmp_path: Path, line: bytes, message: str) -> None:
    path = Process(tmp_path).log.write(6 * S)
    beside(path).write_bytes(line + b"\n")
    with pytest.raises(SnapshotError) as error:
        read(beside(path))
    assert f"{beside(path)}{message}" in str(error.value)


# -- the page ----------------------------------------------------------------------------------------------------------


def two_workers(directory: Path) -> list[Path]:
    """Two processes, 1,000 decisions each, some of them late, with all that can stand in a side file."""
    paths = []
    for seed in (1, 2):
        process = Process(directory / str(seed), WALL_NS + seed * S)
        random = np.random.default_rng(seed)
        for number in range(100):
            process.decide(random.integers(1, 60, 10).tolist(), 6 * S + number * MS)
        process.recorder.record("budget_spent", random.integers(10, 1_100, 1_000))
        process.timeline.note("log_write", 6 * S, 6 * S + 40 * MS, "<b>1,024</b> bytes")
        process.timeline.note("gc", 6 * S, 6 * S + MS, "generation 0")
        process.counters.count_refusal("queue_full", 7)
        process.counters.count("fraudgate_ledger_mismatch_total")
        paths.append(process.log.write(10 * S))
    return paths


def test_the_page_needs_nothing_else_and_shows_it_all(tmp_path: Path) -> None:
    run = Run.load(two_workers(tmp_path))
    html = to_html(run, core_hour_price=36.0)
    page = Balanced()
    page.feed(html)
    assert page.open == []
    assert not {"script", "link", "img", "iframe"} & set(page.seen)
    assert not [value for name in ("src", "href") for value in page.attributes.get(name, [])]
    for text in (
        "2,000 decisions",
        "p99, whole; the budget is 50 ms",
        "goodput",
        "10.0 transactions on average",
        "14 of 2,014 transactions ended with a status",
        "log write",
        "&lt;b&gt;1,024&lt;/b&gt; bytes",
        "generation 0",
        "for 99.900% of the decisions the stages add up",
        "10.0 s per million decisions",
        "0.1000 per million decisions, at 36 for a core and hour",
        "The slowest decisions",
    ):
        assert text in html, text
    assert run.late == run.merged.distributions["whole"].count - run.merged.distributions["whole"].at_most(50 * MS) > 0
    assert run.goodput == pytest.approx((2_000 - run.late) / 6)


def test_a_callers_log_makes_a_page_of_what_it_has(tmp_path: Path) -> None:
    recorder, path = Recorder(), tmp_path / "load.hlog"
    recorder.record("queue", np.full(100, 3 * MS))
    write_hlog(path, {"client": recorder.since_start()["queue"]}, WALL_NS, WALL_NS + S)
    html = to_html(Run.load([path]))
    assert "p99, client" in html
    assert "Not in these logs" in html
    write_hlog(path, {"other": recorder.since_start()["queue"]}, WALL_NS, WALL_NS + S)
    assert "Latency" in to_html(Run.load([path]))


def test_the_command_writes_page_hgrm_and_json_and_says_what_was_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = [str(path) for path in two_workers(tmp_path)]
    html, hgrm, budget = (str(tmp_path / name) for name in ("out.html", "out.hgrm", "budget.toml"))
    Path(budget).write_text('[stages]\nqueue="1ms"\nfeatures="1ms"\ninference="1ms"\nguardrails="1ms"\nrespond="1ms"\n')
    assert command.run(parse(*logs, "--html", html, "--hgrm", hgrm, "--stage", "queue", "--budget", budget)) == 0
    printed = capsys.readouterr().out
    assert "14 queue_full" in printed
    assert "ledger: 2 decisions" in printed
    assert "timeline: 2 gc, 2 log_write" in printed
    assert any(line.startswith("queue") and line.endswith("over at p50") for line in printed.splitlines())
    assert "<title>" in Path(html).read_text()
    assert Path(hgrm).read_text().split()[0] == "Value"
    assert command.run(parse(*logs, "--json")) == 0
    run = json.loads(capsys.readouterr().out)["run"]
    assert (run["decisions"], run["ledger_mismatches"], run["refusals"]) == (
        {"approve none": 2_000},
        2,
        {"queue_full": 14},
    )
    assert run["events"] == {"log_write": 2, "gc": 2}
    for arguments, message in {
        (*logs, "--hgrm", hgrm, "--stage", "lunch"): "--stage lunch: the logs hold",
        (*logs, "--html", "x.hlog"): "--html x.hlog would overwrite a log",
        ("--target", "127.0.0.1:1", "--html", html): "are made from .hlog files",
        (*logs, "--budget", str(tmp_path / "none.toml")): "none.toml: cannot be read",
    }.items():
        assert command.run(parse(*arguments)) == 2
        assert message in capsys.readouterr().err
