"""Causal attention: the choice of path, and that all paths give the same numbers."""

from math import prod

import pytest
import torch
import torch.nn.functional as F

from trainer.models.attention import causal_attention
from trainer.models.attention.grouped_attention import GroupedAttention, choose_path
from trainer.models.packing import Layout

CALM = {
    "fits_varlen": True,
    "fits_flash": True,
    "dropping": False,
    "weights_wanted": False,
    "own_mask": False,
}
RAGGED = [100, 3, 1, 40, 77, 90, 200]


@pytest.mark.parametrize(
    ("device", "dtype", "facts", "path"),
    [
        ("cpu", torch.float32, {}, "blocks"),
        ("cpu", torch.bfloat16, {"fits_varlen": False}, "blocks"),
        ("cpu", torch.float32, {"dropping": True, "fits_flash": False}, "plain"),
        ("cpu", torch.float32, {"weights_wanted": True}, "plain"),
        ("cpu", torch.float32, {"own_mask": True}, "plain"),
        ("cuda", torch.bfloat16, {}, "varlen"),
        ("cuda", torch.float32, {}, "sdpa"),
        ("cuda", torch.bfloat16, {"fits_varlen": False}, "sdpa"),
        ("cuda", torch.bfloat16, {"dropping": True}, "flash"),
        ("cuda", torch.bfloat16, {"dropping": True, "fits_flash": False}, "plain"),
        ("cuda", torch.bfloat16, {"dropping": True, "weights_wanted": True}, "plain"),
        ("cuda", torch.bfloat16, {"own_mask": True}, "sdpa"),
        ("mps", torch.float16, {}, "sdpa"),
        ("xpu", torch.bfloat16, {}, "sdpa"),
    ],
)
def test_the_path_is_a_function_of_plain_facts(device, dtype, facts, path):
    assert choose_path(device, dtype, **{**CALM, **facts}) == path


def one_by_one(query, key, value, lengths, window):
    """[T, H, C], torch's attention over each sequence, with an explicit mask."""
    parts = []
    for q, k, v in zip(*(x.split(lengths) for x in (query, key, value)), strict=True):
        places = torch.arange(len(q))
        before = places.unsqueeze(1) - places
        seen = (before >= 0) & (before <= (len(q) if window is None else window))
        q, k, v = (x.transpose(0, 1) for x in (q, k, v))
        out = F.scaled_dot_product_attention(q[None], k[None], v[None], seen, enable_gqa=True)
        parts.append(out[0].transpose(0, 1))
    return torch.cat(parts)


@pytest.mark.parametrize("window", [None, 0, 3, 150])
@pytest.mark.parametrize(("heads", "key_heads"), [(6, 2), (4, 4), (3, 1)])
@pytest.mark.parametrize("lengths", [[7, 7, 7], RAGGED, [5]], ids=["equal", "ragged", "one"])
def test_all_paths_agree_with_gradients(monkeypatch, lengths, heads, key_heads, window):
    """In blocks of 4 and of 128 queries, on the plain path, by SDPA over a grid."""
    torch.manual_seed(0)
    layout = Layout(torch.tensor(lengths), torch.device("cpu"))
    parts = [
        torch.randn(sum(lengths), n, 8, dtype=torch.float64, requires_grad=True)
        for n in (heads, key_heads, key_heads)
    ]
    upstream = torch.randn(sum(lengths), heads, 8, dtype=torch.float64)
    core = GroupedAttention(heads, key_heads, 8, dropout=0.0, window=window)
    flat = [part.flatten(1) for part in parts]

    def by_blocks(size):
        monkeypatch.setattr(causal_attention, "BLOCK", size)
        return core.attend(*flat, layout, None, None, False)[0].view_as(upstream)

    wanted = one_by_one(*parts, lengths, window)
    gradients = torch.autograd.grad(wanted, parts, upstream, retain_graph=True)
    plain, weights = core.attend(*flat, layout, None, None, True)
    torch.testing.assert_close(
        weights[0, :, : lengths[0]].sum(-1), torch.ones(heads, lengths[0]).double()
    )
    ways = [plain.view_as(upstream), by_blocks(4), by_blocks(128), core._sdpa(*parts, layout)]
    for found in ways:
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
        ours = torch.autograd.grad(found, parts, upstream, retain_graph=True)
        for gradient, reference in zip(ours, gradients, strict=True):
            torch.testing.assert_close(gradient, reference, rtol=1e-9, atol=1e-12)


def test_groups_hold_every_token_once_and_little_else():
    layout = Layout(torch.tensor(RAGGED), torch.device("cpu"))
    seen = torch.zeros(layout.num_tokens, dtype=torch.int64)
    for group in layout.length_groups:
        group.put(seen, group.take(seen) + 1)
    assert seen.eq(1).all()
    cells = sum(prod(group.shape) for group in layout.length_groups)
    assert layout.num_tokens <= cells < 1.3 * layout.num_tokens
    equal = Layout(torch.tensor([4, 4]), torch.device("cpu")).length_groups
    assert [group.shape for group in equal] == [(2, 4)]


@pytest.mark.gpu
@pytest.mark.parametrize("window", [None, 5])
def test_the_varlen_kernel_agrees_with_the_blocks(window):
    torch.manual_seed(0)
    core = GroupedAttention(6, 2, 64, dropout=0.0, window=window)
    parts = [torch.randn(sum(RAGGED), n * 64) for n in (6, 2, 2)]
    layout = Layout(torch.tensor(RAGGED), torch.device("cpu"))
    wanted, _ = core.attend(*parts, layout, None, None, False)
    halves = [part.cuda().bfloat16().requires_grad_() for part in parts]
    layout = Layout(torch.tensor(RAGGED), halves[0].device)
    found, _ = core.attend(*halves, layout, None, None, False)
    assert (found.cpu().float() - wanted).norm() / wanted.norm() < 0.02
    found.sum().backward()
    assert all(half.grad.isfinite().all() for half in halves)
