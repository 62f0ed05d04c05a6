"""The metadata keys of GGUF files: decides which keys are read, ignored or refused."""

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.errors import InputError
from trainer.interop.gguf_families import MIXTURES, OWN_KEYS, PARTIAL

if TYPE_CHECKING:
    from trainer.interop.gguf import GGUF

READ = frozenset(
    {
        *("general.architecture", "general.alignment", "general.quantization_version"),
        *("{arch}.context_length", "{arch}.embedding_length", "{arch}.block_count"),
        *("{arch}.feed_forward_length", "{arch}.attention.head_count"),
        *("{arch}.attention.head_count_kv", "{arch}.attention.key_length"),
        *("{arch}.attention.value_length", "{arch}.attention.layer_norm_epsilon"),
        *("{arch}.attention.layer_norm_rms_epsilon", "{arch}.attention.sliding_window"),
        *("{arch}.rope.dimension_count", "{arch}.rope.freq_base", "{arch}.rope.scale_linear"),
        *("{arch}.rope.scaling.type", "{arch}.rope.scaling.factor"),
        *("{arch}.rope.scaling.original_context_length", "{arch}.rope.scaling.attn_factor"),
        *("{arch}.rope.scaling.yarn_attn_factor", "{arch}.rope.scaling.yarn_beta_fast"),
        *("{arch}.rope.scaling.yarn_beta_slow", "tokenizer.ggml.model", "tokenizer.ggml.pre"),
        *("tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.scores"),
        *("tokenizer.ggml.merges", "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"),
        *("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"),
        *("tokenizer.ggml.unknown_token_id", "tokenizer.ggml.seperator_token_id"),
        *("tokenizer.ggml.padding_token_id", "tokenizer.ggml.mask_token_id"),
        *("tokenizer.ggml.cls_token_id", "tokenizer.ggml.add_bos_token"),
        *("tokenizer.ggml.add_eos_token", "tokenizer.ggml.add_space_prefix"),
        *("tokenizer.chat_template", "tokenizer.chat_template.{name}", "tokenizer.chat_templates"),
        *("general.sampling.temp", "general.sampling.top_k", "general.sampling.top_p"),
        *("general.sampling.min_p", "general.sampling.penalty_repeat"),
    }
)
NO_EFFECT = (
    r"general\.(name|author|version|organization|finetune|basename|description|quantized_by)",
    r"general\.(size_label|license.*|url|doi|uuid|repo_url|source\..*|base_model\..*|dataset\..*)",
    r"general\.(tags|languages|datasets|file_type)",
    r"general\.sampling\.(sequence|xtc_.*|penalty_last_n|mirostat.*)",
    r"\{arch\}\.(vocab_size|tensor_data_layout|decoder_start_token_id|pooling_type)",
    r"\{arch\}\.(expert_.*|experts_.*|moe_.*|leading_dense_block_count|interleave_moe_.*)",
    r"\{arch\}\.(classifier\..*|features_length|embedding_length_out|rope\.scaling\.finetuned)",
    r"tokenizer\.ggml\.(token_type_count|fim_.*|prefix_token_id|suffix_token_id|middle_token_id)",
    r"tokenizer\.ggml\.(added_tokens|precompiled_charsmap|remove_extra_whitespaces)",
    r"tokenizer\.huggingface\.json|tokenizer\.rwkv\.world|(quantize\.)?imatrix\..*",
    r"split\.(no|count|tensors\.count)",
)
"""Patterns of keys that do not affect the outputs of a model without experts."""
SAME = {
    "general.type": "model",
    "split.count": (0, 1),
    "{arch}.expert_count": 0,
    "{arch}.use_parallel_residual": (False, True),
    "{arch}.attention.causal": True,
    "{arch}.attention.clamp_kqv": 0.0,
    "{arch}.attention.max_alibi_bias": 0.0,
    "{arch}.attention.sliding_window_pattern": 0,
    "{arch}.nextn_predict_layers": 0,
    "{arch}.logit_scale": (0.0, 1.0),
    "{arch}.residual_scale": (0.0, 1.0),
    "{arch}.embedding_scale": (0.0, 1.0),
    "{arch}.attention.scale": 0.0,
    "{arch}.attention.output_scale": (0.0, 1.0),
    "{arch}.attn_logit_softcapping": 0.0,
    "{arch}.final_logit_softcapping": 0.0,
    "{arch}.rope.scaling.yarn_ext_factor": (-1.0, 1.0),
    "{arch}.rope.scaling.yarn_log_multiplier": 0.0,
    "{arch}.rope.scaling.alpha": 0.0,
    "tokenizer.ggml.add_sep_token": False,
}
"""Key -> the accepted value or values; other values change the outputs in unsupported ways."""


def treatment(key: str, architecture: str) -> str:
    """How to treat a key: "read", "no effect", "one value" (must be as in SAME) or "refused"."""
    plain = key.replace(f"{architecture}.", "{arch}.", 1) if _is_own(key, architecture) else key
    own = OWN_KEYS.get(architecture, ())
    if plain.startswith("{arch}.") and plain.removeprefix("{arch}.") in own:
        return "read"
    if architecture in MIXTURES and plain.startswith("{arch}.expert"):
        return "refused"
    if plain in SAME:
        return "one value"
    if plain in READ or plain.startswith("tokenizer.chat_template."):
        return "read"
    if any(re.fullmatch(pattern, plain) for pattern in NO_EFFECT):
        return "no effect"
    return "refused"


def check_keys(gguf: "GGUF") -> None:
    """Raise InputError for a key that changes the model's outputs in an unsupported way."""
    architecture = gguf.architecture
    for key in gguf.keys:
        found = treatment(key, architecture)
        if found == "refused" and (value := gguf.get(key)) not in (None, 0, False, ""):
            raise _refusal(gguf, key, value, "a file without this unknown key")
        if found == "one value":
            own = key.replace(f"{architecture}.", "{arch}.", 1)
            accepted = SAME.get(own, SAME.get(key))
            accepted = accepted if isinstance(accepted, tuple) else (accepted,)
            if not _is_among(value := gguf.get(key), accepted):
                raise _refusal(gguf, key, value, " or ".join(map(str, accepted)))
    _check_head_sizes(gguf)


def _check_head_sizes(gguf: "GGUF") -> None:
    """Refuse partial rotary embeddings, and attention values and keys of different sizes."""
    sizes = {
        name: int(value)
        for name in ("attention.key_length", "attention.value_length", "rope.dimension_count")
        if (value := gguf.model(name))
    }
    heads, width = gguf.model("attention.head_count"), gguf.model("embedding_length")
    whole = sizes.get("attention.key_length")
    if whole is None and isinstance(heads, int) and isinstance(width, int) and heads > 0:
        whole = width // heads
    for name, size in sizes.items():
        if name == "rope.dimension_count" and gguf.architecture in PARTIAL:
            continue
        if whole is not None and size != whole:
            key = f"{gguf.architecture}.{name}"
            raise _refusal(gguf, key, size, f"{whole}, the size of a head")


def _is_own(key: str, architecture: str) -> bool:
    return bool(architecture) and key.startswith(f"{architecture}.")


def _is_among(value: object, accepted: tuple[Any, ...]) -> bool:
    return any(
        value == each
        or (isinstance(value, float) and isinstance(each, float) and np.isclose(value, each))
        for each in accepted
    )


def _refusal(gguf: "GGUF", key: str, found: object, accepted: str) -> InputError:
    return InputError(f"{gguf.file}: {key}: found {found!r:.60}; accepted: {accepted}")
