"""SequenceLengths: the layout of a flat batch as host numbers that no wrapper moves."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class SequenceLengths:
    """How long the sequences of a flat batch are.

    DDP and FSDP move every tensor among a call's arguments to the device, and the host would then
    have to wait for the device to know a batch's shapes. They leave other objects alone.
    """

    on_host: Tensor
    """[B], integers on the CPU"""


def host_lengths(lengths: "Tensor | SequenceLengths") -> Tensor:
    """[B], the lengths that a model was called with."""
    return lengths.on_host if isinstance(lengths, SequenceLengths) else lengths
