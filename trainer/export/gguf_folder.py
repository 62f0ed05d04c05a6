"""The GGUF export: writes a file for llama.cpp and Ollama, and tests it before publishing it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from torch import nn

from trainer.checkpoint import files
from trainer.errors import InputError, NumericsError
from trainer.export import llama_cpp
from trainer.export.card import Card, Check, installed
from trainer.export.folder import publish_export
from trainer.export.greedy import (
    QUANTIZED_TIE,
    TIES,
    compare_greedy,
    greedy,
    num_generated,
    prompts_of,
)
from trainer.export.modelfile import FILE as MODELFILE
from trainer.export.modelfile import modelfile
from trainer.export.source import Source
from trainer.generation.stop_tokens import stop_token_ids
from trainer.interop.gguf_metadata import architecture_of, ignored_window, metadata_of
from trainer.interop.gguf_vocabulary import Vocabulary, vocabulary_of
from trainer.interop.gguf_writing import QUANTIZED, write_gguf
from trainer.models.heads.causal_lm import CausalLMModel
from trainer.models.pretrained import PretrainedModel
from trainer.terminal.activity import doing
from trainer.tokenizer import Tokenizer

BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "q8_0": 34 / 32}
"""Data type of the weights -> bytes per weight."""
FILE, UNQUANTIZED = "model.gguf", "model-fp16.gguf"
TEXTS = (
    "Hello world, it's  12 o'clock.\n\nNew line\tand tab",
    "\u00c4\u00d6\u00fc\u00df caf\u00e9 na\u00efve \u4f60\u597d \u0645\u0631\u062d\u0628\u0627",
    "1234567 3.14 x1 0xff \U0001f600\U0001f680",
    "def f(x):\n    return x**2  # a comment",
    "don't WE'LL They're I'M",
)
"""Texts that different tokenizers split differently, to compare the ids."""
USAGE = """
llama-cli -m model.gguf -p "Once upon a time"          # llama.cpp
ollama create my-model -f Modelfile && ollama run my-model
"""


@dataclass(frozen=True)
class _Reference:
    """The results of the original model and tokenizer for the prompts and texts."""

    prompts: list[list[int]]
    greedy: list[list[int]]
    texts: Sequence[str]
    ids: list[list[int]]


def export_gguf(source: Source, target: Path, dtype: str) -> Card:
    """Write model.gguf and a Modelfile, and publish them if greedy decoding gives the same texts.

    This package runs the file and, if llama-cpp-python is installed, llama.cpp does too. Raises
    InputError for a model or tokenizer that the format does not support, and NumericsError if the
    texts differ.
    """
    model, tokenizer = source.model, source.tokenizer
    _require(model, tokenizer, dtype)
    assert isinstance(tokenizer, Tokenizer)
    ends = stop_token_ids(model, tokenizer)
    doing("writing the model's greedy texts, for the comparison")
    vocabulary = vocabulary_of(tokenizer, model.config.vocab_size, ends)
    reference = _reference(model, tokenizer)
    card = Card(source.path, "gguf", dtype, model.architecture, USAGE, language="sh")
    plain = dtype if dtype in QUANTIZED else "fp16"

    def fill(folder: Path) -> None:
        first = folder / (FILE if plain == dtype else UNQUANTIZED)
        doing("writing the file")
        write_gguf(first, model, vocabulary, plain, Path(source.path).name)
        _check(card, first, model, reference, plain)
        if plain != dtype:
            doing(f"quantizing to {dtype}")
            llama_cpp.quantize(first, folder / FILE, dtype)
            files.remove_file(first)
            _check(card, folder / FILE, model, reference, dtype)
        _write_modelfile(folder, source, vocabulary, ends, card)

    if window := ignored_window(model.config):
        card.notes.append(f"llama.cpp does not apply the sliding window of {window} tokens.")
    if not llama_cpp.is_installed():
        card.notes.append("llama-cpp-python was not installed, so llama.cpp did not run the file.")
    publish_export(target, card, fill, expected_bytes(model, dtype))
    return card


def expected_bytes(model: nn.Module, dtype: str) -> int:
    """The disk space that the export needs; while quantizing, two files exist at the same time."""
    numbers = sum(tensor.numel() for tensor in model.state_dict().values())
    if dtype in BYTES:
        return math.ceil(numbers * BYTES[dtype])
    bits = int(dtype[1]) + 1.5  # bits per weight of types such as q4_k_m, including the scales
    return math.ceil(numbers * (BYTES["fp16"] + bits / 8))


def _require(model: PretrainedModel, tokenizer: Tokenizer | None, dtype: str) -> None:
    """Raise InputError if a package is missing or the model is not supported, before any work."""
    architecture_of(model.config)
    if not isinstance(model, CausalLMModel):
        found = f"found the head {model.task}"
        raise InputError(f"model.path: {found}; accepted with format=gguf: a language model")
    metadata_of(model.config)
    if find_spec("gguf") is None:
        accepted = "accepted: pip install 'tempering[gguf]'"
        raise InputError(f"format: gguf needs the package gguf, which is not installed; {accepted}")
    if tokenizer is None:
        raise InputError("tokenizer: found none; accepted with format=gguf: a tokenizer of texts")
    if dtype not in QUANTIZED:
        llama_cpp.require_quantizer(dtype)


def _reference(model: PretrainedModel, tokenizer: Tokenizer) -> _Reference:
    prompts = prompts_of(model, tokenizer)
    ids = [list(tokenizer(text)["input_ids"]) for text in TEXTS]
    return _Reference(prompts, greedy(model, prompts), TEXTS, ids)


def _check(
    card: Card, file: Path, model: PretrainedModel, reference: _Reference, dtype: str
) -> None:
    """Read the file back and run it; its token ids and greedy texts must equal the original ones.

    A file that llama.cpp has quantized is a different model. Its texts must be the same in this
    package and in llama.cpp, but how far they agree with the original texts is only reported.
    """
    doing(f"reading {file.name} again and comparing its texts")
    tokenizer = Tokenizer.from_pretrained(file)
    ids = [list(tokenizer(text)["input_ids"]) for text in reference.texts]
    _check_ids(ids, reference, "the file's tokenizer")
    reread = CausalLMModel.from_pretrained(file).eval()
    own = greedy(reread, reference.prompts)
    tie = TIES.get(dtype, float("inf"))
    agreement = compare_greedy(model, reference.prompts, reference.greedy, own, tie)
    reader, label = f"tempering {installed('tempering') or ''}".strip(), f"{dtype}: greedy texts"
    if agreement.wrong:
        raise NumericsError(f"job=export: read back, {agreement.wrong}; nothing was written")
    accepted = f"near ties below {tie:g}" if dtype in TIES else "reported only"
    what = f"{label} of {len(reference.prompts)} prompts and {len(TEXTS)} tokenized texts"
    card.checks.append(Check(what, reader, agreement.description, accepted))
    if llama_cpp.is_installed():
        _check_llama_cpp(card, file, reread, own, reference, dtype)


def _check_llama_cpp(
    card: Card,
    file: Path,
    reread: PretrainedModel,
    own: list[list[int]],
    reference: _Reference,
    dtype: str,
) -> None:
    """Check that llama.cpp and this package get the same ids and greedy texts from the file."""
    count = num_generated(reread, reference.prompts)
    from_llama_cpp = llama_cpp.read(file, reference.prompts, reference.texts, count)
    _check_ids(from_llama_cpp.tokenized, reference, "llama.cpp")
    tie = TIES.get(dtype, QUANTIZED_TIE)
    agreement = compare_greedy(reread, reference.prompts, own, from_llama_cpp.continuations, tie)
    if agreement.wrong:
        raise NumericsError(f"job=export: in llama.cpp {agreement.wrong}; nothing was written")
    what, accepted = f"{dtype}: the same file", f"near ties below {tie:g}"
    card.checks.append(Check(what, llama_cpp.program(), agreement.description, accepted))


def _check_ids(found: list[list[int]], reference: _Reference, where: str) -> None:
    for text, ids, wanted in zip(reference.texts, found, reference.ids, strict=True):
        if ids != wanted:
            what = f"{where} reads {text!r:.40} as {ids[:8]}..., not {wanted[:8]}..."
            raise InputError(f"tokenizer: {what}; accepted: one that llama.cpp knows")


def _write_modelfile(
    folder: Path, source: Source, vocabulary: Vocabulary, ends: Sequence[int], card: Card
) -> None:
    assert source.tokenizer is not None
    text, note = modelfile(
        FILE,
        source.tokenizer,
        ends,
        source.system,
        source.model.generation_config,
        vocabulary.flags["add_bos_token"],
    )
    files.write_text(folder / MODELFILE, text)
    card.notes.append(note)
