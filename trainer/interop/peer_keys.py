"""Lists settings of other programs with the equivalent settings here, for the documents."""

from collections.abc import Iterator
from dataclasses import dataclass

from trainer.peer_names import FURTHER_WORDS, PEER_NAMES
from trainer.peer_reasons import NOT_HERE, NOTHING_TO_SET


@dataclass(frozen=True)
class PeerKey:
    """A setting of another program, and the equivalent setting of this program."""

    name: str
    ours: str
    """The equivalent key; empty if there is none."""
    note: str
    """The differences, or the reason why there is no equivalent key."""


SHARED = (
    *("learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size"),
    *("gradient_accumulation_steps", "lr_scheduler_type", "warmup_steps"),
    *("weight_decay", "max_grad_norm", "optim", "bf16", "gradient_checkpointing"),
    *("eval_strategy", "eval_steps", "save_steps", "save_total_limit", "logging_steps"),
    *("load_best_model_at_end", "metric_for_best_model", "resume_from_checkpoint", "report_to"),
    *("deepspeed", "fsdp", "output_dir", "seed"),
)
"""The settings that transformers, trl and LLaMA-Factory have in common."""

PROGRAMS: dict[str, tuple[str, ...]] = {
    "trl": (
        *("model_name_or_path", "model_revision", "trust_remote_code", "attn_implementation"),
        *("dtype", "dataset_name", "dataset_config", "dataset_text_field", "test_split_size"),
        *("dataset_streaming",),
        *("max_length", "packing", "padding_free", "pad_to_multiple_of", "shuffle_dataset"),
        *("dataset_num_proc", "chat_template_path", "completion_only_loss"),
        *("assistant_only_loss", "neftune_noise_alpha", "use_liger_kernel"),
        *("activation_offloading", "use_peft", "lora_r", "lora_alpha", "lora_dropout"),
        *("lora_target_modules", "lora_modules_to_save", "use_rslora", "use_dora"),
        *("load_in_8bit", "load_in_4bit", "bnb_4bit_quant_type", "loss_type", "beta"),
        *("label_smoothing", "precompute_ref_log_probs", "sync_ref_model", "desirable_weight"),
        *("undesirable_weight", "center_rewards_coefficient", "num_generations", "use_vllm"),
        *SHARED,
    ),
    "LLaMA-Factory": (
        *("stage", "finetuning_type", "model_name_or_path", "adapter_name_or_path", "template"),
        *(
            "dataset",
            "eval_dataset",
            "val_size",
            "max_samples",
            "streaming",
            "interleave_probs",
            "cutoff_len",
            "packing",
        ),
        *("neat_packing", "train_on_prompt", "mask_history", "default_system"),
        *("overwrite_cache", "preprocessing_num_workers", "flash_attn", "rope_scaling"),
        *("enable_liger_kernel", "use_unsloth", "lora_rank", "lora_alpha", "lora_dropout"),
        *("lora_target", "additional_target", "use_rslora", "use_dora", "pissa_init"),
        *("loraplus_lr_ratio", "quantization_bit", "quantization_type"),
        *("freeze_trainable_layers", "train_from_scratch", "pref_loss", "pref_beta", "pref_ftx"),
        *("simpo_gamma", "dpo_label_smoothing", "kto_chosen_weight", "kto_rejected_weight"),
        *("ref_model", "use_galore", "early_stopping_steps", "plot_loss", "export_dir"),
        *("do_train", "do_eval", "overwrite_output_dir"),
        *SHARED,
    ),
    "axolotl": (
        *("base_model", "revision_of_model", "tokenizer_config", "tokenizer_type"),
        *("type_of_model", "overrides_of_model_config", "trust_remote_code", "adapter"),
        *("lora_model_dir", "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules"),
        *("lora_target_linear", "lora_modules_to_save", "peft_use_dora", "peft_use_rslora"),
        *("peft_init_lora_weights", "peft_trainable_token_indices", "loraplus_lr_ratio"),
        *("load_in_8bit", "load_in_4bit", "merge_lora", "unfrozen_parameters", "datasets"),
        *("test_datasets", "val_set_size", "streaming", "dataset_prepared_path", "chat_template"),
        *("default_system_message", "roles_to_train", "train_on_inputs", "sequence_len"),
        *("sample_packing", "eval_sample_packing", "pad_to_sequence_len", "group_by_length"),
        *("flash_attention", "attn_implementation", "micro_batch_size"),
        *("gradient_accumulation_steps", "num_epochs", "max_steps", "learning_rate"),
        *("embedding_lr", "lr_groups", "lr_scheduler", "warmup_steps", "warmup_ratio"),
        *("optimizer", "optim_args", "weight_decay", "max_grad_norm", "neftune_noise_alpha"),
        *("bf16", "fp16", "gradient_checkpointing", "activation_offloading", "torch_compile"),
        *("rl", "rl_beta", "orpo_alpha", "cpo_alpha", "simpo_gamma", "kto_desirable_weight"),
        *("kto_undesirable_weight", "center_rewards_coefficient", "eval_steps"),
        *("evals_per_epoch", "save_steps", "saves_per_epoch", "save_total_limit"),
        *("early_stopping_patience", "logging_steps", "use_wandb", "wandb_project"),
        *("wandb_name", "deepspeed", "fsdp", "context_parallel_size", "tensor_parallel_size"),
        *("output_dir", "seed", "auto_resume_from_checkpoints"),
    ),
}
"""Program -> names of its settings, in the order of the table."""

