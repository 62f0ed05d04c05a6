"""Tensors in GGUF files: maps llama.cpp's names to the hub's, and restores the order of rows."""

import re

import numpy as np

LLAMA = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
ROUTER = "mlp.gate"
QWEN3_MOE = {
    **LLAMA,
    "ffn_gate_inp": ROUTER,
    "ffn_gate_exps": "mlp.experts.*.gate_proj",
    "ffn_up_exps": "mlp.experts.*.up_proj",
    "ffn_down_exps": "mlp.experts.*.down_proj",
}
"""A * stands for the number of an expert; in the file, all experts are in one tensor."""
MIXTRAL = {
    **LLAMA,
    "ffn_gate_inp": ROUTER,
    "ffn_gate_exps": "mlp.experts.*.w1",
    "ffn_up_exps": "mlp.experts.*.w3",
    "ffn_down_exps": "mlp.experts.*.w2",
}
GEMMA2 = {
    **LLAMA,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
JOINED = {**LLAMA, "attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}
GLM4 = {
    **JOINED,
    "post_attention_norm": "post_self_attn_layernorm",
    "post_ffw_norm": "post_mlp_layernorm",
}
GPT2 = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}
TABLES = {
    "llama": (MIXTRAL, "model.layers"),  # a file with experts contains a Mixtral model
    "qwen2": (LLAMA, "model.layers"),
    "qwen3": (LLAMA, "model.layers"),
    "qwen3moe": (QWEN3_MOE, "model.layers"),
    "gemma": (LLAMA, "model.layers"),
    "gemma2": (GEMMA2, "model.layers"),
    "gemma3": (GEMMA2, "model.layers"),
    "phi3": (JOINED, "model.layers"),
    "olmo2": (GEMMA2, "model.layers"),
    "granite": (LLAMA, "model.layers"),
    "smollm3": (LLAMA, "model.layers"),
    "glm4": (GLM4, "model.layers"),
    "cohere2": (LLAMA, "model.layers"),
    "gpt2": (GPT2, "transformer.h"),
}
"""Architecture -> (llama.cpp's module name -> the hub's, the hub's name of the list of layers)."""


def hub_name(name: str, architecture: str) -> str | None:
    """The hub's name for a tensor, or None if the architecture has no such tensor.

    A * in the hub's name stands for the index of an expert.
    """
    table, layers = TABLES[architecture]
    found = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
    if found is None or found[2] not in table:
        return None
    layer, module, leaf = found.groups()
    place = f"{layers}.{layer}." if layer is not None else ""
    return f"{place}{table[module]}.{leaf}"


def is_transposed(name: str, architecture: str) -> bool:
    """Whether the hub stores this matrix transposed, as for GPT-2's Conv1D modules."""
    module, _, leaf = name.rpartition(".")
    stem = module.rpartition(".")[2]
    return (
        architecture == "gpt2"
        and leaf == "weight"
        and stem
        in (
            "attn_qkv",
            "attn_output",
            "ffn_up",
            "ffn_down",
        )
    )


def is_reordered(name: str, architecture: str) -> bool:
    """Whether llama.cpp reorders this tensor's rows for its rotary embeddings.

    Rotary embeddings rotate pairs of rows of a query or key. For Llama, llama.cpp pairs
    adjacent rows, but the hub pairs rows that are half a head apart. Some families (GLM, Cohere)
    pair adjacent rows on the hub too, so their rows are not reordered.
    """
    module = name.rpartition(".")[0].rpartition(".")[2]
    return architecture in ("llama", "granite", "smollm3") and module in ("attn_q", "attn_k")


def is_offset(name: str, architecture: str) -> bool:
    """Whether the file stores the weight plus one, as for Gemma, whose norms use 1 + weight."""
    return architecture in ("gemma", "gemma2", "gemma3") and name.endswith("norm.weight")


def unrotated(array: np.ndarray, heads: int) -> np.ndarray:
    """Restore the order of rows [heads * D, ...], stored per head as 0, D/2, 1, D/2 + 1, ..."""
    pairs = array.reshape(heads, -1, 2, *array.shape[1:])
    return pairs.swapaxes(1, 2).reshape(array.shape)
