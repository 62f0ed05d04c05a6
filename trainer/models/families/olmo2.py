"""OLMo 2 (OLMo team, 2024): norms after the sublayers, and norms of queries and keys."""

from torch import Tensor, nn

from trainer.models.blocks.decoder import Decoder
from trainer.models.blocks.decoder_layers import Past
from trainer.models.blocks.gated_feed_forward import GatedFeedForward
from trainer.models.blocks.layer_place import LayerPlace
from trainer.models.blocks.norms import RMSNorm
from trainer.models.blocks.rotary import Rotation
from trainer.models.blocks.rotary_attention import RotaryAttention
from trainer.models.config import ModelConfig
from trainer.models.family import Family
from trainer.models.formats import decoder_format
from trainer.models.packing import Layout


class Olmo2Layer(nn.Module):
    """Attention and a gated feed-forward network; only their outputs are normalized."""

    def __init__(self, config: ModelConfig, place: LayerPlace) -> None:
        super().__init__()
        size, eps = config.hidden_size, config.rms_norm_eps
        self.attention = Olmo2Attention(config, place)
        self.attended_norm = RMSNorm(size, eps)
        self.feed_forward = GatedFeedForward(config)
        self.fed_forward_norm = RMSNorm(size, eps)

    def forward(
        self,
        x: Tensor,
        rotation: Rotation | None,
        layout: Layout,
        past: Past | None,
        dropout_keys: Tensor | None,
        weights_wanted: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """x [T, D] -> ([T, D], attention probabilities if wanted)."""
        attended, weights = self.attention(x, rotation, layout, past, dropout_keys, weights_wanted)
        x = x + self.attended_norm(attended)
        return x + self.fed_forward_norm(self.feed_forward(x)), weights


class Olmo2Attention(RotaryAttention):
    """Attention with one norm over the queries of all heads, and one over the keys of all heads."""

    def __init__(self, config: ModelConfig, place: LayerPlace) -> None:
        super().__init__(config, place)
        eps = config.rms_norm_eps
        self.query_norm = RMSNorm(self.num_heads * self.channels, eps)
        self.key_norm = RMSNorm(self.num_key_heads * self.channels, eps)

    def normalize(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        assert self.query_norm is not None and self.key_norm is not None
        return self.query_norm(query), self.key_norm(key)


class Olmo2(Decoder):
    layer_class = Olmo2Layer


FAMILY = Family(
    model_type="olmo2",
    name="Olmo2",
    prefix="model",
    defaults={
        **decoder_format.DEFAULTS,
        "vocab_size": 50304,
        "intermediate_size": 11008,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "pad_token_id": 1,
        "eos_token_id": 50279,
        "attention_bias": False,
    },
    synonyms={"attention_output_bias": "attention_bias"},
    optional=decoder_format.OPTIONAL,
    required=decoder_format.REQUIRED,
    constants=decoder_format.CONSTANTS,
    body=Olmo2,
    keys={
        **decoder_format.KEYS,
        "layers.*.attended_norm": "layers.*.post_attention_layernorm",
        "layers.*.fed_forward_norm": "layers.*.post_feedforward_layernorm",
    },
    kind="decoder",
    own_heads=decoder_format.OWN_HEADS,
    known_extras=decoder_format.EXTRAS,
)
