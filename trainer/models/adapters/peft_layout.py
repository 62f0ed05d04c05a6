"""PEFT's names of layers that transformers names or splits differently than the published files.

PEFT uses the names of transformers' modules. In Nomic BERT these differ from the names in the
files, and one matrix in the files corresponds to three layers.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from trainer.errors import InputError
from trainer.models.adapters.adapter_config import AdapterConfig
from trainer.models.adapters.old_expert_adapters import OldExperts
from trainer.models.formats.expert_files import StoredExperts
from trainer.models.formats.weight_files import WeightFiles

Names = Mapping[str, tuple[str, ...]]
"""A module of the hub's files -> PEFT's modules, in the order of their rows; * matches a number"""
OF_INPUTS = (".lora_A.weight",)
"""The suffixes of tensors that the parts of a split layer share, since they have the same inputs"""


def peft_names(module: str, table: Names) -> tuple[str, ...]:
    """PEFT's names of a module of the hub's files, which may have a prefix."""
    for ours, theirs in table.items():
        if found := re.fullmatch(_pattern(ours), module):
            start, *numbers = found.groups()
            return tuple(start + _filled(each, numbers) for each in theirs)
    return (module,)


def split(tensors: Mapping[str, Tensor], table: Names, root: str) -> dict[str, Tensor]:
    """Rename and split an adapter's tensors as PEFT does; the names start with `root`."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        module, suffix = _halves(name.removeprefix(root))
        names = peft_names(module, table)
        whole = suffix in OF_INPUTS or (suffix == ".ia3_l" and tensor.shape[0] == 1)
        parts = [tensor] * len(names) if whole else tensor.chunk(len(names))
        found |= {f"{root}{n}{suffix}": p for n, p in zip(names, parts, strict=True)}
    return found


@dataclass(frozen=True)
class _Joined:
    """One of our tensors, joined from the tensors of its parts; None: a part without an adapter."""

    suffix: str
    parts: tuple[str | None, ...]


class JoinedFiles(WeightFiles):
    """An adapter's tensors under the names of the hub's files, with split layers joined."""

    def __init__(
        self,
        folder: Path,
        table: Names = MappingProxyType({}),
        stored: StoredExperts | None = None,
    ) -> None:
        """`table` and `stored` are the family's `peft_names` and `stored_experts`."""
        super().__init__(folder)
        self._experts = OldExperts(folder, stored)
        self._experts.take(super().names)
        self._joined: dict[str, _Joined] = {}
        groups: dict[tuple[str, str], dict[int, str]] = {}
        counts: dict[str, int] = {}
        for name in super().names:
            module, suffix = _halves(name)
            home, index, count = _home(module, table)
            if home is not None:
                groups.setdefault((home, suffix), {})[index] = name
                counts[home] = count
        for (home, suffix), found in groups.items():
            parts = tuple(found.get(index) for index in range(counts[home]))
            self._joined[f"{home}{suffix}"] = _Joined(suffix, parts)

    @property
    def names(self) -> list[str]:
        inside = {part for each in self._joined.values() for part in each.parts}
        inside |= {part for each in self._experts.found.values() for part in each.values()}
        plain = (name for name in super().names if name not in inside)
        return [*plain, *self._joined, *self._experts.found]

    def shape(self, name: str) -> tuple[int, ...]:
        made = name in self._joined or name in self._experts.found
        return tuple(self.read(name).shape) if made else super().shape(name)

    def read(self, name: str) -> Tensor:
        joined, read = self._joined.get(name), super().read
        try:
            if name in self._experts.found:
                return self._experts.read(name, read)
            if joined is None:
                return read(name)
            known = [None if part is None else read(part) for part in joined.parts]
            if len(known) == 1 and known[0] is not None:
                return known[0]
            return self._join(name, joined, known)
        except (RuntimeError, IndexError):
            accepted = "accepted: tensors of one shape for all parts of a layer, or all experts"
            raise InputError(f"{self.folder}: tensor {name}: {accepted}") from None

    def read_rows(self, name: str, rows: range) -> Tensor:
        if name in self._joined or name in self._experts.found:
            return self.read(name)[rows.start : rows.stop]
        return super().read_rows(name, rows)

    def experts_of(self, module: str) -> int:
        """The number of a layer's experts if the files store each separately; otherwise 1."""
        name = f"{module}{OF_INPUTS[0]}"
        return len(self._experts.parts(name)) if name in self._experts.found else 1

    def parts_of(self, module: str) -> list[str]:
        """PEFT's names of the adapted parts of a joined layer; empty for other layers."""
        name = f"{module}{OF_INPUTS[0]}"
        joined = self._joined.get(name)
        found = [] if joined is None else [part for part in joined.parts if part is not None]
        if name in self._experts.found:
            found = [part for expert in self._experts.parts(name) for part in expert]
        return [part.removesuffix(OF_INPUTS[0]) for part in found]

    def _join(self, name: str, joined: _Joined, known: Sequence[Tensor | None]) -> Tensor:
        """Join the tensors of all parts, of which at least one exists."""
        there = [each for each in known if each is not None]
        one = joined.suffix == ".ia3_l" and there[0].shape[0] == 1
        if joined.suffix in OF_INPUTS or one:
            same = len(there) == len(known) and all(torch.equal(there[0], each) for each in there)
            if one and not same:
                raise InputError(
                    f"{self.folder}: tensor {joined.parts[0] or name}: scales of the inputs of one "
                    "part of a layer; accepted: the same scales for all parts"
                )
            return there[0] if same else torch.cat(there)
        if joined.suffix == ".lora_B.weight":
            return self._second_matrices(name, known)
        if len(there) < len(known) and joined.suffix != ".ia3_l":
            raise InputError(
                f"{self.folder}: tensor {next(p for p in joined.parts if p)}: it is of one part of "
                f"a layer that is one matrix here; accepted: {len(known)} parts or none"
            )
        return torch.cat([torch.ones_like(there[0]) if each is None else each for each in known])

    def _second_matrices(self, name: str, known: Sequence[Tensor | None]) -> Tensor:
        """Join the parts' lora_B: stacked if they share lora_A, else as diagonal blocks."""
        there = [each for each in known if each is not None]
        first = self.read(name.removesuffix(".lora_B.weight") + OF_INPUTS[0])
        rows = there[0].shape[0]
        if len(there) == len(known) and first.shape[0] == there[0].shape[1]:
            return torch.cat(there)
        found, column = there[0].new_zeros(rows * len(known), first.shape[0]), 0
        for index, part in enumerate(known):
            if part is not None:
                found[index * rows : (index + 1) * rows, column : column + part.shape[1]] = part
                column += part.shape[1]
        return found


