"""Peer reasons: settings of other tools that have no counterpart here, with the reason."""

from collections.abc import Iterable
from difflib import get_close_matches

NOTHING_TO_SET = {
    "packing": "batches are never padded",
    "sample_packing": "batches are never padded",
    "neat_packing": "batches are never padded",
    "padding_free": "batches are never padded",
    "pad_to_multiple_of": "batches are never padded",
    "pad_to_sequence_len": "batches are never padded",
    "eval_sample_packing": "batches are never padded",
    "eval_packing": "batches are never padded",
    "group_by_length": "batches are never padded",
    "length_column_name": "batches are never padded",
    "train_sampling_strategy": "batches are never padded",
    "pad_to_max_length": "batches are never padded",
    "overwrite_output_dir": "a run is never overwritten; choose another output_dir",
    "push_to_hub": "job=push run=FOLDER repo=OWNER/NAME sends a finished run",
    "hub_token": "the hub's token comes from HF_TOKEN or `hf auth login`",
    "trust_remote_code": "type model.trust_remote_code=true and model.revision=COMMIT",
    "no_cuda": "hide the GPUs with CUDA_VISIBLE_DEVICES=",
    "use_cpu": "hide the GPUs with CUDA_VISIBLE_DEVICES=",
    "local_rank": "the launcher sets it in the environment",
    "shuffle": "every epoch is shuffled in another order, which depends on the seed",
    "shuffle_dataset": "every epoch is shuffled in another order, which depends on the seed",
    "dataloader_num_workers": "a thread prepares the batches in advance",
    "dataloader_prefetch_factor": "a thread prepares the batches in advance",
    "dataloader_pin_memory": "batches are in page-locked memory if there is a GPU",
    "dataloader_persistent_workers": "batches are prepared by a thread, not by processes",
    "dataloader_drop_last": "the last, shorter batch of an epoch is trained on too",
    "batch_eval_metrics": "metrics see all predictions at once",
    "eval_accumulation_steps": "predictions are moved to host memory automatically",
    "prediction_loss_only": "logits are kept only if compute_metrics or a metric reads them",
    "include_for_metrics": "compute_metrics gets logits, labels and losses",
    "remove_unused_columns": "columns that nothing reads are listed at the start",
    "label_names": "plain rows have their labels in a column named labels",
    "torch_empty_cache_steps": "cached memory is freed when a step does not fit",
    "average_tokens_across_devices": "the loss is always averaged over all devices",
    "skip_memory_metrics": "memory is not measured",
    "attn_implementation": "the fastest exact attention of the device is used",
    "flash_attn": "the fastest exact attention of the device is used",
    "flash_attention": "the fastest exact attention of the device is used",
    "sdp_attention": "the fastest exact attention of the device is used",
    "type_of_model": "config.json names the model's family",
    "tokenizer_type": "tokenizer.json describes the tokenizer",
    "template": "chats are formatted by the template of the tokenizer's files",
    "chat_template": "chats are formatted by the template of the tokenizer's files",
    "chat_template_path": "chats are formatted by the template of the tokenizer's files",
    "lora_target_linear": "without model.lora.targets all linear layers of the body are adapted",
    "lora_model_dir": "model.path may be the folder of an adapter",
    "adapter_name_or_path": "model.path may be the folder of an adapter",
    "precompute_ref_log_probs": "the reference is computed once, before the first step",
    "preprocessing_num_workers": "rows are tokenized once and cached on disk",
    "dataset_num_proc": "rows are tokenized once and cached on disk",
    "dataset_prepared_path": "rows are tokenized once and cached on disk",
    "overwrite_cache": "the cache is only used for the same data, tokenizer and settings",
    "plot_loss": "the run's report.html has the curves",
    "disable_tqdm": "Trainer(progress=False) and callbacks=none show no progress",
    **dict.fromkeys(
        ("packing_strategy", "sortish_sampler", "batch_flattening", "block_diag_attn")
        + ("pretrain_multipack_buffer_size", "pretrain_multipack_attn", "multipack_real_batches")
        + ("ignore_pad_token_for_loss", "pretraining_sample_concatenation", "padding"),
        "batches are never padded",
    ),
    **dict.fromkeys(
        ("dataloader_multiprocessing_context", "dataloader_in_order"),
        "a thread prepares the batches in advance",
    ),
    **dict.fromkeys(
        ("preprocessing_batch_size", "tokenized_path", "data_shared_file_system")
        + ("dataset_processes", "dataset_keep_in_memory", "skip_prepare_dataset")
        + ("num_dataset_shards_to_save", "is_preprocess"),
        "rows are tokenized once and cached on disk",
    ),
    **dict.fromkeys(
        ("disable_shuffling", "shuffle_merged_datasets", "shuffle_before_merging_datasets")
        + ("curriculum_sampling",),
        "every epoch is shuffled in another order, which depends on the seed",
    ),
    **dict.fromkeys(
        ("ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers")
        + ("ddp_static_graph", "ddp_backend", "ignore_bias_buffers"),
        "launch.strategy=ddp has no options",
    ),
    **dict.fromkeys(
        ("torch_compile_backend", "torch_compile_mode", "torch_compile_options", "deepcompile"),
        "trainer.compile=true has no options",
    ),
    **dict.fromkeys(
        ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs", "use_unsloth_gc"),
        "trainer.gradient_checkpointing=true has no options",
    ),
    **dict.fromkeys(
        ("include_num_input_tokens_seen", "include_tokens_per_second", "include_tkps")
        + ("include_effective_tokens_per_second",),
        "the tokens and the tokens per second are always logged",
    ),
    **dict.fromkeys(
        ("use_fast_tokenizer", "use_fast", "tokenizer_use_fast", "tokenizer_legacy")
        + ("tokenizer_use_mistral_common", "tokenizer_save_jinja_files"),
        "tokenizer.json, or a file of SentencePiece, describes the tokenizer",
    ),
    **dict.fromkeys(
        ("special_tokens", "pad_token", "eos_token", "bos_token", "unk_token", "eot_tokens")
        + ("additional_special_tokens", "init_special_tokens", "fix_untrained_tokens"),
        "the tokenizer's files name the special tokens",
    ),
    **dict.fromkeys(
        ("hf_hub_token", "hf_use_auth_token", "use_auth_token", "ms_hub_token", "om_hub_token"),
        "the hub's token comes from HF_TOKEN or `hf auth login`",
    ),
    **dict.fromkeys(
        ("upcast_layernorm", "upcast_lmhead_output", "cast_lm_head_to_fp32", "fp32_norms")
        + ("embeddings_skip_upcast", "fp32_norm_classes"),
        "weights stay in fp32, and layers that need fp32 compute in it",
    ),
    **dict.fromkeys(
        ("eval_do_concat_batches", "eval_use_gather_object"),
        "the predictions of all devices are collected",
    ),
    **dict.fromkeys(
        ("tool_format", "enable_thinking", "preserve_thinking", "chat_template_kwargs")
        + ("chat_template_jinja",),
        "chats are formatted by the template of the tokenizer's files; a column "
        "chat_template_kwargs of the rows sets its variables",
    ),
    **dict.fromkeys(
        ("auto_mapping", "peft_version", "runtime_config", "inference_mode", "peft")
        + ("fan_in_fan_out", "lora_fan_in_fan_out", "peft_autocast_adapter_dtype", "pissa_convert")
        + ("ensure_weight_tying", "peft_ensure_weight_tying", "lora_on_cpu"),
        "adapters are written so that PEFT loads them",
    ),
    **dict.fromkeys(
        ("bnb_4bit_use_double_quant", "use_bnb_nested_quant", "double_quantization")
        + ("bnb_config_kwargs", "quantization_device_map", "llm_int8_threshold")
        + ("llm_int8_skip_modules", "llm_int8_enable_fp32_cpu_offload")
        + ("llm_int8_has_fp16_weight",),
        "model.quantization has no options",
    ),
    **dict.fromkeys(
        ("gc_steps", "gc_collect_steps"), "cached memory is freed when a step does not fit"
    ),
    **dict.fromkeys(
        ("precompute_ref_batch_size",), "evaluation and the reference fill batches by tokens"
    ),
    "cache_implementation": "a cache of keys and values is only used to generate",
    "use_cache": "a cache of keys and values is only used to generate",
    **dict.fromkeys(
        ("xformers_attention", "flex_attention", "flash_optimum", "sage_attention")
        + ("eager_attention", "sdpa_varlen", "fused_attn_kernel", "large_head_attention")
        + ("flex_attn_compile_kwargs", "gemma4_hybrid_attn_impl", "experts_implementation"),
        "the fastest exact attention of the device is used",
    ),
    **dict.fromkeys(
        ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel"),
        "adapters are computed in the fastest exact way",
    ),
    **dict.fromkeys(
        ("is_falcon_derived_model", "is_llama_derived_model", "is_mistral_derived_model")
        + ("is_qwen_derived_model",),
        "config.json names the model's family",
    ),
    "dpo_padding_free": "batches are never padded",
    "use_kv_cache": "a cache of keys and values is only used to generate",
    "low_cpu_mem_usage": "weights are read one at a time",
    "skip_special_tokens": "special tokens are left out of texts",
    "save_safetensors": "models are always written as safetensors",
    "save_on_each_node": "a checkpoint is written once, to output_dir",
    "log_on_each_node": "the main process logs",
    "enable_jit_checkpoint": "SIGTERM always saves a checkpoint",
    "ignore_data_skip": "a resumed run is at its position in the data at once",
    "restore_callback_states_from_checkpoint": "a resumed run continues exactly",
    "eval_on_each_dataset": "every validation set is evaluated separately",
    "hub_always_push": "job=push sends a finished run",
    "heads_k_stride": "launch.context_parallel has no options",
    "ring_attn_func": "launch.context_parallel has no options",
    "print_param_status": "the start of a run lists what is trained",
    "dataset_exact_deduplication": "job=prepare reports equal rows",
}
"""Another tool's setting that is not needed in this package -> the reason."""