OTHER_MEANINGS: dict[str, dict[str, tuple[str, str]]] = {
    "trl": {
        "max_length": ("recipe.max_length", ""),
        "loss_type": ("recipe.objective", "sigmoid is dpo; hinge and ipo have the same names"),
        "beta": ("recipe.beta", ""),
        "label_smoothing": ("recipe.label_smoothing", "smooths the preferences"),
        "desirable_weight": ("recipe.desirable_weight", ""),
        "undesirable_weight": ("recipe.undesirable_weight", ""),
        "dtype": ("trainer.precision", "weights stay in fp32"),
    },
    "LLaMA-Factory": {
        "streaming": ("dataset.streaming", ""),
        "dataset": ("dataset.train", "names files; there is no dataset_info.json"),
        "rope_scaling": ("model.rope_scaling", "for example {rope_type: yarn, factor: 4.0}"),
    },
    "axolotl": {
        "datasets": ("dataset.train", "one file or a list of files; their columns give the format"),
        "streaming": ("dataset.streaming", ""),
        "micro_batch_size": ("trainer.micro_batch_size", ""),
    },
}
"""Program -> setting whose name has another meaning in other programs -> (key here, note)."""
SAME = (
    *("learning_rate", "num_epochs", "max_steps", "lr_scheduler", "warmup_steps", "weight_decay"),
    *("max_grad_norm", "optimizer", "gradient_checkpointing", "eval_steps", "save_steps"),
    *("save_total_limit", "logging_steps", "load_best_model_at_end", "metric_for_best_model"),
    *("early_stopping_patience",),
)
"""The settings that have the same name here, below `trainer`."""
SAME_AT_TOP_LEVEL = ("output_dir", "seed")
"""The settings that have the same name here, at the top level."""


def keys_of_program(program: str) -> Iterator[PeerKey]:
    """Yield the settings of a program. Raises KeyError for an unknown program or setting."""
    for name in PROGRAMS[program]:
        yield PeerKey(name, *_ours(program, name))


def _ours(program: str, name: str) -> tuple[str, str]:
    if name in OTHER_MEANINGS[program]:
        return OTHER_MEANINGS[program][name]
    if name in PEER_NAMES:
        return PEER_NAMES[name], FURTHER_WORDS.get(name, "")
    if name in SAME:
        return f"trainer.{name}", ""
    if name in SAME_AT_TOP_LEVEL:
        return name, ""
    return "", NOTHING_TO_SET[name] if name in NOTHING_TO_SET else NOT_HERE[name]
