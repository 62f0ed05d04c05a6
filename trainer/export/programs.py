"""torch.export: writes a traced model as model.pt2, reads that file and runs it."""

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from trainer.checkpoint import files
from trainer.export.graphs import Graph
from trainer.export.walks import Runner
from trainer.models.outputs import Outputs

FILE = "model.pt2"
PAST = "past_key_values."
"""The prefix of the names of the cache's tensors."""


def write_program(folder: Path, graph: Graph) -> None:
    """Write model.pt2, which torch.export.load can read without this package."""
    size = sum(tensor.nbytes for tensor in graph.program.state_dict.values())
    with files.operation("write", folder / FILE, size=size), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(graph.program, str(folder / FILE))


def runner(folder: Path, graph: Graph) -> Runner:
    """A function that runs the folder's model.pt2 on named tensors and returns named tensors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.load(str(folder / FILE))
        module = program.module(check_guards=not is_cached(graph))

    return lambda inputs: named_outputs(module, inputs, graph)


def is_cached(graph: Graph) -> bool:
    """Whether the graph has a cache.

    If it has one, the tracer's guards refuse texts of fewer than 4 tokens, although the graph can
    process them.
    """
    return any(name.startswith(PAST) for name in graph.inputs)


def named_outputs(
    module: torch.nn.Module, inputs: Mapping[str, Tensor], graph: Graph
) -> dict[str, Tensor]:
    """Run a traced module, which takes past keys and values as a list; returns outputs by name."""
    past = [tensor for name, tensor in inputs.items() if name.startswith(PAST)]
    others = {n: t for n, t in inputs.items() if not n.startswith(PAST)}
    with torch.no_grad():
        found: Outputs = module(**others, **({"past": past} if past else {}))
    return found if isinstance(found, dict) else dict(zip(graph.outputs, found, strict=True))
