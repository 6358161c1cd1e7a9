"""Tidy: the rings of the architecture, sizes, and what must not stand in a file. Each message names the replacement.

A check is a function from one ``Source`` to problems (line, text). ``test_a_check_can_fail`` shows each one a bad file.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "service" / "fraudgate"
GENERATED = (PACKAGE / "inference", PACKAGE / "v1")
MODULE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70

RINGS = {
    0: "clock errors features.currency features.schema limits transaction wheel",
    1: "batching.admission batching.batcher breaker claims drift editions engines.bounds engines.trial features.windows"
    " guardrails idempotency latency.budget latency.causes latency.exemplars latency.histogram latency.lateness"
    " latency.ledger latency.overruns latency.progress latency.recorder latency.spans latency.timeline"
    " pages quality tensors validation",
    2: "audit engines features latency state",
    3: "batching ladder pipeline",
    4: "__main__ app assembly cli client commands config control demo fleet_assembly frontend inference load ops"
    " paging progress retry scheduling sections simulation simulator testing v1",
}
"""A module belongs to the longest name here that it starts with, and imports only its own or lower rings."""
RING_OF = {name: ring for ring, names in RINGS.items() for name in names.split()}

NOT_IN_THE_CORE = {
    "asyncio": "return what is to be done, the shell awaits it",
    "fraudgate.clock": "take now_ns",
    "grpc": "return a Status, the front end speaks gRPC",
    "logging": "return a count or raise, the edge logs",
    "onnxruntime": "take an Engine",
    "redis": "take a FeatureStore",
    "time": "take now_ns",
}
ADAPTERS = {
    "features.embedded": "take a FeatureStore, app.py names the class",
    "features.redis": "take a FeatureStore, app.py names the class",
    "engines.onnxruntime": "take an Engine, app.py names the class",
    "engines.tensorrt": "take an Engine, app.py names the class",
}
SEES_PORTS_ONLY = ("pipeline", "batching", "frontend", "control", "ops")
PRINTS = ("cli", "commands", "demo")
OWN = {"fraudgate", "fraudgate_ingress"}
"""What this repository builds; the native module may be missing, and ``make check`` runs without it."""
NOT_PRODUCT = {"models", "benchmarks", "tests", "protos"}

Problems = Iterator[tuple[int, str]]


class Source(NamedTuple):
    """One Python file; ``module`` is its name below ``fraudgate``, empty for files outside the package."""

    path: str
    module: str
    text: str
    tree: ast.Module

    def within(self, *names: str) -> bool:
        return any(self.module == name or self.module.startswith(name + ".") for name in names)


def read_source(path: Path) -> Source:
    inside = path.relative_to(PACKAGE).with_suffix("").parts if path.is_relative_to(PACKAGE) else ()
    module = ".".join(part for part in inside if part != "__init__")
    return parse_source(str(path.relative_to(ROOT)), module, path.read_text())


def parse_source(path: str, module: str, text: str) -> Source:
    return Source(path, module, text, ast.parse(text, path))


def python_files(*folders: Path) -> list[Path]:
    return sorted(p for folder in folders for p in folder.rglob("*.py") if p.parent not in GENERATED)


PACKAGE_SOURCES = [read_source(path) for path in python_files(PACKAGE)]
PRODUCT_SOURCES = [
    *PACKAGE_SOURCES,
    *(read_source(path) for path in python_files(ROOT / "models", ROOT / "benchmarks", ROOT / "protos")),
]
MODULES = {f"fraudgate.{source.module}" for source in PACKAGE_SOURCES} | {"fraudgate.inference", "fraudgate.v1"}


def ring_of(module: str) -> int | None:
    parts = module.split(".")
    names = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((RING_OF[name] for name in names if name in RING_OF), None)


def imports(source: Source) -> Problems:
    """(line, full module name) of every import."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = ["fraudgate", *source.module.split(".")][: -node.level] if node.level else []
            base = ".".join([*parents, node.module or ""]).strip(".")
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield node.lineno, full if full in MODULES else base


def inner_imports(source: Source) -> Problems:
    for line, name in imports(source):
        if name.startswith("fraudgate."):
            yield line, name.removeprefix("fraudgate.")


def check_rings(source: Source) -> Problems:
    ring = ring_of(source.module)
    if source.module and ring is None:
        yield 1, f"module {source.module} has no ring: give it one in RINGS of tests/test_tidy.py"
        return
    for line, name in inner_imports(source):
        other = ring_of(name)
        if ring is not None and other is not None and other > ring:
            yield (
                line,
                f"ring {ring} imports {name} of ring {other}: take it as an argument, or move what both need down",
            )


def check_core_is_pure(source: Source) -> Problems:
    if source.module == "clock" or ring_of(source.module) not in (0, 1):
        return
    for line, name in imports(source):
        for banned, instead in NOT_IN_THE_CORE.items():
            if name == banned or name.startswith(banned + "."):
                yield line, f"core module imports {banned}: {instead}"


def check_ports_only(source: Source) -> Problems:
    if not source.within(*SEES_PORTS_ONLY):
        return
    for line, name in inner_imports(source):
        if name in ADAPTERS:
            yield line, f"{source.module} imports {name}: {ADAPTERS[name]}"


