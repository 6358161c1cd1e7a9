"""``fraudgate ops``: Prometheus rules and a Grafana dashboard, made from the SLO file."""

import argparse
from pathlib import Path

from fraudgate.ops.alerts import alert_rules
from fraudgate.ops.grafana import dashboard
from fraudgate.ops.slo import Slo

FILES = {
    "alerts": (Path("prometheus/alerts.yml"), alert_rules),
    "dashboard": (Path("grafana/fraudgate.json"), dashboard),
}
"""By verb: the file below ``--out``, and what makes its text."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, help_ in {
        "alerts": "recording rules and alerts for Prometheus",
        "dashboard": "a dashboard for Grafana",
    }.items():
        verb = verbs.add_parser(name, help=help_, description=help_[0].upper() + help_[1:] + ".")
        verb.add_argument("--slo", type=Path, default=Path("ops/slo.toml"), metavar="FILE", help="(%(default)s)")
        verb.add_argument("--out", type=Path, default=Path("ops"), metavar="DIR", help="(%(default)s)")


def run(args: argparse.Namespace) -> int:
    """Write one file. Raises ConfigError for an SLO file that is wrong."""
    name, make = FILES[args.verb]
    path = args.out / name
    text = make(Slo.load(args.slo))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    print(path)
    return 0
