"""Attention on a GPU: kernels and grids agree with each other and the CPU, with gradients."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from trainer.models.attention import grids, grouped_attention
from trainer.models.attention import self_attention as attention
from trainer.models.attention.grouped_attention import GroupedAttention
from trainer.models.attention.self_attention import AttentionCore
from trainer.models.packing import Layout

pytestmark = pytest.mark.gpu
LENGTHS = [100, 3, 1, 40, 77, 90, 200]
CHANNELS = 32
CASES = {
    "bidirectional": (6, 6, None),
    "bidirectional, window": (6, 6, 5),
    "causal": (6, 6, None),
    "causal, window": (6, 6, 5),
    "causal, 3 heads a key": (6, 2, None),
    "causal, 3 heads a key, window": (6, 2, 64),
}
"""Query heads, key heads, window."""
FAR = {torch.bfloat16: 0.02, torch.float16: 0.004}
"""The largest relative error of rounding: some units in the last place."""


@pytest.fixture
def paths(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Records the paths that attention takes."""
    taken: list[str] = []
    for module in (attention, grouped_attention):

        def watched(
            *args: Any, usual: Callable[..., str] = module.choose_path, **facts: Any
        ) -> str:
            taken.append(usual(*args, **facts))
            return taken[-1]

        monkeypatch.setattr(module, "choose_path", watched)
    return taken


def attended(name: str, parts: list[Tensor], dropout: float = 0.0) -> list[Tensor]:
    """Context and gradients of query, key and value [T, heads x channels], on the CPU."""
    heads, key_heads, window = CASES[name]
    parts = [part.detach().requires_grad_() for part in parts]
    layout = Layout(torch.tensor(LENGTHS), parts[0].device)
    keys = torch.arange(layout.num_tokens, dtype=torch.int32, device=layout.device) * 7919
    if name.startswith("causal"):
        core = GroupedAttention(heads, key_heads, CHANNELS, dropout=dropout, window=window)
        context, _ = core.attend(*parts, layout, None, keys, False)
    else:
        bidirectional = AttentionCore(heads * CHANNELS, heads, dropout=dropout)
        context, _ = bidirectional.attend(*parts, layout, keys, False, window=window)
    torch.manual_seed(1)
    upstream = torch.randn(context.shape, dtype=torch.float64).to(context)
    return [
        x.detach().double().cpu() for x in (context, *torch.autograd.grad(context, parts, upstream))
    ]


@pytest.mark.parametrize("dtype", FAR, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_the_kernel_agrees_with_sdpa_and_with_the_cpu(
    name: str, dtype: torch.dtype, paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("the varlen kernel needs an Ampere GPU")
    heads, key_heads, _ = CASES[name]
    torch.manual_seed(0)
    halves = [
        torch.randn(sum(LENGTHS), n * CHANNELS).to(dtype) for n in (heads, key_heads, key_heads)
    ]
    wanted = attended(name, [half.double() for half in halves])
    devices = [half.cuda() for half in halves]
    by_kernel = attended(name, devices)
    for module in (attention, grouped_attention):
        monkeypatch.setattr(module, "fits_varlen_kernel", lambda *_: False)
    by_sdpa = attended(name, devices)
    assert paths[1:] == ["varlen", "sdpa"]
    for kernel, sdpa, reference in zip(by_kernel, by_sdpa, wanted, strict=True):
        assert (kernel - reference).norm() <= FAR[dtype] * reference.norm()
        assert (sdpa - reference).norm() <= FAR[dtype] * reference.norm()


@pytest.mark.parametrize("name", CASES)
def test_dropout_over_groups_of_lengths_is_that_over_one_grid(
    name: str, paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In cases without a Triton kernel, such as float64 on any GPU."""
    monkeypatch.setenv("TEMPERING_TRITON", "0")
    heads, key_heads, _ = CASES[name]
    torch.manual_seed(0)
    parts = [
        torch.randn(sum(LENGTHS), n * CHANNELS, dtype=torch.float64, device="cuda")
        for n in (heads, key_heads, key_heads)
    ]
    found = {}
    for few_scores in (1 << 62, 0):
        monkeypatch.setattr(grids, "FEW_SCORES", few_scores)
        found[few_scores] = attended(name, parts, dropout=0.3)
    assert paths == ["plain", "plain"]
    for groups, one in zip(found[0], found[1 << 62], strict=True):
        torch.testing.assert_close(groups, one, rtol=1e-12, atol=1e-12)
