"""The varlen branch of attention with real numbers: torch's kernels, emulated on a CPU."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.attention.varlen  # noqa: F401  defines the operators
from torch import Tensor
from torch.library import Library

from trainer.models.attention import grouped_attention
from trainer.models.attention import self_attention as attention
from trainer.models.attention.grouped_attention import GroupedAttention
from trainer.models.attention.self_attention import AttentionCore
from trainer.models.packing import Layout

LENGTHS = [100, 3, 1, 40, 77]
HALVES = (torch.float16, torch.bfloat16)
ROUNDING = {torch.bfloat16: 0.02, torch.float16: 0.004}
"""The largest relative error of half precision against float64, by norm."""


def pairs(ends: Tensor, left: int, right: int) -> Tensor:
    """[T, T] bool, whether a token sees another in its sequence and window."""
    total = int(ends[-1])
    row = torch.arange(total)
    sequence = torch.bucketize(row, ends[1:].long(), right=True)
    away = row.unsqueeze(1) - row
    seen = sequence.unsqueeze(1) == sequence
    seen &= (away <= left) if left >= 0 else seen
    return seen & (away >= -right) if right >= 0 else seen


def by_head(query: Tensor, *shared: Tensor) -> list[Tensor]:
    """[T, heads, C] each -> float64 [H, T, C]; key heads repeated for the query heads of each."""
    repeats = [query.shape[1] // x.shape[1] for x in (query, *shared)]
    parts = zip((query, *shared), repeats, strict=True)
    return [x.double().repeat_interleave(n, 1).transpose(0, 1) for x, n in parts]


def probabilities(q: Tensor, k: Tensor, seen: Tensor, scale: float) -> Tensor:
    """[H, T, T]"""
    return (q @ k.transpose(1, 2) * scale).masked_fill(~seen, -torch.inf).softmax(-1)


def check(query: Tensor, key: Tensor, value: Tensor, ends: Tensor, longest: int) -> None:
    """The conditions that the CUDA kernel checks, or silently requires."""
    assert query.dtype == key.dtype == value.dtype and query.dtype in HALVES
    assert query.shape[2] % 8 == 0 and query.shape[2] <= 256
    assert query.shape[1] % key.shape[1] == 0 and key.shape == value.shape
    assert all(x.dim() == 3 and x.stride(2) == 1 for x in (query, key, value))
    assert ends.dtype == torch.int32 and ends.is_contiguous() and ends.dim() == 1
    assert int(ends[0]) == 0 and int(ends[-1]) == len(query) == len(key)
    assert int(ends.diff().max()) == longest and int(ends.diff().min()) > 0


def forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ends: Tensor,
    key_ends: Tensor,
    longest: int,
    longest_key: int,
    dropout: float,
    causal: bool,
    return_debug_mask: bool,
    *,
    scale: float | None = None,
    window_size_left: int | None = None,
    window_size_right: int | None = None,
    **_: Any,
) -> tuple[Tensor, ...]:
    """aten::_flash_attention_forward over flat sequences."""
    assert dropout == 0 and longest == longest_key and torch.equal(ends, key_ends)
    check(query, key, value, ends, longest)
    left = -1 if window_size_left is None else window_size_left
    right = 0 if causal else -1 if window_size_right is None else window_size_right
    factor = query.shape[2] ** -0.5 if scale is None else scale
    q, k, v = by_head(query, key, value)
    weights = probabilities(q, k, pairs(ends, left, right), factor)
    out = (weights @ v).transpose(0, 1).to(query.dtype).contiguous()
    CALLS.append((left, right))
    logsumexp = query.new_zeros(query.shape[1], len(query), dtype=torch.float32)
    state = torch.zeros(2, dtype=torch.uint64)
    return out, logsumexp, state, torch.zeros((), dtype=torch.uint64), query.new_empty(0)


def backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    ends: Tensor,
    key_ends: Tensor,
    longest: int,
    longest_key: int,
    dropout: float,
    causal: bool,
    state: Tensor,
    unused: Tensor,
    *,
    scale: float | None = None,
    window_size_left: int | None = None,
    window_size_right: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """aten::_flash_attention_backward over flat sequences."""
    check(query, key, value, ends, longest)
    assert grad.dtype == out.dtype == query.dtype and grad.shape == out.shape == query.shape
    assert grad.stride(2) == 1 and logsumexp.shape == (query.shape[1], len(query))
    left = -1 if window_size_left is None else window_size_left
    right = 0 if causal else -1 if window_size_right is None else window_size_right
    factor = query.shape[2] ** -0.5 if scale is None else scale
    q, k, v, upstream = by_head(query, key, value, grad)
    weights = probabilities(q, k, pairs(ends, left, right), factor)
    along = upstream @ v.transpose(1, 2)
    scores = weights * (along - (along * weights).sum(-1, keepdim=True)) * factor
    found = scores @ k, scores.transpose(1, 2) @ q, weights.transpose(1, 2) @ upstream
    return tuple(  # type: ignore[return-value]
        x.transpose(0, 1).unflatten(1, (like.shape[1], -1)).sum(2).to(like.dtype)
        for x, like in zip(found, (query, key, value), strict=True)
    )


CALLS: list[tuple[int, int]] = []


@pytest.fixture(scope="module")
def kernels() -> Iterator[None]:
    """Provide torch's flash kernels on this CPU for the tests of this file."""
    library = Library("aten", "IMPL")
    library.impl("_flash_attention_forward", forward, "CPU")
    library.impl("_flash_attention_backward", backward, "CPU")
    yield
    library._destroy()


