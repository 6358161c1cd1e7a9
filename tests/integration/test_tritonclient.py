"""The Open Inference Protocol as a stranger speaks it: NVIDIA's tritonclient, in an environment of its own.

``FRAUDGATE_TRITON_PYTHON`` names a Python that has ``tritonclient[grpc]``; it must not be the service's own, whose
protobuf is newer than what tritonclient takes.
"""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fraudgate.engines import golden
from fraudgate.engines.onnxruntime import OnnxEngine
from fraudgate.engines.repository import GOLDEN, resolve
from tests.integration.server import PATIENCE_SECONDS, serve

PYTHON = os.environ.get("FRAUDGATE_TRITON_PYTHON", "")
PUBLISHED = Path(__file__).resolve().parents[2] / "models" / "repository"
NAME, ROWS = "handbook", 17

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="FRAUDGATE_TRITON_PYTHON names no Python with tritonclient[grpc]"),
]


async def ask(target: str, rows: np.ndarray) -> dict[str, Any]:
    """What tritonclient was answered."""
    script = Path(__file__).with_name("triton_queries.py")
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(PYTHON, str(script), target, NAME, stdin=pipe, stdout=pipe)
    printed, _ = await asyncio.wait_for(child.communicate(json.dumps(rows.tolist()).encode()), PATIENCE_SECONDS)
    assert child.returncode == 0
    return dict(json.loads(printed))


async def test_tritonclient_is_answered_as_by_triton() -> None:
    path = resolve(PUBLISHED, NAME)
    rows = golden.decode((path / GOLDEN).read_bytes()).features[:ROWS]
    async with serve(PUBLISHED, model={"name": NAME}) as server:
        info = server.service.parts.engine.info
        answers = await ask(f"127.0.0.1:{server.service.control_port}", rows)
    engine = OnnxEngine.load(path, info.schema_fingerprint)
    assert answers["bits"] == golden.score(engine, rows.astype(np.float64)).view(np.uint32).tolist()
    assert (answers["live"], answers["ready"], answers["model_ready"]) == (True, True, True)
    assert answers["server"]["name"] == "fraudgate"
    assert answers["model"]["inputs"] == [{"name": "features", "datatype": "FP32", "shape": ["-1", "15"]}]
    assert answers["model"]["outputs"] == [{"name": "score", "datatype": "FP32", "shape": ["-1", "1"]}]
    assert (answers["config"]["max_batch_size"], answers["config"]["backend"]) == (32, "onnxruntime")
    assert answers["config"]["input"] == [{"name": "features", "data_type": "TYPE_FP32", "dims": ["15"]}]
    assert answers["unknown"] == ["StatusCode.NOT_FOUND", "model 'nobody' is not live: send 'handbook'"]
    assert answers["too_many"][0] == "StatusCode.INVALID_ARGUMENT"
    assert answers["shared_memory"][0] == "StatusCode.UNIMPLEMENTED"
    (entry,) = answers["statistics"]
    assert (entry["version"], entry["inference_count"], entry["execution_count"]) == (info.version, str(3 * ROWS), "3")
    assert (entry["inference_stats"]["success"]["count"], entry["inference_stats"]["fail"]["count"]) == ("3", "1")
