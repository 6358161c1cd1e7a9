"""The ops HTTP server over real sockets."""

import json
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection, HTTPResponse

import pytest

from fraudgate.errors import ConfigError
from fraudgate.latency.exemplars import Exemplars
from fraudgate.latency.recorder import STAGES, Counters, Recorder
from fraudgate.latency.timeline import Timeline
from fraudgate.ops import listener
from fraudgate.ops.http import RENDERS_BURST, OpsServer
from tests.property.test_exemplars_oracle import batch, editions

MS = 1_000_000


class Ops:
    """A running server and what it shows."""

    def __init__(self, connection_ns_max: int = listener.CONNECTION_NS_MAX) -> None:
        self.recorder, self.counters, self.ready = Recorder(), Counters(), False
        self.timeline = Timeline()
        self.exemplars = Exemplars(self.timeline, editions())
        self.server = OpsServer(
            self.recorder,
            self.counters,
            lambda: self.ready,
            port=0,
            exemplars=self.exemplars,
            clock=lambda: 77,
            connection_ns_max=connection_ns_max,
        )
        self.server.start()

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[HTTPResponse, str]:
        connection = HTTPConnection("127.0.0.1", self.server.port, timeout=10)
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        body = response.read().decode()
        connection.close()
        return response, body

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.server.port), timeout=10)


@pytest.fixture
def ops() -> Iterator[Ops]:
    ops = Ops()
    yield ops
    ops.server.close()


def test_probes_tell_alive_from_ready(ops: Ops) -> None:
    assert ops.ask("/livez")[0].status == 200
    assert ops.ask("/readyz")[0].status == 503
    ops.ready = True
    assert ops.ask("/readyz")[0].status == 200


def test_metrics_are_prometheus_text(ops: Ops) -> None:
    ops.counters.count_refusal("draining")
    response, body = ops.ask("/metrics?x=1")
    assert response.status == 200
    assert response.headers["Content-Type"].startswith("text/plain; version=")
    assert 'fraudgate_refusals_total{reason="draining"} 1.0' in body
    assert 'fraudgate_build_info{python="3.' in body


def test_latency_is_the_report_as_json(ops: Ops) -> None:
    ops.recorder.record_one("total", 60 * MS)
    response, body = ops.ask("/latency")
    assert response.headers["Content-Type"] == "application/json"
    report = json.loads(body)
    assert (report["budget_ns"], report["interval_ns"], report["over_budget"]) == (50 * MS, 77, 1)
    assert [stage["stage"] for stage in report["stages"]] == list(STAGES)
    assert report["stages"][4]["p99_ns"] == pytest.approx(60 * MS, rel=1e-3)


def test_exemplars_are_the_slowest_of_late_with_what_happened_meanwhile(ops: Ops) -> None:
    assert ops.ask("/exemplars")[1] == "[]\n"
    ops.timeline.note("gc", 40, 50, "generation 1")
    ops.exemplars.record_batch(batch(7, [10, 60], 77))
    slow, fast = json.loads(ops.ask("/exemplars")[1])
    assert (slow["decision_id"], slow["arrival_ns"], slow["stages_ns"]["total"]) == ("run-8", 17, 60)
    assert slow["events"] == [{"cause": "gc", "start_ns": 40, "end_ns": 50, "detail": "generation 1"}]
    assert fast["events"] == []


def test_percentile_text_of_total_or_another_stage(ops: Ops) -> None:
    ops.recorder.record_repeated("queue", 5 * MS, 3)
    assert "Total count    =            0" in ops.ask("/latency.hgrm")[1]
    assert "Total count    =            3" in ops.ask("/latency.hgrm?stage=queue")[1]
    response, body = ops.ask("/latency.hgrm?stage=lunch")
    assert response.status == 404
    assert "guardrails" in body


@pytest.mark.parametrize("path", ["/page/index.html", "/metrics/", "/nothing", "/../etc/passwd", "/latency.HGRM"])
def test_other_paths_are_not_there_and_say_what_is(ops: Ops, path: str) -> None:
    response, body = ops.ask(path)
    assert response.status == 404
    assert "/metrics" in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "BREW"])
def test_other_methods_are_refused(ops: Ops, method: str) -> None:
    response, _ = ops.ask("/metrics", method)
    assert response.status == 405
    assert response.headers["Allow"] == "GET"