@pytest.fixture
def varlen_on_cpu(kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make attention take the varlen branch, as in half precision on a GPU."""
    for module in (attention, grouped_attention):
        monkeypatch.setattr(module, "choose_path", lambda *_, **__: "varlen")
    CALLS.clear()


def core_of(heads: int, key_heads: int, window: int | None, causal: bool) -> Any:
    if causal:
        return GroupedAttention(heads, key_heads, 16, dropout=0.0, window=window)
    return AttentionCore(heads * 16, heads, dropout=0.0)


def attended(core: Any, parts: list[Tensor], window: int | None, compiled: bool) -> list[Tensor]:
    """Context and gradients of query, key and value [T, heads x channels], in float64."""
    parts = [part.detach().requires_grad_() for part in parts]
    layout = Layout(torch.tensor(LENGTHS), torch.device("cpu"))

    def call(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if isinstance(core, GroupedAttention):
            return core.attend(query, key, value, layout, None, None, False)[0]
        return core.attend(query, key, value, layout, None, False, window=window)[0]

    run = torch.compile(call, backend="aot_eager") if compiled else call
    context = run(*parts)
    upstream = torch.linspace(-1, 1, context.numel(), dtype=torch.float64).view_as(context)
    found = torch.autograd.grad(context, parts, upstream.to(context.dtype))
    return [x.detach().double() for x in (context, *found)]


CASES = [
    (6, 6, None, False),
    (6, 6, 5, False),
    (6, 6, None, True),
    (6, 2, 5, True),
    (6, 2, None, True),
    (4, 1, 64, True),
]


@pytest.mark.parametrize(
    ("heads", "key_heads", "window", "causal", "compiled"),
    [(*case, False) for case in CASES] + [(*case, True) for case in CASES[1:4]],
)
def test_the_varlen_branch_computes_what_the_plain_one_does(
    heads: int,
    key_heads: int,
    window: int | None,
    causal: bool,
    compiled: bool,
    varlen_on_cpu: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dtype = torch.float16 if heads == 4 else torch.bfloat16
    core = core_of(heads, key_heads, window, causal)
    torch.manual_seed(0)
    parts = [torch.randn(sum(LENGTHS), n * 16).to(dtype) for n in (heads, key_heads, key_heads)]
    found = attended(core, parts, window, compiled)
    right = 0 if causal else -1 if window is None else window
    assert CALLS and set(CALLS) == {(-1 if window is None else window, right)}
    monkeypatch.undo()
    wanted = attended(core, [part.double() for part in parts], window, compiled=False)
    for one, reference in zip(found, wanted, strict=True):
        assert (one - reference).norm() <= ROUNDING[dtype] * reference.norm()


@pytest.mark.parametrize("family", ["bert", "modernbert", "gpt2", "qwen3"])
def test_a_model_learns_the_same_through_the_varlen_branch(
    family: str, varlen_on_cpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients of a whole model under autocast, against those of float64 without it."""
    from tests.cuda.models import WITHOUT_ATTENTION_DROPOUT, batch_of, config_of, head_of
    from trainer.models.auto import TASKS

    torch.manual_seed(0)
    entries = {**WITHOUT_ATTENTION_DROPOUT[family]}
    model = TASKS[head_of(family)].from_config(config_of(family, **entries)).eval()
    batch = batch_of([30, 5, 17])

    def gradients() -> Tensor:
        model.zero_grad()
        outputs = model(**batch.inputs())
        outputs.logits.float().square().mean().backward()
        return torch.cat(
            [p.grad.flatten().double() for p in model.parameters() if p.grad is not None]
        )

    with torch.autocast("cpu", torch.bfloat16):
        found = gradients()
    assert CALLS
    monkeypatch.undo()
    model.double()
    wanted = gradients()
    assert (found - wanted).norm() <= 0.03 * wanted.norm()
