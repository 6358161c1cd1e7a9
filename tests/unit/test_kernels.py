"""Which integer kernels ONNX Runtime's optimised graph holds: the published models', and what does not fuse."""

from pathlib import Path

import onnx
import pytest

from fraudgate.engines.graph import operators
from fraudgate.engines.kernels import integer_kernels, optimised_operators
from fraudgate.engines.repository import MODEL, read_files, read_manifest
from fraudgate.errors import EngineRefused
from tests.unit.onnx_graphs import fp32_graph, int8_graph

REPOSITORY = Path(__file__).resolve().parents[2] / "models" / "repository"
PUBLISHED = sorted(path.parent for path in REPOSITORY.glob("*/*/manifest.json"))


@pytest.mark.parametrize("model_dir", PUBLISHED, ids=lambda path: path.parent.name)
def test_the_published_models_run_on_integer_kernels(model_dir):
    manifest = read_manifest(model_dir)
    model = read_files(model_dir, manifest)[MODEL]
    assert integer_kernels(model, manifest.graph_optimisation) == ["QGemm"]
    assert "DequantizeLinear" not in optimised_operators(model, manifest.graph_optimisation)


def test_there_are_published_models():
    assert len(PUBLISHED) >= 2


def test_a_float_graph_has_none():
    assert integer_kernels(fp32_graph().SerializeToString(), "all") == []


@pytest.mark.parametrize(("level", "kernels"), [("all", ["QGemm"]), ("basic", []), ("disabled", [])])
def test_a_quantised_graph_that_was_not_fused_has_none(level, kernels):
    assert integer_kernels(int8_graph().SerializeToString(), level) == kernels


def test_a_graph_that_the_runtime_does_not_take_is_refused():
    with pytest.raises(EngineRefused, match="does not take the graph"):
        integer_kernels(b"not a model", "all")


def test_operators_are_those_of_the_onnx_package_in_order():
    for graph in (fp32_graph(), int8_graph()):
        model = graph.SerializeToString()
        assert operators(model) == [node.op_type for node in onnx.load_from_string(model).graph.node]
