"""``fraudgate model promote | rollback | shadow``: change what a running server decides with, over its control plane.

promote NAME[/VERSION]    checked, then canary for 5, 25, 50, 100 % of the customers, a gate before each step, then live
rollback                  end the trial or, without one, go back to the version that was live before
shadow NAME[/VERSION]     score every batch beside the live version and decide nothing; --off ends that
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fraudgate.commands.control_plane import channel_to
from fraudgate.errors import ConfigError
from fraudgate.sections import Server

if TYPE_CHECKING:
    from fraudgate.v1 import models_pb2, models_pb2_grpc

Answer = tuple[object, list[str], int]
"""What --json writes, what is printed otherwise, and the exit status."""

CHANGE_SECONDS_MAX = 150.0
POLL_SECONDS = 0.5


def add_verbs(verbs: Any) -> list[argparse.ArgumentParser]:
    """Declare the verbs; returns their parsers."""
    promoter = verbs.add_parser("promote", help="let a version decide, step by step, and become live")
    promoter.add_argument("model", metavar="NAME[/VERSION]", help="without VERSION the one published last")
    promoter.add_argument(
        "--stages", type=_stages, default=[], metavar="P,P,...,100", help="percent of the customers (5,25,50,100)"
    )
    promoter.add_argument("--rows", type=int, default=0, metavar="N", help="rows compared before each step (2000)")
    promoter.add_argument("--seconds", type=float, metavar="S", help="seconds before each step (1)")
    promoter.add_argument("--wait", action="store_true", help="until it is live or gone; exit status 1 when it is gone")
    roller = verbs.add_parser("rollback", help="end the trial, or go back to the version that was live before")
    roller.add_argument("--reason", default="by hand", metavar="TEXT", help="for the log and the events")
    shadower = verbs.add_parser("shadow", help="score every batch beside the live version and decide nothing")
    shadower.add_argument("model", nargs="?", default="", metavar="NAME[/VERSION]")
    shadower.add_argument("--off", action="store_true", help="end the shadow")
    parsers = [promoter, roller, shadower]
    for parser in parsers:
        parser.add_argument("--target", default=Server().control_address, metavar="HOST:PORT", help="its control plane")
    return parsers


def run(args: argparse.Namespace) -> Answer:
    """Promote, roll back or shadow. Raises FraudgateError, which names the server and its reason."""
    verbs: dict[str, Callable[[argparse.Namespace], Answer]]
    verbs = {"promote": _promote, "rollback": _rollback, "shadow": _shadow}
    return verbs[str(args.verb)](args)


def _stages(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of percents, such as 5,25,50,100") from None


def _name_and_version(model: str) -> tuple[str, str]:
    name, _, version = model.partition("/")
    return name, version


@contextmanager
def _server(target: str, wish: str) -> Iterator["models_pb2_grpc.ModelServiceStub"]:
    from fraudgate.v1 import models_pb2_grpc

    with channel_to(target, f"{target}: no {wish}") as channel:
        yield models_pb2_grpc.ModelServiceStub(channel)


def _promote(args: argparse.Namespace) -> Answer:
    from fraudgate.v1 import models_pb2

    name, version = _name_and_version(args.model)
    request = models_pb2.PromoteModelRequest(
        name=name, version=version, stages_percent=args.stages, stage_rows_min=args.rows
    )
    if args.seconds is not None:
        request.stage_seconds_min = args.seconds
    with _server(args.target, "promotion") as server:
        model = server.PromoteModel(request, timeout=CHANGE_SECONDS_MAX).model
        if args.wait:
            model = _wait(server, model)
    gone = args.wait and not model.live
    said = f"{model.name}/{model.version}: {model.state or 'gone'}"
    return _form(model), [said], int(gone)


def _wait(server: "models_pb2_grpc.ModelServiceStub", model: "models_pb2.ModelVersion") -> "models_pb2.ModelVersion":
    """Print what happens to the version, from its first step on until it is live or gone."""
    from fraudgate.v1 import models_pb2

    wanted, told = f"{model.name}/{model.version}", 0
    first_step = f"decides for {model.state.removeprefix('canary ')} "
    while True:
        listed = server.ListModels(models_pb2.ListModelsRequest(), timeout=CHANGE_SECONDS_MAX)
        mine = [event.what for event in listed.events if event.model == wanted]
        # Shares rise: the last such event is this promotion's, what stands before it is of earlier ones.
        begun = max((place for place, what in enumerate(mine) if what.startswith(first_step)), default=0)
        for what in mine[begun + told :]:
            print(f"{wanted}: {what}", flush=True)
        told = len(mine) - begun
        model = next(each for each in listed.models if (each.name, each.version) == (model.name, model.version))
        if not model.state.startswith("canary"):
            return model
        time.sleep(POLL_SECONDS)


def _rollback(args: argparse.Namespace) -> Answer:
    from fraudgate.v1 import models_pb2

    with _server(args.target, "rollback") as server:
        request = models_pb2.RollbackModelRequest(reason=args.reason)
        live = server.RollbackModel(request, timeout=CHANGE_SECONDS_MAX).live
    return _form(live), [f"{live.name}/{live.version}: live"], 0


def _shadow(args: argparse.Namespace) -> Answer:
    from fraudgate.v1 import models_pb2

    if args.off == bool(args.model):
        raise ConfigError("name a model to shadow, or give --off to end it")
    name, version = _name_and_version(args.model)
    with _server(args.target, "shadow") as server:
        request = models_pb2.SetShadowRequest(name=name, version=version)
        shadow = server.SetShadow(request, timeout=CHANGE_SECONDS_MAX).shadow
    if args.off:
        return {}, ["nothing is in the shadow"], 0
    return _form(shadow), [f"{shadow.name}/{shadow.version}: {shadow.state}"], 0


def _form(model: "models_pb2.ModelVersion") -> dict[str, object]:
    return {"name": model.name, "version": model.version, "state": model.state, "live": model.live}