NOT_HERE = {
    "optim_target_modules": "GaLore and similar optimizers are not included; add your own with "
    "Trainer(optimizers=...) or as a file (see CONTRIBUTING.md)",
    "save_only_model": "checkpoints always contain what resuming needs; model/ is only the model",
    "ref_model": "the reference is the model before training",
    "sync_ref_model": "the reference is the model before training",
    "use_galore": "GaLore and similar optimizers are not included",
    "use_badam": "GaLore and similar optimizers are not included",
    "use_vllm": "training on texts that the model generates (PPO, GRPO) is not supported",
    "num_generations": "training on texts that the model generates (PPO, GRPO) is not supported",
    "reward_funcs": "training on texts that the model generates (PPO, GRPO) is not supported",
    "use_unsloth": "models are computed by this package, or by transformers",
    "enable_liger_kernel": "the losses never keep all logits in memory",
    "use_liger_kernel": "the losses never keep all logits in memory",
    "deepspeed": "launch.strategy=fsdp shards a model",
    "fsdp": "launch.strategy=fsdp shards a model",
    "fsdp_config": "launch.strategy=fsdp shards a model",
    **dict.fromkeys(
        ("rank_pattern", "alpha_pattern", "lora_rank_pattern") + ("lora_alpha_pattern",),
        "all adapters have the rank and alpha of model.lora",
    ),
    **dict.fromkeys(("bias", "lora_bias"), "biases are only trained in model.lora.modules_to_save"),
    **dict.fromkeys(
        ("eva_config", "corda_config", "lora_ga_config", "velora_config", "kasa_config")
        + ("alora_invocation_tokens", "use_qalora", "qalora_group_size", "monteclora_config")
        + ("layer_replication", "peft_layer_replication", "use_bdlora", "arrow_config")
        + ("oft_rank", "oft_block_size", "oft_target", "module_dropout", "relora")
        + ("use_llama_pro", "mixture_of_depths", "shift_attn", "s2_attention", "pissa_iter"),
        "the adapters are LoRA, rsLoRA, DoRA, PiSSA, LoftQ and IA3",
    ),
    **dict.fromkeys(
        ("megatron_config", "megatron_core", "use_mca", "use_hyper_parallel")
        + ("hyper_parallel_args",),
        "launch.tensor_parallel and launch.strategy=fsdp distribute a model",
    ),
    **dict.fromkeys(
        ("use_adam_mini", "use_apollo", "torchdistx_path"),
        "the optimizer is not included; add your own as a file (see CONTRIBUTING.md)",
    ),
    **dict.fromkeys(
        ("loss_weights", "dpo_loss_weights", "ld_alpha", "f_divergence_type")
        + ("f_alpha_divergence_coef", "use_weighting", "dpo_use_weighting", "discopop_tau")
        + ("pref_bco_weight", "use_dft_loss", "use_asft_loss", "asft_alpha", "use_eaft_loss")
        + ("eaft_alpha", "use_eaft", "dpo_norm_loss"),
        "the losses are those of recipe.objective",
    ),
    **dict.fromkeys(
        ("ref_model_mixup_alpha", "ref_model_sync_steps", "ref_model_adapters")
        + ("ref_model_quantization_bit",),
        "the reference is the model before training",
    ),
    **dict.fromkeys(
        ("num_generations_eval", "generation_batch_size", "steps_per_generation")
        + ("num_iterations", "delta", "epsilon_high", "importance_sampling_level")
        + ("multi_objective_aggregation", "scale_rewards", "mask_truncated_completions")
        + ("top_entropy_quantile", "entropy_coef", "use_adaptive_entropy", "entropy_coef_min")
        + ("entropy_coef_max", "entropy_coef_delta", "entropy_target", "log_multimodal")
        + ("off_policy_mask_threshold", "use_bias_correction_kl", "log_completions_hub_repo")
        + ("use_transformers_continuous_batching", "transformers_continuous_batching_config")
        + ("use_transformers_paged", "normalize_advantages", "ds3_gather_for_generation")
        + ("max_tool_calling_iterations", "rollout_func", "trl", "ebft")
        + ("process_reward_model", "reward_clip_range"),
        "training on texts that the model generates (PPO, GRPO) is not supported",
    ),
    **dict.fromkeys(
        ("resize_vocab", "resize_token_embeddings_to_32x", "mean_resizing_embeddings")
        + ("shrink_embeddings", "add_tokens", "add_special_tokens", "split_special_tokens")
        + ("new_special_tokens_config", "added_tokens_overrides"),
        "in Python: tokenizer.add_tokens and model.resize_token_embeddings",
    ),
    **dict.fromkeys(
        ("media_dir", "crop_to_patches", "freeze_vision_tower", "freeze_multi_modal_projector")
        + ("freeze_language_model", "freeze_mm_modules", "use_audio_in_video", "processor_type")
        + ("processor_kwargs",),
        "models read text",
    ),
    **dict.fromkeys(
        ("plugins", "trainer_cls", "use_kernels", "use_v1_kernels", "use_onebitllms"),
        "your own parts are files in a trusted package (see CONTRIBUTING.md)",
    ),
    **dict.fromkeys(
        ("enable_torch_profiler", "profile_modules"), "torch.profiler records a run in Python"
    ),
    **dict.fromkeys(
        ("excess_length_strategy", "truncation_mode", "min_sample_len"),
        "longer texts are cut; job=inspect counts them",
    ),
    **dict.fromkeys(
        ("do_bench_eval", "bench_dataset", "bench_split", "n_shot", "task_dir", "download_mode"),
        "job=evaluate measures a model on your rows",
    ),
    **dict.fromkeys(
        ("export_size", "export_device", "export_legacy_format"), "job=export writes a model"
    ),
    **dict.fromkeys(
        ("use_liger_loss", "dpo_use_liger_kernel", "dpo_use_logits_to_keep"),
        "the losses never keep all logits in memory",
    ),
    **dict.fromkeys(
        ("dp_shard_size", "dp_replicate_size", "data_parallel_size", "sync_module_states")
        + ("cpu_ram_efficient_loading", "cpu_offload_pin_memory", "use_orig_params")
        + ("state_dict_type", "final_state_dict_type", "auto_wrap_policy", "min_num_params")
        + ("transformer_layer_cls_to_wrap", "reshard_after_forward", "mixed_precision_policy"),
        "launch.strategy=fsdp has no options but launch.cpu_offload",
    ),
    **dict.fromkeys(
        ("use_data_producer", "async_prefetch", "prefetch_depth", "streaming_partial_batch")
        + ("streaming_min_groups", "replay_buffer_size", "replay_recompute_logps")
        + ("reroll_start_fraction", "reroll_max_groups", "skip_zero_advantage_batches"),
        "training on texts that the model generates (PPO, GRPO) is not supported",
    ),
    "comet_api_key": "the environment variable COMET_API_KEY",
    "hf_mlflow_log_artifacts": "callbacks.mlflow sends numbers, no files",
    "use_pose": "model.rope_scaling extends the positions",
    "use_kt": "models are computed by this package, or by transformers",
    "use_otel_metrics": "job=serve has metrics of its own",
    "accelerator": "hide the GPUs with CUDA_VISIBLE_DEVICES= to compute on the CPU",
    "device": "hide the GPUs with CUDA_VISIBLE_DEVICES= to compute on the CPU",
    "quantize_moe_experts": "model.quantization is refused for mixtures of experts",
    "qlora_sharded_model_loading": "model.quantization with launch.strategy=fsdp shards a model",
    "gpu_memory_utilization": "the micro batch is chosen to fit the memory",
    "liger_kernel_config": "the losses never keep all logits in memory",
    "tf32": "in fp32, matrices are multiplied in full precision; trainer.precision=bf16 is faster",
    "log_level": "hydra.verbose=true prints more",
    "log_level_replica": "hydra.verbose=true prints more",
    "logging_first_step": "trainer.logging_steps=1 logs every step",
    "eval_delay": "evaluations begin with the first trainer.eval_steps",
    "eval_on_start": "job=evaluate measures a model before training",
    "save_first_step": "trainer.save_steps sets when a checkpoint is saved",
    "generation_kwargs": "job=generate has settings under generation, such as generation.num_beams",
    "generation_config": "job=generate has settings under generation, such as generation.num_beams",
    "create_new_adapter": "job=merge merges an adapter, and a run on the merged model adds another",
    "cache_dir": "the environment variable HF_HOME sets the folder of the hub's cache",
    "offload_folder": "launch.cpu_offload keeps a sharded model in host memory",
    "max_memory": "the micro batch is chosen to fit the memory",
    "dataset_kwargs": "dataset.columns, dataset.delimiter and others describe the files",
    "mlflow_tracking_uri": "the environment variable MLFLOW_TRACKING_URI",
    "use_swanlab": "the trackers are tensorboard, wandb, mlflow, comet and trackio",
    "use_ray": "docs/clusters describes Ray and others",
    "infer_backend": "job=serve and job=generate compute with this package",
    "infer_dtype": "job=generate takes the precision from trainer.precision",
    "quantization_bits": "model.quantization is nf4, int4 or int8",
    "gptq": "model.quantization is nf4, int4 or int8",
    "qat": "model.quantization is nf4, int4 or int8, for adapters",
    "merge_method": "job=merge merges an adapter",
}
"""Another tool's setting that this package does not have -> the alternative, or the reason."""

