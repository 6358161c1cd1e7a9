"""``fraudgate serve``: run the service until SIGTERM."""

import argparse
import asyncio
import logging
import sys
from pathlib import Path

import msgspec
import uvloop

from fraudgate import config
from fraudgate.app import Service
from fraudgate.assembly import assemble
from fraudgate.ops import logs
from fraudgate.scheduling import prefer_batches

SWITCH_INTERVAL_SECONDS = 0.0005
"""How long a busy thread may keep the interpreter from the scoring loop."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML configuration; see 'fraudgate config show'")
    parser.add_argument(
        "--frontend",
        choices=("auto", "native", "aio"),
        help="overrides server.frontend: auto (the default) takes native when its wheel is installed",
    )
    parser.add_argument(
        "--insecure", action="store_true", help="serve other addresses than loopback without TLS (server.insecure)"
    )


def run(args: argparse.Namespace) -> int:
    """Serve; the exit status of the drain. Raises FraudgateError when the service cannot start."""
    settings = config.load(args.config, insecure=args.insecure)
    logs.set_up(settings.logging)
    say = logging.getLogger("fraudgate").info if settings.logging.format == "json" else _say
    if args.frontend:
        settings = msgspec.structs.replace(
            settings, server=msgspec.structs.replace(settings.server, frontend=args.frontend)
        )
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    prefer_batches()
    parts = assemble(settings, say)

    async def serve() -> int:
        asyncio.get_running_loop().set_exception_handler(logs.report)
        return await Service(parts, say).run()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve())


def _say(line: str) -> None:
    print(line, flush=True)
