"""Attention from one flat batch to another equals torch's attention, in any grouping."""

import pytest
import torch
import torch.nn.functional as F

from trainer.models.attention import block_grids as blocks
from trainer.models.attention.cross_attention import CrossAttention
from trainer.models.attention.pairs import Pairs
from trainer.models.blocks.dropout_hash import head_keys
from trainer.models.blocks.relative_bias import RelativeBias
from trainer.models.packing import Layout

CPU = torch.device("cpu")
HEADS, CHANNELS = 3, 4
RAGGED = ([5, 1, 40, 7, 33], [3, 9, 2, 61, 33])
CASES = {
    "cross": (*RAGGED, False),
    "itself": ([5, 40, 1], [5, 40, 1], False),
    "causal": ([5, 40, 1], [5, 40, 1], True),
    "new tokens behind others": ([1, 4, 2, 1], [9, 40, 3, 1], True),
    "equal lengths": ([4, 4], [6, 6], False),
}


def sdpa(query, key, value, pairs, scale, bias):
    """[Tq, H, C], by torch's attention, one sequence at a time."""
    found = []
    keys, visible = key.split(pairs.keys.lengths.tolist()), pairs.keys.visible
    values = value.split(pairs.keys.lengths.tolist())
    seen = [None] * len(keys) if visible is None else visible.split(pairs.keys.lengths.tolist())
    for q, k, v, shown in zip(
        query.split(pairs.queries.lengths.tolist()), keys, values, seen, strict=True
    ):
        offset = len(k) - len(q) if pairs.causal else 0
        distance = torch.arange(len(k)) - torch.arange(len(q)).unsqueeze(1) - offset
        mask = torch.zeros(HEADS, len(q), len(k), dtype=q.dtype)
        if bias is not None:
            mask = mask + bias[:, distance + pairs.longest - 1]
        if pairs.causal:
            mask = mask.masked_fill(distance > 0, -torch.inf)
        if shown is not None:
            hidden = ~shown & (distance != 0) if pairs.causal else ~shown
            mask = mask.masked_fill(hidden, -torch.inf)
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, mask[None], scale=scale)
        found.append(out[0].transpose(0, 1))
    return torch.cat(found)


def inputs_of(queries, keys):
    torch.manual_seed(0)
    shapes = (sum(queries), sum(keys), sum(keys))
    return [
        torch.randn(n, HEADS, CHANNELS, dtype=torch.float64, requires_grad=True) for n in shapes
    ]


def close(found, wanted):
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours - theirs).norm() <= 1e-12 * theirs.norm()


@pytest.mark.parametrize("size", [4, 128], ids=["many blocks", "one block"])
@pytest.mark.parametrize("biased", [True, False], ids=["biased", "plain"])
@pytest.mark.parametrize("hides", [False, True], ids=["all seen", "some hidden"])
@pytest.mark.parametrize("case", CASES)
def test_it_is_torchs_attention_and_gradients(case, biased, hides, size, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", size)
    queries, keys, causal = CASES[case]
    visible = torch.arange(sum(keys)) % 3 != 2 if hides else None
    layout = Layout(torch.tensor(queries), CPU)
    pairs = Pairs(layout, Layout(torch.tensor(keys), CPU, visible=visible), causal)
    inputs = inputs_of(queries, keys)
    if biased:
        bias = torch.randn(HEADS, 2 * pairs.longest - 1, dtype=torch.float64, requires_grad=True)
        inputs.append(bias)
    attention = CrossAttention(HEADS, CHANNELS, dropout=0.0, scale=0.7)
    flat = [x.flatten(1) for x in inputs[:3]]
    out, _ = attention.attend(*flat, pairs, bias=inputs[3] if biased else None)
    wanted = sdpa(*inputs[:3], pairs, 0.7, inputs[3] if biased else None).flatten(1)
    upstream = torch.randn_like(wanted)
    close([out], [wanted])
    ours = torch.autograd.grad(out, inputs, upstream)
    close(ours, torch.autograd.grad(wanted, inputs, upstream))
    again, weights = attention.attend(
        *flat, pairs, bias=inputs[3] if biased else None, weights_wanted=True
    )
    close([again], [wanted])
    assert weights.shape == (len(queries), HEADS, max(queries), max(keys))
    close(torch.autograd.grad(again, inputs, upstream), ours)


def test_masks_of_dropout_are_the_same_in_every_grouping():
    queries, keys = RAGGED
    pairs = Pairs(Layout(torch.tensor(queries), CPU), Layout(torch.tensor(keys), CPU))
    attention = CrossAttention(HEADS, CHANNELS, dropout=0.4)
    inputs = inputs_of(queries, keys)
    dropout_keys = torch.arange(sum(queries), dtype=torch.int32) * 7919
    flat = [x.flatten(1) for x in inputs]
    together, _ = attention.attend(*flat, pairs, dropout_keys)
    grid, weights = attention.attend(*flat, pairs, dropout_keys, weights_wanted=True)
    close([together], [grid])
    upstream = torch.randn_like(grid)
    close(
        torch.autograd.grad(together, inputs, upstream), torch.autograd.grad(grid, inputs, upstream)
    )
    starts = [0, *torch.tensor(queries).cumsum(0).tolist()], [0, *torch.tensor(keys).cumsum(0)]
    for number in range(len(queries)):
        own, others = (slice(each[number], each[number + 1]) for each in starts)
        alone = Pairs(
            Layout(torch.tensor(queries[number : number + 1]), CPU),
            Layout(torch.tensor(keys[number : number + 1]), CPU),
        )
        parts = flat[0][own], flat[1][others], flat[2][others]
        close([attention.attend(*parts, alone, dropout_keys[own])[0]], [together[own]])
    mask = attention.dropout.mask(weights, head_keys(pairs.queries.to_grid(dropout_keys), HEADS))
    assert not weights[mask == 0].any() and 0.3 < float((mask == 0).double().mean()) < 0.5
    random, _ = attention.attend(*flat, pairs)
    assert not torch.equal(random, together) and torch.isfinite(random).all()
    torch.autograd.grad(random.sum(), inputs)


def test_no_scores_of_all_pairs_are_kept(monkeypatch):
    """The memory kept for the backward pass does not grow with the number of pairs."""
    kept = []
    lengths = torch.tensor([600, 512])
    layout = Layout(lengths, CPU)
    pairs = Pairs(layout, layout)
    inputs = inputs_of([600, 512], [600, 512])
    bias = RelativeBias(HEADS, 32, 128, bidirectional=True).double()
    attention = CrossAttention(HEADS, CHANNELS, dropout=0.1)

    def pack(x):
        kept.append(x.numel())
        return x

    keys = torch.arange(1112, dtype=torch.int32)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        attention.attend(*(x.flatten(1) for x in inputs), pairs, keys, bias=bias(pairs.longest))
    assert max(kept) <= 1112 * HEADS * CHANNELS
    with pytest.raises(ValueError, match="2 sequences of queries, 1 of keys"):
        attention.attend(
            *(x.flatten(1) for x in inputs), Pairs(layout, Layout(torch.tensor([1112]), CPU))
        )