FAMILIES = {
    "vllm_": "training on texts that the model generates (PPO, GRPO) is not supported",
    "sglang_": "job=serve and job=generate compute with this package",
    "ppo_": "training on texts that the model generates (PPO, GRPO) is not supported",
    "reward_": "training on texts that the model generates (PPO, GRPO) is not supported",
    "sapo_": "training on texts that the model generates (PPO, GRPO) is not supported",
    "vespo_": "training on texts that the model generates (PPO, GRPO) is not supported",
    "galore_": "GaLore and similar optimizers are not included",
    "qgalore_": "GaLore and similar optimizers are not included",
    "apollo_": "GaLore and similar optimizers are not included",
    "badam_": "GaLore and similar optimizers are not included",
    "dion_": "the optimizer is not included; add your own as a file (see CONTRIBUTING.md)",
    "lisa_": "model.freeze and model.lora.rank train a part of the model",
    "relora_": "the adapters are LoRA, rsLoRA, DoRA, PiSSA, LoftQ and IA3",
    "jagged_": "trainer.lr_scheduler has the schedules",
    "swanlab_": "the trackers are tensorboard, wandb, mlflow, comet and trackio",
    "fsdp_": "launch.strategy=fsdp has no options but launch.cpu_offload",
    "fp8": "trainer.precision is fp32, bf16 or fp16",
    "image_": "models read text",
    "video_": "models read text",
    "audio_": "models read text",
    "kt_": "models are computed by this package, or by transformers",
    "ray_": "docs/clusters describes Ray and others",
    "gradio_": "job=chat and job=serve talk to a model",
    "otel_": "job=serve has metrics of its own",
    "profiler_": "torch.profiler records a run in Python",
    "export_quantization_": "export.dtype quantizes a GGUF file",
    "sample_packing_": "batches are never padded",
    "pose_": "model.rope_scaling extends the positions",
    "flash_attn_": "the fastest exact attention of the device is used",
    "tiled_mlp": "trainer.gradient_checkpointing saves memory",
    "chunked_cross_entropy": "the losses never keep all logits in memory",
}
"""The prefix of names of settings that this package does not have -> the reason."""


ALIKE = 0.8
"""The minimum similarity to a key at which a name counts as misspelled."""


def reason_for(name: str, accepted: Iterable[str] = ()) -> str:
    """Why there is no counterpart of another tool's setting; empty for unknown names.

    `accepted` has the same meaning as in `trainer.peer_names.answer_for`.
    """
    if name in NOTHING_TO_SET:
        return f"nothing to set here: {NOTHING_TO_SET[name]}"
    found = NOT_HERE.get(name)
    if found is None and not get_close_matches(name, list(accepted), n=1, cutoff=ALIKE):
        found = next((why for start, why in FAMILIES.items() if name.startswith(start)), None)
    return f"no setting here: {found}" if found else ""
