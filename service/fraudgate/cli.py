"""The ``fraudgate`` command. Each verb is a module of ``fraudgate.commands``, imported when it is asked for."""

import argparse
import importlib
import sys
from collections.abc import Sequence

import fraudgate
from fraudgate.errors import FraudgateError

VERBS = {
    "demo": "replay a real week of card transactions through Score() and judge the answers",
    "serve": "run the service",
    "load": "send load to a running server and measure what a caller sees",
    "report": "print latency percentiles per stage from .hlog files or a running server",
    "bench": "say whether one set of measured latencies is worse than another",
    "replay": "prove from a batch log that the same arrivals give the same batches",
    "model": "list, check, publish, compile and change models",
    "features": "load history into a snapshot, look into one, have a running server write one",
    "ops": "make alerts and a dashboard from the SLO file",
    "config": "show or check the configuration",
    "simulate": "run the whole service on a fake clock, with faults, and check every invariant",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. Returns the exit status: 0 good, 1 the thing asked for did not hold, 2 usage."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = _parser(words[0] if words else "")
    args = parser.parse_args(words)
    if "run" not in args:
        parser.print_help()
        return 2
    try:
        return int(args.run(args))
    except FraudgateError as error:
        print(f"fraudgate {words[0]}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1


def _parser(chosen: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("fraudgate", description=fraudgate.__doc__)
    parser.add_argument("--version", action="version", version=f"fraudgate {fraudgate.__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB")
    for name, help_ in VERBS.items():
        verb = verbs.add_parser(name, help=help_, description=help_[0].upper() + help_[1:] + ".")
        if name == chosen:
            module = importlib.import_module(f"fraudgate.commands.{name}")
            module.add_arguments(verb)
            verb.set_defaults(run=module.run)
    return parser
