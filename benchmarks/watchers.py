"""Viewers of a dashboard, or scrapers of metrics, as a process of their own: ``python -m benchmarks.watchers``.

It takes only the processor time that nobody else wants (SCHED_IDLE), so that what a watched server loses is the
server's own cost and not that of its watchers, who live elsewhere. Prints what it got, as JSON, when its input ends.
"""

import argparse
import heapq
import json
import os
import random
import re
import selectors
import socket
import sys
import time
from collections import Counter
from contextlib import suppress

START_SECONDS = 2.0
"""Over which the watchers come."""
POLL_MS = re.compile(rb'"poll_ms":(\d+)')


class Watchers:
    """``count`` of them ask ``path`` of a local port, each ``every_s`` after its last answer.

    Those that obey wait for as long as the answer says, and longer after a refusal, as the dashboard's page does.
    """

    def __init__(self, port: int, path: str, count: int, obey: bool, every_s: float = 1.0) -> None:
        self._address, self._obey, self._every_s = ("127.0.0.1", port), obey, every_s
        self._request = f"GET {path} HTTP/1.1\r\nHost: watchers\r\n\r\n".encode()
        self._selector = selectors.DefaultSelector()
        self._answers: dict[socket.socket, bytes] = {}
        self._random = random.Random(1)
        now_s = time.monotonic()
        self._due_s = sorted(now_s + START_SECONDS * self._random.random() for _ in range(count))
        self.ends: Counter[str] = Counter()

    def run(self, until: int) -> None:
        """Watch until the descriptor ``until`` can be read."""
        self._selector.register(until, selectors.EVENT_READ)
        while True:
            while self._due_s and self._due_s[0] <= time.monotonic():
                heapq.heappop(self._due_s)
                self._ask()
            wait_s = max(self._due_s[0] - time.monotonic(), 0) if self._due_s else 1.0
            for key, _ in self._selector.select(wait_s):
                if key.fd == until:
                    return
                self._go_on(key.data)

    def _ask(self) -> None:
        asking = socket.socket()
        asking.setblocking(False)
        asking.connect_ex(self._address)
        self._answers[asking] = b""
        self._selector.register(asking, selectors.EVENT_WRITE, asking)

    def _go_on(self, asking: socket.socket) -> None:
        try:
            if self._selector.get_key(asking).events == selectors.EVENT_WRITE:
                asking.send(self._request)
                self._selector.modify(asking, selectors.EVENT_READ, asking)
                return
            data = asking.recv(1 << 18)
        except OSError:
            data = b""
        self._answers[asking] += data
        if not data:
            self._end(asking, self._answers.pop(asking))

    def _end(self, asking: socket.socket, answer: bytes) -> None:
        self._selector.unregister(asking)
        asking.close()
        status = answer[9:12].decode() or "broken"
        self.ends[status] += 1
        wait_s = self._every_s
        if self._obey:
            told = POLL_MS.search(answer)
            wait_s = int(told[1]) / 1_000 if told else 2 + 4 * self._random.random()
        heapq.heappush(self._due_s, time.monotonic() + wait_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("count", type=int)
    parser.add_argument("--obey", action="store_true")
    parser.add_argument("--every", type=float, default=1.0, help="seconds from an answer to the next request")
    args = parser.parse_args()
    if hasattr(os, "SCHED_IDLE"):
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    watchers = Watchers(args.port, args.path, args.count, args.obey, args.every)
    watchers.run(sys.stdin.fileno())
    print(json.dumps(watchers.ends))


if __name__ == "__main__":
    main()
