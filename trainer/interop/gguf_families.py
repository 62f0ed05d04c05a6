"""GGUF metadata that only a single family uses."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from trainer.errors import InputError
from trainer.interop.gguf import GGUF, LONG_FACTORS, SHORT_FACTORS, entries_of, number, size

WINDOW, PATTERN = "attention.sliding_window", "attention.sliding_window_pattern"
OWN_KEYS: Mapping[str, tuple[str, ...]] = {
    "gemma2": ("attn_logit_softcapping", "final_logit_softcapping"),
    "gemma3": ("final_logit_softcapping", PATTERN, "rope.freq_base_swa"),
    "granite": ("attention.scale", "embedding_scale", "residual_scale", "logit_scale"),
    "cohere2": ("logit_scale", PATTERN),
    "llama": ("expert_count", "expert_used_count"),
    "qwen3moe": ("expert_count", "expert_used_count", "expert_feed_forward_length"),
}
"""Architecture -> the keys, without the architecture's prefix, that only this architecture uses."""
MIXTURES = ("llama", "qwen3moe")
"""The architectures that may have experts."""
PARTIAL = ("phi3", "glm4")
"""The architectures in which rope.dimension_count may be smaller than the size of a head."""
RESCALED = {"gemma2": 46, "gemma3": 62}
"""Architecture -> number of layers of its 27B model. For these models, llama.cpp divides attention
scores by sqrt(hidden size / heads)."""


def own_entries(gguf: GGUF, entries: dict[str, Any]) -> dict[str, Any]:
    """The entries of config.json that a family adds to Llama's; the value None removes an entry."""
    make = _MAKERS.get(gguf.architecture)
    return {} if make is None else make(gguf, entries)


def _llama(gguf: GGUF, entries: dict[str, Any]) -> dict[str, Any]:
    """The entries of Mixtral if the file has experts."""
    if not gguf.model("expert_count"):
        return {}
    return {
        "model_type": "mixtral",
        "num_local_experts": size(gguf, "expert_count"),
        "num_experts_per_tok": size(gguf, "expert_used_count"),
        "attention_bias": None,
        "mlp_bias": None,
    }


def _qwen3_moe(gguf: GGUF, entries: dict[str, Any]) -> dict[str, Any]:
    """The entries of a mixture; llama.cpp divides the weights of chosen experts by their sum."""
    return {
        "model_type": "qwen3_moe",
        "num_experts": size(gguf, "expert_count"),
        "num_experts_per_tok": size(gguf, "expert_used_count"),
        "moe_intermediate_size": size(gguf, "expert_feed_forward_length"),
        "norm_topk_prob": True,
    }


def _gemma(gguf: GGUF, entries: dict[str, Any]) -> dict[str, Any]:
    return {"hidden_act": "gelu_pytorch_tanh"}


def _gemma2(gguf: GGUF, entries: dict[str, Any]) -> dict[str, Any]:
    return {
        "query_pre_attn_scalar": _scalar(gguf, entries),
        "attn_logit_softcapping": number(gguf.model("attn_logit_softcapping", 50.0)),
        "final_logit_softcapping": number(gguf.model("final_logit_softcapping", 30.0)),
        "sliding_window": int(gguf.model(WINDOW, 4096)),
    }


def _gemma3(gguf: GGUF, entries: dict[str, Any]) -> dict[str, Any]:
    cap = gguf.model("final_logit_softcapping")
    return {
        "model_type": "gemma3_text",
        "query_pre_attn_scalar": _scalar(gguf, entries),
        "final_logit_softcapping": number(cap) if cap else None,
        "rope_theta": number(gguf.model("rope.freq_base", 1_000_000.0)),
        "rope_local_base_freq": number(gguf.model("rope.freq_base_swa", 10_000.0)),
        "sliding_window_pattern": _period(gguf, 6),
    }


