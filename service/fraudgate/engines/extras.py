"""Packages of the optional extras. They are heavy and often absent: imported where they are used, never at start."""

from importlib import import_module
from typing import Any

from fraudgate.errors import EngineRefused

EXTRAS = {
    "cuda.bindings.runtime": "tensorrt",
    "onnx": "rtx",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "rtx",
}


def need(module: str) -> Any:
    """A module of an extra; none of them has types. Raises EngineRefused with the extra to install."""
    try:
        return import_module(module)
    except (ImportError, OSError) as error:
        extra = EXTRAS[module]
        raise EngineRefused(f"{module} is not at hand ({error}): pip install 'fraudgate[{extra}]'") from error
