"""What grpc.aio itself costs: parses the same request and serialises a ready answer of equal size, and nothing else.

``python -m benchmarks.echo_server PORT``; answers Score and health, like the service.
"""

import asyncio
import gc
import sys

import grpc
import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from fraudgate.commands.serve import SWITCH_INTERVAL_SECONDS
from fraudgate.frontend.aio import SERVICE, server_options
from fraudgate.scheduling import prefer_batches
from fraudgate.v1 import scoring_pb2

READY = scoring_pb2.ScoreResponse(
    transaction_id="tx00000001",
    decision=scoring_pb2.APPROVE,
    score=0.0123,
    model=scoring_pb2.ModelRef(name="handbook", version="2026.11.22", engine_digest="0" * 64, precision="int8"),
    ruleset_version="0123456789ab",
    fallback=scoring_pb2.FALLBACK_NONE,
    decision_id="0123456789-abcd",
    timings=scoring_pb2.Timings(
        queue_ns=2_000_000,
        features_ns=200_000,
        inference_ns=20_000,
        guardrails_ns=100_000,
        total_ns=2_320_000,
        batch_rows=32,
    ),
)
"""An answer as the service gives it for an unremarkable transaction."""


async def echo(body: bytes, _context: object) -> bytes:
    scoring_pb2.ScoreRequest.FromString(body)
    return READY.SerializeToString()


async def serve(port: int) -> None:
    server = grpc.aio.server(options=server_options(4_096))
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(echo)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Score": handler}),))
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    gc.collect()
    gc.freeze()
    gc.disable()
    await server.wait_for_termination()


if __name__ == "__main__":
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    prefer_batches()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1])))