@cache
def installed_with_fraudgate() -> frozenset[str]:
    """Top-level import names of the distributions that [project] and [cpu] ask for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["cpu"]]
    wanted = {canonicalize_name(Requirement(line).name) for line in asked}
    tops = packages_distributions().items()
    return frozenset(top for top, owners in tops if not wanted.isdisjoint(map(canonicalize_name, owners)))


def check_outside_imports(source: Source) -> Problems:
    for line, name in imports(source):
        top = name.split(".")[0]
        if top in NOT_PRODUCT:
            yield line, f"fraudgate imports {top}, which is not installed with it: move what is needed into fraudgate"
        elif top not in sys.stdlib_module_names | installed_with_fraudgate() | OWN:
            yield line, f"fraudgate imports {top}, which neither [project] nor [cpu] asks for: add it to pyproject.toml"


def check_print(source: Source) -> Problems:
    if source.within(*PRINTS) or source.module.endswith("__main__"):
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            yield node.lineno, "print outside the command line: return it, or log it at the edge"


def check_broad_except(source: Source) -> Problems:
    lines = source.text.splitlines()
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = (
            {name.id for name in ast.walk(node.type) if isinstance(name, ast.Name)} if node.type else {"everything"}
        )
        if not caught & {"everything", "Exception", "BaseException"}:
            continue
        raises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
        words = " ".join(re.sub(r"# noqa\S* ?\S*", "", line) for line in lines[node.lineno - 1 : node.body[0].lineno])
        if not raises and "# " not in words:
            yield node.lineno, "catches everything: name the exceptions, raise again, or say why in a comment here"


def check_sizes(source: Source) -> Problems:
    lines = len(source.text.splitlines())
    if lines > MODULE_LINES_MAX:
        yield 1, f"{lines} lines, {MODULE_LINES_MAX} are allowed: a module is one noun, split off the second"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES_MAX:
                yield node.lineno, f"{node.name} has {length} lines, {FUNCTION_LINES_MAX} are allowed: name its steps"


PACKAGE_CHECKS = (
    check_rings,
    check_core_is_pure,
    check_ports_only,
    check_outside_imports,
    check_print,
)
PRODUCT_CHECKS = (check_broad_except, check_sizes)


def report(check: Callable[[Source], Problems], sources: list[Source]) -> str:
    return "\n".join(f"{source.path}:{line}: {text}" for source in sources for line, text in check(source))


@pytest.mark.parametrize("check", PACKAGE_CHECKS)
def test_package_is_tidy(check: Callable[[Source], Problems]) -> None:
    problems = report(check, PACKAGE_SOURCES)
    assert not problems, "\n" + problems


@pytest.mark.parametrize("check", PRODUCT_CHECKS)
def test_product_is_tidy(check: Callable[[Source], Problems]) -> None:
    problems = report(check, PRODUCT_SOURCES)
    assert not problems, "\n" + problems


BAD = [
    (check_rings, "novelty", "", "novelty has no ring"),
    (check_rings, "validation", "from fraudgate.features.store import X", "ring 1 imports features.store of ring 2"),
    (check_rings, "features.schema", "from . import windows", "ring 0 imports features"),
    (check_rings, "pipeline", "def f():\n    import fraudgate.frontend.aio", "ring 3 imports frontend.aio of ring 4"),
    (check_core_is_pure, "batching.batcher", "import time", "core module imports time: take now_ns"),
    (check_core_is_pure, "guardrails.rules", "from asyncio import sleep", "core module imports asyncio"),
    (check_core_is_pure, "idempotency", "from fraudgate.clock import monotonic_ns", "take now_ns"),
    (check_ports_only, "pipeline", "from fraudgate.features.embedded import X", "take a FeatureStore"),
    (check_outside_imports, "app", "from benchmarks.load import X", "fraudgate imports benchmarks"),
    (check_outside_imports, "app", "import pytest", "fraudgate imports pytest"),
    (check_print, "pipeline", "print(1)", "print outside the command line"),
    (check_broad_except, "app", "try:\n    f()\nexcept:\n    pass", "catches everything"),
    (check_broad_except, "app", "try:\n    f()\nexcept (ValueError, Exception):  # noqa: BLE001\n    g()", "catches"),
    (check_sizes, "app", "x = 1\n" * 401, "401 lines"),
    (check_sizes, "app", "def f():\n" + "    x = 1\n" * 70, "f has 71 lines"),
]
GOOD = [
    (check_rings, "pipeline", "from fraudgate.features.store import X"),
    (check_core_is_pure, "clock", "import time"),
    (check_core_is_pure, "pipeline", "import asyncio"),
    (check_ports_only, "app", "from fraudgate.features.embedded import X"),
    (check_outside_imports, "app", "import json, numpy\nfrom google.rpc import code_pb2"),
    (check_outside_imports, "features.kernel", "from fraudgate_ingress import WindowKernel"),
    (check_print, "commands.report", "print(1)"),
    (check_broad_except, "app", "try:\n    f()\nexcept Exception:  # the log must not stop scoring\n    pass"),
    (check_broad_except, "app", "try:\n    f()\nexcept BaseException:\n    g()\n    raise"),
    (check_sizes, "app", "def f():\n" + "    x = 1\n" * 69),
]


@pytest.mark.parametrize(("check", "module", "text", "message"), BAD)
def test_a_check_can_fail(check: Callable[[Source], Problems], module: str, text: str, message: str) -> None:
    assert message in report(check, [parse_source("snippet.py", module, text)])


@pytest.mark.parametrize(("check", "module", "text"), GOOD)
def test_a_check_lets_good_code_pass(check: Callable[[Source], Problems], module: str, text: str) -> None:
    assert report(check, [parse_source("snippet.py", module, text)]) == ""
