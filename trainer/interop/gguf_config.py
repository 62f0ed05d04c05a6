"""The config of a GGUF file: its metadata as the entries of a config.json."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from trainer.errors import InputError, nearest
from trainer.interop.gguf import GGUF, ROPE_FACTORS, entries_of, number, opened
from trainer.interop.gguf_keys import check_keys
from trainer.interop.gguf_names import TABLES

CLASSES = {
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
"""The hub's name of each model type's class."""
LLAMA3 = ((8.0, 1.0, 4.0, 8192), (32.0, 1.0, 4.0, 8192))
"""Rope scalings that were published: factor, low and high frequency factor, first positions."""


def read_config(file: Path) -> dict[str, Any]:
    """The entries of config.json. Raises InputError for a model that is not native here."""
    gguf = opened(file)
    if gguf.architecture not in TABLES:
        accepted = f"{', '.join(TABLES)}{nearest(gguf.architecture, TABLES)}"
        found = gguf.architecture or "none"
        raise InputError(f"{file}: general.architecture: found {found}; accepted: {accepted}")
    if gguf.model("expert_count"):
        raise InputError(f"{file}: found a mixture of experts; accepted: dense models")
    check_keys(gguf)
    make: Callable[[GGUF], dict[str, Any]] = _gpt2 if gguf.architecture == "gpt2" else _llama
    entries = make(gguf)
    return entries | {
        "architectures": [CLASSES[entries["model_type"]]],
        "vocab_size": int(_tensor(gguf, "token_embd.weight").shape[-1]),
        "tie_word_embeddings": "output.weight" not in gguf.tensors,
        "bos_token_id": gguf.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": _ends(gguf),
        "pad_token_id": gguf.get("tokenizer.ggml.padding_token_id"),
    }


def read_sampling(file: Path) -> dict[str, Any]:
    """What a GGUF file recommends for generation, as the entries of generation_config.json."""
    gguf = opened(file)
    names = {"temp": "temperature", "penalty_repeat": "repetition_penalty"}
    names |= {name: name for name in ("top_k", "top_p", "min_p")}
    given = {ours: gguf.get(f"general.sampling.{name}") for name, ours in names.items()}
    found = {name: int(v) if name == "top_k" else number(v) for name, v in given.items() if v}
    return {"do_sample": True, **found} if "temperature" in found else found


def _ends(gguf: GGUF) -> int | list[int] | None:
    """The tokens after which llama.cpp stops: of a text, of a turn, of a message."""
    found = [gguf.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    ends = list(dict.fromkeys(number for number in found if number is not None))
    return ends if len(ends) > 1 else next(iter(ends), None)


def _gpt2(gguf: GGUF) -> dict[str, Any]:
    return {
        "model_type": "gpt2",
        "n_positions": _size(gguf, "context_length"),
        "n_embd": _size(gguf, "embedding_length"),
        "n_layer": _size(gguf, "block_count"),
        "n_head": _size(gguf, "attention.head_count"),
        "n_inner": _size(gguf, "feed_forward_length"),
        "layer_norm_epsilon": number(gguf.model("attention.layer_norm_epsilon", 1e-5)),
    }


def _llama(gguf: GGUF) -> dict[str, Any]:
    """The families that share Llama's block."""
    window = gguf.model("attention.sliding_window")
    kind = "mistral" if gguf.architecture == "llama" and window else gguf.architecture
    heads = _size(gguf, "attention.head_count")
    head_dim = gguf.model("attention.key_length") or gguf.model("rope.dimension_count")
    entries = {
        "model_type": kind,
        "hidden_size": _size(gguf, "embedding_length"),
        "intermediate_size": _size(gguf, "feed_forward_length"),
        "num_hidden_layers": _size(gguf, "block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": int(gguf.model("attention.head_count_kv", heads)),
        "head_dim": head_dim and int(head_dim),
        "max_position_embeddings": _size(gguf, "context_length"),
        "rms_norm_eps": number(gguf.model("attention.layer_norm_rms_epsilon", 1e-6)),
        "rope_theta": number(gguf.model("rope.freq_base", 10000.0)),
        "rope_scaling": _rope_scaling(gguf),
        "sliding_window": window and int(window),
    }
    if kind == "llama":
        entries["attention_bias"] = "blk.0.attn_q.bias" in gguf.tensors
        entries["mlp_bias"] = "blk.0.ffn_up.bias" in gguf.tensors
    if kind == "qwen2":
        del entries["head_dim"]
    return entries_of(entries)


def _rope_scaling(gguf: GGUF) -> dict[str, Any] | None:
    if ROPE_FACTORS in gguf.tensors:
        return _llama3_scaling(gguf)
    factor = gguf.model("rope.scaling.factor") or gguf.model("rope.scale_linear") or 0.0
    kind = gguf.model("rope.scaling.type", "linear" if factor else "none")  # as llama.cpp has it
    if kind == "none" or (kind == "linear" and number(factor) in (0.0, 1.0)):
        return None
    if kind not in ("linear", "yarn"):
        raise InputError(f"{gguf.file}: rope.scaling.type: found {kind}; accepted: linear, yarn")
    original = gguf.model("rope.scaling.original_context_length")
    return entries_of(
        {
            "rope_type": kind,
            "factor": number(factor or 1.0),
            "original_max_position_embeddings": original and int(original),
            **(_yarn(gguf, number(factor or 1.0)) if kind == "yarn" else {}),
        }
    )


def _yarn(gguf: GGUF, factor: float) -> dict[str, Any]:
    """What a file says of YaRN beside its factor; llama.cpp scales the usual attention factor."""
    scaling = "rope.scaling"
    own = gguf.model(f"{scaling}.yarn_attn_factor") or gguf.model(f"{scaling}.attn_factor") or 1.0
    usual = 0.1 * math.log(max(factor, 1.0)) + 1.0
    found = {
        "beta_fast": gguf.model(f"{scaling}.yarn_beta_fast"),
        "beta_slow": gguf.model(f"{scaling}.yarn_beta_slow"),
    }
    return {
        **{name: number(value) for name, value in found.items() if value},
        "attention_factor": None if number(own) == 1.0 else number(own) * usual,
    }


def _llama3_scaling(gguf: GGUF) -> dict[str, Any]:
    """The published scaling that gives the factors of the frequencies that the file holds."""
    found = gguf.dequantised(ROPE_FACTORS)
    theta = number(gguf.model("rope.freq_base", 10000.0))
    for factor, low, high, positions in LLAMA3:
        if np.allclose(found, _llama3_factors(len(found), theta, factor, low, high, positions)):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": positions,
            }
    raise InputError(f"{gguf.file}: {ROPE_FACTORS}: no published scaling; accepted: Llama 3's")


def _llama3_factors(
    count: int, theta: float, factor: float, low: float, high: float, positions: int
) -> np.ndarray:
    """What each frequency is divided by, as `trainer.models.rope` scales them."""
    wavelengths = 2 * math.pi * theta ** (np.arange(count) / count)
    smooth = ((positions / wavelengths - low) / (high - low)).clip(0, 1)
    return 1 / ((1 - smooth) / factor + smooth)


def _size(gguf: GGUF, name: str) -> int:
    value = gguf.model(name)
    if not isinstance(value, int) or value < 1:
        where = f"{gguf.architecture}.{name}"
        raise InputError(f"{gguf.file}: {where}: found {value!r:.40}; accepted: a size")
    return value


def _tensor(gguf: GGUF, name: str) -> Any:
    if name not in gguf.tensors:
        raise InputError(f"{gguf.file}: tensor {name} is missing")
    return gguf.tensors[name]
