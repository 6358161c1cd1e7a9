"""A verb's way to the control plane of a running server."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fraudgate.errors import FraudgateError


@contextmanager
def channel_to(target: str, complaint: str) -> Iterator[Any]:
    """A gRPC channel. A call on it that fails raises FraudgateError: complaint, status, what the server said."""
    import grpc  # 0.1 s that verbs which ask no server need not wait for

    with grpc.insecure_channel(target) as channel:
        try:
            yield channel
        except grpc.RpcError as error:
            raise FraudgateError(f"{complaint}: {error.code().name}: {error.details()}") from error
