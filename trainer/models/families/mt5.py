"""mT5 (Xue et al., 2021): multilingual T5 1.1."""

from trainer.models.config import ModelConfig
from trainer.models.family import Family, FamilyHead
from trainer.models.formats import t5_format
from trainer.models.heads.layers import Seq2SeqHead


def _head(config: ModelConfig) -> Seq2SeqHead:
    return Seq2SeqHead(config.d_model, config.vocab_size, own_weight=True, bias=False)


FAMILY = Family(
    model_type="mt5",
    name="MT5",
    prefix="",
    defaults={
        **t5_format.DEFAULTS,
        "vocab_size": 250112,
        "d_ff": 1024,
        "num_layers": 8,
        "num_heads": 6,
        "feed_forward_proj": "gated-gelu",
    },
    synonyms=t5_format.SYNONYMS,
    constants=t5_format.CONSTANTS,
    required=t5_format.REQUIRED,
    choices=t5_format.CHOICES,
    no_effect=t5_format.NO_EFFECT,
    body=t5_format.body,
    keys=t5_format.KEYS,
    kind="encoder_decoder",
    own_heads={
        "seq2seq_lm": FamilyHead(
            build=_head, tied=t5_format.TIED, class_suffix="ForConditionalGeneration"
        )
    },
    draw=t5_format.draw,
    known_extras=t5_format.EXTRAS,
)
