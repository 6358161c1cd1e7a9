"""``fraudgate features``: load history into a snapshot, look into one, have a running server write one.

    load FILE.parquet... --state DIR          what ``serve`` with state.dir = DIR restores at its start
    dump --state DIR --entity KIND --id ID    the features of one entity, as they stand at an instant
    snapshot [--target HOST:PORT]             the server writes its state.dir now; scoring stalls meanwhile

Exit status 1: the snapshot knows no such entity. 2: the files, the state or the server are not usable.
"""

import argparse
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic_ns
from typing import TYPE_CHECKING, Any

from fraudgate.commands.control_plane import channel_to
from fraudgate.errors import ConfigError
from fraudgate.limits import LATENESS_SECONDS_MAX, SECOND_NS
from fraudgate.sections import Server
from fraudgate.transaction import ENTITIES

if TYPE_CHECKING:
    from fraudgate.features.embedded import EmbeddedStore

HELP = "load history into a snapshot, look into one, or have a server write one"
SNAPSHOT_SECONDS_MAX = 120.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``fraudgate features``."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    load = verbs.add_parser("load", help="bulk-load history into a new snapshot")
    load.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="Parquet: event_time, amount_minor, and where known transaction_id, currency, is_fraud and any of "
        + ", ".join(ENTITIES),
    )
    dump = verbs.add_parser("dump", help="the features of one entity in a snapshot")
    dump.add_argument("--entity", choices=ENTITIES, required=True, help="the kind of entity")
    dump.add_argument("--id", required=True, help="the entity's id")
    dump.add_argument("--at", type=_instant_ns, metavar="ISO", help="an instant; default: the entity's latest event")
    for verb in (load, dump):
        verb.add_argument("--state", type=Path, required=True, metavar="DIR", help="the directory of the snapshot")
        verb.add_argument("--schema", default="handbook", metavar="NAME|FILE", help="the feature schema (handbook)")
        verb.add_argument(
            "--lateness-seconds-max",
            type=int,
            default=LATENESS_SECONDS_MAX,
            metavar="N",
            help=f"as features.lateness_seconds_max of the server ({LATENESS_SECONDS_MAX})",
        )
    snapshot = verbs.add_parser("snapshot", help="have a running server write its state.dir; scoring stalls meanwhile")
    snapshot.add_argument("--target", default=Server().control_address, metavar="HOST:PORT", help="its control plane")
    for verb in (load, dump, snapshot):
        verb.add_argument("--json", nargs="?", const="-", metavar="FILE", help="write JSON (stdout without FILE)")


def run(args: argparse.Namespace) -> int:
    """Load, dump or snapshot. Raises FraudgateError."""
    return {"load": _load, "dump": _dump, "snapshot": _snapshot}[str(args.verb)](args)


def _instant_ns(text: str) -> int:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no ISO 8601 instant: {error}") from error
    if instant.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text!r} needs a time zone, such as Z")
    return (instant - _EPOCH) // timedelta(microseconds=1) * 1_000


