"""Histogram logs, the percentile text, the table, `fraudgate report`, and LatencyService behind it."""

import argparse
import asyncio
import base64
import json
import math
import random
import re
from io import BytesIO
from pathlib import Path

import grpc.aio
import numpy as np
import pytest
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

from fraudgate.commands import report as command
from fraudgate.control.latency import LatencyServicer
from fraudgate.drift.watch import DriftReport, FeatureDrift
from fraudgate.engines.report import FleetReport
from fraudgate.errors import SnapshotError
from fraudgate.latency.histogram import HIGHEST_NS, LOWEST_NS, SIGNIFICANT_DIGITS
from fraudgate.latency.recorder import STAGES, Recorder
from fraudgate.latency.report import merge_hlogs, percentile_text, render_table, write_hlog
from fraudgate.v1 import latency_pb2, latency_pb2_grpc
from tests.unit.test_fleet import FakeEngine
from tests.unit.test_tiers import Tiered

MS, S = 1_000_000, 1_000_000_000
START_NS = 1_533_686_400 * S


def recorded(seed: int, rows: int = 500) -> Recorder:
    values = np.random.default_rng(seed).lognormal(15, 1, rows).astype(np.int64)
    recorder = Recorder()
    recorder.record("total", values)
    recorder.record("queue", values // 2)
    return recorder


def log(path: Path, recorder: Recorder, start_ns: int = START_NS) -> Path:
    write_hlog(path, recorder.since_start(), start_ns, start_ns + 90 * S)
    return path


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(arguments)


def test_a_log_reads_back_as_it_was_written(tmp_path: Path) -> None:
    recorder = recorded(1)
    recorder.record_one("total", 100 * S)
    path = log(tmp_path / "run.hlog", recorder)
    merged = merge_hlogs([path])
    assert list(merged.distributions) == ["queue", "total"], "stages without values are left out"
    assert [p.name for p in tmp_path.iterdir()] == ["run.hlog"]
    report = merged.report()
    assert report.interval_ns == 90 * S
    live = {stage.stage: stage for stage in recorder.report(0).stages}
    assert {stage.stage: stage for stage in report.stages} == {name: live[name] for name in ("queue", "total")}
    assert report.over_budget == recorder.report(0).over_budget > 0
    assert report.stages[1].over_range == 1


def test_the_librarys_own_reader_reads_the_log(tmp_path: Path) -> None:
    recorder = recorded(2)
    reader = HistogramLogReader(str(log(tmp_path / "run.hlog", recorder)), HdrHistogram(1, 2, 3))
    by_tag = {}
    while histogram := reader.get_next_interval_histogram():
        by_tag[histogram.get_tag()] = histogram
    reader.input_file.close()
    total = recorder.since_start()["total"]
    assert by_tag.keys() == {"queue", "total"}
    assert by_tag["total"].get_total_count() == 500
    assert by_tag["total"].get_value_at_percentile(99) == total.percentile(99)
    assert reader.get_start_time_sec() == START_NS / S
    assert by_tag["total"].get_start_time_stamp() == START_NS / MS
    assert by_tag["total"].get_end_time_stamp() == START_NS / MS + 90_000


def test_merged_logs_equal_one_recorder_that_saw_everything(tmp_path: Path) -> None:
    whole, paths = Recorder(), []
    for seed in (3, 4, 5):
        part = recorded(seed)
        paths.append(log(tmp_path / f"{seed}.hlog", part, START_NS + seed * S))
        values = np.random.default_rng(seed).lognormal(15, 1, 500).astype(np.int64)
        whole.record("total", values)
        whole.record("queue", values // 2)
    report = merge_hlogs(paths).report()
    assert report.interval_ns == 92 * S
    expected = {stage.stage: stage for stage in whole.report(0).stages}
    assert {stage.stage: stage for stage in report.stages} == {name: expected[name] for name in ("queue", "total")}


def test_untagged_and_unknown_stages_come_after_the_known(tmp_path: Path) -> None:
    path = log(tmp_path / "run.hlog", recorded(6))
    text = path.read_text()
    path.write_text(text + text.replace("Tag=queue", "Tag=client").replace("Tag=total,", ""))
    assert [stage.stage for stage in merge_hlogs([path]).report().stages] == ["queue", "total", "client", "untagged"]


def foreign_line() -> str:
    histogram = HdrHistogram(1_000, HIGHEST_NS, SIGNIFICANT_DIGITS)
    histogram.record_value(5 * MS)
    return f"0.0,1.0,5.0,{histogram.encode().decode()}"


DAMAGED = {
    "not text": (b"\x89PNG\r\n\x1a\n\xff\xfe", "not text"),
    "another kind of text": (b"time,latency\n1,2\n", ":1: not a histogram log line"),
    "empty": (b"", "holds no histogram"),
    "comments only": (b"#[Histogram log format version 1.3]\n", "holds no histogram"),
    "another layout": (foreign_line().encode(), "1000..60000000000 with 3 digits"),
    "not base64": (b"#\nTag=total,0.0,1.0,5.0,HIST!!\n", ":2: not a histogram log line"),
    "base64 of something else": (b"0.0,1.0,5.0," + base64.b64encode(b"x" * 64), ":1: not a histogram log line"),
    "three fields": (b"0.0,1.0,5.0", ":1: not a histogram log line"),
}


@pytest.mark.parametrize(("content", "message"), DAMAGED.values(), ids=list(DAMAGED))
def test_damaged_and_foreign_logs_are_refused_with_their_place(tmp_path: Path, content: bytes, message: str) -> None:
    good, bad = log(tmp_path / "good.hlog", recorded(7)), tmp_path / "bad.hlog"
    bad.write_bytes(content)
    with pytest.raises(SnapshotError, match=re.escape(message)) as error:
        merge_hlogs([good, bad])
    assert str(error.value).startswith(str(bad))


def test_a_log_cut_or_changed_anywhere_is_refused_or_read_but_never_crashes(tmp_path: Path) -> None:
    """The line's outer fields carry no checksum, so a changed time may pass; the histogram's bytes carry zlib's."""
    dice, refused = random.Random(8), 0
    whole = log(tmp_path / "run.hlog", recorded(9, rows=50)).read_bytes()
    payload = whole.index(b"HIST")
    for _ in range(300):
        damaged = bytearray(whole)
        place = dice.randrange(payload + 12, len(whole) - 400)
        damaged[place] = dice.choice(b"ABCDwxyz0189+/=,# \n\xff")
        cut = damaged[: dice.randrange(payload, len(whole))] if dice.random() < 0.5 else damaged
        path = tmp_path / "damaged.hlog"
        path.write_bytes(cut)
        try:
            counts = {name: values.count for name, values in merge_hlogs([path]).distributions.items()}
        except SnapshotError:
            refused += 1
        else:
            assert set(counts.values()) <= {50}
    assert refused > 250


def test_the_percentile_text_agrees_with_the_library() -> None:
    distribution = recorded(10, rows=5_000).since_start()["total"]
    oracle = distribution.hdr()
    lines = percentile_text(distribution).splitlines()
    assert lines[0].split() == ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]
    rows = [line.split() for line in lines if re.match(r" +\d", line)]
    percentiles = [float(row[1]) for row in rows]
    assert percentiles == sorted(percentiles)
    assert percentiles[:11] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75])
    values = np.repeat([value_at(oracle, index) for index in distribution.indices], distribution.counts)
    for value_ms, percentile, count, *_ in rows:
        value_ns = values[max(math.ceil(float(percentile) * 5_000), 1) - 1]
        assert (value_ms, int(count)) == (f"{value_ns / MS:.3f}", (values <= value_ns).sum())
    library = BytesIO()
    oracle.output_percentile_distribution(library, MS)
    theirs = [line.split() for line in library.getvalue().decode().splitlines() if re.match(r" +\d", line)]
    assert rows[0] == theirs[0]
    assert rows[-1] == theirs[-1]
    assert lines[-3].split()[2] == f"{oracle.get_mean_value() / MS:.3f},"
    assert lines[-3].split()[-1] == f"{oracle.get_stddev() / MS:.3f}]"
    assert lines[-2].split()[2] == f"{oracle.get_max_value() / MS:.3f},"
    assert lines[-1].split()[2] == f"{oracle.bucket_count},"
    assert lines[-1].split()[-1] == f"{oracle.sub_bucket_count}]"


