"""Exports as graphs: ONNX files and torch.export programs."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from trainer.devices.precision import DTYPES
from trainer.export import onnx_graph, programs
from trainer.export.card import Card, Check, installed
from trainer.export.differences import ACCEPTED
from trainer.export.folder import publish_export
from trainer.export.graphs import Graph, trace
from trainer.export.source import Source
from trainer.export.walks import Runner, compare
from trainer.models.attention.grouped_attention import GroupedAttention
from trainer.models.heads.causal_lm import CausalLMModel
from trainer.terminal.activity import doing

ONNX_USAGE = """
import onnxruntime
from tempering import AutoTokenizer  # or transformers' AutoTokenizer, or the tokenizers package

tokenizer = AutoTokenizer.from_pretrained(".")
session = onnxruntime.InferenceSession("model.onnx")
batch = tokenizer(["a text", "another text"], padding=True, return_tensors="np")
wanted = [each.name for each in session.get_inputs()]
outputs = session.run(None, {name: batch[name] for name in wanted})
"""
ONNX_GENERATION = """
import numpy, onnxruntime
from tempering import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
session = onnxruntime.InferenceSession("model.onnx")
caches = [each for each in session.get_inputs() if each.name.startswith("past_key_values")]
kind = numpy.float16 if "float16" in caches[0].type else numpy.float32
past = [numpy.zeros((1, each.shape[1], 0, each.shape[3]), kind) for each in caches]
ids = numpy.array([tokenizer("Once upon a time")["input_ids"]])
text = ids
for _ in range(20):
    inputs = {"input_ids": ids, "attention_mask": numpy.ones_like(text)}
    inputs |= {each.name: tensor for each, tensor in zip(caches, past)}
    logits, *past = session.run(None, inputs)
    ids = logits[:, -1:].argmax(-1)
    text = numpy.concatenate((text, ids), 1)
print(tokenizer.decode(text[0]))
"""
TORCH_USAGE = """
import torch
from tempering import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = torch.export.load("model.pt2").module()
batch = tokenizer(["a text", "another text"], padding=True, return_tensors="pt")
outputs = model(**{name: batch[name] for name in INPUTS})
"""
TORCH_GENERATION = """
import torch
from tempering import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = torch.export.load("model.pt2").module(check_guards=False)  # also short texts
batch = tokenizer(["Once upon a time"], return_tensors="pt")
given = {name: batch[name] for name in ("input_ids", "attention_mask")}
past = [torch.zeros(1, KEY_HEADS, 0, CHANNELS, dtype=DTYPE) for _ in range(2 * LAYERS)]  # empty
logits, *past = model(**given, past=past)
"""
MASK = "attention_mask is 1 at tokens and 0 at pads, which may be on either side."
CACHE = (
    "To start a text, pass a cache of length 0. attention_mask also covers the cached tokens. A "
    "token's position is the number of visible tokens before it."
)


@dataclass(frozen=True)
class GraphFormat:
    """A format for traced models, with functions that write and run a model in it."""

    name: Literal["onnx", "torch"]
    program: str
    write: Callable[[Path, Graph], None]
    run: Callable[[Path, Graph], Runner]
    usage: str
    generation_usage: str


ONNX = GraphFormat(
    "onnx",
    f"onnxruntime {installed('onnxruntime')}",
    onnx_graph.write_onnx,
    lambda folder, _: onnx_graph.runner(folder),
    ONNX_USAGE,
    ONNX_GENERATION,
)
TORCH = GraphFormat(
    "torch",
    f"torch {torch.__version__}",
    programs.write_program,
    programs.runner,
    TORCH_USAGE,
    TORCH_GENERATION,
)


def export_graph(source: Source, target: Path, format: GraphFormat, dtype: str) -> Card:
    """Write the graph, and publish it if its outputs on ragged batches match the model's.

    Raises InputError for a model that cannot be traced, and NumericsError if the outputs differ.
    """
    model = source.model.to(DTYPES[dtype])
    processor = source.processor
    doing(f"tracing the model for {format.name}")
    listed = "token_type_ids" in getattr(processor, "model_input_names", ())
    has_types = listed and model.num_token_types > 0
    graph = trace(model, has_types)
    card = Card(source.path, format.name, dtype, model.architecture, _usage(format, model, graph))
    card.inputs, card.outputs, card.notes = graph.inputs, graph.outputs, _notes(model)

    def fill(folder: Path) -> None:
        source.write_companions(folder)
        format.write(folder, graph)
        doing(f"comparing the {format.name} outputs with the model's")
        worst, batches = compare(format.run(folder, graph), model, has_types)
        worst.require(dtype, f"{format.name}: outputs")
        found, accepted = f"differ by {worst.value:.1e}", f"{ACCEPTED[dtype]:g}"
        card.checks.append(Check(f"outputs of {batches}", format.program, found, accepted))

    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    publish_export(target, card, fill, size)
    return card


def _usage(format: GraphFormat, model: object, graph: Graph) -> str:
    if not isinstance(model, CausalLMModel):
        return format.usage.replace("INPUTS", json.dumps([*graph.inputs]))
    attention = model.body.layers[0].attention
    assert isinstance(attention, GroupedAttention)
    text = format.generation_usage.replace("KEY_HEADS", str(attention.num_key_heads))
    text = text.replace("CHANNELS", str(attention.channels)).replace("DTYPE", str(model.dtype))
    return text.replace("LAYERS", str(len(model.body.layers)))


def _notes(model: object) -> list[str]:
    return [MASK, CACHE] if isinstance(model, CausalLMModel) else [MASK]
