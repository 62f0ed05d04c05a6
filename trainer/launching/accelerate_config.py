"""Settings of `accelerate launch`: refuses those that we would ignore, and names ours."""

import os

from trainer.errors import InputError
from trainer.runs.run import Run

OUR_SETTINGS = {
    "ACCELERATE_USE_FSDP": ("distributed_type: FSDP", "launch.strategy"),
    "ACCELERATE_USE_DEEPSPEED": ("distributed_type: DEEPSPEED", "launch.strategy"),
    "ACCELERATE_USE_MEGATRON_LM": ("distributed_type: MEGATRON_LM", "launch.strategy"),
    "ACCELERATE_USE_PARALLELISM_CONFIG": ("parallelism_config", "launch.strategy"),
    "ACCELERATE_DOWNCAST_BF16": ("downcast_bf16", "trainer.precision"),
    "ACCELERATE_DYNAMO_BACKEND": ("dynamo_backend", "trainer.compile"),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": (
        "gradient_accumulation_steps",
        "trainer.global_batch_size and trainer.micro_batch_size",
    ),
    "ACCELERATE_GRADIENT_CLIPPING": ("gradient_clipping", "trainer.max_grad_norm"),
}
"""A variable that `accelerate launch` sets -> the key in its config file, and our setting."""

UNUSED = {"", "no", "false", "0", "1", "none"}
"""Values with which a setting of `accelerate launch` has no effect."""


def check_accelerate_config(run: Run) -> None:
    """Raise InputError for the first setting that would be ignored or would change the results.

    The numbers of processes and of machines, the address and the port are used, as with torchrun.
    """
    for variable, (theirs, ours) in OUR_SETTINGS.items():
        value = os.environ.get(variable, "")
        if value.lower() not in UNUSED:
            raise _refused(theirs, value, ours)
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true":
        import torch

        if torch.accelerator.is_available():
            raise _refused("use_cpu", "true", "an empty CUDA_VISIBLE_DEVICES")
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in ("no", run.trainer.precision):
        raise _refused("mixed_precision", precision, f"trainer.precision={precision}")


def _refused(theirs: str, value: str, ours: str) -> InputError:
    where = f"accelerate config: {theirs}"
    found = "" if ":" in theirs else f": found {value}"
    return InputError(f"{where}{found}; accepted: leave it out there, and use {ours} instead")
