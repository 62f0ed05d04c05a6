"""Attention in blocks of queries as one operation of a compiled graph.

Its arguments are tensors and numbers, from which the operation rebuilds layouts, bias and dropout.
"""

from typing import Any

import torch
from torch import Tensor

from trainer.models.attention.block_grids import Task, attend, differentiate
from trainer.models.attention.disentangled_bias import DisentangledBias
from trainer.models.attention.pairs import Pairs
from trainer.models.attention.score_bias import DistanceBias, ScoreBias
from trainer.models.blocks.autograd import AutogradContext
from trainer.models.blocks.dropout import Dropout
from trainer.models.grid_layout import GridLayout
from trainer.models.packing import Layout

BIASES: dict[str, type[ScoreBias]] = {
    kind.__name__: kind for kind in (DistanceBias, DisentangledBias)
}


def block_attention_in_graph(query: Tensor, key: Tensor, value: Tensor, task: Task) -> Tensor:
    """`block_attention` while a graph is traced."""
    pairs, bias, dropout = task.pairs, task.bias, task.dropout
    assert pairs.window is None or not pairs.keys.has_gaps, "padded calls are traced as grids"
    return _in_graph(
        query,
        key,
        value,
        [] if bias is None else list(bias.tables),
        pairs.queries.lengths,
        pairs.keys.lengths,
        pairs.keys.visible,
        pairs.find_mask(),
        task.dropout_keys,
        task.scale,
        pairs.causal,
        -1 if pairs.window is None else pairs.window,
        task.softcap or 0.0,
        0.0 if dropout is None else dropout.p,
        0 if dropout is None else dropout.site,
        "" if bias is None else type(bias).__name__,
        [] if bias is None else bias.numbers,
    )


@torch.library.custom_op("tempering::attention_blocks", mutates_args=())
def _in_graph(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tables: list[Tensor],
    query_lengths: Tensor,
    key_lengths: Tensor,
    visible: Tensor | None,
    mask: Tensor | None,
    dropout_keys: Tensor | None,
    scale: float,
    causal: bool,
    window: int,
    softcap: float,
    dropout: float,
    site: int,
    bias: str,
    bias_numbers: list[int],
) -> Tensor:
    """`attend` with a task of these arguments; window -1 and cap 0 mean none.

    The lengths [B] are on the CPU; `mask` is the result of `Pairs.find_mask`.
    """
    tensors = tables, query_lengths, key_lengths, visible, mask, dropout_keys
    arguments = *tensors, scale, causal, window, softcap, dropout, site, bias, bias_numbers
    return attend(query, key, value, _task(query.device, *arguments))


@torch.library.custom_op("tempering::attention_blocks_backward", mutates_args=())
def _in_graph_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tables: list[Tensor],
    query_lengths: Tensor,
    key_lengths: Tensor,
    visible: Tensor | None,
    mask: Tensor | None,
    dropout_keys: Tensor | None,
    scale: float,
    causal: bool,
    window: int,
    softcap: float,
    dropout: float,
    site: int,
    bias: str,
    bias_numbers: list[int],
) -> list[Tensor]:
    tensors = tables, query_lengths, key_lengths, visible, mask, dropout_keys
    arguments = *tensors, scale, causal, window, softcap, dropout, site, bias, bias_numbers
    return differentiate(grad, query, key, value, _task(query.device, *arguments))


def _task(
    device: torch.device,
    tables: list[Tensor],
    query_lengths: Tensor,
    key_lengths: Tensor,
    visible: Tensor | None,
    mask: Tensor | None,
    dropout_keys: Tensor | None,
    scale: float,
    causal: bool,
    window: int,
    softcap: float,
    p: float,
    site: int,
    bias: str,
    bias_numbers: list[int],
) -> Task:
    """The task that the operation's arguments describe."""
    keys = Layout(key_lengths, device, visible=visible)
    if mask is not None:
        keys = GridLayout(key_lengths, device, int(key_lengths[0]), pairs=mask)
    same = query_lengths.equal(key_lengths)
    queries = keys if same else Layout(query_lengths, device)
    dropout = Dropout(p)
    dropout.site = site
    return Task(
        Pairs(queries, keys, causal, None if window < 0 else window),
        scale,
        BIASES[bias].rebuilt(tables, bias_numbers) if bias else None,
        softcap or None,
        dropout if p else None,
        dropout_keys,
    )


@_in_graph.register_fake
def _(query: Tensor, *_: object) -> Tensor:
    return query.new_empty(query.shape)


@_in_graph_backward.register_fake
def _(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, tables: list[Tensor], *_: object
) -> list[Tensor]:
    return [x.new_empty(x.shape) for x in (query, key, value, *tables)]


def _save(ctx: AutogradContext, inputs: tuple[Any, ...], output: Tensor) -> None:
    query, key, value, tables, *tensors = inputs[:9]
    ctx.arguments, ctx.num_tables = inputs[9:], len(tables)
    ctx.save_for_backward(query, key, value, *tables, *tensors)


def _differentiate(ctx: AutogradContext, grad: Tensor) -> tuple[Any, ...]:
    (query, key, value, *saved), number = ctx.saved_tensors, ctx.num_tables
    tables, tensors = saved[:number], saved[number:]
    found = _in_graph_backward(grad, query, key, value, tables, *tensors, *ctx.arguments)
    numbers = None if ctx.arguments[-1] else found[:0]  # torch treats [] as a list of tensors
    return *found[:3], found[3:], *(None,) * 12, numbers


_in_graph.register_autograd(_differentiate, setup_context=_save)
