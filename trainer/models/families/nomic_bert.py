"""Nomic BERT (Nussbaum et al., 2024): BERT with rotary positions and gating, without biases.

Dimensions: T tokens of D channels in B sequences, the longest of L tokens; H heads.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from trainer.models.attention.self_attention import AttentionCore
from trainer.models.blocks.encoder import Embeddings, Encoder, PositionedLayer
from trainer.models.blocks.gated_feed_forward import GatedFeedForward
from trainer.models.blocks.layer_place import head_channels
from trainer.models.blocks.linear import Linear
from trainer.models.blocks.rope import read_rope
from trainer.models.blocks.rotary import Rotation, rotate
from trainer.models.config import ModelConfig
from trainer.models.family import Family, FamilyHead
from trainer.models.formats import bert_format
from trainer.models.inputs import FlatInputs
from trainer.models.packing import Layout


class NomicAttention(AttentionCore):
    """Attention with rotary positions."""

    def __init__(self, config: ModelConfig) -> None:
        size, heads = config.hidden_size, config.num_attention_heads
        inner = heads * head_channels(config)
        super().__init__(inner, heads, config.attention_probs_dropout_prob)
        self.input = Linear(size, 3 * inner, bias=False)
        self.output = Linear(inner, size, bias=False)

    def forward(
        self,
        x: Tensor,
        rotation: Rotation,
        layout: Layout,
        dropout_keys: Tensor | None,
        weights_wanted: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """x [T, D] -> ([T, D], probabilities [B, heads, L, L] if wanted)."""
        query, key, value = self.input(x).chunk(3, -1)
        query, key = rotate(query, rotation), rotate(key, rotation)
        context, weights = self.attend(query, key, value, layout, dropout_keys, weights_wanted)
        return self.output(context), weights


class NomicEncoder(Encoder):
    """BERT's post-norm encoder with rotary attention and gated feed-forward networks."""

    def __init__(self, config: ModelConfig, pooler: bool) -> None:
        super().__init__(config, pooler)
        self.rope = read_rope(config)

    def make_embeddings(self, config: ModelConfig) -> nn.Module:
        return Embeddings(config, positions=False)

    def make_layers(self, config: ModelConfig) -> Iterable[nn.Module]:
        for _ in range(config.num_hidden_layers):
            yield PositionedLayer(config, NomicAttention(config), GatedFeedForward(config))

    def shared_arguments(self, inputs: FlatInputs) -> tuple[Any, ...]:
        return self.rope.rotation(inputs.position_ids, inputs.layout), inputs.layout


PUBLISHED: Mapping[str, Any] = {
    **{
        "n_embd": 768,
        "n_head": 12,
        "n_layer": 12,
        "n_inner": 3072,
        "activation_function": "swiglu",
    },
    **{"rotary_emb_base": 1000, "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": False},
    **{"prenorm": False, "parallel_block": False, "use_rms_norm": False, "causal": False},
    **{"qkv_proj_bias": False, "mlp_fc1_bias": False, "mlp_fc2_bias": False},
    **{"rotary_emb_scale_base": None, "rotary_scaling_factor": None},
}
"""The entries in the config files of the published models, under the names in their training code.
They describe the same model as the default config in transformers.
"""

FAMILY = Family(
    model_type="nomic_bert",
    name="NomicBert",
    prefix="nomic_bert",
    defaults={
        **{n: v for n, v in bert_format.DEFAULTS.items() if n != "tie_word_embeddings"},
        "vocab_size": 30528,
        "hidden_act": "silu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "max_position_embeddings": 2048,
        "pad_token_id": 0,
    },
    optional={
        **dict.fromkeys(("head_dim", "rope_parameters", "rope_scaling")),
        "original_max_position_embeddings": None,
        "rope_theta": 1000.0,
    },
    constants={"mlp_bias": False, "tie_word_embeddings": True},
    required={**PUBLISHED, "tie_word_embeddings": True},
    no_effect=frozenset(
        {"auto_map", "n_positions", "max_trained_positions", "layer_norm_epsilon"}
        | {"resid_pdrop", "attn_pdrop", "embd_pdrop", "pad_vocab_size_multiple"}
        | {"fused_bias_fc", "fused_dropout_add_ln", "use_flash_attn", "use_xentropy"}
        | {"dense_seq_output", "last_layer_subset", "scale_attn_weights"}
        | {"scale_attn_by_inverse_layer_idx"}
    ),
    synonyms=bert_format.SYNONYMS,
    body=NomicEncoder,
    keys={
        "embeddings.token": "embeddings.word_embeddings",
        "embeddings.token_type": "embeddings.token_type_embeddings",
        "embeddings.norm": "emb_ln",
        "layers.*.attention.input": "encoder.layers.*.attn.Wqkv",
        "layers.*.attention.output": "encoder.layers.*.attn.out_proj",
        "layers.*.attention_norm": "encoder.layers.*.norm1",
        "layers.*.feed_forward.gate": "encoder.layers.*.mlp.fc12",
        "layers.*.feed_forward.input": "encoder.layers.*.mlp.fc11",
        "layers.*.feed_forward.output": "encoder.layers.*.mlp.fc2",
        "layers.*.feed_forward_norm": "encoder.layers.*.norm2",
        "pooler.dense": "pooler.dense",
    },
    own_heads={
        "masked_lm": FamilyHead(
            keys={
                **bert_format.MASKED_LM_KEYS,
                "norm": "cls.predictions.transform.layer_norm",
            },
            tied=bert_format.MASKED_LM_TIED,
        ),
        "sequence_classification": FamilyHead(pooler=True),
    },
    peft_names={
        "emb_ln": ("embeddings.LayerNorm",),
        "encoder.layers.*.attn.Wqkv": tuple(f"layers.*.self_attn.{n}_proj" for n in "qkv"),
        "encoder.layers.*.attn.out_proj": ("layers.*.self_attn.o_proj",),
        "encoder.layers.*.norm1": ("layers.*.post_attention_layernorm",),
        "encoder.layers.*.mlp.fc11": ("layers.*.mlp.up_proj",),
        "encoder.layers.*.mlp.fc12": ("layers.*.mlp.gate_proj",),
        "encoder.layers.*.mlp.fc2": ("layers.*.mlp.down_proj",),
        "encoder.layers.*.norm2": ("layers.*.post_mlp_layernorm",),
    },
    known_extras=("pooler.*",),
)
