"""What an idle connection costs the native front end: resident memory of a service that holds 10,000 of them, each
past its handshake and its SETTINGS. The clients' sockets are in this process.
``python -m benchmarks.native_connections [--json]``.
"""

import argparse
import asyncio
import json
import resource
import socket
import sys
import tempfile
from pathlib import Path

from fraudgate import wheel
from fraudgate.demo.server import Server, free_ports, serve_command, to_toml

CONNECTIONS = 10_000
OTHER_DESCRIPTORS = 512
PATIENCE_SECONDS = 10.0

_SETTINGS = b"\0\0\0\4\0\0\0\0\0"
_SETTINGS_ACK = b"\0\0\0\4\1\0\0\0\0"
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _SETTINGS + _SETTINGS_ACK


def allow_descriptors(count: int) -> bool:
    """Let this process and its children open so many files; False where the system does not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        if hard != resource.RLIM_INFINITY and hard < count:
            return False
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    return True


def idle_connection(port: int) -> socket.socket:
    """A connection whose handshake is over: the server has acknowledged our SETTINGS."""
    connection = socket.create_connection(("127.0.0.1", port), PATIENCE_SECONDS)
    connection.sendall(_GREETING)
    heard = b""
    while _SETTINGS_ACK not in heard:
        chunk = connection.recv(4_096)
        if not chunk:
            raise ConnectionError("the server closed an idle connection")
        heard += chunk
    return connection


def bytes_per_connection(server: Server, port: int, count: int) -> float:
    """Resident bytes that ``count`` more connections add to the server, each."""
    opened: list[socket.socket] = []
    try:
        before = server.resident_bytes() or 0
        opened.extend(idle_connection(port) for _ in range(count))
        return ((server.resident_bytes() or 0) - before) / count
    finally:
        for connection in opened:
            connection.close()


def figures(count: int = CONNECTIONS) -> dict[str, float]:
    """The figures of the results file. Nothing where the wheel fraudgate-ingress is not installed, or where the system
    does not let a process open that many sockets.
    """
    if not wheel.INSTALLED:
        print("  native_connections: skipped, fraudgate-ingress is not installed", file=sys.stderr)
        return {}
    if not allow_descriptors(count + OTHER_DESCRIPTORS):
        print(f"  native_connections: skipped, ulimit -n does not allow {count:,} sockets", file=sys.stderr)
        return {}
    ports = free_ports()
    addresses = {"data": ports.data, "control": ports.control, "ops": ports.ops}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fraudgate.toml"
        server = {f"{name}_address": f"127.0.0.1:{port}" for name, port in addresses.items()}
        path.write_text(to_toml({"server": server}), encoding="utf-8")
        with Server("service", serve_command(path, "native"), ports, lambda _line: None) as service:
            asyncio.run(service.serving())
            return {"native_idle_connection_bytes": round(bytes_per_connection(service, ports.data, count))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    results = figures()
    print(json.dumps(results) if args.json else "\n".join(f"{key:30} {value:>8,}" for key, value in results.items()))


if __name__ == "__main__":
    main()