def _iso(ns: int | None) -> str | None:
    return None if ns is None else datetime.fromtimestamp(ns // SECOND_NS, UTC).isoformat()


def _write(form: dict[str, Any], lines: list[str], file: str | None) -> None:
    text = json.dumps(form, indent=2)
    if file not in (None, "-"):
        try:
            Path(str(file)).write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--json {file}: cannot write: {error.strerror}") from error
    print(text if file == "-" else "\n".join(lines))


# -- load --------------------------------------------------------------------------------------------------------------


def _load(args: argparse.Namespace) -> int:
    from fraudgate.assembly import load_history  # half a second that ``snapshot`` does not need
    from fraudgate.features.embedded import EmbeddedStore
    from fraudgate.features.schema import FeatureSchema
    from fraudgate.features.snapshot import FILE_NAME

    path = args.state / FILE_NAME
    if path.exists():
        raise ConfigError(f"{path} exists, and loading would replace it: delete it first, or name another --state")
    store = EmbeddedStore(FeatureSchema.of(args.schema), lateness_seconds_max=args.lateness_seconds_max)
    started_ns = monotonic_ns()
    rows = sum(load_history(store, file) for file in args.files)
    rate = round(rows * SECOND_NS / (monotonic_ns() - started_ns))
    try:
        size_bytes = store.snapshot(args.state).stat().st_size
    except OSError as error:
        raise ConfigError(f"--state {args.state}: cannot write: {error.strerror}") from error
    form = {
        "rows": rows,
        "events_per_second": rate,
        "entities": _entities(store),
        "coverage_start": _iso(store.coverage_start_ns),
        "whole_from": _iso(_whole_from_ns(store)),
        "snapshot": str(path),
        "size_bytes": size_bytes,
    }
    _write(form, _load_lines(form), args.json)
    return 0


def _entities(store: "EmbeddedStore") -> dict[str, int]:
    """How many entities have windows, by kind."""
    return {entity: sum(map(bool, ids)) for entity, ids in zip(store.plan.entities, store.series, strict=True)}


def _whole_from_ns(store: "EmbeddedStore") -> int | None:
    """From when on no window reaches before the store's coverage."""
    if store.coverage_start_ns is None:
        return None
    return store.coverage_start_ns + int(store.plan.reach.max(initial=0)) * store.schema.tick_ns


def _load_lines(form: dict[str, Any]) -> list[str]:
    entities = [f"{count:,} {entity}" for entity, count in form["entities"].items()]
    return [
        f"events    {form['rows']:,}, {form['events_per_second']:,}/s",
        f"entities  {', '.join(entities) or 'none has windows in this schema'}",
        f"coverage  from {form['coverage_start']}; every window is whole from {form['whole_from']}",
        f"snapshot  {form['snapshot']}, {form['size_bytes']:,} bytes",
    ]


# -- dump --------------------------------------------------------------------------------------------------------------


def _dump(args: argparse.Namespace) -> int:
    from fraudgate.features.embedded import EmbeddedStore
    from fraudgate.features.schema import FeatureSchema, Profile

    schema = FeatureSchema.of(args.schema)
    store = EmbeddedStore.restore(args.state, schema, lateness_seconds_max=args.lateness_seconds_max)
    view = store.read_entity(args.entity, args.id, args.at)
    profiles = [each for each in schema.features if isinstance(each, Profile) and each.entity == args.entity]
    latest_ns = view.latest_event_time_ns
    if latest_ns is None and len(view.defaulted) == len(profiles):
        print(f"fraudgate features: {args.state} knows no {args.entity} {args.id!r}", file=sys.stderr)
        return 1
    at_ns = latest_ns if args.at is None else args.at
    kept_ns = args.lateness_seconds_max * SECOND_NS
    form = {
        "entity": args.entity,
        "id": args.id,
        "at": _iso(at_ns),
        "values": view.values,
        "defaulted": view.defaulted,
        "latest_event_time": _iso(latest_ns),
        "buckets": view.buckets,
        "coverage_start": _iso(store.coverage_start_ns),
        "stale": latest_ns is not None and at_ns is not None and at_ns < latest_ns - kept_ns,
    }
    _write(form, _dump_lines(form), args.json)
    return 0


def _dump_lines(form: dict[str, Any]) -> list[str]:
    width = max(map(len, form["values"]), default=0)
    return [
        f"{form['entity']} {form['id']} at {form['at']}",
        *(
            f"  {name:{width}}  {value:.10g}{'  (default: never stored)' if name in form['defaulted'] else ''}"
            for name, value in form["values"].items()
        ),
        f"latest event {form['latest_event_time']}, {form['buckets']} buckets kept, coverage from "
        f"{form['coverage_start']}",
        *(["STALE: events before this instant are no longer kept, windows may be too small"] if form["stale"] else []),
    ]


# -- snapshot ----------------------------------------------------------------------------------------------------------


def _snapshot(args: argparse.Namespace) -> int:
    from fraudgate.v1 import features_pb2, features_pb2_grpc

    with channel_to(args.target, f"{args.target}: no snapshot") as channel:
        stub = features_pb2_grpc.FeatureServiceStub(channel)
        written = stub.Snapshot(features_pb2.SnapshotRequest(), timeout=SNAPSHOT_SECONDS_MAX)
    form = {
        "directory": written.directory,
        "size_bytes": written.size_bytes,
        "stored_decisions": written.stored_decisions,
        "duration_ns": written.duration_ns,
    }
    line = (
        f"snapshot  {written.directory}, {written.size_bytes:,} bytes, {written.stored_decisions:,} stored decisions; "
        f"scoring stood still for {written.duration_ns / 1e6:,.1f} ms"
    )
    _write(form, [line], args.json)
    return 0
