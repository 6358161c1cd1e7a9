"""A conformance check in a child process: what crashes, hangs or leaks there harms nobody.

The child limits itself before it reads a byte of the directory: idle priority, CPU seconds, address space, no core
dump. It is given little of the environment, for no model needs to know what stands there. It writes each result as a
line of JSON when it has it, then the digest of the version; where the lines end early, the check that ended them is
known.
"""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import msgspec

import fraudgate
from fraudgate.engines.conformance import CHECKS, Request, Result, Subject, run
from fraudgate.limits import SECOND_NS

FULL_NS_MAX, QUICK_NS_MAX = 300 * SECOND_NS, 60 * SECOND_NS
ADDRESS_BYTES_MAX = 2 << 30
"""Python, Arrow and ONNX Runtime take 0.4 GB of addresses."""
NICE = 19
ENVIRONMENT = ("HOME", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "TMPDIR")


class Verdict(NamedTuple):
    """What the suite says of a directory."""

    results: tuple[Result, ...]
    digest: str
    """``Manifest.digest`` of the version whose files were checked; empty where they could not be read."""

    @property
    def holds(self) -> bool:
        """Every check was made and holds."""
        return all(result.holds for result in self.results)

    @property
    def reason(self) -> str:
        """The first check that does not hold, in one line; empty where all do."""
        return next((f"{result.check}: {result.detail}" for result in self.results if not result.holds), "")


class Sandbox:
    """One check. ``check`` blocks, so it is called from a thread; ``end`` may be called from another meanwhile."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._ended = False

    def check(self, request: Request, limit_ns: int | None = None) -> Verdict:
        """Check a directory in a child that ends within ``limit_ns``."""
        limit_ns = limit_ns or (QUICK_NS_MAX if request.quick else FULL_NS_MAX)
        limit_seconds = -(-limit_ns // SECOND_NS)
        command = [sys.executable, "-P", "-m", __name__, str(limit_seconds), msgspec.json.encode(request).decode()]
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=_environment()
        ) as child:
            self._child = child
            if self._ended:  # ``end`` came before there was a child to kill
                child.kill()
            late = False
            try:
                output, errors = child.communicate(timeout=limit_ns / SECOND_NS)
            except subprocess.TimeoutExpired:
                late = True
                child.kill()
                output, errors = child.communicate()
            finally:
                child.kill()
        if late or child.returncode == -signal.SIGXCPU:
            return _verdict(output, f"not done within {limit_seconds} s")
        return _verdict(output, _ending(child.returncode, errors))

    def end(self) -> None:
        """Kill the child, now or as soon as it is there; ``check`` then returns. Nothing where it has ended."""
        self._ended = True
        if self._child is not None:
            self._child.kill()


def check_model(request: Request, limit_ns: int | None = None) -> Verdict:
    """``Sandbox.check``, for those who wait for it."""
    return Sandbox().check(request, limit_ns)


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    own = str(Path(fraudgate.__file__).parents[1])
    return kept | {"PYTHONPATH": os.pathsep.join([own, *filter(None, [kept.get("PYTHONPATH")])])}


def _verdict(output: bytes, ending: str) -> Verdict:
    """The results of the child's lines; those that it did not live to write do not hold."""
    lines = [msgspec.json.decode(line, type=Result | str) for line in output.split(b"\n")[:-1]]
    results = [line for line in lines if isinstance(line, Result)]
    missing = list(CHECKS)[len(results) :]
    results += [Result(name, False, ending, skipped=name != missing[0]) for name in missing]
    return Verdict(tuple(results), next((line for line in lines if isinstance(line, str)), ""))


def _ending(status: int, errors: bytes) -> str:
    if status < 0:
        return f"the checking process died of {signal.Signals(-status).name}"
    last_line = errors.decode(errors="replace").strip().rpartition("\n")[2]
    return f"the checking process ended with status {status}: {last_line[:200]}"


def _limit(seconds: int, provider: str) -> None:
    os.nice(NICE)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_CPU, seconds, beyond=1)
    if provider == "cpu":  # a GPU's driver reserves addresses by the terabyte
        _lower(resource.RLIMIT_AS, ADDRESS_BYTES_MAX)


def _lower(limit: int, most: int, beyond: int = 0) -> None:
    """Set a limit, and ``beyond`` it the hard one; one that stands lower already stays."""
    hard = resource.getrlimit(limit)[1]
    soft, hardest = (
        (most, most + beyond) if hard == resource.RLIM_INFINITY else (min(most, hard), min(most + beyond, hard))
    )
    resource.setrlimit(limit, (soft, hardest))


def main(seconds: str, encoded: str) -> None:
    """The child: check, one line of JSON a result."""
    request = msgspec.json.decode(encoded, type=Request)
    _limit(int(seconds), request.provider)
    # What a library prints must not mix with the lines.
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0) as lines:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        subject = Subject(request)
        for result in run(subject):
            lines.write(msgspec.json.encode(result) + b"\n")
        digest = subject.manifest.digest if hasattr(subject, "files") else ""
        lines.write(msgspec.json.encode(digest) + b"\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
