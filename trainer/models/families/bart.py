"""BART (Lewis et al., 2020): learned positions, and a norm over the embeddings."""

from trainer.models.blocks.encoder_decoder import EncoderDecoder
from trainer.models.config import ModelConfig
from trainer.models.family import Family, FamilyHead
from trainer.models.formats import bart_format


def _body(config: ModelConfig, pooler: bool) -> EncoderDecoder:
    assert not pooler, "this family has no pooler"
    embeddings, stacks = bart_format.Embeddings(config), bart_format.stacks(config)
    return EncoderDecoder(embeddings, *stacks, bart_format.Unchanged)


FAMILY = Family(
    model_type="bart",
    name="Bart",
    prefix="model",
    defaults={
        **bart_format.DEFAULTS,
        "vocab_size": 50265,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "forced_eos_token_id": 2,
    },
    synonyms=bart_format.SYNONYMS,
    optional={"forced_bos_token_id": None},
    constants=bart_format.CONSTANTS,
    required=bart_format.REQUIRED,
    no_effect=bart_format.NO_EFFECT,
    body=_body,
    keys={
        **bart_format.EMBEDDINGS,
        **bart_format.LAYERS,
    },
    kind="encoder_decoder",
    own_heads={
        "seq2seq_lm": FamilyHead(tied=bart_format.TIED, class_suffix="ForConditionalGeneration")
    },
    known_extras=("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"),
)
