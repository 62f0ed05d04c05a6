"""What other tools call our settings, and the answer to a key that is not known here."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from trainer.errors import InputError, nearest
from trainer.run import LaunchSettings, ModelSettings
from trainer.settings import TrainSettings

PEER_NAMES = {
    "lr": "trainer.learning_rate",
    "epochs": "trainer.num_epochs",
    "num_train_epochs": "trainer.num_epochs",
    "max_epochs": "trainer.num_epochs",
    "n_epochs": "trainer.num_epochs",
    "max_train_steps": "trainer.max_steps",
    "num_steps": "trainer.max_steps",
    "batch_size": "trainer.global_batch_size",
    "train_batch_size": "trainer.global_batch_size",
    "per_device_train_batch_size": "trainer.micro_batch_size",
    "per_gpu_train_batch_size": "trainer.micro_batch_size",
    "per_device_eval_batch_size": "trainer.max_tokens_per_micro_batch",
    "eval_batch_size": "trainer.max_tokens_per_micro_batch",
    "auto_find_batch_size": "trainer.max_tokens_per_micro_batch",
    "gradient_accumulation_steps": "trainer.global_batch_size",
    "accumulate_grad_batches": "trainer.global_batch_size",
    "lr_scheduler_type": "trainer.lr_scheduler",
    "scheduler": "trainer.lr_scheduler",
    "warmup_ratio": "trainer.warmup_steps",
    "num_warmup_steps": "trainer.warmup_steps",
    "optim": "trainer.optimizer",
    "optim_args": "trainer.optimizer_options",
    "betas": "trainer.optimizer_options",
    "adam_beta1": "trainer.optimizer_options",
    "adam_beta2": "trainer.optimizer_options",
    "adam_epsilon": "trainer.optimizer_options",
    "momentum": "trainer.optimizer_options",
    "gradient_clip_val": "trainer.max_grad_norm",
    "clip_grad_norm": "trainer.max_grad_norm",
    "max_norm": "trainer.max_grad_norm",
    "label_smoothing_factor": "trainer.label_smoothing",
    "bf16": "trainer.precision",
    "fp16": "trainer.precision",
    "mixed_precision": "trainer.precision",
    "dtype": "trainer.precision",
    "torch_dtype": "trainer.precision",
    "activation_checkpointing": "trainer.gradient_checkpointing",
    "torch_compile": "trainer.compile",
    "eval_strategy": "trainer.eval_steps",
    "evaluation_strategy": "trainer.eval_steps",
    "val_check_interval": "trainer.eval_steps",
    "save_strategy": "trainer.save_steps",
    "checkpoint_every": "trainer.save_steps",
    "logging_strategy": "trainer.logging_steps",
    "log_every_n_steps": "trainer.logging_steps",
    "keep_last_n_checkpoints": "trainer.save_total_limit",
    "save_top_k": "trainer.save_total_limit",
    "keep_latest_k": "trainer.save_total_limit",
    "monitor": "trainer.metric_for_best_model",
    "early_stopping": "trainer.early_stopping_patience",
    "patience": "trainer.early_stopping_patience",
    "ema": "trainer.ema_decay",
    "resume_from_checkpoint": "trainer.resume",
    "ckpt_path": "trainer.resume",
    "auto_resume_from_checkpoints": "trainer.resume",
    "autoresume": "trainer.resume",
    "full_determinism": "trainer.deterministic",
    "max_time": "trainer.time_limit",
    "report_to": "trainer.trackers",
    "logger": "trainer.trackers",
    "log_with": "trainer.trackers",
    "model_name_or_path": "model.path",
    "pretrained_model_name_or_path": "model.path",
    "model_name": "model.path",
    "base_model": "model.path",
    "model_revision": "model.revision",
    "ignore_mismatched_sizes": "model.new_head",
    "freeze_layers": "model.freeze",
    "tokenizer_name": "tokenizer.path",
    "tokenizer_name_or_path": "tokenizer.path",
    "dataset_name": "dataset.path",
    "datasets": "dataset.path",
    "data": "dataset.path",
    "dataset_config_name": "dataset.name",
    "train_file": "dataset.train",
    "validation_file": "dataset.validation",
    "eval_file": "dataset.validation",
    "test_file": "dataset.test",
    "max_train_samples": "dataset.max_train_rows",
    "max_eval_samples": "dataset.max_eval_rows",
    "val_set_size": "dataset.validation_fraction",
    "test_size": "dataset.validation_fraction",
    "text_column": "recipe.text",
    "text_column_name": "recipe.text",
    "label_column": "recipe.label",
    "label_column_name": "recipe.label",
    "max_seq_length": "recipe.max_length",
    "max_seq_len": "recipe.max_length",
    "cutoff_len": "recipe.max_length",
    "sequence_len": "recipe.max_length",
    "num_labels": "recipe.labels",
    "out_dir": "output_dir",
    "save_dir": "output_dir",
    "data_seed": "seed",
    "random_seed": "seed",
    "do_train": "job",
    "do_eval": "job",
    "do_predict": "job",
    "devices": "launch.num_processes",
    "gpus": "launch.num_processes",
    "nproc_per_node": "launch.num_processes",
}
"""What a peer says -> the key that says it here."""

FURTHER_WORDS = {
    "gradient_accumulation_steps": "accumulation follows from it and trainer.micro_batch_size",
    "accumulate_grad_batches": "accumulation follows from it and trainer.micro_batch_size",
    "per_device_eval_batch_size": "evaluation makes its batches by tokens",
    "eval_batch_size": "evaluation makes its batches by tokens",
    "warmup_ratio": "a number below 1 is a share of the run",
    "bf16": "trainer.precision=bf16",
    "fp16": "trainer.precision=fp16",
    "eval_strategy": "steps, a share below 1, epoch, or 0 for never",
    "evaluation_strategy": "steps, a share below 1, epoch, or 0 for never",
    "save_strategy": "steps, a share below 1, epoch, or 0 for never",
    "logging_strategy": "steps, a share below 1, epoch, or 0 for never",
    "do_train": "job=train",
    "do_eval": "job=evaluate",
    "do_predict": "job=predict",
}

NOTHING_TO_SET = {
    "packing": "batches are never padded",
    "sample_packing": "batches are never padded",
    "group_by_length": "batches are never padded",
    "length_column_name": "batches are never padded",
    "train_sampling_strategy": "batches are never padded",
    "pad_to_max_length": "batches are never padded",
    "greater_is_better": "every metric knows its direction",
    "overwrite_output_dir": "a run is never overwritten; take another output_dir",
    "push_to_hub": "nothing is uploaded; the run's model/ is ready for `hf upload`",
    "hub_token": "hub access is HF_TOKEN's, or `hf auth login`'s",
    "trust_remote_code": "no model code is downloaded and run",
    "no_cuda": "hide the GPUs with CUDA_VISIBLE_DEVICES=",
    "use_cpu": "hide the GPUs with CUDA_VISIBLE_DEVICES=",
    "local_rank": "the launcher's environment says it",
    "train_on_inputs": "the recipe decides which tokens have a loss",
    "assistant_only_loss": "the recipe decides which tokens have a loss",
    **dict.fromkeys(
        ("lora_r", "lora_rank", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_target"),
        "all weights are trained but those that match model.freeze",
    ),
}
"""Peers' names for what needs no setting here, and why."""


