"""``fraudgate demo``: a real week of card transactions through ``Score()``, judged beside published results."""

import argparse
import json
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from fraudgate.errors import ConfigError, FraudgateError

HELP = "replay a real week of card transactions through Score() and judge the answers"
PAGE = Path("run/demo.html")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="where the card-fraud benchmark lies, or 'simulated' (default: $FRAUDGATE_DATA, ../shared/data, else "
        "simulated)",
    )
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="write JSON to FILE, or to stdout")
    parser.add_argument("--html", type=Path, default=PAGE, metavar="FILE", help=f"the HTML page (default: {PAGE})")
    parser.add_argument("--rate", type=_positive, metavar="R", help="transactions a second, instead of probing")
    parser.add_argument("--rows", type=_rows, metavar="N", help="only the first N transactions; quality is not judged")
    parser.add_argument("--frontend", choices=("auto", "native", "aio"), default="auto", help="the server's front end")
    parser.add_argument("--keep", action="store_true", help="keep the working folder: history, configuration, log")


def run(args: argparse.Namespace) -> int:
    """Print the summary, write the page and the JSON; 1 where something falls short or the demo broke off.

    ConfigError: the benchmark is not where it was said to be, or a file cannot be written.
    """
    for path in (args.html, args.json):
        if path not in (None, "-"):
            _check_writable(Path(path))
    # A request to end is Ctrl-C: the server is stopped and the working folder removed on the way out. A shell that
    # starts us in the background lets SIGINT be ignored; the event loop needs it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup leaves it
            signal.signal(number, _interrupt)
    work = Path(tempfile.mkdtemp(prefix="fraudgate-demo-"))
    try:
        return _demo(args, work)
    except ConfigError:
        raise
    except FraudgateError as error:
        print(f"fraudgate demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("fraudgate demo: interrupted; the server is stopped", file=sys.stderr)
        return 1
    finally:
        if args.keep:
            print(f"kept {work}", file=sys.stderr)
        else:
            shutil.rmtree(work, ignore_errors=True)


def _demo(args: argparse.Namespace, work: Path) -> int:
    # Imported here: `fraudgate --help` needs neither gRPC nor Arrow.
    from fraudgate.demo.page import to_html
    from fraudgate.demo.run import Options, run_demo
    from fraudgate.demo.summary import to_json, to_text

    result = run_demo(Options(args.data, args.frontend, args.rate, args.rows, work, _say))
    form = json.dumps(to_json(result), indent=2)
    _say("")
    print(to_text(result), file=sys.stderr if args.json == "-" else sys.stdout)
    args.html.write_text(to_html(result), encoding="utf-8")
    _say(f"\nthe page: {args.html.resolve()}")
    if args.json == "-":
        print(form)
    elif args.json:
        Path(args.json).write_text(form + "\n", encoding="utf-8")
    return 1 if result.shortfalls else 0


def _check_writable(path: Path) -> None:
    """Before the demo runs, not after."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def _interrupt(*_: object) -> None:
    signal.raise_signal(signal.SIGINT)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _positive(text: str) -> float:
    value = float(text)
    if not 1 <= value <= 1_000_000:
        raise argparse.ArgumentTypeError("must be from 1 to 1,000,000")
    return value


def _rows(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value
