"""The metadata of a GGUF file: converts a model's config to the form that llama.cpp reads."""

import math
from collections.abc import Callable, Mapping

import numpy as np

from trainer.errors import InputError
from trainer.interop.gguf import LONG_FACTORS, ROPE_FACTORS, SHORT_FACTORS
from trainer.interop.gguf_config import LLAMA3
from trainer.interop.gguf_names import TABLES
from trainer.models.blocks.layer_place import GLOBAL, LOCAL, head_channels, layer_kinds
from trainer.models.blocks.rope import Rope, read_rope
from trainer.models.config import ModelConfig

Value = int | float | str | bool
Metadata = dict[str, Value]
"""Key -> value. A key that starts with a dot gets the architecture's name as prefix."""
RENAMED = {"mistral": "llama", "gemma3_text": "gemma3"}
"""Model type -> architecture, if the two names differ."""
PERIODS = {"gemma2": 2, "gemma3": 6, "cohere2": 4}
"""Architecture -> number of layers from one global layer to the next, as llama.cpp assumes."""
RESCALED = {"gemma2": 46, "gemma3": 62}
"""Architecture -> number of layers of the only model size for which llama.cpp divides attention
scores by sqrt(hidden size / heads)."""


def architecture_of(config: ModelConfig) -> str:
    """llama.cpp's name of the architecture. Raises InputError for unsupported families."""
    kind = config.family.model_type
    name = RENAMED.get(kind, kind)
    if name not in TABLES:
        accepted = ", ".join(sorted({*TABLES, *RENAMED} - set(RENAMED.values()) | {"llama"}))
        raise InputError(f"format: gguf has no writer for {kind}; accepted: {accepted}")
    return name


def metadata_of(config: ModelConfig) -> Metadata:
    """The metadata of the model. Raises InputError for features that llama.cpp lacks."""
    architecture = architecture_of(config)
    found: Metadata = {
        ".context_length": config.max_position_embeddings,
        ".embedding_length": config.hidden_size,
        ".block_count": config.num_hidden_layers,
        ".feed_forward_length": config.intermediate_size or 4 * config.hidden_size,
        ".attention.head_count": config.num_attention_heads,
        ".vocab_size": config.vocab_size,
    }
    if architecture == "gpt2":
        return {**found, ".attention.layer_norm_epsilon": float(config.layer_norm_epsilon)}
    channels = head_channels(config)
    found |= {
        ".attention.head_count_kv": config.num_key_value_heads or config.num_attention_heads,
        ".attention.key_length": channels,
        ".attention.value_length": channels,
        ".attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        **_rope(config, read_rope(config)),
        **_window(config, architecture),
    }
    more = _MAKERS.get(architecture)
    return found if more is None else {**found, **more(config)}


def ignored_window(config: ModelConfig) -> int | None:
    """The sliding window, if llama.cpp does not apply it, so that outputs for long texts differ."""
    architecture = architecture_of(config)
    ignored = architecture in ("llama", "phi3", "qwen2", "qwen3")
    return next(iter(_window(config, architecture).values()), None) if ignored else None


def factors_of(config: ModelConfig) -> Mapping[str, np.ndarray]:
    """llama.cpp's name -> tensor, for tensors with factors of the rotary frequencies."""
    if config.family.model_type == "gpt2":
        return {}
    rope = read_rope(config)
    if rope.kind == "longrope":
        both = zip((SHORT_FACTORS, LONG_FACTORS), rope.factors, strict=True)
        return {name: np.array(each, np.float32) for name, each in both}
    if rope.kind != "llama3":
        return {}
    names = ("factor", "low_freq_factor", "high_freq_factor")
    numbers = (*(float(rope.numbers[name]) for name in names), rope.trained_length)
    if numbers not in LLAMA3:
        raise _refused(config, f"rope_type llama3 with {numbers}; accepted: {LLAMA3}")
    factor, low, high, positions = numbers
    count = rope.channels // 2
    wavelengths = 2 * math.pi * rope.theta ** (np.arange(count) / count)
    smooth = ((positions / wavelengths - low) / (high - low)).clip(0, 1)
    return {ROPE_FACTORS: (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)}


