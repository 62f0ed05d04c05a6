"""Attention over grids of similar lengths: the numbers, gradients and masks of one grid for all."""

from typing import Any

import pytest
import torch
from torch import Tensor

from trainer.models import attention, grids, grouped_attention
from trainer.models.attention import AttentionCore
from trainer.models.dropout import Dropout
from trainer.models.grids import is_split_by_length
from trainer.models.grouped_attention import GroupedAttention
from trainer.models.packing import Layout

CPU = torch.device("cpu")
LENGTHS = [40, 3, 1, 70, 66, 2, 100, 35]
KINDS = ["both ways", "causal", "causal, grouped"]


def layout_of(hidden: bool = False, gaps: bool = False) -> Layout:
    """LENGTHS, perhaps in a padded call with tokens that nobody sees, or with pads between them."""
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


def always_split(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (attention, grouped_attention):
        monkeypatch.setattr(module, "is_split_by_length", lambda layout, num_heads: True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("hidden", [False, True], ids=["all seen", "some hidden"])
@pytest.mark.parametrize("gaps", [False, True], ids=["dense", "with gaps"])
def test_groups_give_the_numbers_and_gradients_of_one_grid(monkeypatch, kind, window, hidden, gaps):
    """In float64, with dropout: another mask in one place would be seen."""
    torch.manual_seed(0)
    core, heads = core_of(kind, 0.3, window)
    parts = [
        torch.randn(sum(LENGTHS), n * 8, dtype=torch.float64, requires_grad=True) for n in heads
    ]
    upstream = torch.randn(sum(LENGTHS), 32, dtype=torch.float64)
    wanted = attended(core, parts, layout_of(hidden, gaps), window)
    always_split(monkeypatch)
    layout = layout_of(hidden, gaps)
    found = attended(core, parts, layout, window)
    assert len(layout.by_length.layouts) > 3
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(out, parts, upstream) for out in (found, wanted)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_masks_are_those_of_one_grid_bit_for_bit(monkeypatch, kind):
    """Every mask that is drawn, brought back to the whole grid."""
    core, heads = core_of(kind, 0.5, None)
    parts = [torch.zeros(sum(LENGTHS), n * 8) for n in heads]
    drawn: list[Tensor] = []
    mask = Dropout.mask
    monkeypatch.setattr(
        Dropout, "mask", lambda *inputs: drawn.append(mask(*inputs).bool()) or mask(*inputs)
    )
    attended(core, parts, layout_of(), None)
    (whole,) = drawn
    drawn.clear()
    always_split(monkeypatch)
    layout = layout_of()
    attended(core, parts, layout, None)
    sequences = torch.cat(layout._similar_lengths())
    masks = [grid for group in drawn for grid in group]
    assert len(masks) == len(LENGTHS) and len(drawn) > 3
    for sequence, grid in zip(sequences.tolist(), masks, strict=True):
        length = LENGTHS[sequence]
        assert torch.equal(grid[:, :length, :length], whole[sequence, :, :length, :length])


def test_parts_hold_every_token_once_and_little_else():
    layout = layout_of(hidden=True, gaps=True)
    parts = layout.by_length
    rows = torch.arange(layout.num_tokens)
    assert torch.equal(parts.join(parts.split(rows)), rows)
    cells = sum(part.num_sequences * part.longest**2 for part in parts.layouts)
    assert cells < 2 * sum(n**2 for n in LENGTHS) < len(LENGTHS) * max(LENGTHS) ** 2
    for name in ("cells", "visible"):
        found = torch.cat([getattr(part, name) for part in parts.layouts])
        assert torch.equal(parts.join([found]), getattr(layout, name))


def test_which_batches_are_split(monkeypatch):
    """None on a CPU, and elsewhere none whose scores are few or whose lengths are similar."""
    monkeypatch.setattr(grids, "FEW_SCORES", 1000)
    assert not is_split_by_length(layout_of(), 4)
    meta = torch.device("meta")
    assert is_split_by_length(Layout(torch.tensor(LENGTHS), meta), 4)
    assert not is_split_by_length(Layout(torch.tensor([9, 9]), meta), 4)
    assert not is_split_by_length(Layout(torch.tensor([100, 90]), meta), 4)
    assert not is_split_by_length(Layout(torch.tensor([20, 3]), meta), 1)
