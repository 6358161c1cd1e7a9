"""What gradient boosting costs in ONNX Runtime: the published XGBoost baseline's shape, 100 trees of depth 3.

A TreeEnsembleClassifier, as converters make of an XGBClassifier. Its splits are drawn at random from the rows that it
is run on, so that branches are taken as a trained tree's are; the scores mean nothing, the time does.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from fraudgate.engines.onnxruntime import PROVIDERS, run_options, session_options
from fraudgate.limits import BATCH_ROWS_MAX
from fraudgate.transaction import Float64

TREES, DEPTH, SEED = 100, 3, 20180808
INNER = 2**DEPTH - 1
NODES = 2 ** (DEPTH + 1) - 1


def boosted_trees(rows: Float64) -> bytes:
    """The serialised graph for rows float64[n, F]: float32 [32, F] in, labels [32] and probabilities [32, 2] out."""
    attributes: dict[str, Any] = _attributes(rows)
    ensemble = helper.make_node(
        "TreeEnsembleClassifier",
        ["features"],
        ["label", "probabilities"],
        domain="ai.onnx.ml",
        classlabels_int64s=[0, 1],
        post_transform="LOGISTIC",
        **attributes,
    )
    input_ = helper.make_tensor_value_info("features", TensorProto.FLOAT, [BATCH_ROWS_MAX, rows.shape[1]])
    outputs = [
        helper.make_tensor_value_info("label", TensorProto.INT64, [BATCH_ROWS_MAX]),
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [BATCH_ROWS_MAX, 2]),
    ]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    graph = helper.make_graph([ensemble], "trees", [input_], outputs)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def session(rows: Float64) -> Callable[[], object]:
    """A run of such trees on the first 32 rows, bound once, one thread, as the service runs its own engines."""
    options = session_options("all")
    trees = ort.InferenceSession(boosted_trees(rows), options, providers=[PROVIDERS["cpu"]])
    binding = trees.io_binding()
    binding.bind_cpu_input("features", rows[:BATCH_ROWS_MAX].astype(np.float32))
    for output in trees.get_outputs():
        binding.bind_output(output.name)
    return partial(trees._sess.run_with_iobinding, binding._iobinding, run_options("cpu"))


def _attributes(rows: Float64) -> dict[str, Any]:
    """Complete trees, their nodes numbered from the root, level by level."""
    draw = np.random.default_rng(SEED)
    ids = list(range(NODES)) * TREES
    leaf = [node >= INNER for node in ids]
    split = draw.integers(0, rows.shape[1], len(ids))
    bounds = rows[draw.integers(0, len(rows), len(ids)), split]
    trees = [tree for tree in range(TREES) for _ in range(NODES)]
    leaves = [place for place, is_leaf in enumerate(leaf) if is_leaf]
    return {
        "nodes_treeids": trees,
        "nodes_nodeids": ids,
        "nodes_featureids": split.tolist(),
        "nodes_modes": ["LEAF" if is_leaf else "BRANCH_LT" for is_leaf in leaf],
        "nodes_values": bounds.tolist(),
        "nodes_truenodeids": [0 if is_leaf else 2 * node + 1 for node, is_leaf in zip(ids, leaf, strict=True)],
        "nodes_falsenodeids": [0 if is_leaf else 2 * node + 2 for node, is_leaf in zip(ids, leaf, strict=True)],
        "class_treeids": [trees[place] for place in leaves],
        "class_nodeids": [ids[place] for place in leaves],
        "class_ids": [0] * len(leaves),
        "class_weights": draw.normal(0, 0.1, len(leaves)).tolist(),
    }
