"""PEFT's old layout of adapters on experts, with a pair of matrices for each projection.

PEFT wrote this layout for transformers 4, in which each projection of each expert is a layer. In
this package, one parameter holds all experts, and gate_up_proj holds two projections of each. The
adapters of all experts are therefore joined: the rows of lora_A are concatenated, and the lora_B
matrices become diagonal blocks.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from trainer.errors import InputError
from trainer.models.adapters.expert_adapters import joined
from trainer.models.formats.expert_files import StoredExperts


@dataclass
class OldExperts:
    """The tensors of a folder in the old layout, by the names of the joined tensors."""

    folder: Path
    stored: StoredExperts | None
    """The names of experts' projections in the family's files; None: the family has no experts"""
    found: dict[str, dict[tuple[int, str], str]] = field(default_factory=dict)
    """Name of a joined tensor -> (expert, projection) -> name in the files"""

    def take(self, names: Iterable[str]) -> None:
        """Collect the tensors of the old layout among these names."""
        if self.stored is None:
            return
        s = self.stored
        ours = rf"(.*)\.(?:{s.block}|mlp)\.experts\.(\d+)\.({s.gate}|{s.input}|{s.output})"
        for name in names:
            if match := re.fullmatch(rf"{ours}\.(lora_[AB])\.weight", name):
                start, number, own, part = match.groups()
                leaf = "down_proj" if own == s.output else "gate_up_proj"
                home = f"{start}.mlp.experts.{leaf}.{part}.weight"
                self.found.setdefault(home, {})[int(number), own] = name

    def parts(self, name: str) -> list[list[str]]:
        """The stored names of each expert's projections. Raises InputError if one is missing."""
        stored, there = self.stored, self.found[name]
        assert stored is not None
        order = stored.order(name.rsplit(".", 3)[1])
        experts = 1 + max(number for number, _ in there)
        for number in range(experts):
            for own in order:
                if (number, own) not in there:
                    example = next(iter(there.values()))
                    missing = f"has no counterpart for {own} of expert {number}"
                    accepted = "accepted: adapters on all experts, or none"
                    raise InputError(f"{self.folder}: tensor {example} {missing}; {accepted}")
        return [[there[number, own] for own in order] for number in range(experts)]

    def read(self, name: str, read: Callable[[str], Tensor]) -> Tensor:
        """The joined tensor of all experts; `read` reads a tensor of the files by name."""
        part = name.rsplit(".", 2)[1]
        each = [[read(own) for own in expert] for expert in self.parts(name)]
        if part == "lora_A":
            return joined(part, torch.stack([torch.cat(expert) for expert in each]))
        return joined(part, torch.stack([torch.block_diag(*expert) for expert in each]))