def unknown_key(section: str, key: str, accepted: Iterable[str], value: Any = None) -> InputError:
    """The error for `key` of `section` ("" is the top): the name that it has here, or the nearest.

    `value` is what the key was given; names inside of it count too (`training.lr`).
    """
    names = [key]
    while isinstance(value, Mapping) and value:
        inner, value = next(iter(value.items()))
        names.append(str(inner))
    dotted = ".".join([section] * bool(section) + names)
    return InputError(f"{dotted}: unknown key; {_answer(section, names, list(accepted))}")


def _answer(section: str, names: list[str], accepted: list[str]) -> str:
    for name in reversed(names):
        if name in PEER_NAMES:
            further = f" ({FURTHER_WORDS[name]})" if name in FURTHER_WORDS else ""
            return f"here it is {PEER_NAMES[name]}{further}"
        if name in NOTHING_TO_SET:
            return f"nothing to set here: {NOTHING_TO_SET[name]}"
    homes = _own_names()
    if names[-1] in homes:
        return f"did you mean '{homes[names[-1]]}'?"
    match = nearest(names[0], accepted)
    if match and section:
        match = match.replace("mean '", f"mean '{section}.")
    elsewhere = nearest(names[-1], homes)
    if not match and elsewhere:
        name = elsewhere.split("'")[1]
        match = f"; did you mean '{homes[name]}'?"
    return match.removeprefix("; ") or f"accepted: {', '.join(accepted) or 'none'}"


def _own_names() -> dict[str, str]:
    """Names that stand in one closed section only, with their section."""
    sections = {"launch": LaunchSettings, "model": ModelSettings, "trainer": TrainSettings}
    return {
        field.name: f"{section}.{field.name}"
        for section, settings in sections.items()
        for field in fields(settings)
        if field.name not in ("path", "revision", "config")
    }
