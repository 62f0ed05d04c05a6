"""Graphs: traces a model with torch.export, for batches of any size and length.

The letters in shapes: B sequences, L new tokens in each, P tokens in the cache, K key heads with C
channels each, V tokens in the vocabulary.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from trainer.errors import InputError
from trainer.export.differences import ragged_batch
from trainer.export.traced_cache import TracedCache
from trainer.models.attention.grouped_attention import GroupedAttention
from trainer.models.encoding import Encoding
from trainer.models.grid_layout import GridLayout
from trainer.models.heads.causal_lm import CausalLMModel
from trainer.models.inputs import FlatInputs
from trainer.models.outputs import Outputs
from trainer.models.packing import Layout
from trainer.models.pretrained import PretrainedModel

BATCH, LENGTH, PAST, WHOLE = "batch", "length", "past_length", "past_length + length"
DYNAMIC = Dim.DYNAMIC


@dataclass(frozen=True)
class Graph:
    """A traced model and the names of its inputs and outputs."""

    program: ExportedProgram
    inputs: Mapping[str, Sequence[str]]
    """Name -> axes, in the order of the program's arguments."""
    outputs: Mapping[str, Sequence[str]]
    """Name -> axes; an axis of fixed size is given as a number."""


class EncodingGraph(nn.Module):
    """Wraps a model that reads whole texts at once, so that all arguments are tensors."""

    def __init__(self, model: PretrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return name -> output, for every output of the head."""
        found: Outputs = self.model(
            input_ids, attention_mask, token_type_ids=token_type_ids, return_dict=True
        )
        return dict(found.items())


class ContinuingGraph(nn.Module):
    """Wraps a causal language model, so that the cached keys and values are arguments."""

    def __init__(self, model: CausalLMModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, past: list[Tensor]
    ) -> list[Tensor]:
        """Compute the logits of new tokens `input_ids` [B, L] with `attention_mask` [B, P + L].

        `past` is [keys of layer 0, values of layer 0, keys of layer 1, ...], each [B, K, P, C].
        Returns the logits [B, L, V], and then the keys and values extended by the new tokens. A
        token's position is the number of visible tokens before it.
        """
        size, width = input_ids.shape
        cache = TracedCache(past, attention_mask, width)
        positions = (attention_mask.cumsum(1) - 1).clamp(min=0).index_select(1, cache.new)
        seen = attention_mask.index_select(1, cache.new) != 0
        lengths = torch.full((size,), width)
        layout: Layout = GridLayout(lengths, input_ids.device, width, seen=seen)
        inputs = FlatInputs(input_ids.flatten(), positions.flatten(), layout, cache=cache)
        encoded = self.model.body(inputs, False, False)
        found = self.model.respond(Encoding(encoded, layout, None), {})
        return [found.logits, *cache.present]


def trace(model: PretrainedModel, has_types: bool) -> Graph:
    """Trace a model in eval mode; the graph of a causal language model has a cache.

    `has_types` adds an input for token types. Raises InputError for a model that cannot be traced.
    """
    found = None
    if model.family.stored_experts is not None:  # tokens per expert vary, which cannot be traced
        found = "with experts"
    elif model.family.kind == "encoder_decoder":
        found = "with an encoder and a decoder"
    if found is not None:
        name = f"{model.config.model_type} {found}"
        raise InputError(f"format: no graph of {name}; accepted: safetensors, merged")
    if isinstance(model, CausalLMModel):
        return _trace_decoder(model)
    generator = torch.Generator().manual_seed(1)
    example = ragged_batch(model, 3, 7, has_types, generator)
    middle = ["choices"] if model.task == "multiple_choice" else []
    axes = {name: [BATCH, *middle, LENGTH] for name in example}
    dynamic = {name: _dynamic(tensor) for name, tensor in example.items()}
    other = ragged_batch(model, 1, 2, has_types, generator)
    program = _export(EncodingGraph(model), model, (example, other), dynamic)
    with torch.no_grad():
        outputs: Outputs = model(**example)
    return Graph(program, axes, _outputs(program, axes, list(outputs.keys())))


def _trace_decoder(model: CausalLMModel) -> Graph:
    if model.body.keys_depend_on_length:
        found = "rotary positions that depend on the length of the text (dynamic, longrope)"
        raise InputError(f"format: {model.config.model_type} with {found}; accepted: gguf, merged")
    example, other = (_example(model, *sizes) for sizes in ((2, 4, 3), (3, 5, 2)))
    past = example["past"]
    dynamic: dict[str, Any] = {name: _dynamic(example[name]) for name in list(example)[:2]}
    dynamic["past"] = [{0: DYNAMIC, 2: DYNAMIC} for _ in past]
    program = _export(ContinuingGraph(model), model, (example, other), dynamic)
    names = [f"{n}.{kind}" for n in range(len(past) // 2) for kind in ("key", "value")]
    inputs = {"input_ids": [BATCH, LENGTH], "attention_mask": [BATCH, WHOLE]}
    for name, tensor in zip(names, past, strict=True):
        heads, channels = tensor.shape[1], tensor.shape[3]
        inputs[f"past_key_values.{name}"] = [BATCH, str(heads), PAST, str(channels)]
    presents = [f"present.{name}" for name in names]
    return Graph(program, inputs, _outputs(program, inputs, ["logits", *presents]))


def _example(model: CausalLMModel, rows: int, length: int, before: int) -> dict[str, Any]:
    """The arguments for a call that continues texts of `before` tokens by `length` tokens."""
    ids = torch.arange(rows * length).view(rows, length) % model.config.vocab_size
    mask = torch.ones(rows, before + length, dtype=torch.int64)
    return {"input_ids": ids, "attention_mask": mask, "past": past_of(model, rows, before)}


def past_of(model: CausalLMModel, rows: int, length: int) -> list[Tensor]:
    """Random keys and values [rows, K, length, C]: the keys and then the values of each layer."""
    generator = torch.Generator().manual_seed(2)
    found = []
    for layer in model.body.layers:
        attention = layer.attention
        assert isinstance(attention, GroupedAttention)
        shape = (rows, attention.num_key_heads, length, attention.channels)
        found += [torch.randn(shape, generator=generator).to(model.dtype) for _ in range(2)]
    return found


def _export(
    module: nn.Module,
    model: PretrainedModel,
    examples: tuple[Mapping[str, Any], Mapping[str, Any]],
    dynamic: dict[str, Any],
) -> ExportedProgram:
    """Trace the module with the first example, and check that it also runs with the second."""
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(
                module.eval(), (), dict(examples[0]), dynamic_shapes=dynamic, strict=False
            )
            program.module()(**examples[1])
            return program
    except Exception as error:  # the tracer raises exceptions of many classes
        name = f"{model.config.model_type} with the head {model.task}"
        reason = " ".join(str(error).split())[:160]
        accepted = "accepted: safetensors, merged"
        raise InputError(f"format: {name} cannot be traced ({reason}); {accepted}") from error


def _dynamic(tensor: Tensor) -> dict[int, Any]:
    return {axis: DYNAMIC for axis in range(tensor.dim())}


def _outputs(
    program: ExportedProgram, inputs: Mapping[str, Sequence[str]], names: Sequence[str]
) -> dict[str, Sequence[str]]:
    """Name of each output -> its axes, which are named like the inputs' axes of the same size."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    symbols: dict[str, str] = {}
    for name, axes in zip(program.graph_signature.user_inputs, inputs.values(), strict=True):
        symbols |= {str(size): axis for size, axis in zip(values[name].shape, axes, strict=True)}
    found = program.graph_signature.user_outputs
    shapes = {name: values[node].shape for name, node in zip(names, found, strict=True)}
    return {name: [_axis(size, symbols) for size in shape] for name, shape in shapes.items()}


def _axis(size: int | torch.SymInt, symbols: Mapping[str, str]) -> str:
    if isinstance(size, int):
        return str(size)
    return symbols.get(str(size), WHOLE)
