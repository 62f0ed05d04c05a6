"""T5 (Raffel et al., 2020), and models in its format: T5 1.1, Flan-T5."""

from trainer.models.config import ModelConfig
from trainer.models.family import Family, FamilyHead
from trainer.models.formats import t5_format
from trainer.models.heads.layers import Seq2SeqHead


def _head(config: ModelConfig) -> Seq2SeqHead:
    """T5 scales its outputs and ties its output weights; T5 1.1 and later do neither."""
    scaled = config.scale_decoder_outputs
    scaled = config.tie_word_embeddings if scaled is None else scaled
    return Seq2SeqHead(
        config.d_model,
        config.vocab_size,
        own_weight=not scaled,
        bias=False,
        scale=config.d_model**-0.5 if scaled else 1.0,
    )


FAMILY = Family(
    model_type="t5",
    name="T5",
    prefix="",
    defaults={
        **t5_format.DEFAULTS,
        "vocab_size": 32128,
        "d_ff": 2048,
        "num_layers": 6,
        "num_heads": 8,
        "feed_forward_proj": "relu",
    },
    optional={"scale_decoder_outputs": None},
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
