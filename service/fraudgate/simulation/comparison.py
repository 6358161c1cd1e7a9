"""Predicted against measured: the simulator beside a real server on this machine, at the same rate."""

import asyncio
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from fraudgate import load
from fraudgate.config import Config
from fraudgate.demo.server import Server, free_ports, serve_command, to_toml
from fraudgate.errors import FraudgateError
from fraudgate.latency.report import aligned
from fraudgate.limits import MILLISECOND_NS, SECOND_NS
from fraudgate.simulation.calibration import as_json as costs_as_json
from fraudgate.simulation.calibration import calibrate
from fraudgate.simulation.calibration import render as render_costs
from fraudgate.simulation.costs import Costs
from fraudgate.simulation.profiles import Profile
from fraudgate.simulation.report import percentiles_ms
from fraudgate.simulation.run import simulate

CONNECTIONS = 4
GRACE_NS = 5 * SECOND_NS
WARM_SECONDS = 1.0
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p999": 99.9}


class Comparison(NamedTuple):
    """Percentiles of what callers saw, milliseconds by name."""

    rate: float
    calls: int
    costs: Costs
    predicted_ms: dict[str, float]
    measured_ms: dict[str, float]

    @property
    def difference_ms(self) -> dict[str, float]:
        """Measured less predicted."""
        return {name: round(self.measured_ms[name] - self.predicted_ms[name], 3) for name in PERCENTILES}


def compare(rate: float, seconds: float, seed: int) -> Comparison:
    """Calibrate, measure a server of default settings with the native load generator, and predict the same.

    Raises FraudgateError where the server does not come up or calls are lost.
    """
    costs = calibrate(Config())
    report = measure(rate, seconds, seed)
    result = simulate(seed, report.sent, "calm", Profile(rate=rate), costs)
    if result.broken is not None:
        raise FraudgateError(f"the simulation broke: {result.broken}")
    measured = {name: round(report.decided.percentile(at) / MILLISECOND_NS, 3) for name, at in PERCENTILES.items()}
    return Comparison(rate, report.sent, costs, percentiles_ms(result), measured)


def measure(rate: float, seconds: float, seed: int) -> load.LoadReport:
    """An open loop of Poisson arrivals on a server in a child process."""
    ports = free_ports()
    addresses = {"data": ports.data, "control": ports.control, "ops": ports.ops}
    sections = {"server": {f"{name}_address": f"127.0.0.1:{port}" for name, port in addresses.items()}}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "serve.toml"
        path.write_text(to_toml(sections), encoding="utf-8")
        with Server("server", serve_command(path, "auto"), ports, lambda _line: None) as server:
            asyncio.run(server.serving())
            _run(server.target, rate, WARM_SECONDS, seed, "warm")
            report = _run(server.target, rate, seconds, seed, "measured")
    if report.lost_calls:
        raise FraudgateError(f"the measurement does not count: {'; '.join(report.problems())}")
    return report


def _run(target: str, rate: float, seconds: float, seed: int, name: str) -> load.LoadReport:
    workload = load.native().Workload(load.simulated_rows(seed), name, event_time_now=True)
    pace = load.Pace(int(seconds * SECOND_NS), rate=rate, seed=seed)
    return load.Run(load.Destination(target, CONNECTIONS), pace, workload, GRACE_NS).run()


def as_json(found: Comparison) -> dict[str, Any]:
    """Plain dicts and numbers."""
    return {**found._asdict(), "costs": costs_as_json(found.costs), "difference_ms": found.difference_ms}


def render(found: Comparison) -> list[str]:
    """For a terminal."""
    rows: list[tuple[str, ...]] = [("", "predicted ms", "measured ms", "difference ms")]
    rows += [
        (name, *(f"{values[name]:.3f}" for values in (found.predicted_ms, found.measured_ms, found.difference_ms)))
        for name in PERCENTILES
    ]
    return [
        f"{found.calls:,} calls at {found.rate:,g}/s, Poisson arrivals",
        *render_costs(found.costs),
        "",
        *aligned(rows),
    ]
