"""A client that does not read for a while: its window is shut until then."""

import asyncio
import uuid

import h2.config
import h2.connection
import h2.events
import h2.settings

from fraudgate.load import PATH
from fraudgate.v1.scoring_pb2 import ScoreRequest

EVENT_SECONDS = 1_900_000_000
_WINDOW = h2.settings.SettingCodes.INITIAL_WINDOW_SIZE


def _request(number: int, run: str) -> bytes:
    request = ScoreRequest()
    transaction = request.transaction
    transaction.transaction_id = f"unread-{run}-{number}"
    transaction.event_time.seconds = EVENT_SECONDS
    transaction.amount_minor, transaction.currency = 1_000, "EUR"
    transaction.customer_id, transaction.terminal_id = f"C-{number}", "T-1"
    body = request.SerializeToString()
    return b"\0" + len(body).to_bytes(4, "big") + body


async def leave_unread(target: str, calls: int, seconds: float) -> int:
    """Make so many calls, have no room for an answer for so long, then read them; how many had a body."""
    host, _, port = target.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    peer.local_settings = h2.settings.Settings(client=True, initial_values={_WINDOW: 0})
    peer.initiate_connection()
    run = uuid.uuid4().hex[:8]
    head = [(":method", "POST"), (":scheme", "http"), (":path", PATH), (":authority", target)]
    for number in range(calls):
        stream = 2 * number + 1
        peer.send_headers(stream, [*head, ("te", "trailers"), ("content-type", "application/grpc")])
        peer.send_data(stream, _request(number, run), end_stream=True)
    writer.write(peer.data_to_send())
    await asyncio.sleep(seconds)
    peer.update_settings({_WINDOW: 65_535})
    answered: set[int] = set()
    ended = 0
    while ended < calls:
        writer.write(peer.data_to_send())
        data = await reader.read(65_536)
        if not data:
            raise RuntimeError("the server closed the connection of a client that did not read")
        for event in peer.receive_data(data):
            if isinstance(event, h2.events.DataReceived):
                answered.add(event.stream_id)
            ended += isinstance(event, h2.events.StreamEnded | h2.events.StreamReset)
    writer.close()
    return len(answered)