def _rope(config: ModelConfig, rope: Rope) -> Metadata:
    found: Metadata = {".rope.dimension_count": rope.channels, ".rope.freq_base": rope.theta}
    if rope.kind in ("default", "llama3"):
        return found
    scaling = ".rope.scaling"
    if rope.kind == "longrope":
        factor = rope._longrope_temperature()
        own = {f"{scaling}.original_context_length": rope.trained_length}
        return {**found, **own, f"{scaling}.attn_factor": factor}
    if rope.kind not in ("linear", "yarn"):
        raise _refused(config, f"rope_type {rope.kind}")
    found |= {f"{scaling}.type": rope.kind, f"{scaling}.factor": float(rope.numbers["factor"])}
    if rope.kind == "linear":
        return found
    if rope.numbers.get("mscale") or not rope.truncate:
        raise _refused(config, "rope_type yarn with mscale or truncate=false")
    found[f"{scaling}.original_context_length"] = rope.trained_length
    for name, llama_cpp_name in (("beta_fast", "yarn_beta_fast"), ("beta_slow", "yarn_beta_slow")):
        if rope.numbers.get(name) is not None:
            found[f"{scaling}.{llama_cpp_name}"] = float(rope.numbers[name])
    if (attention_factor := rope.numbers.get("attention_factor")) is not None:
        usual = 0.1 * math.log(max(float(rope.numbers["factor"]), 1.0)) + 1.0
        found[f"{scaling}.attn_factor"] = float(attention_factor) / usual
    return found


def _window(config: ModelConfig, architecture: str) -> dict[str, int]:
    """The sliding window. Raises InputError unless llama.cpp assumes it for the same layers."""
    if not config.use_sliding_window or not config.sliding_window:
        return {}
    kinds = layer_kinds(config)
    if LOCAL not in kinds:
        return {}
    period = PERIODS.get(architecture)
    if period is None:
        wanted = [LOCAL] * len(kinds)
    else:
        wanted = [LOCAL if (n + 1) % period else GLOBAL for n in range(len(kinds))]
    if kinds != wanted:
        raise _refused(config, "layer_types other than the published ones")
    return {".attention.sliding_window": int(config.sliding_window)}


def _gemma2(config: ModelConfig) -> Metadata:
    _check_scale(config, "gemma2")
    names = ("attn_logit_softcapping", "final_logit_softcapping")
    if any(not config.known(name) for name in names):
        raise _refused(config, "soft caps that are null")
    return {f".{name}": float(config.known(name)) for name in names}


def _gemma3(config: ModelConfig) -> Metadata:
    _check_scale(config, "gemma3")
    local = read_rope(config, LOCAL)
    if local.kind != "default":
        raise _refused(config, f"rope_type {local.kind} in local layers")
    found: Metadata = {".rope.freq_base_swa": local.theta}
    if config.final_logit_softcapping:
        found[".final_logit_softcapping"] = float(config.final_logit_softcapping)
    return found


def _check_scale(config: ModelConfig, architecture: str) -> None:
    """Refuse a scale of attention scores that differs from the one that llama.cpp derives."""
    wanted = head_channels(config)
    if config.num_hidden_layers == RESCALED[architecture]:
        wanted = config.hidden_size // config.num_attention_heads
    if config.query_pre_attn_scalar != wanted:
        found = f"query_pre_attn_scalar {config.query_pre_attn_scalar}; accepted: {wanted}"
        raise _refused(config, found)


def _phi3(config: ModelConfig) -> Metadata:
    original = config.original_max_position_embeddings or config.max_position_embeddings
    return {".rope.scaling.original_context_length": int(original)}


def _granite(config: ModelConfig) -> Metadata:
    return {
        ".attention.scale": float(config.attention_multiplier),
        ".embedding_scale": float(config.embedding_multiplier),
        ".residual_scale": float(config.residual_multiplier),
        ".logit_scale": float(config.logits_scaling),
    }


def _smollm3(config: ModelConfig) -> Metadata:
    if config.no_rope_layer_interval != 4:
        found = f"no_rope_layer_interval {config.no_rope_layer_interval}; accepted: 4"
        raise _refused(config, found)
    return {}


def _cohere2(config: ModelConfig) -> Metadata:
    return {
        ".attention.layer_norm_epsilon": float(config.layer_norm_eps),
        ".logit_scale": float(config.logit_scale),
    }


def _refused(config: ModelConfig, found: str) -> InputError:
    return InputError(f"format: gguf does not support {config.family.model_type} with {found}")


_MAKERS: Mapping[str, Callable[[ModelConfig], Metadata]] = {
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "phi3": _phi3,
    "granite": _granite,
    "smollm3": _smollm3,
    "cohere2": _cohere2,
}
