"""What the native front end's transport costs alone: it decodes each request and answers with ready bytes of the size
of a real answer. No batch, no Python. With ``refuse`` nobody takes the batches, so that, once the queue is as long as
may be answered in time, it refuses, as much as there is and without a pause: what that costs.
``python -m benchmarks.native_echo PORT [refuse]``.
"""

import asyncio
import sys

import fraudgate_ingress
import msgspec
import numpy as np
import uvloop
from grpc_health.v1 import health, health_pb2

from benchmarks.echo_server import READY
from fraudgate import config, sections
from fraudgate.frontend import native
from fraudgate.frontend.side import SideDoor
from fraudgate.latency.histogram import CELLS
from fraudgate.scheduling import prefer_batches


async def serve(port: int, refuse: bool) -> None:
    """Serve for ever; the process is ended by a signal."""
    server = sections.Server(data_address=f"127.0.0.1:{port}")
    ready = None if refuse else READY.SerializeToString()
    unpaused = sections.Admission(refusals_per_second_max=2**31)
    settings = native.settings(msgspec.structs.replace(config.Config(), server=server, admission=unpaused), ready)
    recorded = native.recorded(lambda _: np.zeros(CELLS, np.int64))
    echo = fraudgate_ingress.Ingress(settings, native.refusal_table(), recorded)
    servicer = health.aio.HealthServicer()
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    side = SideDoor(echo, servicer, [])

    def rung() -> None:
        echo.quiet()
        side.hear()

    asyncio.get_running_loop().add_reader(echo.fileno(), rung)
    echo.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    prefer_batches()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1]), sys.argv[2:] == ["refuse"]))
