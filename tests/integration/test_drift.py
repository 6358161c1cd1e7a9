"""Drift over the wire: the reference of a published model or of live traffic, the report and the metrics."""

import asyncio
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest

from fraudgate.drift.reference import Reference
from fraudgate.errors import EngineRefused, SnapshotError
from fraudgate.features.schema import FeatureSchema
from fraudgate.v1 import latency_pb2
from tests.integration.server import MODEL, Running, serve, transaction
from tests.unit.onnx_graphs import int8_graph, publish_graph

pytestmark = [pytest.mark.asyncio, pytest.mark.usefixtures("frontend")]


@pytest.mark.parametrize("published", [True, False])
async def test_the_report_names_what_has_drifted_from_the_reference(
    models: Path, tmp_path: Path, published: bool
) -> None:
    schema = FeatureSchema.named("handbook")
    rows = 1_024
    if published:
        features = np.zeros((rows, len(schema.names)), np.float32)
        features[:, 0] = np.arange(rows) % 64
        reference = Reference.of(schema.names, features, np.full(rows, 0.5, np.float32))
        graph = int8_graph(features=len(schema.names))
        files = {"drift.json": reference.to_json()}
        publish_graph(tmp_path, graph, files, name=MODEL, schema_fingerprint=schema.fingerprint)
        models = tmp_path
    sizes = {"window_rows": rows, "reference_rows": rows}
    async with serve(models, drift=sizes) as server:
        for kind, amounts in (("first", 100), ("then", 100), ("larger", 10_000)):
            if published and kind == "first":
                continue
            for half in range(2):
                made = [
                    transaction(f"{kind} {half} {row}", amount_minor=amounts * (row % 64)) for row in range(rows // 2)
                ]
                await server.score_rows(made)
            report = (await server.latency.GetLatencyReport(latency_pb2.GetLatencyReportRequest())).drift
            assert report.source == ("model" if published else "live")
            assert report.reference_rows == report.reference_rows_wanted == rows
            verdicts = {each.feature: each.verdict for each in report.features}
            if kind == "first":
                assert (report.window_rows, verdicts) == (0, {})
            else:
                assert report.window_rows == rows
                assert verdicts["TX_AMOUNT"] == ("drifted" if kind == "larger" else "steady")
                assert verdicts["TX_DURING_NIGHT"] == "calendar"
                assert verdicts.keys() == {*schema.names, "score"}
        url = f"http://127.0.0.1:{server.service._ops.port}/metrics"
        text = (await asyncio.to_thread(lambda: urlopen(url).read())).decode()
        assert 'fraudgate_drifted{feature="TX_AMOUNT"} 1.0' in text


async def test_a_restart_does_not_take_a_drifted_stream_as_its_reference(models: Path, tmp_path: Path) -> None:
    rows = 1_024
    sections = {"drift": {"window_rows": rows, "reference_rows": rows}, "state": {"dir": str(tmp_path)}}

    async def sent(server: Running, kind: str, amount_minor: int) -> dict[str, str]:
        for half in range(2):
            made = [
                transaction(f"{kind} {half} {row}", amount_minor=amount_minor * (row % 64)) for row in range(rows // 2)
            ]
            await server.score_rows(made)
        report = (await server.latency.GetLatencyReport(latency_pb2.GetLatencyReportRequest())).drift
        assert (report.source, report.reference_rows) == ("live", rows)
        return {each.feature: each.verdict for each in report.features}

    async with serve(models, **sections) as server:
        assert await sent(server, "first", 100) == {}
    for again in range(2):
        async with serve(models, **sections) as server:
            assert "restored drift: 1,024 transactions of before are the reference" in server.lines
            found = await sent(server, f"then {again}", 10_000)
            assert found["TX_AMOUNT"] == "drifted"
            assert "score" in found


async def test_a_damaged_drift_snapshot_is_refused_by_name(models: Path, tmp_path: Path) -> None:
    (tmp_path / "drift.json").write_bytes(b'{"columns": [')
    with pytest.raises(SnapshotError, match=r"drift\.json: cannot be read .*delete it to make a reference anew"):
        async with serve(models, state={"dir": str(tmp_path)}):
            pass


async def test_drift_can_be_switched_off(models: Path) -> None:
    async with serve(models, drift={"enabled": False}) as server:
        report = await server.latency.GetLatencyReport(latency_pb2.GetLatencyReportRequest())
        assert not report.HasField("drift")
        assert not any("drift" in line for line in server.lines)


async def test_a_drift_reference_of_other_features_is_refused(tmp_path: Path) -> None:
    reference = Reference.of(("OTHER",), np.zeros((4, 1), np.float32), np.zeros(4, np.float32))
    schema = FeatureSchema.named("handbook")
    files = {"drift.json": reference.to_json()}
    graph = int8_graph(features=len(schema.names))
    publish_graph(tmp_path, graph, files, name=MODEL, schema_fingerprint=schema.fingerprint)
    with pytest.raises(EngineRefused, match="other features"):
        async with serve(tmp_path):
            pass