@pytest.mark.parametrize(
    ("request_bytes", "code"),
    [(b"\x00\x01\x02\r\n\r\n", b"400"), (b"GET /livez FTP/9\r\n\r\n", b"400"), (b"G" * 65_537, b"414")],
    ids=["binary", "another protocol", "endless line"],
)
def test_nonsense_is_answered_with_an_error_and_disturbs_nobody(ops: Ops, request_bytes: bytes, code: bytes) -> None:
    with ops.connect() as client:
        client.sendall(request_bytes)
        assert code in client.recv(4096)
    assert ops.ask("/livez")[0].status == 200


def test_a_route_that_fails_is_an_internal_error(ops: Ops, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops.recorder, "report", lambda now_ns: 1 / 0)
    assert ops.ask("/latency")[0].status == 500
    assert ops.ask("/livez")[0].status == 200


def test_a_thousand_that_send_nothing_keep_nobody_out(ops: Ops) -> None:
    silent = [ops.connect() for _ in range(1_000)]
    assert ops.ask("/livez")[0].status == 200
    with ops.connect() as trickling:
        trickling.sendall(b"GET /livez HT")
        assert ops.ask("/metrics")[0].status == 200
        trickling.sendall(b"TP/1.0\r\n\r\n")
        assert b" 200 " in trickling.recv(4096)
    assert silent[0].recv(4096).startswith(b"HTTP/1.0 503")  # the oldest made room
    for client in silent:
        client.close()


def test_the_connections_kept_are_bounded(ops: Ops, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "CONNECTIONS_MAX", 2)
    with ops.connect() as first, ops.connect() as second, ops.connect() as third:
        refused = first.recv(4096)
        assert refused.startswith(b"HTTP/1.0 503")
        assert b"Retry-After: 2\r\n" in refused
        for client in (second, third):
            client.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
            assert b" 200 " in client.recv(4096)


def test_an_answer_survives_what_was_sent_too_much(ops: Ops) -> None:
    with ops.connect() as client:
        client.sendall(b"POST /metrics HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000))
        assert b" 405 " in client.recv(4096)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(4096) == b""


def test_who_asks_in_a_hurry_gets_the_last_answer_again(ops: Ops) -> None:
    for number in range(RENDERS_BURST + 2):
        ops.recorder.record_one("queue", 1)
        report = json.loads(ops.ask("/latency")[1])
        assert report["stages"][0]["count"] == min(number + 1, RENDERS_BURST)


def test_percentile_texts_are_bounded(ops: Ops) -> None:
    statuses = [ops.ask("/latency.hgrm")[0].status for _ in range(RENDERS_BURST + 1)]
    assert statuses == [200] * RENDERS_BURST + [503]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/dashboard.css", "text/css; charset=utf-8"),
        ("/dashboard.js", "text/javascript; charset=utf-8"),
        ("/charts.js", "text/javascript; charset=utf-8"),
        ("/icon.svg", "image/svg+xml"),
        ("/dashboard.json", "application/json"),
        ("/history.json", "application/json"),
    ],
)
def test_the_dashboard_is_served_and_sent_once(ops: Ops, path: str, kind: str) -> None:
    response, body = ops.ask(path)
    assert (response.status, response.headers["Content-Type"], bool(body)) == (200, kind, True)
    assert response.headers["Content-Security-Policy"].startswith("default-src 'self';")
    again, nothing = ops.ask(path, **{"If-None-Match": response.headers["ETag"]})
    assert (again.status, nothing) == (304, "")


def test_the_page_names_no_other_host(ops: Ops) -> None:
    for path in ("/", "/dashboard.css", "/charts.js", "/dashboard.js"):
        addresses = re.findall(r"//[^\s/-]+", ops.ask(path)[1])
        assert {*addresses} <= {"//www.w3.org"}, path  # the name of SVG, which is not fetched


def test_a_client_that_trickles_is_cut_off() -> None:
    ops = Ops(connection_ns_max=1)
    with ops.connect() as client:
        client.sendall(b"GET /livez HT")
        with suppress(ConnectionResetError):  # it may be cut before what it sent was read
            assert client.recv(4096) == b""
    ops.server.close()


def test_a_taken_port_is_a_configuration_error(ops: Ops) -> None:
    with pytest.raises(ConfigError, match=f"127.0.0.1:{ops.server.port}"):
        OpsServer(ops.recorder, ops.counters, lambda: True, port=ops.server.port)


def test_a_server_that_was_never_started_can_be_closed() -> None:
    OpsServer(Recorder(), Counters(), lambda: True, port=0).close()
