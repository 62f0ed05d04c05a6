"""DeviceOptions: how a model is spread over devices and how long ranks wait for each other."""

from dataclasses import dataclass

from trainer.errors import InputError
from trainer.option_types import Options

LONGEST_TIMEOUT = 1e8
"""Seconds, some three years; torch cannot wait for much longer."""


@dataclass(frozen=True)
class DeviceOptions(Options, where="launch"):
    """The options of `place`; the defaults are those of `launch` in configs/config.yaml."""

    timeout: float | None = None
    """How many seconds a rank waits for another; None for torch's default."""
    strategy: str = "auto"
    """auto, ddp or fsdp. A single process uses fsdp only to keep its weights in host memory."""
    cpu_offload: bool = False
    """With fsdp: whether weights, their gradients, their average and the optimizer's moments stay
    in host memory."""
    reduce_gradients: str = "auto"
    """With fsdp: auto, step or micro_batch (trainer/devices/sharding.py)."""
    context_parallel: int = 1
    """How many consecutive ranks share the tokens of each text (trainer/devices/context.py)."""
    tensor_parallel: int = 1
    """How many consecutive ranks split each layer (trainer/devices/tensor_parallel.py)."""

    def __post_init__(self) -> None:
        if self.timeout is not None:
            check_timeout("timeout", self.timeout)

    @property
    def effective_strategy(self) -> str:
        """The strategy; with tensor parallelism, auto means fsdp, since ddp does not support it."""
        return "fsdp" if self.strategy == "auto" and self.tensor_parallel > 1 else self.strategy


def check_timeout(where: str, seconds: float) -> None:
    """Raise InputError, whose message begins with `where`, unless ranks can wait for so long."""
    if not 0 < seconds <= LONGEST_TIMEOUT:
        accepted = f"accepted: seconds above 0, up to {LONGEST_TIMEOUT:g}"
        raise InputError(f"{where}: found {seconds}; {accepted}")
