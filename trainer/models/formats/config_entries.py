"""Entries of config.json that all families share: those used, those fixed, those without effect.

An entry that is neither in these tables nor in the family's is kept in the file but has no effect;
`ModelConfig.unused` lists it.
"""

from collections.abc import Mapping
from typing import Any

COMMON: Mapping[str, Any] = {
    "architectures": None,
    "dtype": None,
    "gradient_checkpointing": False,
    "id2label": None,
    "label2id": None,
    "num_labels": 2,
    "output_attentions": False,
    "output_hidden_states": False,
    "problem_type": None,
    "quantization_config": None,
    "return_dict": True,
    "use_cache": True,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    # for sentence embeddings; unknown to transformers
    "embedding_pooling": "mean",
    "embedding_normalize": True,
    # for models with several heads; unknown to transformers
    "task_heads": {},
}
"""Entries that are used, with transformers' defaults."""

REQUIRED: Mapping[str, Any] = {
    "is_encoder_decoder": False,
    "pruned_heads": {},
    "return_dict": True,
}
"""Entries -> the only supported value; null counts as unset."""

TOKEN_IDS = ("pad_token_id", "bos_token_id", "eos_token_id")
"""Entries that old files set to -1 if there is no such token."""

NO_EFFECT = frozenset(
    {
        # the origin of the file
        *("model_type", "_name_or_path", "transformers_version", "_commit_hash", "torch_dtype"),
        *("finetuning_task", "task_specific_params", "tokenizer_class", "unsloth_version"),
        # how transformers computes, without effect on the results
        *("chunk_size_feed_forward", "pretraining_tp", "reorder_and_upcast_attn"),
        *("attn_implementation", "_attn_implementation", "_attn_implementation_autoset"),
        *("torchscript", "use_bfloat16", "tf_legacy_loss"),
        *("reference_compile", "deterministic_flash_attn", "repad_logits_with_grad"),
        *("sparse_pred_ignore_index", "n_ctx"),
        # unsupported heads and kinds of models
        *("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"),
        *("summary_first_dropout", "tie_weights_", "tie_encoder_decoder"),
        *("cross_attention_hidden_size", "decoder_start_token_id", "sep_token_id"),
    }
)
"""Entries that do not affect the outputs of the models in this package."""
