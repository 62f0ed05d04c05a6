"""SequenceLengths: the lengths of a flat batch, kept on the host by DDP and FSDP."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class SequenceLengths:
    """The lengths of the sequences of a flat batch.

    DDP and FSDP move every tensor argument to the device, but no other objects. If the lengths were
    moved, the host would have to wait for the device to get the shapes of a batch.
    """

    on_host: Tensor
    """[B], integers on the CPU"""
    step_key: Tensor | None = None
    """[1] int32 on the CPU: the dropout key for masks that all samples of a step share"""


def host_lengths(lengths: "Tensor | SequenceLengths") -> Tensor:
    """[B], the lengths on the CPU."""
    return lengths.on_host if isinstance(lengths, SequenceLengths) else lengths


def step_key(lengths: "Tensor | SequenceLengths") -> Tensor | None:
    """[1], the dropout key of the step, if it is set."""
    return lengths.step_key if isinstance(lengths, SequenceLengths) else None
