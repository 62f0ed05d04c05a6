"""The choice of attention, and that all implementations give the same numbers."""

import pytest
import torch

from trainer.models.attention import self_attention as attention
from trainer.models.attention.self_attention import Attention, AttentionCore, choose_path
from trainer.models.packing import Layout

CALM = {
    "fits_varlen": True,
    "fits_flash": True,
    "dropping": False,
    "weights_wanted": False,
    "hidden_keys": False,
}


@pytest.mark.parametrize(
    ("device", "dtype", "longest", "facts", "path"),
    [
        ("cpu", torch.float32, 64, {}, "plain"),
        ("cpu", torch.bfloat16, 511, {}, "plain"),
        ("cpu", torch.bfloat16, 512, {}, "sdpa"),
        ("cpu", torch.float32, 4096, {"dropping": True, "fits_flash": False}, "plain"),
        ("cpu", torch.float32, 4096, {"weights_wanted": True}, "plain"),
        ("cpu", torch.float32, 4096, {"hidden_keys": True}, "sdpa"),
        ("cuda", torch.bfloat16, 64, {}, "varlen"),
        ("cuda", torch.float16, 4096, {}, "varlen"),
        ("cuda", torch.float32, 64, {}, "sdpa"),
        ("cuda", torch.bfloat16, 64, {"dropping": True}, "flash"),
        ("cuda", torch.bfloat16, 64, {"dropping": True, "fits_flash": False}, "plain"),
        ("cuda", torch.bfloat16, 64, {"dropping": True, "weights_wanted": True}, "plain"),
        ("cuda", torch.bfloat16, 64, {"weights_wanted": True}, "plain"),
        ("cuda", torch.bfloat16, 64, {"hidden_keys": True}, "sdpa"),
        ("cuda", torch.bfloat16, 64, {"fits_varlen": False}, "sdpa"),
        ("mps", torch.float16, 64, {}, "plain"),
    ],
)
def test_the_path_is_a_function_of_plain_facts(device, dtype, longest, facts, path):
    assert choose_path(device, dtype, longest, **{**CALM, **facts}) == path


@pytest.mark.parametrize("hidden", [False, True], ids=["all seen", "one hidden"])
@pytest.mark.parametrize("lengths", [[5, 5], [3, 7, 1]])
def test_sdpa_and_plain_products_agree_with_gradients(monkeypatch, lengths, hidden):
    torch.manual_seed(0)
    layer = Attention(16, 4, dropout=0.0).double()
    lengths = torch.tensor(lengths)
    visible = torch.ones(int(lengths.sum()), dtype=torch.bool)
    visible[0] = not hidden
    layout = Layout(lengths, torch.device("cpu"), visible=visible if hidden else None)
    x = torch.randn(len(visible), 16, dtype=torch.float64, requires_grad=True)
    results = []
    for limit in (1, 512):
        monkeypatch.setattr(attention, "LONG_ON_CPU", limit)
        out, _ = layer(x, layout)
        (gradient,) = torch.autograd.grad(out.square().sum(), x)
        results.append((out, gradient))
    for sdpa, plain in zip(*results, strict=True):
        torch.testing.assert_close(sdpa, plain, rtol=1e-9, atol=1e-12)


@pytest.mark.gpu
def test_the_varlen_kernel_agrees_with_sdpa():
    torch.manual_seed(0)
    layer = Attention(64, 2, dropout=0.0).cuda().bfloat16()
    lengths = torch.tensor([3, 70, 1, 128])
    x = torch.randn(202, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    layout = Layout(lengths, x.device)
    wanted, _ = layer.float()(x.float(), layout)
    layer.bfloat16()
    found, _ = layer(x, layout)
    assert (found.float() - wanted).norm() / wanted.norm() < 0.02
    found.sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.gpu
def test_the_varlen_kernel_has_the_same_window_as_the_mask():
    torch.manual_seed(0)
    core = AttentionCore(64, 2, dropout=0.0)
    layout = Layout(torch.tensor([3, 70, 1, 128]), torch.device("cuda"))
    parts = [torch.randn(202, 64, device="cuda") for _ in range(3)]
    wanted, _ = core.attend(*parts, layout, None, False, window=5)
    found, _ = core.attend(*(part.bfloat16() for part in parts), layout, None, False, window=5)
    assert (found.float() - wanted).norm() / wanted.norm() < 0.02
