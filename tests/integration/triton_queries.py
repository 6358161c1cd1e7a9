"""Asks a server everything with tritonclient: ``python triton_queries.py TARGET MODEL``.

A program of its own: tritonclient pins another protobuf than the service, and would share symbols with its stubs.
Standard input holds rows to score, JSON [n][features]; standard output gets the answers, JSON too.
"""

import json
import sys
from collections.abc import Callable

import numpy as np
import tritonclient.grpc as triton


def main() -> None:
    target, model = sys.argv[1:]
    rows = np.array(json.load(sys.stdin), np.float32)
    client = triton.InferenceServerClient(target)
    answers = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready(model),
        "server": client.get_server_metadata(as_json=True),
        "model": client.get_model_metadata(model, as_json=True),
        "config": client.get_model_config(model, as_json=True)["config"],
        "bits": [infer(client, model, rows) for _ in range(3)][-1],
        "unknown": status(lambda: infer(client, "nobody", rows)),
        "too_many": status(lambda: infer(client, model, np.repeat(rows[:1], 33, axis=0))),
        "shared_memory": status(client.get_system_shared_memory_status),
        "statistics": client.get_inference_statistics(model, as_json=True)["model_stats"],
    }
    print(json.dumps(answers))


def infer(client: triton.InferenceServerClient, model: str, rows: np.ndarray) -> list[int]:
    """The bits of the rows' scores."""
    features = triton.InferInput("features", list(rows.shape), "FP32")
    features.set_data_from_numpy(rows)
    result = client.infer(model, [features], outputs=[triton.InferRequestedOutput("score")], request_id="1")
    assert result.get_response().id == "1"
    return result.as_numpy("score").ravel().view(np.uint32).tolist()


def status(call: Callable[[], object]) -> list[str]:
    """What a call was refused with: status and message."""
    try:
        call()
    except triton.InferenceServerException as refused:
        return [refused.status(), refused.message()]
    return ["OK", ""]


if __name__ == "__main__":
    main()
