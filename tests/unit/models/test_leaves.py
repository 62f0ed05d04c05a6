"""Fused leaves: equal to plain code, also compiled on a CPU, and disabled if compiling fails."""

import warnings
from functools import partial
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trainer.models.blocks import leaves
from trainer.models.blocks.dropout import Dropout
from trainer.models.blocks.fused_dropout import dropped, dropped_sum, keep
from trainer.models.blocks.fused_norm import _norm
from trainer.models.blocks.gated_feed_forward import _fused_silu_times, _fused_silu_times_gradients
from trainer.models.blocks.leaves import Leaf
from trainer.models.blocks.modern_encoder import _GeluTimes
from trainer.models.blocks.norms import LayerNorm, RMSNorm
from trainer.models.blocks.rotary import _Rotate, angles, rotate


def dropout_of(p, site=5):
    dropout = Dropout(p)
    dropout.site = site
    return dropout


def keys_of(number):
    torch.manual_seed(0)
    return torch.randint(-(1 << 31), 1 << 31, (number,), dtype=torch.int32)


@pytest.mark.parametrize("channels", [64, 51])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 1e-5])
def test_masks_are_those_of_dropout_bit_for_bit(channels, p):
    dropout, keys = dropout_of(p), keys_of(300)
    x = torch.ones(300, channels)
    draws = dropout.draws_for(keys, channels)
    assert torch.equal(keep(x, draws) > 0, dropout.mask(x, keys).bool())


