"""Attention between two flat batches in blocks of queries, without the full score matrix.

Dimensions: Tq queries and Tk keys in B sequences each, H heads of C channels.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainer.models.attention.block_graphs import block_attention_in_graph
from trainer.models.attention.block_grids import Task, attend, differentiate
from trainer.models.attention.pairs import Pairs
from trainer.models.attention.score_bias import ScoreBias
from trainer.models.blocks.autograd import AutogradContext
from trainer.models.blocks.dropout import Dropout


def block_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pairs: Pairs,
    *,
    scale: float,
    bias: ScoreBias | None = None,
    softcap: float | None = None,
    dropout: Dropout | None = None,
    dropout_keys: Tensor | None = None,
) -> Tensor:
    """query [Tq, H, C], key and value [Tk, H, C] -> [Tq, H, C].

    `bias` is added to the scores; with `softcap` c, a score s becomes c tanh(s / c). Dropout masks
    are hashes of `dropout_keys` [Tq] or, without these, of random keys. The backward pass
    recomputes the probabilities (Dao et al., 2022).
    """
    active = dropout is not None and dropout.active
    if active and dropout_keys is None:
        lowest, highest, places = -(1 << 31), 1 << 31, query.shape[:1]
        dropout_keys = torch.randint(
            lowest, highest, places, dtype=torch.int32, device=query.device
        )
    task = Task(pairs, scale, bias, softcap, dropout if active else None, dropout_keys)
    if torch.compiler.is_compiling():
        return block_attention_in_graph(query, key, value, task)
    tables = () if bias is None else bias.tables
    found: Tensor = _BlockAttention.apply(query, key, value, task, *tables)
    return found


class _BlockAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: AutogradContext,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        task: Task,
        *tables: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(query, key, value, *tables)
        ctx.task = task
        return attend(query, key, value, task)

    @staticmethod
    @once_differentiable
    def backward(ctx: AutogradContext, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *_ = ctx.saved_tensors
        found = differentiate(grad, query, key, value, ctx.task)
        return *found[:3], None, *found[3:]
