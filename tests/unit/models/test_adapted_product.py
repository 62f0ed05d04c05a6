"""Adapted layers in few kernels: the numbers and gradients of separate products."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from tests.cuda.models import config_of
from trainer.models.adapters import adapted_product, lora_layers
from trainer.models.adapters.lora_layers import adapt
from trainer.models.adapters.lora_settings import LoRASettings
from trainer.models.auto import AutoModel
from trainer.models.blocks.linear import Linear
from trainer.models.families.gpt2 import InputsFirstLinear

TOKENS, INPUTS, OUTPUTS = 9, 6, 8


@pytest.fixture
def always_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """CPUs use the functions under test as GPUs do."""
    monkeypatch.setattr(adapted_product, "saves_work", lambda *_: True)


def layer_of(kind: str, dropout: float, trained_bias: bool) -> Any:
    torch.manual_seed(0)
    layer: Any = InputsFirstLinear(INPUTS, OUTPUTS) if kind == "gpt2" else Linear(INPUTS, OUTPUTS)
    if kind == "without a bias":
        layer = Linear(INPUTS, OUTPUTS, bias=False)
    for parameter in layer.double().parameters():
        nn.init.normal_(parameter)
        parameter.requires_grad_(False)
    adapt(layer, rank=3, scaling=1.7, dropout=dropout, dora=False)
    nn.init.normal_(layer.lora_B)
    if trained_bias:
        layer.bias.requires_grad_(True)
    layer.lora_dropout.site = 4
    return layer.train()


def results(layer: Any, x: Tensor, upstream: Tensor, shape: tuple[int, ...]) -> list[Tensor]:
    """The output, and the gradients of the input and of all trained parameters."""
    layer.keys = torch.arange(TOKENS, dtype=torch.int32).view(shape) * 7919
    inputs = x.clone().requires_grad_()
    out = layer(inputs.view(*shape, INPUTS)).view(TOKENS, OUTPUTS)
    trained = [p for p in layer.parameters() if p.requires_grad]
    return [out, *torch.autograd.grad(out, [inputs, *trained], upstream)]


@pytest.mark.parametrize("shape", [(TOKENS,), (3, 3)], ids=["flat", "padded"])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("kind", ["linear", "without a bias", "gpt2", "trained bias"])
def test_it_equals_separate_products(kind, dropout, shape, monkeypatch, always_joined) -> None:
    layer = layer_of(kind, dropout, kind == "trained bias")
    x, upstream = (torch.randn(TOKENS, n, dtype=torch.float64) for n in (INPUTS, OUTPUTS))
    found = results(layer, x, upstream, shape)
    used: list[torch.dtype] = []
    with monkeypatch.context() as patched:
        patched.setattr(lora_layers, "product_type", lambda *_: used.append(x.dtype))
        # GPT-2's plain layer takes flat inputs only
        wanted = results(layer, x, upstream, (TOKENS,) if kind == "gpt2" else shape)
    assert used and len(found) == 4 + (kind == "trained bias")
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_under_autocast_matrices_keep_gradients_in_fp32(always_joined) -> None:
    layer = layer_of("linear", 0.4, False).float()
    x, upstream = torch.randn(TOKENS, INPUTS), torch.randn(TOKENS, OUTPUTS)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = results(layer, x, upstream.bfloat16(), (TOKENS,))
    wide = results(layer, x, upstream, (TOKENS,))
    assert [each.dtype for each in narrow] == [torch.bfloat16, *(torch.float32,) * 3]
    for ours, theirs in zip(narrow, wide, strict=True):
        assert (ours - theirs).norm() < 0.03 * theirs.norm()


def test_dropout_from_the_generator_uses_separate_products() -> None:
    layer = layer_of("linear", 0.4, False)
    layer.keys = None
    x = torch.randn(TOKENS, INPUTS, dtype=torch.float64)
    assert not torch.equal(layer(x), layer(x))


@pytest.mark.parametrize("shape", [(0,), (2, 0)])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("kind", ["linear", "trained bias"])
def test_without_rows_gradients_are_zero(kind, dropout, shape, always_joined) -> None:
    layer = layer_of(kind, dropout, kind == "trained bias")
    layer.keys = torch.zeros(shape, dtype=torch.int32)
    x = torch.zeros(*shape, INPUTS, dtype=torch.float64, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None and x.grad.shape == (*shape, INPUTS)
    assert not layer.lora_A.grad.any() and not layer.lora_B.grad.any()


@pytest.mark.parametrize("kind", ["linear", "trained bias"])
def test_the_backward_pass_drops_what_the_forward_pass_dropped(kind) -> None:
    layer = layer_of(kind, 0.4, kind == "trained bias")
    layer.keys = torch.arange(TOKENS, dtype=torch.int32) * 7919
    x = torch.randn(TOKENS, INPUTS, dtype=torch.float64, requires_grad=True)
    (wanted,) = torch.autograd.grad(layer(x).sum(), x)
    out = layer(x)
    layer.eval()
    (found,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(found, wanted)


def test_only_what_the_wanted_gradients_need_is_saved(always_joined) -> None:
    layer = layer_of("linear", 0.0, False)
    x = torch.randn(TOKENS, INPUTS, dtype=torch.float64)

    def saved(*trained: Tensor) -> list[tuple[int, ...]]:
        shapes: list[tuple[int, ...]] = []
        for each in (x, layer.lora_A, layer.lora_B):
            each.requires_grad_(any(each is other for other in trained))
        with torch.autograd.graph.saved_tensors_hooks(lambda y: shapes.append(tuple(y.shape)), id):
            layer(x)
        return shapes

    rank = layer.rank
    assert saved(layer.lora_B) == [(TOKENS, rank)]
    assert saved(layer.lora_A) == [(TOKENS, INPUTS), (OUTPUTS, rank)]
    assert saved(x) == [(OUTPUTS, INPUTS), (rank, INPUTS), (OUTPUTS, rank)]


def test_an_evaluated_model_is_differentiated_twice_on_a_cpu() -> None:
    torch.manual_seed(0)
    model: Any = AutoModel.from_config(config_of("bert")).double()
    model.add_lora(LoRASettings(rank=4, dropout=0.1), base="nowhere")
    model.eval()
    width = model.config.hidden_size
    embeds = torch.randn(2, 5, width, dtype=torch.float64, requires_grad=True)

    def loss(x: Tensor) -> Tensor:
        return model(inputs_embeds=x)[0].pow(2).sum()

    (grad,) = torch.autograd.grad(loss(embeds), embeds, create_graph=True)
    grad.pow(2).sum().backward()
    trained = {n: p.detach() for n, p in model.named_parameters() if "lora_" in n}
    assert all(model.get_parameter(name).grad is not None for name in trained)

    def loss_of(parameters: dict[str, Tensor]) -> Tensor:
        out: Any = functional_call(model, parameters, kwargs={"inputs_embeds": embeds})
        found: Tensor = out[0].pow(2).sum()
        return found

    wanted = torch.autograd.grad(loss(embeds), [model.get_parameter(name) for name in trained])
    torch.testing.assert_close(tuple(torch.func.grad(loss_of)(trained).values()), wanted)
