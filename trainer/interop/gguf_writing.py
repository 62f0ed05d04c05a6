"""Writes a causal language model as a GGUF file, one tensor at a time."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from trainer.checkpoint import files
from trainer.errors import InputError
from trainer.interop.gguf import import_gguf
from trainer.interop.gguf_metadata import Metadata, architecture_of, factors_of, metadata_of
from trainer.interop.gguf_names import TABLES, is_offset, is_reordered, is_transposed
from trainer.interop.gguf_vocabulary import Vocabulary
from trainer.models.config import ModelConfig
from trainer.models.pretrained import PretrainedModel

GgufWriter: TypeAlias = Any
"""The GGUFWriter of the package gguf, which has no type annotations."""
QUANTIZED = {"fp32": "F32", "fp16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}
"""Data type of the weights -> ggml's name."""
FILE_TYPES = {"fp32": "ALL_F32", "fp16": "MOSTLY_F16", "bf16": "MOSTLY_BF16"}
FILE_TYPES |= {"q8_0": "MOSTLY_Q8_0"}
BLOCK = 32
"""The number of values that share a scale in Q8_0. Tensors whose row length is not a multiple of
it are written in F16."""
IN_FP32 = ("position_embd.weight",)
"""The matrices that llama.cpp can only read in fp32."""


@dataclass(frozen=True)
class FileTensor:
    """A tensor to write."""

    name: str
    """llama.cpp's name of the tensor."""
    source: Tensor
    """The model's tensor."""
    kind: str
    """ggml's name of the data type in the file."""


def write_gguf(
    file: Path, model: PretrainedModel, vocabulary: Vocabulary, dtype: str, name: str
) -> None:
    """Write the file, with matrices in `dtype`, one of `QUANTIZED`, and vectors in fp32.

    `name` is the model's display name. Raises InputError for a model that the format does not
    support.
    """
    gguf = import_gguf()
    config = model.config
    architecture, metadata = architecture_of(config), metadata_of(config)
    tensors = list(_tensors(model, dtype))
    factors = factors_of(config)
    size = sum(tensor.source.numel() * 4 for tensor in tensors)
    with files.operation("write", file, size=size):
        writer: GgufWriter = gguf.GGUFWriter(str(file), architecture)
        writer.add_name(name)
        writer.add_file_type(gguf.LlamaFileType[FILE_TYPES[dtype]])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        _add_metadata(writer, architecture, metadata)
        _add_vocabulary(writer, vocabulary)
        for tensor in tensors:
            _add_tensor_info(gguf, writer, tensor, config)
        for label, array in factors.items():
            writer.add_tensor_info(label, array.shape, array.dtype, array.nbytes)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            kind = gguf.GGMLQuantizationType[tensor.kind]
            writer.write_tensor_data(gguf.quants.quantize(_array(tensor, config), kind))
        for array in factors.values():
            writer.write_tensor_data(array)
        writer.close()


def _tensors(model: PretrainedModel, dtype: str) -> Iterator[FileTensor]:
    for parameter, tensor in model.named_parameters():
        name = _llama_name(model.hub_name(parameter), architecture_of(model.config))
        kind = QUANTIZED[dtype]
        if tensor.dim() < 2 or name in IN_FP32:
            kind = "F32"
        elif kind == "Q8_0" and _shape(name, tensor, model.config)[-1] % BLOCK:
            kind = "F16"
        yield FileTensor(name, tensor.detach(), kind)


def _llama_name(hub_name: str, architecture: str) -> str:
    """llama.cpp's name of a tensor. Raises InputError for tensors that it does not have."""
    table, layers = TABLES[architecture]
    found = re.fullmatch(rf"(?:{re.escape(layers)}\.(\d+)\.)?(.+)\.(weight|bias)", hub_name)
    names = {hub_module: module for module, hub_module in table.items()}
    if found is None or found[2] not in names:
        raise InputError(f"format: gguf has no tensor {hub_name} in a {architecture} model")
    layer, module, leaf = found.groups()
    prefix = "" if layer is None else f"blk.{layer}."
    return f"{prefix}{names[module]}.{leaf}"


def _shape(name: str, tensor: Tensor, config: ModelConfig) -> tuple[int, ...]:
    shape = tuple(tensor.shape)
    return shape[::-1] if is_transposed(name, architecture_of(config)) else shape


def _array(tensor: FileTensor, config: ModelConfig) -> np.ndarray:
    """The tensor's values in fp32, in llama.cpp's layout."""
    architecture, name = architecture_of(config), tensor.name
    array = tensor.source.float().cpu().numpy()
    if is_transposed(name, architecture):
        array = array.T
    if is_reordered(name, architecture):
        heads = config.num_attention_heads
        if "attn_k" in name:
            heads = config.num_key_value_heads or heads
        array = rotated(array, heads)
    if is_offset(name, architecture):
        array = array + 1
    return np.ascontiguousarray(array)


def rotated(array: np.ndarray, heads: int) -> np.ndarray:
    """Reorder rows [heads * D, ...] to 0, D/2, 1, D/2 + 1, ...; the inverse of `unrotated`."""
    halves = array.reshape(heads, 2, -1, *array.shape[1:])
    return halves.swapaxes(1, 2).reshape(array.shape)


def _add_tensor_info(
    gguf: ModuleType, writer: GgufWriter, tensor: FileTensor, config: ModelConfig
) -> None:
    """Add the tensor's name, shape and type to the header."""
    kind = gguf.GGMLQuantizationType[tensor.kind]
    shape = _shape(tensor.name, tensor.source, config)
    size = int(np.prod(gguf.quants.quant_shape_to_byte_shape(shape, kind)))
    writer.add_tensor_info(tensor.name, shape, np.dtype(np.float32), size, kind)


def _add_metadata(writer: GgufWriter, architecture: str, metadata: Metadata) -> None:
    for key, value in metadata.items():
        name = f"{architecture}{key}" if key.startswith(".") else key
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        else:
            writer.add_string(name, value)


def _add_vocabulary(writer: GgufWriter, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model(vocabulary.kind)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(list(vocabulary.tokens))
    writer.add_token_types(list(vocabulary.types))
    if vocabulary.merges:
        writer.add_token_merges(list(vocabulary.merges))
    if vocabulary.scores:
        writer.add_token_scores(list(vocabulary.scores))
    for flag, value in vocabulary.flags.items():
        writer.add_bool(f"tokenizer.ggml.{flag}", value)
    for name, number in vocabulary.ids.items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", number)
    template = vocabulary.template
    if isinstance(template, str):
        writer.add_chat_template(template)
    elif template:
        named = [{"name": name, "template": text} for name, text in template.items()]
        writer.add_chat_template(named)