def joined_size(
    config: AdapterConfig, files: JoinedFiles, module: str, root: str
) -> tuple[int, float] | None:
    """The rank and the factor of a joined layer's adapter; None for other layers.

    `module` is the layer's name in the files, which starts with `root`. Raises InputError for parts
    of one layer with different factors.
    """
    parts = [part.removeprefix(root) for part in files.parts_of(module)]
    if not parts:
        return None
    sizes = [config.size_of(part) for part in parts]
    if len({factor for _, factor in sizes}) > 1:
        raise InputError(
            f"{config.file}: alpha_pattern: found different factors for {parts[0]} and the other "
            "parts of its layer, which is one matrix here; accepted: equal ones"
        )
    rank, experts = files.shape(f"{module}{OF_INPUTS[0]}")[0], files.experts_of(module)
    listed = sum(each for each, _ in sizes)
    return (rank if rank in (listed, sizes[0][0]) else listed) // experts, sizes[0][1]


def _home(module: str, table: Names) -> tuple[str | None, int, int]:
    """The hub's name of the module that contains a PEFT module, the part's index, and the count.

    (None, 0, 0) for a module that the table does not list.
    """
    for ours, theirs in table.items():
        for index, each in enumerate(theirs):
            if found := re.fullmatch(_pattern(each), module):
                start, *numbers = found.groups()
                return start + _filled(ours, numbers), index, len(theirs)
    return None, 0, 0


def _halves(name: str) -> tuple[str, str]:
    """Split a tensor's name into its module and the suffix."""
    found = re.fullmatch(r"(.*?)((?:\.base_layer)?\.(?:lora_[AB]\.)?[^.]+)", name)
    return (name, "") if found is None else (found[1], found[2])


def _pattern(name: str) -> str:
    return r"(|.*\.)" + re.escape(name).replace(r"\*", r"(\d+)")


def _filled(name: str, numbers: Sequence[str]) -> str:
    for number in numbers:
        name = name.replace("*", number, 1)
    return name
