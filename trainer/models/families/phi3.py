"""Phi-3 and Phi-4 (Abdin et al., 2024): Llama with joined projections and LongRoPE."""

from torch import Tensor

from trainer.models.blocks.decoder import Decoder
from trainer.models.blocks.decoder_layers import DecoderLayer
from trainer.models.blocks.dropout import Dropout
from trainer.models.blocks.fused_norm import add_and_norm
from trainer.models.blocks.gated_feed_forward import JoinedFeedForward
from trainer.models.blocks.layer_place import LayerPlace
from trainer.models.blocks.linear import Linear
from trainer.models.blocks.rotary_attention import RotaryAttention
from trainer.models.config import ModelConfig
from trainer.models.family import Family
from trainer.models.formats import decoder_format


class JoinedAttention(RotaryAttention):
    """Attention with one projection for queries, keys and values."""

    def make_projections(self, config: ModelConfig) -> None:
        heads = self.num_heads + 2 * self.num_key_heads
        self.input = Linear(config.hidden_size, heads * self.channels, bias=False)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        heads = self.num_heads, self.num_key_heads, self.num_key_heads
        query, key, value = self.input(x).split([n * self.channels for n in heads], -1)
        return query, key, value


class Phi3Layer(DecoderLayer):
    attention_class = JoinedAttention
    feed_forward_class = JoinedFeedForward

    def __init__(self, config: ModelConfig, place: LayerPlace) -> None:
        super().__init__(config, place)
        self.attention_dropout = Dropout(config.resid_pdrop)
        self.dropout = Dropout(config.resid_pdrop)

    def finished(self, x: Tensor, attended: Tensor, dropout_keys: Tensor | None) -> Tensor:
        dropout = self.attention_dropout
        x, normed = add_and_norm(x, attended, self.feed_forward_norm, dropout, dropout_keys)
        return self.dropout.add(x, self.feed_forward(normed), dropout_keys)


class Phi3(Decoder):
    layer_class = Phi3Layer


FAMILY = Family(
    model_type="phi3",
    name="Phi3",
    prefix="model",
    defaults={
        **decoder_format.DEFAULTS,
        "vocab_size": 32064,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "bos_token_id": 1,
        "eos_token_id": 32000,
        "pad_token_id": 32000,
        "sliding_window": None,
    },
    optional={
        "classifier_dropout": None,
        "hidden_dropout": None,
        "rope_theta": 10_000.0,
        "partial_rotary_factor": 1.0,
    },
    required={"token_classification_bias": True, "attention_bias": False},
    constants={**decoder_format.CONSTANTS, "use_sliding_window": True},
    body=Phi3,
    keys={
        **decoder_format.KEYS,
        **decoder_format.JOINED_FEED_FORWARD,
        "layers.*.attention.input": "layers.*.self_attn.qkv_proj",
    },
    kind="decoder",
    own_heads=decoder_format.OWN_HEADS,
    known_extras=decoder_format.EXTRAS,
)
