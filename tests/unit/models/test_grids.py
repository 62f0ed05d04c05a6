"""Attention in blocks of queries: equal to one grid in numbers, gradients and masks."""

from typing import Any

import pytest
import torch
from torch import Tensor

from trainer.models.attention import block_grids, grids, grouped_attention
from trainer.models.attention import self_attention as attention
from trainer.models.attention.grids import is_split_in_blocks
from trainer.models.attention.grouped_attention import GroupedAttention
from trainer.models.attention.self_attention import AttentionCore
from trainer.models.blocks.dropout import Dropout
from trainer.models.grid_layout import GridLayout
from trainer.models.packing import Layout

CPU = torch.device("cpu")
LENGTHS = [40, 3, 1, 70, 66, 2, 100, 35]
KINDS = ["both ways", "causal", "causal, grouped"]


def layout_of(hidden: bool = False, gaps: bool = False) -> Layout:
    """LENGTHS, perhaps in a padded call with masked tokens, or with pads between tokens."""
    lengths, width = torch.tensor(LENGTHS), 120
    if not (hidden or gaps):
        return Layout(lengths, CPU)
    columns = torch.cat([torch.arange(n) + torch.arange(n) // 5 * gaps for n in LENGTHS])
    cells = torch.arange(len(LENGTHS)).repeat_interleave(lengths) * width + columns
    visible = torch.ones(len(cells), dtype=torch.bool)
    visible[::7] = False
    return Layout(lengths, CPU, width, cells, visible if hidden else None, has_gaps=gaps)


def core_of(kind: str, p: float, window: int | None) -> tuple[Any, list[int]]:
    """Attention of 4 heads of 8 channels, and the heads of query, key and value."""
    key_heads = 2 if kind == "causal, grouped" else 4
    core: AttentionCore | GroupedAttention = GroupedAttention(4, key_heads, 8, p, window)
    if kind == "both ways":
        core = AttentionCore(32, 4, p)
    core.dropout.site = 5
    return core.train(), [4, key_heads, key_heads]


def attended(core: Any, parts: list[Tensor], layout: Layout, window: int | None) -> Tensor:
    keys = torch.arange(layout.num_tokens, dtype=torch.int32) * 7919
    if isinstance(core, AttentionCore):
        context = core.attend(*parts, layout, keys, False, window)[0]
    else:
        context = core.attend(*parts, layout, None, keys, False)[0]
    return context


def always_blocks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Compute everything in small blocks; returns a list that gets an entry for each use."""
    tried: list[Any] = []
    monkeypatch.setattr(block_grids, "BLOCK", 32)
    for module in (attention, grouped_attention):
        monkeypatch.setattr(
            module, "is_split_in_blocks", lambda *given: tried.append(given) or True
        )
    return tried


def check_blocks(
    monkeypatch: pytest.MonkeyPatch,
    core: Any,
    heads: list[int],
    layouts: list[Layout],
    window: int | None,
) -> list[Any]:
    """Blocks give the numbers and gradients of one grid in float64; returns uses of blocks."""
    tokens = layouts[0].num_tokens
    parts = [torch.randn(tokens, n * 8, dtype=torch.float64, requires_grad=True) for n in heads]
    upstream = torch.randn(tokens, 32, dtype=torch.float64)
    wanted = attended(core, parts, layouts[0], window)
    tried = always_blocks(monkeypatch)
    found = attended(core, parts, layouts[1], window)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(out, parts, upstream) for out in (found, wanted)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    return tried


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window", [None, 4, 45], ids=["all", "near", "far"])
@pytest.mark.parametrize("hidden", [False, True], ids=["all seen", "some hidden"])
@pytest.mark.parametrize("gaps", [False, True], ids=["dense", "with gaps"])
@pytest.mark.parametrize("equal", [False, True], ids=["ragged", "equal lengths"])
def test_blocks_give_the_numbers_and_gradients_of_one_grid(
    monkeypatch, kind, window, hidden, gaps, equal
):
    """With dropout, and with more queries than fit in one block."""
    torch.manual_seed(0)
    layouts = [layout_of(hidden, gaps) for _ in range(2)]
    if equal:
        layouts = [Layout(torch.full((3,), 70), CPU) for _ in range(2)]
    tried = check_blocks(monkeypatch, *core_of(kind, 0.3, window), layouts, window)
    assert tried or (hidden and not equal and kind != "both ways")


@pytest.mark.parametrize("mask", ["bool", "numbers", "bool of heads", "pads", None])
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("softcap", [None, 0.5])
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_take_the_masks_of_callers_windows_and_caps(
    monkeypatch, kind, softcap, window, mask
):
    torch.manual_seed(0)
    core, heads = core_of(kind, 0.3, window)
    if softcap is not None and kind != "both ways":
        core.softcap = softcap
    batch, length = 3, 70
    pairs = torch.rand(batch if mask == "bool" else 1, 4 if "heads" in str(mask) else 1, 70, 70)
    pairs = {"numbers": pairs, None: None, "pads": None}.get(mask, pairs > 0.5)
    seen = torch.arange(length) < torch.tensor([[70], [9], [33]]) if mask == "pads" else None
    lengths = torch.full((batch,), length)
    layouts = [GridLayout(lengths, CPU, length, seen=seen, pairs=pairs) for _ in range(2)]
    assert check_blocks(monkeypatch, core, heads, layouts, window)


@pytest.mark.parametrize("window", [None, 9])
@pytest.mark.parametrize("kind", KINDS)
def test_masks_are_those_of_one_grid_bit_for_bit(monkeypatch, kind, window):
    """Every mask that is drawn, mapped to the whole grid."""
    core, heads = core_of(kind, 0.5, window)
    parts = [torch.zeros(sum(LENGTHS), n * 8) for n in heads]
    drawn: list[Tensor] = []
    mask = Dropout.mask
    monkeypatch.setattr(
        Dropout, "mask", lambda *inputs: drawn.append(mask(*inputs).bool()) or mask(*inputs)
    )
    attended(core, parts, layout_of(), window)
    (whole,) = drawn
    drawn.clear()
    always_blocks(monkeypatch)
    layout = layout_of()
    attended(core, parts, layout, window)
    blocks = iter(drawn)
    for sequences in layout._similar_lengths():
        longest = max(LENGTHS[n] for n in sequences)
        grid = torch.cat([next(blocks) for _ in range(0, longest, 32)], 2)
        for place, sequence in enumerate(sequences.tolist()):
            length = LENGTHS[sequence]
            ours = grid[place, :, :length, :length]
            assert torch.equal(ours, whole[sequence, :, :length, :length])
    assert len(drawn) > 5 and next(blocks, None) is None


def test_which_batches_are_computed_in_blocks(monkeypatch):
    """Those with many scores, not on a CPU, and not if the caller's mask gets gradients."""
    monkeypatch.setattr(grids, "FEW_SCORES", 1000)
    assert not is_split_in_blocks(layout_of(), 4)
    meta, lengths = torch.device("meta"), torch.tensor([20, 20])
    assert is_split_in_blocks(Layout(lengths, meta), 4)
    assert not is_split_in_blocks(Layout(lengths, meta), 1)
    for trained in (False, True):
        mask = torch.zeros(1, 1, 20, 20, device=meta, requires_grad=trained)
        assert is_split_in_blocks(GridLayout(lengths, meta, 20, pairs=mask), 4) != trained
