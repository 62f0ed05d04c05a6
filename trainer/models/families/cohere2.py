"""Command R7B and A (Cohere, 2024): parallel layers, with rotary positions only in local layers.

Dimensions: T tokens, D channels.
"""

from torch import Tensor, nn

from trainer.models.blocks.decoder import Decoder
from trainer.models.blocks.decoder_layers import Past
from trainer.models.blocks.gated_feed_forward import GatedFeedForward
from trainer.models.blocks.layer_place import LOCAL, LayerPlace
from trainer.models.blocks.norms import UnbiasedLayerNorm
from trainer.models.blocks.rope import Rope, read_rope
from trainer.models.blocks.rotary import Rotation
from trainer.models.blocks.rotary_attention import NeighbourRotaryAttention
from trainer.models.config import ModelConfig
from trainer.models.family import Family
from trainer.models.formats import decoder_format
from trainer.models.packing import Layout


class ParallelLayer(nn.Module):
    """A layer whose attention and feed-forward network both read the same normalized input."""

    def __init__(self, config: ModelConfig, place: LayerPlace) -> None:
        super().__init__()
        self.norm = UnbiasedLayerNorm(config.hidden_size, config.rms_norm_eps)
        self.attention = NeighbourRotaryAttention(config, place)
        self.feed_forward = GatedFeedForward(config)

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
        normed = self.norm(x)
        attended, weights = self.attention(
            normed, rotation, layout, past, dropout_keys, weights_wanted
        )
        return x + attended + self.feed_forward(normed), weights


class Cohere2(Decoder):
    norm = UnbiasedLayerNorm
    layer_class = ParallelLayer

    def __init__(self, config: ModelConfig, pooler: bool) -> None:
        super().__init__(config, pooler)
        self.logit_scale = config.logit_scale

    def make_ropes(self, config: ModelConfig, kinds: list[str]) -> list[Rope | None]:
        rope, has_window = read_rope(config), config.sliding_window is not None
        return [rope if has_window and kind == LOCAL else None for kind in kinds]


FAMILY = Family(
    model_type="cohere2",
    name="Cohere2",
    prefix="model",
    defaults={
        **{n: x for n, x in decoder_format.DEFAULTS.items() if n not in ("rms_norm_eps",)},
        "vocab_size": 256_000,
        "hidden_size": 8192,
        "intermediate_size": 22528,
        "logit_scale": 0.0625,
        "num_hidden_layers": 40,
        "num_attention_heads": 64,
        "max_position_embeddings": 8192,
        "layer_norm_eps": 1e-5,
        "pad_token_id": 0,
        "bos_token_id": 5,
        "eos_token_id": 255_001,
        "attention_bias": False,
        "sliding_window": 4096,
        "layer_types": None,
        "tie_word_embeddings": True,
    },
    synonyms={"rms_norm_eps": "layer_norm_eps", "attention_output_bias": "attention_bias"},
    optional={**decoder_format.OPTIONAL, "sliding_window_pattern": 4},
    required={**decoder_format.REQUIRED, "use_qk_norm": False},
    constants={**decoder_format.CONSTANTS, "use_sliding_window": True},
    no_effect=frozenset({"cache_implementation", "rotary_pct", "use_gated_activation"}),
    body=Cohere2,
    keys={**decoder_format.KEYS, "layers.*.norm": "layers.*.input_layernorm"},
    kind="decoder",
    own_heads=decoder_format.OWN_HEADS,
    known_extras=decoder_format.EXTRAS,
)