def _scalar(gguf: GGUF, entries: dict[str, Any]) -> int:
    if entries["num_hidden_layers"] == RESCALED[gguf.architecture]:
        return int(entries["hidden_size"] // entries["num_attention_heads"])
    return int(entries["head_dim"])


def _period(gguf: GGUF, usual: int) -> int:
    """The number of layers from one global layer to the next. Raises InputError for a list."""
    found = gguf.model(PATTERN, usual)
    if type(found) is not int or found < 1:
        where = f"{gguf.file}: {gguf.architecture}.{PATTERN}"
        raise InputError(f"{where}: found {found!r:.60}; accepted: a number of layers")
    return found


def _phi3(gguf: GGUF, entries: dict[str, Any]) -> dict[str, Any]:
    head = entries["hidden_size"] // entries["num_attention_heads"]
    rotated = int(gguf.model("rope.dimension_count", head))
    original = int(gguf.model("rope.scaling.original_context_length", 0))
    found = {
        "head_dim": None,
        "partial_rotary_factor": rotated / head,
        "original_max_position_embeddings": original or entries["max_position_embeddings"],
    }
    if LONG_FACTORS not in gguf.tensors:
        return found
    longrope = {
        "rope_type": "longrope",
        "attention_factor": _attention_factor(gguf, entries, original),
        "short_factor": [number(x) for x in gguf.dequantised(SHORT_FACTORS)],
        "long_factor": [number(x) for x in gguf.dequantised(LONG_FACTORS)],
    }
    return {**found, "rope_scaling": entries_of(longrope)}


def _attention_factor(gguf: GGUF, entries: dict[str, Any], original: int) -> float | None:
    """The attention factor in the file, or None if it is the default for the model's lengths."""
    found = gguf.model("rope.scaling.attn_factor")
    if not found or original < 2:
        return number(found) if found else None
    ratio = max(entries["max_position_embeddings"] / original, 1.0)
    usual = math.sqrt(1 + math.log(ratio) / math.log(original))
    return None if math.isclose(found, usual, rel_tol=1e-5) else number(found)


def _olmo2(gguf: GGUF, entries: dict[str, Any]) -> dict[str, Any]:
    return {"head_dim": None}


def _granite(gguf: GGUF, entries: dict[str, Any]) -> dict[str, Any]:
    usual = (entries["hidden_size"] // entries["num_attention_heads"]) ** -0.5
    names = {
        "attention_multiplier": ("attention.scale", usual),
        "embedding_multiplier": ("embedding_scale", 1.0),
        "residual_multiplier": ("residual_scale", 1.0),
        "logits_scaling": ("logit_scale", 1.0),
    }
    found = {ours: number(gguf.model(name) or usual) for ours, (name, usual) in names.items()}
    return {**found, **_biases(gguf)}


def _smollm3(gguf: GGUF, entries: dict[str, Any]) -> dict[str, Any]:
    return {"no_rope_layer_interval": 4, **_biases(gguf)}


def _biases(gguf: GGUF) -> dict[str, Any]:
    return {
        "attention_bias": "blk.0.attn_q.bias" in gguf.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in gguf.tensors,
    }


def _glm4(gguf: GGUF, entries: dict[str, Any]) -> dict[str, Any]:
    head = int(gguf.model("attention.key_length") or 0)
    head = head or entries["hidden_size"] // entries["num_attention_heads"]
    rotated = int(gguf.model("rope.dimension_count", head))
    return {
        "head_dim": head,
        "partial_rotary_factor": rotated / head,
        "attention_bias": "blk.0.attn_q.bias" in gguf.tensors,
    }


def _cohere2(gguf: GGUF, entries: dict[str, Any]) -> dict[str, Any]:
    return {
        "head_dim": None,
        "rms_norm_eps": None,
        "layer_norm_eps": number(gguf.model("attention.layer_norm_epsilon", 1e-5)),
        "logit_scale": number(gguf.model("logit_scale") or 1.0),
        "sliding_window_pattern": _period(gguf, 4),
    }


_MAKERS: Mapping[str, Callable[[GGUF, dict[str, Any]], dict[str, Any]]] = {
    "llama": _llama,
    "qwen3moe": _qwen3_moe,
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "phi3": _phi3,
    "olmo2": _olmo2,
    "granite": _granite,
    "smollm3": _smollm3,
    "glm4": _glm4,
    "cohere2": _cohere2,
}
