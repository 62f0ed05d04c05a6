"""Applies or refuses the arguments of transformers' from_pretrained and save_pretrained."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from trainer.devices.named_device import named_device
from trainer.errors import InputError
from trainer.hub import checked_subfolder
from trainer.models.config_names import checked_attention

log = logging.getLogger("trainer")

AUTOMATIC = ("auto", "balanced", "balanced_low_0", "sequential")
"""Values of `device_map` for which this package chooses the device."""

ONLY_ACCEPTED = {
    "low_cpu_mem_usage": True,
    "use_safetensors": True,
    "trust_remote_code": False,
    "force_download": False,
    "from_flax": False,
    "load_in_4bit": False,
    "load_in_8bit": False,
    "weights_only": True,
    "_fast_init": True,
}
"""Arguments -> the only accepted value, which matches what this package does."""
NO_EFFECT = {
    "low_cpu_mem_usage": "weights are always read into the model one at a time",
    "trust_remote_code": "no remote code runs here, and no model needs any",
    "force_download": "the cache checks its files itself; delete its folder to download again",
    "_fast_init": "only weights that are missing in the files are initialized",
    "max_memory": "the model is on one device",
    "offload_folder": "the model is on one device",
    "offload_state_dict": "the model is on one device",
    "offload_buffers": "the model is on one device",
    "resume_download": "downloads always resume",
    "proxies": "the hub's client reads HTTPS_PROXY from the environment",
}
"""Arguments that have no effect in this package -> the reason, which is logged."""
REFUSED = {
    "use_safetensors": "True (pickled weights can run code and are not read)",
    "from_flax": "False (save the model with from_flax=True in transformers first)",
    "load_in_4bit": "False (quantization='int4' or 'nf4' packs the weights while reading them)",
    "load_in_8bit": "False (quantization='int8' packs the weights while reading them)",
    "weights_only": "True (nothing is unpickled)",
    "quantization_config": "None (quantization='int8', 'int4' or 'nf4' packs the weights)",
    "variant": "None (rename the files to model.safetensors)",
    "gguf_file": "None (give the path of the .gguf file as the model)",
    "key_mapping": "None",
    "tp_plan": "None (sharding is a setting of the Trainer)",
    "tp_size": "None (sharding is a setting of the Trainer)",
    "device_mesh": "None (sharding is a setting of the Trainer)",
    "distributed_config": "None (sharding is a setting of the Trainer)",
    "adapter_kwargs": "None (an adapter's folder needs no arguments)",
}
"""Arguments that would change the result -> the accepted value."""


@dataclass(frozen=True)
class LoadOptions:
    """The keyword arguments of from_pretrained, separated from overrides of config entries."""

    device: torch.device | None = None
    """The device of the model; None is the CPU"""
    subfolder: str = ""
    """A subfolder of the path"""
    ignore_mismatched_sizes: bool = False
    """Whether a head whose sizes differ from the file's starts with random weights"""
    output_loading_info: bool = False
    """Whether to return (model, missing and unexpected names)"""
    config: Any = None
    """A `ModelConfig` to use instead of the folder's config.json"""
    state_dict: Mapping[str, torch.Tensor] | None = None
    """Weights to use instead of the files' weights, keyed by names in files on the hub or by this
    package's parameter names"""
    attention: str | None = None
    """transformers' name of an attention kernel, which has no effect"""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Entries of the config that the user replaces"""


def load_options(given: Mapping[str, Any]) -> LoadOptions:
    """Parse the keyword arguments of from_pretrained.

    Raises InputError, naming the argument, for a value that is not supported.
    """
    rest = dict(given)
    for name in ("use_flash_attention_2", "mirror", "commit_message", "tqdm_class", "from_pt"):
        rest.pop(name, None)
    options = LoadOptions(
        device=read_device_map(rest.pop("device_map", None)),
        subfolder=checked_subfolder(rest.pop("subfolder", None)),
        ignore_mismatched_sizes=bool(rest.pop("ignore_mismatched_sizes", False)),
        output_loading_info=bool(rest.pop("output_loading_info", False)),
        config=rest.pop("config", None),
        state_dict=rest.pop("state_dict", None),
        attention=checked_attention(rest.pop("attn_implementation", None)),
    )
    for name in {**ONLY_ACCEPTED, **NO_EFFECT, **REFUSED}:
        if name == "quantization_config" and rest.get(name, "") is None:
            continue  # an override: the file's weights then count as not quantized
        if name in rest:
            _log_or_refuse(name, rest.pop(name))
    return LoadOptions(**{**vars(options), "overrides": rest})


def read_device_map(value: Any) -> torch.device | None:
    """The device that a `device_map` names: a device, its name or its index.

    Raises InputError if it names several devices, or one that this machine does not have.
    """
    if isinstance(value, Mapping):
        devices = set(map(str, value.values()))
        if len(devices) != 1:
            found = f"found {len(devices)} devices"
            accepted = "one device, or 'auto' (sharding is a setting of the Trainer)"
            raise InputError(f"device_map: {found}; accepted: {accepted}")
        value = next(iter(value.values()))
    if value is None:
        return None
    if value in AUTOMATIC:
        chosen = torch.accelerator.current_accelerator(check_available=True)
        return torch.device("cpu") if chosen is None else chosen
    return named_device(value, "device_map", AUTOMATIC)


def check_save_options(given: Mapping[str, Any]) -> bool:
    """Return whether this process writes, according to the keyword arguments of save_pretrained.

    Raises InputError, naming the argument, for a value that is not supported.
    """
    rest = dict(given)
    writes = bool(rest.pop("is_main_process", True))
    accepted = {"safe_serialization": True, "push_to_hub": False, "save_peft_format": True}
    reasons = {
        "safe_serialization": " (pickled weights can run code and are not written)",
        "push_to_hub": " (push_to_hub(repository) sends it)",
    }
    for name, value in accepted.items():
        found = rest.pop(name, value)
        if found not in (value, None):
            why = reasons.get(name, "")
            raise InputError(f"{name}: found {found!r}; accepted: {value}{why}")
    for name in ("save_original_format", "token", "commit_message", "repo_id"):
        rest.pop(name, None)
    for name, value in rest.items():
        if name not in ("variant", "save_function"):
            raise TypeError(f"save_pretrained() got an unexpected keyword argument '{name}'")
        if value is not None:
            raise InputError(f"{name}: found {value!r}; accepted: None")
    return writes


def _log_or_refuse(name: str, value: object) -> None:
    """Log why an argument has no effect, or refuse it."""
    if value is None or (name in ONLY_ACCEPTED and value == ONLY_ACCEPTED[name]):
        return
    if name in REFUSED:
        raise InputError(f"{name}: found {str(value)[:60]!r}; accepted: {REFUSED[name]}")
    log.warning("%s=%s has no effect: %s", name, value, NO_EFFECT[name])
