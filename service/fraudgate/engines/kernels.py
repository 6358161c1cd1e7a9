"""Which integer kernels a graph really runs on the CPU: those of ONNX Runtime's optimised graph.

A quantised graph that the optimiser does not fuse still gives scores, through DequantizeLinear and a float product, and
slower than FP32. The optimised graph is the only place that tells the two apart.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import onnxruntime as ort

from fraudgate.engines.graph import operators
from fraudgate.engines.onnxruntime import PROVIDERS, session_options
from fraudgate.engines.repository import GraphOptimisation
from fraudgate.errors import EngineRefused

INTEGER_KERNELS = frozenset(
    {
        "ConvInteger",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "QGemm",
        "QLinearConv",
        "QLinearMatMul",
    }
)
"""The operators that multiply integers. ONNX Runtime's name of one is its kernel's."""


def integer_kernels(model: bytes, graph_optimisation: GraphOptimisation) -> list[str]:
    """The integer kernels of the optimised graph, one a node, in its order; empty where everything runs in float.

    Raises EngineRefused for a graph that the runtime does not take.
    """
    return [name for name in optimised_operators(model, graph_optimisation) if name in INTEGER_KERNELS]


def optimised_operators(model: bytes, graph_optimisation: GraphOptimisation) -> list[str]:
    """The operators of the graph that runs on the CPU, one a node. Raises EngineRefused."""
    options = session_options(graph_optimisation)
    with TemporaryDirectory() as directory:
        path = Path(directory) / "optimised.onnx"
        options.optimized_model_filepath = str(path)
        try:
            ort.InferenceSession(model, options, providers=[PROVIDERS["cpu"]])
        except Exception as error:  # the runtime's exceptions share no base class
            raise EngineRefused(f"ONNX Runtime {ort.__version__} does not take the graph: {error}") from error
        return operators(path.read_bytes())