def both(fused, plain, inputs):
    """Outputs and gradients of two functions agree."""
    found, wanted = fused(*inputs), plain(*inputs)
    torch.manual_seed(1)
    upstream = [torch.randn_like(x) for x in wanted]
    used = [x for x in inputs if x is not None]
    gradients = [torch.autograd.grad(outputs, used, upstream) for outputs in (found, wanted)]
    for ours, theirs in zip((*found, *gradients[0]), (*wanted, *gradients[1]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_dropout_and_its_sum_have_the_gradients_of_plain_code():
    dropout, keys = dropout_of(0.3), keys_of(20)
    x, residual = (torch.randn(20, 48, requires_grad=True) for _ in range(2))
    draws = dropout.draws_for(keys, 48)
    both(lambda x: [dropped(x, draws)], lambda x: [dropout(x, keys)], [x])
    both(
        lambda x, r: [dropped_sum(r, x, draws)],
        lambda x, r: [dropout.add(r, x, keys)],
        [x, residual],
    )


@pytest.mark.parametrize("p", [0.0, 0.25])
@pytest.mark.parametrize("kind", ["layer", "layer without bias", "rms"])
def test_norms_have_the_gradients_of_plain_code(kind, p):
    torch.manual_seed(2)
    layer = RMSNorm(48, 1e-6) if kind == "rms" else LayerNorm(48, bias=kind == "layer")
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    dropout, keys = dropout_of(p), keys_of(20)
    draws = dropout.draws_for(keys, 48) if p else None
    x, residual = (torch.randn(20, 48, requires_grad=True) for _ in range(2))
    weights = list(layer.parameters())

    def plain(x, residual, *_):
        total = dropout.add(residual, x, keys)
        return total, layer(total)

    both(lambda x, r, *_: _norm(x, r, layer, draws), plain, [x, residual, *weights])
    both(lambda x, *_: [_norm(x, None, layer, None)[1]], lambda x, *_: [layer(x)], [x, *weights])


def test_gates_and_turns_have_the_gradients_of_plain_code():
    gate, x = (torch.randn(7, 24, requires_grad=True) for _ in range(2))
    leaves_of_silu = _fused_silu_times, _fused_silu_times_gradients
    upstream = torch.randn(7, 24)
    product = leaves_of_silu[0](gate, x)
    wanted = torch.autograd.grad(F.silu(gate) * x, [gate, x], upstream)
    again, *found = leaves_of_silu[1](upstream, gate, x)
    torch.testing.assert_close((product, *found), (F.silu(gate) * x, *wanted))
    torch.testing.assert_close(again, product)
    pair = torch.randn(7, 48, requires_grad=True)
    activated, other = pair.chunk(2, -1)
    both(lambda pair: [_GeluTimes.apply(pair)], lambda pair: [F.gelu(activated) * other], [pair])
    turns = angles(torch.arange(7), 8, 10_000.0)
    for neighbours in (False, True):
        both(
            lambda x, pairs=neighbours: [_Rotate.apply(x, *turns, 8, pairs)],
            lambda x, pairs=neighbours: [rotate(x, turns, 8, pairs)],
            [x],
        )


def test_in_half_precision_sums_and_norms_stay_in_it_and_weights_have_wide_gradients():
    layer = LayerNorm(32)
    x, residual = (torch.randn(9, 32).bfloat16().requires_grad_() for _ in range(2))
    total, normed = _norm(x, residual, layer, dropout_of(0.1).draws_for(keys_of(9), 32))
    assert total.dtype == normed.dtype == torch.bfloat16
    normed.float().sum().backward()
    assert x.grad.dtype == torch.bfloat16 and layer.weight.grad.dtype == torch.float32


@pytest.fixture
def on_a_gpu(monkeypatch):
    """Leaves behave as on a GPU with Triton."""
    monkeypatch.setattr(leaves, "runs_compiled", lambda x, reduces=False: True)
    monkeypatch.setattr(Leaf, "broken", False)


def test_each_kind_of_input_is_compiled_however_many_there_are(on_a_gpu, monkeypatch):
    """Heads, adapters and evaluations need more than Dynamo's 8 graphs per function."""
    graphs = []

    def compiled(graph, _):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=compiled))
    double = Leaf(lambda x, keys: x * 2 if keys is None else x * 2 + keys.unsqueeze(-1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # inputs that are not leaves of autograd have no .grad
        for channels, rows in product(range(2, 7), (1, 4)):
            x = torch.ones(rows, channels, requires_grad=True) * 2
            assert double(x, None).unique().tolist() == [4]
            with torch.autocast("cpu", torch.bfloat16):
                assert double(x, torch.ones(rows)).unique().tolist() == [5]
    assert len(graphs) == 20 and not Leaf.broken


def test_where_compiling_fails_plain_functions_go_on_after_one_warning(on_a_gpu, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setattr(torch, "compile", lambda function, **_: fails)
    double, half = Leaf(lambda x: x * 2), Leaf(lambda x: x / 2)
    with pytest.warns(UserWarning, match="RuntimeError: no compiler.*TEMPERING_LEAVES=0"):
        assert double(torch.ones(2)).tolist() == [2, 2]
    assert double(torch.ones(2)).tolist() == [2, 2] and half(torch.ones(2)).tolist() == [0.5, 0.5]


def test_running_out_of_memory_is_no_failure_to_compile(on_a_gpu, monkeypatch):
    def fails(*_, **__):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(torch, "compile", lambda function, **_: fails)
    with pytest.raises(torch.OutOfMemoryError):
        Leaf(lambda x: x)(torch.ones(2))
    assert not Leaf.broken


def test_leaves_are_compiled_on_gpus_alone_and_can_be_turned_off(monkeypatch):
    monkeypatch.setattr(leaves, "triton_runs_on", lambda device: True)
    there = torch.empty(2, device="meta")
    assert not leaves.runs_compiled(torch.ones(2))
    monkeypatch.setattr(leaves, "Tensor", torch.Tensor)

    class OnGPU:
        device = torch.device("cuda")
        dtype = torch.bfloat16

    x, able = OnGPU(), []
    monkeypatch.setattr(leaves, "_compiles", lambda device: not able)
    assert leaves.runs_compiled(x) and not leaves.runs_compiled(there)
    monkeypatch.setattr(Leaf, "broken", True)
    assert leaves.runs_compiled(x), "a recomputed layer must go the way that it went"
    able.append(False)
    assert not leaves.runs_compiled(x)
    able.clear()
    torch.use_deterministic_algorithms(True)
    try:
        assert leaves.runs_compiled(x) and not leaves.runs_compiled(x, reduces=True)
    finally:
        torch.use_deterministic_algorithms(False)
    monkeypatch.setenv("TEMPERING_LEAVES", "0")
    assert not leaves.runs_compiled(x)


def test_without_a_compiler_no_leaf_is_tried_and_one_warning_says_so(monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("Failed to find C compiler.")

    monkeypatch.setattr(torch, "compile", fails)
    with pytest.warns(UserWarning, match="compiled functions.*Failed to find C compiler"):
        assert not leaves._compiles(torch.device("cpu"))
    assert not leaves._compiles(torch.device("cpu"))
    leaves._compiles.cache_clear()
    monkeypatch.undo()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    assert leaves._compiles(torch.device("cpu"))
    leaves._compiles.cache_clear()
