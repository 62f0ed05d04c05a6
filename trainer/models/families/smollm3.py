"""SmolLM3 (Bakouch et al., 2025): Llama without rotary positions in every fourth layer."""

from trainer.errors import InputError
from trainer.models.blocks.decoder import Decoder
from trainer.models.blocks.layer_place import GLOBAL, LOCAL, layer_kinds
from trainer.models.blocks.rope import Rope, read_rope
from trainer.models.config import ModelConfig
from trainer.models.family import Family
from trainer.models.formats import decoder_format


class SmolLM3(Decoder):
    """Llama's body with layers that have no positions (NoPE, Kazemnejad et al., 2023).

    If the config enables a sliding window, only the layers without positions have it.
    """

    def kinds(self, config: ModelConfig) -> list[str]:
        if config.layer_types is not None:
            return layer_kinds(config)
        windowed = config.use_sliding_window and config.sliding_window is not None
        rotated = _rotated(config)
        return [LOCAL if windowed and not rotates else GLOBAL for rotates in rotated]

    def make_ropes(self, config: ModelConfig, kinds: list[str]) -> list[Rope | None]:
        rope = read_rope(config)
        return [rope if rotates else None for rotates in _rotated(config)]


def _rotated(config: ModelConfig) -> list[bool]:
    """For each layer, whether it has rotary positions. Raises InputError for an invalid list."""
    count, given, interval = (
        config.num_hidden_layers,
        config.no_rope_layers,
        config.no_rope_layer_interval,
    )
    if given is None:
        if interval < 1:
            raise InputError(
                f"config.json: no_rope_layer_interval: found {interval}; accepted: 1 or more"
            )
        return [bool((number + 1) % interval) for number in range(count)]
    if (
        not isinstance(given, list)
        or len(given) < count
        or any(each not in (0, 1) for each in given)
    ):
        accepted = f"0 or 1 for each of the {count} layers"
        raise InputError(f"config.json: no_rope_layers: found {given!r:.80}; accepted: {accepted}")
    return [bool(each) for each in given[:count]]


FAMILY = Family(
    model_type="smollm3",
    name="SmolLM3",
    prefix="model",
    defaults={
        **decoder_format.DEFAULTS,
        "vocab_size": 128_256,
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "pad_token_id": 128_004,
        "bos_token_id": 128_000,
        "eos_token_id": 128_001,
        "use_sliding_window": False,
        "sliding_window": None,
        "no_rope_layers": None,
        "no_rope_layer_interval": 4,
        "layer_types": None,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
    },
    synonyms={"attention_output_bias": "attention_bias"},
    optional={**decoder_format.OPTIONAL, "rope_theta": 2_000_000.0},
    required=decoder_format.REQUIRED,
    constants=decoder_format.CONSTANTS,
    no_effect=frozenset({"max_window_layers"}),
    body=SmolLM3,
    keys=decoder_format.KEYS,
    kind="decoder",
    own_heads=decoder_format.OWN_HEADS,
    known_extras=decoder_format.EXTRAS,
)
