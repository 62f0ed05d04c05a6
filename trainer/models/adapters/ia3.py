"""(IA)^3 (Liu et al., 2022): frozen linear layers whose outputs or inputs are scaled.

Each channel of the output (or of the input) is multiplied by a trained number that starts at 1.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from trainer.devices.precision import in_float64
from trainer.models.adapters.adapted_layer import AdaptedLayer
from trainer.models.blocks.linear import Linear
from trainer.models.families.gpt2 import InputsFirstLinear
from trainer.models.quantization.quantized_linear import QuantizedInputsFirstLinear, QuantizedLinear

SCALES = "ia3_l"
"""The name of the trained parameter."""
_DOWN = (("q_proj", "v_proj", "down_proj"), ("down_proj",))
_KEYS_DOWN = (("k_proj", "v_proj", "down_proj"), ("down_proj",))
_BERT = (("key", "value", "output.dense"), ("output.dense",))
_FC2 = (("q_proj", "v_proj", "fc2"), ("fc2",))
_FUSED = (("query_key_value", "dense_4h_to_h"), ("dense_4h_to_h",))
_GPT2 = (("c_attn", "mlp.c_proj"), ("mlp.c_proj",))
USUAL: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    **dict.fromkeys(("llama", "mistral"), _KEYS_DOWN),
    **dict.fromkeys(("gemma", "gemma2", "gemma3_text", "llama4", "qwen2", "qwen3"), _DOWN),
    **dict.fromkeys(("bert", "roberta"), _BERT),
    **dict.fromkeys(("bart", "phi"), _FC2),
    **dict.fromkeys(("RefinedWebModel", "RefinedWeb", "falcon", "gpt_neox"), _FUSED),
    **dict.fromkeys(("gpt2", "gpt_bigcode"), _GPT2),
    "bloom": (("query_key_value", "mlp.dense_4h_to_h"), ("mlp.dense_4h_to_h",)),
    "deberta": (("in_proj", "output.dense"), ("output.dense",)),
    "deberta-v2": (("key_proj", "value_proj", "output.dense"), ("output.dense",)),
    "gpt_neo": (("q_proj", "v_proj", "c_proj"), ("c_proj",)),
    "gptj": (("q_proj", "v_proj", "fc_out"), ("fc_out",)),
    "mixtral": (("k_proj", "v_proj", "w2"), ("w2",)),
    "mt5": (("k", "v", "wi_1"), ()),
    "opt": (("q_proj", "k_proj", "fc2"), ("fc2",)),
    "t5": (("k", "v", "wo"), ("wo",)),
}
"""model_type -> PEFT's default target_modules and feedforward_modules."""


class IA3Layer(AdaptedLayer):
    """A linear layer whose outputs, or inputs, are multiplied by trained numbers."""

    ia3_l: nn.Parameter
    """[out]; [in] if `scales_inputs` is true"""
    scales_inputs: bool
    """Whether the inputs are scaled, as in the second matrix of a feed-forward network."""
    parts = (SCALES,)
    extras: ClassVar[tuple[str, ...]] = ("scales_inputs",)

    def forward(self, x: Tensor) -> Tensor:
        if self.scales_inputs:
            return self._frozen((x * self.ia3_l).to(x.dtype))
        plain = self._frozen(x)
        return (plain * self.ia3_l).to(plain.dtype)

    def adapted(self, weight: Tensor, *parts: Tensor) -> Tensor:
        (scales,) = parts
        wide = weight.T if self.transposed else weight
        return wide * (scales if self.scales_inputs else scales[:, None])

    @torch.no_grad()
    def merged_bias(self, bias: Tensor, *parts: Tensor) -> Tensor:
        if self.scales_inputs:
            return bias.detach()
        return (in_float64(bias) * in_float64(parts[0])).to(bias)

    def saved(self, scales: Tensor) -> Tensor:
        """The scales in the shape of PEFT's files: [out, 1] or [1, in]."""
        return scales.unsqueeze(0 if self.scales_inputs else 1)

    def _frozen(self, x: Tensor) -> Tensor:
        """The output of the frozen layer."""
        found: Tensor = super().forward(x)
        return found


class IA3Linear(IA3Layer, Linear):
    """A linear layer with trained scales."""


class IA3InputsFirstLinear(IA3Layer, InputsFirstLinear):
    """A linear layer of GPT-2 with trained scales."""

    transposed = True


class IA3QuantizedLinear(IA3Layer, QuantizedLinear):  # type: ignore[misc]
    """A linear layer in 4 or 8 bits with trained scales."""


class IA3QuantizedInputsFirstLinear(IA3Layer, QuantizedInputsFirstLinear):  # type: ignore[misc]
    """A linear layer of GPT-2 in 4 or 8 bits with trained scales."""

    transposed = True


KINDS: Mapping[type[nn.Module], type[IA3Layer]] = {
    nn.Linear: IA3Linear,
    Linear: IA3Linear,
    InputsFirstLinear: IA3InputsFirstLinear,
    QuantizedLinear: IA3QuantizedLinear,
    QuantizedInputsFirstLinear: IA3QuantizedInputsFirstLinear,
}
PLAIN: Mapping[type[nn.Module], type[nn.Module]] = {
    adapted: plain for plain, adapted in KINDS.items()
}


def scale(layer: nn.Module, scales_inputs: bool) -> None:
    """Convert a linear layer in place; its outputs do not change."""
    weight, kind = layer.weight, KINDS[type(layer)]
    assert isinstance(weight, Tensor)
    layer.__class__ = kind
    assert isinstance(layer, IA3Layer)
    outputs, inputs = weight.T.shape if kind.transposed else weight.shape
    layer.scales_inputs = scales_inputs
    layer.ia3_l = nn.Parameter(weight.new_ones(inputs if scales_inputs else outputs))
