"""The kernels that attention runs on each generation of GPUs, for each dtype and head shape."""

import pytest
import torch
from torch.nn.attention import varlen

from tests.cuda.device import CUDA, Device, Trace
from trainer.models.attention.cross_attention import CrossAttention
from trainer.models.attention.grouped_attention import GroupedAttention
from trainer.models.attention.pairs import Pairs
from trainer.models.attention.self_attention import AttentionCore
from trainer.models.packing import Layout

LENGTHS = [100, 3, 40, 200]
HALVES = (torch.float16, torch.bfloat16)


def attended(
    device: Device, dtype: torch.dtype, heads: int, key_heads: int, channels: int, **options: object
) -> Trace:
    """Attention forward and backward over LENGTHS; `options`: causal and window."""
    causal, window = options.get("causal", True), options.get("window")
    layout = Layout(torch.tensor(LENGTHS), CUDA)
    parts = [
        torch.ones(sum(LENGTHS), n * channels, dtype=dtype, device=CUDA, requires_grad=True)
        for n in (heads, key_heads, key_heads)
    ]
    with device.traced() as trace:
        if causal:
            core = GroupedAttention(heads, key_heads, channels, dropout=0.0, window=window)
            context, _ = core.attend(*parts, layout, None, None, False)
        else:
            both = AttentionCore(heads * channels, heads, dropout=0.0)
            context, _ = both.attend(*parts, layout, None, False, window=window)
        assert context.dtype == dtype
        context.sum().backward()
    assert all(part.grad.dtype == dtype for part in parts)
    return trace


@pytest.mark.parametrize("capability", [(7, 0), (7, 5), (8, 0), (9, 0)])
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize(
    ("heads", "key_heads", "causal"), [(6, 6, False), (6, 6, True), (6, 2, True)]
)
def test_no_gpu_holds_the_scores_of_all_heads(
    capability: tuple[int, int],
    dtype: torch.dtype,
    window: int | None,
    heads: int,
    key_heads: int,
    causal: bool,
) -> None:
    """The varlen kernel if there is one, else the memory-efficient one, for all shapes."""
    for channels in (32, 20):
        with Device(capability) as device:
            options = {"causal": causal, "window": window}
            trace = attended(device, dtype, heads, key_heads, channels, **options)
        varlen = capability >= (8, 0) and dtype in HALVES and channels % 8 == 0
        assert bool(trace.launches["_varlen_attn"]) == varlen
        assert bool(trace.launches["_varlen_attn_backward"]) == varlen
        longest, batch = max(LENGTHS), len(LENGTHS)
        assert trace.largest < batch * heads * longest * longest / 2, trace.launches
        assert not trace.waits and trace.copies.total() <= 2


def test_the_varlen_kernel_is_called_as_torch_2_11_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no argument enable_gqa, and takes grouped heads directly."""
    from trainer.models.attention import fused_attention

    calls = []

    def older(
        query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)
    ):
        calls.append((query.shape[1], key.shape[1], window_size, cu_seq_q.dtype))
        return torch.empty_like(query)

    monkeypatch.setattr(varlen, "varlen_attn", older)
    fused_attention._grouping.cache_clear()
    try:
        with Device() as device:
            parts = [torch.ones(343, n * 32, dtype=HALVES[0], device=CUDA) for n in (6, 2, 2)]
            core = GroupedAttention(6, 2, 32, dropout=0.0, window=5)
            core.attend(*parts, Layout(torch.tensor(LENGTHS), CUDA), None, None, False)
            assert not device.trace.waits
    finally:
        fused_attention._grouping.cache_clear()
    assert calls == [(6, 2, (5, 0), torch.int32)]


@pytest.mark.parametrize("kind", ["mps", "xpu"])
def test_devices_of_other_makers_get_masks_of_their_own(kind: str) -> None:
    """Decoders once used the CPU's blocks there, whose mask is on the CPU."""
    other = torch.device(kind, 0)
    with Device() as device, device.fake:
        parts = [torch.ones(343, n * 32, device=other) for n in (6, 2, 2)]
        core = GroupedAttention(6, 2, 32, dropout=0.0, window=5)
        context, _ = core.attend(*parts, Layout(torch.tensor(LENGTHS), other), None, None, False)
        assert context.device == other


@pytest.mark.parametrize("biased", [False, True], ids=["plain", "biased"])
@pytest.mark.parametrize("dropout", [0.0, 0.1], ids=["calm", "dropping"])
def test_attention_to_another_batch_never_holds_all_scores(biased: bool, dropout: float) -> None:
    """Torch's kernel if it supports the case, else blocks of queries; the host never waits."""
    keys = [50, 200, 7, 33]
    with Device() as device:
        pairs = Pairs(Layout(torch.tensor(LENGTHS), CUDA), Layout(torch.tensor(keys), CUDA))
        query, key, value = (
            torch.ones(n, 6 * 32, dtype=torch.bfloat16, device=CUDA, requires_grad=True)
            for n in (sum(LENGTHS), sum(keys), sum(keys))
        )
        bias = torch.ones(6, 2 * 200 - 1, device=CUDA, requires_grad=True) if biased else None
        attention = CrossAttention(6, 32, dropout=dropout)
        with device.traced() as trace:
            context, _ = attention.attend(query, key, value, pairs, bias=bias)
            context.sum().backward()
    assert context.dtype == query.grad.dtype == value.grad.dtype == torch.bfloat16
    assert not biased or bias.grad.shape == bias.shape
    kernel = not biased and not dropout
    assert bool(trace.launches["_varlen_attn"]) == kernel
    assert trace.largest < 6 * 200 * 200
    assert not trace.waits
