"""Names of tensors in GGUF files: llama.cpp's -> the hub's, and what it does to their numbers."""

import re
from typing import TYPE_CHECKING

import numpy as np

from trainer.errors import InputError

if TYPE_CHECKING:
    from trainer.interop.gguf import GGUF

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
    "llama": (LLAMA, "model.layers"),
    "qwen2": (LLAMA, "model.layers"),
    "qwen3": (LLAMA, "model.layers"),
    "gpt2": (GPT2, "transformer.h"),
}
"""Architecture -> the names of its modules, and of its list of layers."""


def hub_name(name: str, gguf: "GGUF") -> str:
    """The hub's name of a tensor; raises InputError for one that the architecture does not have."""
    table, layers = TABLES[gguf.architecture]
    found = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
    if found is None or found[2] not in table:
        raise InputError(f"{gguf.file}: tensor {name} is no part of a {gguf.architecture} model")
    layer, module, leaf = found.groups()
    place = f"{layers}.{layer}." if layer is not None else ""
    return f"{place}{table[module]}.{leaf}"


def is_transposed(name: str, architecture: str) -> bool:
    """Whether the hub keeps a matrix the other way round: GPT-2's were convolutions once."""
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


def rotated_heads(name: str, gguf: "GGUF") -> int:
    """The heads whose rows llama.cpp has rearranged; 0 for a tensor that it leaves as it is.

    Its llama turns neighbouring numbers of a query or key, the hub's those half a head apart.
    """
    module = name.rpartition(".")[0].rpartition(".")[2]
    if gguf.architecture != "llama" or module not in ("attn_q", "attn_k"):
        return 0
    heads = int(gguf.model("attention.head_count"))
    return heads if module == "attn_q" else int(gguf.model("attention.head_count_kv", heads))


def unrotated(array: np.ndarray, heads: int) -> np.ndarray:
    """Rows [heads * D, ...] in pairs (0, D/2), (1, D/2 + 1), ... back in their order."""
    pairs = array.reshape(heads, -1, 2, *array.shape[1:])
    return pairs.swapaxes(1, 2).reshape(array.shape)
