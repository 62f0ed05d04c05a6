"""Entries of config.json that every family may have: read, fixed to one value, or without effect.

An entry that neither these tables nor the family know is kept in the file and never obeyed;
`ModelConfig.unused` names it.
"""

from collections.abc import Mapping
from typing import Any

COMMON: Mapping[str, Any] = {
    "architectures": None,
    "dtype": None,
    "id2label": None,
    "label2id": None,
    "num_labels": 2,
    "output_attentions": False,
    "output_hidden_states": False,
    "problem_type": None,
    "quantization_config": None,
    "return_dict": True,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
"""Entries that are read, with transformers' defaults."""

REQUIRED: Mapping[str, Any] = {
    "is_encoder_decoder": False,
    "pruned_heads": {},
    "return_dict": True,
}
"""Entries that change what a model computes, in a way that is not built; null counts as unset."""

TOKEN_IDS = ("pad_token_id", "bos_token_id", "eos_token_id")
"""Entries where old files write -1 for "none"."""

NO_EFFECT = frozenset(
    {
        # where the file comes from
        *("model_type", "_name_or_path", "transformers_version", "_commit_hash", "torch_dtype"),
        *("finetuning_task", "task_specific_params", "tokenizer_class", "unsloth_version"),
        # how transformers computes, with the same results
        *("use_cache", "chunk_size_feed_forward", "pretraining_tp", "reorder_and_upcast_attn"),
        *("attn_implementation", "_attn_implementation", "_attn_implementation_autoset"),
        *("torchscript", "use_bfloat16", "tf_legacy_loss"),
        *("reference_compile", "deterministic_flash_attn", "repad_logits_with_grad"),
        *("gradient_checkpointing", "sparse_pred_ignore_index", "n_ctx"),
        # heads and kinds of model that are refused or not built here
        *("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"),
        *("summary_first_dropout", "tie_weights_", "tie_encoder_decoder"),
        *("cross_attention_hidden_size", "decoder_start_token_id", "sep_token_id"),
    }
)
"""Entries that say nothing about what the models of this package compute."""
