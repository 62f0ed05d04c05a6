"""Context parallelism: ranks share the tokens of each sequence, and attend to all keys.

Every rank of a group has the same micro batch and computes the layers for its own tokens. Attention
gathers the keys and values of all ranks. c is the number of ranks; a rank owns t of the T tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainer.models.blocks.autograd import AutogradContext
from trainer.models.inputs import FlatInputs
from trainer.models.packing import Layout, to_device


@dataclass(frozen=True)
class ContextGroup:
    """The ranks that share the tokens of a batch, and the index of this rank among them."""

    rank: int
    size: int
    ranks: "dist.ProcessGroup"

    def part(self, inputs: FlatInputs, device: torch.device) -> "PartLayout | None":
        """This rank's share of a flat batch; None if every rank computes the whole batch.

        Every rank computes the whole batch in padded calls, and if a rank would own no tokens.
        """
        layout = inputs.layout
        if layout.width is not None or inputs.cache is not None or layout.needs_mask:
            return None
        lengths = tuple(layout.lengths.tolist())
        pieces = [_pieces(lengths, rank, self.size) for rank in range(self.size)]
        if not all(pieces):
            return None
        own = pieces[self.rank]
        sizes = torch.tensor([end - start for _, start, end in own])
        return PartLayout(
            sizes, device, sharers=self, pieces=tuple(map(tuple, pieces)), whole=layout
        )


Piece = tuple[int, int, int]
"""The index in the batch of a sequence's first token; the start and end of a piece in the
sequence"""


@lru_cache(maxsize=64)
def _pieces(lengths: tuple[int, ...], rank: int, size: int) -> tuple[Piece, ...]:
    """Return a rank's pieces: two of the 2 x `size` chunks of each sequence.

    They are the chunks `rank` and `2 size - 1 - rank`, so that all ranks compute about the same
    number of causal query-key pairs.
    """
    found, first = [], 0
    for length in lengths:
        for chunk in (rank, 2 * size - 1 - rank):
            start, end = (length * edge // (2 * size) for edge in (chunk, chunk + 1))
            if end > start:
                found.append((first, start, end))
        first += length
    return tuple(found)


@dataclass(frozen=True)
class PartLayout(Layout):
    """The layout of the tokens that this rank owns, in which each piece is a sequence."""

    sharers: ContextGroup | None = None
    pieces: Sequence[Sequence[Piece]] = ()
    """The pieces of each rank"""
    whole: Layout | None = None
    """The layout of the batch"""

    @cached_property
    def rows(self) -> Tensor:
        """[t], the indices in the batch of the tokens that this rank owns."""
        assert self.sharers is not None
        return to_device(_rows(self.pieces[self.sharers.rank]), self.device)

    @cached_property
    def keys(self) -> Layout:
        """The layout of the keys that each piece attends to: its sequence up to the piece's end."""
        assert self.sharers is not None
        ends = torch.tensor([end for _, _, end in self.pieces[self.sharers.rank]])
        return Layout(ends, self.device)

    @cached_property
    def key_rows(self) -> Tensor:
        """The indices in the batch of the tokens that `keys` describes."""
        assert self.sharers is not None
        parts = [(first, 0, end) for first, _, end in self.pieces[self.sharers.rank]]
        return to_device(_rows(parts), self.device)

    @cached_property
    def most_tokens(self) -> int:
        """The largest number of tokens that a rank owns."""
        return max(sum(end - start for _, start, end in part) for part in self.pieces)

    @cached_property
    def order(self) -> Tensor:
        """[T], each token's index in the gathered tokens, padded to `most_tokens` per rank."""
        parts = [_rows(part) for part in self.pieces]
        order = torch.empty(sum(map(len, parts)), dtype=torch.long)
        for rank, part in enumerate(parts):
            order[part] = torch.arange(len(part)) + rank * self.most_tokens
        return to_device(order, self.device)

    def take(self, x: Tensor) -> Tensor:
        """x [T, ...] -> [t, ...]."""
        return x.index_select(0, self.rows)

    def inputs(self, inputs: FlatInputs) -> FlatInputs:
        """The inputs of this rank's tokens."""
        keys = inputs.dropout_keys
        return replace(inputs, layout=self, dropout_keys=None if keys is None else self.take(keys))

    def gather_keys(self, x: Tensor) -> Tensor:
        """x [t, ...] of each rank -> [T, ...]; gradients are summed over the ranks."""
        found: Tensor = _Gather.apply(x, self, False)
        return found

    def gather_alike(self, x: Tensor) -> Tensor:
        """x [t, ...] of each rank -> [T, ...], from which every rank computes the same loss.

        Its gradient is equal on all ranks, and the Trainer divides each rank's loss by c. Therefore
        a rank's share of the gradient is multiplied by c, without any communication.
        """
        found: Tensor = _Gather.apply(x, self, True)
        return found


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: AutogradContext, x: Tensor, part: PartLayout, alike: bool) -> Tensor:
        ctx.part, ctx.alike = part, alike
        group = part.sharers
        assert group is not None
        own = x.new_zeros(part.most_tokens, *x.shape[1:])
        own[: len(x)] = x
        shared = x.new_empty(group.size, part.most_tokens, *x.shape[1:])
        dist.all_gather(list(shared.unbind()), own, group=group.ranks)
        return shared.flatten(0, 1).index_select(0, part.order)

    @staticmethod
    @once_differentiable
    def backward(ctx: AutogradContext, grad: Tensor) -> tuple[Tensor | None, ...]:
        part: PartLayout = ctx.part
        group = part.sharers
        assert group is not None
        if ctx.alike:
            return part.take(grad) * group.size, None, None
        return _summed(grad, part, group), None, None


def _summed(grad: Tensor, part: PartLayout, group: ContextGroup) -> Tensor:
    """This rank's rows [t, ...] of the sum of all ranks' gradients [T, ...]."""
    if dist.get_backend(group.ranks) == "gloo":
        grad = grad.contiguous()
        dist.all_reduce(grad, group=group.ranks)
        return part.take(grad)
    shared = grad.new_zeros(group.size, part.most_tokens, *grad.shape[1:])
    shared.flatten(0, 1)[part.order] = grad
    own = torch.empty_like(shared[0])
    dist.reduce_scatter(own, list(shared.unbind()), group=group.ranks)
    return own[: len(part.rows)]


def _rows(pieces: Sequence[Piece]) -> Tensor:
    """The indices in the batch of the tokens in the pieces, in their order, on the CPU."""
    return torch.cat([torch.arange(first + start, first + end) for first, start, end in pieces])
