"""The tensors of experts in files: one per expert and projection, or one for all experts."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.errors import InputError
from trainer.models.formats.weight_files import WeightFiles


@dataclass(frozen=True)
class StoredExperts:
    """The names of an expert's modules in the published files of a family."""

    block: str
    """The module with the router and the experts, such as block_sparse_moe; mlp in this package"""
    gate: str
    input: str
    output: str

    def apart(self, name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Split a parameter, given by its hub name, into the tensors that files store for it."""
        home, _, leaf = name.rpartition(".")
        if home.endswith(".mlp.experts"):
            for number, expert in enumerate(tensor):
                own = self.order(leaf)
                for part, value in zip(own, expert.chunk(len(own)), strict=True):
                    yield f"{self._stored(home)}.{number}.{part}.weight", value
        else:
            yield self._stored(name) if name.endswith(".mlp.gate.weight") else name, tensor

    def order(self, leaf: str) -> tuple[str, ...]:
        """The projections of an expert that the joined parameter `leaf` holds, in order."""
        return (self.gate, self.input) if leaf == "gate_up_proj" else (self.output,)

    def _stored(self, name: str) -> str:
        return name.replace(".mlp.", f".{self.block}.")


class JoinedExperts(WeightFiles):
    """Open files whose expert tensors are returned as one tensor, even if stored per expert."""

    def __init__(self, files: WeightFiles, stored: StoredExperts) -> None:
        self.folder, self._files, self._stored = files.folder, files, stored
        self._plain: dict[str, str] = {}
        self._joined: dict[str, dict[tuple[int, str], str]] = {}
        part = rf"(.*\.experts)\.(\d+)\.({stored.gate}|{stored.input}|{stored.output})\.weight"
        for name in files.names:
            ours = name.replace(f".{stored.block}.", ".mlp.")
            match = re.fullmatch(part, ours)
            if match is None:
                self._plain[ours] = name
                continue
            home, number, own = match.groups()
            leaf = "down_proj" if own == stored.output else "gate_up_proj"
            self._joined.setdefault(f"{home}.{leaf}", {})[int(number), own] = name

    @property
    def names(self) -> list[str]:
        return [*self._plain, *self._joined]

    def shape(self, name: str) -> tuple[int, ...]:
        if name in self._plain:
            return self._files.shape(self._plain[name])
        experts = self._parts(name)
        shapes = {self._files.shape(part) for parts in experts for part in parts}
        if len(shapes) > 1 or len(next(iter(shapes))) != 2:
            found = " and ".join(str(shape) for shape in sorted(shapes))
            raise InputError(f"{self.folder}: tensor {name}: found experts of shapes {found}")
        rows, *rest = shapes.pop()
        return len(experts), len(experts[0]) * rows, *rest

    def read(self, name: str) -> Tensor:
        if name in self._plain:
            return self._files.read(self._plain[name])
        return self._stacked(self._parts(name))

    def read_rows(self, name: str, rows: range) -> Tensor:
        if name in self._plain:
            return self._files.read_rows(self._plain[name], rows)
        experts = self._parts(name)[rows.start : rows.stop]
        return self._stacked(experts) if experts else self.read(name)[:0]

    def __exit__(self, *reason: object) -> None:
        self._files.__exit__(*reason)

    def _parts(self, name: str) -> list[list[str]]:
        """Each expert's tensor names in the files. Raises InputError if a tensor is missing."""
        home, _, leaf = name.rpartition(".")
        stored, order = self._joined[name], self._stored.order(leaf)
        experts = 1 + max(number for number, _ in stored)
        for number in range(experts):
            for own in order:
                if (number, own) not in stored:
                    missing = f"{home}.{number}.{own}.weight"
                    raise InputError(f"{self.folder}: tensor {missing} is missing")
        return [[stored[number, own] for own in order] for number in range(experts)]

    def _stacked(self, experts: list[list[str]]) -> Tensor:
        return torch.stack([torch.cat([self._files.read(n) for n in names]) for names in experts])
