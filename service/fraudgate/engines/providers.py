"""ONNX Runtime's providers: their options, and the directory in which they keep compiled engines and timings."""

import os
from collections.abc import Mapping
from pathlib import Path

from fraudgate.errors import EngineRefused

OTHERS_MAY_WRITE = 0o022


def provider_options(provider: str, cache_dir: Path, device: int = 0) -> dict[str, str]:
    """The options of a provider, by its short name.

    ``cache_dir`` holds the engines of one graph: ONNX Runtime names an engine after the graph's operators, not after
    its weights, and would take another version's. Timings are of the device and lie one level higher.
    """
    if provider == "cuda":
        return {
            "device_id": str(device),
            "do_copy_in_default_stream": "1",
            # TF32 rounds the float layers to 10 bits of mantissa: scores would leave the golden rows.
            "use_tf32": "0",
        }
    if provider == "tensorrt":
        return {
            "device_id": str(device),
            # What Q/DQ marks is INT8 and the rest stays float: no calibration table, no half precision.
            "trt_int8_enable": "True",
            "trt_fp16_enable": "False",
            "trt_bf16_enable": "False",
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": str(cache_dir),
            "trt_timing_cache_enable": "True",
            "trt_timing_cache_path": str(cache_dir.parent),
        }
    return {}


def engine_cache(configured: str = "", environment: Mapping[str, str] = os.environ) -> Path:
    """``model.cache_dir``, or where it is empty the user's cache. The directory need not exist yet."""
    if configured:
        return Path(configured)
    home = environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME") or "~").expanduser() / ".cache"
    return Path(home) / "fraudgate" / "engines"


def make_private(directory: Path) -> Path:
    """Make ``directory`` for this user alone. An engine is code: raises EngineRefused where others may write it."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.stat()
    except OSError as error:
        raise EngineRefused(f"cannot keep engines in {directory}: {error.strerror}; set model.cache_dir") from error
    if status.st_uid != os.geteuid() or status.st_mode & OTHERS_MAY_WRITE:
        raise EngineRefused(f"others may write {directory}, and engines are code: chmod 700, or set model.cache_dir")
    return directory
