"""The wheel fraudgate-ingress: native code, where it is installed."""

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

INSTALLED = find_spec("fraudgate_ingress") is not None


def module() -> Any:
    """The extension module ``fraudgate_ingress``. Raises ImportError where the wheel is not installed."""
    return import_module("fraudgate_ingress")


def kernel(name: str) -> Any:
    """The kernel of this name; None without the wheel, or where it is older than that kernel."""
    return getattr(module(), name, None) if INSTALLED else None


def counts() -> Mapping[str, int]:
    """What native code on our own threads counts: panics, each of which became an exception."""
    return {"fraudgate_native_panics_total": module().panics()} if INSTALLED else {}
