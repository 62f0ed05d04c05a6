"""The config of a GGUF file: converts metadata to entries of config.json."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from trainer.errors import InputError, nearest
from trainer.interop.gguf import (
    GGUF,
    LONG_FACTORS,
    ROPE_FACTORS,
    entries_of,
    number,
    opened,
    size,
)
from trainer.interop.gguf_families import MIXTURES, own_entries
from trainer.interop.gguf_keys import check_keys
from trainer.interop.gguf_names import TABLES

NAMES = {
    "cohere2": "Cohere2",
    "gemma": "Gemma",
    "gemma2": "Gemma2",
    "gemma3_text": "Gemma3",
    "glm4": "Glm4",
    "granite": "Granite",
    "llama": "Llama",
    "mistral": "Mistral",
    "mixtral": "Mixtral",
    "olmo2": "Olmo2",
    "phi3": "Phi3",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "qwen3_moe": "Qwen3Moe",
    "smollm3": "SmolLM3",
}
"""Model type -> the prefix of its class names on the hub."""
LLAMA3 = ((8.0, 1.0, 4.0, 8192), (32.0, 1.0, 4.0, 8192))
"""The rope scalings of the published Llama 3 models: (factor, low frequency factor, high frequency
factor, original number of positions)."""


def read_config(file: Path) -> dict[str, Any]:
    """The entries of config.json. Raises InputError for an unsupported architecture."""
    gguf = opened(file)
    if gguf.architecture not in TABLES:
        accepted = f"{', '.join(TABLES)}{nearest(gguf.architecture, TABLES)}"
        found = gguf.architecture or "none"
        raise InputError(f"{file}: general.architecture: found {found}; accepted: {accepted}")
    if gguf.model("expert_count") and gguf.architecture not in MIXTURES:
        found = f"found a mixture of experts with the architecture {gguf.architecture}"
        raise InputError(f"{file}: {found}; accepted: one of {', '.join(MIXTURES)}")
    check_keys(gguf)
    make: Callable[[GGUF], dict[str, Any]] = _gpt2 if gguf.architecture == "gpt2" else _llama
    entries = make(gguf)
    return entries | {
        "architectures": [_class(entries["model_type"])],
        "vocab_size": int(_tensor(gguf, "token_embd.weight").shape[-1]),
        "tie_word_embeddings": "output.weight" not in gguf.tensors,
        "bos_token_id": gguf.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": _ends(gguf),
        "pad_token_id": gguf.get("tokenizer.ggml.padding_token_id"),
    }


def _class(model_type: str) -> str:
    """The hub's class name for a model type."""
    return "GPT2LMHeadModel" if model_type == "gpt2" else f"{NAMES[model_type]}ForCausalLM"


def read_sampling(file: Path) -> dict[str, Any]:
    """The sampling settings that the file recommends, as entries of generation_config.json."""
    gguf = opened(file)
    names = {"temp": "temperature", "penalty_repeat": "repetition_penalty"}
    names |= {name: name for name in ("top_k", "top_p", "min_p")}
    values = {ours: gguf.get(f"general.sampling.{name}") for name, ours in names.items()}
    found = {name: int(v) if name == "top_k" else number(v) for name, v in values.items() if v}
    return {"do_sample": True, **found} if "temperature" in found else found


def _ends(gguf: GGUF) -> int | list[int] | None:
    """The ids of the tokens at which llama.cpp stops: the ends of a text, turn or message."""
    found = [gguf.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    ends = list(dict.fromkeys(number for number in found if number is not None))
    return ends if len(ends) > 1 else next(iter(ends), None)


def _gpt2(gguf: GGUF) -> dict[str, Any]:
    return {
        "model_type": "gpt2",
        "n_positions": size(gguf, "context_length"),
        "n_embd": size(gguf, "embedding_length"),
        "n_layer": size(gguf, "block_count"),
        "n_head": size(gguf, "attention.head_count"),
        "n_inner": size(gguf, "feed_forward_length"),
        "layer_norm_epsilon": number(gguf.model("attention.layer_norm_epsilon", 1e-5)),
    }


def _llama(gguf: GGUF) -> dict[str, Any]:
    """The entries for the families that use Llama's layers."""
    window = gguf.model("attention.sliding_window")
    kind = "mistral" if gguf.architecture == "llama" and window else gguf.architecture
    heads = size(gguf, "attention.head_count")
    head_dim = gguf.model("attention.key_length") or gguf.model("rope.dimension_count")
    entries = {
        "model_type": kind,
        "hidden_size": size(gguf, "embedding_length"),
        "intermediate_size": size(gguf, "feed_forward_length"),
        "num_hidden_layers": size(gguf, "block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": int(gguf.model("attention.head_count_kv", heads)),
        "head_dim": head_dim and int(head_dim),
        "max_position_embeddings": size(gguf, "context_length"),
        "rms_norm_eps": number(gguf.model("attention.layer_norm_rms_epsilon", 1e-6)),
        "rope_theta": number(gguf.model("rope.freq_base", 10000.0)),
        "rope_scaling": _rope_scaling(gguf),
        "sliding_window": int(window) if window else None,
    }
    if kind == "llama":
        entries["attention_bias"] = "blk.0.attn_q.bias" in gguf.tensors
        entries["mlp_bias"] = "blk.0.ffn_up.bias" in gguf.tensors
    if kind == "qwen2":
        del entries["head_dim"]
    return entries_of(entries | own_entries(gguf, entries))


def _rope_scaling(gguf: GGUF) -> dict[str, Any] | None:
    if ROPE_FACTORS in gguf.tensors:
        return _llama3_scaling(gguf)
    if LONG_FACTORS in gguf.tensors:
        return None  # `own_entries` reads these factors
    factor = gguf.model("rope.scaling.factor") or gguf.model("rope.scale_linear") or 0.0
    kind = gguf.model("rope.scaling.type", "linear" if factor else "none")  # as in llama.cpp
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
    """The entries for YaRN except the factor.

    The file's attention factor is relative to YaRN's default, so it is multiplied by the default.
    """
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
    """The entries of the published scaling that yields the frequency factors in the file."""
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
    found_factors = "found factors of no published scaling"
    accepted = "accepted: the factors of Llama 3"
    raise InputError(f"{gguf.file}: {ROPE_FACTORS}: {found_factors}; {accepted}")


def _llama3_factors(
    count: int, theta: float, factor: float, low: float, high: float, positions: int
) -> np.ndarray:
    """The divisor of each frequency, computed as in `trainer.models.blocks.rope`."""
    wavelengths = 2 * math.pi * theta ** (np.arange(count) / count)
    smooth = ((positions / wavelengths - low) / (high - low)).clip(0, 1)
    return 1 / ((1 - smooth) / factor + smooth)


def _tensor(gguf: GGUF, name: str) -> Any:
    if name not in gguf.tensors:
        raise InputError(f"{gguf.file}: tensor {name} is missing")
    return gguf.tensors[name]
