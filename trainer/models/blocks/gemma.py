"""Modules that all versions of Gemma share.

Dimensions: T tokens, D channels.
"""

import torch
from torch import Tensor

from trainer.models.blocks.autocast import to_autocast_type
from trainer.models.blocks.decoder import Decoder, TokenEmbeddings
from trainer.models.blocks.layer_place import LayerPlace
from trainer.models.blocks.norms import OffsetRMSNorm as OffsetRMSNorm
from trainer.models.blocks.rotary_attention import RotaryAttention
from trainer.models.config import ModelConfig
from trainer.models.inputs import FlatInputs


class RootScaledEmbeddings(TokenEmbeddings):
    """Token embeddings times sqrt(hidden size), which is rounded to the weights' dtype."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.factor = config.hidden_size**0.5

    def forward(self, inputs: FlatInputs) -> Tensor:
        """[T, D]; inputs_embeds are not scaled, as in transformers."""
        x = inputs.embedded(self.token)
        if inputs.inputs_embeds is None:
            x = x * torch.full((), self.factor, dtype=x.dtype, device=x.device)
        return to_autocast_type(x)


class ScalarScaledAttention(RotaryAttention):
    """Attention whose scores are divided by the square root of config.query_pre_attn_scalar."""

    norm = OffsetRMSNorm

    def __init__(self, config: ModelConfig, place: LayerPlace) -> None:
        super().__init__(config, place)
        self.scale = config.query_pre_attn_scalar**-0.5


class CappedLogitsDecoder(Decoder):
    """A decoder with scaled embeddings, and capped logits if final_logit_softcapping is set."""

    norm = OffsetRMSNorm
    embeddings_class = RootScaledEmbeddings

    def __init__(self, config: ModelConfig, pooler: bool) -> None:
        super().__init__(config, pooler)
        self.logit_cap = config.final_logit_softcapping
