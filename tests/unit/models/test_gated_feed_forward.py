"""The gated feed-forward network: the plain formula's values and gradients, with fewer tensors."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.models.blocks.gated_feed_forward import GatedFeedForward
from trainer.models.config import ModelConfig

T, D, INNER = 50, 16, 48


def network(dtype: torch.dtype, **changes: object) -> GatedFeedForward:
    torch.manual_seed(0)
    sizes = {
        "model_type": "llama",
        "hidden_size": D,
        "intermediate_size": INNER,
        "num_attention_heads": 2,
        **changes,
    }
    return GatedFeedForward(ModelConfig(sizes)).to(dtype)


def plain(layer: GatedFeedForward) -> Callable[[Tensor], Tensor]:
    return lambda x: layer.output(F.silu(layer.gate(x)) * layer.input(x))


def gradients(layer: GatedFeedForward, call: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    """The output, and the gradients of a function of it with respect to x and the parameters."""
    y = call(x)
    weights = [p for p in layer.parameters() if p.requires_grad]
    return [y, *torch.autograd.grad(y.cos().sum(), [x, *weights])]


@pytest.mark.parametrize("frozen", ["", "gate", "input", "output"])
def test_values_and_gradients_are_those_of_the_formula(frozen: str) -> None:
    layer = network(torch.float64)
    if frozen:
        getattr(layer, frozen).requires_grad_(False)
    x = torch.randn(T, D, dtype=torch.float64, requires_grad=True)
    found, wanted = gradients(layer, layer, x), gradients(layer, plain(layer), x)
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


def test_under_autocast_it_is_what_autocast_makes_of_the_formula() -> None:
    layer = network(torch.float32)
    x = torch.randn(T, D).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found, wanted = gradients(layer, layer, x), gradients(layer, plain(layer), x)
    assert [each.dtype for each in found] == [each.dtype for each in wanted]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2)


def test_neither_the_product_nor_narrow_weights_are_kept() -> None:
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    layer = network(torch.float32)
    x = torch.randn(T, D).bfloat16().requires_grad_()
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with torch.autocast("cpu", torch.bfloat16), hooks:
        layer(x)
    activations = [tensor for tensor in kept if tensor.dtype == torch.bfloat16]
    assert sorted(map(tuple, (each.shape for each in activations))) == [(T, D), *2 * [(T, INNER)]]
    weights = {id(parameter) for parameter in layer.parameters()}
    assert {id(tensor) for tensor in kept if tensor.dtype == torch.float32} == weights


def test_a_weight_of_its_own_kind_is_called() -> None:
    """An adapted layer computes more than its weight."""

    class Doubled(torch.nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    layer = network(torch.float64)
    x = torch.randn(T, D, dtype=torch.float64)
    once = layer(x)
    layer.output.__class__ = Doubled
    torch.testing.assert_close(layer(x), 2 * once)