def value_at(oracle: HdrHistogram, index: np.int64) -> int:
    return int(oracle.get_highest_equivalent_value(oracle.get_value_from_index(int(index))))


def test_the_table_shows_every_used_stage_in_milliseconds_against_the_budget() -> None:
    recorder = Recorder()
    recorder.record_repeated("queue", 5 * MS, 1_000)
    recorder.record_repeated("total", 10 * MS, 999)
    recorder.record_one("total", 60 * MS)
    recorder.record_one("respond", 100 * S)
    lines = render_table(recorder.report(0)).splitlines()
    assert lines[0].split() == ["ms", "count", "p50", "p90", "p99", "p99.9", "max", "p99", "of", "50", "ms"]
    assert lines[1].split() == ["queue", "1,000", *["5.001"] * 5, "10.0", "%"]
    assert lines[2].split()[:2] == ["total", "1,000"]
    assert lines[2].split()[-3:] == ["60.031", "20.0", "%"]
    assert lines[4:] == [
        "1 of 1,000 decisions took longer than the budget of 50 ms",
        "respond: 1 values above 60 s stand at the top",
    ]


def test_the_command_prints_a_table_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(log(tmp_path / "run.hlog", recorded(11)))
    assert command.run(parse(path)) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("queue")
    assert command.run(parse(path, "--json")) == 0
    printed = json.loads(capsys.readouterr().out)
    assert command.run(parse(path, "--json", str(tmp_path / "out.json"))) == 0
    assert json.loads((tmp_path / "out.json").read_text()) == printed
    assert printed["budget_ns"] == 50 * MS
    assert [stage["stage"] for stage in printed["stages"]] == ["queue", "total"]
    assert capsys.readouterr().out == ""


