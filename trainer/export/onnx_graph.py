"""ONNX: writes a traced model as model.onnx, and runs that file in onnxruntime."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from trainer.checkpoint import files
from trainer.errors import InputError
from trainer.export.graphs import Graph
from trainer.export.walks import Runner

FILE = "model.onnx"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
OnnxObject: TypeAlias = Any
"""An object of onnxscript or onnx_ir, which have no type annotations."""
MAX_INLINE_BYTES = 1_500_000_000
"""Weights with more bytes than this are stored in a separate file; protobuf is limited to 2 GB."""


def require_packages() -> None:
    """Raise InputError if a package is missing; the message names the extra to install."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        found = f"needs the package {missing[0]}, which is not installed"
        raise InputError(f"format: onnx {found}; accepted: pip install 'tempering[onnx]'")


def write_onnx(folder: Path, graph: Graph) -> None:
    """Write model.onnx, and model.onnx.data for large models."""
    with _quiet():
        program: OnnxObject = torch.onnx.export(
            graph.program,
            dynamo=True,
            verbose=False,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
        )
    for values, axes in (
        (program.model.graph.inputs, graph.inputs),
        (program.model.graph.outputs, graph.outputs),
    ):
        for value in values:
            _name_axes(value, axes[value.name])
    size = sum(tensor.nbytes for tensor in graph.program.state_dict.values())
    if size < MAX_INLINE_BYTES:
        files.write_bytes(folder / FILE, program.model_proto.SerializeToString())
        return
    with files.operation("write", folder / FILE, size=size):
        program.save(str(folder / FILE), external_data=True)


def _name_axes(value: OnnxObject, names: Sequence[str]) -> None:
    """Set the axes of an input or output: a name for variable sizes, a number for fixed ones."""
    import onnx_ir as ir

    value.shape = ir.Shape([int(name) if name.isdigit() else name for name in names])


def runner(folder: Path) -> Runner:
    """A function that runs the folder's model.onnx on named tensors and returns named tensors."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        str(folder / FILE), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        fed = {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in inputs.items()}
        found = session.run(names, fed)
        return {n: torch.from_numpy(each) for n, each in zip(names, found, strict=True)}

    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """Context manager that suppresses warnings, so that the exporter logs only errors."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
