"""Regenerates the Python stubs: ``python -m protos.generate``, which is ``make protos``."""

import sys
from importlib.resources import files
from pathlib import Path

import google.rpc
from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parent
SERVICE = PROTOS.parent / "service"


def compile_protos(*outputs: str) -> None:
    """Run protoc over every proto file, with ``-Iprotos`` and the includes of protobuf and googleapis-common-protos."""
    googleapis = Path(next(iter(google.rpc.__path__))).parents[1]
    includes = [PROTOS, files("grpc_tools") / "_proto", googleapis]
    sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    if protoc.main(["protoc", *(f"-I{path}" for path in includes), *outputs, *sources]) != 0:
        sys.exit("protoc refused the protos; what is wrong stands above")


def write_stubs(directory: Path) -> None:
    """Write ``*_pb2.py``, ``*_pb2.pyi`` and ``*_pb2_grpc.py`` under a source root, in folders as the proto files'."""
    compile_protos(f"--python_out={directory}", f"--pyi_out={directory}", f"--grpc_python_out={directory}")


if __name__ == "__main__":
    write_stubs(SERVICE)