def test_usage_and_unreadable_files_end_with_2_and_overwrite_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = log(tmp_path / "run.hlog", recorded(12))
    before = path.read_bytes()
    for arguments, message in {
        (): "name .hlog files",
        ("--json", str(path)): "would overwrite a log",
        (str(path), "--target"): "name .hlog files",
        (str(tmp_path / "absent.hlog"),): "absent.hlog: No such file",
        (str(path), "--json", str(tmp_path / "absent" / "x.json")): "No such file",
        ("--target", "127.0.0.1:1"): "127.0.0.1:1 does not answer: UNAVAILABLE",
    }.items():
        assert command.run(parse(*arguments)) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.out == ""
    assert path.read_bytes() == before


async def test_a_live_server_reports_and_resets_over_grpc(capsys: pytest.CaptureFixture[str]) -> None:
    recorder, now_ns = recorded(13), [5]
    server = grpc.aio.server()
    latency_pb2_grpc.add_LatencyServiceServicer_to_server(LatencyServicer(recorder, lambda: now_ns[0]), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    target = f"127.0.0.1:{port}"
    assert await asyncio.to_thread(command.run, parse("--json", "--target", target)) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(json.dumps(recorder.report(5).as_json()))
    async with grpc.aio.insecure_channel(target) as channel:
        stub = latency_pb2_grpc.LatencyServiceStub(channel)
        now_ns[0] = 9
        ended = await stub.ResetLatency(latency_pb2.ResetLatencyRequest())
        fresh = await stub.GetLatencyReport(latency_pb2.GetLatencyReportRequest())
    assert [stage.stage for stage in ended.stages] == list(STAGES)
    assert (ended.interval_ns, ended.stages[4].count) == (9, 500)
    assert (fresh.interval_ns, fresh.stages[4].count) == (0, 0)
    await server.stop(None)


class FakeDrift:
    """A drift watch whose report is given."""

    def __init__(self, *features: FeatureDrift) -> None:
        self.given = DriftReport("live", 900, 1_000, 640, 3, features)

    def report(self) -> DriftReport:
        return self.given


@pytest.mark.parametrize(
    ("drift", "printed"),
    [
        (FakeDrift(), ["too few transactions so far"]),
        (
            FakeDrift(
                FeatureDrift("TX_AMOUNT", 0.25, 0.5, 640, "drifted"),
                FeatureDrift("score", 0.0625, 0.125, 637, "steady"),
                FeatureDrift("NIGHT", 4.0, 0.5, 640, "calendar"),
            ),
            [
                "             PSI     KS          ",
                "TX_AMOUNT  0.250  0.500   drifted",
                "score      0.062  0.125    steady",
                "NIGHT      4.000  0.500  calendar",
                "drifted: TX_AMOUNT",
            ],
        ),
    ],
)
async def test_a_live_server_reports_its_drift(
    capsys: pytest.CaptureFixture[str], drift: FakeDrift, printed: list[str]
) -> None:
    server = grpc.aio.server()
    servicer = LatencyServicer(recorded(13), drift=drift)  # type: ignore[arg-type]  # only ``report`` is asked
    latency_pb2_grpc.add_LatencyServiceServicer_to_server(servicer, server)
    target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    assert await asyncio.to_thread(command.run, parse("--json", "--target", target)) == 0
    assert json.loads(capsys.readouterr().out)["drift"] == json.loads(json.dumps(drift.given.as_json()))
    assert await asyncio.to_thread(command.run, parse("--target", target)) == 0
    lines = capsys.readouterr().out.splitlines()
    head = "drift: the last 640 transactions against 900 of 1,000 reference rows (the first live ones)"
    assert lines[lines.index(head) + 1 :] == [*printed, "3 transactions of the window have no score"]
    await server.stop(None)


async def test_a_live_server_reports_its_engines_and_what_each_tier_costs(capsys: pytest.CaptureFixture[str]) -> None:
    yard = await asyncio.to_thread(tried)
    fleet = FleetReport.of(yard.fleet)
    assert fleet.trial is not None
    assert fleet.tier is not None
    server = grpc.aio.server()
    latency_pb2_grpc.add_LatencyServiceServicer_to_server(LatencyServicer(recorded(13), fleet=yard.fleet), server)
    target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    assert await asyncio.to_thread(command.run, parse("--json", "--target", target)) == 0
    assert json.loads(capsys.readouterr().out)["fleet"] == json.loads(json.dumps(fleet.as_json()))
    assert await asyncio.to_thread(command.run, parse("--target", target)) == 0
    printed = capsys.readouterr().out.split("\n\n")[1].splitlines()
    assert printed[:2] == [
        "engines: m/1 live, m/large tier, m/2 canary; 0 rolled back, 0 batches skipped in the shadow",
        "on trial: m/2 for 25 % of the customers, 64 rows compared, 0 decisions flipped, "
        "scores differ by 0.0000 on average",
    ]
    assert [line.split()[0] for line in printed[2:]] == ["tier", "small", "small,", "large"]
    assert printed[3].split()[1:] == [
        str(fleet.tier.small_rows),
        f"{fleet.tier.small_rows / 64:.1%}",
        f"{fleet.tier.small_decision_ns / 1_000:.2f}",
    ]
    await server.stop(None)


def tried() -> Tiered:
    """Two tiers, a canary, and two batches."""
    yard = Tiered()
    yard.fleet.promote(yard.loaded(FakeEngine("2")), (25, 100))
    yard.send(2)
    return yard


def test_the_layout_covers_a_minute_in_nanoseconds() -> None:
    assert (LOWEST_NS, HIGHEST_NS, SIGNIFICANT_DIGITS) == (1, 60 * S, 3)
